"""One driver at a time on an exclusive stage, with create-only puts and the store's own clock.

The lease is a chain: <stage>/leases/<n>.json is won by creating it; the holder beats by rewriting <n>.beat; a holder
that let `ttl_s` pass by the store's clock is succeeded by whoever creates n + 1. No compare-and-swap is needed, so it
works on file:// too.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from types import TracebackType

from engine.errors import LeaseLost, StoreError
from engine.store import Store

TTL_S = 60.0


class Lease:
    """A lease on a stage key, as a context: beats in a thread while it is held."""

    def __init__(self, store: Store, key: str, ttl_s: float = TTL_S) -> None:
        self._store, self._prefix, self._ttl_s = store, f"{key}/leases", ttl_s
        self._me = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._number = 0
        self._stop = threading.Event()
        self._lost = False
        self._beaten_s = 0.0  # by our clock, when the last beat that was written began
        self._thread: threading.Thread | None = None

    def acquire(self) -> bool:
        """Take the lease; False while another driver holds it."""
        number, free = self._state()
        if not free:
            return False
        body = json.dumps({"holder": self._me}).encode()
        if not self._store.put_new(f"{self._prefix}/{number + 1}.json", body):
            return False
        self._number = number + 1
        self._beat()
        return True

    def holder(self) -> str:
        """Who holds it now, '' if nobody."""
        number, free = self._state()
        return "" if free else str(json.loads(self._store.get(f"{self._prefix}/{number}.json"))["holder"])

    def check(self) -> None:
        """LeaseLost if another driver took it, or may have: asked before each unit is submitted."""
        if self._lost:
            raise LeaseLost(
                f"another driver took over {self._prefix}; wait for it, or run the same command again later"
            )
        if time.monotonic() - self._beaten_s > self._ttl_s:
            raise LeaseLost(
                f"the lease {self._prefix} ran out: no heartbeat could be written for {self._ttl_s:.0f} s; "
                "run the same command again when the store answers"
            )

    def release(self) -> None:
        """Let go at once instead of after the ttl."""
        if self._number and not self._lost:
            self._store.put(f"{self._prefix}/{self._number}.released", b"")
        self._number = 0

    def _state(self) -> tuple[int, bool]:
        heads = {head.path.rsplit("/", 1)[-1]: head for head in self._store.list(f"{self._prefix}/")}
        number = max((int(name.split(".")[0]) for name in heads), default=0)
        if number == 0 or f"{number}.released" in heads:
            return number, True
        last = max(head.modified for name, head in heads.items() if name.split(".")[0] == str(number))
        return number, (self._store.now() - last).total_seconds() > self._ttl_s

    def _beat(self) -> None:
        began_s = time.monotonic()
        self._store.put(f"{self._prefix}/{self._number}.beat", self._me.encode())
        self._beaten_s = began_s

    def _run(self) -> None:
        while not self._stop.wait(self._ttl_s / 4):
            try:
                if self._store.exists(f"{self._prefix}/{self._number + 1}.json"):
                    self._lost = True
                    return
                self._beat()
            except StoreError:
                continue  # the next beat may pass; if none does, the lease runs out by itself

    def __enter__(self) -> Lease:
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(StoreError):  # then it runs out by itself, and what ended the work is told
            self.release()
