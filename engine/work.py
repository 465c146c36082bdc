"""What an attempt lends to `process`: upstream rows by name, a scratch folder, counters, the poison note."""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc

from engine.arrow import File, column_range, read_batch, stored_schema
from engine.errors import ConfigError, Missing, StoreError
from engine.ledger import Commit, Generation, Ledger
from engine.schema import OFFSETS as OFFSETS_SCHEMA
from engine.stage import OFFSETS, Output, Place, Stage, Unit
from engine.store import Store, local_path

Item = TypeVar("Item")
Result = TypeVar("Result")
NEAR_BYTES = 4096  # cells no further apart are read as one range
READS = 128  # range requests at once: what hides an object store's latency (measured: curation, assemble)
NOTE = struct.Struct("<q")  # the offset worked on, -1 before the first record


class InputError(Exception):
    """An input cannot be read: the unit's fault, not the store's."""


class Note:
    """Eight bytes in a shared map: they outlive the process that wrote them, also after SIGKILL."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(NOTE.pack(-1))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), NOTE.size)

    def write(self, offset: int) -> None:
        """Say which record is worked on."""
        NOTE.pack_into(self._map, 0, offset)

    def read(self) -> int:
        """The record last worked on, -1 if none."""
        return int(NOTE.unpack_from(self._map, 0)[0])


class LedgerWork:
    """`engine.stage.Work` over a ledger. See there for what each call promises."""

    def __init__(
        self,
        ledger: Ledger,
        stage: Stage,
        unit: Unit,
        scratch: Path,
        note: Note | None = None,
        poisoned: frozenset[int] = frozenset(),
    ) -> None:
        self.unit = unit
        self.scratch = scratch
        self.counts: Counter[str] = Counter()
        self.skipped: list[int] = []
        self.trace = ""  # of the exception that ended the attempt
        self._ledger = ledger
        self._stage = stage
        self._note = note
        self._poisoned = poisoned
        self._generation: Generation | None = None

    def count(self, reason: str, num: int = 1) -> None:
        """Add to the exact count of a reason."""
        if num:  # what did not happen is not told
            self.counts[reason] += num

    def enter(self, offset: int) -> bool:
        """Note the record; False if it is poisoned."""
        if offset in self._poisoned:
            self.skipped.append(offset)
            return False
        if self._note is not None:
            self._note.write(offset)
        return True

    def local(self, uri: str) -> Path:
        """A local path with the bytes behind an address; InputError if it cannot be read."""
        path = Path(uri) if "://" not in uri else local_path(uri)
        if path is not None:
            if not path.is_file():
                raise InputError(f"{uri} is not a file; `kosmos plan` lists what was found")
            return path
        root, _, name = uri.rpartition("/")
        target = self.scratch / f"input-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
        try:
            Store(root).download(name, target)
        except StoreError as error:
            raise InputError(f"{uri} cannot be read: {error}") from None
        return target

    def read(self, stage: str, output: str, columns: tuple[str, ...] = ()) -> pa.Table:
        """Rows of the unit of the same id in an upstream map stage."""
        upstream = self._stage.upstream(stage)
        return self.table(self._ledger.commit(upstream.key, self.unit.id), output, columns)

    def batches(self, stage: str, output: str, columns: tuple[str, ...] = ()) -> Iterator[pa.Table]:
        """The rows of `read`, a record batch at a time."""
        upstream = self._stage.upstream(stage)
        schema = stored_schema(upstream.output(output))
        for file in self._ledger.commit(upstream.key, self.unit.id).outputs[output]:
            for batch in file.batches:
                message = self._ledger.store.get_range(file.path, batch.offset, batch.length)
                table = pa.Table.from_batches([read_batch(schema, message, file.path)])
                yield table.select(list(columns)) if columns else table

    @property
    def generation(self) -> Generation:
        """The generation of this barrier unit."""
        if self._generation is None:
            found = self._ledger.generation(self._stage.key, self.unit.generation)
            if found is None:
                raise StoreError(f"generation {self.unit.generation} of {self._stage.key} is gone; run `kosmos verify`")
            self._generation = found
        return self._generation

    def commits(self, stage: str, generation: int = 0) -> list[Commit]:
        """Frozen commits of an upstream stage."""
        try:
            frozen = self.generation.carried[stage][generation] if generation else self.generation.manifests[stage]
        except KeyError:
            which = f"generation {generation} of {stage}" if generation else stage
            raise ConfigError(f"{self._stage.name} does not read {which}") from None
        return self._ledger.manifest(frozen[1])

    def table(self, commit: Commit, output: str, columns: tuple[str, ...] = ()) -> pa.Table:
        """All rows of one output of a commit."""
        try:
            return read_rows(self._ledger.store, commit.outputs[output], columns)
        except Missing:
            return read_rows(self._ledger.store, self._ledger.replaced(commit, output), columns)

    def partition(self, stage: str, output: str, part: int, generation: int = 0) -> pa.Table:
        """One partition over all frozen commits of a stage."""
        commits = self.commits(stage, generation)
        declared = self._declared(stage, output)
        if not declared.partition_by:
            own = [commit for commit in commits if int(commit.unit.rsplit("-", 1)[1]) == part]
            tables = [self.table(commit, output) for commit in own]
        else:
            tables = list(self.each_part(commits, declared, part))
        return pa.concat_tables(tables) if tables else stored_schema(declared).empty_table()

    def committed(self, unit: str) -> Commit | None:
        """The commit of another unit of this stage, if there is one by now."""
        if not self._ledger.is_committed(self._stage.key, unit):
            return None
        return self._ledger.commit(self._stage.key, unit)

    def manifest(self, mark: str) -> list[Commit]:
        """The commits of a manifest."""
        return self._ledger.manifest(mark)

    def part(self, commit: Commit, declared: Output, part: int) -> pa.Table:
        """One partition of one output of one commit."""
        schema = stored_schema(declared)
        return pa.Table.from_batches(self._parts(schema, commit, declared.name, part), schema)

    def each_part(self, commits: Sequence[Commit], declared: Output, part: int) -> Iterator[pa.Table]:
        """One partition of many commits, in their order."""
        yield from self._many(lambda commit: self.part(commit, declared, part), commits)

    def offsets(self, output: str, wanted: Sequence[tuple[Commit, int, int]]) -> list[pa.Table]:
        """Where rows of a located output lie."""
        return list(self._many(lambda one: self._offsets(output, *one), wanted))

    def _offsets(self, output: str, commit: Commit, first: int, num: int) -> pa.Table:
        try:
            return read_offsets(self._ledger.store, commit.outputs[output + OFFSETS], first, num)
        except Missing:
            return read_offsets(self._ledger.store, self._ledger.replaced(commit, output + OFFSETS), first, num)

    def slices(self, declared: Output, wanted: Sequence[tuple[Commit, int, int, int]]) -> Iterator[pa.Table]:
        """Rows of record batches by their numbers."""
        yield from self._many(lambda one: self._slice(declared, *one), wanted)

    def _slice(self, declared: Output, commit: Commit, number: int, first: int, num: int) -> pa.Table:
        try:
            return read_slice(self._ledger.store, declared, commit.outputs[declared.name], number, first, num)
        except Missing:
            files = self._ledger.replaced(commit, declared.name)
            return read_slice(self._ledger.store, declared, files, number, first, num)

    def cells(
        self, output: str, column: str, wanted: Sequence[tuple[Commit, npt.NDArray[np.int64]]]
    ) -> list[npt.NDArray[np.uint8]]:
        """Values of a fixed-width column at rows of many commits."""
        return list(self._many(lambda one: self._cells(output, column, *one), wanted))

    def _cells(self, output: str, column: str, commit: Commit, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        declared = self._stage.upstream(commit.stage.rpartition("-")[0]).output(output)
        if declared.compression or declared.partition_by:
            raise ConfigError(f"output {output}: cells are read of files without compression or partitions only")
        schema = stored_schema(declared)
        try:
            return read_cells(self._ledger.store, schema, commit.outputs[output], column, rows)
        except Missing:
            return read_cells(self._ledger.store, schema, self._ledger.replaced(commit, output), column, rows)

    def _many(self, read: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The results of many small reads, in order; a bounded number is under way or waits to be taken."""
        if len(items) < 2:
            yield from map(read, items)
            return
        with ThreadPoolExecutor(min(READS, len(items))) as pool:
            for start in range(0, len(items), 2 * READS):
                yield from pool.map(read, items[start : start + 2 * READS])

    def pieces(self, places: Sequence[Place]) -> list[bytes]:
        """The bytes at the places, by files, so that neighbours come in one request."""
        by_file: dict[tuple[str, int, str], list[int]] = {}
        for number, place in enumerate(places):
            path = place.commit.outputs[place.output][place.file].path
            by_file.setdefault((place.output, place.file, path), []).append(number)
        found: list[bytes] = [b""] * len(places)
        with ThreadPoolExecutor(READS) as pool:
            for numbers, bodies in zip(
                by_file.values(),
                pool.map(lambda numbers: self._ranges([places[i] for i in numbers]), by_file.values()),
                strict=True,
            ):
                for number, body in zip(numbers, bodies, strict=True):
                    found[number] = body
        return found

    def _ranges(self, places: list[Place]) -> list[bytes]:
        """Ranges of one file."""
        output, file = places[0].output, places[0].file
        ranges = [(place.offset, place.length) for place in places]
        store = self._ledger.store
        try:
            path = places[0].commit.outputs[output][file].path
            bodies = store.get_ranges(path, ranges)
        except Missing:
            path = self._ledger.replaced(places[0].commit, output)[file].path
            bodies = store.get_ranges(path, ranges)
        if any(len(body) != length for body, (_, length) in zip(bodies, ranges, strict=True)):
            raise StoreError(f"{path} is shorter than its commit says; run `kosmos verify`")
        return bodies

    def _parts(self, schema: pa.Schema, commit: Commit, output: str, part: int) -> list[pa.RecordBatch]:
        try:
            return read_parts(self._ledger.store, schema, commit.outputs[output], part)
        except Missing:
            return read_parts(self._ledger.store, schema, self._ledger.replaced(commit, output), part)

    def _declared(self, stage: str, output: str) -> Output:
        for name, outputs in self._stage.carries:
            for declared in outputs:
                if name == stage and declared.name == output:
                    return declared
        return self._stage.upstream(stage).output(output)


