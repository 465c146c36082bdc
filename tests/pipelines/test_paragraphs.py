"""Paragraphs that a site repeats: by plain counting over all generations, whatever the partitions and the order."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.errors import ConfigError
from engine.stage import Unit
from pipelines import paragraphs
from pipelines.normalise import normalise
from pipelines.paragraphs import Config, collect, obelics, recurring
from pipelines.paragraphs.site import site, version
from pipelines.reasons import Reason
from tests import offline
from tests.pipelines.test_match import UNIT, doc

Place = tuple[int, int]  # doc, item
LEGAL = "All rights are reserved by the authors of this site"  # ten words
SITES = {
    "www.bbc.co.uk": "bbc.co.uk",
    "news.bbc.co.uk": "bbc.co.uk",
    "one.github.io": "one.github.io",
    "two.github.io": "two.github.io",
    "10.0.0.1": "10.0.0.1",
    "11.0.0.1": "11.0.0.1",
    "[2001:db8::1]": "[2001:db8::1]",
    "localhost": "localhost",
    "github.io": "github.io",
    "xn--bcher-kva.example": "xn--bcher-kva.example",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """items: texts of a paragraph, (block, text), or None for an image. fate: kept, best, removed or unsigned."""

    items: tuple[str | tuple[str, str] | None, ...]
    host: str = "localhost"
    fate: str = "kept"
    images: bool = True  # whether it stands in documents

    def extracted(self, row: int) -> dict[str, Any]:
        items = []
        for item in self.items:
            block, text = ("", "") if item is None else item if isinstance(item, tuple) else ("p", item)
            kind = "image" if item is None else "text"
            items.append({"kind": kind, "text": text, "block": block, "level": 0, "image": 0 if item is None else -1})
        return {"row": row, "host": self.host, "items": items}


COLUMNS = pa.schema([schema.DOCUMENTS.field(name) for name in ("row", "host", "items")])
Units = Sequence[Sequence[Page]]


@dataclass
class Site:
    """Both stages over generations, without a store; `publish` gives what goes: {(doc, item): pages}."""

    config: Config = field(default_factory=lambda: Config(partitions=4))
    order: random.Random | None = None
    number: int = 0
    parts: dict[tuple[str, str, int], list[pa.Table]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    items: pa.Table = field(default_factory=schema.RECURRING.empty_table)

    def publish(self, units: Units) -> dict[Place, int]:
        self.number += 1
        config, partitions = self.config, self.config.partitions
        extracted, signed, verdicts = [], [], []
        for ordinal, pages in enumerate(units):
            rows = list(enumerate(pages))
            extracted.append(
                {
                    name: pa.Table.from_pylist([p.extracted(row) for row, p in rows if p.images == images], COLUMNS)
                    for name, images in (("documents", True), ("texts", False))
                }
            )
            own = [row for row, page in rows if page.fate != "unsigned"]
            if self.order:
                self.order.shuffle(own)
            ids = pa.array([bytes(16)] * len(own), schema.ID16)
            signed.append({"signatures": pa.table({"row": pa.array(own, pa.uint32()), "doc_id": ids})})
            for row, page in rows:
                if page.fate in ("removed", "best"):
                    reason = Reason.NEAR_DUPLICATE if page.fate == "removed" else Reason.KEPT
                    verdicts.append((ordinal // 256, doc(row, ordinal, self.number), int(reason)))
        self.parts["decide", "verdicts", 0] = [
            pa.table(
                {
                    "doc": pa.array([doc for b, doc, _ in verdicts if b == block], pa.uint64()),
                    "reason": pa.array([reason for b, _, reason in verdicts if b == block], pa.uint16()),
                }
            )
            for block in range(-(-len(units) // 256))
        ]
        frozen = {("extract", 0): extracted, ("sign", 0): signed}
        cut = collect.Config(min_words=config.min_words, exempt=config.exempt, partitions=partitions)
        found = self._run(collect, cut, frozen)["paragraphs"]
        if self.order:
            found = found.take(pa.array(self.order.sample(range(len(found)), len(found)), pa.int64()))
        self.parts["paragraphs", "paragraphs", 0] = [
            found.filter(pa.array(found["part"].to_numpy() == part)).drop_columns("part") for part in range(partitions)
        ]
        bounds = recurring.Config(min_pages=config.min_pages, keepers=config.keepers, partitions=partitions)
        done = self._run(recurring, bounds, frozen)
        parts = np.array([key * partitions >> 64 for key in done["counts"]["key"].to_pylist()], np.int64)
        self.parts["recurring", "counts", self.number] = [
            done["counts"].filter(pa.array(parts == part)) for part in range(partitions)
        ]
        self.items = done["items"]
        places = [(row["doc"], row["item"]) for row in self.items.to_pylist()]
        assert len(set(places)) == len(places), "each item once"
        assert all(row["block"] == (row["doc"] >> 24 & 0xFFFFFF) // 256 for row in self.items.to_pylist())
        return dict(zip(places, self.items["docs"].to_pylist(), strict=True))

    def _run(self, stage: Any, config: Any, frozen: dict[tuple[str, int], Any]) -> dict[str, pa.Table]:
        done = []
        for inputs in stage.parts(config, lambda name: frozen[name, 0]):
            work = offline.OfflineWork(
                unit=Unit(id=UNIT, inputs=inputs),
                scratch=Path(),
                parts=self.parts,
                frozen=frozen,
                generation=SimpleNamespace(number=self.number, earlier=lambda name: tuple(range(1, self.number))),
            )
            done.append(offline.collect(stage.process, config, work, stage.OUTPUTS))
            self.counts.update(work.counts)
        return {output.name: pa.concat_tables([one[output.name] for one in done]) for output in stage.OUTPUTS}


@dataclass
class Plain:
    """The rule, said as plainly as can be: each text of a site with the pages that have it, in order."""

    config: Config
    number: int = 0
    pages: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def publish(self, units: Units) -> dict[Place, int]:
        self.number += 1
        said: dict[Place, tuple[str, str]] = {}
        for ordinal, pages in enumerate(units):
            for row, page in enumerate(pages):
                if page.fate not in ("kept", "best"):
                    continue
                for place, item in enumerate(page.items):
                    block, text = ("", "") if item is None else item if isinstance(item, tuple) else ("p", item)
                    words = re.findall(r"[a-z0-9]+", text.lower())
                    if item is None or block in self.config.exempt or len(words) < self.config.min_words:
                        continue
                    number, key = doc(row, ordinal, self.number), (SITES[page.host], " ".join(words))
                    said[number, place] = key
                    if number not in self.pages.setdefault(key, []):
                        self.pages[key].append(number)
        config, having = self.config, self.pages
        return {
            (number, place): len(having[key])
            for (number, place), key in said.items()
            if 0 < config.min_pages <= len(having[key]) and having[key].index(number) >= config.keepers
        }


def gone(*units: Sequence[Page], config: Config | None = None) -> list[tuple[int, int, int]]:
    """(unit, row, item) of what goes in one generation."""
    found = Site(config or Config(partitions=4)).publish(units)
    return sorted((number >> 24 & 0xFFFFFF, number & 0xFFFFFF, item) for number, item in found)


def test_what_three_pages_say_goes_from_all_but_the_first() -> None:
    pages = [Page(items=(f"page {row}", None, LEGAL)) for row in range(3)]
    assert gone(pages[:2]) == []
    assert gone(pages) == [(0, 1, 2), (0, 2, 2)]
    assert gone(pages[:1], [], pages[1:]) == [(2, 0, 2), (2, 1, 2)]
    assert gone(pages, config=replace(obelics(), partitions=1)) == [(0, 0, 2), (0, 1, 2), (0, 2, 2)]
    assert gone(pages, config=Config(partitions=4, min_pages=0)) == []
    assert gone(pages, config=Config(partitions=4, keepers=2)) == [(0, 2, 2)]


def test_pages_are_counted_not_occurrences_and_every_occurrence_goes() -> None:
    twice = Page(items=(LEGAL, "between", LEGAL.upper() + "!"))
    assert gone([twice, twice]) == []
    assert gone([twice, twice, Page(items=(LEGAL,))]) == [(0, 1, 0), (0, 1, 2), (0, 2, 0)]


def test_case_signs_and_spaces_make_no_other_paragraph_and_words_do() -> None:
    forms = [LEGAL, LEGAL.upper(), f"«{LEGAL.replace(' ', ' … ')}»"]
    assert len(gone([Page(items=(form,)) for form in forms])) == 2
    assert gone([Page(items=(LEGAL + f" {year}",)) for year in range(2000, 2003)]) == []
    # a form composed and one decomposed
    texts = ["Der B\u00fccherwurm liest an jedem Tag sieben neue B\u00fccher"] * 2
    texts.append(texts[0].replace("\u00fc", "u\u0308"))
    assert len(gone([Page(items=(text,)) for text in texts])) == 2


def test_short_items_captions_and_images_stay() -> None:
    words = LEGAL.split()
    short = [Page(items=(("h2", "Examples"), ("li", " ".join(words[:7])), ("figcaption", LEGAL), None))] * 5
    assert gone(short) == []
    enough = [Page(items=(("h2", "Examples"), ("li", " ".join(words[:8])), ("figcaption", LEGAL), None))] * 3
    assert gone(enough) == [(0, 1, 1), (0, 2, 1)]
    # OBELICS takes them all; what has no word is no text
    all_of_them = [(0, row, item) for row in range(3) for item in range(3)]
    assert gone(enough, config=replace(obelics(), partitions=4)) == all_of_them
    assert gone([Page(items=("", "- !"))] * 4, config=replace(obelics(), partitions=4)) == []


def test_only_pages_that_are_kept_count_with_images_and_without() -> None:
    page = Page(items=(LEGAL,))
    others = [replace(page, fate="removed"), replace(page, fate="unsigned")]
    assert gone([page, *others, page]) == []
    assert gone([page, *others, replace(page, images=False), replace(page, fate="best")]) == [(0, 3, 0), (0, 4, 0)]


@pytest.mark.parametrize(("host", "whole"), SITES.items())
def test_the_site_is_the_registrable_domain(host: str, whole: str) -> None:
    assert site(host) == whole


def test_other_sites_do_not_count() -> None:
    def at(*hosts: str) -> int:
        return len(gone([Page(items=(LEGAL,), host=host) for host in hosts]))

    assert at("www.bbc.co.uk", "news.bbc.co.uk", "www.bbc.co.uk") == 2
    assert at("one.github.io", "two.github.io", "github.io", "10.0.0.1", "11.0.0.1", "localhost") == 0


def test_what_is_published_stays_and_counts() -> None:
    chain = Site()
    pages = [Page(items=(LEGAL,))]
    assert chain.publish([pages, pages]) == {}
    assert chain.publish([[Page(items=("Nothing of the kind is said on this other page",))]]) == {}
    assert chain.publish([[], pages, pages]) == {(doc(0, 1, 3), 0): 4, (doc(0, 2, 3), 0): 4}
    assert chain.publish([pages]) == {(doc(0, 0, 4), 0): 5}
    assert chain.counts == {"paragraph:seen": 6, "paragraph:recurring": 3}
    # a generation that does not have it leaves no row of it
    assert sum(table.num_rows for table in chain.parts["recurring", "counts", 2]) == 1


def test_a_page_of_a_second_block_is_told_apart() -> None:
    page = [Page(items=("first", LEGAL))]
    units: list[list[Page]] = [[] for _ in range(258)]
    units[0], units[255], units[257] = page, page, page
    chain = Site()
    assert chain.publish(units) == {(doc(0, 255), 1): 3, (doc(0, 257), 1): 3}
    assert chain.items["block"].to_pylist() == [0, 1]


TEXTS = ("a b", "A, b!", "b a", "a b c d e f g h", "a b c d e f g h i", "", "-", "a")


@st.composite
def generations(draw: st.DrawFn) -> list[list[list[Page]]]:
    items = st.one_of(st.none(), st.sampled_from(TEXTS), st.tuples(st.sampled_from(paragraphs.BLOCKS), st.just("a b")))
    pages = st.builds(
        Page,
        items=st.lists(items, max_size=4).map(tuple),
        host=st.sampled_from(["www.bbc.co.uk", "news.bbc.co.uk", "one.github.io", "two.github.io"]),
        fate=st.sampled_from(["kept", "kept", "kept", "best", "removed", "unsigned"]),
        images=st.booleans(),
    )
    units = st.lists(st.lists(pages, max_size=5), min_size=1, max_size=3)
    return draw(st.lists(units, min_size=1, max_size=3))


@given(
    generations(),
    st.builds(
        Config,
        min_pages=st.sampled_from([0, 2, 3]),
        keepers=st.integers(0, 2),
        min_words=st.sampled_from([1, 2, 8]),
        exempt=st.sampled_from([(), ("figcaption",), ("h1", "p")]),
        partitions=st.sampled_from([1, 2, 8]),
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_it_is_the_rule_whatever_the_partitions_and_the_order(
    published: list[list[list[Page]]], config: Config, order: random.Random
) -> None:
    chain, plain = Site(config, order), Plain(config)
    for units in published:
        assert chain.publish(units) == plain.publish(units)


def hashed(text: bytes, seed: int) -> int:
    """The key in Python's numbers."""
    mask = (1 << 64) - 1
    value = seed
    for place in range(0, len(text), 8):
        value = (value ^ int.from_bytes(text[place : place + 8], "little")) * 0x9E3779B97F4A7C15 & mask
        value ^= value >> 33
    value ^= len(text)
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & mask
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & mask
    return value ^ value >> 33


