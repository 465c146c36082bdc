"""Slots and shingles of any pages, by doc number, of this and earlier generations: range reads of what `sign` wrote.

A doc number holds the row that its page has in its crawl; where among the signed rows it stands is looked up in their
column of rows, 4 bytes a page. Nothing of a unit is read but that, and the slots and shingles that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.errors import StoreError
from engine.schema import SLOTS
from engine.stage import Place, Work
from pipelines.dedupe import MAX_ORDINAL, MAX_ROW, ORDINAL_SHIFT, Docs

if TYPE_CHECKING:
    from engine.ledger import Commit

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint32]

ROWS_AT_ONCE = 1 << 22  # whose numbers (16 MB) or offsets (75 MB) are held while pages are looked up
NEAR_ROWS = 4096  # places of pages no further apart are read as one range: 72 KB
NEAR_BYTES = 1 << 20  # what object stores' clients read of a gap rather than ask twice (object_store's default)
READ_BYTES = 256 << 20  # read at once, gaps included
GONE = "run `kosmos verify`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sketches:
    """Slots of pages. docs: ascending, once each. slots: (num, SLOTS). places: row of each among the signed of its
    unit; unit u of commits has docs[bounds[u]:bounds[u + 1]]."""

    docs: Docs
    slots: Bytes
    places: Places
    commits: list[Commit]
    bounds: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """Where shingles of pages lie: of each its unit (index into commits), file, offset and bytes."""

    commits: list[Commit]
    units: Places
    files: Places
    offsets: Places
    lengths: Places


class Signed:
    """What `sign` wrote for all generations that a unit may read."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._commits: dict[int, list[Commit]] = {}

    def read(self, docs: Docs) -> Sketches:
        """Slots of pages (ascending, once each); StoreError if one is not signed."""
        units = docs >> ORDINAL_SHIFT
        bounds = [0, *(np.flatnonzero(units[1:] != units[:-1]) + 1).tolist(), len(docs)] if len(docs) else [0]
        commits = [self._commit(int(unit)) for unit in units[bounds[:-1]].tolist()]
        slots = np.empty((len(docs), SLOTS), np.uint8)
        places = np.empty(len(docs), np.int64)
        for first, stop in _groups([commit.rows("slots") for commit in commits], ROWS_AT_ONCE):
            some = range(first, stop)
            wanted = [(commits[unit], np.arange(commits[unit].rows("slots"))) for unit in some]
            for unit, cells in zip(some, self._work.cells("slots", "row", wanted), strict=True):
                start, end = bounds[unit], bounds[unit + 1]
                places[start:end] = _places(cells.reshape(-1).view("<u4"), docs[start:end])
            wanted = [(commits[unit], places[bounds[unit] : bounds[unit + 1]]) for unit in some]
            for unit, cells in zip(some, self._work.cells("slots", "slots", wanted), strict=True):
                slots[bounds[unit] : bounds[unit + 1]] = cells
        return Sketches(docs=docs, slots=slots, places=places, commits=commits, bounds=bounds)

    def locate(self, sketches: Sketches, wanted: Places) -> Located:
        """Where the shingles of some of the pages lie; wanted: ascending places in sketches.docs."""
        cuts = np.searchsorted(wanted, sketches.bounds).tolist()
        units = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))
        rows = sketches.places[wanted]
        apart = (units[1:] != units[:-1]) | (rows[1:] - rows[:-1] > NEAR_ROWS)
        starts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(rows)] if len(rows) else [0]
        # (first page, stop) of each run, and what is read for it: (commit, first row, rows)
        runs = list(pairwise(starts))
        reads = [
            (sketches.commits[int(units[start])], int(rows[start]), int(rows[stop - 1] - rows[start]) + 1)
            for start, stop in runs
        ]
        found = np.empty((3, len(rows)), np.int64)
        for first, last in _groups([num for _, _, num in reads], ROWS_AT_ONCE):
            tables = self._work.offsets("shingles", reads[first:last])
            for table, (start, stop) in zip(tables, runs[first:last], strict=True):
                own = rows[start:stop] - rows[start]
                for values, name in zip(found, ("file", "offset", "length"), strict=True):
                    values[start:stop] = table[name].to_numpy()[own]
        return Located(commits=sketches.commits, units=units, files=found[0], offsets=found[1], lengths=found[2])

    def shingles(self, located: Located, wanted: Places) -> tuple[Hashes, Places]:
        """Shingles of some of the pages, in the order of `wanted` (ascending places in located): those of page i are
        data[ends[i]:ends[i + 1]]."""
        lengths = located.lengths[wanted]
        if (lengths % 4).any():
            raise StoreError(f"shingles of a page are no whole numbers; {GONE}")
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths // 4)])
        data = np.empty(int(ends[-1]), np.uint32)
        for first, stop in _groups(_reads(located, wanted), READ_BYTES):
            bodies = self._work.pieces([_place(located, page) for page in wanted[first:stop].tolist()])
            for number, body in enumerate(bodies, first):
                data[ends[number] : ends[number + 1]] = np.frombuffer(body, "<u4")
        return data, ends

    def _commit(self, unit: int) -> Commit:
        """The commit of a unit, by the bits of a doc number above its row."""
        generation, ordinal = unit >> 24, unit & (MAX_ORDINAL - 1)
        if generation not in self._commits:
            current = generation == self._work.generation.number
            self._commits[generation] = self._work.commits("sign", 0 if current else generation)
        commits = self._commits[generation]
        if ordinal >= len(commits):
            raise StoreError(f"generation {generation} has {len(commits)} signed units, not unit {ordinal}; {GONE}")
        return commits[ordinal]


def _places(rows: npt.NDArray[np.uint32], docs: Docs) -> npt.NDArray[np.intp]:
    """Where the rows of the pages stand among the signed rows of their unit, which ascend."""
    wanted = (docs & np.uint64(MAX_ROW - 1)).astype(np.uint32)
    places = np.searchsorted(rows, wanted)
    found = places < len(rows)
    found[found] = rows[places[found]] == wanted[found]
    if not found.all():
        raise StoreError(f"{int((~found).sum())} pages, the first {int(docs[~found][0])}, are not signed; {GONE}")
    return places


def _groups(sizes: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """(first, stop) of neighbours of `limit` in sum, or of a single larger one."""
    first = total = 0
    for number, size in enumerate(sizes):
        if number > first and total + size > limit:
            yield first, number
            first, total = number, 0
        total += size
    if first < len(sizes):
        yield first, len(sizes)


def _reads(located: Located, wanted: Places) -> list[int]:
    """Bytes that are read for each page: its own, and the gap before it where that is near enough."""
    units, files = located.units[wanted], located.files[wanted]
    starts, lengths = located.offsets[wanted], located.lengths[wanted]
    gaps = starts[1:] - (starts + lengths)[:-1]
    near = (units[1:] == units[:-1]) & (files[1:] == files[:-1]) & (gaps >= 0) & (gaps <= NEAR_BYTES)
    read = lengths.copy()
    read[1:] += np.where(near, gaps, 0)
    reads: list[int] = read.tolist()
    return reads


def _place(located: Located, page: int) -> Place:
    return Place(
        located.commits[int(located.units[page])],
        "shingles",
        int(located.files[page]),
        int(located.offsets[page]),
        int(located.lengths[page]),
    )
