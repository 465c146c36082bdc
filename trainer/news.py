"""What the workers of a run say to its driver, and what a person is told of it. Tracebacks are kept in the run."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from engine.errors import KosmosError
from trainer.checkpoints.run import RUN, Run
from trainer.faces import Face
from trainer.loop import Result

MAX_TOLD, MAX_CHARS = 8, 20_000  # of one failure: workers, and characters of each
UP, BEGUN, UPDATE, MOVED = "up", "begun", "update", "moved"  # what workers say while they run; MOVED: a node goes away
RESULT, ERROR, FAILED = "result", "error", "failed"  # and at their end
DIED = "died"


@dataclass(kw_only=True, slots=True)
class News:
    """What the driver has heard of its workers. up: whether they are there; since: when that changed.

    failed: of each worker that failed since they last began, what it was in some words and in full.
    """

    run: Run
    shown: Face
    up: bool = False
    since: float = field(default_factory=time.monotonic)
    groups: int = 0
    failed: dict[int, tuple[str, str]] = field(default_factory=dict)
    result: Result | None = None
    error: KosmosError | None = None

    def hear(self, kind: str, value: Any) -> None:
        """Take in what one of them said."""
        if kind == UPDATE:
            self.shown.advance(value)
        elif kind == RESULT:
            self.result = value
        elif kind == ERROR and self.error is None:
            self.error, self.since = value, time.monotonic()
        elif kind == FAILED:
            # that it died says more than what the others met after it
            self.failed |= {rank: told for rank, told in value.items() if told[0] == DIED or rank not in self.failed}
            self.up, self.since = False, time.monotonic()
        elif kind == MOVED:
            self.up, self.since = False, time.monotonic()
            self.shown.note(f"a node goes away; the checkpoint of update {value} is written, workers elsewhere go on")
        elif kind == UP:
            self.up, self.since = True, time.monotonic()
        elif kind == BEGUN:
            self._begun(*value)

    def _begun(self, size: int, start: int) -> None:
        self.groups += 1
        if self.groups > 1:
            workers = f"{size} workers go" if size > 1 else "1 worker goes"
            kept = f"; the whole of it is in {self._kept()}" if self.failed else ""
            self.shown.note(f"{self._reason()}{workers} on from update {start}{kept}")
        self.failed = {}

    def fault(self, text: str) -> KosmosError:
        """The sentence for an end without a result. text: what Ray Train says of it."""
        if not self.failed:
            lines = text.strip().splitlines() or ["they ended without a word"]
            self.failed[0] = (f"failed ({lines[-1].strip()})", text)
        return KosmosError(
            f"the training failed: {self._reason()}the whole of it is in {self._kept()}; the same command resumes"
        )

    def _reason(self) -> str:
        dead = sorted(rank for rank, (words, _) in self.failed.items() if words == DIED)
        if dead:
            return f"worker{'s' if len(dead) > 1 else ''} {', '.join(map(str, dead[:MAX_TOLD]))} {DIED}; "
        return next((f"worker {rank} {words}; " for rank, (words, _) in self.failed.items()), "")

    def _kept(self) -> str:
        told = sorted(self.failed.items(), key=lambda item: item[1][0] != DIED)[:MAX_TOLD]
        return keep_failure(self.run, "\n".join(f"worker {rank}: {text}\n" for rank, (_, text) in told))


def keep_failure(run: Run, text: str) -> str:
    """Keep a traceback in the run, or on this machine where the run is not written down yet: the file's path."""
    if not run.store.absent and run.store.exists(RUN):
        return run.keep_failure(text)
    with tempfile.NamedTemporaryFile("w", prefix="kosmos-failure-", suffix=".txt", delete=False) as sink:
        sink.write(text)
    return sink.name


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()[:120]}" if lines else type(error).__name__
