"""Band rows in order of (key, doc), and the join of sorted keys: where `group` and `index` spend their time.

Keys are hashes, so the top bits of what they differ in spread them evenly: one pass scatters the rows to buckets of
about eight, which are then sorted in place. The rows come as sorted pieces, so each piece is scattered in ascending
order and the cache holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dedupe import Docs, column
from pipelines.dedupe.rank import Ranks
from pipelines.kernel import compiled

Places = npt.NDArray[np.int64]

ROWS = 8  # a bucket, on average
FEW = 64  # rows that are sorted by insertion


@dataclass(frozen=True, slots=True)
class Rows:
    """Band rows: three arrays of one length."""

    keys: Docs
    docs: Docs
    ranks: Ranks

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: Places | npt.NDArray[np.bool_]) -> Rows:
        """The rows at the places, or under the mask."""
        return Rows(self.keys[places], self.docs[places], self.ranks[places])


def rows_of(table: pa.Table) -> Rows:
    """Band rows of a table of INDEX_BANDS."""
    return Rows(column(table, "key"), column(table, "doc"), table["rank"].to_numpy())


def joined(pieces: list[Rows]) -> Rows:
    """The pieces one after another; a list of none is no rows."""
    return Rows(
        np.concatenate([np.zeros(0, np.uint64), *(piece.keys for piece in pieces)]),
        np.concatenate([np.zeros(0, np.uint64), *(piece.docs for piece in pieces)]),
        np.concatenate([np.zeros(0, np.uint32), *(piece.ranks for piece in pieces)]),
    )


def ordered(pieces: list[Rows]) -> Rows:
    """All rows by (key, doc). Empties the list as it goes, so that rows stand in memory twice at most."""
    num = sum(map(len, pieces))
    if not num:
        pieces.clear()
        return joined([])
    low = min(int(piece.keys.min()) for piece in pieces if len(piece))
    high = max(int(piece.keys.max()) for piece in pieces if len(piece))
    shift = np.uint64(max(0, (high - low).bit_length() - max(1, num // ROWS).bit_length()))
    starts = np.zeros(((high - low) >> int(shift)) + 2, np.int64)
    for piece in pieces:
        _count(piece.keys, np.uint64(low), shift, starts)
    np.cumsum(starts, out=starts)
    places = starts[:-1].copy()
    out = Rows(np.empty(num, np.uint64), np.empty(num, np.uint64), np.empty(num, np.uint32))
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        _scatter(piece.keys, piece.docs, piece.ranks, np.uint64(low), shift, places, out.keys, out.docs, out.ranks)
    _sort_few(starts, out.keys, out.docs, out.ranks)
    for bucket in np.flatnonzero(np.diff(starts) > FEW).tolist():
        start, end = int(starts[bucket]), int(starts[bucket + 1])
        order = np.lexsort((out.docs[start:end], out.keys[start:end]))
        for values in (out.keys, out.docs, out.ranks):
            values[start:end] = values[start:end][order]
    return out


def ascending(keys: Docs, after: int = 0) -> bool:
    """Whether the keys never fall, from `after` on."""
    return not len(keys) or (int(keys[0]) >= after and bool(_ascending(keys)))


def matches(keys: Docs, others: Docs) -> Places:
    """Places in the ascending `others` of all values that stand in the ascending `keys`."""
    if not len(keys) or not len(others):
        return np.zeros(0, np.int64)
    first = int(np.searchsorted(keys, others[0]))
    last = int(np.searchsorted(keys, others[-1], "right"))
    near = keys[first:last]  # a piece of a run spans a small range of keys
    found = np.empty(len(others), np.int64)
    if len(near) * 16 < len(others):
        return found[: _probe(near, others, found)].copy()
    return found[: _merge(near, others, found)].copy()


def _count(keys: Docs, low: np.uint64, shift: np.uint64, starts: Places) -> None:
    for i in range(len(keys)):
        starts[((keys[i] - low) >> shift) + np.uint64(1)] += 1


def _scatter(
    keys: Docs,
    docs: Docs,
    ranks: Ranks,
    low: np.uint64,
    shift: np.uint64,
    places: Places,
    out_keys: Docs,
    out_docs: Docs,
    out_ranks: Ranks,
) -> None:
    for i in range(len(keys)):
        bucket = (keys[i] - low) >> shift
        place = places[bucket]
        places[bucket] = place + 1
        out_keys[place] = keys[i]
        out_docs[place] = docs[i]
        out_ranks[place] = ranks[i]


def _sort_few(starts: Places, keys: Docs, docs: Docs, ranks: Ranks) -> None:
    for bucket in range(len(starts) - 1):
        start, end = starts[bucket], starts[bucket + 1]
        if end - start > FEW:
            continue
        for i in range(start + 1, end):
            key, doc, rank = keys[i], docs[i], ranks[i]
            j = i - 1
            while j >= start and (keys[j] > key or (keys[j] == key and docs[j] > doc)):
                keys[j + 1], docs[j + 1], ranks[j + 1] = keys[j], docs[j], ranks[j]
                j -= 1
            keys[j + 1], docs[j + 1], ranks[j + 1] = key, doc, rank


def _ascending(keys: Docs) -> bool:
    falls = 0
    for i in range(1, len(keys)):
        falls += keys[i] < keys[i - 1]
    return falls == 0


def _merge(keys: Docs, others: Docs, found: Places) -> int:
    # without branches: which of two hashes is smaller cannot be foreseen
    i = j = num = 0
    while i < len(keys) and j < len(others):
        key, other = keys[i], others[j]
        found[num] = j
        num += key == other
        j += other <= key
        i += key < other
    return num


def _probe(keys: Docs, others: Docs, found: Places) -> int:
    num = start = 0
    for i in range(len(keys)):
        key = keys[i]
        if i and key == keys[i - 1]:
            continue
        step = 1
        while start + step < len(others) and others[start + step] < key:
            step *= 2
        low, high = start, min(start + step + 1, len(others))
        while low < high:
            middle = (low + high) // 2
            if others[middle] < key:
                low = middle + 1
            else:
                high = middle
        start = low
        while start < len(others) and others[start] == key:
            found[num] = start
            num += 1
            start += 1
        if start >= len(others):
            break
    return num


_count = compiled(_count, allocates=False)
_scatter = compiled(_scatter, allocates=False)
_sort_few = compiled(_sort_few, allocates=False)
_ascending = compiled(_ascending, allocates=False)
_merge = compiled(_merge, allocates=False)
_probe = compiled(_probe, allocates=False)
