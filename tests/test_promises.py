"""The promises of the house, one test each, kept on a real Ray while real processes are killed.

A hazard in a unit's inputs enters no key and no byte, so an undisturbed run in memory is the measure of every other.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.care import verify
from engine.errors import BudgetExceeded
from engine.ledger import Ledger
from engine.pool import InlinePool, RayPool
from engine.progress import Quiet
from engine.stage import Unit
from engine.store import Store
from engine.window import Options, StageReport, run
from tests import stages
from tests.conftest import Proxy
from tests.engine.driver import write_units

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
RECIPE = stages.recipe()
NUMBERS = RECIPE.stage("numbers")
Eventually = Callable[[Callable[[], Any]], Any]
Files = dict[str, list[tuple[str, str, int, int, str]]]
_numbers = itertools.count()


def undisturbed(num: int) -> Files:
    """What a run of plain units writes, in this process, one after the other."""
    ledger = Ledger(f"memory:///undisturbed{next(_numbers)}")
    run(RECIPE, ledger, stages.units(num), InlinePool(ledger.store.url), Quiet())
    return stages.manifests(RECIPE, ledger)


def on_ray(ray: Any, url: str, units: Sequence[Unit], scratch: Path, **options: Any) -> list[StageReport]:
    pool = RayPool(ray, url, str(scratch))
    return run(RECIPE, Ledger(url), units, pool, Quiet(), Options(scratch=str(scratch), **options))


def written(url: str) -> Files:
    return stages.manifests(RECIPE, Ledger(url))


def sound(url: str) -> bool:
    return verify(RECIPE, Ledger(url), sample=2).faults == []


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Where a unit says that it is under way and waits."""
    place = tmp_path / "gate"
    place.mkdir()
    return place


def arrived(gate: Path) -> list[int]:
    """Process ids of the units at the gate."""
    return [int(path.name.rsplit(".", 1)[1]) for path in gate.glob("here.*")]


@contextlib.contextmanager
def driver(url: str, units: list[Unit], folder: Path, *more: str, address: str = "") -> Iterator[subprocess.Popen[str]]:
    """A driver in a session of its own; with it and all it started gone afterwards."""
    path = write_units(units, folder / f"units{next(_numbers)}.json")
    environment = {**os.environ, **({"RAY_ADDRESS": address} if address else {})}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.driver", url, str(path), str(folder), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    started: set[tuple[int, str]] = set()
    try:
        yield process
    finally:
        if process.poll() is None:
            started = family(process.pid)
        process.kill()
        process.communicate(timeout=30)
        bury(started)


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and start time of every process; the time tells a process from a later one of the same id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rsplit(")", 1)[1].split()
            if words[0] != "Z":
                found[int(path.parent.name)] = (int(words[1]), words[19])
    return found


def family(pid: int) -> set[tuple[int, str]]:
    """All that a process started, and what those started: ids with their start times."""
    processes = _processes()
    found: set[int] = set()
    grown = {pid}
    while grown:
        grown = {child for child, (parent, _) in processes.items() if parent in grown} - found
        found |= grown
    return {(child, processes[child][1]) for child in found}


def bury(those: set[tuple[int, str]]) -> None:
    """Give them ten seconds to end, then kill what is left."""
    until = time.monotonic() + 10
    while living(those) and time.monotonic() < until:
        time.sleep(0.1)
    for pid, _ in living(those):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _does_units(pid: int) -> bool:
    with contextlib.suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        return title.startswith(b"ray::") and b"Agent" not in title
    return False


