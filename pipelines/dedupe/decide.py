"""Who stays: the pages that are linked to another, in order of priority, by the rule of `walk`.

Pages of earlier generations stay, whatever comes: the index holds nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.errors import StoreError
from engine.stage import SIDE, Output, Unit, Work
from pipelines import dedupe
from pipelines.dedupe import Config, Docs, blocks, column, generations, spread, within
from pipelines.dedupe.links import Links, Nodes, connect, places
from pipelines.dedupe.walk import components, one_each, walk
from pipelines.reasons import Reason

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = dedupe.VERSION
OUTPUTS = (
    # order by doc is order by block: whoever works on a block reads its own verdicts only
    Output(name="verdicts", schema=schema.DEDUPE_VERDICTS, partition_by="block", sort_by=("doc",)),
    Output(name="gone", schema=schema.GONE, sort_by=("doc",), batch_rows=1 << 20),
    Output(name="stand_ins", schema=schema.STAND_INS, sort_by=("doc",), batch_rows=1 << 16),
)
# the priorities of earlier pages say which of two kept neighbours is the keeper
CARRIES = (("spread", spread.OUTPUTS),)
REASONS = np.array([Reason.DUPLICATE_URL, Reason.DUPLICATE_TEXT, Reason.NEAR_DUPLICATE], np.uint16)  # by kind


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit: the walk needs all links."""
    return [()]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Decide on every page of this generation that is linked to another."""
    links = connect(
        [work.table(commit, "classes") for commit in work.commits("exact")],
        [work.table(commit, "edges", ("a", "b", "similarity")) for commit in work.commits("verify")],
    )
    order, total = by_priority(links.docs, work)
    old = int(np.searchsorted(generations(links.docs), np.uint64(work.generation.number)))
    cluster = components(links)
    keeper, kinds, similarity = one_each(links, order, old, cluster) if config.components else walk(links, order, old)
    removed = keeper >= 0
    keeper[~removed] = np.flatnonzero(~removed)
    reasons = np.where(removed, REASONS[kinds], np.uint16(Reason.KEPT)).astype(np.uint16)
    _count(work, reasons, keeper < old, total)
    yield "stand_ins", _stand_ins(links, removed)
    sizes = np.bincount(cluster, minlength=len(cluster)).astype(np.uint32)
    # docs of earlier generations come first
    for start in range(old, len(links.docs), 1 << 20):
        own = slice(start, start + (1 << 20))
        docs, named = links.docs[own], cluster[own]
        columns: list[npt.NDArray[Any]] = [blocks(docs), docs, reasons[own], links.docs[keeper[own]]]
        columns += [links.docs[named], sizes[named], similarity[own]]
        yield "verdicts", pa.table(columns, schema=schema.DEDUPE_VERDICTS)
        yield "gone", pa.table([docs[removed[own]]], schema=schema.GONE)


def by_priority(docs: Docs, work: Work) -> tuple[Nodes, int]:
    """(places of ascending docs in order of priority, number of all pages of this generation).

    Priority is (earlier generation, higher quality, more words, smaller doc_id). StoreError for a page without one.
    """
    numbers = generations(docs)
    first = np.zeros(len(docs), np.uint64)  # generation 16 bits | lacking quality 16 | lacking words 32
    ids = np.zeros((2, len(docs)), np.uint64)
    known = np.zeros(len(docs), np.bool_)
    total = 0
    current = work.generation.number
    for number in sorted({current, *np.unique(numbers).tolist()}):
        for commit in work.commits("spread", 0 if number == current else number):
            table = work.table(commit, "priorities")
            if number == current:
                total += table.num_rows
            table = table.filter(pa.array(within(column(table, "doc"), docs))).combine_chunks()
            at = places(docs, column(table, "doc"))
            quality, words = table["quality"].to_numpy().astype(np.uint64), table["words"].to_numpy().astype(np.uint64)
            lacking = (np.uint64(0xFFFF) - quality) << np.uint64(32) | np.uint64(0xFFFFFFFF) - words
            first[at] = numbers[at] << np.uint64(48) | lacking
            ids[:, at] = spread.halves(table["doc_id"], ">u8").T
            known[at] = True
    if not known.all():
        missing = docs[~known]
        raise StoreError(f"{len(missing)} pages, the first {int(missing[0])}, have no priority; run `kosmos verify`")
    # the last key is the first to be compared; what is equal in all stays in order of docs
    return np.lexsort((ids[1], ids[0], first)).astype(np.int32), total


def _stand_ins(links: Links, removed: npt.NDArray[np.bool_]) -> pa.Table:
    """Of each text of several pages whose bands are those of a page that goes: that page, and the one that stays."""
    kept = np.full(links.num_texts, -1, np.int32)
    stays = np.flatnonzero((links.text >= 0) & ~removed).astype(np.int32)
    kept[links.text[stays]] = stays
    other = (kept >= 0) & (links.stands >= 0) & (links.stands != kept)
    doc, stay = links.docs[links.stands[other]], links.docs[kept[other]]
    order = np.argsort(doc)
    return pa.table([doc[order], stay[order]], schema=schema.STAND_INS)


def _count(work: Work, reasons: npt.NDArray[np.uint16], known: npt.NDArray[np.bool_], total: int) -> None:
    """How many of all pages of the generation stay, and go for each reason; the latter also by known keepers."""
    work.count(Reason.KEPT.word, total - int((reasons != Reason.KEPT).sum()))
    for reason in REASONS.tolist():
        word = Reason(reason).word
        work.count(word, int((reasons == reason).sum()))
        work.count(f"known{SIDE}{word}", int(((reasons == reason) & known).sum()))
