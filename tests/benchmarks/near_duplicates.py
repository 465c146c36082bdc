"""Pairs of near duplicates planted in real prose, with their exact Jaccard similarity of normalised word 5-grams.

`Prose` is cut into words, each with what follows it up to the next, so that any sequence of them is a text; `plant`
makes a page of it and an edited copy that is as alike as asked for. Three kinds of edits, as copies on the web differ:
words replaced all over the text; a block put in or taken out; blocks moved, or other boilerplate before each copy.
Similarity is counted here by numbers of words and numpy, without the product's normaliser, hashes or kernels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Grams = npt.NDArray[np.uint64]

GRAM = 5
KINDS = ("words", "block", "order")
WORD = re.compile(r"[^\W_]+[\W_]*")
FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 1], np.uint64)
SPREAD = np.uint64(0xFF51AFD7ED558CCD)
SHIFT = np.uint64(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prose:
    """Words of texts one after another. pieces: each with what follows it. ids: equal for words equal when folded."""

    pieces: Sequence[str]
    ids: Numbers

    def text(self, words: Numbers) -> str:
        """The text of these words, by place."""
        return "".join([self.pieces[place] for place in words.tolist()])


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A page and its copy. jaccard: of their sets of 5-grams, exact. kind: one of KINDS. focused: see `plant`."""

    left: str
    right: str
    jaccard: float
    kind: str
    focused: bool


def prose(texts: Sequence[str]) -> Prose:
    """The words of some texts, which must be in a script that puts spaces between words."""
    pieces = [piece for text in texts for piece in WORD.findall(text)]
    known: dict[str, int] = {}
    numbers = {piece: known.setdefault(_folded(piece), len(known)) for piece in dict.fromkeys(pieces)}
    return Prose(pieces=pieces, ids=np.array([numbers[piece] for piece in pieces], np.int64))


def _folded(piece: str) -> str:
    word = re.sub(r"[\W_]", "", unicodedata.normalize("NFKD", piece).casefold())
    return "".join(sign for sign in word if not unicodedata.combining(sign))


def grams(ids: Numbers) -> Grams:
    """The set of hashes of 5-grams of words by number, ascending; of fewer words one, of none none."""
    if len(ids) < GRAM:
        ids = np.concatenate([ids, np.full(GRAM - len(ids), -1, np.int64)]) if len(ids) else ids
    rows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.uint64), GRAM) if len(ids) else np.zeros((0, GRAM))
    mixed = (rows.astype(np.uint64) + np.uint64(1)) * SPREAD
    mixed ^= mixed >> SHIFT
    sums = (mixed * FACTORS).sum(axis=1, dtype=np.uint64) * SPREAD
    return np.unique(sums ^ sums >> SHIFT)


def jaccard(left: Grams, right: Grams) -> float:
    """Of two ascending sets; 0 of two empty ones."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / max(len(left) + len(right) - shared, 1)


def plant(
    source: Prose, num: int, *, seed: int = 0, words: tuple[int, int] = (200, 2000), focus: float = 0.25
) -> Iterator[Pair]:
    """`num` pairs, the kinds by turns, similarity .5-.98 evenly but for the share `focus`, which is at .78-.82.

    words: of a page, from and to, evenly by logarithm. Pages of one call are cut from one source and may overlap: what
    is compared are pairs.
    """
    draw = np.random.default_rng(seed)
    edits = (replaced, block, order)
    for place in range(num):
        focused = bool(draw.random() < focus)
        wanted = draw.uniform(0.78, 0.82) if focused else draw.uniform(0.5, 0.98)
        length = int(np.exp(draw.uniform(*np.log(words))))
        first = int(draw.integers(0, len(source.ids) - length))
        page = np.arange(first, first + length)
        kind = place % len(KINDS)
        left, right = edits[kind](page, wanted, source, draw)
        if draw.random() < 0.5:
            left, right = right, left
        similarity = jaccard(grams(source.ids[left]), grams(source.ids[right]))
        texts = source.text(left), source.text(right)
        yield Pair(left=texts[0], right=texts[1], jaccard=similarity, kind=KINDS[kind], focused=focused)


def families(source: Prose, num: int, *, seed: int = 0, versions: int = 8, wanted: float = 0.9) -> Iterator[list[str]]:
    """Pages with versions that each differ a little from the one before: the last are not like the first any more."""
    draw = np.random.default_rng(seed)
    edits = (replaced, block, order)
    for _ in range(num):
        length = int(draw.integers(300, 1500))
        first = int(draw.integers(0, len(source.ids) - length))
        pages = [np.arange(first, first + length)]
        while len(pages) < versions:
            pages.append(edits[draw.integers(0, len(edits))](pages[-1], wanted, source, draw)[1])
        yield [source.text(page) for page in pages]


def replaced(page: Numbers, wanted: float, source: Prose, draw: np.random.Generator) -> tuple[Numbers, Numbers]:
    """Words replaced all over the text: each takes with it the 5-grams that it stands in."""
    lost = (len(page) - GRAM + 1) * (1 - wanted) / (1 + wanted)
    num = max(1, round(lost / GRAM))
    places = (np.arange(num) + draw.random(num)) * len(page) / num  # one in each stretch: few lie side by side
    copy = page.copy()
    copy[np.minimum(places.astype(np.int64), len(page) - 1)] = draw.integers(0, len(source.ids), num)
    return page, copy


def block(page: Numbers, wanted: float, source: Prose, draw: np.random.Generator) -> tuple[Numbers, Numbers]:
    """A block of other words put in somewhere, or one taken out."""
    cut = int(draw.integers(0, len(page)))
    if draw.random() < 0.5:
        num = max(1, round(len(page) * (1 / wanted - 1)) - GRAM + 1)
        return page, np.concatenate([page[:cut], _elsewhere(num, source, draw), page[cut:]])
    num = max(1, round(len(page) * (1 - wanted)) - GRAM + 1)
    cut = min(cut, len(page) - num)
    return page, np.concatenate([page[:cut], page[cut + num :]])


def order(page: Numbers, wanted: float, source: Prose, draw: np.random.Generator) -> tuple[Numbers, Numbers]:
    """Blocks of the text in another order, or another head before each copy."""
    if draw.random() < 0.5:
        heads = len(page) * (1 / wanted - 1)
        share = draw.uniform(0.2, 0.8)
        left = np.concatenate([_elsewhere(max(1, int(heads * share)), source, draw), page])
        return left, np.concatenate([_elsewhere(max(1, int(heads * (1 - share))), source, draw), page])
    lost = (len(page) - GRAM + 1) * (1 - wanted) / (1 + wanted)
    num = max(1, round(lost / (GRAM - 1)))
    cuts = np.unique(draw.integers(1, len(page), num))
    blocks = np.split(page, cuts)
    return page, np.concatenate([blocks[place] for place in draw.permutation(len(blocks))])


def _elsewhere(num: int, source: Prose, draw: np.random.Generator) -> Numbers:
    first = int(draw.integers(0, len(source.ids) - num))
    return np.arange(first, first + num)
