"""A `Work` without a store or Ray, for testing one `process` on tables held in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.arrow import Batch, File
from engine.stage import OFFSETS, Output, Place, Unit

BATCH_ROWS = 1 << 12  # rows of a record batch of what is not partitioned


class OfflineCommit(dict[str, pa.Table]):
    """A commit without a store: its tables by output, its counts, its unit."""

    def __init__(self, tables: dict[str, pa.Table], counts: dict[str, int] | None = None, unit: str = "") -> None:
        super().__init__(tables)
        self.counts = counts or {}
        self.unit = unit

    def rows(self, output: str) -> int:
        return self[output].num_rows if output in self else 0

    @property
    def outputs(self) -> dict[str, tuple[File, ...]]:
        """Files as a writer would cut them: a record batch a partition, or of up to BATCH_ROWS; offset = first row."""
        found: dict[str, tuple[File, ...]] = {}
        for name, table in self.items():
            if not isinstance(table, pa.Table):
                continue
            by = next((column for column in ("part", "block") if column in table.schema.names[:1]), "")
            parts = table[by].to_numpy() if by else np.full(table.num_rows, -1)
            firsts = np.flatnonzero(np.diff(parts, prepend=-2)) if by else np.arange(0, table.num_rows, BATCH_ROWS)
            ends = [*firsts[1:].tolist(), table.num_rows][: len(firsts)]
            cuts = zip(firsts.tolist(), ends, strict=True)
            batches = [Batch(first, 0, 0, end - first, int(parts[first])) for first, end in cuts]
            found[name] = (File(name, table.num_rows, table.nbytes, "", tuple(batches)),)
        return found


@dataclass
class OfflineWork:
    """Upstream rows come from `tables[stage, output]` (a map stage) or `parts[stage, output, generation]` (a list of
    tables, one a partition); `poisoned` holds the offsets that `enter` refuses."""

    unit: Unit
    scratch: Path
    tables: dict[tuple[str, str], pa.Table] = field(default_factory=dict)
    parts: dict[tuple[str, str, int], list[pa.Table]] = field(default_factory=dict)
    frozen: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    generation: Any = None
    poisoned: frozenset[int] = frozenset()
    own: dict[str, Any] = field(default_factory=dict)  # commits of this stage by unit
    counts: Counter[str] = field(default_factory=Counter)

    def count(self, reason: str, num: int = 1) -> None:
        self.counts[reason] += num

    def enter(self, offset: int) -> bool:
        return offset not in self.poisoned

    def local(self, uri: str) -> Path:
        return Path(uri.removeprefix("file://"))

    def read(self, stage: str, output: str, columns: tuple[str, ...] = ()) -> pa.Table:
        table = self.tables[stage, output]
        return table.select(list(columns)) if columns else table

    def batches(self, stage: str, output: str, columns: tuple[str, ...] = ()) -> Iterator[pa.Table]:
        table = self.read(stage, output, columns)
        for start in range(0, table.num_rows, 3):  # small, so that a test sees several
            yield table.slice(start, 3)

    def commits(self, stage: str, generation: int = 0) -> list[Any]:
        return self.frozen[stage, generation]

    def table(self, commit: Any, output: str, columns: tuple[str, ...] = ()) -> pa.Table:
        table = commit[output]
        return table.select(list(columns)) if columns else table

    def committed(self, unit: str) -> Any:
        return self.own.get(unit)

    def manifest(self, mark: str) -> list[Any]:
        return self.frozen[mark, 0]

    def part(self, commit: Any, declared: Output, part: int) -> pa.Table:
        table = commit[declared.name]
        if declared.partition_by in table.schema.names:
            table = table.filter(pc.equal(table[declared.partition_by], part)).drop_columns(declared.partition_by)
        return table

    def each_part(self, commits: Sequence[Any], declared: Output, part: int) -> Iterator[pa.Table]:
        return (self.part(commit, declared, part) for commit in commits)

    def offsets(self, output: str, wanted: Sequence[tuple[Any, int, int]]) -> list[pa.Table]:
        for commit, first, num in wanted:
            assert first >= 0 and first + num <= commit[output + OFFSETS].num_rows
        return [commit[output + OFFSETS].slice(first, num) for commit, first, num in wanted]

    def slices(self, declared: Output, wanted: Sequence[tuple[Any, int, int, int]]) -> Iterator[pa.Table]:
        for commit, number, first, num in wanted:
            batch = commit.outputs[declared.name][0].batches[number]
            assert first >= 0 and first + num <= batch.rows
            table = commit[declared.name].slice(batch.offset + first, num)
            yield table.drop_columns(declared.partition_by) if declared.partition_by in table.schema.names else table

    def cells(self, output: str, column: str, wanted: Sequence[tuple[Any, Any]]) -> list[Any]:
        found = []
        for commit, rows in wanted:
            values = commit[output][column].take(pa.array(rows)).combine_chunks()
            width = values.type.bit_width // 8
            body = np.frombuffer(values.buffers()[1] or b"", np.uint8)[values.offset * width :]
            found.append(body[: len(rows) * width].reshape(-1, width))
        return found

    def pieces(self, places: Sequence[Place]) -> list[bytes]:
        return [place.commit["blob"][place.offset : place.offset + place.length] for place in places]  # type: ignore[index]

    def partition(self, stage: str, output: str, part: int, generation: int = 0) -> pa.Table:
        return self.parts[stage, output, generation][part]


def collect(process: Any, config: Any, work: OfflineWork, outputs: tuple[Output, ...]) -> dict[str, pa.Table]:
    """Run `process` and lay its rows out as an attempt would: cast, concatenated, sorted."""
    yielded: dict[str, list[pa.Table]] = {output.name: [] for output in outputs}
    for name, table in process(work.unit, config, work):
        yielded[name].append(table)
    result = {}
    for output in outputs:
        table = pa.concat_tables(yielded[output.name]) if yielded[output.name] else output.schema.empty_table()
        assert table.schema.equals(output.schema), f"{output.name}: {table.schema} is not {output.schema}"
        keys = ((output.partition_by,) if output.partition_by else ()) + output.sort_by
        result[output.name] = table.sort_by([(key, "ascending") for key in keys]) if keys else table
    return result
