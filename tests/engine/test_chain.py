"""Generations: each holds what was new when it was frozen, once, whatever drivers do at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.chain import Chain
from engine.errors import BudgetExceeded, ConfigError
from engine.ledger import Generation, Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.stage import Unit
from engine.window import Options, StageReport, run
from engine.work import read_rows
from tests import stages

RECIPE = stages.recipe()
HEAD, INDEX = RECIPE.stage("unique"), RECIPE.stage("index")


def go(url: str, units: Sequence[Unit], recipe: Recipe = RECIPE, **options: Any) -> tuple[list[StageReport], list[str]]:
    progress = Quiet()
    return run(recipe, Ledger(url), units, InlinePool(url), progress, Options(**options)), progress.notes


def members(url: str, number: int, key: str = HEAD.key) -> list[str]:
    """Units of numbers that a generation holds."""
    ledger = Ledger(url)
    generation = ledger.generation(key, number)
    assert generation is not None
    return [commit.unit for commit in ledger.manifest(generation.manifests["numbers"][1])]


def keys(url: str, recipe: Recipe = RECIPE, stage: str = "index") -> list[int]:
    """All keys of a stage over its commits."""
    ledger = Ledger(url)
    found = []
    for commit in ledger.commits(recipe.stage(stage).key):
        found += read_rows(ledger.store, commit.outputs[recipe.stage(stage).outputs[0].name])["key"].to_pylist()
    return sorted(found)


def expected(num_units: int) -> list[int]:
    return sorted({(n % 50) * 0x9E3779B97F4A7C15 % 2**64 for n in range(30 * num_units) if n % 7})


def test_a_generation_holds_what_is_new_and_earlier_keys_are_carried(memory: str) -> None:
    go(memory, stages.units(1))
    assert keys(memory) == expected(1)
    reports, _ = go(memory, stages.units(3))
    assert [(r.stage, r.generation, r.committed) for r in reports if r.committed] == [
        ("numbers", 0, 2),
        ("double", 0, 2),
        ("unique", 2, 2),
        ("index", 2, 2),
    ]
    assert members(memory, 1) == ["u0000"] and members(memory, 2) == ["u0001", "u0002"]
    assert keys(memory) == expected(3), "every key once: generation 2 knew generation 1"
    second = Ledger(memory).generation(HEAD.key, 2)
    first = Ledger(memory).generation(HEAD.key, 1)
    assert (
        first is not None and second is not None and second.parent == first.digest and second.earlier("index") == (1,)
    )


def test_generations_are_the_same_in_one_store_and_another(memory: str) -> None:
    marks = []
    for url in (f"{memory}a", f"{memory}b"):
        go(url, stages.units(1))
        go(url, stages.units(3))
        marks.append(stages.manifests(RECIPE, Ledger(url)))
    assert marks[0] == marks[1]


def test_a_later_limit_takes_the_rest_and_nothing_old(memory: str) -> None:
    go(memory, stages.units(2, first=3))
    go(memory, stages.units(5))
    assert members(memory, 1) == ["u0003", "u0004"] and members(memory, 2) == ["u0000", "u0001", "u0002"]
    go(memory, stages.units(2))
    assert Ledger(memory).generations(HEAD.key) == [1, 2]


def test_quarantined_units_are_listed_and_join_the_next_generation(memory: str, tmp_path: Path) -> None:
    units = stages.units(4, f"fail:3:{tmp_path}", at=1)
    go(memory, units)
    first = Ledger(memory).generation(HEAD.key, 1)
    assert first is not None and first.quarantined == {"numbers": ("u0001",)}
    assert members(memory, 1) == ["u0000", "u0002", "u0003"]
    go(memory, units, retry_failed=True)
    assert members(memory, 2) == ["u0001"]
    assert keys(memory) == expected(4)


def test_freezing_waits_for_every_planned_unit(memory: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded):
        go(memory, stages.units(9, f"fail:1:{tmp_path}"), max_failed=0.0)
    chain = Chain(RECIPE, Ledger(memory), [unit.id for unit in stages.units(9)], progress=(progress := Quiet()))
    go(memory, stages.units(1), only="numbers")
    go(memory, stages.units(1), only="double")
    chain.run()
    assert Ledger(memory).generations(HEAD.key) == []
    assert any("neither committed nor quarantined" in note for note in progress.notes)
    go(memory, stages.units(9))
    assert len(members(memory, 1)) == 9


def test_the_next_opens_only_when_the_last_is_published(memory: str) -> None:
    go(memory, stages.units(2), only="numbers")
    go(memory, stages.units(2), only="double")
    go(memory, stages.units(2), only="unique")
    for stage in ("numbers", "double", "unique"):
        go(memory, stages.units(4), only=stage)
    ledger = Ledger(memory)
    assert ledger.generations(HEAD.key) == [1] and ledger.settled(HEAD.key) == {}
    go(memory, stages.units(4))
    assert ledger.generations(HEAD.key) == [1, 2] and sorted(ledger.settled(HEAD.key)) == [1, 2]
    assert members(memory, 2) == ["u0002", "u0003"] and keys(memory) == expected(4)


def test_abandoned_inputs_join_the_next_generation(memory: str) -> None:
    go(memory, stages.units(1))
    for stage in ("numbers", "double", "unique"):
        go(memory, stages.units(3), only=stage)
    chain = Chain(RECIPE, Ledger(memory))
    assert chain.open_generation() == 2 and chain.abandon() == 2
    assert chain.standing() == [1] and chain.open_generation() == 0
    with pytest.raises(ConfigError, match="no open generation"):
        chain.abandon()
    go(memory, stages.units(3))
    assert members(memory, 3) == ["u0001", "u0002"]
    ledger = Ledger(memory)
    third = ledger.generation(HEAD.key, 3)
    assert third is not None and third.earlier("index") == (1,)
    assert ledger.generations(INDEX.key) == [1, 3] and keys(memory) == expected(3)


def test_a_stage_under_a_new_key_replays_what_stands(memory: str) -> None:
    for num in (1, 2, 4):
        go(memory, stages.units(num))
    other = stages.with_new_index(RECIPE, 7)
    assert other.stage("unique").key == HEAD.key and other.stage("index").key != INDEX.key
    reports, _ = go(memory, stages.units(4), other)
    assert [(r.stage, r.generation, r.committed) for r in reports if r.committed] == [
        ("index", 1, 2),
        ("index", 2, 2),
        ("index", 3, 2),
    ]
    assert keys(memory, other) == keys(memory) == expected(4)
    go(memory, stages.units(5), other)
    assert members(memory, 4) == ["u0004"] and keys(memory, other) == expected(5)


def test_only_on_a_new_key_says_what_lacks(memory: str) -> None:
    go(memory, stages.units(1))
    other = stages.with_new_index(RECIPE, 7)
    for stage in ("numbers", "double"):
        go(memory, stages.units(2), other, only=stage)
    with pytest.raises(ConfigError, match="without --only"):
        go(memory, stages.units(2), other, only="unique")
    go(memory, stages.units(2), other)
    assert keys(memory, other) == expected(2)


def test_a_new_head_takes_all_that_is_there_at_once(memory: str) -> None:
    for num in (1, 3):
        go(memory, stages.units(num))
    other = stages.recipe(mark=5)
    reports, _ = go(memory, stages.units(3), other)
    assert [(r.stage, r.generation, r.committed) for r in reports if r.committed] == [("unique", 1, 2), ("index", 1, 2)]
    assert members(memory, 1, other.stage("unique").key) == ["u0000", "u0001", "u0002"]


class Racing(Ledger):
    """Another driver does its whole run just after call number `at` of ours to the ledger."""

    def __init__(self, url: str, at: int, others: Sequence[Unit]) -> None:
        super().__init__(url)
        self.left, self.others = at, list(others)

    def _race(self) -> None:
        self.left -= 1
        if self.left == 0:
            go(self.store.url, self.others)

    def committed(self, key: str) -> set[str]:
        found = super().committed(key)
        self._race()
        return found

    def generations(self, key: str) -> list[int]:
        found = super().generations(key)
        self._race()
        return found

    def settled(self, key: str) -> dict[int, dict[str, Any]]:
        found = super().settled(key)
        self._race()
        return found

    def generation(self, key: str, number: int) -> Generation | None:
        found = super().generation(key, number)
        self._race()
        return found

    def freeze(self, key: str, units: Any = None) -> str:
        found = super().freeze(key, units)
        self._race()
        return found

    def settle(self, key: str, number: int, state: str, manifest: str = "") -> str:
        found = super().settle(key, number, state, manifest)
        self._race()
        return found


@pytest.mark.parametrize("others", [3, 5])
def test_two_drivers_never_put_a_unit_into_two_generations(memory: str, others: int) -> None:
    # at every step of ours in turn, until a run of ours has no step of that number
    for at in range(1, 500):
        url = f"{memory}x{at}"
        go(url, stages.units(1))
        for stage in ("numbers", "double"):
            go(url, stages.units(3), only=stage)
        ours = Racing(url, at, stages.units(others))
        run(RECIPE, ours, stages.units(3), InlinePool(url), Quiet())
        ledger = Ledger(url)
        if ours.left > 0:
            break
        held = [unit for number in ledger.generations(HEAD.key) for unit in members(url, number)]
        assert sorted(held) == [unit.id for unit in stages.units(others)], f"at call {at}"
        assert keys(url) == expected(others), f"at call {at}"
        assert sorted(ledger.settled(HEAD.key)) == ledger.generations(HEAD.key), f"at call {at}"
    assert 30 < at < 499


def test_a_recipe_without_barriers_has_no_generations(memory: str) -> None:
    reports, _ = go(memory, stages.units(2), stages.alone(RECIPE.stage("numbers")))
    assert [(r.stage, r.complete) for r in reports] == [("numbers", True)]


def test_a_barrier_without_units_is_published(memory: str) -> None:
    empty = stages.without_parts(RECIPE)
    go(memory, stages.units(2), empty)
    assert sorted(Ledger(memory).settled(empty.stage("index").key)) == [1]
    reports, _ = go(memory, stages.units(2), empty)
    assert all(report.complete for report in reports)
