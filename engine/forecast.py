"""What a run would do, from the ledger and from units measured before. Reads only; starts no Ray."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from engine.chain import Chain
from engine.errors import ConfigError
from engine.ledger import Ledger
from engine.recipe import Floor, Recipe
from engine.stage import Unit

SAMPLE = 64  # commits read to say what a unit costs


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """What is left at a stage. cpu_s: CPU seconds a unit, 0 if none was measured; bytes_out: bytes a unit wrote."""

    stage: str
    key: str
    planned: int
    committed: int
    quarantined: int
    cpu_s: float
    bytes_in: int
    bytes_out: float

    @property
    def left(self) -> int:
        """Units to do."""
        return self.planned - self.committed - self.quarantined


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A plan of a recipe. fresh: units that would enter the next generation, counting those yet to be computed.
    missing: what has to be set before it can run, as a sentence. floors: what waits at stages that ask a network."""

    stages: tuple[StagePlan, ...]
    generations: int
    open_generation: int
    fresh: int
    workers: int
    missing: str = ""
    floors: tuple[Floor, ...] = ()

    @property
    def cpu_s(self) -> float:
        """CPU seconds left over the stages that were measured."""
        return sum(stage.left * stage.cpu_s for stage in self.stages)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Stages with work left and no unit measured."""
        return tuple(stage.stage for stage in self.stages if stage.left and not stage.cpu_s)


def plan(recipe: Recipe, ledger: Ledger, units: Sequence[Unit], workers: int = 0) -> Plan:
    """Count what is left and what it would cost; writes nothing. ConfigError for a foreign store."""
    missing = ""
    try:
        recipe.ready()
    except ConfigError as error:
        missing = str(error)
    ours = ledger.check(create=False)
    if ours:
        for bound, word in recipe.bindings.items():
            ledger.check_bound(bound, word)
    ids = [unit.id for unit in units]
    stages = []
    for step in recipe.maps:
        key = step.stage.key
        done = ledger.committed(key) if ours else set()
        bad = ledger.quarantined(key) if ours else set()
        measured = list(ledger.commits(key, islice(sorted(done), SAMPLE))) if done else []
        left = [unit for unit in units if unit.id not in done and unit.id not in bad]
        stages.append(
            StagePlan(
                stage=step.stage.name,
                key=key,
                planned=len(units),
                committed=sum(unit in done for unit in ids),
                quarantined=sum(unit in bad for unit in ids),
                cpu_s=sum(commit.cpu_seconds for commit in measured) / max(1, len(measured)),
                bytes_in=sum(unit.size for unit in left) if step is recipe.maps[0] else 0,
                bytes_out=sum(commit.num_bytes for commit in measured) / max(1, len(measured)),
            )
        )
    chain = Chain(recipe, ledger)
    standing = chain.standing() if ours and recipe.chain else []
    fresh = chain.fresh() if ours and recipe.chain else []
    last = ledger.committed(recipe.maps[-1].stage.key) if ours else set()
    return Plan(
        stages=tuple(stages),
        generations=len(standing),
        open_generation=chain.open_generation() if standing else 0,
        fresh=len(set(fresh) | {unit for unit in ids if unit not in last}),
        workers=workers or os.cpu_count() or 1,
        missing=missing,
        floors=tuple(recipe.floor(recipe, ledger)) if ours else (),
    )
