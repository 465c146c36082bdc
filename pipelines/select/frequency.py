"""In how many documents an address stands, over all generations, and which documents show the very same images.

One partition of the addresses, and of the hashes of sets, at a time. `counts` holds only what this generation saw, with
what came before added, so that the newest row of an address is the whole truth and no generation copies the rows of
another. A set is kept for good by the best page of the generation that was the first to see it: what is published is
never judged again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.stage import SIDE, Output, Unit, Work
from pipelines.dedupe import Docs, column
from pipelines.dedupe.spread import halves
from pipelines.ids import Ids, arrow, blocks, first_of_runs, ids
from pipelines.select import Cut

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 2  # of the code that decides the bytes
OUTPUTS = (
    Output(name="counts", schema=schema.URL_COUNTS, sort_by=("url_id",), batch_rows=1 << 16),
    Output(name="images", schema=schema.FREQUENT, partition_by="block", sort_by=("doc", "image")),
    Output(name="sets", schema=schema.SET_KEEPERS, sort_by=("key", "check"), batch_rows=1 << 16),
    Output(name="twins", schema=schema.SET_TWINS, partition_by="block", sort_by=("doc",)),
)
# the counts and the keepers of before
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
    """Count the addresses of one partition, and tell who shows the images of another."""
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
    earlier = (work.partition("frequency", "sets", part, number) for number in work.generation.earlier("frequency"))
    keepers, twins = meet(work.partition("refer", "sets", part), earlier)
    work.count(f"sets{SIDE}new", keepers.num_rows)
    work.count(f"pages{SIDE}twins", twins.num_rows)
    yield "sets", keepers
    yield "twins", twins


def _before(unique: Ids, part: int, work: Work) -> npt.NDArray[np.int64]:
    """Documents of earlier generations that show each address."""
    docs = np.zeros(len(unique), np.int64)
    for number in work.generation.earlier("frequency"):
        counts = work.partition("frequency", "counts", part, number)
        rows, places = among(ids(counts["url_id"]), unique)
        # each row counts all before it, so the latest one stands
        docs[places] = counts["docs"].to_numpy()[rows]
    return docs


def meet(sets: pa.Table, earlier: Iterable[pa.Table]) -> tuple[pa.Table, pa.Table]:
    """(SET_KEEPERS of the sets that none of the earlier SET_KEEPERS holds, SET_TWINS) of rows of IMAGE_SETS.

    A set belongs to the page that an earlier generation kept it for, else to the best of these by (rank, doc_id); all
    other pages with it are twins.
    """
    ids = halves(sets["doc_id"], ">u8")
    order = np.lexsort((ids[:, 1], ids[:, 0], sets["rank"].to_numpy(), column(sets, "check"), column(sets, "key")))
    key, check, docs = (column(sets, name)[order] for name in ("key", "check", "doc"))
    first = first_of_runs(key, check)
    group = np.cumsum(first) - 1
    keeper = docs[first]
    unique = _pairs(key[first], check[first])
    new = np.ones(len(keeper), np.bool_)
    for before in earlier:
        rows, places = among(_pairs(column(before, "key"), column(before, "check")), unique)
        keeper[places] = column(before, "keeper")[rows]
        new[places] = False
    kept: list[Any] = [key[first][new], check[first][new], keeper[new]]
    twin = docs != keeper[group]
    images = sets["images"].to_numpy()[order]
    twins: list[Any] = [blocks(docs[twin]), docs[twin], keeper[group][twin], images[twin]]
    return pa.table(kept, schema=schema.SET_KEEPERS), pa.table(twins, schema=schema.SET_TWINS)


def _pairs(key: Docs, check: Docs) -> Ids:
    """Both as one value of 16 bytes, which compares as (key, check) does."""
    return np.stack([key, check], axis=1).astype(">u8").view("S16").reshape(-1)


def among(values: Ids, ordered: Ids) -> tuple[Places, Places]:
    """(rows of the values that stand in an ascending array, their places there)."""
    if not len(ordered):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    rows = np.flatnonzero(ordered[places] == values)
    return rows, places[rows]
