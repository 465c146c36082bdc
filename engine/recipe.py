"""Recipes: the steps from inputs to published shards, in order, with how each step's units come about.

Map steps have one unit an input, named by its content. Barrier steps form one chain: generation n of each reads
generation n of those before it, and what was committed since the last generation enters at the head. A recorded
barrier stands in the chain with units of its own naming and generations of its own numbering.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError
from engine.stage import Stage, Unit

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.ledger import Commit, Ledger

# (config, frozen commits by stage name) -> the inputs of each part, in order of part numbers
Parts = Callable[[Any, Callable[[str], "list[Commit]"]], "list[tuple[str, ...]]"]
# (config, commits of a generation of the listing stage, (commit, output) -> rows, digest of their manifest) -> units
Listed = Callable[[Any, "list[Commit]", "Callable[[Commit, str], pa.Table]", str], list[Unit]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage in a recipe. parts: for a barrier, the inputs of each of a generation's units; a map stage has None, its
    units are those of the first map step. lister, listed: for a recorded barrier instead of parts, the earlier stage
    of the chain that says what to ask for, and how its rows become units, named by what they ask for.
    """

    stage: Stage
    parts: Parts | None = None
    lister: str = ""
    listed: Listed | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """Requests that wait for one another: those to one politeness key."""

    key: str
    requests: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """What waits at a stage that asks a network, and the seconds that no cluster makes less; 0 if nothing holds it.

    units, addresses: all that wait. rate: requests a second and key, 0 for no limit. slowest: the keys with the most
    requests, most first: an address may want more than its own.
    """

    stage: str
    units: int
    addresses: int
    rate: float
    seconds: float
    slowest: tuple[Turns, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps in order: map steps first, then the chain of barriers. config: the resolved config, for `--show`.

    listing: (inputs, ledger or None) -> units of the first map step; with a ledger it commits the listing. funnel: the
    stages that give each of their records a verdict, in order; the counts of the first and of the last make its ends.
    besides: reasons of the first that are no loss (records that were never candidates). apart: (title, stages) of what
    is counted there beside the records, and shown under a title of its own. ready: raises ConfigError if a
    run cannot begin with this config; looking at what a store holds needs no more than the keys. pinned: settings that
    say what files of this machine decided, kept with a run: who looks into the store later has no such files. floor:
    what waits at its recorded stages, and for how long at least; reads only.
    """

    name: str
    config: Any
    steps: tuple[Step, ...]
    listing: Callable[[Any, Ledger | None], list[Unit]]
    funnel: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()
    apart: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ready: Callable[[], None] = lambda: None
    pinned: tuple[str, ...] = ()
    floor: Callable[[Recipe, Ledger], Sequence[Floor]] = lambda recipe, ledger: ()

    def __post_init__(self) -> None:
        seen_barrier = False
        for number, step in enumerate(self.steps):
            if (step.stage.barrier and not step.stage.own_series) != (step.parts is not None):
                raise ConfigError(f"recipe {self.name}: {step.stage.name} needs `parts` exactly if it is a barrier")
            if step.stage.own_series:
                before = [other.stage.name for other in self.steps[:number] if other.parts is not None]
                if step.listed is None or step.lister not in before:
                    raise ConfigError(f"recipe {self.name}: {step.stage.name} needs `listed` and an earlier `lister`")
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

    @property
    def bindings(self) -> dict[str, str]:
        """What a store is bound to by each stage that binds it."""
        return {step.stage.name: step.stage.binds for step in self.steps if step.stage.binds}

    def stage(self, name: str) -> Stage:
        """The stage of that name (or key); ConfigError with the names that there are."""
        for step in self.steps:
            if name in (step.stage.name, step.stage.key):
                return step.stage
        names = ", ".join(step.stage.name for step in self.steps)
        raise ConfigError(f"recipe {self.name} has no stage {name!r}; its stages are {names}")
