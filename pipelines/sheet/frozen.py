"""The commits of assemble behind manifest digests, and what the generation of each has read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, StoreError
from engine.ledger import Commit, Ledger
from engine.recipe import Recipe
from engine.stage import Stage, Unit
from engine.work import LedgerWork

STAGE = "assemble"


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A commit of assemble and the number of its generation; number: of its block in that generation."""

    commit: Commit
    generation: int
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """What a sheet is drawn of. works: by generation, what reads its inputs."""

    recipe: Recipe
    ledger: Ledger
    digests: tuple[str, ...]
    blocks: tuple[Block, ...]
    works: dict[int, LedgerWork]

    @property
    def stage(self) -> Stage:
        """The stage of the manifests."""
        return self.recipe.stage(STAGE)

    def selecting(self, generation: int) -> LedgerWork:
        """What reads the inputs of select, which assemble does not read: refer's verdicts on addresses."""
        return _work(self.ledger, self.recipe.stage("select"), generation)

    def published(self, generation: int) -> str:
        """When a generation was published, by the store's clock; "" if it is not."""
        head = self.ledger.store.head(f"{self.stage.key}/published/{generation}.json")
        return f"{head.modified:%Y-%m-%d %H:%M} UTC" if head is not None else ""


def opened(recipe: Recipe, ledger: Ledger, digests: Sequence[str]) -> Frozen:
    """The commits behind the digests; ConfigError for what is no manifest of assemble under the recipe's settings."""
    if not ledger.check(create=False):
        raise ConfigError(f"{ledger.store.url} is empty; run `kosmos run {recipe.name}` first")
    stage = recipe.stage(STAGE)
    numbers = {}
    for number in ledger.generations(stage.key):
        generation = ledger.generation(stage.key, number)
        if generation is not None:
            numbers[generation.unit_id(0).partition("-")[0]] = number
    once = tuple(dict.fromkeys(digests))
    blocks: dict[str, Block] = {}
    for digest in once:
        for commit in _manifest(recipe, ledger, digest):
            prefix, _, place = commit.unit.partition("-")
            if prefix not in numbers:
                raise StoreError(f"the generation of unit {commit.unit} of {stage.key} is gone; run `kosmos verify`")
            blocks[commit.unit] = Block(commit=commit, generation=numbers[prefix], number=int(place))
    ordered = tuple(sorted(blocks.values(), key=lambda block: (block.generation, block.number)))
    works = {number: _work(ledger, stage, number) for number in sorted({block.generation for block in ordered})}
    return Frozen(recipe=recipe, ledger=ledger, digests=once, blocks=ordered, works=works)


def _manifest(recipe: Recipe, ledger: Ledger, digest: str) -> list[Commit]:
    """The commits of one digest; ConfigError if they are not of this recipe's assemble."""
    commits = ledger.manifest(digest)
    if not commits:
        raise ConfigError(f"manifest {digest} is empty; `kosmos freeze {STAGE} --all` prints those that are not")
    key = commits[0].stage
    if key.rpartition("-")[0] != STAGE:
        raise ConfigError(
            f"{digest} is a manifest of {key.rpartition('-')[0]}; `kosmos freeze {STAGE} --all` prints those of {STAGE}"
        )
    if key != recipe.stage(STAGE).key:
        raise ConfigError(
            f"{digest} is of {key}, and these settings make {recipe.stage(STAGE).key}; give --set, --small and "
            f"--preset as its run had them"
        )
    return commits


def _work(ledger: Ledger, stage: Stage, generation: int) -> LedgerWork:
    # nothing here writes, so there is no place to write to
    return LedgerWork(ledger, stage, Unit(id="sheet", generation=generation), Path())
