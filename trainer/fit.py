"""The whole job of `kosmos train` without a face: from manifests, or the newest checkpoint of a run, to an update.

`go` is the same in one process and in many: what is found to be there comes from `trainer.job`, the parts from their
modules, and this file puts them together.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import torch

from trainer import loop, memory, parallel
from trainer.board import Board
from trainer.checkpoints.changes import check
from trainer.checkpoints.saver import Saver
from trainer.checkpoints.sharded import together
from trainer.config import Config
from trainer.data.heldout import Heldout
from trainer.data.loader import Loader, prefetch
from trainer.job import Job, Ready, prepared
from trainer.loop import Metrics, Result
from trainer.weights import start
from trainer.world import World, opened


def fit(
    config: Config,
    digests: Sequence[str],
    store: str,
    out: str,
    updates: int = 0,
    report: Callable[[Metrics], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
    preempted: Callable[[], bool] = lambda: False,
    extend: Sequence[str] = (),
    union: bool = False,
    heldout: Sequence[str] = (),
    clip: str = "",
    init_from: str = "",
    accept_change: bool = False,
    world: World | None = None,
) -> Result:
    """Train up to an update, in this process, from the newest checkpoint of `out` if it holds one.

    updates: the last one, counted from the run's beginning; 0 for the config's. world: of this process, if it is one of
    several, each of which calls this. Raises ConfigError before anything is written, StoreError where a store gives
    out; the newest complete checkpoint stays good.
    """
    job = Job(
        config=config,
        digests=tuple(digests),
        store=store,
        out=out,
        updates=updates,
        extend=tuple(extend),
        union=union,
        heldout=tuple(heldout),
        clip=clip,
        init_from=init_from,
        accept_change=accept_change,
    )
    with contextlib.ExitStack() as stack:
        here = world or stack.enter_context(opened(config.system.precision))
        ready = prepared(job, here)
        for text in ready.notes if here.first else ():
            note(text)
        return go(ready, report, preempted, here)


def go(
    ready: Ready,
    report: Callable[[Metrics], None],
    preempted: Callable[[], bool],
    world: World,
    every_s: float = math.inf,
) -> Result:
    """Build the model, load what the checkpoint holds, and run the loop. The first checkpoint writes the run down.

    every_s: as `loop.train` takes it.
    """
    if ready.start >= ready.job.last:
        return Result(update=ready.start)
    with memory.told_when_short():
        return _train(ready, report, preempted, world, every_s)


def _train(
    ready: Ready, report: Callable[[Metrics], None], preempted: Callable[[], bool], world: World, every_s: float
) -> Result:
    config, run, sources = ready.config, ready.run, ready.sources
    first, last = ready.start + 1, ready.job.last
    # before any process has begun to build it: those of one machine see the same memory as free
    together(world.group, lambda: memory.check_fits(config, world.device, world.size, world.local_size))
    model = start.built(config, _given(ready))
    parallel.spread(model, config.system, world)
    optimizer = loop.adamw(model, config.optim)
    if ready.latest is not None:
        run.restore(ready.latest, model, optimizer, world)
    with contextlib.ExitStack() as stack:
        board = stack.enter_context(contextlib.closing(Board(run, world, ready.job.wandb)))
        saver = stack.enter_context(Saver(run, world, config.keep))
        saver.ready(model, optimizer)
        stack.enter_context(sources)
        loader = stack.enter_context(_loader(ready, world))
        updates = stack.enter_context(contextlib.closing(prefetch(loader, first, last)))
        heldout = None
        if ready.heldout is not None:
            stack.enter_context(ready.heldout)
            heldout = stack.enter_context(Heldout(ready.heldout, config, world, sources.vocab))

        def checkpoint(update: int, since: Sequence[Metrics]) -> None:
            lines = [metrics.plain() for metrics in since]
            saver.save(
                update,
                lines[-1]["loss"],
                model,
                optimizer,
                lines,
                record=lambda: _record(ready),
                settle=lambda: run.set_change(first, config if ready.changed else None),
            )
            board.flush()

        def told(metrics: Metrics) -> None:
            board.put(metrics)
            report(metrics)

        return loop.train(
            config,
            model,
            optimizer,
            updates,
            ready.start,
            last,
            checkpoint,
            told,
            preempted,
            world,
            None if heldout is None else lambda _: heldout.evaluate(model),
            every_s,
        )


def _given(ready: Ready) -> dict[str, torch.Tensor]:
    """The weights that the run began with; where a checkpoint follows, those alone that are in none."""
    if ready.latest is None:
        return start.get(ready.run.store, ready.described.start)
    frozen = ready.config.model.freeze_tower == "yes"
    return start.get(ready.run.store, ready.described.start, only=["tower."]) if frozen else {}


def _loader(ready: Ready, world: World) -> Loader:
    config = ready.config
    return Loader(
        ready.sources,
        ready.state,
        config.data,
        ready.sources.vocab,
        config.model.max_length,
        rank=world.rank,
        world=world.size,
        image_size=config.model.tower.image_size,
    )


def _record(ready: Ready) -> None:
    """Write down what the run is, or find it written so; ConfigError if another process has begun another one."""
    run = ready.run
    if ready.new:
        start.check_claim(run.store, ready.described.start)
    run.create(ready.described, ready.sources.model, accept=ready.changed)
    written = run.describe() if ready.new else None
    if written is not None:
        check(ready.described, written, run.place, run.data(written))
    if ready.grown:
        run.add_order(ready.start + 1, ready.state.to_json(), ready.config.data)
