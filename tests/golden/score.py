"""What an extractor's answer is worth beside the expected stream: image recall and precision, order F1, text F1.

An answer is a list of items in reading order, `{"text": ...}` or `{"image": address}`; kinds of blocks are optional.
Words are compared folded to lower case without punctuation, a CJK character being a word. Nothing here depends on the
engine: only the standard library.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

Item = dict[str, Any]

IMAGE_WORDS = 10  # what an image weighs in the order, in words
TAKEN = 0.5  # share of the word pairs of an optional text from which an answer holds it
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Of one page. Images: found of expected and found of answered, as counts; the others are F1 scores in [0, 1]."""

    images_found: int
    images_expected: int
    images_answered: int
    order: float
    text: float
    kinds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """Of several pages: images over all of them together (1.0 of none), the others the mean of the pages."""

    pages: int
    image_recall: float
    image_precision: float
    image_f1: float
    order: float
    text: float
    kinds: float


def words(text: str) -> list[str]:
    """Words of a text: runs of letters and digits, folded; each CJK character alone."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold().replace("\u00ad", "").replace("\u200b", ""))


def address(url: str) -> str:
    """An address in one spelling: host in lower case, no fragment, what is not ASCII escaped."""
    try:
        parts = urlsplit(url.strip())
        plain = parts.port in (None, {"http": 80, "https": 443}.get(parts.scheme.lower()))
        port = "" if plain else f":{parts.port}"
    except ValueError:
        return url
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    path = re.sub(r"%[0-9a-fA-F]{2}", lambda match: match[0].upper(), path)
    for mark in "!'()*~":  # browsers and libraries differ on these
        path = path.replace(f"%{ord(mark):02X}", mark)
    return urlunsplit((parts.scheme.lower(), (parts.hostname or "").lower() + port, path, query, ""))


def score(expected: Sequence[Item], answer: Sequence[Item]) -> Score:
    """Compare two streams; optional items of the expected one count neither for nor against."""
    wanted = _required(expected, answer)
    want_images = Counter(address(item["image"]) for item in wanted if "image" in item)
    got_images = Counter(address(item["image"]) for item in answer if "image" in item)
    return Score(
        images_found=(want_images & got_images).total(),
        images_expected=want_images.total(),
        images_answered=got_images.total(),
        order=_f1_of_order(_sequence(wanted), _sequence(answer)),
        text=_f1_of_bags(_bag(wanted), _bag(answer)),
        kinds=_f1_of_bags(_kinds(wanted), _kinds(answer)),
    )


def total(scores: Iterable[Score]) -> Total:
    """Sum up several pages."""
    pages = list(scores)
    found, expected, answered = (
        sum(getattr(page, name) for page in pages) for name in ("images_found", "images_expected", "images_answered")
    )
    recall, precision = found / expected if expected else 1.0, found / answered if answered else 1.0
    num = max(1, len(pages))
    return Total(
        pages=len(pages),
        image_recall=recall,
        image_precision=precision,
        image_f1=2 * found / (expected + answered) if expected + answered else 1.0,
        order=sum(page.order for page in pages) / num,
        text=sum(page.text for page in pages) / num,
        kinds=sum(page.kinds for page in pages) / num,
    )


def _required(expected: Sequence[Item], answer: Sequence[Item]) -> list[Item]:
    """The expected items, with those optional ones that the answer holds."""
    said = [word for item in answer for word in words(item.get("text", ""))]
    pairs = set(pairwise(said))
    single = set(said)
    shown = {address(item["image"]) for item in answer if "image" in item}
    kept: list[Item] = []
    for item in expected:
        if not item.get("optional"):
            kept.append(item)
        elif "image" in item:
            if address(item["image"]) in shown:
                kept.append(item)
        else:
            own = words(item["text"])
            mine = list(pairwise(own))
            held = sum(pair in pairs for pair in mine) / len(mine) if mine else sum(word in single for word in own)
            if held >= TAKEN:
                kept.append(item)
    return kept


def _sequence(items: Sequence[Item]) -> list[str]:
    """Words and images in order; an image stands for IMAGE_WORDS words that no text has."""
    found: list[str] = []
    for item in items:
        if "image" in item:
            found += [f"<{address(item['image'])}>"] * IMAGE_WORDS
        else:
            found += words(item["text"])
    return found


def _bag(items: Sequence[Item]) -> Counter[Any]:
    return Counter(word for item in items if "image" not in item for word in words(item["text"]))


def _kinds(items: Sequence[Item]) -> Counter[Any]:
    return Counter((item.get("block", ""), *words(item["text"])) for item in items if "image" not in item)


def _f1_of_bags(wanted: Counter[Any], got: Counter[Any]) -> float:
    whole = wanted.total() + got.total()
    return 2 * (wanted & got).total() / whole if whole else 1.0


def _f1_of_order(wanted: Sequence[str], got: Sequence[str]) -> float:
    """ROUGE-L: the longest common subsequence (bit-parallel, Hyyrö 2004) over the mean length."""
    whole = len(wanted) + len(got)
    if not whole:
        return 1.0
    places: dict[str, int] = {}
    for place, word in enumerate(wanted):
        places[word] = places.get(word, 0) | 1 << place
    mask = (1 << len(wanted)) - 1
    row = mask
    for word in got:
        if found := places.get(word):
            both = row & found
            row = (row + both | row - both) & mask
    return 2 * (len(wanted) - row.bit_count()) / whole