def read_rows(store: Store, files: Sequence[File], columns: tuple[str, ...] = ()) -> pa.Table:
    """All rows of the files, in order; only the columns if some are named. StoreError if a file is damaged."""
    tables = []
    for file in files:
        try:
            body = pa.BufferReader(store.get(file.path, file.bytes))
            fields = None
            if columns:
                # what is not asked for is not decompressed
                names = ipc.open_file(body).schema.names
                fields = [names.index(name) for name in columns]
            table = ipc.open_file(body, options=ipc.IpcReadOptions(included_fields=fields)).read_all()
        except pa.ArrowInvalid as error:
            raise StoreError(f"{file.path} is damaged ({error}); run `kosmos verify`") from None
        tables.append(table.select(list(columns)) if columns else table)
    return pa.concat_tables(tables)


def read_parts(store: Store, schema: pa.Schema, files: Sequence[File], part: int) -> list[pa.RecordBatch]:
    """The record batches of one partition, by range reads."""
    batches = []
    for file in files:
        ranges = [(b.offset, b.length) for b in file.batches if b.part == part]
        batches += [read_batch(schema, message, file.path) for message in store.get_ranges(file.path, ranges)]
    return batches


def read_offsets(store: Store, files: Sequence[File], first: int, num: int) -> pa.Table:
    """Rows first..first+num of a sidecar, a small range a column; StoreError if they are not there."""
    file = files[0]
    batch = file.batches[0] if file.batches else None
    if batch is None or first < 0 or first + num > batch.rows:
        raise StoreError(f"{file.path} has no rows {first} to {first + num}; run `kosmos verify`")
    ranges = [column_range(OFFSETS_SCHEMA, batch, field.name, first, num) for field in OFFSETS_SCHEMA]
    columns = [
        np.frombuffer(body, field.type.to_pandas_dtype())
        for field, body in zip(OFFSETS_SCHEMA, store.get_ranges(file.path, ranges), strict=True)
    ]
    return pa.table(columns, schema=OFFSETS_SCHEMA)


