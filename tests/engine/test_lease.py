"""One driver at a time, by the store's clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from engine.errors import LeaseLost, StoreError
from engine.lease import Lease
from engine.store import Store

KEY = "stage-0123456789ab"


class Shifted(Store):
    """A store whose clock is ahead of this machine's by an hour, or whatever a test says."""

    shift = timedelta(hours=1)

    def now(self) -> datetime:
        return super().now() + self.shift


def test_one_holds_and_lets_go(memory: str) -> None:
    store = Store(memory)
    first, second = Lease(store, KEY), Lease(store, KEY)
    assert first.holder() == ""
    assert first.acquire()
    assert not second.acquire() and second.holder() == first.holder() != ""
    with first:
        first.check()
        assert not second.acquire()
    assert second.acquire(), "released at once, not after the ttl"
    assert not Lease(store, KEY).acquire()
    second.release()
    assert Lease(store, KEY).acquire()


def test_another_stage_is_another_lease(memory: str) -> None:
    store = Store(memory)
    assert Lease(store, KEY).acquire() and Lease(store, "other-0123456789ab").acquire()


def test_a_holder_that_died_is_succeeded_after_the_ttl_of_the_stores_clock(memory: str) -> None:
    store = Store(memory)
    assert Lease(store, KEY, ttl_s=7200.0).acquire()
    assert not Lease(Shifted(memory), KEY, ttl_s=7200.0).acquire()
    assert Lease(Shifted(memory), KEY, ttl_s=1800.0).acquire()


def test_beats_keep_the_lease(memory: str) -> None:
    with_beats = Lease(Store(memory), KEY, ttl_s=1.0)
    assert with_beats.acquire()
    with with_beats:
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            with_beats.check()
            time.sleep(0.1)
        # by the clock of the store the last beat is never a whole minute old
        assert not Lease(Store(memory), KEY, ttl_s=60.0).acquire()


class Mute(Store):
    """A store that can no longer be written."""

    mute = False

    def put(self, path: str, body: bytes) -> None:
        if self.mute:
            raise StoreError("no answer")
        super().put(path, body)


def test_who_cannot_beat_stops_when_the_lease_runs_out(memory: str) -> None:
    store = Mute(memory)
    lease = Lease(store, KEY, ttl_s=0.8)
    assert lease.acquire()
    with lease:
        lease.check()
        store.mute = True
        until = time.monotonic() + 30
        with pytest.raises(LeaseLost, match="no heartbeat"):
            while time.monotonic() < until:
                lease.check()
                time.sleep(0.05)


def test_who_lost_it_is_told_and_releases_nothing(memory: str, eventually: Callable[[Callable[[], Any]], Any]) -> None:
    slow = Lease(Store(memory), KEY, ttl_s=0.4)
    assert slow.acquire()
    quick = Lease(Shifted(memory), KEY, ttl_s=0.4)
    assert quick.acquire(), "the first missed its beats"
    with slow:

        def lost() -> bool:
            try:
                slow.check()
            except LeaseLost:
                return True
            return False

        eventually(lost)
    assert quick.holder() == "" or quick.holder() != slow.holder()
    paths = {head.path for head in Store(memory).list(f"{KEY}/leases/")}
    assert f"{KEY}/leases/2.released" not in paths and f"{KEY}/leases/1.released" not in paths


def test_of_many_takers_one_wins(memory: str) -> None:
    store = Store(memory)
    leases = [Lease(store, KEY) for _ in range(6)]
    assert sum(lease.acquire() for lease in leases) == 1


@pytest.mark.s3
def test_leases_hold_on_s3(s3: str) -> None:
    # its clock counts whole seconds
    store = Store(s3)
    first, second = Lease(store, KEY), Lease(store, KEY)
    assert first.acquire() and not second.acquire()
    first.release()
    assert second.acquire()
