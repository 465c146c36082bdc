"""The order of rows: bijections, exact proportions, every row once an epoch, the same in any world and when resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, StoreError
from trainer.config import DataConfig, Quotas
from trainer.data.order import (
    CYCLE,
    RUN,
    Piece,
    Source,
    State,
    Stream,
    cycle_counts,
    draw,
    drawn,
    epochs,
    extend,
    num_micro_batches,
    permute,
    picks,
    row_of,
    slice_of,
    start,
    union,
)

A, B = "a" * 64, "b" * 64
CAPTIONS = Quotas(text=0, caption=10, interleaved=0)


def numbers(num: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + num, dtype=np.uint64)


def all_to(num: int, seed: int = 0, name: str = "s", epoch: int = 0) -> list[int]:
    return permute(seed, name, np.full(num, epoch, np.uint64), numbers(num), num).tolist()


def piece_of(order: str = "blocks", seed: int = 0) -> Piece:
    return Piece(first_update=1, digests=(A,), streams=(), seed=seed, order=order)


def captions(*rows: int) -> list[Source]:
    return [Source(name=f"pack-{number}/caption", rows=num) for number, num in enumerate(rows)]


def passes(state: State, first: int, last: int, stream: str = "caption") -> list[tuple[str, int]]:
    return [pick for update in range(first, last + 1) for pick in picks(state, update)[stream]]


# the permutation ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("num", [1, 2, 3, 63, 64, 65, 10**6 + 3])
def test_every_index_is_hit_once(num: int) -> None:
    assert (np.sort(permute(7, "s", np.zeros(num, np.uint64), numbers(num), num)) == np.arange(num)).all()


@given(num=st.integers(1, 600), seed=st.integers(-(2**40), 2**40), epoch=st.integers(0, 2**50), name=st.text())
def test_every_index_is_hit_once_whatever_the_key(num: int, seed: int, epoch: int, name: str) -> None:
    assert sorted(all_to(num, seed, name, epoch)) == list(range(num))


def test_the_permutation_depends_on_seed_name_and_epoch() -> None:
    orders = [all_to(1000), all_to(1000, seed=1), all_to(1000, name="t"), all_to(1000, epoch=1)]
    assert len({tuple(order) for order in orders}) == 4
    # of two random orders of 1,000, one index in a thousand goes to the same place
    assert all(sum(a == b for a, b in zip(orders[0], other, strict=True)) < 20 for other in orders[1:])


def test_neighbours_are_taken_apart() -> None:
    order = np.array(all_to(10_000))
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert (np.abs(np.diff(order)) == 1).mean() < 0.005


@given(indices=st.lists(st.integers(0, 99), max_size=30), epoch=st.integers(0, 5))
def test_an_index_goes_to_the_same_place_alone_and_among_others(indices: list[int], epoch: int) -> None:
    together = permute(3, "s", np.full(len(indices), epoch, np.uint64), np.array(indices, np.uint64), 100).tolist()
    assert together == [all_to(100, 3, "s", epoch)[index] for index in indices]


# cycles -------------------------------------------------------------------------------------------------------------
@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=20))
def test_a_cycle_holds_each_source_by_its_weight(weights: list[float]) -> None:
    counts = cycle_counts(weights)
    total = sum(Fraction(weight) for weight in weights)
    assert sum(counts) == CYCLE
    assert all(abs(num - Fraction(weight) * CYCLE / total) < 1 for num, weight in zip(counts, weights, strict=True))


def test_the_rest_of_a_cycle_goes_to_the_largest_remainders() -> None:
    assert cycle_counts([1, 1, 1]) == [334, 333, 333]
    assert cycle_counts([0.9999, 0.0001]) == [1000, 0]
    assert cycle_counts([5]) == [1000]


@settings(max_examples=20)
@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=5), begin=st.integers(0, 5000))
def test_any_thousand_draws_are_proportional_and_each_source_counts_on(weights: list[int], begin: int) -> None:
    sources = tuple(captions(*[100] * len(weights)))
    stream = Stream(name="caption", sources=sources, weights=tuple(map(float, weights)), quota=1)
    which, of_source = draw(piece_of(), stream, numbers(CYCLE, begin))
    assert np.bincount(which, minlength=len(weights)).tolist() == cycle_counts(weights)
    earlier, _ = draw(piece_of(), stream, numbers(begin))
    for index in range(len(weights)):
        before = int((earlier == index).sum())
        assert of_source[which == index].tolist() == list(range(before, before + cycle_counts(weights)[index]))


def test_sources_take_turns_within_a_cycle() -> None:
    stream = Stream(name="caption", sources=tuple(captions(9, 9)), weights=(1.0, 1.0), quota=1)
    which, _ = draw(piece_of(), stream, numbers(CYCLE))
    assert 400 < (np.diff(which) != 0).sum() < 600


# epochs -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["blocks", "rows"])
@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 128, 200, 1000])
def test_every_row_comes_once_an_epoch(order: str, rows: int) -> None:
    source = Source(name="p/caption", rows=rows, first=17)
    drawn_rows = row_of(piece_of(order), source, numbers(3 * rows)).reshape(3, rows)
    assert all(sorted(epoch) == list(range(17, 17 + rows)) for epoch in drawn_rows.tolist())
    if rows == 1000:
        assert len({tuple(epoch) for epoch in drawn_rows.tolist()}) == 3


def test_blocks_keep_runs_of_64_and_the_short_one_last() -> None:
    rows = row_of(piece_of("blocks"), Source(name="p/caption", rows=10 * RUN + 5), numbers(10 * RUN + 5)).tolist()
    runs = [rows[i : i + RUN] for i in range(0, len(rows), RUN)]
    assert all(run == list(range(run[0], run[0] + len(run))) for run in runs)
    assert [run[0] % RUN for run in runs] == [0] * 11
    assert runs[-1] == list(range(10 * RUN, 10 * RUN + 5))
    assert [run[0] for run in runs[:-1]] != sorted(run[0] for run in runs[:-1])


def test_an_update_may_pass_a_small_source_many_times() -> None:
    state = start(captions(3), [A], DataConfig(quotas=CAPTIONS))
    assert Counter(passes(state, 1, 3)) == {("pack-0/caption", row): 10 for row in range(3)}
    (warning,) = state.warnings
    assert "caption has 3 rows and draws 10" in warning


def test_two_sources_are_drawn_by_their_rows_unless_weights_are_given() -> None:
    by_rows = start(captions(300, 100), [A], DataConfig(quotas=CAPTIONS))
    assert Counter(name for name, _ in passes(by_rows, 1, 100)) == {"pack-0/caption": 750, "pack-1/caption": 250}
    given_weights = DataConfig(quotas=CAPTIONS, weights=("pack-0/caption=0.1", "pack-1/caption=0.9"))
    weighted = start(captions(300, 100), [A], given_weights)
    assert Counter(name for name, _ in passes(weighted, 1, 100)) == {"pack-0/caption": 100, "pack-1/caption": 900}
    assert epochs(weighted, 100) == {"pack-0/caption": 100 / 300, "pack-1/caption": 9.0}
    assert not weighted.warnings


def test_the_order_of_opening_is_no_part_of_the_order() -> None:
    config = DataConfig(quotas=CAPTIONS)
    assert start(captions(300, 100), [A], config) == start(captions(300, 100)[::-1], [A], config)


def test_a_source_too_light_to_be_drawn_is_told() -> None:
    state = start(captions(10_000_000, 1), [A], DataConfig(quotas=CAPTIONS))
    assert any("pack-1/caption weighs less than 1 draw in 1000" in warning for warning in state.warnings)


# ranks --------------------------------------------------------------------------------------------------------------
@given(quota=st.integers(0, 300), world=st.sampled_from([1, 2, 3, 4, 7]), rows=st.integers(1, 9))
def test_ranks_share_an_update_in_order_and_run_as_many_micro_batches(quota: int, world: int, rows: int) -> None:
    slices = [slice_of(quota, rank, world) for rank in range(world)]
    assert [row for first, last in slices for row in range(first, last)] == list(range(quota))
    num = num_micro_batches(quota, world, rows)
    assert num == -((-quota // world) // rows)
    assert all(last - first <= num * rows for first, last in slices)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_rank_reads_its_slice_alone(world: int) -> None:
    state = start(captions(500, 77), [A], DataConfig(quotas=CAPTIONS))
    (piece,) = state.pieces
    (stream,) = piece.streams
    for update in (1, 2, 1234):
        slices = [drawn(piece, stream, update, *slice_of(10, rank, world)) for rank in range(world)]
        assert [pick for mine in slices for pick in mine] == picks(state, update)["caption"]


# growing ------------------------------------------------------------------------------------------------------------
def test_an_extended_run_draws_new_rows_only_and_keeps_what_it_did() -> None:
    config = DataConfig(quotas=CAPTIONS)
    old = start(captions(300), [A], config)
    new = extend(old, 21, captions(420, 80), [A, B], config)
    assert passes(new, 1, 20) == passes(old, 1, 20)
    later = Counter(passes(new, 21, 120))  # a cycle: 600 and 400 draws
    fresh = {("pack-0/caption", row) for row in range(300, 420)} | {("pack-1/caption", row) for row in range(80)}
    assert set(later) == fresh and set(later.values()) == {5}
    assert new.digests == (A, B)
    assert epochs(new, 120)["pack-0/caption"] == pytest.approx((200 + 600) / 420)


def test_a_union_draws_old_and_new_rows() -> None:
    config = DataConfig(quotas=CAPTIONS)
    old = start(captions(300), [A], config)
    new = union(old, 21, captions(420, 80), [A, B], config)
    assert passes(new, 1, 20) == passes(old, 1, 20)
    later = Counter(passes(new, 21, 120))  # a cycle: 840 and 160 draws
    assert len(later) == 500 and set(later.values()) == {2}
    assert epochs(new, 120) == {"pack-0/caption": pytest.approx((200 + 840) / 420), "pack-1/caption": 2.0}


def test_what_a_run_never_drew_is_new_to_it() -> None:
    sources = [Source(name="p/caption", rows=10), Source(name="p/text", rows=10)]
    state = start(sources, [A], DataConfig(quotas=CAPTIONS))
    grown = extend(state, 2, sources, [A], DataConfig(quotas=Quotas(text=10, caption=0, interleaved=0)))
    assert sorted(picks(grown, 2)["text"]) == [("p/text", row) for row in range(10)]


@pytest.mark.parametrize("grow", [extend, union])
def test_a_run_grows_forward_and_keeps_its_manifests(grow: object) -> None:
    config = DataConfig(quotas=CAPTIONS)
    state = start(captions(30), [A], config)
    for first_update, digests in ((1, [A, B]), (5, [B]), (5, [B, A])):
        with pytest.raises(ConfigError):
            grow(state, first_update, captions(60), digests, config)  # type: ignore[operator]


def test_extending_by_nothing_is_refused() -> None:
    config = DataConfig(quotas=CAPTIONS)
    with pytest.raises(ConfigError, match="no row that the run has not"):
        extend(start(captions(30), [A], config), 5, captions(30), [A, B], config)


# recorded -----------------------------------------------------------------------------------------------------------
def grown() -> State:
    config = DataConfig(quotas=Quotas(text=3, caption=5, interleaved=2), seed=-9, order="rows")
    streams = ("text", "caption", "interleaved")
    first = [Source(name=f"pack-0/{stream}", rows=70 + 100 * i) for i, stream in enumerate(streams)]
    more = [Source(name=f"pack-{n}/{stream}", rows=500) for n in (0, 1) for stream in streams]
    weights = tuple(f"pack-{n}/text={0.1 + n}" for n in (0, 1))
    state = start(first, [A], config)
    return union(state, 8, more, [A, B], DataConfig(quotas=config.quotas, seed=3, weights=weights))


def test_json_keeps_the_state_and_a_resumed_run_reads_the_same() -> None:
    state = grown()
    again = State.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state
    straight = [picks(state, update) for update in range(1, 20)]
    assert [picks(again, update) for update in range(12, 20)] == straight[11:]


@pytest.mark.parametrize(
    "body",
    [None, {}, {"pieces": []}, {"pieces": [{}]}, {"pieces": [{**grown().to_json()["pieces"][0], "order": "random"}]}],
)
def test_what_is_no_state_is_a_sentence(body: object) -> None:
    with pytest.raises(StoreError, match="--out"):
        State.from_json(body)


def test_pieces_must_follow_one_another() -> None:
    body = grown().to_json()
    for pieces in (body["pieces"][1:], body["pieces"][::-1], body["pieces"] * 2):
        with pytest.raises(StoreError, match="begin at updates"):
            State.from_json({"pieces": pieces})


def test_updates_count_from_one() -> None:
    with pytest.raises(ValueError, match="count from 1"):
        picks(grown(), 0)


def test_the_order_never_changes_unnoticed() -> None:
    """Golden: a run that is under way must read on in the order that it began with."""
    found = {}
    for order in ("blocks", "rows"):
        state = start(captions(640, 200), [A], DataConfig(quotas=CAPTIONS, order=order, seed=5))
        firsts = [picks(state, update)["caption"][0] for update in (1, 2, 30, 54, 77, 1000, 300_000)]
        found[order] = [(int(name[5]), row) for name, row in firsts]
    assert found == GOLDEN


GOLDEN = {
    "blocks": [(0, 384), (1, 4), (0, 537), (0, 84), (0, 6), (1, 51), (1, 199)],
    "rows": [(0, 130), (1, 156), (0, 488), (0, 283), (0, 313), (1, 51), (1, 86)],
}


# refused ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (("pack-0/captoin=1", "pack-1/caption=1"), "did you mean pack-0/caption"),
        (("pack-0/caption",), "pack-0/caption=0.5"),
        (("pack-0/caption=much", "pack-1/caption=1"), "no weight"),
        (("pack-0/caption=-1", "pack-1/caption=1"), "no weight"),
        (("pack-0/caption=nan", "pack-1/caption=1"), "no weight"),
        (("pack-0/caption=inf", "pack-1/caption=1"), "no weight"),
        (("pack-0/caption=1",), "add pack-1/caption=WEIGHT"),
        (("pack-0/caption=1", "pack-0/caption=1", "pack-1/caption=1"), "twice"),
        (("pack-0/caption=0", "pack-1/caption=0"), "no rows to draw for the stream caption"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(weights: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        start(captions(30, 10), [A], DataConfig(quotas=CAPTIONS, weights=weights))


def test_a_source_of_weight_zero_is_left_out() -> None:
    weights = ("pack-0/caption=0", "pack-1/caption=2")
    state = start(captions(30, 10), [A], DataConfig(quotas=CAPTIONS, weights=weights))
    assert {name for name, _ in passes(state, 1, 5)} == {"pack-1/caption"}


def test_an_empty_source_with_a_weight_is_named() -> None:
    weights = ("pack-0/caption=1", "pack-1/caption=1")
    with pytest.raises(ConfigError, match="pack-1/caption has a weight and no rows"):
        start(captions(30, 0), [A], DataConfig(quotas=CAPTIONS, weights=weights))
    without = start(captions(30, 0), [A], DataConfig(quotas=CAPTIONS))
    assert {name for name, _ in passes(without, 1, 9)} == {"pack-0/caption"}


def test_a_stream_without_rows_is_refused_unless_it_is_left_out() -> None:
    with pytest.raises(ConfigError, match=r"stream text; .* data\.quotas\.text=0"):
        start(captions(30), [A], DataConfig(quotas=Quotas(text=1, caption=1, interleaved=0)))


def test_the_order_needs_neither_torch_nor_arrow() -> None:
    script = "import sys, trainer.data.order; sys.exit(bool({'torch', 'pyarrow', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], timeout=60).returncode == 0
