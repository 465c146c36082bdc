"""Deduplication over generations without a store: `Chain(config).publish(units)` runs its stages in order.

A unit is {"signatures": SIGNATURES, "slots": SLOTS_8, "shingles": SHINGLES}, as `sign` writes them.
"""

from __future__ import annotations

import importlib
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from engine import schema
from engine.stage import OFFSETS, SIDE, Output, Unit
from pipelines import dedupe
from tests.offline import OfflineCommit, OfflineWork, collect

STAGES = ("spread", "exact", "bands", "group", "verify", "decide", "index")
CARRIED = ("sign", "spread", "index")  # of which earlier generations are read
Units = Sequence[Mapping[str, pa.Table]]


class ChainWork(OfflineWork):
    """Partitions are those of the frozen commits, by a column or by unit, as a ledger has them."""

    def partition(self, stage: str, output: str, part: int, generation: int = 0) -> pa.Table:
        declared = declaration(stage, output)
        commits = self.frozen[stage, generation]
        if declared.partition_by:
            tables = list(self.each_part(commits, declared, part))
        else:
            tables = [self.table(commit, output) for commit in commits if int(commit.unit.rsplit("-", 1)[1]) == part]
        names = [name for name in declared.schema.names if name != declared.partition_by]
        return pa.concat_tables([declared.schema.empty_table().select(names), *tables])


def declaration(stage: str, output: str) -> Output:
    """The declared output of a stage of pipelines.dedupe."""
    module = importlib.import_module(f"pipelines.dedupe.{stage}")
    found: Output = next(declared for declared in module.OUTPUTS if declared.name == output)
    return found


def signed(unit: Mapping[str, pa.Table], name: str) -> OfflineCommit:
    """A commit of `sign`, with what a located output has beside it: where the shingles of each row lie."""
    shingles = [row.as_py() for row in unit["shingles"]["shingles"]] if "shingles" in unit else []
    lengths = np.array([len(row) for row in shingles], np.uint64)
    columns = [np.zeros(len(lengths), np.uint16), np.cumsum(lengths, dtype=np.uint64) - lengths, lengths]
    commit = OfflineCommit(dict(unit), unit=name)
    commit["shingles" + OFFSETS] = pa.table(columns, schema=schema.OFFSETS)
    commit["blob"] = b"".join(shingles)
    return commit


class Chain:
    """The stages over generations: `publish` takes the signed units of one and returns decide's verdicts.

    frozen[stage, 0] are the commits of the generation published last, frozen[stage, n] those of generation n, of the
    stages that are carried. counts: of all units of a stage.
    """

    def __init__(self, config: dedupe.Config | None = None, stages: Sequence[str] = STAGES) -> None:
        self.config = config or dedupe.Config(partitions=4)
        self.stages = stages
        self.number = 0
        self.frozen: dict[tuple[str, int], list[OfflineCommit]] = {}
        self.counts: dict[str, Counter[str]] = {}

    def publish(self, units: Units) -> pa.Table:
        """Run one generation of signed units."""
        self.number += 1
        self.frozen["sign", 0] = [signed(unit, f"{n:024x}") for n, unit in enumerate(units)]
        self.frozen["sign", self.number] = self.frozen["sign", 0]
        for stage in self.stages:
            self.run(stage)
        return self.frozen["decide", 0][0]["verdicts"]

    def run(self, stage: str) -> None:
        """Run all units of a stage for the generation under way."""
        module = importlib.import_module(f"pipelines.dedupe.{stage}")
        carried = tuple(range(1, self.number))
        generation = SimpleNamespace(number=self.number, earlier=lambda name: carried if name in CARRIED else ())
        self.counts[stage] = Counter()
        done = []
        for part, inputs in enumerate(module.parts(self.config, lambda name: self.frozen[name, 0])):
            # verify spills pairs: beside the tests they would be taken for a part of the project
            with tempfile.TemporaryDirectory() as scratch:
                work = ChainWork(
                    unit=Unit(id=f"{self.number:012x}-{part:06d}", inputs=inputs, generation=self.number),
                    scratch=Path(scratch),
                    frozen=self.frozen,
                    generation=generation,
                )
                tables = collect(module.process, self.config, work, module.OUTPUTS)
            done.append(OfflineCommit(tables, dict(work.counts), work.unit.id))
            self.counts[stage].update(work.counts)
        self.frozen[stage, 0] = done
        if stage in CARRIED:
            self.frozen[stage, self.number] = done

    def verdicts(self) -> dict[str, int]:
        """What decide counted, side counts left out."""
        return {name: num for name, num in self.counts["decide"].items() if SIDE not in name}

    def table(self, stage: str, output: str) -> pa.Table:
        """All rows that a stage wrote for the generation published last, in order of its units."""
        return pa.concat_tables([commit[output] for commit in self.frozen[stage, 0]])

    def id(self, doc: int) -> int:
        """The doc_id, as a number, of the page behind a doc number."""
        unit = self.frozen["sign", doc >> 48][doc >> 24 & 0xFFFFFF]["signatures"]
        (place,) = np.flatnonzero(unit["row"].to_numpy() == (doc & 0xFFFFFF))
        return int.from_bytes(unit["doc_id"][place].as_py(), "big")
