"""What a run is, and how far what it is given at a later start may differ from that.

Three kinds: what changes no update may always differ; what changes the optimisation may where a person accepts it, and
is recorded; what makes other weights or another order of the rows of them is another run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigError
from trainer.config import Config, DataConfig

# What does not change what an update is, and how far the run goes: a longer schedule goes on from where it is.
FREE = ("name", "checkpoint_every", "keep", "heldout.", "data.micro_batch.", TOTAL := "optim.total_updates", "system.")
# precision is of the system and changes every update
ACCEPTED = ("optim.", "model.dropout", "model.attention_dropout", PRECISION := "system.precision")


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What run.json says: the config with the vocabulary's size filled in, the manifests, the order of the data.

    vocabulary: sha256 of the tokenizer's model. start: sha256 of the weights that it began with, "" for random ones.
    """

    config: Config
    digests: tuple[str, ...]
    order: dict[str, Any]
    vocabulary: str
    start: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A field of the config, as `--set` names it, with the value that is given and that of the run."""

    name: str
    ours: Any
    theirs: Any

    @property
    def free(self) -> bool:
        """Whether it may differ at every start."""
        return self.name.startswith(FREE) and self.name != PRECISION

    @property
    def acceptable(self) -> bool:
        """Whether the run can go on so, if a person wants it."""
        return self.name.startswith(ACCEPTED)

    def __str__(self) -> str:
        return f"{self.name} is {self.ours} here and {self.theirs} in the run"


def differences(given: Config, found: Config, data: DataConfig | None) -> list[Difference]:
    """All fields that differ. data: what rows are drawn by now, None where that is about to change."""
    theirs = dict(_fields(found)) | (dict(_fields(data, "data.")) if data is not None else {})
    return [
        Difference(name=name, ours=mine, theirs=theirs[name])
        for name, mine in _fields(given)
        if mine != theirs[name] and not (data is None and name.startswith("data."))
    ]


def check(
    given: Described, found: Described, place: str, data: DataConfig | None, accept: bool = False
) -> tuple[bool, list[str]]:
    """ConfigError that names all differences between what is asked for and what the run is, if it cannot go on so.

    data: as in `differences`. accept: --accept-change. Else whether the config is another from here on, and what a
    person is told of it.
    """
    found_out = differences(given.config, found.config, data)
    bound = [one for one in found_out if not one.free]
    refused = [one for one in bound if not (accept and one.acceptable)]
    if refused:
        told = f"{refused[0]} {place}" + "".join(f", {one}" for one in refused[1:])
        back = " ".join(f"--set {one.name}={one.theirs}" for one in refused)
        go_on = ", or --accept-change to go on with these" if all(one.acceptable for one in refused) else ""
        raise ConfigError(f"{told}; give --out a new folder, or {back}{go_on}")
    if given.vocabulary != found.vocabulary:
        raise ConfigError(
            f"the run {place} was begun with another vocabulary than these manifests have; give --out a new folder"
        )
    if given.start != found.start:
        raise ConfigError(f"the run {place} was begun from other weights than these; give --out a new folder")
    if given.digests != found.digests:
        raise ConfigError(
            f"the run {place} was begun on {' '.join(found.digests)}; give these, or new ones after --extend, or "
            "--out a new folder"
        )
    words = [
        f"{one.name} was {one.theirs} and is {one.ours}"
        + (": the learning rate follows it from here on" if one.name == TOTAL else " from here on")
        for one in found_out
        if one in bound or one.name == TOTAL
    ]
    # a longer schedule needs nobody's word, and is another learning rate all the same: it is recorded
    return bool(bound) or any(one.name == TOTAL for one in found_out), words


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, ",".join(map(str, value)) if isinstance(value, tuple) else value
