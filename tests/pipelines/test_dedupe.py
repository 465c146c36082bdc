"""Greedy by priority, incremental, independent of partitions and order: the promises of deduplication."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.errors import ConfigError, StoreError
from engine.stage import Unit
from pipelines import dedupe
from pipelines.dedupe import decide, group, index, spread
from pipelines.reasons import Reason
from tests.offline import OfflineWork, collect

UNIT = Unit(id="0" * 12 + "-000000")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page by what it shares; 0 = has no such key."""

    id: int
    url: int = 0
    text: int = 0
    bands: tuple[int, ...] = (0,) * schema.BANDS
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
    halves = (mixed(kind, value), mixed(kind, value, 1)) if value else (0, 0)
    return b"".join(half.to_bytes(8, "little") for half in halves)


def signatures(pages: Sequence[Page]) -> pa.Table:
    rows = [
        {
            "row": row,
            "doc_id": page.id.to_bytes(16, "big"),
            "url_key": key16(0, page.url),
            "text_key": key16(1, page.text),
            "words": page.words,
            "quality": page.quality,
            "bands": [mixed(2, band, value) if value else 0 for band, value in enumerate(page.bands)],
        }
        for row, page in enumerate(pages)
    ]
    return pa.Table.from_pylist(rows, schema.SIGNATURES)


class Chain:
    """The four stages over generations, without a store: `publish` takes the units of one."""

    def __init__(self, config: dedupe.Config | None = None) -> None:
        self.config = config or dedupe.Config(partitions=4)
        self.number = 0
        self.frozen: dict[tuple[str, int], list[Any]] = {}
        self.parts: dict[tuple[str, str, int], list[pa.Table]] = {}
        self.counts: dict[str, int] = {}
        self.signed: dict[int, list[pa.Table]] = {}

    def publish(self, units: Sequence[pa.Table]) -> pa.Table:
        self.number += 1
        self.signed[self.number] = list(units)
        self.frozen["sign", 0] = [{"signatures": table} for table in units]
        self.frozen["spread", 0] = self._stage(spread)
        self.frozen["spread", self.number] = self.frozen["spread", 0]
        keys = pa.concat_tables(
            [schema.SPREAD_KEYS.empty_table(), *(done["keys"] for done in self.frozen["spread", 0])]
        )
        parts = keys["part"].to_numpy()
        self.parts["spread", "keys", 0] = [
            keys.filter(pa.array(parts == part)).drop_columns("part") for part in range(self.config.partitions)
        ]
        self.frozen["group", 0] = self._stage(group)
        self.frozen["decide", 0] = self._stage(decide)
        self.parts["index", "keys", self.number] = [done["keys"] for done in self._stage(index)]
        verdicts: pa.Table = self.frozen["decide", 0][0]["verdicts"]
        return verdicts

    def _stage(self, stage: Any) -> list[dict[str, pa.Table]]:
        done = []
        for inputs in stage.parts(self.config, lambda name: self.frozen[name, 0]):
            work = OfflineWork(
                unit=Unit(id=UNIT.id, inputs=inputs),
                scratch=Path(),
                frozen=self.frozen,
                parts=self.parts,
                generation=SimpleNamespace(number=self.number, earlier=lambda name: tuple(range(1, self.number))),
            )
            done.append(collect(stage.process, self.config, work, stage.OUTPUTS))
            if stage is decide:
                self.counts = dict(work.counts)
        return done

    def id(self, doc: int) -> int:
        """The id of the page behind a doc number."""
        unit = self.signed[doc >> 48][doc >> 24 & 0xFFFFFF]
        return int.from_bytes(unit["doc_id"][doc & 0xFFFFFF].as_py(), "big")


