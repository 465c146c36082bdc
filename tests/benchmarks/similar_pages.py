"""All pairs of alike pages of a set by counting, and what is wrong with a choice of which of them to keep.

Every pair that shares a 5-gram of normalised words is counted: no sketch, no band, no sample. Of the product only its
normal form of a text is taken, which says what a word is. Memory is some 12 bytes a pair of pages: for ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import normalise
from pipelines.kernel import compiled
from tests.benchmarks.near_duplicates import Grams, Numbers, grams

Marks = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int32]

BATCH = 1000  # texts normalised at a time


def gram_sets(texts: Sequence[str]) -> list[Grams]:
    """The set of 5-gram hashes of each text; equal 5-grams of any two texts are equal numbers."""
    known: dict[str, int] = {}
    numbered = ([known.setdefault(word, len(known)) for word in one.split()] for one in normalised(texts))
    return [grams(np.array(ids, np.int64)) for ids in numbered]


def normalised(texts: Sequence[str]) -> Iterator[str]:
    """The normal form of each text."""
    for start in range(0, len(texts), BATCH):
        text = normalise.normalise(pa.array(texts[start : start + BATCH], pa.large_string()))
        body = text.data.tobytes()
        yield from (body[first:last].decode() for first, last in pairwise(text.offsets.tolist()))


def shared(sets: Sequence[Grams]) -> Counts:
    """How many 5-grams each pair of pages shares, (num, num)."""
    pages = np.repeat(np.arange(len(sets)), [len(one) for one in sets])
    values = np.concatenate([*sets, np.zeros(0, np.uint64)])
    order = np.argsort(values, kind="stable")
    values, pages = values[order], pages[order]
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1], [True])))
    counts = np.zeros((len(sets), len(sets)), np.int32)
    _count(pages, starts, counts)
    return counts


@compiled
def _count(pages: Numbers, starts: Numbers, counts: Counts) -> None:
    for group in range(len(starts) - 1):
        for i in range(starts[group], starts[group + 1]):
            for j in range(starts[group], starts[group + 1]):
                counts[pages[i], pages[j]] += 1


def similarity(sets: Sequence[Grams]) -> npt.NDArray[np.float32]:
    """Jaccard similarity of each pair of pages, (num, num); nothing of an empty page, with itself either."""
    counts = shared(sets)
    sizes = counts.diagonal()
    union = np.maximum(sizes[:, None] + sizes[None, :] - counts, 1)
    shares: npt.NDArray[np.float32] = (counts / union).astype(np.float32)
    return shares


def components(num: int, left: Numbers, right: Numbers) -> Numbers:
    """The smallest page of the connected component of each of `num` pages."""
    roots = np.arange(num)

    def root(place: int) -> int:
        while roots[place] != place:
            roots[place] = roots[roots[place]]
            place = roots[place]
        return place

    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        a, b = root(a), root(b)
        roots[max(a, b)] = min(a, b)
    return np.array([root(place) for place in range(num)], np.int64)


def collisions(keys: npt.NDArray[np.uint64]) -> tuple[Numbers, Numbers]:
    """Links that connect what shares a band key: of each page with the first of its bucket. keys: (num, bands)."""
    pages = np.repeat(np.arange(len(keys)), keys.shape[1])
    flat = keys.reshape(-1)
    pages, flat = pages[flat != 0], flat[flat != 0]
    order = np.argsort(flat, kind="stable")
    pages, flat = pages[order], flat[order]
    first = np.concatenate(([True], flat[1:] != flat[:-1]))
    leader = pages[np.maximum.accumulate(np.where(first, np.arange(len(flat)), 0))]
    return leader, pages


def keep_first(component: Numbers, places: Numbers) -> Marks:
    """Keep of each component the page of the smallest place in order of priority."""
    order = np.lexsort((places, component))
    kept = np.zeros(len(component), np.bool_)
    kept[order[np.flatnonzero(np.diff(component[order], prepend=-1))]] = True
    return kept


def faults(alike: Marks, kept: Marks) -> tuple[int, int]:
    """(pages removed that are like no kept page, kept pages that are like another kept page).

    alike: (num, num), which pairs are at or over the threshold; the diagonal does not count.
    """
    others = alike.copy()
    np.fill_diagonal(others, False)
    near_kept = others[:, kept].any(axis=1)
    return int((~kept & ~near_kept).sum()), int((kept & near_kept).sum())
