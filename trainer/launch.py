"""Ray Train, and alone in this package: a run in this process, or in workers of a cluster.

Every worker calls `trainer.fit.go`, which resumes from the newest checkpoint of the run: a group that is started again,
with as many workers or others, needs nothing else. Ray Train restarts what crashes, what lost a process that did
(`sharded.Gone`) and what a store gave out on; any other KosmosError would come again, so it is told once and ends the
run. In this process it is Ray Train's local mode, which starts no Ray (2.60: 0.1 s and 1.5 s of imports).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from engine.errors import ConfigError, KosmosError, StoreError
from trainer import board, news
from trainer.faces import Face
from trainer.fit import go
from trainer.job import Job, Ready, check_sees, prepared, probed, witness
from trainer.loop import Metrics, Result
from trainer.news import MAX_CHARS, News, first_line, keep_failure
from trainer.place import Place, amounts, each_of, worded
from trainer.world import TIMEOUT, opened

POLL_S = 0.2  # between two looks at what the workers said
WATCH_S = 0.5  # between a worker's two looks at whether it is to end
GRACE_S = 6.0  # for a group to end by itself once one of it has said why
PATIENCE, PATIENCE_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 900.0  # for workers to be there: a node takes minutes
# Of that, for as many as Ray Train counts on: it counts a node that has gone for a while, and then asks for fewer.
ELASTIC_SHARE = 1 / 15
RESIZE_S = 600.0  # between two looks for room for more: what is trained since the newest checkpoint is trained again
SAVE_S = 300.0  # between two checkpoints of an elastic group, at most: Ray Train does not ask before it ends one
STOPPED = "stopped"  # why workers are to end, if no node goes away


# in this process ----------------------------------------------------------------------------------------------------
def here(ready: Ready, report: Callable[[Metrics], None], stopped: Callable[[], bool]) -> Result:
    """Train in this process, in Ray Train's local mode."""
    ray_train = _ray_train()

    def work() -> Result:
        with opened(ready.config.system.precision) as world:
            return go(ready, report, stopped, world)

    with probed(ready.run):
        pass
    with _quiet_ray():
        local = ray_train.torch.TorchTrainer(work, scaling_config=ray_train.ScalingConfig(num_workers=0))
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


# in Ray: the driver -------------------------------------------------------------------------------------------------
def in_ray(ready: Ready, shown: Face, stopped: Callable[[], bool], place: Place) -> Result:
    """Train in workers of the cluster at RAY_ADDRESS, or of an embedded Ray; KosmosError where they fail for good."""
    from engine.cluster import connect, connected, where

    if not connected():
        shown.note(f"starting Ray {where()}; this takes some seconds")
    ours = signal.getsignal(signal.SIGTERM)
    with connect(gpus=place.gpus != 0) as ray, witness(ready.run) as path, _scratch() as scratch:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)  # ray.init puts sys.exit there
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        each = each_of(nodes, place, ready.config.system.precision)
        shown.note(f"{worded(place)}{', each' if place.most > 1 else ''} with {amounts(each)}")
        near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        desk = ray.remote(num_cpus=0, concurrency_groups={"fit": 1}, scheduling_strategy=near)(_Desk).remote()
        environment = {name: value for name, value in os.environ.items() if name.startswith("RAY_TRAIN_")}
        # who is started again finds what the run began with in its folder: the files that made it are the driver's
        job = replace(ready.job, clip="", init_from="")
        given = {"job": job, "witness": path, "spare": place.restarts > 0, "elastic": place.least < place.most}
        heard = News(run=ready.run, shown=shown)
        try:
            if ready.job.wandb:
                ray.get(desk.keep.remote(board.environment()))
            fitting = desk.fit.options(concurrency_group="fit").remote(place, each, given, scratch, environment)
            return _drive(ray, desk, fitting, heard, ready, stopped)
        except ray.exceptions.RayError as error:
            raise KosmosError(
                f"the cluster fails ({first_line(error)}); the whole of it is in "
                f"{keep_failure(ready.run, str(error))}; the same command resumes"
            ) from None
        finally:
            # what it started is its own, and ends with it
            ray.kill(desk)


