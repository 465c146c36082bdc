"""Pairs of the pages of a bucket: all of them where it is small, those with its leaders where it is large."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipelines.dedupe import Docs
from pipelines.dedupe.rank import Ranks
from pipelines.kernel import compiled

PAIRS = 1 << 20  # pairs made at once, 16 MB and as much again to sort them
Places = npt.NDArray[np.int64]


def small(docs: Docs, starts: Places, sizes: Places, first: np.uint64) -> Iterator[tuple[Docs, Docs]]:
    """All (a, b) with a < b and b >= `first` of each bucket, whose docs ascend; by (b, a), each once a yield."""
    ends = np.cumsum(sizes * (sizes - 1) // 2)  # pairs at most: those of two old pages are left out
    done = 0
    while done < len(starts):
        before = int(ends[done - 1]) if done else 0
        stop = max(done + 1, int(np.searchsorted(ends, before + PAIRS, "right")))
        a, b = (np.empty(int(ends[stop - 1]) - before, np.uint64) for _ in range(2))
        num = _all(docs, starts[done:stop], sizes[done:stop], first, a, b)
        if num:
            yield _once(a[:num], b[:num])
        done = stop


def followers(docs: Docs, ranks: Ranks, leaders: int, first: np.uint64) -> Iterator[tuple[Docs, Docs]]:
    """The pairs of one bucket, whose docs ascend, with one of its leaders in them: (a, b), a < b, b >= `first`.

    So many lead of the old pages, which all stay, and so many of the new ones: the smaller rank, then the smaller doc.
    """
    order = np.lexsort((docs, ranks))
    old = docs[order] < first
    leads = np.where(old, np.cumsum(old), np.cumsum(~old)) <= leaders
    led, rest = np.sort(docs[order[leads]]), np.sort(docs[order[~leads]])
    one, other = np.triu_indices(len(led), 1)
    a, b = led[one], led[other]
    step = max(1, PAIRS // len(led))
    for start in range(0, len(rest) + step, step):
        wanted = (b >= first) & (a != b)
        if wanted.any():
            yield a[wanted], b[wanted]
        piece = rest[start : start + step]
        ones, others = np.repeat(piece, len(led)), np.tile(led, len(piece))
        a, b = np.minimum(ones, others), np.maximum(ones, others)


def _all(docs: Docs, starts: Places, sizes: Places, first: np.uint64, a: Docs, b: Docs) -> int:
    num = 0
    for bucket in range(len(starts)):
        start, end = starts[bucket], starts[bucket] + sizes[bucket]
        for i in range(start + 1, end):
            if docs[i] < first:
                continue
            for j in range(start, i):
                if docs[j] != docs[i]:
                    a[num], b[num] = docs[j], docs[i]
                    num += 1
    return num


def _once(a: Docs, b: Docs) -> tuple[Docs, Docs]:
    """The pairs by (b, a), each once."""
    order = np.lexsort((a, b))
    a, b = a[order], b[order]
    new = np.ones(len(a), np.bool_)
    new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return a[new], b[new]


_all = compiled(_all, allocates=False)