def run(
    generations: Sequence[Sequence[Sequence[Page]]], config: dedupe.Config | None = None
) -> dict[int, tuple[int, int]]:
    """{id of a removed page: (reason, id of its keeper)} over generations of units of pages."""
    chain = Chain(config)
    removed = {}
    for units in generations:
        verdicts = chain.publish([signatures(unit) for unit in units])
        for row in verdicts.to_pylist():
            if row["reason"]:
                removed[chain.id(row["doc"])] = (row["reason"], chain.id(row["keeper"]))
            else:
                assert row["keeper"] == row["doc"]
        assert sum(chain.counts.values()) == sum(len(unit) for unit in units)
    return removed


def links(a: Page, b: Page) -> list[int]:
    """Kinds of keys that two pages share."""
    shared = [0] * bool(a.url and a.url == b.url) + [1] * bool(a.text and a.text == b.text)
    return shared + [2] * any(x and x == y for x, y in zip(a.bands, b.bands, strict=True))


def expected(pages: Sequence[Page]) -> dict[int, tuple[int, int]]:
    """The rule, said as plainly as can be."""
    kept: list[Page] = []
    removed = {}
    for page in sorted(pages, key=lambda page: page.priority):
        keeper = next((other for other in kept if links(page, other)), None)
        if keeper is None:
            kept.append(page)
        else:
            removed[page.id] = (Reason.DUPLICATE_URL + min(links(page, keeper)), keeper.id)
    return removed


@st.composite
def some_pages(draw: st.DrawFn) -> list[Page]:
    num = draw(st.integers(0, 24))
    few = draw(st.integers(1, 12))
    value = st.integers(0, few)
    return [
        Page(
            id=(1 << 127) + i * (1 << 60) * draw(st.sampled_from([1, 1 << 3])) + i,
            url=draw(value),
            text=draw(value),
            bands=tuple(draw(st.lists(value, min_size=2, max_size=2))) + (0,) * (schema.BANDS - 2),
            quality=draw(st.integers(0, 1)),
            words=draw(st.integers(1, 2)),
        )
        for i in range(num)
    ]


def split(pages: Sequence[Page], random: random.Random, most: int) -> list[list[Page]]:
    """The pages in units, in any order."""
    shuffled = random.sample(pages, len(pages))
    units: list[list[Page]] = [[] for _ in range(random.randint(1, most))]
    for page in shuffled:
        random.choice(units).append(page)
    return units


@given(some_pages(), st.randoms(use_true_random=False), st.sampled_from([1, 2, 16]), st.sampled_from([2, 64]))
@settings(max_examples=60, deadline=None)
def test_verdicts_are_the_rule_whatever_the_units_order_and_partitions(
    pages: list[Page], random: random.Random, partitions: int, pairs: int
) -> None:
    config = dedupe.Config(partitions=partitions, max_pairs_bucket=pairs)
    assert run([split(pages, random, 4)], config) == expected(pages)


@given(some_pages(), st.randoms(use_true_random=False), st.sampled_from([1, 8]), st.sampled_from([2, 64]))
@settings(max_examples=60, deadline=None)
def test_incremental_is_one_shot_when_priorities_agree(
    pages: list[Page], random: random.Random, partitions: int, pairs: int
) -> None:
    ordered = sorted(pages, key=lambda page: page.priority)
    cuts = sorted(random.randint(0, len(pages)) for _ in range(random.randint(0, 3)))
    generations = [ordered[a:b] for a, b in zip([0, *cuts], [*cuts, len(pages)], strict=True)]
    config = dedupe.Config(partitions=partitions, max_pairs_bucket=pairs)
    assert run([split(part, random, 3) for part in generations], config) == expected(pages)


@given(some_pages(), some_pages())
@settings(max_examples=30, deadline=None)
def test_what_is_published_is_never_judged_again(first: list[Page], second: list[Page]) -> None:
    better = [Page(id=page.id + 1000, url=page.url, text=page.text, quality=9, words=9) for page in second]
    together = run([[first], [better]])
    assert {id: verdict for id, verdict in together.items() if id in {page.id for page in first}} == expected(first)


