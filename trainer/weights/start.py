"""What a new run's weights start from besides chance: CLIP's tower, an export, another run's checkpoint, KOSMOS-2.

    <out>/start.safetensors             float32, under the model's own names; its sha256 is in run.json
    <out>/start.safetensors.sha256      create-only, before it: of two that begin in one folder one is refused

A run keeps what it was given, so that going on, exporting and answering need no other file: of a frozen tower no
checkpoint holds the weights. What was given is told by its sums, in the file's metadata.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.errors import ConfigError, Missing, StoreError
from engine.store import Store
from trainer import loop
from trainer.checkpoints.run import RUN, Checkpoint, Described, Run
from trainer.config import Config, ModelConfig
from trainer.model import Kosmos
from trainer.weights import clip as clip_files
from trainer.weights import exported, kosmos2
from trainer.weights.shapes import of_model
from trainer.weights.tensors import MAX_HEADER_BYTES, digest, local, opened, scratch, some, write

FILE = "start.safetensors"
CLAIM = f"{FILE}.sha256"  # as `sha256sum -c` reads it
# of a model: what may differ between a run and what it starts from
LOOSE = ("vocab_size", "max_length", "dropout", "attention_dropout", "init", "images", "freeze_tower")
ELSEWHERE = "give --init-from another folder or file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """tensors: float32, by the names of `trainer.model.Kosmos`. what: the sums of what was given: "clip", "init_from".

    frozen: whether the tower is to be frozen, where the config leaves that open. vocabulary: sha256 of the tokenizer
    that the words' rows belong to, "" where that is not known.
    """

    tensors: dict[str, torch.Tensor]
    what: dict[str, str]
    frozen: bool
    vocabulary: str = ""


def gather(config: Config, clip: str = "", init_from: str = "", vocabulary: str = "") -> Start | None:
    """Read the weights that a new run is given; None if it is given none.

    clip: a file with CLIP's image tower. init_from: an export, another run (its newest checkpoint), or a KOSMOS-2
    checkpoint; `clip` is laid over it. Of one with images, a config without takes the decoder; of one without images,
    the others keep their random tower and connector. vocabulary: sha256 of the tokenizer that the new run's rows were
    made with, "" to take any. ConfigError where the weights are not of the config's model or of these words.
    """
    if not clip and not init_from:
        return None
    if clip and not config.model.images:
        raise ConfigError("--clip gives the weights of an image tower and model.images is false; leave --clip out")
    start = _init(config.model, init_from) if init_from else Start(tensors={}, what={}, frozen=False)
    if vocabulary and start.vocabulary not in ("", vocabulary):
        raise ConfigError(
            f"{init_from} has another tokenizer than these manifests, of as many words; pack with its tokenizer.model "
            "(--set pack.tokenizer=FILE)"
        )
    if clip:
        tower = {f"tower.{name}": value for name, value in clip_files.read(clip, config.model.tower).items()}
        given = start.what | {"clip": digest(Path(clip))}
        start = replace(start, tensors=start.tensors | tower, what=given, frozen=True)
    return start


def freeze(config: Config, start: Start | None) -> Config:
    """Settle `model.freeze_tower`: "auto" is "yes" for CLIP's weights and for those of a run that had them frozen.

    ConfigError for "yes" where the tower's weights are random, or there is no tower.
    """
    model = config.model
    given = start is not None and any(name.startswith("tower.") for name in start.tensors)
    if model.freeze_tower == "yes" and not (given and model.images):
        raise ConfigError(
            "model.freeze_tower is yes and the tower's weights are random: it would never learn to see; give --clip "
            "FILE, or --set model.freeze_tower=no"
        )
    if model.freeze_tower != "auto":
        return config
    frozen = "yes" if start is not None and start.frozen and given else "no"
    return replace(config, model=replace(model, freeze_tower=frozen))


def built(config: Config, tensors: Mapping[str, torch.Tensor] | None = None) -> Kosmos:
    """Make the model on the CPU: random by the config's seed, `tensors` laid over it, frozen if the config says so.

    ConfigError for tensors that the model has not, or has in another shape.
    """
    given = dict(tensors or {})
    shapes = of_model(config.model)
    for name, tensor in given.items():
        if shapes.get(name) != tuple(tensor.shape):
            raise ConfigError(
                f"{name} is {tuple(tensor.shape)} in what the run starts from and {shapes.get(name)} in its model; "
                "train into a new folder with --out"
            )
    if set(given) == set(shapes):
        model = whole(config.model, given)
    else:
        with loop.seeded(torch.device("cpu"), "weights", config.seed):
            model = Kosmos(config.model)
        model.load_state_dict(given, strict=False)
    if config.model.freeze_tower == "yes":
        model.freeze_tower()
    return model


def whole(config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> Kosmos:
    """Make a model of all its weights, which it takes as they are: none is drawn, none copied."""
    with torch.device("meta"):
        model = Kosmos(config)
    model.load_state_dict(dict(tensors), assign=True)
    return model


def put(store: Store, start: Start) -> str:
    """Keep it in a run's folder, if it is not there; the sha256 of the file, for run.json.

    StoreError if the folder keeps another one: it is written once and never over.
    """
    with scratch() as folder:
        with open(folder / FILE, "wb") as sink:
            metadata = start.what | {"format": "pt", "frozen": str(start.frozen), "vocabulary": start.vocabulary}
            sha256 = write(sink, start.tensors, metadata)
        if not store.put_new(CLAIM, _claim(sha256)) and store.get(CLAIM) != _claim(sha256):
            raise _another(store)
        if store.absent or not store.exists(FILE):
            store.put_file(FILE, folder / FILE)
            return sha256
    with local(store, FILE) as path:
        if digest(path) != sha256:
            raise _another(store)
    return sha256


def check_claim(store: Store, sha256: str) -> None:
    """ConfigError if a run that is about to be written down has not the weights in its folder that it began with."""
    if sha256 and (not store.exists(CLAIM) or store.get(CLAIM) != _claim(sha256)):
        raise ConfigError(
            f"{store.place} keeps another {FILE} by now than this run began with; give --out a new folder to each run"
        )


def _claim(sha256: str) -> bytes:
    return f"{sha256}  {FILE}\n".encode()


def _another(store: Store) -> StoreError:
    return StoreError(
        f"{store.place} keeps another {FILE}, from a run that never began or began with other weights; delete it and "
        f"{CLAIM}, or give --out a new folder"
    )


def get(store: Store, sha256: str, only: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """Read what a run keeps; only: names that begin so. {} where the run began with random weights (sha256 "").

    StoreError if it is gone, or not what was written.
    """
    if not sha256:
        return {}
    try:
        with local(store, FILE) as path:
            if digest(path) != sha256:
                raise _damaged(store, "its sha256 is not the one in run.json")
            with opened(path) as file:
                return {name: file.read(name) for name in file.shapes if only is None or name.startswith(tuple(only))}
    except Missing:
        raise _damaged(store, "it is gone") from None


def check(store: Store, sha256: str, clip: str, init_from: str) -> None:
    """ConfigError if a run that goes on is given other weights than those that it began with."""
    kept = what(store) if sha256 else {}
    for option, given, key in (("--clip", clip, "clip"), ("--init-from", init_from, "init_from")):
        if not given:
            continue
        if key not in kept:
            raise ConfigError(f"the run {store.place} began without {option}; leave it out, or give --out a new folder")
        if kept[key] != (digest(Path(given)) if key == "clip" else _sum(given)):
            raise ConfigError(
                f"the run {store.place} began with another {option} than {given}; leave it out, or give --out a new "
                "folder"
            )


def what(store: Store) -> dict[str, str]:
    """What a run that began with given weights was given: the sums of `Start.what`, from the file's metadata."""
    head = store.head(FILE)
    if head is None:
        raise _damaged(store, "it is gone")
    try:
        (length,) = struct.unpack("<Q", store.get_range(FILE, 0, 8) if head.size > 8 else b"")
        if length > min(MAX_HEADER_BYTES, head.size - 8):
            raise ValueError("its header is longer than it")
        found: dict[str, str] = json.loads(store.get_range(FILE, 8, length))["__metadata__"]
        return found
    except (KeyError, TypeError, ValueError, RecursionError, struct.error) as error:
        raise _damaged(store, f"{error!r:.200}") from None


