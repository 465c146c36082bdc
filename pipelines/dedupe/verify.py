"""Pairs that share a band to pairs that are alike: by their sketches, near the threshold by counting 5-grams.

A shared band proves little: of the pages that components of band collisions remove, 42 % have no kept page at Jaccard
.8. Of 126 slots the standard error is .03, so an estimate within `margin` of the threshold is not believed: for one
pair in seven both pages' 5-grams are read and counted. A pair does not depend on which others are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.errors import ConfigError
from engine.stage import SIDE, Output, Unit, Work
from pipelines import dedupe, jaccard, sign
from pipelines.dedupe import BLOCK, Config, Docs, block_parts, candidates, group
from pipelines.dedupe.sketches import Bytes, Places, Signed, Sketches
from pipelines.kernel import compiled

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = dedupe.VERSION
OUTPUTS = (Output(name="edges", schema=schema.EDGES, sort_by=("a", "b"), batch_rows=1 << 16),)
CARRIES = (("sign", sign.OUTPUTS),)  # a pair's smaller page may be of any generation
SHINGLE_BYTES = 64 << 20  # read and counted at a time
# Of used slots so many cannot all be 0 in all pages but once in 2^48 runs; fewer bands leave at least as many unused.
TAIL = 6

Shares = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """(first ordinal, number of ordinals) of each block of this generation's signed units."""
    return block_parts(len(commits("sign")))


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Look at the pairs whose later page is of one block."""
    (declared,) = (output for output in group.OUTPUTS if output.name == "pairs")
    tables = _tables(work, declared, int(unit.inputs[0]) // BLOCK)
    signed = Signed(work)
    for a, b in candidates.chunks(tables, work.scratch):
        if config.verify:
            similarity, linked, counted = look(a, b, signed, config, work)
        else:
            work.count(f"pairs{SIDE}believed", len(a))
            similarity, linked, counted = np.full(len(a), -1.0), np.ones(len(a), np.bool_), np.zeros(len(a), np.bool_)
        columns = [a[linked], b[linked], similarity[linked].astype(np.float32), counted[linked]]
        yield "edges", pa.table(columns, schema=schema.EDGES)


def _tables(work: Work, declared: Output, block: int) -> Iterator[pa.Table]:
    """The pairs of a block, a few partitions at a time: `each_part` reads at once all that it is given."""
    some: list[Commit] = []
    rows = 0
    for commit in work.commits("group"):
        num = sum(b.rows for file in commit.outputs.get("pairs", ()) for b in file.batches if b.part == block)
        if some and rows + num > candidates.HELD:
            yield from work.each_part(some, declared, block)
            some, rows = [], 0
        some.append(commit)
        rows += num
    yield from work.each_part(some, declared, block)


def look(a: Docs, b: Docs, signed: Signed, config: Config, work: Work) -> tuple[Shares, Marks, Marks]:
    """(similarity, whether it is a link, whether it was counted) of each pair."""
    docs = np.unique(np.concatenate([a, b]))
    sketches = signed.read(docs)
    check_slots(sketches.slots, config.num_slots)
    left, right = np.searchsorted(docs, a), np.searchsorted(docs, b)
    similarity = jaccard.estimate_pairs(sketches.slots, left, right, config.num_slots)
    alike = similarity >= config.threshold + config.margin
    near = ~alike & (similarity >= config.threshold - config.margin)
    similarity[near] = count(left[near], right[near], signed, sketches)
    linked = alike | (near & (similarity >= config.threshold))
    work.count(f"pairs{SIDE}alike_estimated", int(alike.sum()))
    work.count(f"pairs{SIDE}apart_estimated", int((~alike & ~near).sum()))
    work.count(f"pairs{SIDE}alike_counted", int((linked & near).sum()))
    work.count(f"pairs{SIDE}apart_counted", int((near & ~linked).sum()))
    return similarity, linked, near


def count(left: Places, right: Places, signed: Signed, sketches: Sketches) -> Shares:
    """Similarity of pairs, given by places in sketches.docs, by their shingles: SHINGLE_BYTES of them at a time."""
    pages = np.unique(np.concatenate([left, right]))
    located = signed.locate(sketches, pages)
    left, right = np.searchsorted(pages, left), np.searchsorted(pages, right)
    # a component's pairs side by side, so that each of its pages is read about once
    order = np.lexsort((right, left, _components(left, right, len(pages))[left]))
    number = np.empty(len(order), np.int64)
    _portions(left[order], right[order], located.lengths, SHINGLE_BYTES, number)
    similarity = np.empty(len(order), np.float64)
    for some in np.split(order, np.flatnonzero(np.diff(number)) + 1) if len(order) else ():
        wanted = np.unique(np.concatenate([left[some], right[some]]))
        data, ends = jaccard.distinct(*signed.shingles(located, wanted))
        places = np.searchsorted(wanted, left[some]), np.searchsorted(wanted, right[some])
        similarity[some] = jaccard.count_pairs(data, ends, *places)
    return similarity


def check_slots(slots: Bytes, num_slots: int) -> None:
    """ConfigError if these are no sketches of `num_slots` slots: too many or too few would bias every estimate."""
    used: Marks = np.bitwise_or.reduce(slots, axis=0) != 0
    if not len(slots) or (not used[num_slots:].any() and used[max(0, num_slots - TAIL) : num_slots].any()):
        return
    found = int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0
    raise ConfigError(
        f"dedupe.num_slots is {num_slots} and the pages' sketches have {found}; set it to sign.bands x sign.rows"
    )


@compiled
def _components(left: Places, right: Places, num: int) -> Places:
    # the smallest page of each page's component
    least = np.arange(num)
    for i in range(len(left)):
        a, b = left[i], right[i]
        while least[a] != a:
            least[a] = least[least[a]]
            a = least[a]
        while least[b] != b:
            least[b] = least[least[b]]
            b = least[b]
        least[max(a, b)] = min(a, b)
    for page in range(num):
        least[page] = least[least[page]]
    return least


@compiled
def _portions(left: Places, right: Places, lengths: Places, limit: int, number: Places) -> None:
    # number[i]: of the portion that pair i is in; the pages of a portion have `limit` bytes or are those of one pair
    seen = np.full(len(lengths), -1, np.int64)
    portion = 0
    total = 0
    for i in range(len(left)):
        a, b = left[i], right[i]
        more = (lengths[a] if seen[a] != portion else 0) + (lengths[b] if seen[b] != portion else 0)
        if total and total + more > limit:
            portion += 1
            total = 0
            more = lengths[a] + lengths[b]
        total += more
        seen[a] = portion
        seen[b] = portion
        number[i] = portion
