"""The promises where the network is asked: real processes killed in the middle of it, and two drivers at once."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.care import verify
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.window import Options, run
from engine.work import read_rows
from pipelines import snapshot
from pipelines.smallweb import CRAWLS
from pipelines.smallweb.server import Answer, Pictures, Server, settings
from tests.conftest import SmallWeb
from tests.test_end_to_end import sums
from tests.test_promises import bury, family

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
_numbers = itertools.count()
Eventually = Callable[..., Any]


class Gated(Pictures):
    """Answers so many requests, then none until it is opened."""

    def __init__(self, folder: Path, num: int) -> None:
        super().__init__(folder)
        self.left = num
        self.reached = threading.Event()
        self.open = threading.Event()
        self._counting = threading.Lock()

    def answer(self, url: str) -> Answer:
        with self._counting:
            self.left -= 1
            if self.left < 0:
                self.reached.set()
        if self.left < 0:
            self.open.wait(60)
        return super().answer(url)

    def shut(self, num: int) -> None:
        """Answer `num` more."""
        self.left = num
        self.reached.clear()


class Deadly(Pictures):
    """Kills the process `victim` when it has been asked so many times, robots.txt included."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.left, self.victim = 0, 0
        self._aiming = threading.Lock()

    def aim(self, victim: int, num: int) -> None:
        """At the num-th request from now on."""
        with self._aiming:
            self.left, self.victim = num, victim

    def answer(self, url: str) -> Answer:
        with self._aiming:
            self.left -= 1
            if not self.left:
                os.kill(self.victim, signal.SIGKILL)
        return dataclasses.replace(super().answer(url), delay_s=0.0)


def undisturbed(small_web: SmallWeb) -> dict[Any, list[str]]:
    """What one process writes of the first crawl."""
    ledger = Ledger(f"memory:///undisturbed-images-{next(_numbers)}")
    ledger.check(create=True)
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(small_web.folder)), ledger)
    run(small_web.recipe(), ledger, units, InlinePool(ledger.store.url), Quiet())
    return recorded(ledger, small_web.recipe())


@contextmanager
def kosmos_run(web: Path, store: Path, server: Server, *more: str) -> Iterator[subprocess.Popen[str]]:
    """`kosmos run` in a process of its own, with a Ray of its own; all of it is gone afterwards. more: settings."""
    given = [word for setting in (*settings(server), *more) for word in ("--set", setting)]
    words = ["run", "interleaved", "--small", "--crawl", CRAWLS[0], "--mirror", str(web), "--store", str(store)]
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.cli", *words, *given, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        started = family(process.pid) if process.poll() is None else set()
        process.kill()
        process.communicate(timeout=30)
        bury(started)


def fetching(pid: int) -> list[int]:
    """Workers of a driver that are at a unit now."""
    found = []
    for child, _ in family(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and b"Agent" not in title and b"IDLE" not in title:
            found.append(child)
    return found


def outcomes(ledger: Ledger, recipe: Recipe, stage: str = "fetch") -> list[bytes]:
    rows: list[bytes] = []
    for commit in ledger.commits(recipe.stage(stage).key):
        rows += read_rows(ledger.store, commit.outputs["outcomes"], ("url_id",))["url_id"].to_pylist()
    return rows


def test_what_was_answered_survives_killed_workers_and_drivers(
    small_web: SmallWeb, tmp_path: Path, eventually: Eventually
) -> None:
    """kill -9 of a worker in the middle of its requests, then of the driver; the same command resumes to the same
    bytes, and every address has one outcome."""
    expected = undisturbed(small_web)
    site = Gated(small_web.folder, 40)
    store = tmp_path / "store"
    with Server(site, serving=tmp_path / "serving.json") as server:
        recipe = small_web.recipe(*settings(server))
        with kosmos_run(small_web.folder, store, server) as process:
            assert site.reached.wait(120), "no request came"
            doomed = eventually(lambda: fetching(process.pid))
            os.kill(doomed[0], signal.SIGKILL)
            # with care the unit is begun again, by a process under the worker
            site.shut(60)
            site.open.set()
            site.open.clear()
            assert site.reached.wait(120), "nobody asked again"
            started = family(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(30)
            bury(started)
        site.left = 1 << 30
        site.open.set()
        ledger = Ledger(str(store))
        assert not ledger.settled(recipe.stage("assemble").key)
        units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(small_web.folder)), ledger)
        let_go(store)  # it runs out in a minute, by the store's clock: tests of the lease turn that clock
        run(recipe, ledger, units, InlinePool(ledger.store.url), Quiet(), Options())
    assert recorded(ledger, recipe) == expected
    asked = outcomes(ledger, recipe)
    assert len(asked) == len(set(asked)) > 400
    assert verify(recipe, ledger).faults == []


