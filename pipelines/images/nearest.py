"""Perceptual hashes within a few bits of a known one: hashes cut in four, and tables of what has each quarter.

Hashes that differ in d bits differ in (d - q) // 4 or fewer in one of their quarters q = 0..3, else it would be more
than d together: a few rows of four tables are looked at. A million hashes against 400,000, those of 100,000 images,
take 3 s of a core within 6 bits, 9 s within 8, 40 s within 12.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.ids import first_of_runs
from pipelines.kernel import compiled

MAX_DISTANCE = 16  # half of the bits of unlike pictures differ, give or take four
QUARTERS = 4
NONE = 255  # distance of what was not found
BLOCK_CELLS = 1 << 20  # queries x sets at a time: 5 MB

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """Known hashes of sets, by each of their quarters.

    starts: [4, 2^16 + 1], the first place of each value of a quarter; hashes, sets, items: [4, known], in that order.
    """

    num_sets: int
    starts: npt.NDArray[np.int32]
    hashes: Hashes
    sets: npt.NDArray[np.int64]
    items: npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """Row i: query `row[i]` is nearest to item `item[i]` of set `set[i]`, in `distance[i]` bits; by row, then set."""

    row: npt.NDArray[np.int64]
    set: npt.NDArray[np.int64]
    item: npt.NDArray[np.uint32]
    distance: npt.NDArray[np.uint8]


def index(hashes: Hashes, sets: npt.NDArray[np.int64], items: npt.NDArray[np.uint32], num_sets: int) -> Index:
    """Of equal hashes of a set the smallest item is known."""
    order = np.lexsort((items, sets, hashes))
    order = order[first_of_runs(hashes[order], sets[order])]
    hashes, sets, items = hashes[order], sets[order], items[order]
    starts = np.zeros((QUARTERS, (1 << 16) + 1), np.int32)
    orders = np.zeros((QUARTERS, len(hashes)), np.int64)
    for quarter in range(QUARTERS):
        value = (hashes >> np.uint64(16 * quarter)).astype(np.uint16)
        orders[quarter] = np.argsort(value, kind="stable")
        np.cumsum(np.bincount(value, minlength=1 << 16), out=starts[quarter, 1:])
    return Index(num_sets=num_sets, starts=starts, hashes=hashes[orders], sets=sets[orders], items=items[orders])


def nearest(known: Index, wanted: Hashes, bound: int) -> Hits:
    """Of each wanted hash and set the nearest item within `bound` bits, the smallest of those as near."""
    found = list(_blocks(known, wanted, bound))
    row, number, item, distance = (np.concatenate(column) for column in zip(*found, strict=True))
    return Hits(row=row, set=number, item=item, distance=distance)


def _blocks(
    known: Index, wanted: Hashes, bound: int
) -> Iterator[
    tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.uint8]]
]:  # fmt: skip
    # what may differ in a quarter, few bits first, and how many of these each quarter asks for
    masks = np.arange(1 << 16, dtype=np.uint64)
    ones = np.bitwise_count(masks)
    masks, ones = masks[np.argsort(ones, kind="stable")], np.sort(ones)
    tried = np.array([np.count_nonzero(ones <= (bound - quarter) // QUARTERS) for quarter in range(QUARTERS)])
    rows = BLOCK_CELLS // max(known.num_sets, 1) + 1
    for start in range(0, max(len(wanted), 1), rows):
        some = np.ascontiguousarray(wanted[start : start + rows], np.uint64)
        distance = np.full((len(some), known.num_sets), NONE, np.uint8)
        item = np.zeros((len(some), known.num_sets), np.uint32)
        _nearest(some, known.starts, known.hashes, known.sets, known.items, masks, tried, bound, distance, item)
        row, number = np.nonzero(distance != NONE)
        yield row + start, number, item[row, number], distance[row, number]


def _nearest(
    wanted: Hashes,
    starts: npt.NDArray[np.int32],
    hashes: Hashes,
    sets: npt.NDArray[np.int64],
    items: npt.NDArray[np.uint32],
    masks: Hashes,
    tried: npt.NDArray[np.int64],
    bound: int,
    distance: npt.NDArray[np.uint8],
    item: npt.NDArray[np.uint32],
) -> None:
    """Fill distance and item [wanted, sets], distance with NONE before; tried: how many masks, a quarter."""
    for row in range(len(wanted)):
        for quarter in range(QUARTERS):
            own = wanted[row] >> np.uint64(16 * quarter) & np.uint64(0xFFFF)
            for number in range(tried[quarter]):
                value = np.int64(own ^ masks[number])
                for place in range(starts[quarter, value], starts[quarter, value + 1]):
                    bits = _ones(hashes[quarter, place] ^ wanted[row])
                    if bits <= bound:
                        of = sets[quarter, place]
                        best = distance[row, of]
                        if bits < best or (bits == best and items[quarter, place] < item[row, of]):
                            distance[row, of] = bits
                            item[row, of] = items[quarter, place]


def _ones(word: np.uint64) -> np.int64:
    """Bits that are set, in the form that LLVM knows as one instruction."""
    word = word - (word >> np.uint64(1) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (word >> np.uint64(2) & np.uint64(0x3333333333333333))
    word = word + (word >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64(word * np.uint64(0x0101010101010101) >> np.uint64(56))


_ones = compiled(_ones, allocates=False)
_nearest = compiled(_nearest, allocates=False)
