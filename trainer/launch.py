"""`kosmos train`: a run from manifests to a checkpoint, in this process or in one worker of a Ray cluster.

The job itself is `trainer.fit`. In this process it runs in Ray Train's local mode, which starts no Ray (2.60: 0.1 s and
1.5 s of imports). A worker's metrics reach the driver through an actor, since Ray Train's own come only at its end.
Nothing is restarted: a deterministic fault would hide behind restarts, and the same command resumes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO
from urllib.parse import urlsplit

from engine.errors import ConfigError, Interrupted, KosmosError
from engine.store import absolute
from trainer.checkpoints import RUN, Run
from trainer.config import Config
from trainer.fit import PROBE, Job, Ready, go, prepare, probed
from trainer.fit import fit as fit
from trainer.loop import Metrics, Result

PLAIN_EVERY_S = 5.0  # between the lines of a log
POLL_S = 0.2  # between two looks at what a worker said
START_TIMEOUT_S = "600"  # a loaded machine takes longer than Ray Train's 60 s to import torch
UPDATE, RESULT, ERROR = "update", "result", "error"  # what a worker says
MAX_CPUS = 16  # a worker's: more threads than that do not help to decode images


# the command --------------------------------------------------------------------------------------------------------
def train(
    config: Config,
    digests: Sequence[str],
    store: str,
    out: str,
    updates: int = 0,
    workers: int = -1,
    as_json: bool = False,
    extend: Sequence[str] = (),
    union: bool = False,
) -> int:
    """Run `kosmos train`: exit code 0; KosmosError for all that a person is told in one sentence.

    workers: 0 trains in this process, 1 in a worker of the cluster at RAY_ADDRESS (or of an embedded Ray), below 0
    decides by RAY_ADDRESS. The first SIGINT or SIGTERM ends the run after the update in flight, with a checkpoint.
    """
    workers = num_workers(workers)
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
    )
    shown = _choose(as_json)
    try:
        with _interrupts() as asked:
            ready = prepare(job)
            for text in ready.notes:
                shown.note(text)
            if ready.start >= job.last:
                further = "--updates N" if ready.start < config.optim.total_updates else "--set optim.total_updates=N"
                shown.note(f"{ready.run.place} is at update {ready.start}; {further} above that trains further")
                result = Result(update=ready.start)
            else:
                shown.begin(ready.start, job.last)
                way = _in_ray if workers else _here
                result = way(job, ready, shown, asked)
    finally:
        shown.close()
    if result.interrupted:
        kept = f"its checkpoint is in {ready.run.place}; " if result.update else ""
        raise Interrupted(f"interrupted after update {result.update} of {job.last}; {kept}the same command resumes")
    shown.end(_summary(ready.run, result, out))
    return 0


def num_workers(asked: int) -> int:
    """0 for this process, 1 for a worker in Ray; -1 is decided by RAY_ADDRESS. ConfigError for all else."""
    world = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if not world.isdecimal():
        raise ConfigError(f"WORLD_SIZE is {world!r} in the environment and no number of processes; unset it")
    if asked > 1 or int(world) > 1:
        raise ConfigError("this version trains with one process; give --workers 0 or 1, and start it without torchrun")
    if asked < -1:
        raise ConfigError(f"--workers is {asked}; give 0 for this process, 1 for a worker in Ray, or -1 to decide")
    return asked if asked >= 0 else int(bool(os.environ.get("RAY_ADDRESS")))


def _summary(run: Run, result: Result, out: str) -> dict[str, Any]:
    counted = (line for line in run.metrics() if line["loss"] is not None)
    first: dict[str, Any] = next(counted, {"update": 0, "loss": None})
    last = result.last.plain() if result.last else deque(itertools.chain([first], counted), 1)[0]
    return {
        "update": result.update,
        "first_update": first["update"],
        "first_loss": first["loss"],
        "last_loss": last["loss"] if last["update"] == result.update else None,
        "checkpoint": f"{run.place}/checkpoints/{result.update:08d}",
        "next": f"kosmos generate --run {shlex.quote(out)} --image FILE",
    }


def _here(job: Job, ready: Ready, shown: Face, asked: Wish) -> Result:
    ray_train = _ray_train()
    with probed(ready.run):
        pass
    with _quiet_ray():
        local = ray_train.torch.TorchTrainer(
            lambda: go(job, ready, shown.advance, lambda: asked.stop),
            scaling_config=ray_train.ScalingConfig(num_workers=0),
        )
        found = local.fit().return_value
    assert isinstance(found, Result)
    return found


def _ray_train() -> Any:
    # Any: what it declares to mypy is its first version, what it runs is its second
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray.train.torch
    return ray.train


@contextlib.contextmanager
def _quiet_ray() -> Iterator[None]:
    # it says on stderr that local mode is local mode
    log = logging.getLogger("ray.train")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


class _Wire:
    """An actor between a worker and its driver: what was said one way, the wish to stop the other way."""

    def __init__(self) -> None:
        self._said: list[tuple[str, Any]] = []
        self._stop = False

    def say(self, kind: str, value: Any) -> None:
        """One of UPDATE, while it runs, and of RESULT or ERROR, at the end."""
        self._said.append((kind, value))

    def take(self) -> list[tuple[str, Any]]:
        """What was said since the last time."""
        said, self._said = self._said, []
        return said

    def stop(self) -> None:
        """End after the update in flight."""
        self._stop = True

    def stopped(self) -> bool:
        """Whether somebody wants an end."""
        return self._stop


def _in_ray(job: Job, ready: Ready, shown: Face, asked: Wish) -> Result:
    from engine.cluster import connect, connected, where

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_TIMEOUT_S)
    if not connected():
        shown.note(f"starting Ray {where()}; this takes some seconds")
    ours = signal.getsignal(signal.SIGTERM)
    with connect() as ray, probed(ready.run), tempfile.TemporaryDirectory(prefix="kosmos-") as scratch:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)  # ray.init puts sys.exit there
        ray_train = _ray_train()
        wire = ray.remote(num_cpus=0)(_Wire).remote()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
        cpus = max((int(node.get("CPU", 1)) for node in with_gpu or nodes), default=1)
        scaling = ray_train.ScalingConfig(
            num_workers=1,
            use_gpu=bool(with_gpu),
            # Ray gives a worker as many threads as it has CPUs
            resources_per_worker={"CPU": min(MAX_CPUS, cpus)},
        )
        trainer = ray_train.torch.TorchTrainer(
            _worker,
            train_loop_config={"job": job, "wire": wire},
            scaling_config=scaling,
            run_config=ray_train.RunConfig(
                storage_path=scratch,
                failure_config=ray_train.FailureConfig(max_failures=0, max_preemption_failures=0),
            ),
        )
        ended: dict[str, Any] = {}
        # in a thread: in the main one Ray Train takes SIGINT for itself and aborts without a checkpoint
        pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ray-train")
        fitting = pool.submit(trainer.fit)
        pool.shutdown(wait=False)
        over = False
        while not over:
            over = bool(concurrent.futures.wait([fitting], timeout=POLL_S).done)
            if asked.stop:
                wire.stop.remote()
            for kind, value in ray.get(wire.take.remote()):
                if kind == UPDATE:
                    shown.advance(value)
                else:
                    ended[kind] = value
        try:
            fitting.result()
        except (ray_train.TrainingFailedError, ray.exceptions.RayError) as error:
            path = _keep_failure(ready.run, str(error))
            reason = str(error).strip().splitlines()[-1]
            raise KosmosError(
                f"the training worker failed ({reason}); the whole of it is in {path}; the same command resumes"
            ) from None
    if ERROR in ended:
        raise ended[ERROR]
    result: Result = ended[RESULT]
    return result


def _keep_failure(run: Run, text: str) -> str:
    """Keep a traceback in the run, or on this machine where the run is not written down yet: the file's path."""
    if run.store.exists(RUN):
        return run.keep_failure(text)
    with tempfile.NamedTemporaryFile("w", prefix="kosmos-failure-", suffix=".txt", delete=False) as sink:
        sink.write(text)
    return sink.name


