"""Duplicates planted among the good pages: the same address twice, the same text elsewhere, nearly the same text.

Within a cluster any two pages are duplicates of one another, so exactly one is to be kept, whatever the order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pipelines.smallweb.markup import Figure, Part, Text
from pipelines.smallweb.page import Page, jaccard
from pipelines.smallweb.prose import Dice, Writer
from pipelines.smallweb.sites import write

NEAR = 0.9  # least exact Jaccard of word 5-grams between any two pages of a near cluster
SENTENCE_END = re.compile(r'(?<=[.!?]) (?=["A-Z])')


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How many clusters of a kind, and in which crawls (0 or 1) their original and their copies are captured."""

    relation: str
    same_text: bool
    crawls: tuple[int, ...]
    clusters: int


PLANS = (
    Plan(relation="url", same_text=False, crawls=(0, 0), clusters=5),
    Plan(relation="url", same_text=False, crawls=(1, 1), clusters=4),
    Plan(relation="url", same_text=False, crawls=(0, 1), clusters=8),
    Plan(relation="url", same_text=True, crawls=(0, 1), clusters=8),
    Plan(relation="url", same_text=True, crawls=(0, 0, 1), clusters=2),
    Plan(relation="exact", same_text=True, crawls=(0, 0), clusters=7),
    Plan(relation="exact", same_text=True, crawls=(1, 1), clusters=5),
    Plan(relation="exact", same_text=True, crawls=(0, 1), clusters=8),
    Plan(relation="exact", same_text=True, crawls=(0, 0, 1, 1), clusters=2),
    Plan(relation="near", same_text=False, crawls=(0, 0), clusters=6),
    Plan(relation="near", same_text=False, crawls=(1, 1), clusters=4),
    Plan(relation="near", same_text=False, crawls=(0, 1), clusters=8),
    Plan(relation="near", same_text=False, crawls=(0, 0, 1), clusters=2),
)


def recapture(page: Page, dice: Dice, same_text: bool) -> Page:
    """The same address again, with its text as it was or written anew."""
    if same_text:
        return replace(page, salt="again")
    fresh = write(dice, page.host, page.topic, page.kind, len(page.figures()))
    return replace(fresh, url=page.url)


def reprint(page: Page, dice: Dice) -> Page:
    """The same text on another host, in another frame, at times without the pictures that have no caption."""
    url = f"https://mirror{dice.below(4)}.copies.example/{page.topic}/{dice.below(100_000)}.html"
    parts = page.parts
    if dice.chance(50):
        parts = tuple(part for part in parts if not isinstance(part, Figure) or part.caption)
    return replace(page, url=url, parts=parts, frame=dice.pick(("bare", "blog", "article")), markup="plain")


def edited(page: Page, dice: Dice) -> Page:
    """Nearly the same text on another host: one sentence more, less or other."""
    writer = Writer(dice, page.topic)
    spots = [spot for spot, part in enumerate(page.parts) if isinstance(part, Text) and part.block == "p"]
    spot = dice.pick(spots[1:] or spots)
    part = page.parts[spot]
    assert isinstance(part, Text)
    sentences = SENTENCE_END.split(part.text)
    where = dice.below(len(sentences))
    match dice.below(3):
        case 0:
            sentences.insert(where, writer.sentence())
        case 1 if len(sentences) > 1:
            sentences.pop(where)
        case _:
            sentences[where] = writer.sentence()
    parts: list[Part] = list(page.parts)
    parts[spot] = Text(block="p", text=" ".join(sentences))
    url = f"https://www.reprints{dice.below(3)}.example/{page.topic}-{dice.below(100_000)}"
    return replace(page, url=url, parts=tuple(parts), frame=dice.pick(("bare", "blog")), markup="plain")


def nearly(others: list[Page], dice: Dice) -> Page | None:
    """An edited page that is near to all others of its cluster and equal to none; None if hard to find."""
    last = others[-1]
    for _ in range(40):
        candidate = edited(last, dice)
        shingles = candidate.shingles()
        if all(NEAR <= jaccard(shingles, other.shingles()) < 1.0 for other in others):
            return candidate
    return None


def copies(page: Page, plan: Plan, dice: Dice) -> list[Page] | None:
    """The further captures of a cluster, or None if the page is too short for the plan."""
    made: list[Page] = []
    change: Callable[[], Page | None] = {
        "url": lambda: recapture(page, dice, plan.same_text),
        "exact": lambda: reprint(page, dice),
        "near": lambda: nearly([page, *made], dice),
    }[plan.relation]
    for _ in plan.crawls[1:]:
        another = change()
        if another is None:
            return None
        made.append(another)
    return made


def plant(crawls: tuple[list[Page], list[Page]], seed: int) -> tuple[list[Page], list[Page]]:
    """The two crawls with every plan's clusters: originals marked, copies added."""
    dice = Dice(seed, "copies")
    first, second = (list(pages) for pages in crawls)
    result = (first, second)
    free = tuple(iter_free(pages, dice) for pages in result)
    for plan in PLANS:
        for number in range(plan.clusters):
            for spot in free[plan.crawls[0]]:
                original = result[plan.crawls[0]][spot]
                further = copies(original, plan, dice)
                if further is None:
                    continue
                name = (
                    f"{plan.relation}-{''.join(map(str, plan.crawls))}-{'same' if plan.same_text else 'other'}-{number}"
                )
                result[plan.crawls[0]][spot] = replace(original, cluster=name)
                for crawl, page in zip(plan.crawls[1:], further, strict=True):
                    result[crawl].append(replace(page, cluster=name, relation=plan.relation))
                break
    return result


def iter_free(pages: list[Page], dice: Dice) -> Iterator[int]:
    """Places of plain good pages of some length, each once, in an order of the dice."""
    plain = ("article", "blog", "docs", "shop", "recipe", "forum")
    spots = [spot for spot, page in enumerate(pages) if page.kind in plain and len(page.words()) > 220]
    return iter(dice.shuffled(spots))
