"""Who stays, decided on classes and near pairs made by hand: any graph, whether bands could give it or not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.errors import StoreError
from engine.stage import Unit
from pipelines import dedupe
from pipelines.dedupe import decide, links, walk
from pipelines.reasons import Reason
from tests.offline import OfflineCommit, OfflineWork, collect

Near = dict[tuple[int, int], float]  # two texts, the smaller first -> similarity
CURRENT = 3


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page; 0 = no address, no text."""

    doc: int
    url: int = 0
    text: int = 0
    quality: int = 0
    words: int = 1
    id: int = 0

    @property
    def generation(self) -> int:
        return self.doc >> 48

    @property
    def priority(self) -> tuple[int, int, int, int]:
        return (self.generation, -self.quality, -self.words, self.id)


@dataclass
class Decided:
    verdicts: dict[int, dict[str, Any]]
    stand_ins: dict[int, int]
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def removed(self) -> dict[int, tuple[int, int]]:
        return {doc: (row["reason"], row["keeper"]) for doc, row in self.verdicts.items() if row["reason"]}


def doc(generation: int, row: int) -> int:
    """A doc number; units hold 4 pages, so that a few pages span several."""
    return int(dedupe.pack(generation, row // 4, np.array([row % 4], np.uint32))[0])


def classes(pages: Iterable[Page]) -> list[dict[str, Any]]:
    """Rows of CLASSES, in order."""
    groups: dict[tuple[int, int], list[Page]] = {}
    for page in pages:
        for kind, value in ((dedupe.URL, page.url), (dedupe.TEXT, page.text)):
            if value:
                groups.setdefault((kind, value), []).append(page)
    rows = [
        # two keys in three share their first half
        {
            "kind": kind,
            "key": value // 3,
            "check": value,
            "doc": page.doc,
            # any page of a new text may be the one that stands for it
            "stands": kind == dedupe.TEXT
            and page is min(members, key=lambda page: page.doc)
            and page.generation == CURRENT,
        }
        for (kind, value), members in groups.items()
        if len(members) > 1 and max(page.generation for page in members) == CURRENT
        for page in members
    ]
    return sorted(rows, key=lambda row: (row["kind"], row["key"], row["check"], row["doc"]))


def edges(pages: Sequence[Page], near: Near) -> list[dict[str, Any]]:
    """Rows of EDGES: the page that stands for a text is its smallest; one of each pair is of this generation."""
    stands: dict[int, int] = {}
    for page in sorted(pages, key=lambda page: page.doc, reverse=True):
        stands[page.text] = page.doc
    rows = [
        {"a": min(stands[x], stands[y]), "b": max(stands[x], stands[y]), "similarity": similarity, "counted": False}
        for (x, y), similarity in near.items()
        if x in stands and y in stands and max(stands[x], stands[y]) >> 48 == CURRENT
    ]
    return sorted(rows, key=lambda row: (row["a"], row["b"]))


def decided(
    pages: Sequence[Page], near: Near, config: dedupe.Config | None = None, order: random.Random | None = None
) -> Decided:
    """Run decide; with an `order`, units and their rows are cut and come in any."""
    exact, verify = classes(pages), edges(pages, near)
    keys = sorted({row["key"] for row in exact})
    parts = [[row for row in exact if row["key"] == key] for key in keys]
    pieces = [verify[i : i + 3] for i in range(0, len(verify), 3)]
    if order is not None:
        order.shuffle(parts)
        order.shuffle(verify)
        pieces = [verify[i : i + 2] for i in range(0, len(verify), 2)]
    frozen: dict[tuple[str, int], list[Any]] = {
        ("exact", 0): [OfflineCommit({"classes": pa.Table.from_pylist(part, schema.CLASSES)}) for part in parts],
        ("verify", 0): [OfflineCommit({"edges": pa.Table.from_pylist(piece, schema.EDGES)}) for piece in pieces],
    }
    for number in range(1, CURRENT + 1):
        own = [
            {"doc": p.doc, "quality": p.quality, "words": p.words, "doc_id": p.id.to_bytes(16, "big")}
            for p in sorted(pages, key=lambda page: page.doc)
            if p.generation == number
        ]
        halves = [own[: len(own) // 2], own[len(own) // 2 :]]
        frozen["spread", 0 if number == CURRENT else number] = [
            OfflineCommit({"priorities": pa.Table.from_pylist(half, schema.PRIORITIES)}) for half in halves
        ]
    generation = SimpleNamespace(number=CURRENT, earlier=lambda name: (1, 2))
    work = OfflineWork(unit=Unit(id="0-000000"), scratch=Path(), frozen=frozen, generation=generation)
    tables = collect(decide.process, config or dedupe.Config(), work, decide.OUTPUTS)
    verdicts = {row["doc"]: row for row in tables["verdicts"].to_pylist()}
    stand_ins = {row["doc"]: row["kept"] for row in tables["stand_ins"].to_pylist()}
    assert list(stand_ins) == sorted(stand_ins)
    return Decided(verdicts, stand_ins, work.counts)


def kind(a: Page, b: Page, near: Near) -> tuple[int, float] | None:
    """(smallest kind that links two pages, similarity)."""
    if a.url and a.url == b.url:
        return (0, -1)
    if a.text and a.text == b.text:
        return (1, 1)
    pair = (min(a.text, b.text), max(a.text, b.text))
    return (2, near[pair]) if pair in near else None


def rule(pages: Sequence[Page], near: Near) -> dict[int, Any]:
    """{page that goes: (reason, keeper, similarity)}, said as plainly as can be."""
    kept: list[Page] = []
    removed = {}
    for page in sorted(pages, key=lambda page: page.priority):
        linked = [other for other in kept if kind(page, other, near)]
        if linked and page.generation == CURRENT:
            number, similarity = kind(page, linked[0], near)  # type: ignore[misc]
            removed[page.doc] = (Reason.DUPLICATE_URL + number, linked[0].doc, pytest.approx(similarity))
        else:
            kept.append(page)
    return removed


def counted(done: Decided, num_pages: int) -> dict[str, int]:
    """What the verdicts say should be counted."""
    counts = {"kept": num_pages - len(done.removed)}
    for reason in (Reason.DUPLICATE_URL, Reason.DUPLICATE_TEXT, Reason.NEAR_DUPLICATE):
        keepers = [keeper for number, keeper in done.removed.values() if number == reason]
        counts[reason.word] = len(keepers)
        counts[f"known:{reason.word}"] = sum(keeper >> 48 < CURRENT for keeper in keepers)
    return counts


def connected(pages: Sequence[Page], near: Near) -> list[set[int]]:
    """The components, by docs."""
    sets: list[set[int]] = []
    for page in pages:
        linked = {page.doc} | {other.doc for other in pages if kind(page, other, near)}
        joined = [one for one in sets if one & linked]
        sets = [one for one in sets if not one & linked] + [linked.union(*joined)]
    return sets


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Page], Near]:
    """Pages of three generations and near texts. Of what is published two may have one address, and both stay; no text
    is there twice or near another, since it was decided on."""
    ids = draw(st.permutations(range(24)))
    pages: list[Page] = []
    texts = st.integers(0, 12)
    pairs = draw(st.lists(st.tuples(texts, texts), max_size=14))
    near = {(min(p), max(p)): draw(st.sampled_from([0.8, 0.9, 1.0])) for p in pairs if 0 < min(p) < max(p)}
    for row in range(draw(st.integers(0, 24))):
        page = Page(
            doc=doc(draw(st.sampled_from([1, 2, CURRENT, CURRENT, CURRENT])), row),
            url=draw(st.integers(0, 12)),
            text=draw(texts),
            quality=draw(st.sampled_from([0, 1, 65_535])),
            words=draw(st.sampled_from([0, 1, 4_294_967_295])),
            id=ids[row] << 60,  # some differ in the first half of their bytes, some in the second
        )
        published = [other for other in pages if other.generation < CURRENT and page.generation < CURRENT]
        if not any(kind(replace(page, url=0), other, near) for other in published):
            pages.append(page)
    return pages, near


@given(worlds(), st.none() | st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_verdicts_are_the_rule_in_any_order_of_units_and_rows(
    world: tuple[list[Page], Near], order: random.Random | None
) -> None:
    pages, near = world
    done = decided(pages, near, order=order)
    found = {d: (r["reason"], r["keeper"], r["similarity"]) for d, r in done.verdicts.items() if r["reason"]}
    assert found == rule(pages, near)
    current = [page for page in pages if page.generation == CURRENT]
    assert set(done.verdicts) == {p.doc for p in current for other in pages if p is not other and kind(p, other, near)}
    for number, row in done.verdicts.items():
        assert row["block"] == 0
        if not row["reason"]:
            assert (row["keeper"], row["similarity"]) == (number, -1)
        (component,) = [one for one in connected(pages, near) if number in one]
        assert row["size"] <= len(component)  # published pages whose class has no page of this generation are no link
        assert row["cluster"] in component
    assert done.counts == counted(done, len(current))


@given(worlds())
@settings(max_examples=40, deadline=None)
def test_a_component_has_the_name_of_its_smallest_page_and_its_size(world: tuple[list[Page], Near]) -> None:
    pages = [page for page in world[0] if page.generation == CURRENT]
    near = world[1]
    for number, row in decided(pages, near).verdicts.items():
        (component,) = [one for one in connected(pages, near) if number in one]
        assert (row["cluster"], row["size"]) == (min(component), len(component))


@given(worlds())
@settings(max_examples=40, deadline=None)
def test_a_page_that_stands_for_a_text_is_replaced_by_the_one_that_stays(world: tuple[list[Page], Near]) -> None:
    pages, near = world
    done = decided(pages, near)
    wanted = {}
    for text in {page.text for page in pages} - {0}:
        members = sorted(page.doc for page in pages if page.text == text)
        kept = [number for number in members if number not in done.removed]
        if members[0] >> 48 == CURRENT and kept and kept != [members[0]]:
            wanted[members[0]] = kept[0]
    assert done.stand_ins == wanted


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_components_keep_one_page_each_and_all_that_is_published(
    world: tuple[list[Page], Near], order: random.Random
) -> None:
    pages, near = [page for page in world[0] if page.generation == CURRENT], world[1]
    config = dedupe.Config(components=True)
    found = decided(pages, near, config, order).verdicts
    for component in connected(pages, near):
        members = sorted((page for page in pages if page.doc in component), key=lambda page: page.priority)
        for page in members[1:]:
            number, similarity = kind(page, members[0], near) or (2, -1)
            row = found[page.doc]
            assert (row["reason"], row["keeper"]) == (Reason.DUPLICATE_URL + number, members[0].doc)
            assert row["similarity"] == pytest.approx(similarity)
        if len(members) > 1:
            assert found[members[0].doc]["reason"] == Reason.KEPT
    # with published pages, of those of this generation each goes that is connected to one
    done = decided(world[0], near, config, order)
    assert done.counts == counted(done, len(pages))
    for number, row in done.verdicts.items():
        old = [other for other in world[0] if other.generation < CURRENT and row["keeper"] == other.doc]
        assert bool(row["reason"]) == (row["keeper"] != number)
        assert old or row["keeper"] >> 48 == CURRENT


def test_a_chain_loses_its_middle_only() -> None:
    # components would remove two of three; nothing links the ends
    pages = [Page(doc=doc(CURRENT, i), text=i, id=i) for i in (1, 2, 3)]
    near = {(1, 2): 0.9, (2, 3): 0.85}
    done = decided(pages, near)
    assert done.removed == {pages[1].doc: (Reason.NEAR_DUPLICATE, pages[0].doc)}
    assert [row["size"] for row in done.verdicts.values()] == [3, 3, 3]
    assert len(decided(pages, near, dedupe.Config(components=True)).removed) == 2


def test_one_address_and_another_text() -> None:
    pages = [Page(doc=doc(CURRENT, i), url=1, text=i, words=i) for i in (1, 2)]
    assert decided(pages, {}).removed == {pages[0].doc: (Reason.DUPLICATE_URL, pages[1].doc)}


def test_a_text_whose_best_page_goes_by_its_address_is_kept_by_the_next_one() -> None:
    best = Page(doc=doc(CURRENT, 0), url=1, quality=9)
    first = Page(doc=doc(CURRENT, 1), url=1, text=5, quality=8)
    second = Page(doc=doc(CURRENT, 2), url=2, text=5, quality=7)
    like = Page(doc=doc(CURRENT, 3), text=6)
    done = decided([best, first, second, like], {(5, 6): 0.8125})
    # the near pair is of the text's first page, and removes by the one that stays
    assert done.removed == {
        first.doc: (Reason.DUPLICATE_URL, best.doc),
        like.doc: (Reason.NEAR_DUPLICATE, second.doc),
    }
    assert done.verdicts[like.doc]["similarity"] == 0.8125
    assert done.stand_ins == {first.doc: second.doc}


def test_the_keeper_is_the_first_of_all_whatever_links_it() -> None:
    near, same, address = (
        Page(doc=doc(CURRENT, 0), text=1, quality=3),
        Page(doc=doc(CURRENT, 1), text=2, quality=2),
        Page(doc=doc(CURRENT, 2), url=7, text=3, quality=1),
    )
    last = Page(doc=doc(CURRENT, 3), url=7, text=2)
    assert decided([near, same, address, last], {}).removed == {last.doc: (Reason.DUPLICATE_TEXT, same.doc)}
    done = decided([near, same, address, last], {(1, 2): 0.9})
    assert done.removed[last.doc] == (Reason.NEAR_DUPLICATE, near.doc)
    best = Page(doc=doc(CURRENT, 4), url=7, text=2, quality=9)
    assert decided([best, last], {}).removed[last.doc] == (Reason.DUPLICATE_URL, best.doc)


def test_pairs_of_one_text_told_twice_give_the_larger_similarity() -> None:
    docs = np.arange(3, dtype=np.uint64)
    rows = [(0, 1, 0.8), (0, 2, 0.9), (0, 1, 0.85)]
    for chosen in (rows, rows[::-1]):
        a, b, similarity = (np.array(values) for values in zip(*chosen, strict=True))
        columns = [a.astype(np.uint64), b.astype(np.uint64), similarity.astype(np.float32), np.zeros(3, np.bool_)]
        graph = links.connect([], [pa.table(columns, schema=schema.EDGES)])
        assert graph.docs.tolist() == docs.tolist()
        keeper, kinds, found = walk.walk(graph, np.arange(3, dtype=np.int32), 0)
        assert (keeper.tolist(), kinds.tolist()) == ([-1, 0, 0], [0, 2, 2])
        assert found.tolist() == pytest.approx([-1, 0.85, 0.9])


def test_nothing_linked_is_nothing_decided() -> None:
    done = decided([Page(doc=doc(CURRENT, i), url=i + 1) for i in range(5)], {})
    assert (done.verdicts, done.stand_ins, done.counts["kept"]) == ({}, {}, 5)


def test_large_numbers_stay_whole() -> None:
    # a doc number of a late generation does not fit a float64
    top = int(dedupe.pack(65_535, (1 << 24) - 1, np.array([(1 << 24) - 1], np.uint32))[0])
    assert top == (1 << 64) - 1
    docs = np.array([top - 1, top], np.uint64)
    assert dedupe.generations(docs).tolist() == [65_535, 65_535]
    assert dedupe.within(np.array([top - 2, top - 1, top], np.uint64), docs).tolist() == [False, True, True]
    columns = [docs[:1], docs[1:], np.ones(1, np.float32), np.zeros(1, np.bool_)]
    graph = links.connect([], [pa.table(columns, schema=schema.EDGES)])
    assert graph.docs.dtype == np.uint64
    assert graph.docs.tolist() == [top - 1, top]


def test_pages_without_priority_are_an_error() -> None:
    docs = np.array([doc(CURRENT, 1), doc(CURRENT, 2)], np.uint64)
    spread: dict[tuple[str, int], list[Any]] = {("spread", 0): []}
    generation = SimpleNamespace(number=CURRENT, earlier=lambda name: ())
    work = OfflineWork(unit=Unit(id="0-000000"), scratch=Path(), frozen=spread, generation=generation)
    with pytest.raises(StoreError, match=r"2 pages, the first .* have no priority; run `kosmos verify`"):
        decide.by_priority(docs, work)
