"""Greedy by priority, verified, incremental, independent of partitions and order: the promises of deduplication."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.errors import ConfigError, StoreError
from engine.stage import SIDE
from pipelines import dedupe
from pipelines.reasons import Reason
from tests.pipelines import dedupe_pages
from tests.pipelines.dedupe_chain import Chain
from tests.pipelines.dedupe_pages import Page, Removed, Text, expected, some_pages, split, tables


def run(generations: Sequence[Sequence[Sequence[Page]]], config: dedupe.Config | None = None) -> Removed:
    return dedupe_pages.run(Chain(config), generations)


@given(some_pages(), st.randoms(use_true_random=False), st.sampled_from([1, 2, 16]), st.sampled_from([2, 64]))
@settings(max_examples=25, deadline=None)
def test_verdicts_are_the_rule_whatever_the_units_order_and_partitions(
    pages: list[Page], random: random.Random, partitions: int, pairs: int
) -> None:
    config = dedupe.Config(partitions=partitions, max_pairs_bucket=pairs)
    assert run([split(pages, random, 4)], config) == expected(pages)


@given(some_pages(), st.randoms(use_true_random=False), st.sampled_from([1, 4]), st.sampled_from([2, 64]))
@settings(max_examples=25, deadline=None)
def test_incremental_is_one_shot_when_priorities_agree(
    pages: list[Page], random: random.Random, partitions: int, pairs: int
) -> None:
    ordered = sorted(pages, key=lambda page: page.priority)
    cuts = sorted(random.randint(0, len(pages)) for _ in range(random.randint(0, 3)))
    generations = [ordered[a:b] for a, b in zip([0, *cuts], [*cuts, len(pages)], strict=True)]
    config = dedupe.Config(partitions=partitions, max_pairs_bucket=pairs)
    assert run([split(part, random, 3) for part in generations], config) == expected(pages)


@given(some_pages(), some_pages())
@settings(max_examples=15, deadline=None)
def test_what_is_published_is_never_judged_again(first: list[Page], second: list[Page]) -> None:
    better = [Page(id=page.id + 1000, url=page.url, text=page.text, quality=9, words=9) for page in second]
    together = run([[first], [better]])
    assert {id: verdict for id, verdict in together.items() if id in {page.id for page in first}} == expected(first)


@given(some_pages())
@settings(max_examples=15, deadline=None)
def test_unverified_every_page_that_shares_a_band_is_near(pages: list[Page]) -> None:
    config = dedupe.Config(partitions=2, verify=False)
    assert run([[pages]], config) == expected(pages, dedupe_pages.collide)


@given(some_pages())
@settings(max_examples=15, deadline=None)
def test_fineweb_keeps_one_page_of_each_component_of_collisions(pages: list[Page]) -> None:
    near = dedupe_pages.collide
    removed = {}
    for page in pages:
        first = min(dedupe_pages.component(page, pages, near), key=lambda other: other.priority)
        if page != first:
            # 2: nothing but others links the two
            kind = min(dedupe_pages.kinds(page, first, near), default=dedupe.NEAR)
            removed[page.id] = (Reason.DUPLICATE_URL + kind, first.id)
    assert run([[pages]], replace(dedupe.fineweb(), partitions=2)) == removed


def same(i: int, **changed: int) -> Page:
    """Pages of one text, each with its own address."""
    fields = {"id": i, "url": i, **changed}
    return Page(text=Text(number=7, bands=tuple(range(1, schema.BANDS + 1))), **fields)


def test_identical_texts_in_different_generations() -> None:
    chain = Chain()
    assert chain.publish([tables([same(5)])]).num_rows == 0
    assert chain.counts["decide"]["kept"] == 1
    verdicts = chain.publish([tables([same(2, quality=3), Page(id=9, url=99)])])
    (row,) = verdicts.to_pylist()
    assert (row["reason"], chain.id(row["doc"]), chain.id(row["keeper"])) == (Reason.DUPLICATE_TEXT, 2, 5)
    assert (row["cluster"], row["size"], row["similarity"]) == (row["keeper"], 2, 1)
    assert chain.verdicts() == {"kept": 1, "duplicate_url": 0, "duplicate_text": 1, "near_duplicate": 0}
    assert chain.counts["decide"][f"known{SIDE}duplicate_text"] == 1
    # it has a text that is known, so its bands are not looked at
    assert chain.table("bands", "keys").num_rows == 0


def test_the_same_page_fetched_twice_stays_once_and_the_first_stays() -> None:
    again = same(1)
    assert run([[[again]], [[same(0, url=1)]]]) == {0: (Reason.DUPLICATE_URL, 1)}
    assert run([[[again], [same(0, url=1)]]]) == {1: (Reason.DUPLICATE_URL, 0)}


def test_pictures_outrank_length_and_length_the_id() -> None:
    pages = [same(1, words=9), same(2, quality=1, words=2), same(3, quality=1, words=3), same(4, quality=1, words=3)]
    assert run([[pages]]) == dict.fromkeys((1, 2, 4), (Reason.DUPLICATE_TEXT, 3))


def test_a_band_alone_removes_nothing() -> None:
    pages = [Page(id=i, text=Text(number=i, family=i, bands=(5,))) for i in (1, 2)]
    assert run([[pages]]) == {}
    assert run([[pages]], dedupe.Config(partitions=1, verify=False)) == {2: (Reason.NEAR_DUPLICATE, 1)}


@pytest.mark.parametrize("generations", [1, 3])
def test_a_chain_loses_its_middle_only(generations: int) -> None:
    # components would remove two of three; no band links the ends
    bands = [(1, 0), (1, 2), (0, 2)]
    pages = [Page(id=i, text=Text(number=i, bands=own)) for i, own in enumerate(bands, 1)]
    removed = {2: (Reason.NEAR_DUPLICATE, 1)}
    assert run([[[page]] for page in pages] if generations > 1 else [[pages]]) == removed


def test_the_page_that_stays_has_the_bands_of_the_one_that_stood_for_its_text() -> None:
    # the first of the text goes by its address; what comes later must meet the second under its name
    text, like = Text(number=1, bands=(1,)), Text(number=2, bands=(1,))
    first = [Page(id=1, url=9, quality=9), Page(id=2, url=9, text=text), Page(id=3, url=8, text=text)]
    chain = Chain()
    removed = dedupe_pages.run(chain, [[[page] for page in first]])
    assert removed == {2: (Reason.DUPLICATE_URL, 1)}
    ((doc, kept),) = (row.values() for row in chain.table("decide", "stand_ins").to_pylist())
    assert (chain.id(doc), chain.id(kept)) == (2, 3)
    assert dedupe_pages.run(chain, [[[Page(id=4, text=like)]]]) == {4: (Reason.NEAR_DUPLICATE, 3)}


def test_a_text_that_went_is_no_reason_for_others_to_go() -> None:
    # its only page went by its address, so nothing of it is kept
    text, like = Text(number=1, bands=(1,)), Text(number=2, bands=(1,))
    first = [Page(id=1, url=9, quality=9), Page(id=2, url=9, text=text)]
    later = [[[Page(id=4, text=like)]], [[Page(id=5, text=text)]]]
    assert run([[first], *later]) == {2: (Reason.DUPLICATE_URL, 1), 5: (Reason.NEAR_DUPLICATE, 4)}


def test_pages_without_keys_are_not_one_page() -> None:
    chain = Chain()
    assert chain.publish([tables([Page(id=i, words=0) for i in range(50)])]).num_rows == 0
    assert chain.counts["decide"]["kept"] == 50


def test_a_hundred_thousand_copies_cost_a_hundred_thousand_rows() -> None:
    num = 100_000
    one = tables([same(1)])
    row = {name: one[name].combine_chunks() for name in one}
    unit = {name: pa.concat_tables([table] * (num // 2)).combine_chunks() for name, table in row.items()}
    rows = pa.array(np.arange(num // 2, dtype=np.uint32))
    unit = {name: table.set_column(0, table.schema.field("row"), rows) for name, table in unit.items()}
    ids = np.random.default_rng(0).permutation(num).astype(">u8").reshape(2, -1)
    units = []
    for half in ids:
        body = pa.py_buffer(np.stack([np.zeros(num // 2, ">u8"), half], axis=1))
        id16 = pa.FixedSizeBinaryArray.from_buffers(schema.ID16, num // 2, [None, body])
        signed = unit["signatures"].set_column(1, schema.SIGNATURES.field("doc_id"), id16)
        units.append({**unit, "signatures": signed})
    chain = Chain()
    verdicts = chain.publish(units)
    assert chain.verdicts() == {"kept": 1, "duplicate_url": num - 1, "duplicate_text": 0, "near_duplicate": 0}
    (best,) = set(verdicts["keeper"].to_pylist())
    assert chain.id(best) == 0
    assert verdicts["size"].to_pylist() == [num] * num
    assert chain.table("exact", "classes").num_rows == 2 * num
    assert chain.table("exact", "twins").num_rows == num - 1
    assert chain.table("bands", "keys").num_rows == schema.BANDS
    assert chain.table("group", "pairs").num_rows == 0
    # the next copy meets one page, not all
    chain.publish([{name: table.slice(0, 1) for name, table in units[0].items()}])
    assert chain.table("exact", "classes").num_rows == 4


def test_halves_of_a_key_are_both_compared() -> None:
    unit = tables([Page(id=1, url=1), Page(id=2, url=2)])
    url = unit["signatures"]["url_key"][0].as_py()
    keys = pa.array([url, url[:8] + bytes(8)], schema.ID16)
    unit["signatures"] = unit["signatures"].set_column(2, schema.SIGNATURES.field("url_key"), keys)
    assert Chain().publish([unit]).num_rows == 0


def test_pages_without_priority_are_an_error() -> None:
    chain = Chain()
    chain.publish([tables([same(1)])])
    chain.frozen["spread", 1] = []
    with pytest.raises(StoreError, match="no priority"):
        chain.publish([tables([same(2)])])


def test_pages_of_several_blocks_meet() -> None:
    pages = [[Page(id=unit, url=unit % 290 + 1)] for unit in range(300)]
    assert set(run([pages], dedupe.Config(partitions=1))) == set(range(290, 300))
    texts = [[Page(id=unit, text=Text(number=unit % 2 + 1, bands=(1,)))] for unit in (0, *range(2, 259))]
    chain = Chain(dedupe.Config(partitions=1))
    assert set(dedupe_pages.run(chain, [texts])) == set(range(2, 259))
    assert len(chain.frozen["bands", 0]) == 2
    assert chain.table("bands", "keys").num_rows == 2  # both texts stand in the first block


@pytest.mark.parametrize(
    ("generation", "ordinal", "row"), [(0, 0, 0), (1 << 16, 0, 0), (1, 1 << 24, 0), (1, 0, 1 << 24)]
)
def test_numbers_that_outgrow_their_bits_are_refused(generation: int, ordinal: int, row: int) -> None:
    with pytest.raises(ConfigError):
        dedupe.pack(generation, ordinal, np.array([row], np.uint32))


@pytest.mark.parametrize(
    "changed",
    [
        {"partitions": 3},
        {"partitions": 0},
        {"max_pairs_bucket": 1},
        {"threshold": 0.0},
        {"margin": -0.1},
        {"leaders": 0},
        {"num_slots": 127},
    ],
)
def test_config_refuses(changed: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="set"):
        dedupe.Config(**changed)  # type: ignore[arg-type]
