"""Signatures to keys, keys to classes of equals, and the band keys of those that stand for a text."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.errors import StoreError
from engine.stage import Unit
from pipelines import dedupe
from pipelines.dedupe import bands, exact, rank, spread
from tests.offline import OfflineCommit, collect
from tests.pipelines.dedupe_chain import Chain, ChainWork
from tests.pipelines.dedupe_pages import Page, Text, mixed, some_pages, split, tables

CURRENT = 3
Row = tuple[int, int, int, int]  # key, check, doc, kind


def rank_of(doc: int) -> int:
    """Two ranks, so that some pages are equals."""
    return doc * 7 % 5 % 2


def classed(new: list[Row], old: list[list[Row]]) -> tuple[list[Row], list[int]]:
    """(classes, twins) of one partition, with the runs of earlier generations, each of its generation alone."""

    def table(rows: list[Row]) -> pa.Table:
        names = schema.INDEX_KEYS.names
        return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in sorted(rows)], schema.INDEX_KEYS)

    keys = table(new).add_column(0, schema.SPREAD_KEYS.field("part"), pa.array(np.zeros(len(new), np.uint16)))
    keys = keys.append_column(schema.RANK, pa.array([rank_of(doc) for doc in keys["doc"].to_pylist()], pa.uint32()))
    held = pa.table({"generation": pa.array([1], pa.uint16())})
    work = ChainWork(
        unit=Unit(id="0-000000", inputs=("0",)),
        scratch=Path(),
        frozen={("spread", 0): [OfflineCommit({"keys": keys.cast(schema.SPREAD_KEYS)}, unit="0-000000")]},
        generation=SimpleNamespace(number=CURRENT, earlier=lambda name: tuple(range(1, len(old) + 1))),
    )
    for number, rows in enumerate(old, 1):
        commit = OfflineCommit({"exact": table(rows), "generations": held}, {"covers:generations": 1}, "0-000000")
        work.frozen["index", number] = [commit]
    done = collect(exact.process, dedupe.Config(partitions=1), work, exact.OUTPUTS)
    found = [tuple(row[name] for name in schema.INDEX_KEYS.names) for row in done["classes"].to_pylist()]
    return found, done["twins"]["doc"].to_pylist()


@st.composite
def keyed_rows(draw: st.DrawFn) -> tuple[list[Row], list[list[Row]]]:
    """Rows of this generation and runs of two before it; a page has at most one row of a kind."""
    some = st.integers(0, 4)
    runs: list[list[Row]] = [[], [], []]
    for row in range(draw(st.integers(0, 16))):
        generation = draw(st.integers(1, CURRENT))
        doc = int(dedupe.pack(generation, row % 3, np.array([row], np.uint32))[0])
        for kind in (dedupe.URL, dedupe.TEXT):
            if draw(st.booleans()):
                # a key that differs in its check, or in its kind alone, is another
                runs[generation - 1].append((mixed(draw(some)), draw(st.integers(0, 1)), doc, kind))
    return runs[2], runs[:2]


@given(keyed_rows())
@settings(max_examples=80, deadline=None)
def test_a_class_is_all_rows_of_a_key_with_one_of_this_generation(rows: tuple[list[Row], list[list[Row]]]) -> None:
    new, old = rows
    groups: dict[tuple[int, int, int], list[int]] = {}
    for key, check, doc, kind in sorted([*new, *old[0], *old[1]], key=lambda row: row[2]):
        groups.setdefault((kind, key, check), []).append(doc)
    wanted = {group: docs for group, docs in groups.items() if len(docs) > 1 and docs[-1] >> 48 == CURRENT}
    classes, twins = classed(new, old)
    assert classes == [(key, check, doc, kind) for (kind, key, check), docs in sorted(wanted.items()) for doc in docs]
    texts = [docs for (kind, _, _), docs in wanted.items() if kind == dedupe.TEXT]
    standing = [min(docs, key=lambda doc: (rank_of(doc), doc)) for docs in texts if docs[0] >> 48 == CURRENT]
    assert twins == sorted(doc for docs in texts for doc in docs if doc >> 48 == CURRENT and doc not in standing)


@given(some_pages(), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_one_page_stands_for_each_text_and_no_row_is_lost(pages: list[Page], random: random.Random) -> None:
    units = [tables(unit) for unit in split(pages, random, 3)]
    found = []
    for partitions in (1, 8):
        chain = Chain(dedupe.Config(partitions=partitions), ("spread", "exact", "bands"))
        for stage in ("sign", "decide"):
            chain.frozen[stage, 0] = [OfflineCommit({"verdicts": schema.DEDUPE_VERDICTS.empty_table()})]
        chain.publish(units)
        keys, owned = chain.table("spread", "keys"), chain.table("bands", "keys")
        assert keys.num_rows == sum(bool(page.url) + bool(page.text) for page in pages)
        found.append(sorted((row["key"], row["page"], row["rank"]) for row in owned.to_pylist()))
        by_id = {page.id: page for page in pages}
        texts = [by_id[chain.id(1 << 48 | page)].text for page in set(owned["page"].to_pylist())]
        assert len(texts) == len({text.number for text in texts if text})
        assert {text.number for text in texts if text} == {p.text.number for p in pages if p.text and any(p.text.bands)}
    assert found[0] == found[1]


def test_only_pages_with_a_text_have_bands_and_twins_have_none() -> None:
    text = Text(number=1, bands=(4, 0, 5))
    chain = Chain(dedupe.Config(partitions=2), ("spread", "exact", "bands"))
    chain.frozen["decide", 0] = [OfflineCommit({"verdicts": schema.DEDUPE_VERDICTS.empty_table()})]
    chain.publish([tables([Page(id=1, url=3), Page(id=2, text=text), Page(id=3, text=text, quality=9)])])
    (block,) = chain.frozen["bands", 0]
    rows = block["keys"].to_pylist()
    assert {(row["key"], row["page"]) for row in rows} == {(mixed(2, 0, 4), 2), (mixed(2, 2, 5), 2)}
    assert [row["part"] for row in rows] == [row["key"] >> 63 for row in rows]


def test_blocks_of_units() -> None:
    for stage in (spread, bands):
        blocks = stage.parts(dedupe.Config(), lambda name: [None] * 600)
        assert blocks == [("0", "256"), ("256", "256"), ("512", "88")]


def test_an_index_without_this_partition_is_an_error() -> None:
    work = ChainWork(
        unit=Unit(id="0-000000", inputs=("0",)),
        scratch=Path(),
        generation=SimpleNamespace(number=2, earlier=lambda name: (1,)),
    )
    chain = Chain(dedupe.Config(partitions=1), ("spread",))
    chain.frozen["decide", 0] = [OfflineCommit({"verdicts": schema.DEDUPE_VERDICTS.empty_table()})]
    chain.publish([tables([Page(id=1, url=3)])])
    work.frozen = {("spread", 0): chain.frozen["spread", 0], ("index", 1): []}
    with pytest.raises(StoreError, match="kosmos verify"):
        collect(exact.process, dedupe.Config(partitions=1), work, exact.OUTPUTS)


PAGES = st.tuples(
    st.integers(0, 9) | st.integers(0, 65_535),
    st.integers(0, 1 << 15) | st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 64) - 1),
)


@given(st.lists(PAGES, min_size=2, max_size=2))
def test_a_rank_never_contradicts_priority(pages: list[tuple[int, int, int]]) -> None:
    pages.sort(key=lambda page: (-page[0], -page[1], page[2]))
    quality, words, ids = zip(*pages, strict=True)
    found = rank.ranks(np.array(quality, np.uint16), np.array(words, np.uint32), np.array(ids, np.uint64))
    assert found.dtype == np.uint32
    assert found[0] <= found[1]


def test_ranks_tell_quality_then_length_then_id_apart() -> None:
    quality = np.array([7, 5, 5, 5, 5, 0, 300], np.uint16)
    words = np.array([0, 1000, 1000, 999, 0, 16_383, 0], np.uint32)
    ids = np.array([1, 1 << 49, 1 << 50, 0, 0, 0, 1 << 63], np.uint64)
    found = rank.ranks(quality, words, ids).tolist()
    assert found[:6] == sorted(set(found[:6]))
    assert found[6] == 0
