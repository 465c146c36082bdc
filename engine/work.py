"""What an attempt lends to `process`: upstream rows by name, a scratch folder, counters, the poison note."""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.ipc as ipc

from engine.arrow import File, read_batch, stored_schema
from engine.errors import ConfigError, Missing, StoreError
from engine.ledger import Commit, Generation, Ledger
from engine.stage import Output, Stage, Unit
from engine.store import Store

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
        parts = urlsplit(uri)
        if parts.scheme in ("", "file"):
            path = Path(unquote(parts.path) if parts.scheme else uri)
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
                table = pa.Table.from_batches([read_batch(schema, message)])
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
            schema = stored_schema(declared)
            tables = [pa.Table.from_batches(self._parts(schema, commit, output, part), schema) for commit in commits]
        return pa.concat_tables(tables) if tables else stored_schema(declared).empty_table()

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
        batches += [read_batch(schema, message) for message in store.get_ranges(file.path, ranges)]
    return batches
