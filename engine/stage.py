"""Units, stages and steps: the nouns of the protocol, and the key that names a stage's outputs.

A stage is a pure function of (unit, config). Its key hashes all that decides its bytes: name, version, config, output
schemas and the keys of the stages it reads. Data never enters a key: a new crawl adds units under the same key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from engine.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from engine.ledger import Commit, Generation

SIDE = ":"  # in the name of a count that is no verdict on a record, as in "block:words"
UNKEYED = {"keyed": False}  # metadata of a config field that says how a stage works and never what comes of it
OFFSETS = ".offsets"  # after the name of an output with `located`: where the bytes of its rows lie
UNIT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,95}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """The smallest thing that succeeds or fails as one: a WARC file, a partition of keys, an output shard.

    id: what its objects are named by; derived from content, never from a clock. inputs: what `process` needs beyond
    the commits that it reads (addresses, part numbers), as strings. generation: the number of the generation that it
    belongs to, 0 for a map stage. lane: `run` never has two units of one lane in flight; empty means no lane. size:
    expected bytes of input, for plans only.
    """

    id: str
    inputs: tuple[str, ...] = ()
    generation: int = 0
    lane: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        if not UNIT_ID.fullmatch(self.id):
            raise ConfigError(f"unit id {self.id!r} is not 1-96 of a-z, 0-9 and '-'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A named output of a stage and how its rows are laid out in Arrow IPC files.

    sort_by: columns that the attempt sorts by before writing; empty means that `process` yields rows in final order.
    partition_by: a uint16/uint32 column; rows are sorted by it (then by sort_by), it is left out of the file, and every
    partition is one record batch whose byte range stands in the commit. batch_rows: rows a record batch. compression:
    "zstd", or None for what is compressed already or read by byte range. file_rows / file_bytes: a new file starts
    once a file has reached either. located: the dotted path of a large_binary column, lists and structs on the way;
    beside the output stands <name>.offsets (schema.OFFSETS), which says where each row's bytes lie in its file.
    volatile: its bytes tell when something happened, so two runs never agree on them and manifest digests leave them
    out: what follows has the same names whenever the network said the same. sums: commits hold a sum of every record
    batch, for whoever reads some of them and never the whole file.
    """

    name: str
    schema: pa.Schema
    sort_by: tuple[str, ...] = ()
    partition_by: str = ""
    batch_rows: int = 4096
    compression: str | None = "zstd"
    file_rows: int = 1 << 24
    file_bytes: int = 1 << 30
    located: str = ""
    volatile: bool = False
    sums: bool = False

    def __post_init__(self) -> None:
        if self.located and (self.compression or self.partition_by):
            raise ConfigError(f"output {self.name}: bytes are located in files without compression or partitions only")

    def description(self) -> dict[str, Any]:
        """All that decides the bytes of its files."""
        return {
            "name": self.name,
            "schema": [f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in self.schema],
            "sort_by": self.sort_by,
            "partition_by": self.partition_by,
            "batch_rows": self.batch_rows,
            "compression": self.compression,
            "file": [self.file_rows, self.file_bytes],
            **({"located": self.located} if self.located else {}),
            **({"volatile": True} if self.volatile else {}),
            **({"sums": True} if self.sums else {}),
        }


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes in a file of a commit: `length` of them from `offset` of file number `file` of an output."""

    commit: Commit
    output: str
    file: int
    offset: int
    length: int


class Work(Protocol):
    """What an attempt lends to `process`: upstream rows, a place on disk, counters. See `engine.attempt`."""

    unit: Unit
    scratch: Path  # private to this attempt, removed when it ends

    def count(self, reason: str, num: int = 1) -> None:
        """Add to the unit's exact count of a reason; counts stand in the commit. A name with SIDE is no verdict."""

    def enter(self, offset: int) -> bool:
        """Note the record about to be worked on; False if it crashed the worker twice and must be skipped."""

    def local(self, uri: str) -> Path:
        """A local path with the bytes behind an input address (fetched into scratch when it is not local)."""

    def read(self, stage: str, output: str, columns: tuple[str, ...] = ()) -> pa.Table:
        """All rows that the unit of the same id wrote in an upstream map stage, in file order."""

    def batches(self, stage: str, output: str, columns: tuple[str, ...] = ()) -> Iterator[pa.Table]:
        """The rows of `read`, a record batch at a time, for what does not fit in memory."""

    @property
    def generation(self) -> Generation:
        """The generation that this barrier unit belongs to."""

    def commits(self, stage: str, generation: int = 0) -> list[Commit]:
        """Frozen commits of an upstream stage, sorted by unit id: this generation's, or those of an earlier one."""

    def table(self, commit: Commit, output: str, columns: tuple[str, ...] = ()) -> pa.Table:
        """All rows of one output of a commit, in file order."""

    def partition(self, stage: str, output: str, part: int, generation: int = 0) -> pa.Table:
        """Partition `part` of an output over all frozen commits of a stage, in order of unit ids.

        Where the output is not partitioned by a column, its units are the partitions: the rows of unit `part`.
        """

    def committed(self, unit: str) -> Commit | None:
        """The commit of another unit of this stage, if there is one by now: for a recorded stage, whose units of one
        lane run one after the other. Whoever else asks gets an answer that depends on the order of the units."""

    def manifest(self, mark: str) -> list[Commit]:
        """The commits of a manifest by its digest, which a recorded stage finds in its unit's inputs."""

    def part(self, commit: Commit, declared: Output, part: int) -> pa.Table:
        """One partition of one output of one commit."""

    def each_part(self, commits: Sequence[Commit], declared: Output, part: int) -> Iterator[pa.Table]:
        """`part` of many commits, in their order, read concurrently."""

    def offsets(self, output: str, wanted: Sequence[tuple[Commit, int, int]]) -> list[pa.Table]:
        """Where rows of an output with `located` lie (schema.OFFSETS): of each (commit, first row, number of rows), by
        concurrent range reads."""

    def slices(self, declared: Output, wanted: Sequence[tuple[Commit, int, int, int]]) -> Iterator[pa.Table]:
        """Of each (commit, record batch, first row, number of rows) the rows, in order, read concurrently: batches are
        numbered over all files of the output. Only these bytes are read of a batch of fixed-width columns without
        compression, all of another. StoreError if they are not there."""

    def cells(
        self, output: str, column: str, wanted: Sequence[tuple[Commit, npt.NDArray[np.int64]]]
    ) -> list[npt.NDArray[np.uint8]]:
        """Values of a fixed-width column of an output without compression and partitions: for each (commit, rows in
        ascending order) an array (number of rows, bytes a value), by concurrent range reads."""

    def pieces(self, places: Sequence[Place]) -> list[bytes]:
        """The bytes at the places, read concurrently, in their order; StoreError if fewer are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an attempt ended, in about 200 bytes: all that travels back to the driver.

    state: committed | lost (another attempt was first) | skipped (there was a commit) | failed | store (ours failed).
    """

    unit: str
    state: str
    rows: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    error: str = ""


