"""The text rules: scores of a page, kept also where they pass, and the rules that drop single blocks.

Definitions are those of OBELICS (OB), Gopher (GO) and FineWeb (FW); each threshold stands beside its source. A rule on
blocks asks only of prose what prose has: headings, captions and blocks beside an image are immune (OC), code and tables
too, and a list is judged as a whole by the mean of its items, so that a menu goes and a list of ingredients stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from pipelines import tags as t
from pipelines import tally
from pipelines.alphabet import classes, lower_codes
from pipelines.kernel import compiled
from pipelines.tally import NAMES, Array

Kernel = Callable[..., Any]

GOPHER = ("the", "be", "to", "of", "and", "that", "have", "with")  # GO
SHORT = 50  # words of a block that two of Gopher's words redeem
IMMUNE = np.isin(t.KINDS, ("h1", "h2", "h3", "h4", "h5", "h6", "figcaption", "pre", "table"))
DT, DD = map(t.KINDS.index, ("dt", "dd"))
FLAGGED = "flagged_words"
RULES = (
    "", "words", "character_repetition", "word_repetition", "special_characters", "stopwords", FLAGGED, "punctuation"
)  # fmt: skip
FLAGGED_N = RULES.index(FLAGGED)
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


def count(text: Array, ends: Array) -> Counted:
    """The words of blocks of text in UTF-8, u8[N]; ends i64[B + 1]: where they start in it, and where the last ends."""
    num = len(ends) - 1
    points, offsets = np.empty(len(text), np.uint32), np.empty(num + 1, np.int64)
    if tally.lowered(text, ends, lower_codes(), points, offsets):
        whole = text.tobytes()
        blocks = [whole[begin:end].decode().lower() for begin, end in itertools.pairwise(ends.tolist())]
        points = tally.codes("".join(blocks))
        np.cumsum([len(block) for block in blocks], out=offsets[1:])
    points = points[: offsets[-1]]
    counts = np.empty((num, len(tally.COUNTS)), np.int64)
    starts = np.zeros(num + 1, np.int64)
    room = len(points) // 2 + num + 1
    hashes, lengths = np.empty(room, np.uint64), np.empty(room, np.int32)
    tally.tokens(points, offsets, classes(), *_lookup(), counts, hashes, lengths, starts)
    return Counted(text=points, offsets=offsets, counts=counts, hashes=hashes, lengths=lengths, starts=starts)


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


def failing(kinds: Array, beside: Array, blocks: Counted, rules: BlockRules) -> Array:
    """For each block the first rule that it fails, u8[B], place in RULES; 0 if none.

    kinds: u8[B], place in tags.KINDS. beside: bool[B], whether it stands next to an image.
    """
    words = blocks.counts[:, 0].astype(np.float64)
    if rules.min_words is not None:
        even_out(kinds, words, rules.min_words)
    prose = ~(IMMUNE[kinds] | beside)
    result = np.zeros(len(kinds), np.uint8)
    for rule, failed in reversed(_bounds(blocks, words, prose, rules)):  # the first rule has the last word
        result[failed if rule == FLAGGED else failed & prose] = RULES.index(rule)
    keep_terms(kinds, result)
    return result


def _even_out(kinds, words, bound):  # type: ignore[no-untyped-def]
    """Lists whose items have that many words in the mean have them in each."""
    num = len(kinds)
    start = 0
    while start < num:
        end = start + 1
        if kinds[start] == t.ITEM or DT <= kinds[start] <= DD:
            total = words[start]
            items = np.int64(kinds[start] != DT)
            while end < num and (kinds[end] == t.ITEM or DT <= kinds[end] <= DD):
                total += words[end]
                items += kinds[end] != DT
                end += 1
            if total >= max(items, 1) * bound:
                for place in range(start, end):
                    words[place] = max(words[place], bound)
        start = end


def _keep_terms(kinds, result):  # type: ignore[no-untyped-def]
    """A term is the heading of its definitions: it goes when they all do, never for its own length."""
    num = len(kinds)
    place = 0
    while place < num:
        terms = place
        while place < num and kinds[place] == DT:
            place += 1
        definitions = place
        fails = True
        while place < num and kinds[place] == DD:
            fails &= result[place] != 0
            place += 1
        for term in range(terms, definitions):
            if result[term] != FLAGGED_N:
                result[term] = result[definitions] if fails and place > definitions else 0
        place = max(place, terms + 1)


even_out: Kernel = compiled(_even_out, allocates=False)
keep_terms: Kernel = compiled(_keep_terms, allocates=False)


def _bounds(blocks: Counted, words: Array, prose: Array, rules: BlockRules) -> list[tuple[str, Array]]:
    """Each rule that is on, in order, with the blocks that fail it; words: of each block, or of its list."""
    found: list[tuple[str, Array]] = []

    def counts(name: str) -> Array:
        column: Array = blocks.counts[:, tally.COUNTS.index(name)]
        return column

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
        found.append(("special_characters", counts("special") / sizes > rules.special_characters))
    if rules.stopwords is not None:
        gopher = sum(counts("gopher") >> place & 1 for place in range(len(GOPHER)))
        redeemed = (words < SHORT) & (gopher >= 2)  # GO
        found.append(("stopwords", (counts("stop") / np.maximum(counts("words"), 1) < rules.stopwords) & ~redeemed))
    if rules.flagged_words is not None:
        found.append((FLAGGED, counts("flagged") / np.maximum(counts("words"), 1) > rules.flagged_words))
    if rules.punctuation is not None:
        short = words < 12  # OB asks it from 12 tokens
        found.append(("punctuation", (counts("ends") / np.maximum(counts("tokens"), 1) < rules.punctuation) & ~short))
    return found
