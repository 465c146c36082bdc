"""Generations: how what was committed since the last time becomes one frozen piece of work for the barrier stages.

The head of the chain claims generation n with a create-only put; the loser of a race adopts the winner's. Generation
n + 1 opens only when n is published or abandoned. A stage under a new key replays the generations that stand.

A recorded stage has a series of its own (`engine.series`): it is asked in the middle of generation n of the
chain, and whoever reads it gets all that it has published when that reader claims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.errors import ConfigError
from engine.ledger import ABANDONED, PUBLISHED, Commit, Generation, Ledger
from engine.recipe import Recipe, Step
from engine.series import Series
from engine.stage import Stage, Unit

if TYPE_CHECKING:
    from engine.progress import Progress
    from engine.window import StageReport


class Chain:
    """The barrier steps of a recipe over one ledger."""

    def __init__(
        self,
        recipe: Recipe,
        ledger: Ledger,
        planned: Sequence[str] = (),
        run_stage: Callable[[Stage, Sequence[Unit], int], StageReport] | None = None,
        progress: Progress | None = None,
        only: str = "",
    ) -> None:
        self._recipe, self._ledger, self._planned = recipe, ledger, planned
        self._run_stage, self._progress = run_stage, progress
        self._only = only
        self._steps = recipe.chain
        self._numbered = [step for step in recipe.chain if not step.stage.own_series]
        self._maps = [step.stage for step in recipe.maps]

    @property
    def head(self) -> Stage:
        """The first barrier stage: its generations number all others'."""
        return self._steps[0].stage

    def standing(self) -> list[int]:
        """Numbers of the generations that were claimed and not abandoned."""
        settled = self._ledger.settled(self.head.key)
        return [n for n in self._ledger.generations(self.head.key) if _state(settled, n) != ABANDONED]

    def open_generation(self) -> int:
        """The generation that is neither published nor abandoned, 0 if none."""
        settled = self._ledger.settled(self.head.key)
        return next((n for n in self._ledger.generations(self.head.key) if n not in settled), 0)

    def run(self) -> None:
        """Finish what is open, replay what a new key has not seen, then freeze and compute what is new."""
        if not self._steps:
            return
        while True:
            for number in self.standing():
                if not self._generation(number):
                    return
            if self._only and self.open_generation():
                return
            if self._open() is None:
                return

    def fresh(self) -> list[str]:
        """Units committed in every map stage and in no standing generation, sorted."""
        sets = [self._ledger.committed(stage.key) for stage in self._maps]
        new = set.intersection(*sets) if sets else set()
        for number in self.standing():
            generation = self._ledger.generation(self.head.key, number)
            if generation is not None:
                new -= {commit.unit for commit in self._ledger.manifest(generation.manifests[self._maps[0].name][1])}
        return sorted(new)

    def _open(self) -> Generation | None:
        # the number before the units: what another driver claims from here on takes this very number, or it would
        # leave us a later one for units that its generation holds already
        number = max(self._ledger.generations(self.head.key), default=0) + 1
        if standing := self.open_generation():
            return self._ledger.generation(self.head.key, standing)
        fresh = self.fresh()
        if not fresh:
            return None
        waiting, left_out = [], {}
        lost: set[str] = set()
        for stage in self._maps:
            done, bad = self._ledger.committed(stage.key), self._ledger.quarantined(stage.key)
            missing = [unit for unit in self._planned if unit not in done and unit not in lost]
            waiting += [unit for unit in missing if unit not in bad]
            left_out[stage.name] = tuple(sorted(unit for unit in missing if unit in bad))
            lost |= set(left_out[stage.name])
        if waiting:
            self._say(f"no new generation: {len(waiting)} units are neither committed nor quarantined yet")
            return None
        generation = Generation(
            stage=self.head.key,
            number=number,
            parent=self._parent(self.head, number),
            manifests={stage.name: (stage.key, self._ledger.freeze(stage.key, fresh)) for stage in self._maps},
            carried=self._carried(self.head, number),
            quarantined={name: units for name, units in left_out.items() if units},
        )
        self._ledger.open(self.head)
        return self._ledger.claim(generation)

    def _generation(self, number: int) -> bool:
        """Bring generation `number` to its end at every stage; whether it got there."""
        settled = {step.stage.key: self._ledger.settled(step.stage.key) for step in self._numbered}
        if all(_state(settled[step.stage.key], number) == PUBLISHED for step in self._numbered):
            return True
        for step in self._steps:
            if step.stage.own_series:
                report = self._ask(step, number)
            elif _state(settled[step.stage.key], number) != PUBLISHED and self._run_stage is not None:
                report = self._run_stage(step.stage, self.units(step, self.claim(step, number)), number)
            else:
                report = None
            if report is not None and not report.complete:
                self._say(
                    f"generation {number} stops at {step.stage.name}: {len(report.failed)} units are quarantined "
                    f"({report.error or 'see kosmos status'}); `kosmos run {self._recipe.name} --retry-failed` "
                    f"tries again, `kosmos abandon {self._recipe.name}` gives its inputs to the next generation"
                )
                return False
            if step.stage.name == self._only:
                return True
        # the head last: it is what opens the next generation
        for step in reversed(self._numbered):
            units = self.units(step, self.claim(step, number))
            manifest = self._ledger.freeze(step.stage.key, [unit.id for unit in units])
            if self._ledger.settle(step.stage.key, number, PUBLISHED, manifest) == ABANDONED:
                raise ConfigError(f"generation {number} was abandoned meanwhile; run the same command again")
        return True

    def _ask(self, step: Step, number: int) -> StageReport | None:
        """Run a recorded stage for generation `number`; None if those who read it have claimed already."""
        readers = [other.stage for other in self._numbered if step.stage in other.stage.reads]
        lister = next(other for other in self._steps if other.stage.name == step.lister)
        after = self._steps[self._steps.index(step) + 1 :]
        if any(other.stage in readers and self._ledger.generation(other.stage.key, number) for other in after):
            return None  # what it said has been read: to ask now would change nothing
        if self._run_stage is None:
            return None
        units = [unit.id for unit in self.units(lister, self.claim(lister, number))]
        mark = self._ledger.freeze(lister.stage.key, units)
        return Series(step, self._ledger).ask((lister.stage, mark), self._run_stage)

    def claim(self, step: Step, number: int) -> Generation:
        """Generation `number` of a step: what stands there, else claimed from what its upstream wrote."""
        stage = step.stage
        found = self._ledger.generation(stage.key, number)
        if found is not None:
            return found
        head = self._ledger.generation(self.head.key, number)
        if head is None:
            raise ConfigError(f"{self.head.name} has no generation {number}; run the whole recipe")
        manifests = dict(head.manifests)
        for upstream in self._numbered:
            if upstream.stage in stage.reads:
                units = self.units(upstream, self.claim(upstream, number))
                frozen = self._ledger.freeze(upstream.stage.key, [unit.id for unit in units])
                manifests[upstream.stage.name] = (upstream.stage.key, frozen)
        self._ledger.open(stage)
        return self._ledger.claim(
            Generation(
                stage=stage.key,
                number=number,
                parent=self._parent(stage, number),
                manifests=manifests,
                carried=self._carried(stage, number),
            )
        )

    def units(self, step: Step, generation: Generation) -> list[Unit]:
        """The units of a step in a generation: a pure function of both."""
        if step.parts is None:
            raise ConfigError(f"{step.stage.name} is no barrier stage")

        def frozen(name: str) -> list[Commit]:
            return self._ledger.manifest(generation.manifests[name][1])

        return [
            Unit(id=generation.unit_id(part), inputs=inputs, generation=generation.number)
            for part, inputs in enumerate(step.parts(step.stage.config, frozen))
        ]

    def _parent(self, stage: Stage, number: int) -> str:
        earlier = [n for n in self.standing() if n < number]
        if not earlier:
            return ""
        generation = self._ledger.generation(stage.key, earlier[-1])
        return generation.digest if generation is not None else ""

    def _carried(self, stage: Stage, number: int) -> dict[str, dict[int, tuple[str, str]]]:
        carried: dict[str, dict[int, tuple[str, str]]] = {}
        for name, _ in stage.carries:
            carry = self._recipe.stage(name)
            key = carry.key
            earlier = [n for n in self.standing() if n < number]
            if not carry.barrier:
                # what the head froze of a map stage in an earlier generation
                heads = [self._ledger.generation(self.head.key, n) for n in earlier]
                carried[name] = {head.number: head.manifests[name] for head in heads if head is not None}
                continue
            settled = self._ledger.settled(key)
            if behind := [n for n in earlier if _state(settled, n) != PUBLISHED]:
                raise ConfigError(
                    f"{stage.name} needs generation {behind[0]} of {name}, which is not published; run the recipe "
                    "without --only"
                )
            carried[name] = {n: (key, settled[n]["manifest"]) for n in earlier}
        for step in self._steps:
            if step.stage.own_series and step.stage in stage.reads:
                known = Series(step, self._ledger).known()
                carried[step.stage.name] = {n: (step.stage.key, mark) for n, mark in known.items()}
        return carried

    def abandon(self) -> int:
        """Give up the open generation: its inputs join the next one. Its number; ConfigError if none is open."""
        number = self.open_generation() if self._ledger.check(create=False) else 0
        if not number:
            raise ConfigError(f"recipe {self._recipe.name} has no open generation; `kosmos status` shows them")
        if self._ledger.settle(self.head.key, number, ABANDONED) != ABANDONED:
            raise ConfigError(f"generation {number} was published meanwhile; nothing is abandoned")
        return number

    def _say(self, text: str) -> None:
        if self._progress is not None:
            self._progress.note(text)


def _state(settled: dict[int, dict[str, str]], number: int) -> str:
    return settled[number]["state"] if number in settled else ""


def frozen(recipe: Recipe, ledger: Ledger, name: str, number: int = 0) -> list[str]:
    """The manifest digests of a stage: of all commits of a map stage, else of each published generation, oldest first;
    with a number of that generation alone."""
    if not ledger.check(create=False):
        raise ConfigError(f"{ledger.store.url} is empty; run `kosmos run {recipe.name}` first")
    stage = recipe.stage(name)
    if not stage.barrier:
        if number:
            raise ConfigError(f"{name} has no generations; leave --generation out")
        return [ledger.freeze(stage.key)]
    settled = ledger.settled(stage.key)
    standing = sorted(settled) if stage.own_series else Chain(recipe, ledger).standing()
    published = {n: str(settled[n]["manifest"]) for n in standing if _state(settled, n) == PUBLISHED}
    if not published or (number and number not in published):
        which = f"generation {number} of {name} is not" if number else f"no generation of {name} is"
        raise ConfigError(f"{which} published; `kosmos status {recipe.name}` shows them")
    return [published[number]] if number else list(published.values())