def _drive(ray: Any, desk: Any, fitting: Any, heard: News, ready: Ready, stopped: Callable[[], bool]) -> Result:
    patience_s = _patience_s()
    while True:
        done, _ = ray.wait([fitting], timeout=POLL_S)
        for kind, value in ray.get(desk.take.remote()):
            heard.hear(kind, value)
        if heard.error is not None:
            if done or time.monotonic() - heard.since > GRACE_S:
                raise heard.error
        elif done:
            text = ray.get(fitting)
            if heard.result is None:
                raise heard.fault(text)
            return heard.result
        elif stopped():
            if not heard.up:  # nobody to ask, and nothing to lose
                latest = ready.run.latest()
                return Result(update=latest.update if latest else 0, interrupted=True)
            desk.stop.remote()
        elif not heard.up and time.monotonic() - heard.since > patience_s:
            free = amounts(ray.available_resources())
            raise KosmosError(
                f"no workers could be started within {patience_s:g} s, {free} are free in the cluster; the same "
                f"command goes on from the newest checkpoint, with fewer --workers, or {PATIENCE}=SECONDS for longer"
            )


def _patience_s() -> float:
    text = os.environ.get(PATIENCE) or str(PATIENCE_S)
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{PATIENCE} is {text!r} in the environment; give a number of seconds, or unset it") from None


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="kosmos-", ignore_cleanup_errors=True)


# in Ray: between the driver and the workers -------------------------------------------------------------------------
class _Desk:
    """An actor: runs Ray Train's `fit` for the driver, takes what workers say, knows whether they are to end.

    Ray Train's controller is its child: who kills it ends the workers, at any moment. What is said is taken in order,
    in another thread than `fit`.
    """

    def __init__(self) -> None:
        self._said: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._stop = self._over = False
        self._restarts = self._group = 0
        self._fallen: set[int] = set()  # groups that failed
        self._environment: dict[str, str] = {}

    def fit(
        self, place: Place, each: dict[str, float], given: dict[str, Any], scratch: str, environment: dict[str, str]
    ) -> str:
        """Run the workers to their end: what Ray Train says if they failed for good, "" if not."""
        import ray

        fixed = place.least == place.most
        self._restarts = place.restarts
        os.environ.update(environment)
        os.environ[PATIENCE] = f"{_patience_s() * (1 if fixed else ELASTIC_SHARE):g}"
        ray_train = _ray_train()
        desk = ray.get_runtime_context().current_actor
        gpu = "GPU" in each
        trainer = ray_train.torch.TorchTrainer(
            _worker,
            train_loop_config={"desk": desk, **given},
            scaling_config=ray_train.ScalingConfig(
                num_workers=place.most if fixed else (place.least, place.most),
                elastic_resize_monitor_interval_s=RESIZE_S,
                use_gpu=gpu,
                resources_per_worker=each,
            ),
            torch_config=ray_train.torch.TorchConfig(
                backend="cpu:gloo,cuda:nccl" if gpu else "gloo", timeout_s=int(TIMEOUT.total_seconds())
            ),
            run_config=ray_train.RunConfig(
                storage_path=scratch,
                callbacks=[_obituary(ray_train, desk)],
                failure_config=ray_train.FailureConfig(
                    max_failures=place.restarts,
                    max_preemption_failures=-1 if place.restarts else 0,
                    controller_failure_limit=-1,  # of starts that fail: the driver is out of patience first
                ),
            ),
        )
        try:
            trainer.fit()
        except (ray_train.TrainingFailedError, ray.exceptions.RayError) as error:
            return str(error) or type(error).__name__
        return ""

    def say(self, kind: str, value: Any) -> None:
        """Take in one of the kinds of `news`; RESULT or ERROR is the end."""
        self._over = self._over or kind in (news.RESULT, news.ERROR)
        self._group += kind == news.UP
        if kind == news.FAILED:
            self._fallen.add(self._group)
        self._said.put((kind, value))

    def take(self) -> list[tuple[str, Any]]:
        """What was said since the last time."""
        return [self._said.get() for _ in range(self._said.qsize())]

    def stop(self) -> None:
        """End after the update in flight."""
        self._stop = True

    def stopped(self) -> bool:
        """Whether somebody wants an end."""
        return self._stop

    def again(self) -> bool:
        """Whether Ray Train starts a group again after the one that is up, should that fail."""
        return len(self._fallen - {self._group}) < self._restarts

    def keep(self, environment: dict[str, str]) -> None:
        """Hold what a worker is to have in its environment. It holds a key: Ray Train's config would be shown."""
        self._environment = environment

    def environment(self) -> dict[str, str]:
        """What is held for a worker's environment."""
        return self._environment

    def over(self) -> bool:
        """Whether the end was said: who is started again has nothing to do."""
        return self._over


