"""What a store holds: every record under a reason, failures with their error, generations with their state."""

from __future__ import annotations

from pathlib import Path

from engine.chain import Chain
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.status import status
from engine.window import Options, run
from tests import stages

RECIPE = stages.recipe()


def test_an_empty_store_has_no_stages(memory: str) -> None:
    assert status(RECIPE, Ledger(memory)).stages == ()


def test_a_store_is_told_whole(memory: str, tmp_path: Path) -> None:
    ledger = Ledger(memory)
    run(RECIPE, ledger, stages.units(4, f"fail:9:{tmp_path}", at=1), InlinePool(memory), Quiet())
    found = status(RECIPE, ledger)
    numbers = found.stages[0]
    assert (numbers.stage, numbers.units, numbers.quarantined) == ("numbers", 3, ("u0001",))
    assert numbers.counts == {"kept": 76, "seventh": 14} and numbers.rows == {"numbers": 76, "keys": 76}
    assert sum(numbers.counts.values()) == 3 * 30
    assert "on purpose" in numbers.failures["u0001"]
    assert [(g.number, g.state, g.units, g.published) for g in found.generations] == [
        (1, "published", 3, ("unique", "index"))
    ]
    assert found.others == ()
    other = status(stages.recipe(mark=1), ledger)
    assert set(other.others) == {RECIPE.stage("unique").key, RECIPE.stage("index").key}


def test_an_abandoned_generation_does_not_count(memory: str) -> None:
    ledger = Ledger(memory)
    for stage in ("numbers", "double", "unique"):
        run(RECIPE, ledger, stages.units(2), InlinePool(memory), Quiet(), Options(only=stage))
    before = status(RECIPE, ledger).stages[2]
    assert before.units == 2
    Chain(RECIPE, ledger).abandon()
    found = status(RECIPE, ledger)
    assert found.stages[2].units == 0 and found.generations[0].state == "abandoned"
    run(RECIPE, ledger, stages.units(2), InlinePool(memory), Quiet())
    assert status(RECIPE, ledger).stages[2].rows == before.rows
