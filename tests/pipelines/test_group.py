"""Pairs of pages that share a band: as brute force finds them, however rows are cut, and in bounded memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
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
from engine.spread import with_parts
from engine.stage import Unit
from pipelines import dedupe
from pipelines.dedupe import bands, buckets, group, index, radix, streams
from tests import offline
from tests.offline import OfflineCommit, OfflineWork, collect
from tests.pipelines import runs_world
from tests.pipelines.runs_world import Row, band_commit, run_of

NUMBER = 9  # of the generation under test
NEW = NUMBER << 48
OLD = 1 << 48


def grouped(
    new: Sequence[Sequence[Row]], old: Sequence[Sequence[Row]], config: dedupe.Config
) -> tuple[list[tuple[int, int]], list[int], dict[str, int]]:
    """(pairs over all partitions, how many times each partition wrote each, counts) of blocks of rows and of runs."""
    commits = [band_commit(rows, config.partitions) for rows in new]
    pairs, repeats = [], []
    counts: defaultdict[str, int] = defaultdict(int)
    frozen = {("bands", 0): commits}
    for number, rows in enumerate(old, 1):
        frozen["index", number] = [run_of(rows, part, config.partitions) for part in range(config.partitions)]
    for part in range(config.partitions):
        unit = Unit(id=f"{'0' * 12}-{part:06d}", inputs=(str(part),), generation=NUMBER)
        generation = SimpleNamespace(number=NUMBER, earlier=lambda name: tuple(range(1, len(old) + 1)))
        work = OfflineWork(unit=unit, scratch=Path(), frozen=frozen, generation=generation)
        table = collect(group.process, config, work, group.OUTPUTS)["pairs"]
        found = list(zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True))
        assert (table["block"].to_numpy() == dedupe.blocks(table["b"].to_numpy())).all()
        pairs += found
        repeats.append(len(found) - len(set(found)))
        for name, num in work.counts.items():
            counts[name] += num
    return pairs, repeats, dict(counts)


def expected(new: Sequence[Sequence[Row]], old: Sequence[Sequence[Row]], config: dedupe.Config) -> set[tuple[int, int]]:
    """The same pairs, said plainly."""
    by_key = defaultdict(set)
    for block in (*new, *old):
        for key, doc, rank in block:
            by_key[key].add((doc, rank))
    pairs = set()
    for bucket in by_key.values():
        order = sorted(bucket, key=lambda page: (page[1], page[0]))
        few = len(order) <= config.max_pairs_bucket
        ages = [[doc for doc, _ in order if (doc >= NEW) == new] for new in (False, True)]
        leaders = {doc for docs in ages for doc in (docs if few else docs[: config.leaders])}
        for (one, _), (other, _) in combinations(order, 2):
            if max(one, other) >= NEW and (one in leaders or other in leaders):
                pairs.add((min(one, other), max(one, other)))
    return pairs


# few keys at both ends of the range and in the middle, so that buckets are large and some partitions are empty
KEYS = st.sampled_from([1, 2, 3, 1 << 62, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1])


def blocks_of(first: int) -> st.SearchStrategy[list[list[Row]]]:
    row = st.tuples(KEYS, st.integers(0, 30).map(lambda doc: first + doc))
    # the rank is the page's, and a page has a band once
    blocks = st.lists(row, unique=True, max_size=40)
    return blocks.map(
        lambda rows: [[(key, i << 32 | doc, doc * 7 % 5) for key, doc in rows if doc % 3 == i] for i in range(3)]
    )


@settings(deadline=None, max_examples=25)
@given(
    new=blocks_of(NEW),
    old=blocks_of(OLD),
    partitions=st.sampled_from([1, 4]),
    pass_rows=st.sampled_from([1, 7, 1000]),
    share=st.sampled_from([0, 50]),
    sizes=st.sampled_from([(2, 1), (4, 3), (64, 64)]),
)
def test_pairs_are_those_of_brute_force(
    new: list[list[Row]],
    old: list[list[Row]],
    partitions: int,
    pass_rows: int,
    share: int,
    sizes: tuple[int, int],
) -> None:
    config = dedupe.Config(partitions=partitions, max_pairs_bucket=sizes[0], leaders=sizes[1])
    with pytest.MonkeyPatch.context() as patch:
        runs_world.shrink(patch)
        patch.setattr(group, "PASS_ROWS", pass_rows)
        patch.setattr(group, "BLOOM_SHARE", share)  # 0: always by the filter
        patch.setattr(buckets, "PAIRS", 50)
        pairs, _, counts = grouped(new, old, config)
        assert set(pairs) == expected(new, old, config)
        keys = [key for block in (*new, *old) for key, _, _ in block]
        fresh = {key for block in new for key, _, _ in block}
        large = [keys.count(key) for key in fresh if keys.count(key) > sizes[0]]
        assert counts.get("overflow:buckets", 0) == len(large)
        assert counts.get("overflow:pages", 0) == sum(large)


def test_a_pair_of_several_bands_of_a_partition_is_written_once() -> None:
    new = [[(key, NEW + doc, 0) for key in range(1, 10) for doc in range(4)]]
    pairs, repeats, counts = grouped(new, [[(5, OLD + 77, 0)]], dedupe.Config(partitions=1))
    assert sorted(pairs) == sorted(
        [*combinations(range(NEW, NEW + 4), 2), *((OLD + 77, NEW + doc) for doc in range(4))]
    )
    assert repeats == [0] and counts == {"overflow:buckets": 0, "overflow:pages": 0}


def test_a_run_much_larger_than_what_is_new_is_asked_by_its_filter() -> None:
    rng = np.random.default_rng(5)
    old = [(int(key), OLD + doc, 0) for doc, key in enumerate(rng.integers(1, 1 << 63, 50_000, dtype=np.uint64))]
    new = [[(old[doc * 1111][0], NEW + doc, 0) for doc in range(40)] + [(key, NEW + key, 0) for key in range(1, 200)]]
    config = dedupe.Config(partitions=1)
    pairs, _, counts = grouped(new, [old], config)
    assert set(pairs) == expected(new, [old], config) and len(pairs) == 40
    # 40 stretches of a fence each, not the run; two where a key is a fence itself
    assert 40 * 5 * index.FENCE_ROWS > counts.pop("filter:rows") > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "BLOOM_SHARE", 1 << 40)
        assert grouped(new, [old], config) == (pairs, [0], counts)


def test_a_bucket_of_100_000_pages_costs_its_leaders() -> None:
    num = 100_000
    new = [[(1 << 40, NEW + doc, doc % 1000) for doc in range(start, num, 7)] for start in range(7)]
    pairs, repeats, counts = grouped(new, [[(1 << 40, OLD + 5, 9999)]], dedupe.Config(partitions=2, leaders=8))
    led = {OLD + 5, *(NEW + doc for doc in range(0, 8000, 1000))}  # the old page, and rank 0 by doc
    assert len(pairs) == len(set(pairs)) == 9 * (num + 1 - 9) + 9 * 8 // 2
    assert all(a in led or b in led for a, b in pairs) and repeats == [0, 0]
    assert counts == {"overflow:buckets": 1, "overflow:pages": num + 1}


def test_rows_of_a_partition_without_new_pages_are_not_read() -> None:
    class Closed(OfflineWork):
        def slices(self, declared: Any, wanted: Any) -> Any:
            raise AssertionError("read")

    unit = Unit(id=f"{'0' * 12}-000001", inputs=("1",), generation=NUMBER)
    generation = SimpleNamespace(number=NUMBER, earlier=lambda name: (1,))
    frozen = {("bands", 0): [band_commit([(1, NEW, 0)], 2)], ("index", 1): [run_of([(1 << 63, OLD + 5, 0)], 1, 2)]}
    work = Closed(unit=unit, scratch=Path(), frozen=frozen, generation=generation)
    assert list(group.process(unit, dedupe.Config(partitions=2), work)) == []


@pytest.mark.parametrize("share", [0, 1 << 40], ids=["filter", "merge"])
def test_a_damaged_run_is_a_sentence(share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_world.shrink(monkeypatch)
    monkeypatch.setattr(group, "BLOOM_SHARE", share)
    good = [(key * 1000, OLD + key, 0) for key in range(1, 40)]

    def spoilt(part: int = 0, partitions: int = 1, **tables: pa.Table) -> str:
        config = dedupe.Config(partitions=partitions)
        run = run_of(good, 0, 1)
        run.update(tables)
        run.unit = f"{'0' * 12}-{part:06d}"
        new = [(7000, NEW, 0), (1 << 63, NEW, 0)]
        unit = Unit(id=run.unit, inputs=(str(part),), generation=NUMBER)
        generation = SimpleNamespace(number=NUMBER, earlier=lambda name: (1,))
        frozen = {("bands", 0): [band_commit(new, partitions)], ("index", 1): [run]}
        work = OfflineWork(unit=unit, scratch=Path(), frozen=frozen, generation=generation)
        with pytest.raises(StoreError, match="kosmos verify") as caught:
            list(group.process(unit, config, work))
        return str(caught.value)

    run = run_of(good, 0, 1)
    backward = run["bands"].take(pa.array(np.arange(39)[::-1]))
    if share:
        far = run_of([(1 << 63, OLD, 0)], 1, 2)  # of another partition, or of a store with other partitions
        assert "another partition" in spoilt(bands=far["bands"], partitions=2, part=0)
        assert "another partition" in spoilt(bands=run["bands"], partitions=2, part=1)
    assert ("fit its filter" if share == 0 else "order of keys") in spoilt(bands=backward)
    assert "2 generations" in spoilt(generations=pa.table([np.ones(2, np.uint16)], schema=schema.INDEX_GENERATIONS))
    if share == 0:
        assert "fit" in spoilt(bands=run["bands"].slice(20))
        assert "filters" in spoilt(filters=run["filters"].slice(1))
        row = run["filters"].to_pylist()[0]
        torn = pa.Table.from_pylist([row | {"bloom": row["bloom"][:-8]}], schema=schema.INDEX_FILTERS)
        assert "blocks" in spoilt(filters=torn)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, (1 << 64) - 1) | KEYS, st.integers(0, 9), st.integers(0, 9)), max_size=300))
def test_rows_are_ordered_by_key_and_doc(rows: list[Row]) -> None:
    pieces = [runs_world.rows(rows[i::3]) for i in range(3)]
    found = radix.ordered(pieces)
    assert pieces == []
    assert sorted(zip(found.keys.tolist(), found.docs.tolist(), found.ranks.tolist(), strict=True)) == sorted(rows)
    order = list(zip(found.keys.tolist(), found.docs.tolist(), strict=True))
    assert order == sorted(order)


def test_many_rows_of_two_keys_of_one_place_are_ordered() -> None:
    keys = np.tile(np.array([6, 5], np.uint64), 500)
    keys[0], keys[1] = 0, (1 << 64) - 1  # so that 5 and 6 meet in one bucket of the radix
    docs = np.arange(1000, dtype=np.uint64)[::-1].copy()
    found = radix.ordered([radix.Rows(keys, docs, docs.astype(np.uint32))])
    order = np.lexsort((docs, keys))
    assert (
        (found.keys == keys[order]).all() and (found.docs == docs[order]).all() and (found.ranks == docs[order]).all()
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 60) | KEYS, max_size=200), st.lists(st.integers(0, 60) | KEYS, max_size=40))
def test_matches_are_those_of_isin(others: list[int], keys: list[int]) -> None:
    ones, old = (np.sort(np.array(values, np.uint64)) for values in (keys, others))
    assert radix.matches(ones, old).tolist() == np.flatnonzero(np.isin(old, ones)).tolist()
    assert radix.ascending(old) and radix.ascending(old[:1])
    assert not radix.ascending(np.array([2, 1], np.uint64)) and not radix.ascending(np.array([2], np.uint64), 3)


def test_a_stream_gives_each_row_once_in_ranges_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "BATCH_ROWS", 7)
    monkeypatch.setattr(streams, "PIECE_ROWS", 3)
    monkeypatch.setattr(streams, "AT_ONCE_ROWS", 5)
    rng = np.random.default_rng(2)
    held = [np.sort(rng.integers(0, 500, num, dtype=np.uint64)) for num in (40, 0, 13)]
    zeros = [np.zeros(len(keys), np.uint64) for keys in held]
    commits: list[Any] = [
        OfflineCommit({"bands": pa.table([k, z, z.astype(np.uint32)], schema=schema.INDEX_BANDS)}, unit="run")
        for k, z in zip(held, zeros, strict=True)
    ]
    work = OfflineWork(unit=Unit(id="u"), scratch=Path())
    found = streams.Streams(work, index.BANDS, commits)
    assert found.rows == 53
    before = 0
    for bound, share in ((100, 0.25), (100, 0.3), (101, 0.0), (450, 0.9), (1 << 64, 0.5)):
        keys = [key for table in found.below(bound, share) for key in table["key"].to_pylist()]
        assert sorted(keys) == sorted(int(k) for k in np.concatenate(held) if before <= k < bound)
        before = bound


def test_with_parts_agrees_with_the_bounds_of_passes() -> None:
    ends = [0, *(end for part in range(8) for end in streams.bounds(part, 8, 3))]
    assert ends == sorted(ends) and ends[-1] == 1 << 64
    keys = np.array([end for end in ends if end < 1 << 64], np.uint64)
    table = with_parts(pa.table({"key": keys}), "key", 8)
    assert table["part"].to_pylist() == [i // 3 for i in range(24)]


def test_a_page_is_its_generation_its_block_and_32_bits() -> None:
    docs = [NEW | block << 32 | page for block in (0, 1, 65_535) for page in (0, 5, (1 << 32) - 1)]
    assert [int(block) for block in dedupe.blocks(np.array(docs, np.uint64))] == [0] * 3 + [1] * 3 + [65_535] * 3
    rows = [(3, doc, 9) for doc in docs]
    commits = [band_commit(rows[start : start + 3], 1) for start in (0, 3, 6)]
    generation = SimpleNamespace(number=NUMBER, earlier=lambda name: ())
    work = OfflineWork(unit=Unit(id="u"), scratch=Path(), frozen={("bands", 0): commits}, generation=generation)
    tables = list(bands.rows(work, 0, 0).below(1 << 64, 1))
    assert all(table.schema.equals(schema.INDEX_BANDS) for table in tables)
    assert [tuple(row.values()) for table in tables for row in table.to_pylist()] == rows
    for unit in ("b", "b-x", "b-065536"):
        commits[1].unit = unit
        with pytest.raises(StoreError, match="kosmos verify"):
            bands.rows(work, 0, 0)