def _worker(given: dict[str, Any]) -> None:
    """Run in a worker of Ray Train: `fit`, its words through the wire."""
    import ray

    ray_train = _ray_train()
    job: Job = given["job"]
    wire = given["wire"]

    def preempted() -> bool:
        return bool(ray.get(wire.stopped.remote())) or ray_train.get_preemption_info() is not None

    try:
        run = Run(job.out)
        if run.store.absent or not run.store.exists(PROBE):
            raise ConfigError(
                f"the worker does not see {job.out}; give --out and --store a bucket or a folder that all nodes share"
            )
        result = go(job, prepare(job), lambda metrics: wire.say.remote(UPDATE, metrics), preempted)
        ray.get(wire.say.remote(RESULT, result))
    except KosmosError as error:
        ray.get(wire.say.remote(ERROR, error))


@dataclass(slots=True)
class Wish:
    """Whether somebody wants an end: a plain attribute, as a lock taken by a signal's code would wait for itself."""

    stop: bool = False


@contextlib.contextmanager
def _interrupts() -> Iterator[Wish]:
    """The wish that the first SIGINT or SIGTERM makes; a second SIGINT is passed on."""
    asked = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: Any) -> None:
        if asked.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.stop = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# the face -----------------------------------------------------------------------------------------------------------