def same(i: int, **changed: int) -> Page:
    return Page(**{"id": i, "url": i, "text": 7, "bands": tuple(range(1, schema.BANDS + 1)), **changed})  # type: ignore[arg-type]


def test_identical_texts_in_different_generations() -> None:
    chain = Chain()
    assert chain.publish([signatures([same(5)])]).num_rows == 0
    assert chain.counts["kept"] == 1
    verdicts = chain.publish([signatures([same(2, quality=3), Page(id=9, url=99)])])
    (row,) = verdicts.to_pylist()
    assert (row["reason"], chain.id(row["doc"]), chain.id(row["keeper"])) == (Reason.DUPLICATE_TEXT, 2, 5)
    assert (row["cluster"], row["size"]) == (row["keeper"], 2)
    assert chain.counts == {"kept": 1, "duplicate_url": 0, "duplicate_text": 1, "near_duplicate": 0}
    # what was removed is not in the index, what was kept is
    assert sum(part.num_rows for part in chain.parts["index", "keys", 2]) == 1
    assert sum(part.num_rows for part in chain.parts["index", "keys", 1]) == 2 + schema.BANDS


def test_the_same_page_fetched_twice_stays_once_and_the_first_stays() -> None:
    again = same(1)
    assert run([[[again]], [[same(0, url=1)]]]) == {0: (Reason.DUPLICATE_URL, 1)}
    assert run([[[again], [same(0, url=1)]]]) == {1: (Reason.DUPLICATE_URL, 0)}


def test_pictures_outrank_length_and_length_the_id() -> None:
    pages = [same(1, words=9), same(2, quality=1, words=2), same(3, quality=1, words=3), same(4, quality=1, words=3)]
    assert run([[pages]]) == dict.fromkeys((1, 2, 4), (Reason.DUPLICATE_TEXT, 3))


def test_a_chain_loses_its_middle_only() -> None:
    # components would remove two of three; nothing links the ends
    pages = [Page(id=1, url=1), Page(id=2, url=1, text=2), Page(id=3, text=2)]
    assert run([[pages]]) == {2: (Reason.DUPLICATE_URL, 1)}
    chain = Chain()
    verdicts = chain.publish([signatures(pages)])
    assert verdicts["size"].to_pylist() == [3, 3, 3]
    assert set(verdicts["cluster"].to_pylist()) == {int(dedupe.pack(1, 0, np.zeros(1, np.uint32))[0])}


def test_pages_without_keys_are_not_one_page() -> None:
    chain = Chain()
    assert chain.publish([signatures([Page(id=i, words=0) for i in range(50)])]).num_rows == 0
    assert chain.counts["kept"] == 50


