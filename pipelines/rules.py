"""The text rules: scores of a page, kept also where they pass, and the rules that drop single blocks.

Definitions are those of OBELICS (OB), Gopher (GO) and FineWeb (FW); each threshold stands beside its source. A rule on
blocks asks only of prose what prose has: headings, captions and blocks beside an image are immune (OC), code and tables
too, and a list is judged as a whole by the mean of its items, so that a menu goes and a list of ingredients stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from pipelines import tally
from pipelines.tally import NAMES, Array

GOPHER = ("the", "be", "to", "of", "and", "that", "have", "with")  # GO
SHORT = 50  # words of a block that two of Gopher's words redeem
IMMUNE = frozenset(("h1", "h2", "h3", "h4", "h5", "h6", "figcaption", "pre", "table"))
LISTED = frozenset(("li", "dt", "dd"))
COLUMN = {name: place for place, name in enumerate(NAMES)}


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockRules:
    """Bounds on a block of prose; None switches a rule off. The defaults are the preset kosmos1."""

    min_words: int | None = 4  # OB
    max_words: int | None = 1000  # OB
    character_repetition: float | None = 0.2  # OB 0.1, which drops one paragraph of dialogue in ten
    word_repetition: float | None = 0.1  # OB
    flagged_words: float | None = 0.01  # OB
    special_characters: float | None = None
    stopwords: float | None = None
    punctuation: float | None = None


def kosmos1() -> BlockRules:
    """The loosest preset: bounds on words and repetition."""
    return BlockRules()


def obelics() -> BlockRules:
    """All block rules of OBELICS."""
    return BlockRules(character_repetition=0.1, special_characters=0.3, stopwords=0.3, punctuation=0.001)


@cache
def lists() -> dict[str, frozenset[str]]:
    """The word lists that ship beside this file."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in resources.files("pipelines").joinpath("words.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
            found[name] = set()
        elif not line.startswith("#"):
            found[name].update(line.split())
    return {key: frozenset(words) for key, words in found.items()}


@cache
def _lookup() -> tuple[Array, Array]:
    words = lists()
    return tally.lookup(
        (
            (words["stopwords"], tally.STOP),
            (words["flagged"], tally.FLAGGED),
            (words["spam"], tally.SPAM),
            (GOPHER, tally.GOPHER),
        )
    )


def measure(texts: Sequence[str], *, whole: bool = True) -> Array:
    """Scores of each text, f64[len(texts), len(NAMES)], in the order of NAMES.

    whole: False leaves those at 0 that only pages are asked for (lines, n-grams), which halves the time.
    """
    lower = [text.lower() for text in texts]
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in lower], out=offsets[1:])
    joined = tally.codes("".join(lower))
    scores: Array = tally.blocks(joined, offsets, tally.classes(), *_lookup(), whole)
    return scores


def page(texts: Sequence[str]) -> Array:
    """Scores of a page whose blocks are these, f64[len(NAMES)]."""
    scores: Array = measure(["\n".join(texts)])[0]
    return scores


def failing(kinds: Sequence[str], texts: Sequence[str], beside: Sequence[bool], rules: BlockRules) -> list[str]:
    """For each block the first rule that it fails, or "". beside: whether it stands next to an image."""
    if not texts:
        return []
    scores = measure(texts, whole=False)
    words = scores[:, COLUMN["words"]].copy()
    start = 0
    while start < len(kinds):  # a list has the mean words of its items
        end = start + 1
        if kinds[start] in LISTED:
            while end < len(kinds) and kinds[end] in LISTED:
                end += 1
            if rules.min_words is not None and words[start:end].mean() >= rules.min_words:
                words[start:end] = np.maximum(words[start:end], rules.min_words)
        start = end
    prose = np.array([kind not in IMMUNE and not near for kind, near in zip(kinds, beside, strict=True)])
    result = [""] * len(texts)
    for rule, failed in reversed(_bounds(scores, words, rules)):  # the first rule has the last word
        if rule != "flagged_words":
            failed &= prose
        for place in np.flatnonzero(failed).tolist():
            result[place] = rule
    return result


def _bounds(scores: Array, words: Array, rules: BlockRules) -> list[tuple[str, Array]]:
    """Each rule that is on, in order, with the blocks that fail it."""
    found: list[tuple[str, Array]] = []
    if rules.min_words is not None:
        found.append(("words", words < rules.min_words))
    if rules.max_words is not None:
        found.append(("words", words > rules.max_words))
    for name in ("character_repetition", "word_repetition", "special_characters"):
        bound = getattr(rules, name)
        if bound is not None:
            found.append((name, scores[:, COLUMN[name]] > bound))
    if rules.stopwords is not None:
        redeemed = (words < SHORT) & (scores[:, COLUMN["gopher_stopwords"]] >= 2)  # GO
        found.append(("stopwords", (scores[:, COLUMN["stopwords"]] < rules.stopwords) & ~redeemed))
    if rules.flagged_words is not None:
        found.append(("flagged_words", scores[:, COLUMN["flagged_words"]] > rules.flagged_words))
    if rules.punctuation is not None:
        short = words < 12  # OB asks it from 12 tokens
        found.append(("punctuation", (scores[:, COLUMN["punctuation"]] < rules.punctuation) & ~short))
    return found