class Face:
    """Plain lines: one every five seconds, on stderr; the end on stdout."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out, self._said, self._last = out or sys.stderr, 0.0, 0

    def begin(self, start: int, last: int) -> None:
        """The updates start + 1 .. last are to come."""
        self._last = last

    def advance(self, metrics: Metrics) -> None:
        """An update is done."""
        if time.monotonic() - self._said > PLAIN_EVERY_S or metrics.update == self._last:
            self._said = time.monotonic()
            bad = f", {metrics.bad_images} bad images" if metrics.bad_images else ""
            skipped = f", no step: {metrics.skipped}" if metrics.skipped else ""
            self.note(f"update {metrics.update:,} of {self._last:,}: {_words(metrics)}{bad}{skipped}")

    def note(self, text: str) -> None:
        """A sentence for the person."""
        print(text, file=self._out, flush=True)

    def end(self, summary: dict[str, Any]) -> None:
        """It is done: from which loss to which, where it lies, what to type next."""
        losses = ""
        if summary["first_loss"] is not None and summary["last_loss"] is not None:
            losses = (
                f"loss {summary['first_loss']:.3f} at update {summary['first_update']:,}, "
                f"{summary['last_loss']:.3f} at update {summary['update']:,}; "
            )
        print(f"{losses}the checkpoint is {summary['checkpoint']}; next: {summary['next']}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""


class JsonFace(Face):
    """One JSON object a line on stdout, one for each update."""

    def advance(self, metrics: Metrics) -> None:
        """{"event": "update", ...}"""
        self._event(event="update", **metrics.plain())

    def note(self, text: str) -> None:
        """{"event": "note", ...}"""
        self._event(event="note", text=text)

    def end(self, summary: dict[str, Any]) -> None:
        """{"event": "end", ...}"""
        self._event(event="end", **summary)

    def _event(self, **event: Any) -> None:
        print(json.dumps(event), flush=True)


class Bar(Face):
    """A live bar with the loss."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
            console=Console(stderr=True),
        )

    def begin(self, start: int, last: int) -> None:
        """A new bar."""
        super().begin(start, last)
        self._task = self._bar.add_task("", total=last, completed=start, words="")
        self._bar.start()

    def advance(self, metrics: Metrics) -> None:
        """The bar moves."""
        self._bar.update(self._task, completed=metrics.update, words=_words(metrics))
        if metrics.skipped:
            self.note(f"update {metrics.update:,} made no step: {metrics.skipped}")

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """The bar stands."""
        self._bar.stop()


def _words(metrics: Metrics) -> str:
    return f"loss {metrics.loss:.3f}, {metrics.tokens_per_s:,.0f} tokens/s"


def _choose(as_json: bool) -> Face:
    if as_json:
        return JsonFace()
    return Bar() if sys.stderr.isatty() else Face()
