"""Runs of the index: of all kept pages, few and in order; and the filter that says where a key could be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
from pipelines.dedupe import bloom, index, runs
from tests.offline import OfflineCommit, OfflineWork, collect
from tests.pipelines import runs_world
from tests.pipelines.runs_world import Row, band_commit, decided, key_commit

Keyed = tuple[int, int, int, int]  # key, check, doc, kind


class Series:
    """The index of one partition of two over generations."""

    def __init__(self, part: int = 0) -> None:
        self.part, self.number = part, 0
        self.frozen: dict[tuple[str, int], list[Any]] = {}

    def work(self) -> OfflineWork:
        """What the next generation's unit is lent."""
        earlier = tuple(range(1, self.number + 1))
        return OfflineWork(
            unit=Unit(id=f"{'a' * 12}-{self.part:06d}", inputs=(str(self.part),), generation=self.number + 1),
            scratch=Path(),
            frozen=self.frozen,
            generation=SimpleNamespace(number=self.number + 1, earlier=lambda name: earlier),
        )

    def live(self) -> list[Any]:
        """The runs that the next generation meets."""
        return list(runs.live(self.work(), self.part))

    def publish(
        self,
        bands: Sequence[Sequence[Row]],
        keys: Sequence[Sequence[Keyed]] = ((),),
        removed: Sequence[int] = (),
        stand_ins: Sequence[tuple[int, int]] = (),
    ) -> OfflineCommit:
        """Write the run of a generation whose rows came in these blocks."""
        self.frozen |= {
            ("bands", 0): [band_commit(rows, 2) for rows in bands],
            ("spread", 0): [key_commit(rows, 2, f"s{i}") for i, rows in enumerate(keys)],
            ("decide", 0): [decided(removed, stand_ins)],
        }
        work = self.work()
        tables = collect(index.process, dedupe.Config(partitions=2), work, index.OUTPUTS)
        commit = OfflineCommit(tables, dict(work.counts), work.unit.id)
        self.number += 1
        self.frozen["index", self.number] = [OfflineCommit({}, unit=f"x-{1 - self.part:06d}"), commit]
        return commit