def living(those: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Those that are still there."""
    return those & {(pid, started) for pid, (_, started) in _processes().items()} if those else those


def finished(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, reports, what it said."""
    out, said = process.communicate(timeout=240)
    # Ray may print to stdout too
    reports = [json.loads(line) for line in out.splitlines() if line.startswith("[{")]
    return process.returncode, reports[0] if reports else [], said


# the five promises of the house -----------------------------------------------------------------------------------
def test_a_committed_unit_is_whole_checksummed_and_never_changes(
    ray_session: Any, url: str, gate: Path, tmp_path: Path, eventually: Eventually
) -> None:
    """kill -9 of a worker in the middle of a unit: the next attempt commits it, and a commit stays for ever."""
    units = stages.units(5, f"gate:{gate}", at=2)
    killed = []

    def kill() -> None:
        (pid,) = eventually(lambda: arrived(gate))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
        (gate / "go").touch()

    thread = threading.Thread(target=kill)
    thread.start()
    reports = on_ray(ray_session, url, units, tmp_path / "scratch")
    thread.join(60)
    assert killed and reports[0].deaths == 1 and all(report.complete for report in reports)
    assert written(url) == undisturbed(5) and sound(url)
    assert all(commit.crashed == () for commit in Ledger(url).commits(NUMBERS.key))
    before = _objects(url)
    on_ray(ray_session, url, stages.units(7), tmp_path / "scratch")
    after = _objects(url)
    assert {path: after[path] for path in before} == before and len(after) > len(before)


def _objects(url: str) -> dict[str, tuple[bytes, Any]]:
    """Bytes and time of every object but narratives."""
    store = Store(url)
    return {h.path: (store.get(h.path), h.modified) for h in store.list("") if not h.path.startswith("runs/")}


def test_running_any_command_again_is_safe_cheap_and_resumes(
    url: str, gate: Path, tmp_path: Path, eventually: Eventually
) -> None:
    """kill -9 of the driver in the middle of a run; the same command finishes it and computes nothing twice."""
    log = tmp_path / "log"
    units = stages.units(8, f"log:{log}", f"gate:{gate}")
    with driver(url, units, tmp_path) as process:
        eventually(lambda: len(arrived(gate)) >= 2)
        (gate / "go").touch()
        eventually(lambda: len(Ledger(url).committed(NUMBERS.key)) >= 2)
        started = family(process.pid)
        workers = {one for one in started if _does_units(one[0])}
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        assert len(workers) >= 2
        eventually(lambda: not living(workers))  # an embedded Ray's workers die with their driver
        bury(started)  # two agents of Ray's, which do no work, may stay for minutes
    done = Ledger(url).committed(NUMBERS.key)
    assert len(done) >= 2
    ran = {unit: len(list(log.glob(f"ran-{unit}.*"))) for unit in done}
    with driver(url, units, tmp_path) as process:
        code, reports, said = finished(process)
    assert code == 0, said
    assert reports[0]["found"] == len(done) and reports[0]["committed"] == 8 - len(done)
    assert {unit: len(list(log.glob(f"ran-{unit}.*"))) for unit in done} == ran
    assert written(url) == undisturbed(8) and sound(url)


def test_a_new_crawl_costs_only_its_own_files(ray_session: Any, url: str, tmp_path: Path) -> None:
    on_ray(ray_session, url, stages.units(3), tmp_path / "scratch")
    first = written(url)
    reports = on_ray(ray_session, url, stages.units(5), tmp_path / "scratch")
    assert [(r.stage, r.generation, r.committed) for r in reports if r.committed] == [
        ("numbers", 0, 2),
        ("double", 0, 2),
        ("unique", 2, 2),
        ("index", 2, 2),
    ]
    second = written(url)
    assert all(set(first[key]) <= set(second[key]) for key in first), "generation 1 is never rewritten"


def test_nothing_is_dropped_without_a_counted_reason(ray_session: Any, url: str, tmp_path: Path) -> None:
    """Records that kill their worker with a real segmentation fault are counted, listed and cost nothing else."""
    units = [*stages.units(2), *stages.units(1, "segfault:65", "kill:71", first=2), *stages.units(1, first=3)]
    reports = on_ray(ray_session, url, units, tmp_path / "scratch")
    assert all(report.complete for report in reports) and reports[0].deaths >= 1
    commits = list(Ledger(url).commits(NUMBERS.key))
    assert [commit.crashed for commit in commits] == [(), (), (65, 71), ()]
    for commit in commits:
        assert sum(commit.counts.values()) == 30, "every record stands under one reason"
        assert commit.counts["kept"] == commit.rows("numbers")
    assert commits[2].counts["crashed"] == 2 and sound(url)


def test_same_inputs_and_config_give_the_same_bytes(ray_session: Any, tmp_path: Path) -> None:
    """One worker or two, in any order, however often they die."""
    expected = undisturbed(6)
    for name, units in {
        "plain": stages.units(6),
        "backwards": list(reversed(stages.units(6))),
        "dying": stages.units(6, f"die:1:{tmp_path}/die", at=1),
        "failing": stages.units(6, f"fail:2:{tmp_path}/fail", at=4),
    }.items():
        url = f"file://{tmp_path}/{name}"
        reports = on_ray(ray_session, url, units, tmp_path / "scratch")
        assert all(report.complete for report in reports), name
        assert written(url) == expected, name
        ledger, first = Ledger(url), Ledger(f"file://{tmp_path}/plain")
        assert ledger.freeze(RECIPE.stage("index").key) == first.freeze(RECIPE.stage("index").key)


@pytest.mark.s3
def test_the_same_command_runs_on_a_laptop_and_on_a_cluster(
    ray_session: Any, url: str, s3: str, flaky: Proxy, tmp_path: Path
) -> None:
    """Only the store URL and the Ray address differ."""
    cluster = ray_session.get_runtime_context().gcs_address
    with driver(url, stages.units(3), tmp_path) as laptop:
        code, _, said = finished(laptop)
    assert code == 0, said
    with driver(s3, stages.units(3), tmp_path, address=cluster) as remote:
        code, _, said = finished(remote)
    assert code == 0, said
    assert written(url) == written(s3) == undisturbed(3)


# two runs at once, lost nodes, full disks, stores that stutter ----------------------------------------------------
def test_two_drivers_share_the_work_and_every_unit_is_committed_once(
    ray_session: Any, url: str, tmp_path: Path
) -> None:
    cluster = ray_session.get_runtime_context().gcs_address
    units = stages.units(12, "sleep:0.1")
    with driver(url, units, tmp_path, address=cluster) as one, driver(url, units, tmp_path, address=cluster) as two:
        ends = [finished(one), finished(two)]
    assert [code for code, _, _ in ends] == [0, 0], [said for _, _, said in ends]
    for stage, planned in (("numbers", 12), ("double", 12), ("unique", 2), ("index", 2)):
        mine = [report for _, reports, _ in ends for report in reports if report["stage"] == stage]
        assert sum(report["committed"] for report in mine) == planned, stage
        assert all(r["found"] + r["shared"] + r["committed"] == planned for r in mine), stage
    assert Ledger(url).generations(RECIPE.stage("unique").key) == [1]
    assert written(url) == undisturbed(12) and sound(url)


@pytest.mark.slow
def test_a_lost_node_costs_its_units_in_flight_only(url: str, tmp_path: Path) -> None:
    units = stages.units(6, f"gate:{tmp_path}")
    with driver(url, units, tmp_path, "lose") as process:
        code, reports, said = finished(process)
    assert code == 0, said
    assert reports[0]["deaths"] >= 1 and reports[0]["failed"] == []
    assert written(url) == undisturbed(6) and sound(url)


def test_a_failing_unit_does_not_stop_the_run_and_the_exit_shows_it(ray_session: Any, url: str, tmp_path: Path) -> None:
    cluster = ray_session.get_runtime_context().gcs_address
    units = stages.units(5, f"fail:9:{tmp_path}/fail", at=3)
    with driver(url, units, tmp_path, address=cluster) as process:
        code, reports, said = finished(process)
    assert code == 1 and reports[0]["failed"] == ["u0003"] and "on purpose" in said
    assert reports[0]["committed"] == 4 and reports[-1]["stage"] == "index" and reports[-1]["complete"]
    (body, *more) = Ledger(url).failure_bodies(NUMBERS.key, "u0003")
    assert len(more) == 2 and "stages.py" in body["trace"]


def test_a_full_scratch_disk_fails_its_unit_and_no_record_is_lost(ray_session: Any, url: str, tiny_disk: Path) -> None:
    reports = on_ray(ray_session, url, stages.units(4, f"fill:{2 << 20}", at=1), tiny_disk)
    # a unit beside it on the same disk may fail as well, three times if it has bad luck
    assert "u0001" in reports[0].failed and reports[0].committed == 4 - len(reports[0].failed)
    assert "is full" in reports[0].error and "--scratch" in reports[0].error
    # another disk, and the quarantined unit is asked for again
    reports = on_ray(ray_session, url, stages.units(4), tiny_disk, retry_failed=True)
    assert all(report.complete for report in reports)
    counts = [commit.counts for commit in Ledger(url).commits(NUMBERS.key)]
    assert [sum(count.values()) for count in counts] == [30] * 4


def test_when_every_unit_fails_the_run_stops(ray_session: Any, url: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded, match="on purpose"):
        on_ray(ray_session, url, stages.units(12, f"fail:9:{tmp_path}/fail"), tmp_path / "scratch")


@pytest.mark.s3
def test_a_store_that_answers_503_and_409_and_not_at_all(
    ray_session: Any, s3: str, flaky: Proxy, tmp_path: Path
) -> None:
    flaky.misbehave("PUT .*/commits/u0001", "lost")
    flaky.misbehave("PUT .*/commits/u0002", "conflict", 2)
    flaky.misbehave("PUT .*/data/u0003", "lost")
    flaky.misbehave("PUT .*/(generations|published)/", "lost", 2)
    flaky.misbehave("GET .*manifests/", "busy", 2)
    flaky.misbehave("PUT", "busy", 4)
    flaky.misbehave("GET|HEAD", "busy", 4)
    reports = on_ray(ray_session, s3, stages.units(5), tmp_path / "scratch")
    assert all(report.complete for report in reports) and all(report.failed == [] for report in reports)
    assert reports[0].committed == 5, "who committed knows it, also when the answer was lost"
    assert sum(fault.times for fault in flaky.plan) == 0, "every fault was played"
    flaky.plan.clear()
    assert written(s3) == undisturbed(5) and sound(s3)


def test_ctrl_c_drains_exits_130_and_the_same_command_resumes(
    url: str, gate: Path, tmp_path: Path, eventually: Eventually
) -> None:
    units = stages.units(16, f"gate:{gate}")
    with driver(url, units, tmp_path) as process:
        eventually(lambda: len(arrived(gate)) >= 2)
        # to the whole group, as a terminal sends it
        os.killpg(process.pid, signal.SIGINT)
        (gate / "go").touch()
        code, _, said = finished(process)
    assert code == 130 and "the same command resumes" in said, said
    done = Ledger(url).committed(NUMBERS.key)
    assert 2 <= len(done) < 16
    with driver(url, units, tmp_path) as process:
        code, reports, said = finished(process)
    assert code == 0 and reports[0]["found"] == len(done), said
    assert written(url) == undisturbed(16) and sound(url)
    assert Ledger(url).failures(NUMBERS.key) == {}


@pytest.mark.slow
def test_a_unit_that_never_ends_fails_by_the_watchdog(ray_session: Any, url: str, tmp_path: Path) -> None:
    pool = RayPool(ray_session, url, str(tmp_path), timeout_s=5.0)
    units = stages.units(3, "sleep:100", at=1)
    reports = run(stages.alone(NUMBERS), Ledger(url), units, pool, Quiet(), Options(scratch=str(tmp_path)))
    assert reports[0].failed == ["u0001"] and reports[0].committed == 2 and reports[0].deaths == 1
    assert "no end after 5 s, at record offset 44" in reports[0].error


def test_an_exclusive_stage_has_one_driver_at_a_time(ray_session: Any, url: str, tmp_path: Path) -> None:
    """Two drivers, one of which must wait: no unit of one ever runs while the other's do."""
    recipe = stages.alone(stages.exclusive_stage())
    busy = tmp_path / "busy"
    busy.mkdir()
    ends: list[StageReport] = []

    def drive(first: int) -> None:
        # each driver keeps to one unit in flight by its lane; between the drivers stands only the lease
        units = stages.units(3, f"overlap:{busy}", first=first, lane="one")
        pool = RayPool(ray_session, url, str(tmp_path / "scratch"))
        ends.extend(run(recipe, Ledger(url), units, pool, Quiet()))

    threads = [threading.Thread(target=drive, args=(first,)) for first in (0, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [report.committed for report in ends] == [3, 3]
    assert Ledger(url).failures(recipe.steps[0].stage.key) == {}