def _obituary(ray_train: Any, desk: Any) -> Any:
    """What tells of workers that died: Ray Train's controller alone knows of those."""

    class Obituary(ray_train.UserCallback):  # type: ignore[misc]
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            dead = {
                rank: (news.DIED, str(error)[:MAX_CHARS])
                for rank, error in worker_exceptions.items()
                if type(error).__name__.startswith("WorkerHealthCheck")
            }
            if dead:
                desk.say.remote(news.FAILED, dead)

    return Obituary()


# in Ray: a worker ---------------------------------------------------------------------------------------------------
def _worker(given: dict[str, Any]) -> None:
    """Run in each worker of Ray Train: the job, from the newest checkpoint on. What it says goes to the desk."""
    import ray

    job: Job = given["job"]
    desk = given["desk"]
    if ray.get(desk.over.remote()):
        return
    with _Teller(ray, desk), opened(job.config.system.precision) as world:
        if world.first:
            ray.get(desk.say.remote(news.UP, world.size))
            os.environ.update(ray.get(desk.environment.remote()))
        check_sees(job, given["witness"], world)
        with _Watch(ray, desk, world.first) as watch:
            ready = prepared(job, world)
            if world.first:
                ray.get(desk.say.remote(news.BEGUN, (world.size, ready.start)))
            result = go(
                ready,
                lambda metrics: desk.say.remote(news.UPDATE, metrics),
                watch.wanted,
                world,
                SAVE_S if given["elastic"] else math.inf,
            )
            if result.interrupted and given["spare"] and world.say(watch.why if world.first else None) == news.MOVED:
                if world.first:
                    ray.get(desk.say.remote(news.MOVED, result.update))
                threading.Event().wait()  # the node takes this process along, or Ray Train ends it when that is due
            if world.first:
                ray.get(desk.say.remote(news.RESULT, result))


class _Teller:
    """Tells the desk of what goes wrong. A sentence for a person ends the worker in peace: it is not started again.

    But a store that gave out may be back: while Ray Train has restarts left it is a crash.
    """

    def __init__(self, ray: Any, desk: Any) -> None:
        self._ray, self._desk = ray, desk

    def __enter__(self) -> None:
        """Nothing is wrong yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Tell of an exception; True if it was a sentence."""
        if isinstance(error, KosmosError) and not (isinstance(error, StoreError) and self._again()):
            self._ray.get(self._desk.say.remote(news.ERROR, error))
            return True
        if error is not None:
            rank = int(os.environ.get("RANK", "0"))
            text = "".join(traceback.format_exception(kind, error, trace))[-MAX_CHARS:]
            self._ray.get(self._desk.say.remote(news.FAILED, {rank: (f"failed ({first_line(error)})", text)}))
        return False

    def _again(self) -> bool:
        return bool(self._ray.get(self._desk.again.remote()))


class _Watch(threading.Thread):
    """Looks out, in a thread, for the wish to stop and for a node that goes away: no update waits for an answer.

    Ray Train's answer on the latter is a barrier of all workers, so each has this thread, and none calls it elsewhere.
    """

    def __init__(self, ray: Any, desk: Any, first: bool) -> None:
        super().__init__(name="watch", daemon=True)
        self._ray, self._desk, self._first = ray, desk, first
        self._over = threading.Event()
        self.why = ""

    def __enter__(self) -> _Watch:
        """Look out."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """No longer. Not joined: it may wait in a barrier, for a worker that has ended."""
        self._over.set()

    def wanted(self) -> bool:
        """Whether this worker is to end after the update in flight."""
        return bool(self.why)

    def run(self) -> None:
        """Look, until it is over."""
        ray_train = _ray_train()
        with contextlib.suppress(self._ray.exceptions.RayError):
            while not self._over.wait(WATCH_S):
                if self._first and self._ray.get(self._desk.stopped.remote()):
                    self.why = STOPPED
                elif not self.why and ray_train.get_preemption_info() is not None:
                    self.why = news.MOVED
