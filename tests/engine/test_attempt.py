"""One unit, however it ends: committed, lost, skipped, failed, the fault of the store; poison costs one record."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.attempt import MAX_POISON, attempt, sweep
from engine.ledger import Commit, Ledger
from engine.stage import Output, Stage, Unit
from tests import stages

STAGE = stages.numbers_stage()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store that child processes see."""
    return f"file://{tmp_path}/store"


@pytest.fixture
def scratch(tmp_path: Path) -> str:
    return str(tmp_path / "scratch")


def committed(url: str, unit: str = "u0000", stage: Stage = STAGE) -> Commit:
    return Ledger(url).commit(stage.key, unit)


def error(url: str, stage: Stage = STAGE, unit: str = "u0000") -> str:
    return str(Ledger(url).failure_bodies(stage.key, unit)[-1]["error"])


def test_a_unit_commits_once_and_leaves_no_scratch(memory: str, scratch: str) -> None:
    (unit,) = stages.units(1)
    outcome = attempt(memory, STAGE, unit, scratch)
    assert (outcome.state, outcome.rows, outcome.error) == ("committed", 50, "")
    commit = committed(memory)
    assert commit.counts == {"kept": 25, "seventh": 5}
    assert (commit.rows("numbers"), commit.rows("keys"), commit.inputs) == (25, 25, unit.inputs)
    assert outcome.num_bytes == commit.num_bytes and commit.peak_bytes > 0 and commit.host
    assert attempt(memory, STAGE, unit, scratch).state == "skipped"
    assert os.listdir(scratch) == []


