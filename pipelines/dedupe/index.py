"""Runs of keys of kept pages, one a partition and generation: what later generations are compared with.

A run holds the kept pages of its generation and of the newest runs before it as long as those are not much larger, so
there are at most 8 to read and a row is copied O(log n) times. It is written a range of keys at a time, in order, so
no writer sorts it: memory is the rows of a pass, a bit a page and 10 a key of its Bloom filter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.errors import StoreError
from engine.stage import SIDE, Output, Unit, Work
from pipelines import dedupe
from pipelines.dedupe import Config, Docs, bands, bloom, column, decide, runs, spread
from pipelines.dedupe.radix import Rows, ascending, ordered, rows_of
from pipelines.dedupe.streams import Stream, Streams, bounds, least, read

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = dedupe.VERSION
# In order as they are yielded, and without compression, so that a range of rows is a range of bytes: zstd would save a
# quarter of the 20 bytes of a band row, for a tenth of the speed of reading. A batch is large because a frozen commit
# lists all of its batches, and a worker has the commits of all partitions of all live runs in memory.
EXACT = Output(name="exact", schema=schema.INDEX_KEYS, batch_rows=1 << 20, compression=None)
BANDS = Output(name="bands", schema=schema.INDEX_BANDS, batch_rows=1 << 20, compression=None)
OUTPUTS = (
    EXACT,
    BANDS,
    Output(name="filters", schema=schema.INDEX_FILTERS, batch_rows=1, compression=None),
    Output(name="generations", schema=schema.INDEX_GENERATIONS),
)
CARRIES = (("index", OUTPUTS),)
PASS_ROWS = 1 << 20  # rows of a pass, old and new
FENCE_ROWS = 1 << 12  # rows of a run from one fence to the next


@dataclass(frozen=True, slots=True)
class Filters:
    """What says without reading a run of bands where a key could be. fences: the first key of every FENCE_ROWS."""

    rows: int
    fences: Docs
    words: bloom.Words

    def places(self, keys: Docs) -> list[tuple[int, int]]:
        """(first row, number of rows) of the stretches of the run in which some of the ascending keys may be."""
        keys = keys[bloom.maybe(self.words, keys)]
        # rows of a key may begin before the fence that has it
        first = np.maximum(np.searchsorted(self.fences, keys, "left") - 1, 0)
        last = np.searchsorted(self.fences, keys, "right")
        wanted = np.zeros(len(self.fences) + 2, np.int64)
        np.add.at(wanted, first, 1)
        np.add.at(wanted, np.maximum(last, first), -1)  # of a key before all fences there is nothing
        edges = np.diff((np.cumsum(wanted) > 0).astype(np.int8), prepend=0)
        starts = np.flatnonzero(edges == 1) * FENCE_ROWS
        ends = np.minimum(np.flatnonzero(edges == -1) * FENCE_ROWS, self.rows)
        return list(zip(starts.tolist(), (ends - starts).tolist(), strict=True))


def filters(work: Work, run: Commit) -> Filters:
    """The filters of a run; StoreError if they are another's."""
    table = work.table(run, "filters")
    rows = run.rows("bands")
    if table.num_rows != 1:
        raise StoreError(f"run {run.unit} of the index has {table.num_rows} filters, not 1; run `kosmos verify`")
    fences = table["fences"].chunk(0).flatten().to_numpy()
    if len(fences) != -(-rows // FENCE_ROWS) or not ascending(fences):
        raise StoreError(f"the filter of run {run.unit} does not fit its {rows} rows; run `kosmos verify`")
    return Filters(rows, fences, bloom.load(table["bloom"][0].as_py()))


def stretches(work: Work, run: Commit, found: Filters, places: list[tuple[int, int]]) -> Iterator[pa.Table]:
    """Rows of the run of bands at the places; StoreError if they are not where the fences have them."""
    stream = Stream(run, BANDS)
    rows, wanted = [], []
    for first, num in places:
        for one in stream.cut(first, num):
            rows.append(first)
            wanted.append(one)
            first += one[3]
    for row, table in zip(rows, read(work, BANDS, wanted), strict=True):
        keys = column(table, "key")
        fenced = keys[-row % FENCE_ROWS :: FENCE_ROWS]
        fences = found.fences[-(-row // FENCE_ROWS) :][: len(fenced)]
        if not ascending(keys) or not np.array_equal(fenced, fences):
            raise StoreError(f"run {run.unit} of the index does not fit its filter; run `kosmos verify`")
        yield table


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition."""
    return [(str(part),) for part in range(config.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Write the run of one partition: this generation's kept pages and those of the runs that it takes in."""
    part = int(unit.inputs[0])
    low = least(part, config.partitions)
    new_keys = Streams(work, _output(spread.OUTPUTS), work.commits("spread"), part, low)
    new_bands = bands.rows(work, part, low)
    live = runs.live(work, part)
    own = new_keys.rows + new_bands.rows  # of removed pages too: known before they are read
    taken = live[: runs.merged([run.rows("exact") + run.rows("bands") for run in live], own)]
    fates = _Fates(work)
    yield from _exact(fates, new_keys, Streams(work, EXACT, taken, least=low), part, config.partitions)
    yield from _bands(fates, new_bands, Streams(work, BANDS, taken, least=low), part, config.partitions)
    earlier = list(reversed(work.generation.earlier("index")))
    held = [work.generation.number, *earlier[: sum(run.rows("generations") for run in taken)]]
    work.count(f"covers{SIDE}generations", len(held))
    yield "generations", pa.table([np.array(held, np.uint16)], schema=schema.INDEX_GENERATIONS)


class _Fates:
    """Which pages of this generation are not kept, and which kept page has the bands of a removed one.

    A bit a page: 9 MB for 71 million, whose numbers alone would be 64 bits each.
    """

    def __init__(self, work: Work) -> None:
        self._number = np.uint64(work.generation.number)
        self._bits: dict[int, npt.NDArray[np.uint8]] = {}  # by ordinal of the unit, a bit a row
        stand_ins = [schema.STAND_INS.empty_table()]
        declared = _output(decide.OUTPUTS, "gone")
        for commit in work.commits("decide"):
            batches = [batch for file in commit.outputs["gone"] for batch in file.batches]
            for table in read(work, declared, [(commit, n, 0, batch.rows) for n, batch in enumerate(batches)]):
                self._remove(column(table, "doc"))
            stand_ins.append(work.table(commit, "stand_ins"))
        self._doc, self._kept = (column(pa.concat_tables(stand_ins), name) for name in ("doc", "kept"))
        num_units = max(self._bits, default=-1) + 1
        lengths = np.zeros(num_units + 1, np.int64)
        for ordinal, bits in self._bits.items():
            lengths[ordinal] = len(bits)
        self._starts = np.cumsum(lengths) - lengths
        self._lengths = lengths
        none = np.zeros(0, np.uint8)
        self._flat = np.concatenate([none, *(self._bits.pop(n) for n in sorted(self._bits))])

    def _remove(self, docs: Docs) -> None:
        """Set the bits of pages, ascending."""
        ordinals, rows = _unpacked(docs)
        cuts = [0, *(np.flatnonzero(np.diff(ordinals)) + 1).tolist(), len(docs)]
        for start, end in itertools.pairwise(cuts if len(docs) else []):
            flags = np.zeros(int(rows[end - 1]) + 1, np.bool_)
            flags[rows[start:end]] = True
            bits = np.packbits(flags, bitorder="little")
            before = self._bits.get(int(ordinals[start]), bits[:0])  # a unit may come in two pieces
            bits[: len(before)] |= before[: len(bits)]
            self._bits[int(ordinals[start])] = np.concatenate([bits, before[len(bits) :]])

    def gone(self, docs: Docs) -> npt.NDArray[np.bool_]:
        """Which pages were removed."""
        ordinals, rows = _unpacked(docs)
        ordinals = np.minimum(ordinals, len(self._lengths) - 1)  # the last one stands for all without a bit
        inside = (rows >> 3 < self._lengths[ordinals]) & (dedupe.generations(docs) == self._number)
        places = np.where(inside, self._starts[ordinals] + (rows >> 3), 0)
        found: npt.NDArray[np.bool_] = np.zeros(len(docs), np.bool_)
        if len(self._flat):
            found = inside & ((self._flat[places] >> (rows & 7).astype(np.uint8) & np.uint8(1)) != 0)
        return found

    def standing(self, docs: Docs) -> Docs:
        """Each page, or the kept one whose bands these are."""
        if not len(self._doc):
            return docs
        places = np.minimum(np.searchsorted(self._doc, docs), len(self._doc) - 1)
        return np.where(self._doc[places] == docs, self._kept[places], docs)


def _unpacked(docs: Docs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(ordinal of the unit, row) of each page."""
    ordinals = (docs >> dedupe.ORDINAL_SHIFT) & np.uint64(dedupe.MAX_ORDINAL - 1)
    return ordinals.astype(np.int64), (docs & np.uint64(dedupe.MAX_ROW - 1)).astype(np.int64)


def _output(outputs: Sequence[Output], name: str = "keys") -> Output:
    return next(output for output in outputs if output.name == name)


def _passes(rows: int, part: int, partitions: int) -> Iterator[tuple[int, float]]:
    """(bound, share of what is left) of the passes over that many rows."""
    ends = bounds(part, partitions, max(1, -(-rows // PASS_ROWS)))
    return ((end, 1 / (len(ends) - number)) for number, end in enumerate(ends))


def _exact(fates: _Fates, new: Streams, old: Streams, part: int, partitions: int) -> Iterator[tuple[str, pa.Table]]:
    for bound, share in _passes(new.rows + old.rows, part, partitions):
        pieces = [schema.INDEX_KEYS.empty_table(), *old.below(bound, share)]
        for table in new.below(bound, share):
            kept = table.filter(pa.array(~fates.gone(column(table, "doc"))))
            pieces.append(kept.select(schema.INDEX_KEYS.names).cast(schema.INDEX_KEYS))
        whole = pa.concat_tables(pieces)
        del pieces
        yield "exact", whole.take(pa.array(_order(*(whole[name].to_numpy() for name in EXACT.schema.names))))
        del whole


def _order(keys: Docs, checks: Docs, docs: Docs, kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """The order by all four: few keys are not alone, so only those are sorted by more than the key."""
    order = np.argsort(keys, kind="stable")
    same = np.diff(keys[order]) == 0
    tied = np.zeros(len(order), np.bool_)
    tied[1:] = same
    tied[:-1] |= same
    few = order[tied]
    order[tied] = few[np.lexsort((kinds[few], docs[few], checks[few], keys[few]))]
    return order


def _bands(fates: _Fates, new: Streams, old: Streams, part: int, partitions: int) -> Iterator[tuple[str, pa.Table]]:
    words = bloom.empty(new.rows + old.rows)
    fences, done = [np.zeros(0, np.uint64)], 0
    for bound, share in _passes(new.rows + old.rows, part, partitions):
        pieces = [rows_of(table) for table in old.below(bound, share)]
        for table in new.below(bound, share):
            rows = rows_of(table)
            rows = Rows(rows.keys, fates.standing(rows.docs), rows.ranks)
            pieces.append(rows.take(~fates.gone(rows.docs)))
        whole = ordered(pieces)
        bloom.add(words, whole.keys)
        fences.append(whole.keys[-done % FENCE_ROWS :: FENCE_ROWS].copy())  # a view would hold all keys
        done += len(whole)
        yield "bands", pa.table([whole.keys, whole.docs, whole.ranks], schema=schema.INDEX_BANDS)
        del whole  # before the next pass takes its memory
    yield "filters", _filter_row(np.concatenate(fences), words)


def _filter_row(fences: Docs, words: bloom.Words) -> pa.Table:
    """The row of a run's filters, of the arrays' own memory: a filter of 100 million keys has 125 MB."""
    body = words.astype("<u8", copy=False).view(np.uint8)
    ends = [pa.py_buffer(np.array([0, len(values)], np.int64)) for values in (fences, body)]
    kinds = [field.type for field in schema.INDEX_FILTERS]
    columns = [
        pa.Array.from_buffers(kinds[0], 1, [None, ends[0]], children=[pa.array(fences)]),
        pa.Array.from_buffers(kinds[1], 1, [None, ends[1], pa.py_buffer(body)]),
    ]
    return pa.table(columns, schema=schema.INDEX_FILTERS)
