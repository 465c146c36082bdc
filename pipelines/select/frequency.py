"""In how many documents an address stands, over all generations.

One partition of the addresses at a time. `counts` holds only what this generation saw, with what came before added, so
that the newest row of an address is the whole truth and no generation copies the rows of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.stage import SIDE, Output, Unit, Work
from pipelines.dedupe import column
from pipelines.ids import Ids, arrow, blocks, first_of_runs, ids
from pipelines.select import Cut

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (
    Output(name="counts", schema=schema.URL_COUNTS, sort_by=("url_id",), batch_rows=1 << 16),
    Output(name="images", schema=schema.FREQUENT, partition_by="block", sort_by=("doc", "image")),
)
# the counts of before
CARRIES = (("frequency", OUTPUTS),)

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How the addresses are partitioned."""

    cut: Cut = field(default_factory=Cut)


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition of the addresses."""
    return [(str(part),) for part in range(config.cut.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Count the addresses of one partition."""
    part = int(unit.inputs[0])
    shown = work.partition("refer", "references", part)
    addresses = ids(shown["url_id"])
    order = np.argsort(addresses, kind="stable")
    first = first_of_runs(addresses[order])
    address = np.empty(len(order), np.intp)
    address[order] = np.cumsum(first) - 1
    unique = addresses[order[first]]
    # refer lets a document show an address once, so rows are documents
    docs = _before(unique, part, work) + np.bincount(address, minlength=len(unique))
    work.count(f"addresses{SIDE}seen", len(unique))
    counts: list[Any] = [arrow(unique), docs.astype(np.uint32)]
    yield "counts", pa.table(counts, schema=schema.URL_COUNTS)
    pages = column(shown, "doc")
    columns: list[Any] = [blocks(pages), pages, shown["image"], docs[address].astype(np.uint32)]
    yield "images", pa.table(columns, schema=schema.FREQUENT)


def _before(unique: Ids, part: int, work: Work) -> npt.NDArray[np.int64]:
    """Documents of earlier generations that show each address."""
    docs = np.zeros(len(unique), np.int64)
    for number in work.generation.earlier("frequency"):
        counts = work.partition("frequency", "counts", part, number)
        rows, places = among(ids(counts["url_id"]), unique)
        # each row counts all before it, so the latest one stands
        docs[places] = counts["docs"].to_numpy()[rows]
    return docs


def among(values: Ids, ordered: Ids) -> tuple[Places, Places]:
    """(rows of the values that stand in an ascending array, their places there)."""
    if not len(ordered):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    rows = np.flatnonzero(ordered[places] == values)
    return rows, places[rows]
