"""Who stays: pages are walked by priority, and one goes if and only if a page before it that shares a key stays.

No chains: what is removed shares a key with a page that is kept, which connected components do not promise. Where the
links come from, and whether pages that share a band are alike enough, is not asked here. Pages of earlier generations
stay, whatever comes: the index holds nothing else. Components are computed for their names and sizes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.errors import StoreError
from engine.stage import Output, Unit, Work
from pipelines.dedupe import Config, Docs, blocks, column, generations, spread, within
from pipelines.kernel import compiled
from pipelines.reasons import Reason

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 2  # of the code that decides the bytes
# order by doc is order by block: whoever works on a block reads its own verdicts only
OUTPUTS = (Output(name="verdicts", schema=schema.DEDUPE_VERDICTS, partition_by="block", sort_by=("doc",)),)
# the priorities of earlier pages say which of two kept neighbours is the keeper
CARRIES = (("spread", spread.OUTPUTS),)
REASONS = np.array([Reason.DUPLICATE_URL, Reason.DUPLICATE_TEXT, Reason.NEAR_DUPLICATE], np.uint16)  # by kind

Nodes = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """What connects pages, by their places in `docs`. Edge i joins left[i] and right[i]; page member[i] is in bucket
    bucket[i], whose pages are all joined, by kinds of bucket_kinds[bucket[i]]."""

    docs: Docs  # ascending
    left: Nodes
    right: Nodes
    kinds: Kinds
    member: Nodes
    bucket: Nodes
    bucket_kinds: Kinds


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit: the walk needs the kept neighbours of before."""
    return [()]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Decide on every page of this generation that shares a key."""
    groups = work.commits("group")
    links = connect(
        [work.table(commit, "edges") for commit in groups], [work.table(commit, "buckets") for commit in groups]
    )
    order, total = _by_priority(links.docs, work)
    old = int((generations(links.docs) < np.uint64(work.generation.number)).sum())
    keeper, kinds = walk(links, order, old)
    cluster = np.arange(len(links.docs))
    _join(links.left, links.right, cluster)
    _join_buckets(links.member, links.bucket, len(links.bucket_kinds), cluster)
    _flatten(cluster)
    sizes = np.bincount(cluster, minlength=len(cluster)).astype(np.uint32)
    removed = keeper >= 0
    reasons = np.where(removed, REASONS[kinds], np.uint16(Reason.KEPT)).astype(np.uint16)
    keepers = links.docs[np.where(removed, keeper, np.arange(len(keeper)))]
    work.count(Reason.KEPT.word, total - int(removed.sum()))
    for reason in REASONS.tolist():
        work.count(Reason(reason).word, int((reasons == reason).sum()))
    # docs of earlier generations come first
    columns: list[npt.NDArray[Any]] = [blocks(links.docs), links.docs, reasons, keepers, links.docs[cluster]]
    columns.append(sizes[cluster])
    yield "verdicts", pa.table([values[old:] for values in columns], schema=schema.DEDUPE_VERDICTS)


def connect(edges: list[pa.Table], buckets: list[pa.Table]) -> Links:
    """Number the pages of edges (EDGES) and buckets (KEYED), in any order, with repetitions."""
    left, right = _all(edges, "a", np.uint64), _all(edges, "b", np.uint64)
    member = _all(buckets, "doc", np.uint64)
    keys, checks = _all(buckets, "key", np.uint64), _all(buckets, "check", np.uint64)
    kinds = _all(buckets, "kind", np.uint8)
    docs = np.unique(np.concatenate([left, right, member]))
    order = np.lexsort((checks, keys, kinds))
    first = np.ones(len(order), np.bool_)
    first[1:] = np.any([np.diff(values[order]) != 0 for values in (keys, checks, kinds)], axis=0)
    return Links(
        docs=docs,
        left=np.searchsorted(docs, left),
        right=np.searchsorted(docs, right),
        kinds=_all(edges, "kind", np.uint8),
        member=np.searchsorted(docs, member[order]),
        bucket=np.cumsum(first) - 1,
        bucket_kinds=kinds[order][first],
    )


def walk(links: Links, order: Nodes, num_earlier: int) -> tuple[Nodes, Kinds]:
    """(keeper or -1 where the page stays, smallest kind shared with it) of each page of `links.docs`.

    order: places in priority order; the first `num_earlier` stay. The keeper is the first kept page in that order that
    is linked to the page. The order of edges and of bucket rows does not matter.
    """
    num = len(order)
    rank = np.empty(num, np.int64)
    rank[order] = np.arange(num)
    left, right = rank[links.left], rank[links.right]
    later = np.maximum(left, right)
    by_later = np.argsort(later, kind="stable")
    edge_ends = np.cumsum(np.bincount(later, minlength=num))
    member = rank[links.member]
    by_member = np.argsort(member, kind="stable")
    member_ends = np.cumsum(np.bincount(member, minlength=num))
    keeper = np.full(num, -1, np.int64)
    kinds = np.zeros(num, np.uint8)
    _walk(
        num_earlier,
        np.minimum(left, right)[by_later],
        links.kinds[by_later],
        edge_ends,
        links.bucket[by_member],
        links.bucket_kinds,
        member_ends,
        np.full(len(links.bucket_kinds), -1, np.int64),
        keeper,
        kinds,
    )
    keeper = np.where(keeper >= 0, order[keeper], -1)
    return keeper[rank], kinds[rank]


def _by_priority(docs: Docs, work: Work) -> tuple[Nodes, int]:
    """(places of docs in priority order, number of all pages of this generation)."""
    quality = np.zeros(len(docs), np.int64)
    words = np.zeros(len(docs), np.int64)
    ids = np.zeros((len(docs), 2), np.uint64)
    known = np.zeros(len(docs), np.bool_)
    total = 0
    current = work.generation.number
    for number in sorted({current, *generations(docs).tolist()}):
        for commit in work.commits("spread", 0 if number == current else number):
            table = work.table(commit, "priorities")
            if number == current:
                total += table.num_rows
            table = table.filter(pa.array(within(column(table, "doc"), docs))).combine_chunks()
            places = np.searchsorted(docs, column(table, "doc"))
            quality[places] = table["quality"].to_numpy()
            words[places] = table["words"].to_numpy()
            body = b"".join(table["doc_id"].to_pylist())
            ids[places] = np.frombuffer(body, ">u8").reshape(-1, 2)
            known[places] = True
    if not known.all():
        missing = docs[~known]
        raise StoreError(f"{len(missing)} pages, the first {int(missing[0])}, have no priority; run `kosmos verify`")
    # the last key is the first to be compared; what is equal in all stays in order of docs
    return np.lexsort((ids[:, 1], ids[:, 0], -words, -quality, generations(docs))), total


def _all(tables: list[pa.Table], name: str, kind: type[Scalar]) -> npt.NDArray[Scalar]:
    return np.concatenate([np.zeros(0, kind), *(table[name].to_numpy() for table in tables)])


@compiled
def _walk(
    num_earlier: int,
    earlier_end: Nodes,
    edge_kinds: Kinds,
    edge_ends: Nodes,
    buckets: Nodes,
    bucket_kinds: Kinds,
    member_ends: Nodes,
    first_kept: Nodes,
    keeper: Nodes,
    kinds: Kinds,
) -> None:
    # Everything by rank. Edges of a page: those to pages before it. first_kept[bucket] is the first kept page in it:
    # by rank, so no other kept page of the bucket could be the keeper of a later one.
    num = len(keeper)
    edge = 0
    row = 0
    for page in range(num):
        best = num
        kind = 255
        while edge < edge_ends[page]:
            other = earlier_end[edge]
            if keeper[other] < 0 and other <= best:
                if other < best:
                    kind = 255
                best = other
                kind = min(kind, edge_kinds[edge])
            edge += 1
        start = row
        while row < member_ends[page]:
            other = first_kept[buckets[row]]
            if 0 <= other <= best:
                if other < best:
                    kind = 255
                best = other
                kind = min(kind, bucket_kinds[buckets[row]])
            row += 1
        if best < num and page >= num_earlier:
            keeper[page] = best
            kinds[page] = kind
        else:
            for i in range(start, row):
                if first_kept[buckets[i]] < 0:
                    first_kept[buckets[i]] = page


@compiled
def _root(cluster: Nodes, node: int) -> int:
    while cluster[node] != node:
        cluster[node] = cluster[cluster[node]]
        node = cluster[node]
    return node


@compiled
def _join(left: Nodes, right: Nodes, cluster: Nodes) -> None:
    # the smaller root stays root, so a component is named by its smallest doc
    for i in range(len(left)):
        a, b = _root(cluster, left[i]), _root(cluster, right[i])
        if a != b:
            cluster[max(a, b)] = min(a, b)


@compiled
def _join_buckets(member: Nodes, bucket: Nodes, num_buckets: int, cluster: Nodes) -> None:
    first = np.full(num_buckets, -1, np.int64)
    for i in range(len(member)):
        if first[bucket[i]] < 0:
            first[bucket[i]] = member[i]
        a, b = _root(cluster, first[bucket[i]]), _root(cluster, member[i])
        if a != b:
            cluster[max(a, b)] = min(a, b)


@compiled
def _flatten(cluster: Nodes) -> None:
    for node in range(len(cluster)):
        cluster[node] = _root(cluster, node)
