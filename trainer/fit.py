"""The whole job of `kosmos train` without a face: from manifests, or the newest checkpoint of a run, to an update.

Everything that could be wrong with what was asked for is found by `prepare`, which loads no model and takes no device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from engine.errors import ConfigError
from trainer import loop, order, rows
from trainer.checkpoints import Checkpoint, Described, Run, check
from trainer.config import Config
from trainer.loader import Loader, prefetch
from trainer.loop import Metrics, Result
from trainer.model import Kosmos


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to train, on what, where to, how far: all that a worker has to know. updates: 0 for all of the config's."""

    config: Config
    digests: tuple[str, ...]
    store: str
    out: str
    updates: int = 0
    extend: tuple[str, ...] = ()
    union: bool = False

    @property
    def last(self) -> int:
        """The update to reach."""
        return self.updates or self.config.optim.total_updates


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A run that is made or found, its data open. latest: the checkpoint that it goes on from, None at its start."""

    config: Config
    run: Run
    sources: rows.Sources
    state: order.State
    latest: Checkpoint | None
    notes: tuple[str, ...] = ()

    @property
    def start(self) -> int:
        """The update that is done already."""
        return self.latest.update if self.latest else 0


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
) -> Result:
    """Train up to an update, in this process, from the newest checkpoint of `out` if it holds one.

    updates: the last one, counted from the run's beginning; 0 for the config's. Raises ConfigError before anything is
    written, StoreError where a store gives out; the newest complete checkpoint stays good.
    """
    job = Job(
        config=config,
        digests=tuple(digests),
        store=store,
        out=out,
        updates=updates,
        extend=tuple(extend),
        union=union,
    )
    ready = prepare(job)
    for text in ready.notes:
        note(text)
    return go(job, ready, report, preempted)


def prepare(job: Job) -> Ready:
    """Open the data, make the run or find it, and check that it is this job's. Loads no model."""
    total = job.config.optim.total_updates
    if not 0 < job.last <= total:
        raise ConfigError(
            f"--updates is {job.updates}; set it from 1 to optim.total_updates, which is {total}, or change that with "
            "--set optim.total_updates=N"
        )
    if not job.digests:
        raise ConfigError("there is nothing to train on; give the digests that `kosmos freeze pack` prints")
    if job.union and not job.extend:
        raise ConfigError("--union says how new rows are mixed in; give their digests with --extend")
    run = Run(job.out)
    found = run.describe()
    state = None
    if found is not None:
        recorded = list(run.orders().values())
        state = order.State.from_json(recorded[-1] if recorded else found.order)
    elif job.extend:
        raise ConfigError(f"there is no run at {run.place} to extend; give all digests without --extend")
    had = state.digests if state is not None else job.digests
    new = tuple(digest for digest in job.extend if digest not in had)
    sources = rows.sources(job.store, (*had, *new))
    config = _with_vocabulary(job.config, sources.vocab.size)
    if state is None:
        state = order.start(sources.listing, job.digests, config.data)
    described = Described(config=config, digests=job.digests, order=state.to_json(), vocabulary=sources.sha256)
    latest = run.latest()
    start = latest.update if latest else 0
    notes = [f"warning: {text}" for text in state.warnings]
    if found is not None:
        check(described, found, run.place, None if new else run.data(found))
        before = found.config.optim.total_updates
        if before != total:
            notes.append(f"optim.total_updates was {before} and is {total}: the learning rate follows it from here on")
    if new:
        grown = (order.union if job.union else order.extend)(
            state, start + 1, sources.listing, (*had, *new), config.data
        )
        run.add_order(start + 1, grown.to_json(), config.data)
        notes += [f"warning: {text}" for text in grown.warnings]
        repeats = ", ".join(f"{name} {num:.2f}" for name, num in sorted(order.epochs(grown, job.last).items()))
        notes.append(f"data added from update {start + 1} on; passes over each source by update {job.last}: {repeats}")
        state = grown
    run.create(described, sources.model)
    run.forget_after(start)
    if latest is not None:
        notes.insert(0, f"resuming at update {start + 1}, from the checkpoint of update {start} in {run.place}")
    return Ready(config=config, run=run, sources=sources, state=state, latest=latest, notes=tuple(notes))


def go(
    job: Job,
    ready: Ready,
    report: Callable[[Metrics], None],
    preempted: Callable[[], bool],
) -> Result:
    """Build the model, load what the checkpoint holds, and run the loop."""
    config, run, sources, latest, start = ready.config, ready.run, ready.sources, ready.latest, ready.start
    if start >= job.last:
        return Result(update=start)
    with loop.seeded(torch.device("cpu"), "weights", config.seed):
        model = Kosmos(config.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = loop.adamw(model, config.optim)
    if latest is not None:
        model.load_state_dict(run.load(latest, "model"))
        optimizer.load_state_dict(run.load(latest, "optimizer"))

    def checkpoint(update: int, since: Sequence[Metrics]) -> None:
        lines = [metrics.plain() for metrics in since]
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        run.save(update, lines[-1]["loss"], states, lines)

    loader = Loader(
        sources,
        ready.state,
        config.data,
        sources.vocab,
        config.model.max_length,
        image_size=config.model.tower.image_size,
    )
    with (
        sources,
        loader,
        contextlib.closing(prefetch(loader, start + 1, job.last)) as updates,
    ):
        return loop.train(config, model, optimizer, updates, start, job.last, checkpoint, report, preempted)


def _with_vocabulary(config: Config, size: int) -> Config:
    if config.model.vocab_size not in (0, size):
        raise ConfigError(
            f"model.vocab_size is {config.model.vocab_size} and the manifests' tokenizer makes {size}; pack with the "
            f"KOSMOS tokenizer (--set pack.tokenizer=FILE), or --set model.vocab_size={size}"
        )
    return replace(config, model=replace(config.model, vocab_size=size))