def tuples(table: pa.Table) -> list[tuple[int, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def checked(commit: Any) -> None:
    """A run is in order, and its filter is its own."""
    exact, bands = tuples(commit["exact"]), tuples(commit["bands"])
    assert bands == sorted(bands) and exact == sorted(exact)
    (row,) = commit["filters"].to_pylist()
    assert row["fences"] == [key for key, *_ in bands[:: index.FENCE_ROWS]]
    if bands:
        assert bloom.maybe(bloom.load(row["bloom"]), np.array([key for key, *_ in bands], np.uint64)).all()
    assert commit.counts["covers:generations"] == commit.rows("generations")


@pytest.mark.parametrize("sizes", [[9] * 20, [300 >> n for n in range(20)], [3**n % 40 for n in range(20)]])
def test_few_runs_hold_all_kept_pages_of_20_generations(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    runs_world.shrink(monkeypatch)
    monkeypatch.setattr(index, "PASS_ROWS", 16)
    rng = np.random.default_rng(len(set(sizes)))
    series = Series()
    bands: list[tuple[int, ...]] = []
    exact: list[tuple[int, ...]] = []
    copied = 0
    for number, size in enumerate(sizes, 1):
        docs = [number << 48 | doc for doc in range(size)]
        rows = [(int(key), doc, 7) for doc in docs for key in rng.integers(0, 1 << 62, 3)]
        keys = [(int(rng.integers(0, 1 << 62)), 5, doc, kind) for doc in docs for kind in (0, 1)]
        gone = docs[1::3]
        commit = series.publish([rows[::2], rows[1::2]], [keys], gone)
        checked(commit)
        bands += [row for row in rows if row[1] not in gone]
        exact += [row for row in keys if row[2] not in gone]
        live = series.live()
        assert len(live) <= runs.LIVE
        assert sorted(row for run in live for row in tuples(run["bands"])) == sorted(bands)
        assert sorted(row for run in live for row in tuples(run["exact"])) == sorted(exact)
        held = [n for run in live for n in run["generations"]["generation"].to_pylist()]
        assert held == list(range(number, 0, -1))
        copied += commit.rows("bands")
    assert copied <= len(bands) * 7, "each row is copied a few times, not once a generation"


@settings(deadline=None, max_examples=30)
@given(
    order=st.permutations(range(6)), cuts=st.lists(st.integers(0, 6), max_size=3), passes=st.sampled_from([1, 5, 1000])
)
def test_a_run_is_the_same_bytes_whatever_order_rows_come_in(order: list[int], cuts: list[int], passes: int) -> None:
    rng = np.random.default_rng(1)
    made = [[(int(key), 2 << 48 | doc, 3) for doc in range(9)] for key in rng.integers(0, 1 << 62, 6)]
    keys = [[(key, 1 << 40 | n, doc, n % 2) for n, (key, doc, _) in enumerate(group)] for group in made]

    def written(order: Sequence[int], cuts: Sequence[int]) -> OfflineCommit:
        bounds = [0, *sorted(cuts), len(order)]
        groups = [order[a:b] for a, b in itertools.pairwise(bounds)]
        bands = [[row for n in group for row in made[n]] for group in groups]
        found = [[row for n in group for row in keys[n]] for group in groups]
        series = Series()
        series.publish([[(5, 1 << 48 | 3, 1)]])
        return series.publish(bands, found, removed=[2 << 48 | 4], stand_ins=[(2 << 48 | 4, 2 << 48 | 99)])

    plain = written(range(6), [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "PASS_ROWS", passes)
        assert written(order, cuts) == plain
    assert plain.rows("generations") == 2


def test_the_kept_page_of_a_text_takes_over_the_bands_of_one_that_went() -> None:
    one, two, three = (1 << 48 | n for n in range(3))
    series = Series()
    commit = series.publish(
        [[(50, one, 4), (10, one, 4), (50, three, 2)]],
        [[(9, 9, one, 1), (9, 9, two, 1), (9, 9, three, 0)]],
        removed=[one, three],
        stand_ins=[(one, two)],
    )
    checked(commit)
    assert tuples(commit["bands"]) == [(10, two, 4), (50, two, 4)]
    assert tuples(commit["exact"]) == [(9, 9, two, 1)]
    # the other partition has none of it, and says so
    empty = Series(part=1).publish([[(50, one, 4)]], [[(9, 9, one, 1)]])
    assert empty.rows("bands") == empty.rows("exact") == 0 and empty.rows("filters") == 1
    checked(empty)


@settings(deadline=None, max_examples=40)
@given(
    st.sets(st.tuples(st.integers(0, 600), st.integers(0, 40))),
    st.sets(st.tuples(st.integers(0, 600), st.integers(0, 40))),
)
def test_a_page_is_gone_if_and_only_if_decide_removed_it(
    removed: set[tuple[int, int]], asked: set[tuple[int, int]]
) -> None:
    def docs(pages: set[tuple[int, int]]) -> list[int]:
        return [1 << 48 | ordinal << 24 | row for ordinal, row in sorted(pages)]

    keys = [(place, place, doc, 0) for place, doc in enumerate(docs(removed | asked))]
    commit = Series().publish([[]], [keys], removed=docs(removed))
    assert sorted(commit["exact"]["doc"].to_pylist()) == docs(asked - removed)


def test_rows_at_the_last_key_are_kept() -> None:
    top = (1 << 64) - 1
    one, two = 1 << 48 | 7, 1 << 48 | 8
    commit = Series(part=1).publish([[(top, one, 1), (1 << 63, two, 1)]], [[(top, top, one, 0)]])
    assert tuples(commit["bands"]) == [(1 << 63, two, 1), (top, one, 1)]
    assert tuples(commit["exact"]) == [(top, top, one, 0)]


def test_which_runs_are_merged_follows_from_their_rows() -> None:
    assert runs.merged([], 5) == 0
    assert runs.merged([10], 5) == 1
    assert runs.merged([11], 5) == 0
    assert runs.merged([10, 30, 91], 5) == 2
    assert runs.merged([], 0) == 0 and runs.merged([0, 1], 0) == 1
    # seven that are too large may stay beside the new one, an eighth may not
    assert runs.merged([9] * 7, 1) == 0
    assert runs.merged([9] * 8, 1) == 8, "after the first one it is no longer too large"
    assert runs.merged([9 * 4**n for n in range(8)], 1) == 1


def test_live_runs_are_those_that_nobody_took_in() -> None:
    def run(part: int, held: int) -> OfflineCommit:
        table = pa.table([np.zeros(held, np.uint16)], schema=schema.INDEX_GENERATIONS)
        return OfflineCommit({"generations": table}, unit=f"{'b' * 12}-{part:06d}")

    series = Series()
    series.number = 5
    series.frozen = {("index", n): [run(0, held), run(1, 1)] for n, held in enumerate((1, 2, 1, 1, 2), 1)}
    assert [commit.rows("generations") for commit in series.live()] == [2, 1, 2]
    assert series.live()[0] is series.frozen["index", 5][0]
    for wrong in ([], [run(1, 1)], [run(0, 0)], [run(0, 4)], [run(0, 1), run(0, 1)]):
        series.frozen["index", 3] = wrong
        with pytest.raises(StoreError, match="kosmos verify"):
            series.live()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=300), st.integers(0, 300))
def test_a_member_is_never_taken_for_a_stranger(keys: list[int], room: int) -> None:
    members = np.array(keys, np.uint64)
    words = bloom.empty(room)  # too small a filter lets more pass, and never fewer
    bloom.add(words, members)
    assert bloom.maybe(bloom.load(words.tobytes()), members).all()


def test_few_strangers_are_taken_for_members() -> None:
    # of one partition of 4,096, so that the top bits are the same
    keys = np.random.default_rng(3).integers(0, 1 << 52, 300_000, dtype=np.uint64) | np.uint64(77 << 52)
    words = bloom.empty(200_000)
    bloom.add(words, keys[:200_000])
    assert len(words) * 64 <= 200_000 * 10 + 512
    assert 0.001 < bloom.maybe(words, keys[200_000:]).mean() < 0.02


@pytest.mark.parametrize("body", [b"", b"x" * 63, b"x" * 72])
def test_a_filter_that_is_not_whole_blocks_is_refused(body: bytes) -> None:
    with pytest.raises(StoreError, match="kosmos verify"):
        bloom.load(body)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=60),
    st.lists(st.integers(0, 45), max_size=10),
    st.sampled_from([1, 2, 7]),
)
def test_places_of_a_filter_hold_all_rows_of_its_keys(found: list[int], asked: list[int], fence: int) -> None:
    keys = np.sort(np.array(found, np.uint64))
    words = bloom.empty(len(keys))
    bloom.add(words, keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "FENCE_ROWS", fence)
        filters = index.Filters(len(keys), keys[::fence], words)
        places = filters.places(np.unique(np.array(asked, np.uint64)))
    covered = [row for first, num in places for row in range(first, first + num)]
    assert covered == sorted(set(covered)) and all(0 <= row < len(keys) for row in covered)
    assert {row for row, key in enumerate(keys.tolist()) if key in asked} <= set(covered)
    assert asked or not covered