def test_two_drivers_at_once_ask_for_each_address_once(small_web: SmallWeb, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Server(Pictures(small_web.folder), serving=tmp_path / "serving.json") as server:
        recipe = small_web.recipe(*settings(server))
        with (
            kosmos_run(small_web.folder, store, server) as one,
            kosmos_run(small_web.folder, store, server) as other,
        ):
            ends = []
            for process in (one, other):
                told, _ = process.communicate(timeout=240)
                ends.append((process.returncode, told))
        requests = server.requests
    assert [code for code, _ in ends] == [0, 0], ends
    again = {url for url, num in images_only(requests).items() if num > 1}
    assert again <= busy(small_web), "an address was asked for twice"
    assert recorded(Ledger(str(store)), recipe) == undisturbed(small_web)


def test_ten_kills_while_the_web_is_asked(small_web: SmallWeb, tmp_path: Path) -> None:
    """kill -9 at ten random requests: the bytes of an undisturbed run, and no address of a committed unit is asked for
    again; any other, once in each run that its unit was in."""
    site = Deadly(small_web.folder)
    with Server(site, serving=tmp_path / "serving.json") as server:
        given = [*settings(server), "select.schedule.unit_urls=40", "fetch.per_domain=8"]
        recipe = small_web.recipe(*given)
        expected = prepared(small_web, recipe, tmp_path)
        ledger = Ledger(str(tmp_path / "killed"))
        chance = random.Random()
        with runs(tmp_path / "killed", small_web.folder, given) as begin:
            for _ in range(10):
                done, before = committed_urls(ledger, recipe), server.requests
                pid, end = begin()
                site.aim(pid, chance.randint(1, 80))
                assert end() == -signal.SIGKILL
                let_go(tmp_path / "killed")
                asked = images_only(server.requests - before)
                assert not done & set(asked), "a committed unit was asked for again"
                assert {url for url, num in asked.items() if num > 1} <= busy(small_web)
        done, before = committed_urls(ledger, recipe), server.requests
        finish(recipe, ledger, small_web)
        assert not done & set(images_only(server.requests - before))
    assert done and recorded(ledger, recipe) == expected


@contextmanager
def runs(store: Path, web: Path, given: list[str]) -> Iterator[Callable[[], tuple[int, Callable[[], int]]]]:
    """Begins a run in a process of its own: its id, and what waits for its end and gives its exit code."""
    words = [sys.executable, "-m", "tests.asking", str(store), str(web), *given]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        said, heard = process.stdin, process.stdout
        assert said is not None and heard is not None

        def begin() -> tuple[int, Callable[[], int]]:
            said.write("run\n")
            return int(heard.readline()), lambda: int(heard.readline())

        try:
            yield begin
        finally:
            said.close()


def prepared(small_web: SmallWeb, recipe: Recipe, folder: Path) -> dict[Any, list[str]]:
    """What an undisturbed run writes; folder/killed holds all of it up to the first request."""
    up_to_fetch(recipe, Ledger(str(folder / "killed")), small_web.folder)
    shutil.copytree(folder / "killed", folder / "undisturbed")
    other = Ledger(str(folder / "undisturbed"))
    finish(recipe, other, small_web)
    return recorded(other, recipe)


def up_to_fetch(recipe: Recipe, ledger: Ledger, web: Path) -> None:
    """All of the first crawl that comes before the first request, in this process."""
    ledger.check(create=True)
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(web)), ledger)
    for step in itertools.takewhile(lambda step: step.stage.name != "fetch", recipe.steps):
        run(recipe, ledger, units, InlinePool(ledger.store.url), Quiet(), Options(only=step.stage.name))


def finish(recipe: Recipe, ledger: Ledger, small_web: SmallWeb) -> None:
    """What is left of the first crawl, in this process."""
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(small_web.folder)), ledger)
    run(recipe, ledger, units, InlinePool(ledger.store.url), Quiet(), Options())


def recorded(ledger: Ledger, recipe: Recipe) -> dict[Any, list[str]]:
    """The sums of all outputs that may not differ."""
    assert ledger.settled(recipe.stage("assemble").key)[1]["state"] == "published"
    return sums(ledger, recipe)


def committed_urls(ledger: Ledger, recipe: Recipe) -> set[str]:
    """The addresses that committed units of both rounds have asked."""
    found: set[str] = set()
    for asking, listing in (("fetch", "schedule"), ("follow", "reschedule")):
        done = set(outcomes(ledger, recipe, asking))
        for commit in ledger.commits(recipe.stage(listing).key):
            rows = read_rows(ledger.store, commit.outputs["urls"], ("url_id", "url")).to_pylist()
            found |= {row["url"] for row in rows if row["url_id"] in done}
    return found


def images_only(requests: Counter[str]) -> Counter[str]:
    """Without robots.txt, which each unit asks for."""
    return Counter({url: num for url, num in requests.items() if not url.endswith("/robots.txt")})


def busy(small_web: SmallWeb) -> set[str]:
    """Addresses that want to be asked for twice."""
    return {picture.url for picture in small_web.truth.pictures if picture.kind == "busy"}


def let_go(store: Path) -> None:
    """Release the lease of a driver that is known to be dead, as it would have done itself."""
    for path in store.rglob("leases/*.json"):
        path.with_suffix(".released").touch()


def test_a_server_that_is_gone_stops_the_run_with_a_sentence(small_web: SmallWeb, tmp_path: Path) -> None:
    """Nobody listens: a unit fails with what is wrong, nothing is recorded as an outcome, and a retry mends it."""
    with Server(Pictures(small_web.folder), serving=tmp_path / "serving.json") as server:
        given = settings(server)
    recipe = small_web.recipe(*given)
    ledger = Ledger(str(tmp_path / "store"))
    ledger.check(create=True)
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(small_web.folder)), ledger)[:1]
    reports = run(recipe, ledger, units, InlinePool(ledger.store.url), Quiet(), Options())
    assert reports[-1].stage == "fetch" and not reports[-1].complete
    assert "serving.json" in reports[-1].error and "\n" not in reports[-1].error
    assert not list(ledger.commits(recipe.stage("fetch").key))
    with Server(Pictures(small_web.folder), serving=tmp_path / "serving.json"):
        run(recipe, ledger, units, InlinePool(ledger.store.url), Quiet(), Options(retry_failed=True))
    assert ledger.settled(recipe.stage("assemble").key)[1]["state"] == "published"
