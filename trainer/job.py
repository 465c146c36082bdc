"""What `kosmos train` is asked for, and what is found to be there: the run, its data, the checkpoint to go on from.

What is wrong with what was asked for is found here, before a model is loaded or a device taken. Of the processes of a
run the first alone writes; a new run is written down with its first checkpoint, so what is refused before it leaves
nothing behind that would insist on the config it was refused for.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from engine.errors import ConfigError, StoreError
from trainer import board
from trainer.checkpoints.changes import Described, check
from trainer.checkpoints.run import RUN, Checkpoint, Run
from trainer.checkpoints.sharded import together
from trainer.config import Config
from trainer.data import order, rows
from trainer.data.heldout import notes as heldout_notes
from trainer.weights import start
from trainer.world import World

PROBE = ".kosmos-probe"  # an empty object that does not stay


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to train, on what, where to, how far: all that a worker has to know.

    updates: 0 for all of the config's. heldout: manifests of what is held out. clip, init_from: files of weights that a
    new run starts from; started: sha256 of what was made of them, once it lies in the run's folder. accept_change: go
    on with another config than the run's. wandb: the project there that hears of it, "" for none.
    """

    config: Config
    digests: tuple[str, ...]
    store: str
    out: str
    updates: int = 0
    extend: tuple[str, ...] = ()
    union: bool = False
    heldout: tuple[str, ...] = ()
    clip: str = ""
    init_from: str = ""
    started: str = ""
    accept_change: bool = False
    wandb: str = ""

    @property
    def last(self) -> int:
        """The update to reach."""
        return self.updates or self.config.optim.total_updates


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A run that is found or to be made, its data open. latest: the checkpoint that it goes on from, None at its start.

    job: as asked for, with what was found out since: what other processes are to be given. new: whether there was no
    run. grown: whether the last piece of `state` is new: data added from the next update on. changed: whether the
    config is another than the run's, which was accepted.
    """

    job: Job
    run: Run
    described: Described
    sources: rows.Sources
    heldout: rows.Sources | None
    state: order.State
    latest: Checkpoint | None
    new: bool
    grown: bool
    changed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> Config:
        """The config, with the vocabulary's size and what is frozen filled in."""
        return self.job.config

    @property
    def start(self) -> int:
        """The update that is done already."""
        return self.latest.update if self.latest else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the first process of a world found, which the others hold to.

    update, index: the newest checkpoint, by its number and its index's sha256; 0 and "" if there is none.
    """

    started: str
    freeze_tower: str
    update: int
    index: str


def prepared(job: Job, world: World) -> Ready:
    """`prepare` in every process of a world: in the first, then in the others, which write nothing.

    What the first refuses all refuse, with the same words; so do all if one does not see the first one's folder.
    """
    if world.size == 1:
        return prepare(job)
    done: list[Ready] = []
    seen: list[str] = []
    with contextlib.ExitStack() as stack:

        def lead() -> None:
            if world.first:
                done.append(prepare(job))
                seen.append(stack.enter_context(witness(done[0].run)))

        together(world.group, lead)
        told = json.loads(world.say(json.dumps([_found(done[0]), *seen]) if world.first else None) or "")
        check_sees(job, told[1], world)
    found = Found(**told[0])
    config = replace(job.config, model=replace(job.config.model, freeze_tower=found.freeze_tower))
    settled = replace(job, config=config, clip="", init_from="", started=found.started)
    together(world.group, lambda: None if world.first else done.append(prepare(settled, found)))
    return done[0]


def _found(ready: Ready) -> dict[str, object]:
    latest = ready.latest
    found = Found(
        started=ready.job.started,
        freeze_tower=ready.config.model.freeze_tower,
        update=ready.start,
        index=latest.index.sha256 if latest else "",
    )
    return asdict(found)


@contextlib.contextmanager
def witness(run: Run) -> Iterator[str]:
    """The path of an empty object in the run's folder, for a while: who does not see it sees another folder.

    Among the failures, which make no run of a folder; no probe, which another process would sweep away. StoreError
    where nothing can be written.
    """
    path = f"failures/{uuid.uuid4().hex[:12]}.here"
    run.store.put(path, b"")
    try:
        yield path
    finally:
        run.store.delete([path])


def check_sees(job: Job, path: str, world: World) -> None:
    """ConfigError in all processes if one of them does not see a witness."""

    def look() -> None:
        run = Run(job.out)
        if run.store.absent or not run.store.exists(path):
            raise ConfigError(
                f"process {world.rank} does not see what is in {job.out}; give --out (and --store) a bucket or a "
                "folder that all nodes share"
            )

    together(world.group, look)


def prepare(job: Job, first: Found | None = None) -> Ready:
    """Open the data, find the run if there is one, and check that it is this job's. Loads no model, makes no run.

    first: what the first process found, in another, which writes nothing and raises StoreError where it differs.
    """
    writes = first is None
    _check_words(job)
    if job.wandb and writes:
        board.check(job.wandb)
    run = Run(job.out)
    if writes:
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
    job = _with_vocabulary(job, sources.vocab.size)
    heldout = _heldout(job, sources)
    if state is None:
        state = order.start(sources.listing, job.digests, job.config.data)
    latest = run.latest() if first is None else _same(run, first)
    done = latest.update if latest else 0
    job = _started(job, run, found, sources.sha256, writes)
    described = Described(
        config=job.config,
        digests=job.digests,
        order=state.to_json(),
        vocabulary=sources.sha256,
        start=job.started,
    )
    notes = []
    changed = False
    if found is not None:
        given = None if new else run.data(found)
        changed, words = check(described, found, run.place, given, job.accept_change)
        notes += words
        if writes:
            run.create(described, sources.model, accept=changed)
    grown = bool(new) and done < job.last  # a run that is where it should be takes in nothing
    if grown:
        state = _grown(state, done + 1, sources, (*had, *new), job)
        repeats = ", ".join(f"{name} {num:.2f}" for name, num in sorted(order.epochs(state, job.last).items()))
        notes.append(f"data added from update {done + 1} on; passes over each source by update {job.last}: {repeats}")
    elif new:
        notes.append(f"no data is added: {run.place} is at update {done} already")
    else:
        _check_union(job, state, sources, run.place)
    notes += _beginning(job, run, found, latest)
    told = [*state.warnings, *(heldout_notes(heldout, job.config) if heldout is not None else ())]
    notes = [*(f"warning: {text}" for text in told), *notes]
    if found is not None and done < job.last and writes:
        run.forget_after(done)
    if latest is not None and done < job.last:
        notes.insert(0, f"resuming at update {done + 1}, from the checkpoint of update {done} in {run.place}")
    return Ready(
        job=job,
        run=run,
        described=described,
        sources=sources,
        heldout=heldout,
        state=state,
        latest=latest,
        new=found is None,
        grown=grown,
        changed=changed,
        notes=tuple(notes),
    )


def _beginning(job: Job, run: Run, found: Described | None, latest: Checkpoint | None) -> list[str]:
    """What a person should know of a run that is at its beginning."""
    if found is not None:
        return [] if latest else [f"{run.place} holds no complete checkpoint: it begins again at update 1"]
    if not job.started:
        return []
    given = " and ".join(option for option, path in (("--clip", job.clip), ("--init-from", job.init_from)) if path)
    frozen = "; the image tower is frozen but for its last block" if job.config.model.freeze_tower == "yes" else ""
    return [f"the weights begin with those of {given}{frozen}"] if given else []


def _check_words(job: Job) -> None:
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
    if job.clip and not job.config.model.images:
        raise ConfigError("--clip gives the weights of an image tower and this recipe has none; leave it out")
    if "://" in job.clip:
        raise ConfigError(f"--clip {job.clip} is no file of this machine; download it and give its path")


def _same(run: Run, first: Found) -> Checkpoint | None:
    """The newest checkpoint as the first process has it."""
    if not first.update:
        return None
    latest = run.checkpoint(first.update)
    if latest is None or latest.index.sha256 != first.index:
        raise StoreError(
            f"the checkpoint of update {first.update} in {run.place} is not what the first process sees there; give "
            "--out a bucket or a folder that all nodes share, or stop the other run in it, and run the command again"
        )
    return latest


def _grown(state: order.State, first: int, sources: rows.Sources, digests: tuple[str, ...], job: Job) -> order.State:
    return (order.union if job.union else order.extend)(state, first, sources.listing, digests, job.config.data)


def _check_union(job: Job, state: order.State, sources: rows.Sources, place: str) -> None:
    """ConfigError if the data that `job` adds is in the run already, mixed in the other way."""
    *before, last = state.pieces
    if not before or not any(digest not in before[-1].digests for digest in job.extend):
        return
    asked = _grown(order.State(pieces=tuple(before)), last.first_update, sources, last.digests, job)
    if asked != state:
        theirs, ours = ("without", "with") if job.union else ("with", "without")
        raise ConfigError(
            f"the run {place} took in these manifests {theirs} --union, from update {last.first_update} on, and is "
            f"given them {ours} it; give the same as before to resume"
        )


def _heldout(job: Job, sources: rows.Sources) -> rows.Sources | None:
    if not job.heldout:
        return None
    heldout = rows.sources(job.store, job.heldout, heldout=True)
    if heldout.sha256 != sources.sha256:
        raise ConfigError(
            f"what is held out was packed with another tokenizer (sha256 {heldout.sha256[:12]}, the rows to train on "
            f"have {sources.sha256[:12]}); give --heldout what `kosmos freeze heldout` prints for the same recipe"
        )
    return heldout


def _started(job: Job, run: Run, found: Described | None, vocabulary: str, writes: bool) -> Job:
    """The job with what its run starts from settled: the file in the run's folder, and what of the tower is frozen."""
    if found is not None:
        if job.clip or job.init_from:
            start.check(run.store, found.start, job.clip, job.init_from)
        model = job.config.model
        if model.freeze_tower == "auto":
            model = replace(model, freeze_tower=found.config.model.freeze_tower)
        return replace(job, started=found.start, config=replace(job.config, model=model))
    if job.started:
        return job
    gathered = start.gather(job.config, job.clip, job.init_from, vocabulary) if job.clip or job.init_from else None
    config = start.freeze(job.config, gathered)
    started = start.put(run.store, gathered) if gathered is not None and writes else ""
    return replace(job, config=config, started=started)


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


def _with_vocabulary(job: Job, size: int) -> Job:
    config = job.config
    if config.model.vocab_size not in (0, size):
        raise ConfigError(
            f"model.vocab_size is {config.model.vocab_size} and the manifests' tokenizer makes {size}; pack with the "
            f"KOSMOS tokenizer (--set pack.tokenizer=FILE), or --set model.vocab_size={size}"
        )
    return replace(job, config=replace(config, model=replace(config.model, vocab_size=size)))
