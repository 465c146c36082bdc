"""What a run would do, said before it does it; nothing is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.forecast import plan
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Floor, Turns
from engine.store import Store
from engine.window import Options, run
from tests import stages

RECIPE = stages.recipe()


def test_an_empty_store_is_all_to_do_and_stays_empty(memory: str) -> None:
    found = plan(RECIPE, Ledger(memory), stages.units(5), workers=3)
    assert [(s.stage, s.planned, s.left, s.cpu_s) for s in found.stages] == [("numbers", 5, 5, 0), ("double", 5, 5, 0)]
    assert (found.fresh, found.generations, found.open_generation, found.workers) == (5, 0, 0, 3)
    assert found.unmeasured == ("numbers", "double") and found.cpu_s == 0
    assert found.stages[0].bytes_in == 150
    assert list(Store(memory).list("")) == []


def test_a_plan_counts_what_is_left(memory: str, tmp_path: Path) -> None:
    ledger = Ledger(memory)
    run(RECIPE, ledger, stages.units(4, f"fail:9:{tmp_path}", at=2), InlinePool(memory), Quiet())
    before = sorted(head.path for head in Store(memory).list(""))
    found = plan(RECIPE, ledger, stages.units(9))
    numbers, double = found.stages
    assert (numbers.planned, numbers.committed, numbers.quarantined, numbers.left) == (9, 3, 1, 5)
    assert (double.planned, double.committed, double.quarantined, double.left) == (9, 3, 0, 6)
    assert numbers.bytes_out > 0 and numbers.bytes_in == 150 and double.bytes_in == 0
    assert (found.generations, found.open_generation) == (1, 0)
    assert found.fresh == 6
    assert sorted(head.path for head in Store(memory).list("")) == before


def test_a_plan_sees_an_open_generation(memory: str) -> None:
    for stage in ("numbers", "double", "unique"):
        run(RECIPE, Ledger(memory), stages.units(2), InlinePool(memory), Quiet(), Options(only=stage))
    found = plan(RECIPE, Ledger(memory), stages.units(3))
    assert (found.generations, found.open_generation, found.fresh) == (1, 1, 1)


def test_a_plan_asks_the_recipe_what_waits(memory: str) -> None:
    floor = Floor(stage="asked", units=1, addresses=9, rate=2.0, seconds=4.5, slowest=(Turns(key="a", requests=9),))
    recipe = dataclasses.replace(RECIPE, floor=lambda recipe, ledger: [floor])
    ledger = Ledger(memory)
    assert plan(recipe, ledger, stages.units(1)).floors == ()  # there is no store to ask
    run(recipe, ledger, stages.units(1), InlinePool(memory), Quiet())
    assert plan(recipe, ledger, stages.units(1)).floors == (floor,)
    assert plan(RECIPE, ledger, stages.units(1)).floors == ()


def test_a_foreign_place_is_refused(memory: str) -> None:
    Store(memory).put_new("other", b"")
    with pytest.raises(ConfigError, match="holds other things"):
        plan(RECIPE, Ledger(memory), stages.units(1))
