"""`leaks`: which evaluation sets the pages hold, set by set, from what decontaminate told of every unit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError
from engine.ledger import Ledger
from engine.recipe import Recipe
from engine.work import read_rows
from pipelines.decontaminate import Known, known
from pipelines.overlaps import distinct

STAGE = "decontaminate"
READS = 16  # units looked into at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """What is known of one set, over all units that are done.

    items: of the set. findable: those with a run of words that counts; the others are too short, or templates. hit:
    items of which some page has a run; leaked: of which some page has `decontaminate.min_covered` or more, so that the
    page is out. pages: pages with a run of the set; removed: those that an item of this set removes. mean_covered,
    max_covered: over the items that are hit, the share that the page has which has most; 0 if none is.
    """

    set: str
    items: int
    findable: int
    hit: int
    leaked: int
    pages: int
    removed: int
    mean_covered: float
    max_covered: float


def leaks(recipe: Recipe, ledger: Ledger) -> list[Leak]:
    """A line a set, in the order of `decontaminate.sets`; ConfigError without sets, or if their files are others now,
    or before anything has run."""
    if not any(step.stage.name == STAGE for step in recipe.steps):
        raise ConfigError("no evaluation set is configured; give --set decontaminate.sets=name=path,...")
    stage = recipe.stage(STAGE)
    if not ledger.check(create=False) or not ledger.committed(stage.key):
        raise ConfigError(
            f"{ledger.store.url} holds no unit that was compared with these sets; run `kosmos run {recipe.name}` first"
        )
    items = known(stage.config)
    # the most that a page has of each item, by place
    most = np.zeros(len(items.item_sets), np.float32)
    bad = np.zeros(len(most), np.bool_)
    pages, removed = (np.zeros(len(items.names), np.int64) for _ in range(2))
    columns = ("row", "set", "item", "covered", "reason")
    with ThreadPoolExecutor(READS) as pool:
        tables = pool.map(
            lambda commit: read_rows(ledger.store, commit.outputs["contaminated"], columns), ledger.commits(stage.key)
        )
        for table in tables:
            row, number, line, covered, reason = (table[name].to_numpy() for name in columns)
            gone = reason > 0
            place = places(items, number, line)
            np.maximum.at(most, place, covered)
            bad[place[gone]] = True
            pages += _pages(row, number, len(pages))
            removed += _pages(row[gone], number[gone], len(pages))
    return [_leak(items, number, most, bad, int(pages[number]), int(removed[number])) for number in range(len(pages))]


def places(items: Known, sets: npt.NDArray[np.uint16], lines: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """The place among all items of each (set, line) that was told."""
    keys = items.item_sets.astype(np.int64) << 32 | items.item_lines
    found: npt.NDArray[np.int64] = np.searchsorted(keys, sets.astype(np.int64) << 32 | lines)
    return found


def _leak(
    items: Known, number: int, most: npt.NDArray[np.float32], bad: npt.NDArray[np.bool_], pages: int, removed: int
) -> Leak:
    mine = items.item_sets == number
    hit = most[mine & (most > 0)].astype(np.float64)
    return Leak(
        set=items.names[number],
        items=int(np.count_nonzero(mine)),
        findable=int(np.count_nonzero(items.findable & mine)),
        hit=len(hit),
        leaked=int(np.count_nonzero(bad & mine)),
        pages=pages,
        removed=removed,
        mean_covered=float(hit.mean()) if len(hit) else 0.0,
        max_covered=float(hit.max(initial=0)),
    )


def _pages(rows: npt.NDArray[np.uint32], sets: npt.NDArray[np.uint16], num_sets: int) -> npt.NDArray[np.int64]:
    """Pages of each set, each page once."""
    once = distinct(rows.astype(np.int64) * num_sets + sets)
    return np.bincount(once % num_sets, minlength=num_sets)