def weights(run: Run, described: Described, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All weights of a run's model after a checkpoint, float32 on the CPU: its own, and those that never trained.

    StoreError if some are nowhere.
    """
    found = {name.removeprefix("model."): value for name, value in run.tensors(checkpoint, "model.").items()}
    gone = sorted(set(of_model(described.config.model)) - set(found))
    if gone:
        kept = get(run.store, described.start, only=gone)
        found |= {name: kept[name] for name in gone if name in kept}
        gone = [name for name in gone if name not in kept]
    if gone:
        raise StoreError(
            f"the checkpoint of update {checkpoint.update} in {run.place} lacks {some(gone)}; {run.elsewhere}"
        )
    return found


def _init(model: ModelConfig, place: str) -> Start:
    """What `--init-from` names, in the order in which a folder would show what it is."""
    run, export = _run(place), exported.find(place)
    if run is not None:
        return _of_run(model, place, *run)
    if export is not None:
        _check_same(model, export.said.model, export.place)
        tensors = _taken(model, export.said.model, export.tensors())
        frozen = export.said.model.freeze_tower == "yes"
        return Start(tensors=tensors, what=_given(place), frozen=frozen, vocabulary=export.said.vocabulary)
    if "://" in place:
        raise ConfigError(f"{place} holds neither a run nor an export; {ELSEWHERE}")
    with opened(place) as file:
        if not kosmos2.known(file):
            raise ConfigError(f"{place} is neither an export, nor a run, nor KOSMOS-2; {ELSEWHERE}")
    return Start(tensors=kosmos2.read(place, model), what=_given(place), frozen=False)


def _of_run(model: ModelConfig, place: str, run: Run, described: Described) -> Start:
    latest = run.latest()
    if latest is None:
        raise ConfigError(f"{place} is a run without a checkpoint; {ELSEWHERE}")
    theirs = described.config.model
    _check_same(model, theirs, place)
    return Start(
        tensors=_taken(model, theirs, weights(run, described, latest)),
        what=_given(place) | {"update": str(latest.update)},
        frozen=theirs.freeze_tower == "yes",
        vocabulary=described.vocabulary,
    )


def _taken(ours: ModelConfig, theirs: ModelConfig, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if ours.images or not theirs.images:
        return tensors
    return {name: value for name, value in tensors.items() if name.startswith("decoder.")}


def _check_same(ours: ModelConfig, theirs: ModelConfig, place: str) -> None:
    """ConfigError that names all in which two models compute differently, and the words that make ours theirs."""
    mine, other = _fields(ours), _fields(theirs)
    if not (ours.images and theirs.images):
        mine = {name: value for name, value in mine.items() if not name.startswith(("tower.", "connector_"))}
    found = {name: other[name] for name, value in mine.items() if value != other[name]}
    if ours.vocab_size != theirs.vocab_size:
        raise ConfigError(
            f"{place} has {theirs.vocab_size:,} words and these manifests {ours.vocab_size:,}; pack with its "
            "tokenizer.model (--set pack.tokenizer=FILE)"
        )
    if found:
        sets = " ".join(f"--set model.{name}={value}" for name, value in found.items())
        raise ConfigError(f"{place} is another model than the config's; add {sets}, or {ELSEWHERE}")


def _fields(model: ModelConfig) -> dict[str, object]:
    plain = {name: value for name, value in dataclasses.asdict(model).items() if name not in LOOSE}
    tower = plain.pop("tower")
    return plain | {f"tower.{name}": value for name, value in tower.items()}


def _run(place: str) -> tuple[Run, Described] | None:
    """The run at an address; None if there is none."""
    if exported.folder(place) != place:
        return None
    run = Run(place, elsewhere=ELSEWHERE)
    if run.store.absent or not run.store.exists(RUN):
        return None
    described = run.describe()
    return (run, described) if described is not None else None


def _given(place: str) -> dict[str, str]:
    return {"init_from": _sum(place)}


def _sum(place: str) -> str:
    """What tells one thing to start from from another: of a run its run.json, since its checkpoints go on."""
    if (run := _run(place)) is not None:
        return hashlib.sha256(run[0].store.get(RUN)).hexdigest()
    export = exported.find(place)
    return export.said.sha256 if export is not None else digest(Path(place))


def _damaged(store: Store, reason: str) -> StoreError:
    return StoreError(
        f"{FILE} in {store.place} is damaged ({reason}); put back what the run began with, or train into a new folder "
        "with --out"
    )
