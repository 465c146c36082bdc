"""The reading-order stream as columns: the text of all entries in one buffer, and arrays of where each ends and what.

A page of 200 KB has some 150 entries: as objects they cost as much as its parse. `Stream.entries` shows them as such to
people and tests; nothing that runs on every page asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from pipelines import tags as t
from pipelines.kernel import compiled
from pipelines.tags import Array

Kernel = Callable[..., Any]

BLOCKS = (*t.KINDS, "")
IMAGE = len(t.KINDS)  # the kind of an entry that is no text; its block is ""


class Image(NamedTuple):
    """An image reference; `url` is canonical."""

    url: str
    alt: str = ""
    caption: str = ""
    title: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A text block, or an image where `image` is not -1."""

    text: str
    block: str
    level: int = 0
    image: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """What a page says, in reading order; the n-th entry of kind IMAGE shows the n-th image."""

    text: Array = field(default_factory=lambda: np.empty(0, np.uint8))  # UTF-8
    offsets: Array = field(default_factory=lambda: np.zeros(1, np.int64))  # i64[E + 1], of the entries in text
    kinds: Array = field(default_factory=lambda: np.empty(0, np.uint8))  # u8[E], place in BLOCKS
    levels: Array = field(default_factory=lambda: np.empty(0, np.int8))  # i8[E]
    images: list[Image] = field(default_factory=list)
    title: str = ""
    lang: str = ""
    metas: list[tuple[str, str]] = field(default_factory=list)  # name and content
    too_many_images: int = 0

    @property
    def entries(self) -> list[Entry]:
        """The entries as objects: slow, for people and tests."""
        text, found, images = self.text.tobytes(), [], 0
        offsets, kinds, levels = self.offsets.tolist(), self.kinds.tolist(), self.levels.tolist()
        for place, (kind, level) in enumerate(zip(kinds, levels, strict=True)):
            said = text[offsets[place] : offsets[place + 1]].decode("utf-8", "replace")
            found.append(Entry(said, BLOCKS[kind], level, images if kind == IMAGE else -1))
            images += kind == IMAGE
        return found

    @property
    def num_chars(self) -> int:
        """Characters of the text."""
        return int(characters(self.text))

    def lines(self, max_chars: int) -> str:
        """The texts, a line each, as far as so many characters."""
        out = np.empty(min(len(self.text) + len(self.kinds), 4 * max_chars), np.uint8)
        size = joined(self.text, self.offsets, self.kinds, max_chars, out)
        return out[:size].tobytes().decode("utf-8", "replace")

    def without(self, drop: Array) -> Stream:
        """The stream without some of its texts; drop: bool[E], never of an image."""
        text, offsets = np.empty(len(self.text), np.uint8), np.empty(len(self.offsets), np.int64)
        size = kept(self.text, self.offsets, drop, text, offsets)
        stay = ~drop
        num = int(np.count_nonzero(stay))
        return replace(
            self, text=text[:size].copy(), offsets=offsets[: num + 1].copy(), kinds=self.kinds[stay],
            levels=self.levels[stay],
        )  # fmt: skip

    def interspersed(self) -> bool:
        """Whether prose stands beside an image: before or after it, over other images and captions (K)."""
        return bool(self.images) and bool(beside_prose(self.kinds))


def _characters(text):  # type: ignore[no-untyped-def]
    found = 0
    for i in range(len(text)):
        found += (text[i] & 0xC0) != 0x80
    return found


def _joined(text, offsets, kinds, max_chars, out):  # type: ignore[no-untyped-def]
    """The texts as lines, up to max_chars characters, to out; how many bytes."""
    at = chars = 0
    first = True
    for i in range(len(kinds)):
        if kinds[i] == IMAGE:
            continue
        if not first:
            if chars == max_chars:
                return at
            out[at] = 10
            at += 1
            chars += 1
        first = False
        for j in range(offsets[i], offsets[i + 1]):
            if (text[j] & 0xC0) != 0x80:
                if chars == max_chars:
                    return at
                chars += 1
            out[at] = text[j]
            at += 1
    return at


def _kept(text, offsets, drop, out, ends):  # type: ignore[no-untyped-def]
    """The text and offsets of the entries that are not dropped; how many bytes."""
    at = num = 0
    ends[0] = 0
    for i in range(len(drop)):
        if drop[i]:
            continue
        for j in range(offsets[i], offsets[i + 1]):
            out[at] = text[j]
            at += 1
        num += 1
        ends[num] = at
    return at


def _beside_prose(kinds):  # type: ignore[no-untyped-def]
    before = pending = False
    for i in range(len(kinds)):
        kind = kinds[i]
        if kind == IMAGE:
            if before:
                return True
            pending = True
        elif kind != t.FIGCAPTION:
            before = kind < t.HEADING or kind >= t.HEADING + 6
            if pending and before:
                return True
    return False


characters: Kernel = compiled(_characters, allocates=False)
joined: Kernel = compiled(_joined, allocates=False)
kept: Kernel = compiled(_kept, allocates=False)
beside_prose: Kernel = compiled(_beside_prose, allocates=False)
