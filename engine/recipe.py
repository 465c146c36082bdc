"""Recipes: the steps from inputs to published shards, in order, with how each step's units come about.

Map steps have one unit an input, named by its content. Barrier steps form one chain: generation n of each reads
generation n of those before it, and what was committed since the last generation enters at the head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError
from engine.stage import Stage, Unit

if TYPE_CHECKING:
    from engine.ledger import Commit, Ledger

# (config, frozen commits by stage name) -> the inputs of each part, in order of part numbers
Parts = Callable[[Any, Callable[[str], "list[Commit]"]], "list[tuple[str, ...]]"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage in a recipe. parts: for a barrier, the inputs of each of a generation's units; a map stage has None, its
    units are those of the first map step.
    """

    stage: Stage
    parts: Parts | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps in order: map steps first, then the chain of barriers. config: the resolved config, for `--show`.

    listing: (inputs, ledger or None) -> units of the first map step; with a ledger it commits the listing. funnel: the
    stages that give each of their records a verdict, in order; the counts of the first and of the last make its ends.
    besides: reasons of the first that are no loss (records that were never candidates).
    """

    name: str
    config: Any
    steps: tuple[Step, ...]
    listing: Callable[[Any, Ledger | None], list[Unit]]
    funnel: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen_barrier = False
        for step in self.steps:
            if step.stage.barrier != (step.parts is not None):
                raise ConfigError(f"recipe {self.name}: {step.stage.name} needs `parts` exactly if it is a barrier")
            if seen_barrier and not step.stage.barrier:
                raise ConfigError(f"recipe {self.name}: map stage {step.stage.name} stands after a barrier")
            seen_barrier |= step.stage.barrier

    @property
    def maps(self) -> tuple[Step, ...]:
        """The map steps."""
        return tuple(step for step in self.steps if not step.stage.barrier)

    @property
    def chain(self) -> tuple[Step, ...]:
        """The barrier steps."""
        return tuple(step for step in self.steps if step.stage.barrier)

    def stage(self, name: str) -> Stage:
        """The stage of that name (or key); ConfigError with the names that there are."""
        for step in self.steps:
            if name in (step.stage.name, step.stage.key):
                return step.stage
        names = ", ".join(step.stage.name for step in self.steps)
        raise ConfigError(f"recipe {self.name} has no stage {name!r}; its stages are {names}")
