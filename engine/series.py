"""The series of a recorded stage: what it has asked, whichever recipe wanted it, as generations of its own.

Its key knows the network and nothing else, so two recipes that select differently share one memory, and an address is
asked for once. Generation m holds the commits that no earlier one holds; its readers are given all that is published.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.errors import ConfigError
from engine.ledger import PUBLISHED, Commit, Generation, Ledger
from engine.recipe import Step
from engine.stage import Stage, Unit
from engine.work import read_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.window import StageReport


class Series:
    """The generations of one recorded stage over one ledger."""

    def __init__(self, step: Step, ledger: Ledger) -> None:
        self._step, self._stage, self._ledger = step, step.stage, ledger

    def published(self) -> dict[int, str]:
        """Manifest digests of the published generations, by number."""
        settled = self._ledger.settled(self._stage.key)
        return {n: str(body["manifest"]) for n, body in sorted(settled.items()) if body["state"] == PUBLISHED}

    def known(self) -> dict[int, str]:
        """The published generations, what a run that ended before its end has committed included: whoever asks what is
        known must learn of that too, or would ask for it again."""
        published = self.published()
        standing = [n for n in self._ledger.generations(self._stage.key) if n not in published]
        if standing and (fresh := self._fresh()):
            self._ledger.settle(
                self._stage.key, standing[0], PUBLISHED, self._ledger.freeze(self._stage.key, sorted(fresh))
            )
            published = self.published()
        return published

    def ask(
        self, source: tuple[Stage, str], run_stage: Callable[[Stage, Sequence[Unit], int], StageReport]
    ) -> StageReport:
        """Run the units that a listing stage's manifest asks for, then publish whatever has been committed."""
        units = self._units(source[1])
        if {unit.id for unit in units} <= self._ledger.committed(self._stage.key):
            number = max(self.published(), default=0)
        else:
            number = self._open(source)
        report = run_stage(self._stage, [dataclasses.replace(unit, generation=number) for unit in units], number)
        if report.complete:
            self._publish(source)
        return report

    def _units(self, mark: str) -> list[Unit]:
        if self._step.listed is None:
            raise ConfigError(f"{self._stage.name} has no listing")

        def table(commit: Commit, output: str) -> pa.Table:
            return read_rows(self._ledger.store, commit.outputs[output])

        return self._step.listed(self._stage.config, self._ledger.manifest(mark), table, mark)

    def _open(self, source: tuple[Stage, str]) -> int:
        """The number of the generation that is not published yet; it is claimed if there is none."""
        published = self.published()
        standing = [n for n in self._ledger.generations(self._stage.key) if n not in published]
        number = standing[0] if standing else max(published, default=0) + 1
        if not standing:
            self._ledger.open(self._stage)
            lister, mark = source
            parent = self._ledger.generation(self._stage.key, number - 1)
            self._ledger.claim(
                Generation(
                    stage=self._stage.key,
                    number=number,
                    parent=parent.digest if parent is not None else "",
                    manifests={lister.name: (lister.key, mark)},
                )
            )
        return number

    def _publish(self, source: tuple[Stage, str]) -> None:
        # again until nothing is left: another driver may have settled a number with what was there before ours
        while True:
            fresh = self._fresh()
            if not fresh:
                return
            self._ledger.settle(
                self._stage.key, self._open(source), PUBLISHED, self._ledger.freeze(self._stage.key, fresh)
            )

    def _fresh(self) -> set[str]:
        """Units with a commit that no published generation holds."""
        fresh = set(self._ledger.committed(self._stage.key))
        for mark in self.published().values():
            fresh -= {commit.unit for commit in self._ledger.manifest(mark)}
        return fresh