def read_slice(store: Store, declared: Output, files: Sequence[File], number: int, first: int, num: int) -> pa.Table:
    """Rows first..first+num of record batch `number`, counted over the files; StoreError if they are not there."""
    schema = stored_schema(declared)
    for file in files:
        if number < len(file.batches):
            break
        number -= len(file.batches)
    else:
        raise StoreError(f"{declared.name} has no record batch of that number; run `kosmos verify`")
    batch = file.batches[number]
    if first < 0 or first + num > batch.rows:
        raise StoreError(f"{file.path} has no rows {first} to {first + num}; run `kosmos verify`")
    if declared.compression or not all(pa.types.is_primitive(f.type) and f.type.bit_width >= 8 for f in schema):
        whole = read_batch(schema, store.get_range(file.path, batch.offset, batch.length), file.path)
        return pa.Table.from_batches([whole.slice(first, num)])
    ranges = [column_range(schema, batch, field.name, first, num) for field in schema]
    bodies = store.get_ranges(file.path, ranges)
    if any(len(body) != length for body, (_, length) in zip(bodies, ranges, strict=True)):
        raise StoreError(f"{file.path} is shorter than its commit says; run `kosmos verify`")
    columns = [pa.Array.from_buffers(f.type, num, [None, pa.py_buffer(b)]) for f, b in zip(schema, bodies, strict=True)]
    return pa.table(columns, schema=schema)


