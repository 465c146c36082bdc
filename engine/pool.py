"""Where attempts run: Ray tasks, or this very process (memory:// stores, debugging). One shape for both."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any, Protocol

from engine.attempt import attempt
from engine.stage import Outcome, Stage, Unit

# A worker is retired after this many units, before a C library's leak matters.
MAX_CALLS = 200
# A unit that ends without an Outcome killed its worker, or lost its node.
CRASHED = "crashed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A unit in flight. deaths: workers that it was on when they died."""

    stage: Stage
    unit: Unit
    deaths: int = 0


class Pool(Protocol):
    """Runs attempts; at most `width` at once are worth submitting."""

    def width(self) -> int:
        """How many units can run at once now."""

    def submit(self, task: Task) -> None:
        """Start an attempt."""

    def wait(self, timeout_s: float) -> list[tuple[Task, Outcome | str]]:
        """Attempts that ended: their Outcome, or a sentence on how their worker died. Empty after the timeout."""

    def cancel(self) -> None:
        """Kill what is in flight."""


class InlinePool:
    """Attempts in this process, one after the other."""

    def __init__(self, url: str, scratch: str = "") -> None:
        self._url, self._scratch = url, scratch
        self._tasks: list[Task] = []

    def width(self) -> int:
        """One."""
        return 1

    def submit(self, task: Task) -> None:
        """Queue the attempt; `wait` runs it."""
        self._tasks.append(task)

    def wait(self, timeout_s: float) -> list[tuple[Task, Outcome | str]]:
        """Run the oldest attempt."""
        if not self._tasks:
            return []
        task = self._tasks.pop(0)
        return [(task, attempt(self._url, task.stage, task.unit, self._scratch))]

    def cancel(self) -> None:
        """Forget what has not begun."""
        self._tasks.clear()


class RayPool:
    """Attempts as Ray tasks. Ray's own retries are off: the driver must know of each death to make the next attempt
    careful."""

    def __init__(self, ray: Any, url: str, scratch: str = "", timeout_s: float = 3600.0) -> None:
        self._ray, self._url, self._scratch, self._timeout_s = ray, url, scratch, timeout_s
        self._live: dict[Any, Task] = {}
        self._remotes: dict[str, Any] = {}
        self._cpus, self._asked = 1.0, 0.0

    def width(self) -> int:
        """CPUs of the cluster, asked every ten seconds since nodes come and go."""
        if time.monotonic() - self._asked > 10:
            self._cpus = float(self._ray.cluster_resources().get("CPU", 1))
            self._asked = time.monotonic()
        return max(1, int(self._cpus))

    def _remote(self, stage: Stage) -> Any:
        if stage.key not in self._remotes:
            # max_calls cannot go into .options()
            function = self._ray.remote(max_calls=MAX_CALLS, max_retries=0)(attempt)
            options: dict[str, Any] = {"num_cpus": stage.num_cpus, "name": stage.name}
            if stage.memory_bytes:
                options["memory"] = stage.memory_bytes
            # the stage is pickled once, not once a unit
            self._remotes[stage.key] = (function.options(**options), self._ray.put(stage))
        return self._remotes[stage.key]

    def submit(self, task: Task) -> None:
        """Start the attempt on the cluster."""
        function, stage = self._remote(task.stage)
        reference = function.remote(self._url, stage, task.unit, self._scratch, task.deaths > 0, self._timeout_s)
        self._live[reference] = task

    def wait(self, timeout_s: float) -> list[tuple[Task, Outcome | str]]:
        """Attempts that ended."""
        if not self._live:
            return []
        ready, _ = self._ray.wait(list(self._live), num_returns=len(self._live), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(list(self._live), num_returns=1, timeout=timeout_s)
        ended: list[tuple[Task, Outcome | str]] = []
        for reference in ready:
            task = self._live.pop(reference)
            try:
                ended.append((task, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                sentence = str(error).strip().split("\n", 1)[0]
                ended.append((task, f"{type(error).__name__}: {sentence}"))
        return ended

    def cancel(self) -> None:
        """Kill the workers of what is in flight."""
        for reference in self._live:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
        self._live.clear()
