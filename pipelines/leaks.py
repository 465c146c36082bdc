"""`leaks`: which evaluation sets the pages and their images hold, set by set, from what was told of every unit: by
decontaminate of texts, by match of images."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError
from engine.ledger import ABANDONED, Ledger
from engine.recipe import Recipe
from engine.stage import Stage
from engine.work import read_rows
from pipelines.decontaminate import Known, known
from pipelines.images import evaluation
from pipelines.overlaps import distinct
from pipelines.reasons import Reason

STAGE = "decontaminate"
IMAGES = "match"
READS = 16  # units looked into at once
HASH_BITS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """What is known of one set, over all units that are done.

    kind: text or image. items: of the set. findable: texts with a run of words that counts (the others are too short,
    or templates), images with a perceptual hash (the others are flat or cannot be decoded, and are found as the same
    bytes only). hit: items of which some page has a run, or an image that looks like it. leaked: for which something
    goes, a page that has `decontaminate.min_covered` or more of it, an image that the gate had let pass. pages: with
    a run or an image of the set; removed: pages that an item of this set removes, or images. mean_covered, max_covered:
    over the items that are hit, the share that the page has which has most, or the share of the bits of the perceptual
    hash that the nearest image has; 0 if none is.
    """

    set: str
    kind: str = "text"
    items: int
    findable: int
    hit: int
    leaked: int
    pages: int
    removed: int
    mean_covered: float
    max_covered: float


def leaks(recipe: Recipe, ledger: Ledger) -> list[Leak]:
    """A line a set, in the order of `decontaminate.sets`, then of `decontaminate.images` once images were matched;
    ConfigError without sets, or if their files are others now, or before anything has run."""
    texts = next((step.stage for step in recipe.steps if step.stage.name == STAGE), None)
    images = next((step.stage for step in recipe.steps if step.stage.name == IMAGES), None)
    if images is not None and not images.config.evaluation.sets:
        images = None
    if not texts and not images:
        raise ConfigError(
            "no evaluation set is configured; give --set decontaminate.sets=name=path,... or "
            "decontaminate.images=name=folder,..."
        )
    there = ledger.check(create=False)
    found = [_texts(texts, ledger)] if texts and there and ledger.committed(texts.key) else []
    if images and there:
        found += [_images(images, ledger, units)] if (units := _matched(images, ledger)) else []
    if not found:
        raise ConfigError(
            f"{ledger.store.url} holds no unit that was compared with these sets; run `kosmos run {recipe.name}` first"
        )
    return [leak for some in found for leak in some]


def _texts(stage: Stage, ledger: Ledger) -> list[Leak]:
    items = known(stage.config)
    # the most that a page has of each item, by place
    most = np.zeros(len(items.item_sets), np.float32)
    bad = np.zeros(len(most), np.bool_)
    pages, removed = (np.zeros(len(items.names), np.int64) for _ in range(2))
    columns = ("row", "set", "item", "covered", "reason")
    for row, number, line, covered, reason in _told(stage, ledger, "contaminated", columns):
        gone = reason > 0
        place = places(items, number, line)
        np.maximum.at(most, place, covered)
        bad[place[gone]] = True
        pages += _pages(row, number, len(pages))
        removed += _pages(row[gone], number[gone], len(pages))
    return [_leak(items, number, most, bad, int(pages[number]), int(removed[number])) for number in range(len(pages))]


def _matched(stage: Stage, ledger: Ledger) -> list[str]:
    """Units of the generations that stand."""
    settled = ledger.settled(stage.key)
    standing = [n for n in ledger.generations(stage.key) if settled.get(n, {}).get("state") != ABANDONED]
    named = [f"{generation.digest[:12]}-" for n in standing if (generation := ledger.generation(stage.key, n))]
    return [unit for unit in sorted(ledger.committed(stage.key)) if unit.startswith(tuple(named))]


def _images(stage: Stage, ledger: Ledger, units: list[str]) -> list[Leak]:
    sets = evaluation.known(stage.config.evaluation)
    columns = ("doc", "set", "item", "distance", "reason")
    told = list(_told(stage, ledger, "leaks", columns, units))
    doc, number, item, distance, reason = (np.concatenate(column) for column in zip(*told, strict=True))
    made = []
    for place, name in enumerate(sets.names):
        mine = number == place
        gone = mine & (reason == Reason.IMAGE_CONTAMINATED)
        hit, which = np.unique(item[mine], return_inverse=True)
        nearest = np.full(len(hit), HASH_BITS)
        np.minimum.at(nearest, which, distance[mine])
        covered = 1 - nearest / HASH_BITS
        made.append(
            Leak(
                set=name,
                kind="image",
                items=int(sets.items[place]),
                findable=int(sets.findable[place]),
                hit=len(hit),
                leaked=len(np.unique(item[gone])),
                pages=len(np.unique(doc[mine])),
                removed=int(np.count_nonzero(gone)),
                mean_covered=float(covered.mean()) if len(hit) else 0.0,
                max_covered=float(covered.max(initial=0)),
            )
        )
    return made


def _told(
    stage: Stage, ledger: Ledger, output: str, columns: tuple[str, ...], units: list[str] | None = None
) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    """The columns of what each unit told."""
    with ThreadPoolExecutor(READS) as pool:
        tables = pool.map(
            lambda commit: read_rows(ledger.store, commit.outputs[output], columns), ledger.commits(stage.key, units)
        )
        for table in tables:
            yield tuple(table[name].to_numpy() for name in columns)


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
