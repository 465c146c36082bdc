"""What a run shows, as lines and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Bars, Json, Plain, choose
from engine.window import run
from tests import stages

RECIPE = stages.recipe()


def test_plain_lines_say_what_starts_ends_and_fails(memory: str, tmp_path: Path) -> None:
    out = io.StringIO()
    run(RECIPE, Ledger(memory), stages.units(3, f"fail:9:{tmp_path}", at=1), InlinePool(memory), Plain(out))
    lines = out.getvalue().splitlines()
    assert lines[0] == "numbers: 3 of 3 units to do"
    assert "unique (generation 1): 2 of 2 units to do" in lines
    assert sum("on purpose" in line for line in lines) == 3
    assert any(line.startswith("numbers: 2 units, 102 rows") and line.endswith("1 quarantined") for line in lines)


def test_json_lines_are_events(memory: str) -> None:
    out = io.StringIO()
    run(RECIPE, Ledger(memory), stages.units(2), InlinePool(memory), Json(out))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [e["event"] for e in events if e["stage"] == "numbers"] == ["start", "unit", "unit", "end"]
    assert {e["unit"] for e in events if e["event"] == "unit" and e["stage"] == "double"} == {"u0000", "u0001"}
    assert {e["state"] for e in events if e["event"] == "unit"} == {"committed"}


def test_without_a_terminal_there_are_lines() -> None:
    assert isinstance(choose(False), Plain) and isinstance(choose(True), Json)


def test_bars_move_and_leave_the_terminal(memory: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    run(RECIPE, Ledger(memory), stages.units(3, f"fail:9:{tmp_path}", at=1), InlinePool(memory), bars)
    bars.close()
    said = capfd.readouterr().err
    assert "unique (generation 1)" in said and "3/3" in said and "on purpose" in said
    assert len(bars.notes) == 3
