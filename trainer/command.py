"""`kosmos train`: what is asked for becomes a job, the job runs where it was asked to, and a person hears of it.

Here, in workers of Ray (`--workers N`), or in the processes that torchrun started, of which the first alone speaks.
Each way ends, resumes and fails alike: one sentence, an exit code, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from engine.errors import ConfigError, Interrupted
from engine.store import absolute
from trainer import faces, launch
from trainer.checkpoints.run import Run
from trainer.config import Config
from trainer.faces import Face
from trainer.fit import go
from trainer.job import Job, Ready, prepare, prepared
from trainer.loop import Result
from trainer.place import check_shards, placed
from trainer.torchrun import together


def train(
    config: Config,
    digests: Sequence[str],
    store: str,
    out: str,
    updates: int = 0,
    workers: str | int = "",
    as_json: bool = False,
    extend: Sequence[str] = (),
    union: bool = False,
    heldout: Sequence[str] = (),
    clip: str = "",
    init_from: str = "",
    accept_change: bool = False,
    wandb: str = "",
    gpus_per_worker: float | None = None,
    restarts: int | None = None,
) -> int:
    """Run `kosmos train`: exit code 0; KosmosError for all that a person is told in one sentence.

    workers, gpus_per_worker, restarts: as `trainer.place.placed` takes them. The first SIGINT or SIGTERM ends the run
    after the update in flight, with a checkpoint.
    """
    place = placed(workers, gpus_per_worker, restarts)
    check_shards(place, config.system.shard_ranks)
    if not out.strip():
        raise ConfigError("--out is empty; give a folder, or a bucket as s3://bucket/prefix")
    if urlsplit(out).scheme in ("memory", "http", "https"):
        raise ConfigError(f"--out {out} keeps nothing once this ends; give a folder, or a bucket as s3://bucket/prefix")
    job = Job(
        config=config,
        digests=tuple(digests),
        store=absolute(store),
        out=absolute(out),
        updates=updates,
        extend=tuple(extend),
        union=union,
        heldout=tuple(heldout),
        clip=clip,
        init_from=init_from,
        accept_change=accept_change,
        wandb=wandb,
    )
    if place.torchrun:
        # torchrun passes a Ctrl-C on that has reached its processes already: here the second one ends nothing
        with interrupts(patient=True) as asked, together(job) as world:
            shown = faces.choose(as_json) if world.first else faces.Mute()
            ready, result = _run(
                lambda: prepared(job, world),
                lambda ready: go(ready, shown.advance, asked.wanted, world),
                shown,
            )
            return _end(ready, result, shown, out)
    shown = faces.choose(as_json)
    with interrupts() as asked:
        ready, result = _run(
            lambda: prepare(job),
            lambda ready: (
                launch.in_ray(ready, shown, asked.wanted, place)
                if place.most
                else launch.here(ready, shown.advance, asked.wanted)
            ),
            shown,
        )
    return _end(ready, result, shown, out)


def _run(find: Callable[[], Ready], way: Callable[[Ready], Result], shown: Face) -> tuple[Ready, Result]:
    try:
        ready = find()
        for text in ready.notes:
            shown.note(text)
        last = ready.job.last
        if ready.start >= last:
            further = "--updates N" if ready.start < ready.config.optim.total_updates else "--set optim.total_updates=N"
            shown.note(f"{ready.run.place} is at update {ready.start}; {further} above that trains further")
            return ready, Result(update=ready.start)
        shown.begin(ready.start, last)
        return ready, way(ready)
    finally:
        shown.close()


def _end(ready: Ready, result: Result, shown: Face, out: str) -> int:
    if result.interrupted:
        kept = f"its checkpoint is in {ready.run.place}; " if result.update else ""
        raise Interrupted(
            f"interrupted after update {result.update} of {ready.job.last}; {kept}the same command resumes"
        )
    if not isinstance(shown, faces.Mute):
        shown.end(_summary(ready.run, result, out, ready.config.model.images))
    return 0


def _summary(run: Run, result: Result, out: str, images: bool) -> dict[str, Any]:
    counted = (line for line in run.metrics() if line["loss"] is not None)
    first: dict[str, Any] = next(counted, {"update": 0, "loss": None})
    last = result.last.plain() if result.last else deque(itertools.chain([first], counted), 1)[0]
    return {
        "update": result.update,
        "first_update": first["update"],
        "first_loss": first["loss"],
        "last_loss": last["loss"] if last["update"] == result.update else None,
        "checkpoint": f"{run.place}/checkpoints/{result.update:08d}",
        "next": f"kosmos generate --run {shlex.quote(out)} {'--image FILE' if images else '--prompt TEXT'}",
    }


@dataclass(slots=True)
class Wish:
    """Whether somebody wants an end: a plain attribute, as a lock taken by a signal's code would wait for itself."""

    stop: bool = False

    def wanted(self) -> bool:
        """The wish, for those who ask."""
        return self.stop


@contextlib.contextmanager
def interrupts(patient: bool = False) -> Iterator[Wish]:
    """The wish that the first SIGINT or SIGTERM makes; a second SIGINT is passed on, unless `patient`."""
    asked = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: Any) -> None:
        if asked.stop and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        asked.stop = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