def test_a_hundred_thousand_copies_cost_a_hundred_thousand_rows() -> None:
    num = 100_000
    one = signatures([same(1)]).combine_chunks()
    table = pa.concat_tables([one] * num).combine_chunks()
    ids = np.random.default_rng(0).permutation(num).astype(">u8")
    words = np.stack([np.zeros(num, ">u8"), ids], axis=1)
    id16 = pa.FixedSizeBinaryArray.from_buffers(schema.ID16, num, [None, pa.py_buffer(words)])
    table = table.set_column(1, schema.SIGNATURES.field("doc_id"), id16)
    rows = pa.array(np.arange(num // 2, dtype=np.uint32))
    halves = [table.slice(start, num // 2) for start in (0, num // 2)]
    units = [half.set_column(0, schema.SIGNATURES.field("row"), rows) for half in halves]
    chain = Chain()
    verdicts = chain.publish(units)
    assert chain.counts["kept"] == 1
    assert chain.counts["duplicate_url"] == num - 1
    (best,) = set(verdicts["keeper"].to_pylist())
    assert chain.id(best) == 0
    assert verdicts["size"].to_pylist() == [num] * num
    written = sum(done["buckets"].num_rows + done["edges"].num_rows for done in chain.frozen["group", 0])
    assert written == num * (2 + schema.BANDS)
    # the next copy meets one page, not all
    chain.publish([units[0].slice(0, 1)])
    assert sum(done["edges"].num_rows for done in chain.frozen["group", 0]) <= chain.config.partitions


def test_edges_do_not_depend_on_order_or_repetition() -> None:
    rng = np.random.default_rng(4)
    docs = dedupe.pack(1, 0, np.arange(60, dtype=np.uint32))
    ends = np.sort(rng.integers(0, 60, (150, 2)), axis=1)
    ends = ends[ends[:, 0] < ends[:, 1]]
    columns = [docs[ends[:, 0]], docs[ends[:, 1]], rng.integers(0, 3, len(ends)).astype(np.uint8)]
    table = pa.table(columns, schema=schema.EDGES)
    order = rng.permutation(60)

    def verdict(edges: list[pa.Table]) -> tuple[list[int], list[int]]:
        links = decide.connect(edges, [])
        rank = np.argsort(np.argsort(order))[(links.docs & np.uint64(0xFFFFFF)).astype(np.int64)]
        keeper, kinds = decide.walk(links, np.argsort(rank), 0)
        return keeper.tolist(), kinds.tolist()

    once = verdict([table])
    for _ in range(5):
        shuffled = table.take(pa.array(rng.permutation(table.num_rows)))
        assert verdict([shuffled.slice(50), shuffled.slice(0, 60)]) == once


def test_large_numbers_stay_whole() -> None:
    # a doc number of a late generation does not fit a float64, nor its keys an int64
    doc = int(dedupe.pack(65_535, (1 << 24) - 1, np.array([(1 << 24) - 1], np.uint32))[0])
    assert doc == (1 << 64) - 1
    docs = np.array([doc - 1, doc], np.uint64)
    assert dedupe.generations(docs).tolist() == [65_535, 65_535]
    assert dedupe.within(np.array([doc - 2, doc - 1, doc], np.uint64), docs).tolist() == [False, True, True]
    edges = pa.table([docs[:1], docs[1:], np.zeros(1, np.uint8)], schema=schema.EDGES)
    links = decide.connect([edges], [])
    assert links.docs.dtype == np.uint64
    assert links.docs.tolist() == [doc - 1, doc]


@pytest.mark.parametrize(
    ("generation", "ordinal", "row"), [(0, 0, 0), (1 << 16, 0, 0), (1, 1 << 24, 0), (1, 0, 1 << 24)]
)
def test_numbers_that_outgrow_their_bits_are_refused(generation: int, ordinal: int, row: int) -> None:
    with pytest.raises(ConfigError):
        dedupe.pack(generation, ordinal, np.array([row], np.uint32))


def test_band_number_is_part_of_the_key_and_halves_of_a_key_are_both_compared() -> None:
    url = key16(0, 1)
    table = signatures([Page(id=1, url=1), Page(id=2, url=2)])
    half = url[:8] + bytes(8)
    table = table.set_column(2, "url_key", pa.array([url, half], schema.ID16)).cast(schema.SIGNATURES)
    assert Chain().publish([table]).num_rows == 0


def test_pages_without_priority_are_an_error() -> None:
    chain = Chain()
    chain.publish([signatures([same(1)])])
    chain.frozen["spread", 1] = []
    with pytest.raises(StoreError, match="no priority"):
        chain.publish([signatures([same(2)])])


def test_blocks_of_units() -> None:
    blocks = spread.parts(dedupe.Config(), lambda name: [None] * 600)  # type: ignore[list-item]
    assert blocks == [("0", "256"), ("256", "256"), ("512", "88")]
    pages = [[Page(id=unit, url=unit % 290 + 1)] for unit in range(300)]
    assert set(run([pages], dedupe.Config(partitions=1))) == set(range(290, 300))


@pytest.mark.parametrize("changed", [{"partitions": 3}, {"partitions": 0}, {"max_pairs_bucket": 1}])
def test_config_refuses(changed: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        dedupe.Config(**changed)
