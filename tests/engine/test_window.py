"""The window: every unit ends in a commit or in quarantine, and a run that stops can be started again."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BudgetExceeded, ConfigError, Interrupted, LeaseLost, StoreError
from engine.lease import Lease
from engine.ledger import QUARANTINE, Ledger
from engine.pool import InlinePool, Task
from engine.progress import Quiet
from engine.stage import Outcome, Stage, Unit
from engine.store import Store
from engine.window import MAX_DEATHS, Drain, Options, StageReport, StageRun, run
from tests import stages

STAGE = stages.numbers_stage()


class Wide(InlinePool):
    """Many units in flight; they end youngest first. Some of its workers die."""

    def __init__(self, url: str, width: int = 4, deaths: dict[str, int] | None = None) -> None:
        super().__init__(url)
        self._width, self.deaths = width, deaths or {}
        self.most, self.cancelled, self.careful = 0, False, 0

    def width(self) -> int:
        return self._width

    def submit(self, task: Task) -> None:
        lanes = [t.unit.lane for t in [*self._tasks, task] if t.unit.lane]
        assert len(lanes) == len(set(lanes)), "two units of one lane are in flight"
        super().submit(task)
        self.most = max(self.most, len(self._tasks))

    def wait(self, timeout_s: float) -> list[tuple[Task, Outcome | str]]:
        self._tasks.reverse()
        if self._tasks and self.deaths.get(self._tasks[0].unit.id, 0) > 0:
            task = self._tasks.pop(0)
            self.deaths[task.unit.id] -= 1
            return [(task, "WorkerCrashedError: it died")]
        self.careful += bool(self._tasks and self._tasks[0].deaths)
        return super().wait(timeout_s)

    def cancel(self) -> None:
        super().cancel()
        self.cancelled = True


def stage_run(
    url: str,
    units: Sequence[Unit],
    pool: InlinePool | None = None,
    stage: Stage = STAGE,
    drain: Drain | None = None,
    progress: Quiet | None = None,
    **options: object,
) -> StageReport:
    made = StageRun(
        Ledger(url),
        stage,
        pool or Wide(url),
        progress or Quiet(),
        Options(**options),  # type: ignore[arg-type]
        drain or Drain(),
    )
    return made.run(units)


def test_all_units_are_committed_and_running_again_finds_them(memory: str) -> None:
    pool = Wide(memory)
    report = stage_run(memory, stages.units(20), pool)
    assert report.complete and (report.planned, report.committed, report.found) == (20, 20, 0)
    assert report.failed == [] and 1 < pool.most <= 8
    again = stage_run(memory, stages.units(25))
    assert (again.found, again.committed, again.complete) == (20, 5, True)
    assert stage_run(memory, []).complete


def test_the_bytes_do_not_know_the_order(memory: str) -> None:
    marks = set()
    for number, width in enumerate((1, 3, 9)):
        url = f"{memory}x{number}"
        stage_run(url, list(reversed(stages.units(12))) if number else stages.units(12), Wide(url, width))
        marks.add(Ledger(url).freeze(STAGE.key))
    assert len(marks) == 1


def test_a_unit_that_fails_twice_is_committed_by_the_third(memory: str, tmp_path: Path) -> None:
    report = stage_run(memory, stages.units(4, f"fail:2:{tmp_path}", at=1))
    assert report.complete and report.committed == 4 and report.failed == []
    assert Ledger(memory).failures(STAGE.key) == {"u0001": 2}


def test_a_unit_that_fails_three_times_is_quarantined_and_the_rest_goes_on(memory: str, tmp_path: Path) -> None:
    ledger = Ledger(memory)
    progress = Quiet()
    units = stages.units(6, f"fail:4:{tmp_path}", at=1)
    report = stage_run(memory, units, progress=progress)
    assert (report.failed, report.committed, report.complete) == (["u0001"], 5, False)
    assert "on purpose" in report.error and any("on purpose" in note for note in progress.notes)
    assert ledger.quarantined(STAGE.key) == {"u0001"}
    again = stage_run(memory, units)
    assert (again.failed, again.committed, again.found) == (["u0001"], 0, 5)
    assert ledger.failures(STAGE.key) == {"u0001": QUARANTINE}, "left alone"
    mended = stage_run(memory, units, retry_failed=True)
    assert mended.complete and mended.committed == 1 and ledger.quarantined(STAGE.key) == set()


def test_failures_of_earlier_runs_count(memory: str, tmp_path: Path) -> None:
    (unit,) = stages.units(1, f"fail:9:{tmp_path}")
    for attempt in ("a", "b"):
        Ledger(memory).put_failure(STAGE.key, unit, attempt, "earlier")
    assert stage_run(memory, [unit]).failed == ["u0000"]
    assert Ledger(memory).failures(STAGE.key) == {"u0000": 3}


def test_the_budget_stops_a_run_that_only_fails(memory: str, tmp_path: Path) -> None:
    pool = Wide(memory)
    with pytest.raises(BudgetExceeded, match=r"--max-failed") as caught:
        stage_run(memory, stages.units(30, f"fail:9:{tmp_path}"), pool)
    assert "on purpose" in str(caught.value) and caught.value.exit_code == 3 and pool.cancelled
    assert sum(Ledger(memory).failures(STAGE.key).values()) < 30


def test_failures_that_pass_do_not_use_the_budget_up(memory: str, tmp_path: Path) -> None:
    report = stage_run(memory, stages.units(12, f"fail:1:{tmp_path}"), max_failed=1.0)
    assert report.complete


def test_a_dead_worker_is_tried_again_with_care(memory: str) -> None:
    pool = Wide(memory, deaths={"u0003": 1, "u0001": 2})
    report = stage_run(memory, stages.units(6), pool)
    assert report.complete and report.deaths == 3 and pool.careful == 2
    assert Ledger(memory).failures(STAGE.key) == {}


def test_a_unit_on_which_workers_keep_dying_fails(memory: str) -> None:
    pool = Wide(memory, deaths={"u0001": 99})
    report = stage_run(memory, stages.units(3), pool)
    assert report.failed == ["u0001"] and report.committed == 2
    bodies = Ledger(memory).failure_bodies(STAGE.key, "u0001")
    assert len(bodies) == QUARANTINE and f"died {MAX_DEATHS} times" in bodies[0]["error"]


def test_lanes_are_never_shared(memory: str) -> None:
    # Wide.submit asserts it
    units = [u for k in range(3) for u in stages.units(7, first=7 * k, lane=f"lane{k}")] + stages.units(4, first=21)
    pool = Wide(memory, 5)
    report = stage_run(memory, units, pool)
    assert report.complete and report.planned == 25 and pool.most <= 7


def test_a_lane_goes_on_in_order_after_a_unit_that_fails(memory: str) -> None:
    started: list[str] = []

    class Watched(Wide):
        def submit(self, task: Task) -> None:
            started.append(task.unit.id)
            super().submit(task)

    report = stage_run(memory, stages.units(5, "fail:x", at=2, lane="one"), Watched(memory, 5), max_failed=1.0)
    assert report.failed == ["u0002"] and report.committed == 4
    assert started == ["u0000", "u0001", *["u0002"] * QUARANTINE, "u0003", "u0004"]


def test_what_another_driver_did_meanwhile_is_shared(memory: str) -> None:
    class Beaten(Wide):
        def wait(self, timeout_s: float) -> list[tuple[Task, Outcome | str]]:
            if self._tasks:
                stage_run(memory, [task.unit for task in self._tasks], Wide(memory))
            return super().wait(timeout_s)

    report = stage_run(memory, stages.units(5), Beaten(memory))
    assert report.complete and report.shared == 5 and report.committed == 0


class _CtrlC(Wide):
    """Ctrl-C after `after` units."""

    def __init__(self, url: str, drain: Drain, after: int) -> None:
        super().__init__(url)
        self.drain, self.after = drain, after

    def wait(self, timeout_s: float) -> list[tuple[Task, Outcome | str]]:
        self.after -= 1
        if self.after == 0:
            self.drain()
        return super().wait(timeout_s)


def test_ctrl_c_drains_what_is_in_flight_and_resumes(memory: str) -> None:
    drain = Drain()
    pool = _CtrlC(memory, drain, 3)
    with pytest.raises(Interrupted, match="resumes") as caught:
        stage_run(memory, stages.units(40), pool, drain=drain)
    assert caught.value.exit_code == 130
    done = Ledger(memory).committed(STAGE.key)
    assert 3 <= len(done) <= 3 + 8
    assert stage_run(memory, stages.units(40)).found == len(done)
    with pytest.raises(KeyboardInterrupt):
        drain()


def test_the_same_content_twice_is_one_unit(memory: str) -> None:
    report = stage_run(memory, [*stages.units(3), *stages.units(3)])
    assert (report.planned, report.committed, report.complete) == (3, 3, True)


def test_a_store_that_fails_stops_the_run(memory: str) -> None:
    class Broken(Wide):
        def wait(self, timeout_s: float) -> list[tuple[Task, Outcome | str]]:
            return [(self._tasks.pop(), Outcome(unit="u", state="store", error="no store; mend it"))]

    pool = Broken(memory)
    with pytest.raises(StoreError, match="mend it"):
        stage_run(memory, stages.units(5), pool)
    assert pool.cancelled


def test_an_exclusive_stage_waits_for_its_holder(memory: str) -> None:
    stage = stages.exclusive_stage()
    lease = Lease(Store(memory), stage.key)
    assert lease.acquire()
    drain = Drain()

    class Letting(Quiet):
        def note(self, text: str) -> None:
            super().note(text)
            lease.release()

    progress = Letting()
    report = stage_run(memory, stages.units(2), stage=stage, progress=progress, drain=drain)
    assert report.complete and lease.holder() == ""
    assert any("waiting for the driver" in note for note in progress.notes)
    # and Ctrl-C ends the waiting
    assert lease.acquire()
    drain()
    with pytest.raises(Interrupted):
        stage_run(memory, stages.units(3), stage=stage, drain=drain)


def test_two_stages_of_one_lease_are_never_at_work_together(memory: str) -> None:
    first = stages.exclusive_stage()
    second = dataclasses.replace(first, name="second", lease=first.key)
    drain, lease = Drain(), Lease(Store(memory), first.key)
    assert second.key != first.key and lease.acquire()
    drain()
    with pytest.raises(Interrupted):
        stage_run(memory, stages.units(2), stage=second, drain=drain)
    lease.release()
    report = stage_run(memory, stages.units(2), stage=second)
    assert report.complete and lease.holder() == ""


def test_who_loses_the_stage_stops(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the attribute `run` of the package is the function
    monkeypatch.setattr(sys.modules["engine.window"], "Lease", partial(Lease, ttl_s=0.4))
    stage = stages.exclusive_stage()

    class Slow(Wide):
        def wait(self, timeout_s: float) -> list[tuple[Task, Outcome | str]]:
            # another driver, by whose look at the store's clock this one has been silent for too long
            Store(memory).put_new(f"{stage.key}/leases/2.json", b'{"holder": "another"}')
            time.sleep(0.1)
            return []

    pool = Slow(memory)
    with pytest.raises(LeaseLost, match="took over") as caught:
        stage_run(memory, stages.units(3), pool, stage=stage)
    assert caught.value.exit_code == 3 and pool.cancelled
    assert not Store(memory).exists(f"{stage.key}/leases/1.released")


def test_an_interrupted_driver_lets_the_stage_go(memory: str) -> None:
    stage = stages.exclusive_stage()
    drain = Drain()
    with pytest.raises(Interrupted):
        stage_run(memory, stages.units(30), _CtrlC(memory, drain, 2), stage=stage, drain=drain)
    assert Lease(Store(memory), stage.key).holder() == ""


# run --------------------------------------------------------------------------------------------------------------
RECIPE = stages.recipe()


def whole(url: str, units: Sequence[Unit], **options: object) -> tuple[list[StageReport], Quiet]:
    progress = Quiet()
    return run(RECIPE, Ledger(url), units, InlinePool(url), progress, Options(**options)), progress  # type: ignore[arg-type]


def test_a_recipe_runs_to_its_end_and_then_has_nothing_to_do(memory: str) -> None:
    reports, _ = whole(memory, stages.units(4))
    assert [(r.stage, r.generation, r.committed, r.complete) for r in reports] == [
        ("numbers", 0, 4, True),
        ("double", 0, 4, True),
        ("unique", 1, 2, True),
        ("index", 1, 2, True),
    ]
    again, _ = whole(memory, stages.units(4))
    assert all(report.committed == 0 and report.complete for report in again)
    starts, ends = stories(memory)
    assert [start["recipe"] for start in starts] == ["tested", "tested"] and len(ends) == 2
    assert sorted(len(end) for end in ends) == [2, 4], "the second run has no generation to compute"


def stories(url: str) -> tuple[list[Any], list[Any]]:
    """What was told of the beginnings and the ends of runs."""
    paths = [head.path for head in Store(url).list("runs/")]
    bodies = {path: json.loads(Store(url).get(path)) for path in sorted(paths)}
    ends = [body for path, body in bodies.items() if path.endswith(".end.json")]
    return [body for path, body in bodies.items() if not path.endswith(".end.json")], ends


def test_only_runs_one_map_stage(memory: str) -> None:
    reports, _ = whole(memory, stages.units(3), only="numbers")
    assert [r.stage for r in reports] == ["numbers"]
    reports, _ = whole(memory, stages.units(3), only="double")
    assert [(r.stage, r.committed) for r in reports] == [("double", 3)]
    assert Ledger(memory).generations(RECIPE.stage("unique").key) == []
    with pytest.raises(ConfigError, match="no stage 'nothing'"):
        whole(memory, stages.units(3), only="nothing")


def test_only_a_barrier_stage_brings_what_it_needs(memory: str) -> None:
    whole(memory, stages.units(3), only="numbers")
    whole(memory, stages.units(3), only="double")
    reports, _ = whole(memory, stages.units(3), only="unique")
    assert [(r.stage, r.generation) for r in reports] == [("unique", 1)]
    reports, _ = whole(memory, stages.units(3))
    assert [(r.stage, r.committed) for r in reports if r.committed] == [("index", 2)]
    assert list(Ledger(memory).settled(RECIPE.stage("unique").key)) == [1]


def test_what_failed_in_one_map_stage_is_not_asked_of_the_next(memory: str, tmp_path: Path) -> None:
    reports, _ = whole(memory, stages.units(4, f"fail:9:{tmp_path}", at=2))
    assert [(r.stage, r.planned, len(r.failed)) for r in reports[:2]] == [("numbers", 4, 1), ("double", 3, 0)]
    assert [r.generation for r in reports[2:]] == [1, 1]
    generation = Ledger(memory).generation(RECIPE.stage("unique").key, 1)
    assert generation is not None and generation.quarantined == {"numbers": ("u0002",)}


def test_a_run_that_stops_tells_its_story(memory: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded):
        whole(memory, stages.units(9, f"fail:9:{tmp_path}"))
    (start,), (end,) = stories(memory)
    assert start["recipe"] == "tested" and "fail" in end[0]["error"]


def test_a_foreign_place_is_refused_before_anything_is_written(memory: str) -> None:
    Store(memory).put_new("other", b"")
    with pytest.raises(ConfigError):
        whole(memory, stages.units(2))
    assert [head.path for head in Store(memory).list("")] == ["other"]
