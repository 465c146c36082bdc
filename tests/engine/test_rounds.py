"""Two recorded stages in one chain, the second asking what the first found to stand elsewhere: each has a series of its
own, and a round with nothing to ask costs nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.care import gc, verify
from engine.chain import Chain, frozen
from engine.errors import ConfigError
from engine.ledger import Commit, Ledger
from engine.recipe import Recipe, Step
from engine.stage import Stage, Unit, Work
from engine.status import status
from engine.work import read_rows
from tests import stages
from tests.engine import test_series
from tests.engine.test_series import SEEN, go, seen

_down: list[str] = []  # a file that must be there for the second round to be answered
ROUNDS = ("asked", "again")


def answered(work: Work, stage: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The keys that a recorded stage has answered, over all that it has published."""
    commits = [commit for number in work.generation.earlier(stage) for commit in work.commits(stage, number)]
    return np.concatenate(
        [np.zeros(0, np.uint64), *(work.table(c, "answers", ("key",))["key"].to_numpy() for c in commits)]
    )


def elsewhere(keys: np.ndarray[Any, np.dtype[np.uint64]], share: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return keys % np.uint64(share) == 0 if share else np.zeros(len(keys), np.bool_)


def astray(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """The keys of a partition that the first round answered, and that stand elsewhere; but for those known by now."""
    keys = work.partition("unique", "unique", int(unit.inputs[0]))["key"].to_numpy()
    assert np.isin(keys, answered(work, "asked")).all()
    keys = keys[elsewhere(keys, config) & ~np.isin(keys, answered(work, "again"))]
    yield "unique", pa.table([np.sort(keys)], schema=stages.UNIQUE.schema)


def reader(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """How often each key of a partition was answered: ten times the second round's and once the first's."""
    keys = work.partition("unique", "unique", int(unit.inputs[0]))["key"].to_numpy()
    times = [
        sum(num * int((answered(work, s) == key).sum()) for s, num in (("asked", 1), ("again", 10))) for key in keys
    ]
    yield "seen", pa.table([keys, np.array(times, np.uint32)], schema=SEEN.schema)


def listed(config: int, commits: Sequence[Commit], table: Callable[[Commit, str], pa.Table], mark: str) -> list[Unit]:
    found = test_series.listed(config, commits, table, mark)
    return [dataclasses.replace(unit, inputs=(*unit.inputs, *_down)) for unit in found]


def recipe(share: int = 3, factor: int = 0) -> Recipe:
    """... unique -> (asked) -> astray -> (again) -> reader -> index; share: 1 in so many keys stands elsewhere, 0: none
    does; factor: another key for reader."""
    made = test_series.recipe()
    first = next(step for step in made.steps if step.stage.name == "asked")
    unique = made.stage("unique")
    second = dataclasses.replace(first.stage, name="again")
    process = "tests.engine.test_rounds:"
    lost = Stage(name="astray", process=f"{process}astray", config=share, outputs=(stages.UNIQUE,),
                 reads=(unique, first.stage, second), barrier=True)  # fmt: skip
    read = Stage(name="reader", process=f"{process}reader", config=factor, outputs=(SEEN,),
                 reads=(unique, first.stage, lost, second), barrier=True)  # fmt: skip
    steps = (
        *made.steps[:4],
        Step(stage=lost, parts=stages.index_parts),
        Step(stage=second, lister="astray", listed=listed),
        Step(stage=read, parts=stages.index_parts),
        made.steps[-1],
    )
    return Recipe(name="tested", config=None, steps=steps, listing=stages.no_listing)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    test_series._asked.clear()
    yield
    _down.clear()


def check(url: str, made: Recipe, share: int = 3) -> None:
    """Every key was asked for once in the first round, and once in the second if it stands elsewhere."""
    found = seen(url, made)
    assert found and any(key % 3 == 0 for key in found)
    moved = [key for key in found if share and key % share == 0]
    assert found == {key: 11 if key in moved else 1 for key in found}
    assert sorted(test_series._asked) == sorted([*found, *moved])


def test_the_second_round_asks_what_the_first_found_elsewhere(memory: str) -> None:
    made = recipe()
    go(memory, stages.units(1), made)
    check(memory, made)
    go(memory, stages.units(3), made)
    go(memory, stages.units(3), made)
    check(memory, made)
    ledger = Ledger(memory)
    for name in ROUNDS:
        assert ledger.generations(made.stage(name).key) == [1, 2]
        marks = frozen(made, ledger, name)
        units = [commit.unit for mark in marks for commit in ledger.manifest(mark)]
        assert len(units) == len(set(units)) and set(units) == ledger.committed(made.stage(name).key)
    second = ledger.generation(made.stage("astray").key, 2)
    assert second is not None and (second.earlier("asked"), second.earlier("again")) == ((1, 2), (1,))
    last = ledger.generation(made.stage("reader").key, 2)
    assert last is not None and (last.earlier("asked"), last.earlier("again")) == ((1, 2), (1, 2))


def test_a_round_with_nothing_to_ask_leaves_no_trace(memory: str) -> None:
    made = recipe(share=0)
    reports = go(memory, stages.units(2), made)
    check(memory, made, share=0)
    assert all(report.complete for report in reports)
    ledger = Ledger(memory)
    key = made.stage("again").key
    assert not ledger.generations(key) and not list(ledger.store.list(f"{key}/"))
    assert status(made, ledger).generations[0].state == "published"
    assert verify(made, ledger, sample=9).faults == []
    with pytest.raises(ConfigError, match="no generation of again is published"):
        frozen(made, ledger, "again")


def test_a_second_round_that_fails_is_resumed_without_the_first(memory: str, tmp_path: Path) -> None:
    made = recipe()
    gate = tmp_path / "network"
    _down.append(str(gate))
    reports = go(memory, stages.units(2), made)
    assert [report.stage for report in reports if report.failed] == ["again"]
    first = list(test_series._asked)
    assert first and Chain(made, Ledger(memory)).open_generation() == 1
    gate.touch()
    go(memory, stages.units(2), made, retry_failed=True)
    assert test_series._asked[: len(first)] == first
    check(memory, made)


def test_what_an_unfinished_round_was_told_is_not_asked_for_again(memory: str, tmp_path: Path) -> None:
    """One unit of two is answered when the run stops, and who comes next wants more, in other units."""

    def half(*given: Any) -> list[Unit]:
        first, *others = test_series.listed(*given)
        return [first, *(dataclasses.replace(unit, inputs=(*unit.inputs, str(tmp_path / "none"))) for unit in others)]

    made = recipe()
    steps = [dataclasses.replace(s, listed=half) if s.stage.name == "again" else s for s in made.steps]
    reports = go(memory, stages.units(2), dataclasses.replace(made, steps=tuple(steps)))
    assert [len(report.failed) for report in reports if report.stage == "again"] == [1]
    made = recipe(share=1)
    go(memory, stages.units(2), made)
    check(memory, made, share=1)
    key, ledger = made.stage("again").key, Ledger(memory)
    units = [commit.unit for mark in frozen(made, ledger, "again") for commit in ledger.manifest(mark)]
    assert len(units) == len(set(units)) and set(units) == ledger.committed(key)


@pytest.mark.parametrize("name", [*ROUNDS, "astray", "reader"])
def test_an_abandoned_generation_keeps_what_was_asked(memory: str, name: str) -> None:
    made = recipe()
    for only in ("numbers", "double", name):
        go(memory, stages.units(1), made, only=only)
    before = len(test_series._asked)
    Chain(made, Ledger(memory)).abandon()
    go(memory, stages.units(1), made)
    assert before and Ledger(memory).generations(made.stage("unique").key) == [1, 2]
    ledger = Ledger(memory)
    standing = ledger.generation(made.stage("reader").key, 2)
    rows = [read_rows(ledger.store, ledger.commit(made.stage("reader").key, standing.unit_id(part)).outputs["seen"])
            for part in range(2)] if standing else []  # fmt: skip
    found = {row["key"]: row["times"] for table in rows for row in table.to_pylist()}
    assert found == {key: 1 if key % 3 else 11 for key in found} and found
    assert len(test_series._asked) == sum(1 if key % 3 else 2 for key in found)


def test_another_reader_replays_and_asks_nothing(memory: str) -> None:
    for num in (1, 3):
        go(memory, stages.units(num), recipe())
    before = list(test_series._asked)
    other = recipe(factor=1)
    go(memory, stages.units(3), other)
    assert test_series._asked == before
    check(memory, other)
    # and another rule of what stands elsewhere asks for what that adds
    wider = recipe(share=1)
    go(memory, stages.units(3), wider)
    assert set(seen(memory, wider).values()) == {11}
    added = test_series._asked[len(before) :]
    assert sorted(added) == sorted(key for key in seen(memory, wider) if key % 3)


def test_care_and_status_know_both(memory: str) -> None:
    made = recipe()
    go(memory, stages.units(2), made)
    before = list(test_series._asked)
    ledger = Ledger(memory)
    assert verify(made, ledger, sample=9).faults == [] and test_series._asked == before
    assert gc(ledger, min_age=timedelta(0)).files == 0
    told = {stage.stage: stage.rows for stage in status(made, ledger).stages}
    assert [told[name]["answers"] for name in ROUNDS] == [
        sum(1 for _ in before) - told["astray"]["unique"],
        told["astray"]["unique"],
    ]
    victim = next(iter(ledger.commits(made.stage("again").key))).outputs["answers"][0]
    ledger.store.put(victim.path, b"x" * victim.bytes)
    assert any(victim.path in fault for fault in verify(made, ledger).faults)


def test_a_store_of_one_round_takes_the_second(memory: str) -> None:
    """What an older recipe bound and asked stands; the second round is bound when it first may ask."""
    go(memory, stages.units(1), test_series.recipe())
    ledger = Ledger(memory)
    asked = list(test_series._asked)
    assert not ledger.store.exists("bound/again.json")
    go(memory, stages.units(1), recipe())
    assert test_series._asked[: len(asked)] == asked and ledger.store.exists("bound/again.json")
    check(memory, recipe())