def read_cells(
    store: Store, schema: pa.Schema, files: Sequence[File], column: str, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """(number of rows, width) bytes of a fixed-width column at ascending rows; StoreError if they are not there."""
    width = schema.field(column).type.bit_width // 8
    if len(rows) and (rows[0] < 0 or (np.diff(rows) < 0).any()):
        raise StoreError(f"rows of {column} are asked for in no order; run `kosmos verify`")
    found = np.empty((len(rows), width), np.uint8)
    before = done = 0
    for file in files:
        ranges, targets = [], []
        for batch in file.batches:
            stop = int(np.searchsorted(rows, before + batch.rows))
            own = rows[done:stop] - before
            # neighbours in one range
            cuts = np.flatnonzero(np.diff(own) * width > NEAR_BYTES) + 1
            for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(own)], strict=True):
                if start < end:
                    first, last = int(own[start]), int(own[end - 1])
                    ranges.append(column_range(schema, batch, column, first, last + 1 - first))
                    targets.append((done + start, own[start:end] - first))
            before, done = before + batch.rows, stop
        bodies = store.get_ranges(file.path, ranges, NEAR_BYTES)
        for (at, places), body in zip(targets, bodies, strict=True):
            if len(body) % width or len(body) < width * (int(places[-1]) + 1):
                raise StoreError(f"{file.path} is shorter than its commit says; run `kosmos verify`")
            found[at : at + len(places)] = np.frombuffer(body, np.uint8).reshape(-1, width)[places]
    if done < len(rows):
        raise StoreError(f"{files[0].path if files else column} has no row {int(rows[done])}; run `kosmos verify`")
    return found
