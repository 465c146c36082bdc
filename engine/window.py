"""Runs a stage's units through a bounded window, and a recipe's stages in order; always resumes.

Units go out in random order and look for a commit before they work, so two drivers on one store share the work.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.chain import Chain
from engine.errors import BudgetExceeded, Interrupted, StoreError
from engine.lease import Lease
from engine.ledger import QUARANTINE, Ledger
from engine.pool import Pool, Task
from engine.progress import Progress
from engine.recipe import Recipe
from engine.stage import Outcome, Stage, Unit

MAX_DEATHS = 5  # workers or nodes that may die at one unit before it counts as failed
WINDOW = 2  # units submitted for each that can run, so that no worker waits for the driver


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a run behaves. only: one stage, by name. scratch: a folder on a local disk. timeout_s: a unit's watchdog.
    settings: how the recipe was asked for, kept with the run for those who look into the store later.

    max_failed: share of a stage's units that may fail (at least 3 may) before the run stops.
    """

    only: str = ""
    retry_failed: bool = False
    max_failed: float = 0.01
    scratch: str = ""
    timeout_s: float = 3600.0
    settings: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class StageReport:
    """What a run did at one stage (of one generation)."""

    stage: str
    key: str
    generation: int = 0
    planned: int = 0
    found: int = 0  # committed before
    committed: int = 0
    shared: int = 0  # committed meanwhile by another driver
    failed: list[str] = field(default_factory=list)  # quarantined now
    deaths: int = 0
    rows: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether every planned unit has a commit."""
        return self.found + self.committed + self.shared == self.planned


class Drain:
    """Ctrl-C: the first asks for a drain, the second is passed on as KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class StageRun:
    """One pass over the units of one stage: the window, lanes, deaths, retries, the failure budget."""

    def __init__(
        self, ledger: Ledger, stage: Stage, pool: Pool, progress: Progress, options: Options, drain: Drain
    ) -> None:
        self._ledger, self._stage, self._pool = ledger, stage, pool
        self._progress, self._options, self._drain = progress, options, drain

    def run(self, units: Sequence[Unit], generation: int = 0) -> StageReport:
        """Bring every unit to a commit or to quarantine. Raises StoreError, BudgetExceeded, LeaseLost, Interrupted."""
        units = list({unit.id: unit for unit in units}.values())  # the same content twice is one unit
        self.report = StageReport(
            stage=self._stage.name, key=self._stage.key, generation=generation, planned=len(units)
        )
        started = time.monotonic()
        if not units:
            return self.report
        done = self._ledger.committed(self._stage.key)
        self.report.found = sum(unit.id in done for unit in units)
        todo = [unit for unit in units if unit.id not in done]
        if todo:
            self._ledger.open(self._stage)
            self._tries = self._allowance(todo)
            self.report.failed = [unit.id for unit in todo if self._tries[unit.id] <= 0]
            self._line_up([Task(stage=self._stage, unit=unit) for unit in todo if self._tries[unit.id] > 0])
            self._progress.start(self.report, len(units))
            with self._exclusive() as check:
                self._work(check)
            self.report.seconds = time.monotonic() - started
            self._progress.end(self.report)
        return self.report

    def _line_up(self, tasks: list[Task]) -> None:
        """All that may run at once goes into the queue, in random order; what shares a lane waits behind its first."""
        self._queue: deque[Task] = deque()
        self._behind: dict[str, deque[Task]] = {}
        for task in tasks:
            if task.unit.lane and task.unit.lane in self._behind:
                self._behind[task.unit.lane].append(task)
                continue
            self._queue.append(task)
            if task.unit.lane:
                self._behind[task.unit.lane] = deque()
        random.shuffle(self._queue)

    def _release(self, lane: str) -> None:
        """A unit of a lane is done with: the next one may run."""
        if self._behind.get(lane):
            self._queue.append(self._behind[lane].popleft())

    def _allowance(self, todo: Sequence[Unit]) -> dict[str, int]:
        past = self._ledger.failures(self._stage.key)
        if self._options.retry_failed:
            return {unit.id: QUARANTINE for unit in todo}
        return {unit.id: QUARANTINE - past.get(unit.id, 0) for unit in todo}

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[Callable[[], None]]:
        if not self._stage.exclusive:
            yield lambda: None
            return
        lease = Lease(self._ledger.store, self._stage.lease or self._stage.key)
        told = ""
        while not lease.acquire():
            if (holder := lease.holder()) != told:
                told = holder
                self._progress.note(f"{self._stage.name}: waiting for the driver {holder}, which holds the stage")
            for _ in range(10):
                if self._drain.asked:
                    raise Interrupted(f"{self._stage.name} is held by another driver; the same command resumes")
                time.sleep(0.5)
        with lease:
            yield lease.check

    def _work(self, check: Callable[[], None]) -> None:
        live: dict[str, Task] = {}
        self._broken: set[str] = set()
        try:
            while self._queue or live:
                check()
                if self._drain.asked and not live:
                    left = len(self._queue) + sum(map(len, self._behind.values()))
                    raise Interrupted(f"interrupted at {self._stage.name}, {left} units left; the same command resumes")
                if not self._drain.asked:
                    self._fill(live)
                for task, outcome in self._pool.wait(0.5):
                    live.pop(task.unit.id)
                    self._settle(task, outcome)
        except BaseException:
            self._pool.cancel()
            raise

    def _fill(self, live: dict[str, Task]) -> None:
        while self._queue and len(live) < WINDOW * self._pool.width():
            task = self._queue.popleft()
            live[task.unit.id] = task
            self._pool.submit(task)

    def _settle(self, task: Task, outcome: Outcome | str) -> None:
        if isinstance(outcome, str):
            self.report.deaths += 1
            self._progress.note(f"{self._stage.name} {task.unit.id}: {outcome}; tried again with care")
            if task.deaths + 1 < MAX_DEATHS:
                self._queue.appendleft(Task(stage=self._stage, unit=task.unit, deaths=task.deaths + 1))
                return
            error = f"crashed: its worker died {task.deaths + 1} times, last {outcome}"
            self._ledger.put_failure(self._stage.key, task.unit, uuid.uuid4().hex[:8], error)
            outcome = Outcome(unit=task.unit.id, state="failed", error=error)
        if outcome.state == "store":
            raise StoreError(outcome.error)
        if outcome.state == "failed":
            self._fail(task, outcome)
            return
        self._broken.discard(task.unit.id)
        self._release(task.unit.lane)
        if outcome.state == "committed":
            self.report.committed += 1
        else:
            self.report.shared += 1
        self.report.rows += outcome.rows
        self.report.num_bytes += outcome.num_bytes
        self._progress.advance(self.report, outcome)

    def _fail(self, task: Task, outcome: Outcome) -> None:
        self.report.error = outcome.error
        self._broken.add(task.unit.id)
        self._tries[task.unit.id] -= 1
        self._progress.note(f"{self._stage.name} {task.unit.id} failed: {outcome.error}")
        allowed = max(3, int(self._options.max_failed * self.report.planned))
        if len(self._broken) > allowed:
            raise BudgetExceeded(
                f"{self._stage.name}: {len(self._broken)} of {self.report.planned} units failed, {allowed} may "
                f"(last: {outcome.error}); mend it and run again, or raise --max-failed"
            )
        if self._tries[task.unit.id] > 0:
            self._queue.append(Task(stage=self._stage, unit=task.unit, deaths=task.deaths))
        else:
            self.report.failed.append(task.unit.id)
            self._release(task.unit.lane)
            self._progress.advance(self.report, outcome)


