"""Rows of one output on their way to files: cut into batches, sorted or partitioned where the Output says so.

Sorting beyond `spill_bytes` goes through sorted runs on the scratch disk, so a unit's memory does not grow with its
rows; the bytes are the same whether it spilled or not.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

from engine.arrow import File, FileWriter, conform, located, sort
from engine.schema import OFFSETS as OFFSETS_SCHEMA
from engine.stage import OFFSETS, Output

SPILL_BYTES = 32 << 20
CHUNKS = 64  # of a run: a merge of 64 runs, 4 GB, holds as many bytes as one run has


class OutputWriter:
    """All files of one output of one attempt, in a local folder; `finish` gives them in order."""

    def __init__(self, output: Output, folder: Path, spill_bytes: int = SPILL_BYTES) -> None:
        self.output = output
        self._folder = folder
        self._spill_bytes = spill_bytes
        self._keys = ((output.partition_by,) if output.partition_by else ()) + output.sort_by
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._held_bytes = 0
        self._runs: list[Path] = []
        self._files: list[File] = []
        self._open: FileWriter | None = None
        self._located: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Take rows, in final order unless the output is sorted. TypeError if their schema is not the output's."""
        if not table.num_rows:
            return
        table = conform(table, self.output.schema, f"output {self.output.name}")
        self._held.append(table)
        self._held_rows += table.num_rows
        self._held_bytes += table.nbytes
        if self._keys:
            if self._held_bytes >= self._spill_bytes:
                self._spill()
        elif self._held_rows >= self.output.batch_rows:
            whole = pa.concat_tables(self._held)
            full = self._held_rows - self._held_rows % self.output.batch_rows
            self._emit_rows(whole.slice(0, full))
            self._hold(whole.slice(full))

    def finish(self) -> list[File]:
        """Write what is held and close; at least one file, so that a unit without rows is still seen."""
        if self._keys:
            self._finish_sorted()
        elif self._held_rows:
            self._emit_rows(pa.concat_tables(self._held))
        if self._open is None and not self._files:
            self._open = self._next_file()
        self._close_file()
        return self._files

    def sidecar(self) -> list[File]:
        """After `finish`: the file that says where the rows' bytes lie; none unless the output has `located`."""
        if not self.output.located:
            return []
        output = offsets_output(self.output)
        writer = FileWriter(self._folder / f"{output.name}.arrow", output)
        try:
            writer.write(pa.concat_tables(self._located))
            return [writer.finish()]
        finally:
            writer.abandon()

    def close(self) -> None:
        """Let go of a file that a fault left open; nothing after `finish`."""
        if self._open is not None:
            self._open.abandon()

    def _hold(self, rest: pa.Table) -> None:
        self._held = [rest] if rest.num_rows else []
        self._held_rows, self._held_bytes = rest.num_rows, rest.nbytes

    def _next_file(self) -> FileWriter:
        return FileWriter(self._folder / f"{self.output.name}.{len(self._files)}.arrow", self.output)

    def _close_file(self) -> None:
        if self._open is not None:
            file = self._open.finish()
            if self.output.located:
                self._located.append(located(self._open.path, self.output.located, len(self._files)))
            self._files.append(file)
            self._open = None

    def _emit(self, rows: pa.Table, part: int) -> None:
        if self._open is None:
            self._open = self._next_file()
        self._open.write(rows, part)
        if self._open.rows >= self.output.file_rows or self._open.bytes >= self.output.file_bytes:
            self._close_file()

    def _emit_rows(self, rows: pa.Table) -> None:
        for start in range(0, rows.num_rows, self.output.batch_rows):
            self._emit(rows.slice(start, self.output.batch_rows), -1)

    def _spill(self) -> None:
        path = self._folder / f"{self.output.name}.run{len(self._runs)}"
        run = sort(pa.concat_tables(self._held), self._keys)
        # a merge holds a chunk of each run: small in bytes, for rows with images are large
        step = max(1, min(1 << 16, self._spill_bytes // CHUNKS * run.num_rows // max(1, run.nbytes)))
        with ipc.new_file(str(path), self.output.schema) as writer:
            writer.write_table(run, max_chunksize=step)
        self._runs.append(path)
        self._hold(self.output.schema.empty_table())

    def _sorted(self) -> Iterator[pa.Table]:
        if not self._runs:
            rows = sort(pa.concat_tables(self._held) if self._held else self.output.schema.empty_table(), self._keys)
            self._hold(self.output.schema.empty_table())  # or they stand in memory twice while they are written
            yield rows
            return
        if self._held:
            self._spill()
        yield from _merged([_Run(path, self._keys) for path in self._runs], self._keys)

    def _finish_sorted(self) -> None:
        pieces = self._sorted()
        if not self.output.partition_by:
            rest = self.output.schema.empty_table()
            for piece in pieces:
                whole = pa.concat_tables([rest, piece])
                full = whole.num_rows - whole.num_rows % self.output.batch_rows
                self._emit_rows(whole.slice(0, full))
                rest = whole.slice(full)
            self._emit_rows(rest)
        else:
            self._emit_partitions(pieces)
        for path in self._runs:
            path.unlink()

    def _emit_partitions(self, pieces: Iterator[pa.Table]) -> None:
        column = self.output.partition_by
        held: list[pa.Table] = []
        current = -1
        for piece in pieces:
            parts = piece[column].to_numpy()
            bounds = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(parts)] if len(parts) else [0]
            for start, end in itertools.pairwise(bounds):
                if parts[start] != current and held:
                    self._emit(pa.concat_tables(held), current)
                    held = []
                current = int(parts[start])
                held.append(piece.slice(start, end - start).drop_columns([column]))
        if held:
            self._emit(pa.concat_tables(held), current)


class _Run:
    """Sorted rows on the scratch disk, a chunk or two in memory."""

    def __init__(self, path: Path, keys: tuple[str, ...]) -> None:
        self._reader = ipc.open_file(pa.OSFile(str(path)))  # what is mapped would count as the worker's memory
        self._keys = keys
        self._next = 0
        self._rows = self._reader.schema.empty_table()
        self._chunk = 0

    def fill(self) -> bool:
        """Hold a chunk at least, if there is one; whether there are rows after what is held."""
        while self._next < self._reader.num_record_batches and self._rows.num_rows <= self._chunk // 2:
            batch = self._reader.get_batch(self._next)
            self._rows = pa.concat_tables([self._rows, pa.Table.from_batches([batch])])
            self._chunk = max(self._chunk, batch.num_rows)
            self._next += 1
        return bool(self._next < self._reader.num_record_batches)

    def key(self, row: int) -> tuple[Any, ...]:
        """What a held row is sorted by."""
        return tuple(self._rows[name][row].as_py() for name in self._keys)

    def until(self, bound: tuple[Any, ...] | None, equal: bool) -> pa.Table:
        """Give the held rows before the bound, with those of its key or without; all if there is none."""
        num = self._rows.num_rows
        if bound is not None:
            num = (bisect_right if equal else bisect_left)(range(num), bound, key=self.key)
        rows, self._rows = self._rows.slice(0, num), self._rows.slice(num)
        return rows


def _merged(runs: Sequence[_Run], keys: tuple[str, ...]) -> Iterator[pa.Table]:
    """The rows of all runs in order; of equal keys an earlier run's come first."""
    behind = True
    while behind:
        lasts = [(run.key(-1), number) for number, run in enumerate(runs) if run.fill()]
        behind = bool(lasts)
        bound, owner = min(lasts) if lasts else (None, 0)  # of rows after this one some are not read yet
        yield sort(pa.concat_tables([run.until(bound, number <= owner) for number, run in enumerate(runs)]), keys)


def offsets_output(output: Output) -> Output:
    """The output that stands beside one with `located`: one batch, so that its rows are read by their numbers."""
    return Output(name=output.name + OFFSETS, schema=OFFSETS_SCHEMA, batch_rows=1 << 31, compression=None)
