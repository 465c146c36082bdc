"""Paragraphs that several pages of a site have, over all generations so far, and the items that go for it.

One partition of the keys at a time. `counts` holds only what this generation saw, with what came before added, so that
the newest row of a key is the whole truth and no generation copies the rows of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.spread import check_partitions
from engine.stage import SIDE, Output, Unit, Work
from pipelines import paragraphs
from pipelines.dedupe import Docs, blocks, column
from pipelines.ids import first_of_runs

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (
    Output(name="counts", schema=schema.PARAGRAPH_COUNTS, sort_by=("key",), batch_rows=1 << 16),
    Output(name="items", schema=schema.RECURRING, partition_by="block", sort_by=("doc", "item")),
)
# the counts of before
CARRIES = (("recurring", OUTPUTS),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The bounds, as in `paragraphs.Config`."""

    min_pages: int = 3
    keepers: int = 1
    partitions: int = 256

    def __post_init__(self) -> None:
        check_partitions(self.partitions)
        paragraphs.check_bounds(self.min_pages, self.keepers)


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition of the keys."""
    return [(str(part),) for part in range(config.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Count the pages of each paragraph of one partition."""
    part = int(unit.inputs[0])
    rows = work.partition("paragraphs", "paragraphs", part)
    rows = rows.sort_by([(name, "ascending") for name in ("key", "doc", "item")])
    keys, docs, items = (rows[name].to_numpy() for name in ("key", "doc", "item"))
    first = first_of_runs(keys)
    group = np.cumsum(first) - 1
    # a paragraph twice on a page is on one page
    page = np.cumsum(first_of_runs(keys, docs)) - 1
    own = keys[first]
    before = _before(own, part, work)
    starts = page[first]
    total = before + np.diff(starts, append=page[-1] + 1 if len(page) else 0).astype(np.uint32)
    yield "counts", pa.table([own, total], schema=schema.PARAGRAPH_COUNTS)

    # how many pages have it before this one: docs of earlier generations are smaller
    rank = before[group] + page - starts[group]
    over = (total[group] >= config.min_pages) & (rank >= config.keepers) & (config.min_pages > 0)
    docs, items, shown = docs[over], items[over], total[group][over]
    work.count(f"paragraph{SIDE}recurring", len(docs))
    yield "items", pa.table([blocks(docs), docs, items, shown], schema=schema.RECURRING)


def _before(keys: Docs, part: int, work: Work) -> npt.NDArray[np.uint32]:
    """Pages of earlier generations that have each key (ascending, each once)."""
    pages = np.zeros(len(keys), np.uint32)
    if not len(keys):
        return pages
    for number in work.generation.earlier("recurring"):
        counts = work.partition("recurring", "counts", part, number)
        old = column(counts, "key")
        places = np.minimum(np.searchsorted(keys, old), len(keys) - 1)
        known = keys[places] == old
        # each row counts all before it, so the latest one stands
        pages[places[known]] = counts["docs"].to_numpy()[known]
    return pages