def run(
    recipe: Recipe,
    ledger: Ledger,
    units: Sequence[Unit],
    pool: Pool,
    progress: Progress,
    options: Options | None = None,
    drain: Drain | None = None,
) -> list[StageReport]:
    """Run a recipe over the units of its first map stage, then its chain over all that is new.

    Returns a report a stage and generation. What is committed is skipped, so running again is cheap. Raises StoreError,
    BudgetExceeded, LeaseLost or Interrupted; what was committed until then stays.
    """
    options, drain = options or Options(), drain or Drain()
    check(recipe, ledger, options.only)
    ledger.check(create=True)
    for bound, word in recipe.bindings.items():
        ledger.bind(bound, word)
    reports: list[StageReport] = []
    name = ledger.tell(recipe.name, options.settings)

    def run_stage(stage: Stage, todo: Sequence[Unit], generation: int = 0) -> StageReport:
        stage_run = StageRun(ledger, stage, pool, progress, options, drain)
        try:
            return stage_run.run(todo, generation)
        finally:
            reports.append(stage_run.report)  # also of a stage that stops the run

    try:
        planned = list(units)
        for step in recipe.maps:
            if not options.only or options.only == step.stage.name:
                run_stage(step.stage, planned)
            done = ledger.committed(step.stage.key)
            planned = [Unit(id=unit.id, inputs=unit.inputs, size=unit.size) for unit in planned if unit.id in done]
        if not options.only or recipe.stage(options.only).barrier:
            chain = Chain(recipe, ledger, [unit.id for unit in units], run_stage, progress, options.only)
            chain.run()
    finally:
        with contextlib.suppress(StoreError):  # a story, not a promise: it must not hide the fault that ended the run
            ledger.store.put_new(
                f"{name}.end.json", json.dumps([asdict(report) for report in reports], indent=1).encode()
            )
    return reports


def check(recipe: Recipe, ledger: Ledger, only: str = "") -> None:
    """ConfigError if the recipe cannot run on this store: something must be set, or the store is bound otherwise.

    Writes nothing, so a person is told before anything is started.
    """
    if not only or recipe.stage(only).recorded:
        recipe.ready()
    if ledger.check(create=False):
        for bound, word in recipe.bindings.items():
            ledger.check_bound(bound, word)
