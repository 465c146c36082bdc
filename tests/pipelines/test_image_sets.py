"""Pages that show the very images of another: who stays, who goes, and that no set of images is lost to the rule."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from pipelines import select
from pipelines.coin import Coin, stays
from pipelines.reasons import Reason
from pipelines.select import Choice, Cut, Rules, frequency
from tests.pipelines.select_world import (
    Chain,
    Page,
    Shown,
    address_verdict,
    photos,
    seen,
    selected,
    some_generations,
)


@given(some_generations(), st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_who_goes_for_its_images_leaves_a_page_that_shows_them(generations: list[list[list[Page]]], seed: int) -> None:
    choice = Choice(max_docs=4, max_candidates=3, max_references=4, coin=Coin(keep_single=0.5))
    chain = Chain(select.Config(cut=Cut(partitions=4, domains=1), choice=choice), random.Random(seed))
    shown_by_kept: set[frozenset[str]] = set()
    for units in generations:
        chain.publish(units)
        found = seen(chain, units)["verdicts"]
        sets = {
            page.id: frozenset(i.url for i in page.images if not address_verdict(i, Rules())[0])
            for pages in units
            for page in pages
        }
        shown_by_kept |= {sets[page] for page, (reason, _) in found.items() if reason == Reason.KEPT}
        gone = [page for page, (reason, _) in found.items() if reason == Reason.SAME_IMAGES]
        assert {sets[page] for page in gone} <= shown_by_kept
        assert [found[page][1] for page in gone] == [len(sets[page]) for page in gone]


def of_sets(pages: Sequence[Page], choice: Choice | None = None) -> dict[int, tuple[int, float]]:
    return selected(pages, choice or Choice(coin=Coin(keep_single=1.0)))


def test_of_pages_with_the_same_images_the_best_stays() -> None:
    a, b = photos(2)
    small = Shown(url="https://a.example/9.jpg", width=1)
    pages = [
        Page(id=1, images=(a, b), quality=1, words=9),
        Page(id=2, images=(b, small, a, a), quality=2, words=3),
        Page(id=3, images=(a, b), quality=2, words=4),
        Page(id=4, images=(a, b), quality=2, words=4),
        Page(id=5, images=(a, b), quality=7, words=9, prose=False),
        Page(id=6, images=(a, b), quality=7, words=9, fate="removed"),
        Page(id=7, images=(a, b, Shown(url="https://a.example/2.jpg"))),
        Page(id=8, images=(a,), quality=7),
    ]
    same, kept = (Reason.SAME_IMAGES, 2), (Reason.KEPT, 2)
    apart = (Reason.NOT_INTERSPERSED, 2)
    found = of_sets(pages)
    assert found == {0: same, 1: same, 2: kept, 3: same, 4: apart, 6: (Reason.KEPT, 3), 7: (Reason.KEPT, 1)}
    off = of_sets(pages, Choice(same_images=False, coin=Coin(keep_single=1.0)))
    assert off == found | {0: kept, 1: kept, 3: kept}


def test_who_goes_for_its_images_asks_for_none_and_is_no_keeper_to_another() -> None:
    chain = Chain(select.Config(cut=Cut(partitions=2, domains=1)))
    chain.publish([[Page(id=1, images=photos(3))]])
    kept = chain.outputs["frequency"]["sets"].to_pylist()
    assert len(kept) == 1 and kept[0]["keeper"] == chain.doc(0, 0)
    for number in range(2, 5):
        chain.publish([[Page(id=number, images=photos(3), quality=7)]])
        assert chain.outputs["frequency"]["sets"].num_rows == 0  # known before
        assert chain.outputs["frequency"]["twins"]["keeper"].to_pylist() == [kept[0]["keeper"]]
        verdicts = chain.outputs["select"]["verdicts"].to_pylist()
        assert [(row["reason"], row["value"]) for row in verdicts] == [(Reason.SAME_IMAGES, 3)]
        assert chain.outputs["select"]["choices"].num_rows == 0
        assert chain.counts["frequency"]["pages:twins"] == 1


def test_with_one_candidate_left_each_page_tosses_its_own_coin() -> None:
    everywhere, rare = photos(2)
    twins = [Page(id=i, images=(everywhere, rare)) for i in range(8)]
    others = [Page(id=100 + i, images=(everywhere, *photos(2, f"{i}.example"))) for i in range(8)]
    found = selected([*twins, *others], Choice())
    coins = stays([page.doc_id for page in twins], Coin())
    assert [found[i][0] == Reason.KEPT for i in range(8)] == coins.tolist() and 0 < sum(coins) < 8
    assert {found[i] for i in range(8, 16)} == {(Reason.KEPT, 2)}


def test_sets_are_told_apart_by_all_of_their_hash() -> None:
    rows = [
        {"key": 5, "check": 1, "doc": 1 << 48, "rank": 1, "doc_id": b"b" * 16, "images": 2},
        {"key": 5, "check": 2, "doc": 1 << 48 | 1, "rank": 1, "doc_id": b"a" * 16, "images": 3},
        {"key": 5, "check": 1, "doc": 1 << 48 | 2, "rank": 1, "doc_id": b"a" + bytes(15), "images": 2},
        {"key": 1 << 63, "check": 1 << 63, "doc": 1 << 48 | 3, "rank": 9, "doc_id": bytes(16), "images": 2},
    ]
    sets = pa.Table.from_pylist(rows, schema.IMAGE_SETS.remove(0))
    before = pa.Table.from_pylist([{"key": 1 << 63, "check": 1 << 63, "keeper": 7}], schema.SET_KEEPERS)
    keepers, twins = frequency.meet(sets, [before, before.slice(0, 0)])
    assert {(row["key"], row["check"], row["keeper"]) for row in keepers.to_pylist()} == {
        (5, 1, 1 << 48 | 2),
        (5, 2, 1 << 48 | 1),
    }
    assert {(row["doc"], row["keeper"], row["images"]) for row in twins.to_pylist()} == {
        (1 << 48, 1 << 48 | 2, 2),
        (1 << 48 | 3, 7, 2),
    }