Process = Callable[[Unit, Any, Work], Iterator[tuple[str, pa.Table]]]


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, of dataclasses, mappings, sequences and scalars: the text that is hashed.

    Fields with the metadata UNKEYED are left out. ConfigError for what has no canonical form (NaN, sets, objects).
    """

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            keyed = [f.name for f in dataclasses.fields(item) if f.metadata.get("keyed", True)]
            return {name: plain(getattr(item, name)) for name in keyed}
        if isinstance(item, Mapping):
            return {str(k): plain(v) for k, v in item.items()}
        if isinstance(item, list | tuple):
            return [plain(v) for v in item]
        if item is None or isinstance(item, str | int | float | bool):
            return item
        raise ConfigError(f"{type(item).__name__} has no canonical form; use str, numbers, bool, tuples or dataclasses")

    try:
        return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except ValueError as error:
        raise ConfigError(f"a config value is not finite: {error}") from None


def digest(*values: Any) -> str:
    """Hex sha256 of the canonical JSON of the values."""
    return hashlib.sha256(canonical(list(values)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A pure function of (unit, config), by dotted name so that a worker process can find it.

    process: "package.module:function" with the signature of `Process`. reads: upstream stages whose commits it reads;
    their keys enter this key. carries: stages of which a barrier reads EARLIER generations, by name with their outputs
    (they may depend on this stage, so their keys cannot enter its key; a map stage may be both read and carried).
    recorded: not a pure function (it asked the network): `verify` checks sums only. exclusive: one driver at a time, by
    lease. lease: the key of another such stage, whose lease it takes: never are both at work. binds: a word that a
    store is bound to by the first run; a store bound to another refuses. Code that changes bytes raises `version`.
    """

    name: str
    process: str
    config: Any
    outputs: tuple[Output, ...]
    version: int = 1
    reads: tuple[Stage, ...] = ()
    carries: tuple[tuple[str, tuple[Output, ...]], ...] = ()
    barrier: bool = False
    recorded: bool = False
    exclusive: bool = False
    lease: str = ""
    binds: str = ""
    num_cpus: float = 1.0
    memory_bytes: int = 0
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.name}-{digest(self.description())[:12]}")

    def description(self) -> dict[str, Any]:
        """All that decides this stage's bytes, as stage.json keeps it."""
        return {
            "name": self.name,
            "version": self.version,
            "config": self.config,
            "outputs": [output.description() for output in self.outputs],
            "reads": [stage.key for stage in self.reads],
            "carries": [[name, [output.description() for output in outputs]] for name, outputs in self.carries],
        }

    @property
    def own_series(self) -> bool:
        """Whether it numbers its generations itself: what a recorded barrier has written is one memory, whichever
        recipe asked for it, and whoever reads it gets all that is published when it claims."""
        return self.recorded and self.barrier

    def output(self, name: str) -> Output:
        """The named output; ConfigError if the stage has none of that name."""
        for output in self.outputs:
            if output.name == name:
                return output
        raise ConfigError(f"stage {self.name} has no output {name!r}; it has {', '.join(o.name for o in self.outputs)}")

    def upstream(self, name: str) -> Stage:
        """The upstream stage of that name, over all levels; ConfigError if there is none."""
        for stage in self.reads:
            if stage.name == name:
                return stage
        for stage in self.reads:
            try:
                return stage.upstream(name)
            except ConfigError:
                continue
        raise ConfigError(f"stage {self.name} reads no stage {name!r}")

    def resolve(self) -> Process:
        """The process function behind the dotted name."""
        module, _, name = self.process.partition(":")
        function: Process = getattr(importlib.import_module(module), name)
        return function
