"""Rows of one partition to the pages that share a key: pairs from small buckets, large buckets as they are.

A bucket is all rows of one (kind, key, check). Up to 64 pages are written as pairs, more as their rows, so a million
copies of a page cost a million rows and not 10^12 pairs; `decide` reads a bucket as if all its pairs were there. A cap
on pairs per page would be wrong: the pages that are not paired with the best one would all be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.stage import SIDE, Output, Unit, Work
from pipelines.dedupe import BAND, KINDS, Config, Docs, column, generations, index

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (
    Output(name="edges", schema=schema.EDGES, sort_by=("a", "b")),
    Output(name="buckets", schema=schema.INDEX_KEYS, sort_by=("kind", "key", "check", "doc")),
)
CARRIES = (("index", index.OUTPUTS),)
Places = npt.NDArray[np.intp]
Kinds = npt.NDArray[np.uint8]


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition."""
    return [(str(part),) for part in range(config.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Group one partition of this generation's rows and of the kept pages' rows of earlier generations."""
    part = int(unit.inputs[0])
    runs = [work.partition("spread", "keys", part)]
    if runs[0].num_rows:
        runs += [work.partition("index", "keys", part, number) for number in work.generation.earlier("index")]
    gathered = [_gather(runs, kind) for kind in KINDS]
    runs.clear()  # half of the memory
    pairs: list[tuple[Docs, Docs, int]] = []
    for kind in KINDS:
        keys, checks, docs = _shared(*gathered[kind])
        starts, sizes = _buckets(keys, checks, docs, work.generation.number)
        large = sizes > config.max_pairs_bucket
        members = _members(starts[large], sizes[large])
        if len(members):
            work.count(f"large{SIDE}buckets", int(large.sum()))
            work.count(f"large{SIDE}rows", len(members))
            kinds = np.full(len(members), kind, np.uint8)
            columns = [keys[members], checks[members], docs[members], kinds]
            yield "buckets", pa.table(columns, schema=schema.INDEX_KEYS)
        pairs += [(a, b, kind) for a, b in _pairs(docs, starts[~large], sizes[~large], work.generation.number)]
    yield "edges", _edges(pairs)


def _gather(runs: list[pa.Table], kind: int) -> tuple[Docs, Docs, Docs]:
    """(key, check, doc) of all rows of one kind."""
    masks = [run["kind"].to_numpy() == kind for run in runs]

    def gathered(name: str) -> Docs:
        return np.concatenate([column(run, name)[mask] for run, mask in zip(runs, masks, strict=True)])

    keys = gathered("key")
    # a band's check is 0, and pages of zeros that nobody writes to take no memory
    checks = np.zeros(len(keys), np.uint64) if kind == BAND else gathered("check")
    return keys, checks, gathered("doc")


def _shared(keys: Docs, checks: Docs, docs: Docs) -> tuple[Docs, Docs, Docs]:
    """The rows whose key is not alone, by (key, check, doc): few, so that only they are sorted by all three."""
    # the runs are sorted, which a stable sort makes use of
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    shared = np.zeros(len(order), np.bool_)
    shared[1:] = same
    shared[:-1] |= same
    order = order[shared]
    keys, checks, docs = keys[order], checks[order], docs[order]
    order = np.lexsort((docs, checks, keys))
    return keys[order], checks[order], docs[order]


def _buckets(keys: Docs, checks: Docs, docs: Docs, generation: int) -> tuple[Places, Places]:
    """(start, size) of the buckets of two pages or more, one of them of this generation."""
    if not len(keys):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    first = np.ones(len(keys), np.bool_)
    first[1:] = (keys[1:] != keys[:-1]) | (checks[1:] != checks[:-1])
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, len(keys)))
    # docs of a bucket ascend, so its last one is of the latest generation
    wanted = (sizes > 1) & (generations(docs[starts + sizes - 1]) == np.uint64(generation))
    return starts[wanted], sizes[wanted]


def _members(starts: Places, sizes: Places) -> Places:
    """Places of all rows of the buckets, in order."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))


def _pairs(docs: Docs, starts: Places, sizes: Places, generation: int) -> Iterator[tuple[Docs, Docs]]:
    """All pairs a < b of each bucket with at least one page of this generation."""
    for distance in range(1, int(sizes.max(initial=0))):
        wide = sizes > distance
        places = _members(starts[wide], sizes[wide] - distance)
        a, b = docs[places], docs[places + distance]
        wanted = (generations(b) == np.uint64(generation)) & (a != b)
        yield a[wanted], b[wanted]


def _edges(pairs: list[tuple[Docs, Docs, int]]) -> pa.Table:
    """Each pair once, with its smallest kind, by (a, b)."""
    none = np.zeros(0, np.uint64)
    a = np.concatenate([none, *(pair[0] for pair in pairs)])
    b = np.concatenate([none, *(pair[1] for pair in pairs)])
    kinds = np.concatenate([np.zeros(0, np.uint8), *(np.full(len(pair[0]), pair[2], np.uint8) for pair in pairs)])
    order = np.lexsort((kinds, b, a))
    a, b, kinds = a[order], b[order], kinds[order]
    first = np.ones(len(a), np.bool_)
    first[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return pa.table([a[first], b[first], kinds[first]], schema=schema.EDGES)
