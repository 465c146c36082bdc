"""Pages of one partition that share a band: pairs among the new ones and with the kept ones of before.

A bucket is all rows of one key. Up to 64 pages are paired all with all; of more the best ranked lead, up to 64 of
before and 64 of this generation, and all are paired with the leaders: a million pages of one template cost 64 million
pairs and not 10^12. This is counted as overflow, for a page that only another follower is like is then not compared
with it.

Memory is the new rows of a pass, in two copies of 20 bytes a row, whatever the partition holds: keys come in order from
every file, so a pass takes a range of them, and old runs are joined piece by piece as they pass by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine import schema
from engine.stage import SIDE, Output, Unit, Work
from pipelines import dedupe
from pipelines.dedupe import Config, Docs, bands, blocks, index, runs
from pipelines.dedupe.buckets import followers, small
from pipelines.dedupe.radix import Rows, matches, ordered, rows_of
from pipelines.dedupe.streams import Streams, bounds, least

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = dedupe.VERSION
OUTPUTS = (Output(name="pairs", schema=schema.PAIRS, partition_by="block", sort_by=("b", "a")),)
CARRIES = (("index", index.OUTPUTS),)
PASS_ROWS = 1 << 20  # new rows of a pass, 42 MB
BLOOM_SHARE = 50  # a run of more rows than this times the new ones is asked by its filter


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition."""
    return [(str(part),) for part in range(config.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Pair one partition of this generation's rows with each other and with the kept pages' of earlier generations."""
    part = int(unit.inputs[0])
    low = least(part, config.partitions)
    news = bands.rows(work, part, low)
    if not news.rows:
        return
    olds = [_old(work, run, news.rows, low) for run in runs.live(work, part)]
    num_passes = -(-news.rows // PASS_ROWS)
    for number, bound in enumerate(bounds(part, config.partitions, num_passes)):
        shared = _joined(news, olds, bound, 1 / (num_passes - number))
        yield from _pairs(shared, work, config)
        del shared  # before the next pass takes its memory


Met = Callable[[Rows, int, float], Iterator[Rows]]


def _old(work: Work, run: Commit, new_rows: int, low: int) -> Met:
    """What gives the rows of a run that share a key with the new rows of a pass."""
    if run.rows("bands") > BLOOM_SHARE * new_rows:
        filters = index.filters(work, run)

        def probed(new: Rows, bound: int, share: float) -> Iterator[Rows]:
            places = filters.places(np.unique(new.keys))
            work.count(f"filter{SIDE}rows", sum(num for _, num in places))
            for table in index.stretches(work, run, filters, places):
                yield from _met(new, table)

        return probed
    streams = Streams(work, index.BANDS, [run], least=low)

    def merged(new: Rows, bound: int, share: float) -> Iterator[Rows]:
        for table in streams.below(bound, share):
            yield from _met(new, table)

    return merged


def _met(new: Rows, table: pa.Table) -> Iterator[Rows]:
    """The rows of an old piece whose key is one of the new ones."""
    old = rows_of(table)
    places = matches(new.keys, old.keys)
    if len(places):
        yield old.take(places)


def _joined(news: Streams, olds: list[Met], bound: int, share: float) -> Rows:
    """All rows of a pass, old and new, whose key is not alone."""
    new = ordered([rows_of(table) for table in news.below(bound, share)])
    return _shared(new, ordered([piece for old in olds for piece in old(new, bound, share)]))


def _shared(new: Rows, met: Rows) -> Rows:
    """The rows whose key is not alone, old and new, by (key, doc)."""
    if not len(new):
        return new
    same = new.keys[1:] == new.keys[:-1]
    shared = np.zeros(len(new), np.bool_)
    shared[1:] = same
    shared[:-1] |= same
    if not len(met):
        return new.take(shared)
    shared[matches(met.keys, new.keys)] = True
    return ordered([met, new.take(shared)])


def _pairs(rows: Rows, work: Work, config: Config) -> Iterator[tuple[str, pa.Table]]:
    """The pairs of all buckets; a pair of several small buckets once."""
    if not len(rows):
        return
    starts = np.flatnonzero(np.diff(rows.keys, prepend=rows.keys[0] ^ np.uint64(1)))
    sizes = np.diff(np.append(starts, len(rows)))
    first = np.uint64(work.generation.number) << dedupe.GENERATION_SHIFT  # the smallest doc of this generation
    large = sizes > config.max_pairs_bucket
    for a, b in small(rows.docs, starts[~large], sizes[~large], first):
        yield "pairs", _table(a, b)
    work.count(f"overflow{SIDE}buckets", int(large.sum()))
    work.count(f"overflow{SIDE}pages", int(sizes[large].sum()))
    for start, size in zip(starts[large].tolist(), sizes[large].tolist(), strict=True):
        bucket = slice(start, start + size)
        for a, b in followers(rows.docs[bucket], rows.ranks[bucket], config.leaders, first):
            yield "pairs", _table(a, b)


def _table(a: Docs, b: Docs) -> pa.Table:
    return pa.table([blocks(b), a, b], schema=schema.PAIRS)