@given(st.lists(st.tuples(st.text(max_size=30), st.integers(0, (1 << 64) - 1)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_keys_are_the_hash_of_site_and_text(texts: list[tuple[str, int]]) -> None:
    done = normalise(pa.array([text for text, _ in texts], schema.TEXT))
    keys = collect.keyed(done, np.array([seed for _, seed in texts], np.uint64))
    ends = done.offsets.tolist()
    bodies = [done.data[start:end].tobytes() for start, end in pairwise(ends)]
    assert keys.tolist() == [hashed(body, seed) for body, (_, seed) in zip(bodies, texts, strict=True)]


KEYS = [6139430880831415781, 9946834714651089441]


def test_keys_never_change() -> None:
    """Counts of generations long published are of these keys; with others, raise VERSION."""
    chain = Site(Config(partitions=1))
    chain.publish([[Page(items=(LEGAL,), host="www.bbc.co.uk"), Page(items=(LEGAL,), host="one.github.io")]])
    (counts,) = chain.parts["recurring", "counts", 1]
    assert counts["key"].to_pylist() == KEYS
    assert counts["docs"].to_pylist() == [1, 1]


@pytest.mark.parametrize(
    ("setting", "values"),
    [("min_pages", (1, -1)), ("keepers", (-1,)), ("min_words", (0,)), ("exempt", (("div",),)), ("partitions", (3,))],
)
def test_settings_that_mean_nothing_are_refused(setting: str, values: tuple[Any, ...]) -> None:
    for value in values:
        for kind in (Config, collect.Config, recurring.Config):
            if setting in kind.__dataclass_fields__:
                with pytest.raises(ConfigError, match=r"set|use"):
                    kind(**{setting: value})


def test_what_is_installed_cannot_be_chosen() -> None:
    assert collect.Config().suffixes == version()
    for chosen in ({"suffixes": "none"}, {"table": "none"}):
        with pytest.raises(ConfigError, match="leave them out"):
            collect.Config(**chosen)


def test_the_defaults_of_the_stages_are_those_of_both() -> None:
    whole = Config()
    for stage in (collect.Config(), recurring.Config()):
        for name in stage.__dataclass_fields__:
            assert getattr(stage, name) == getattr(whole, name, getattr(stage, name))
