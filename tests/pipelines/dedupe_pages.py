"""Pages by what they share, the tables that `sign` would write of them, and the rule of deduplication said plainly.

Sketches and shingles are true to the model: two texts of one family are alike (Jaccard .98), others are not; whether
they are compared at all is decided by the bands that they share.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from engine import schema
from pipelines.reasons import Reason
from tests.pipelines.dedupe_chain import Chain

Removed = dict[int, tuple[int, int]]  # id of a page that goes -> (reason, id of its keeper)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text: its number, the family of texts that it is like, its band values (0: no such band)."""

    number: int
    family: int = 0
    bands: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page; no address is url 0."""

    id: int
    url: int = 0
    text: Text | None = None
    quality: int = 0
    words: int = 1

    @property
    def priority(self) -> tuple[int, int, int]:
        return (-self.quality, -self.words, self.id)


def mixed(*values: int) -> int:
    """A 64-bit number that stands for the values (SplitMix64's finaliser)."""
    state = 1
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        state ^= state >> 31
    return state


def key16(kind: int, value: int) -> bytes:
    """A key of 16 bytes; zeros for 0."""
    halves = (mixed(kind, value), mixed(kind, value, 1)) if value else (0, 0)
    return b"".join(half.to_bytes(8, "little") for half in halves)


@functools.cache
def sketch(text: Text) -> tuple[bytes, bytes]:
    """(slots, shingles) of a text."""
    rng = np.random.default_rng(text.family)
    slots = rng.integers(0, 256, schema.SLOTS, np.uint8)
    slots[0] = text.number % 256
    shingles = np.append(rng.integers(0, 1 << 31, 100, np.uint32), np.uint32((1 << 31) + text.number))
    return slots.tobytes(), shingles.tobytes()


def tables(pages: Sequence[Page]) -> dict[str, pa.Table]:
    """What `sign` writes of the pages of one unit."""
    signatures, slots, shingles = [], [], []
    for row, page in enumerate(pages):
        bands = [0] * schema.BANDS
        for band, value in enumerate(page.text.bands if page.text else ()):
            bands[band] = mixed(2, band, value) if value else 0
        own = sketch(page.text) if page.text else (bytes(schema.SLOTS), b"")
        signatures.append(
            {
                "row": row,
                "doc_id": page.id.to_bytes(16, "big"),
                "url_key": key16(0, page.url),
                "text_key": key16(1, page.text.number if page.text else 0),
                "words": page.words,
                "quality": page.quality,
                "bands": bands,
            }
        )
        slots.append({"row": row, "slots": own[0]})
        shingles.append({"row": row, "shingles": own[1]})
    return {
        "signatures": pa.Table.from_pylist(signatures, schema.SIGNATURES),
        "slots": pa.Table.from_pylist(slots, schema.SLOTS_8),
        "shingles": pa.Table.from_pylist(shingles, schema.SHINGLES),
    }


def collide(a: Page, b: Page) -> bool:
    """Whether two pages share a band."""
    return bool(a.text and b.text) and any(x and x == y for x, y in zip(a.text.bands, b.text.bands, strict=False))  # type: ignore[union-attr]


def near(a: Page, b: Page) -> bool:
    """Whether two pages share a band and are alike."""
    return collide(a, b) and a.text.family == b.text.family  # type: ignore[union-attr]


def kinds(a: Page, b: Page, near: Callable[[Page, Page], bool] = near) -> list[int]:
    """What links two pages: 0 address, 1 text, 2 near."""
    shared = [0] * bool(a.url and a.url == b.url) + [1] * bool(a.text and a.text == b.text)
    return shared + [2] * near(a, b)


def expected(pages: Iterable[Page], near: Callable[[Page, Page], bool] = near) -> Removed:
    """The greedy rule."""
    kept: list[Page] = []
    removed = {}
    for page in sorted(pages, key=lambda page: page.priority):
        keeper = next((other for other in kept if kinds(page, other, near)), None)
        if keeper is None:
            kept.append(page)
        else:
            removed[page.id] = (Reason.DUPLICATE_URL + min(kinds(page, keeper, near)), keeper.id)
    return removed


def component(page: Page, pages: Iterable[Page], near: Callable[[Page, Page], bool]) -> list[Page]:
    """All pages that are connected to a page, itself too."""
    found, others = [page], [other for other in pages if other is not page]
    for one in found:  # grows
        linked = [other for other in others if kinds(one, other, near)]
        others = [other for other in others if other not in linked]
        found += linked
    return found


def run(chain: Chain, generations: Iterable[Sequence[Sequence[Page]]]) -> Removed:
    """Who goes, over generations of units of pages."""
    removed = {}
    for units in generations:
        for row in chain.publish([tables(unit) for unit in units]).to_pylist():
            if row["reason"]:
                removed[chain.id(row["doc"])] = (row["reason"], chain.id(row["keeper"]))
            else:
                assert row["keeper"] == row["doc"]
        assert sum(chain.verdicts().values()) == sum(len(unit) for unit in units)
    return removed


@st.composite
def some_pages(draw: st.DrawFn) -> list[Page]:
    """Pages with ids of their own, that share much or little."""
    few = draw(st.integers(1, 8))
    value = st.integers(0, few)
    texts = [
        Text(number=i, family=draw(st.integers(1, 3)), bands=(draw(value), draw(value)))
        for i in range(1, draw(st.integers(2, 10)))
    ]
    return [
        Page(
            id=(1 << 127) + i * (1 << 60) * draw(st.sampled_from([1, 1 << 3])) + i,
            url=draw(st.integers(0, 3 * few)),
            text=draw(st.sampled_from([None, *texts])),
            quality=draw(st.integers(0, 1)),
            words=draw(st.integers(1, 2)),
        )
        for i in range(draw(st.integers(0, 20)))
    ]


def split(pages: Sequence[Page], random: random.Random, most: int) -> list[list[Page]]:
    """The pages in units, in any order."""
    units: list[list[Page]] = [[] for _ in range(random.randint(1, most))]
    for page in random.sample(pages, len(pages)):
        random.choice(units).append(page)
    return units
