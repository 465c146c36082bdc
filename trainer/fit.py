"""The whole job of `kosmos train` without a face: from manifests, or the newest checkpoint of a run, to an update.

What is wrong with what was asked for is found by `prepare`, which loads no model and takes no device. A run is written
down with its first checkpoint: what is refused before it (a row longer than the model, a model larger than the memory)
leaves no run behind that would insist on the config it was refused for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from engine.errors import ConfigError
from trainer import loop, memory, order, rows
from trainer.checkpoints import RUN, Checkpoint, Described, Run, check
from trainer.config import Config
from trainer.loader import Loader, prefetch
from trainer.loop import Metrics, Result
from trainer.model import Kosmos

PROBE = ".kosmos-probe"  # an empty object that does not stay


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
    """A run that is found or to be made, its data open. latest: the checkpoint that it goes on from, None at its start.

    new: whether there was no run. grown: whether the last piece of `state` is new: data added from the next update on.
    """

    config: Config
    run: Run
    described: Described
    sources: rows.Sources
    state: order.State
    latest: Checkpoint | None
    new: bool
    grown: bool
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
    """Open the data, find the run if there is one, and check that it is this job's. Loads no model, makes no run."""
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
    _sweep(run)
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
    notes = []
    if found is not None:
        check(described, found, run.place, None if new else run.data(found))
        run.create(described, sources.model)
        before = found.config.optim.total_updates
        if before != total:
            notes.append(f"optim.total_updates was {before} and is {total}: the learning rate follows it from here on")
    grown = bool(new) and start < job.last  # a run that is where it should be takes in nothing
    if grown:
        state = _grown(state, start + 1, sources, (*had, *new), job.union, config)
        repeats = ", ".join(f"{name} {num:.2f}" for name, num in sorted(order.epochs(state, job.last).items()))
        notes.append(f"data added from update {start + 1} on; passes over each source by update {job.last}: {repeats}")
    elif new:
        notes.append(f"no data is added: {run.place} is at update {start} already")
    else:
        _check_union(job, state, sources, config, run.place)
    notes = [*(f"warning: {text}" for text in state.warnings), *notes]
    if found is not None and start < job.last:
        run.forget_after(start)
    if latest is not None and start < job.last:
        notes.insert(0, f"resuming at update {start + 1}, from the checkpoint of update {start} in {run.place}")
    return Ready(
        config=config,
        run=run,
        described=described,
        sources=sources,
        state=state,
        latest=latest,
        new=found is None,
        grown=grown,
        notes=tuple(notes),
    )


def _grown(
    state: order.State, first: int, sources: rows.Sources, digests: Sequence[str], union: bool, config: Config
) -> order.State:
    return (order.union if union else order.extend)(state, first, sources.listing, digests, config.data)


def _check_union(job: Job, state: order.State, sources: rows.Sources, config: Config, place: str) -> None:
    """ConfigError if the data that `job` adds is in the run already, mixed in the other way."""
    *before, last = state.pieces
    if not before or not any(digest not in before[-1].digests for digest in job.extend):
        return
    asked = _grown(order.State(pieces=tuple(before)), last.first_update, sources, last.digests, job.union, config)
    if asked != state:
        theirs, ours = ("without", "with") if job.union else ("with", "without")
        raise ConfigError(
            f"the run {place} took in these manifests {theirs} --union, from update {last.first_update} on, and is "
            f"given them {ours} it; give the same as before to resume"
        )


def _sweep(run: Run) -> None:
    """Delete the probe that a killed process left: the folder of a run that never began is free."""
    if not run.store.absent and not run.store.exists(RUN):
        left = run.store.head(PROBE)
        if left is not None and not left.size:
            run.store.delete([PROBE])


@contextlib.contextmanager
def probed(run: Run) -> Iterator[None]:
    """Have an empty object in the run's folder for a while; StoreError where nothing can be written.

    Said before the first update, and not after the hours to the first checkpoint.
    """
    run.store.put(PROBE, b"")
    try:
        yield
    finally:
        run.store.delete([PROBE])


def go(
    job: Job,
    ready: Ready,
    report: Callable[[Metrics], None],
    preempted: Callable[[], bool],
) -> Result:
    """Build the model, load what the checkpoint holds, and run the loop. The first checkpoint writes the run down."""
    if ready.start >= job.last:
        return Result(update=ready.start)
    with memory.told_when_short():
        return _train(job, ready, report, preempted)


def _train(
    job: Job,
    ready: Ready,
    report: Callable[[Metrics], None],
    preempted: Callable[[], bool],
) -> Result:
    config, run, sources, latest, start = ready.config, ready.run, ready.sources, ready.latest, ready.start
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory.check_fits(config, device)
    with loop.seeded(torch.device("cpu"), "weights", config.seed):
        model = Kosmos(config.model)
    model.to(device)
    optimizer = loop.adamw(model, config.optim)
    if latest is not None:
        model.load_state_dict(run.load(latest, "model"))
        optimizer.load_state_dict(run.load(latest, "optimizer"))

    def checkpoint(update: int, since: Sequence[Metrics]) -> None:
        _record(ready)
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


def _record(ready: Ready) -> None:
    """Write down what the run is, or find it written so; ConfigError if another process has begun another one."""
    ready.run.create(ready.described, ready.sources.model)
    written = ready.run.describe() if ready.new else None
    if written is not None:
        check(ready.described, written, ready.run.place, ready.run.data(written))
    if ready.grown:
        ready.run.add_order(ready.start + 1, ready.state.to_json(), ready.config.data)


def _with_vocabulary(config: Config, size: int) -> Config:
    if config.model.vocab_size not in (0, size):
        raise ConfigError(
            f"model.vocab_size is {config.model.vocab_size} and the manifests' tokenizer makes {size}; pack with the "
            f"KOSMOS tokenizer (--set pack.tokenizer=FILE), or --set model.vocab_size={size}"
        )
    return replace(config, model=replace(config.model, vocab_size=size))