def test_the_second_of_two_attempts_is_lost(memory: str, scratch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (unit,) = stages.units(1)
    monkeypatch.setattr(Ledger, "is_committed", lambda *_: False)
    assert attempt(memory, STAGE, unit, scratch).state == "committed"
    first = committed(memory)
    assert attempt(memory, STAGE, unit, scratch).state == "lost"
    assert committed(memory) == first


def test_any_exception_is_the_units_and_is_told(memory: str, tmp_path: Path, scratch: str) -> None:
    (unit,) = stages.units(1, f"fail:1:{tmp_path}/f")
    outcome = attempt(memory, STAGE, unit, scratch)
    assert outcome.state == "failed" and outcome.error == "RuntimeError: u0000 fails on purpose"
    (body,) = Ledger(memory).failure_bodies(STAGE.key, "u0000")
    assert "stages.py" in body["trace"] and body["unit"]["inputs"] == list(unit.inputs)
    assert attempt(memory, STAGE, unit, scratch).state == "committed"
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("process", ["tests.stages:nowhere", "tests.no_module:at_all", "tests.stages:wrong"])
def test_a_process_that_cannot_be_found_fails_the_unit(memory: str, scratch: str, process: str) -> None:
    stage = Stage(name="odd", process=process, config=0, outputs=(stages.DOUBLED,))
    assert attempt(memory, stage, Unit(id="u0000"), scratch).state == "failed"


def test_an_output_that_was_never_declared_fails_the_unit(memory: str, scratch: str) -> None:
    other = Output(name="other", schema=stages.DOUBLED.schema)
    stage = Stage(name="odd", process="tests.stages:unsteady", config=0, outputs=(other,))
    assert attempt(memory, stage, Unit(id="u0000"), scratch).state == "failed"


def test_a_store_that_cannot_be_reached_is_not_the_units_fault(tmp_path: Path, scratch: str) -> None:
    (tmp_path / "store").write_text("a file in the way")
    outcome = attempt(f"file://{tmp_path}/store", STAGE, stages.units(1)[0], scratch)
    assert outcome.state == "store" and "--store" in outcome.error


def test_a_scratch_that_cannot_be_used_fails_the_unit(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = attempt(url, STAGE, stages.units(1)[0], str(tmp_path / "file" / "below"))
    assert outcome.state == "failed" and "--scratch" in outcome.error


@pytest.mark.parametrize("careful", [False, True])
def test_a_full_disk_fails_the_unit_and_drops_no_record(url: str, tiny_disk: Path, careful: bool) -> None:
    (unit,) = stages.units(1, f"fill:{2 << 20}")
    outcome = attempt(url, STAGE, unit, str(tiny_disk), careful)
    assert outcome.state == "failed" and "is full" in outcome.error and "--scratch" in outcome.error
    assert os.listdir(tiny_disk) == []
    assert attempt(url, STAGE, stages.units(1)[0], str(tiny_disk), careful).state == "committed"
    assert committed(url).crashed == ()


@pytest.mark.parametrize("careful", [False, True])
def test_outputs_that_fill_the_disk_fail_the_unit(url: str, tiny_disk: Path, careful: bool) -> None:
    (unit,) = stages.units(1, rows=60_000)
    outcome = attempt(url, STAGE, unit, str(tiny_disk), careful)
    assert outcome.state == "failed" and "is full" in outcome.error
    assert os.listdir(tiny_disk) == []


def test_care_changes_no_byte(url: str, scratch: str) -> None:
    other = url + "2"
    (unit,) = stages.units(1)
    assert attempt(url, STAGE, unit, scratch).state == "committed"
    assert attempt(other, STAGE, unit, scratch, careful=True).state == "committed"
    assert Ledger(url).freeze(STAGE.key) == Ledger(other).freeze(STAGE.key)
    assert committed(other).counts == committed(url).counts


@pytest.mark.parametrize("hazard", ["kill", "segfault", "exit"])
def test_a_record_that_kills_the_process_is_skipped_and_listed(url: str, scratch: str, hazard: str) -> None:
    (unit,) = stages.units(1, f"{hazard}:12", f"{hazard}:20")
    outcome = attempt(url, STAGE, unit, scratch, careful=True)
    assert outcome.state == "committed", outcome.error
    commit = committed(url)
    assert commit.crashed == (12, 20)
    assert commit.counts == {"crashed": 2, "kept": 23, "seventh": 5}
    assert os.listdir(scratch) == []


def test_a_death_before_the_first_record_fails_the_unit(url: str, tmp_path: Path, scratch: str) -> None:
    stage = Stage(name="deadly", process="tests.stages:deadly", config=0, outputs=(stages.DOUBLED,))
    outcome = attempt(url, stage, Unit(id="u0000"), scratch, careful=True)
    assert outcome.state == "failed" and "SIGKILL" in outcome.error and "before its first record" in outcome.error


def test_a_unit_of_poison_fails_instead(url: str, scratch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_POISON == 32
    monkeypatch.setattr("engine.attempt.MAX_POISON", 1)
    (unit,) = stages.units(1, *(f"kill:{offset}" for offset in (2, 3)))
    outcome = attempt(url, STAGE, unit, scratch, careful=True)
    assert outcome.state == "failed" and "the last at offset 3" in outcome.error


def test_deaths_at_ever_other_records_have_an_end(
    url: str, tmp_path: Path, scratch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.attempt.MAX_STRAY", 2)
    stage = Stage(name="wandering", process="tests.stages:wandering", config=0, outputs=(stages.DOUBLED,))
    outcome = attempt(url, stage, Unit(id="u0000", inputs=(str(tmp_path / "count"),)), scratch, careful=True)
    assert outcome.state == "failed" and "died (SIGKILL) at 3 records; is the machine short of" in outcome.error


def test_a_careful_attempt_that_failed_says_why(url: str, tmp_path: Path, scratch: str) -> None:
    (unit,) = stages.units(1, f"fail:1:{tmp_path}/f")
    outcome = attempt(url, STAGE, unit, scratch, careful=True)
    assert outcome.state == "failed" and "fails on purpose" in error(url)


def test_the_watchdog_of_a_careful_attempt_names_the_record(url: str, scratch: str) -> None:
    (unit,) = stages.units(1, "sleep:60")
    outcome = attempt(url, STAGE, unit, scratch, careful=True, timeout_s=6.0)
    assert outcome.state == "failed" and "no end after 6 s, at record offset 14" in error(url)
    assert not Ledger(url).is_committed(STAGE.key, unit.id)


def test_the_watchdog_ends_the_process(url: str, scratch: str, tmp_path: Path) -> None:
    program = (
        "from engine.attempt import attempt; from tests import stages\n"
        f"attempt({url!r}, stages.numbers_stage(), stages.units(1, 'sleep:60')[0], {scratch!r}, timeout_s=1.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and "Timeout" in done.stderr
    assert not Ledger(url).is_committed(STAGE.key, "u0000")
    assert len(os.listdir(scratch)) == 1
    sweep(scratch)
    assert os.listdir(scratch) == [], "what a dead process left is swept"


def test_a_sweep_leaves_the_living_alone(tmp_path: Path) -> None:
    for name in (f"a-u.t.{os.getpid()}", "b-u.t.1", "no-process-of-ours", "c-u.t.99999999", "ray"):
        (tmp_path / name).mkdir()
    sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(
        [f"a-u.t.{os.getpid()}", "b-u.t.1", "no-process-of-ours", "ray"],
    )
    sweep(str(tmp_path / "nowhere"))
