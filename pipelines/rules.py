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
from pipelines.alphabet import classes, lower_codes
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
    character_repetition: float | None = 0.2  # OB 0.1, which drops 3.6 % of a novel's dialogue
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
            *(((word,), tally.GOPHER << place) for place, word in enumerate(GOPHER)),
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Blocks with their words, read once for the rules on blocks and for the scores of the page."""

    text: Array  # u32[N], code points in lower case
    offsets: Array  # i64[B + 1], where blocks start in text
    counts: Array  # i64[B, len(tally.COUNTS)]
    hashes: Array  # u64[W], the words
    lengths: Array  # i32[W]
    starts: Array  # i64[B + 1], where blocks start among the words


def count(texts: Sequence[str]) -> Counted:
    """The words of some blocks."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    joined = "".join(texts)
    text = tally.codes(joined.lower() if joined.isascii() else joined)
    if not joined.isascii():
        wide = text
        text = np.empty_like(wide)
        if tally.lowered(wide, lower_codes(), text):
            blocks = [text.lower() for text in texts]
            text = tally.codes("".join(blocks))
            np.cumsum([len(text) for text in blocks], out=offsets[1:])
    counts = np.empty((len(texts), len(tally.COUNTS)), np.int64)
    starts = np.zeros(len(texts) + 1, np.int64)
    room = len(text) // 2 + len(texts) + 1
    hashes, lengths = np.empty(room, np.uint64), np.empty(room, np.int32)
    tally.tokens(text, offsets, classes(), *_lookup(), counts, hashes, lengths, starts)
    return Counted(text=text, offsets=offsets, counts=counts, hashes=hashes, lengths=lengths, starts=starts)


def page(blocks: Counted, kept: Array | None = None) -> Array:
    """Scores of a page of these blocks, or of those of them that are kept (ascending): f64[len(NAMES)]."""
    kept = np.arange(len(blocks.counts)) if kept is None else kept
    text, hashes, lengths = tally.gather(
        blocks.text, blocks.offsets, kept, blocks.hashes, blocks.lengths, blocks.starts
    )
    counts = blocks.counts[kept].sum(axis=0)
    counts[-1] = np.bitwise_or.reduce(blocks.counts[kept, -1])
    scores: Array = np.empty(len(NAMES), np.float64)
    tally.page(text, classes(), counts, hashes, lengths, scores)
    return scores


def failing(kinds: Sequence[str], beside: Sequence[bool], blocks: Counted, rules: BlockRules) -> list[str]:
    """For each block the first rule that it fails, or "". beside: whether it stands next to an image."""
    words = blocks.counts[:, 0].astype(np.float64)
    start = len(kinds) if LISTED.isdisjoint(kinds) else 0
    while start < len(kinds):  # a list has the mean words of its items
        end = start + 1
        if kinds[start] in LISTED:
            while end < len(kinds) and kinds[end] in LISTED:
                end += 1
            num = max(1, sum(kind != "dt" for kind in kinds[start:end]))
            if rules.min_words is not None and words[start:end].sum() >= num * rules.min_words:
                words[start:end] = np.maximum(words[start:end], rules.min_words)
        start = end
    prose = np.array([kind not in IMMUNE and not near for kind, near in zip(kinds, beside, strict=True)], np.bool_)
    result = [""] * len(kinds)
    for rule, failed in reversed(_bounds(blocks, words, prose, rules)):  # the first rule has the last word
        if rule != "flagged_words":
            failed &= prose
        for place in np.flatnonzero(failed).tolist():
            result[place] = rule
    _keep_terms(kinds, result)
    return result


def _keep_terms(kinds: Sequence[str], result: list[str]) -> None:
    """A term is the heading of its definitions: it goes when they all do, never for its own length."""
    place = 0 if "dt" in kinds else len(kinds)
    while place < len(kinds):
        terms = place
        while place < len(kinds) and kinds[place] == "dt":
            place += 1
        definitions = place
        while place < len(kinds) and kinds[place] == "dd":
            place += 1
        fates = result[definitions:place]
        for term in range(terms, definitions):
            if result[term] != "flagged_words":
                result[term] = fates[0] if fates and all(fates) else ""
        place = max(place, terms + 1)


def _bounds(blocks: Counted, words: Array, prose: Array, rules: BlockRules) -> list[tuple[str, Array]]:
    """Each rule that is on, in order, with the blocks that fail it; words: of each block, or of its list."""
    found: list[tuple[str, Array]] = []
    counts = dict(zip(tally.COUNTS, blocks.counts.T, strict=True))
    own = np.maximum(counts["words"], 1)
    if rules.min_words is not None:
        found.append(("words", words < rules.min_words))
    if rules.max_words is not None:
        found.append(("words", words > rules.max_words))
    if rules.character_repetition is not None or rules.word_repetition is not None:
        asked = prose.copy()
        for _, failed in found:
            asked &= ~failed
        repetition = np.empty((len(words), 2), np.float64)
        bounds = (rules.character_repetition, rules.word_repetition)
        tally.repetition(
            blocks.text, blocks.offsets, asked, blocks.hashes, blocks.lengths, blocks.starts,
            *(1.0 if bound is None else bound for bound in bounds), repetition,
        )  # fmt: skip
        if rules.character_repetition is not None:
            found.append(("character_repetition", repetition[:, 0] > rules.character_repetition))
        if rules.word_repetition is not None:
            found.append(("word_repetition", repetition[:, 1] > rules.word_repetition))
    if rules.special_characters is not None:
        sizes = np.maximum(np.diff(blocks.offsets), 1)
        found.append(("special_characters", counts["special"] / sizes > rules.special_characters))
    if rules.stopwords is not None:
        gopher = sum(counts["gopher"] >> place & 1 for place in range(len(GOPHER)))
        redeemed = (words < SHORT) & (gopher >= 2)  # GO
        found.append(("stopwords", (counts["stop"] / own < rules.stopwords) & ~redeemed))
    if rules.flagged_words is not None:
        found.append(("flagged_words", counts["flagged"] / own > rules.flagged_words))
    if rules.punctuation is not None:
        short = words < 12  # OB asks it from 12 tokens
        found.append(("punctuation", (counts["ends"] / np.maximum(counts["tokens"], 1) < rules.punctuation) & ~short))
    return found
