"""Rows of one output on their way to files: cut into batches, sorted or partitioned where the Output says so.

Sorting beyond `spill_bytes` goes through sorted runs on the scratch disk, so a unit's memory does not grow with its
rows; the bytes are the same whether it spilled or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from engine.arrow import File, FileWriter, conform, located, sort, take
from engine.schema import OFFSETS as OFFSETS_SCHEMA
from engine.stage import OFFSETS, Output

SPILL_BYTES = 256 << 20


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
        with ipc.new_file(str(path), self.output.schema) as writer:
            writer.write_table(run, max_chunksize=1 << 16)
        self._runs.append(path)
        self._hold(self.output.schema.empty_table())

    def _sorted(self) -> Iterator[pa.Table]:
        if not self._runs:
            yield sort(pa.concat_tables(self._held) if self._held else self.output.schema.empty_table(), self._keys)
            return
        if self._held:
            self._spill()
        readers = [ipc.open_file(pa.memory_map(str(path))) for path in self._runs]
        mapped = [reader.get_batch(number) for reader in readers for number in range(reader.num_record_batches)]
        whole = pa.Table.from_batches(mapped)
        # keys in memory, payload from the mapped runs a piece at a time; stable, so the runs' order breaks ties
        order = pc.sort_indices(whole.select(self._keys), sort_keys=[(key, "ascending") for key in self._keys])
        # rows with images are large, and what is taken stands in memory
        step = max(1, min(1 << 16, self._spill_bytes // 4 * whole.num_rows // max(1, whole.nbytes)))
        for start in range(0, len(order), step):
            yield take(mapped, order.slice(start, step).to_numpy().astype(np.int64))

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


def offsets_output(output: Output) -> Output:
    """The output that stands beside one with `located`: one batch, so that its rows are read by their numbers."""
    return Output(name=output.name + OFFSETS, schema=OFFSETS_SCHEMA, batch_rows=1 << 31, compression=None)
