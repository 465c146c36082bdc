"""Keeping a store sound: what is published is checked against its sums, and only true garbage goes."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from engine.attempt import attempt
from engine.care import gc, verify
from engine.errors import StoreError
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.window import run
from tests import stages

RECIPE = stages.recipe()
NUMBERS = RECIPE.stage("numbers")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A whole run of four units."""
    url = f"file://{tmp_path}/store"
    go(Ledger(url))
    return Ledger(url)


def go(ledger: Ledger, num: int = 4, recipe: Recipe = RECIPE) -> None:
    run(recipe, ledger, stages.units(num), InlinePool(ledger.store.url), Quiet())


def test_a_sound_store_has_no_faults(ledger: Ledger) -> None:
    check = verify(RECIPE, ledger)
    assert check.faults == [] and check.commits == 4 + 4 + 2 + 2 and check.files == 8 + 4 + 2 + 2
    assert check.recomputed == 2 * 4 and check.num_bytes > 0
    assert verify(RECIPE, ledger, sample=99).recomputed == 12
    assert verify(RECIPE, ledger, sample=0, stage_name="double").commits == 4


def _path(ledger: Ledger, stage: str, output: str) -> tuple[Path, str]:
    commit = next(ledger.commits(RECIPE.stage(stage).key))
    return Path(ledger.store.url.removeprefix("file://")) / commit.outputs[output][0].path, commit.unit


@pytest.mark.parametrize(("stage", "output"), [("numbers", "keys"), ("double", "doubled"), ("unique", "unique")])
@pytest.mark.parametrize("how", ["gone", "changed", "cut"])
def test_a_lost_file_is_found_and_what_verify_says_mends_it(ledger: Ledger, stage: str, output: str, how: str) -> None:
    path, unit = _path(ledger, stage, output)
    key = RECIPE.stage(stage).key
    before = stages.manifests(RECIPE, ledger)
    if how == "gone":
        path.unlink()
    elif how == "changed":
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)
    else:
        path.write_bytes(path.read_bytes()[:-1])
    fault = next(fault for fault in verify(RECIPE, ledger, sample=0).faults)
    assert path.name in fault and ("is gone" in fault) == (how == "gone")
    # every place that the sentence names is removed, as it says
    root = Path(ledger.store.url.removeprefix("file://"))
    assert f"{key}/commits/{unit}.json" in fault
    for word in fault.replace(",", " ").replace(";", " ").split():
        if word.endswith(".json"):
            (root / word).unlink()
    path.unlink(missing_ok=True)
    go(ledger)
    assert stages.manifests(RECIPE, ledger) == before
    assert verify(RECIPE, ledger, sample=99).faults == [], "barriers read the new file through the old manifest"
    go(ledger, 5)
    assert verify(RECIPE, ledger, sample=99).faults == []


def test_damage_to_what_is_read_is_a_fault_not_an_exception(ledger: Ledger) -> None:
    _path(ledger, "numbers", "numbers")[0].unlink()
    _path(ledger, "numbers", "keys")[0].write_bytes(b"x")
    ledger.store.put(f"{NUMBERS.key}/commits/u0003.json", b"{")
    faults = verify(RECIPE, ledger, sample=99).faults
    assert any("u0003.json is not a commit" in fault for fault in faults)
    assert any(fault.startswith("double u0000 cannot be computed again") for fault in faults)
    assert any(fault.startswith("unique ") for fault in faults)


def test_a_manifest_that_is_gone_is_a_fault(ledger: Ledger) -> None:
    for head in list(ledger.store.list("manifests/")):
        ledger.store.delete([head.path])
    assert any("its manifest of numbers" in fault for fault in verify(RECIPE, ledger, sample=0).faults)


def test_a_stage_that_is_no_pure_function_is_found_out(memory: str) -> None:
    ledger = Ledger(memory)
    recipe = stages.alone(stages.unsteady_stage())
    go(ledger, 2, recipe)
    assert all("other bytes" in fault for fault in verify(recipe, ledger).faults)
    assert len(verify(recipe, ledger).faults) == 2
    recorded = stages.alone(stages.unsteady_stage(recorded=True))
    check = verify(recorded, ledger)
    assert check.faults == [] and check.recomputed == 0 and check.files == 2


def test_recomputing_leaves_out_what_crashed(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "store"))
    ledger.check(create=True)
    (unit,) = stages.units(1, "kill:12")
    assert attempt(ledger.store.url, NUMBERS, unit, str(tmp_path / "s"), careful=True).state == "committed"
    check = verify(stages.alone(NUMBERS), ledger)
    assert check.faults == [] and check.recomputed == 1


def _age(root: Path, hours: float) -> None:
    for path in root.rglob("*"):
        os.utime(path, (time.time() - hours * 3600,) * 2)


def test_gc_removes_old_data_that_no_commit_names(ledger: Ledger) -> None:
    root = Path(ledger.store.url.removeprefix("file://"))
    data = root / NUMBERS.key / "data"
    (data / "u0000.dead0001.numbers.0.arrow").write_bytes(b"x" * 10)
    (data / "u0009.dead0002.numbers.0.arrow").write_bytes(b"x" * 20)
    (data / "u0001.dead0003.numbers.0.arrow#7").write_bytes(b"x" * 5)
    _age(root, 25)
    (data / "u0002.young001.numbers.0.arrow").write_bytes(b"x")
    (data / "u0001.young002.numbers.0.arrow#1").write_bytes(b"x")
    (root / "notes").mkdir()
    (root / "notes" / "mine#x").write_text("not ours")
    before = sorted(root.rglob("*"))
    told = gc(ledger, dry_run=True)
    assert [path for path in sorted(root.rglob("*")) if "clock" not in str(path)] == before
    assert (told.files, told.num_bytes, told.kept_young) == (3, 35, 1)
    done = gc(ledger)
    assert (done.files, done.num_bytes, done.kept_young) == (3, 35, 1)
    gone = {path.name for path in before} - {path.name for path in root.rglob("*")}
    assert gone == {
        "u0000.dead0001.numbers.0.arrow",
        "u0009.dead0002.numbers.0.arrow",
        "u0001.dead0003.numbers.0.arrow#7",
    }
    assert verify(RECIPE, ledger, sample=99).faults == []
    assert gc(ledger).files == 0


def test_gc_takes_the_young_if_told(ledger: Ledger) -> None:
    path = f"{NUMBERS.key}/data/u0000.dead0001.numbers.0.arrow"
    ledger.store.put_new(path, b"x")
    assert gc(ledger).kept_young == 1 and ledger.store.exists(path)
    time.sleep(0.05)
    assert gc(ledger, timedelta(0)).files == 1 and not ledger.store.exists(path)


def test_gc_stops_at_a_commit_that_it_cannot_read(ledger: Ledger) -> None:
    ledger.store.put(f"{NUMBERS.key}/commits/u0003.json", b"{")
    before = {head.path for head in ledger.store.list(f"{NUMBERS.key}/data/")}
    with pytest.raises(StoreError):
        gc(ledger, timedelta(0))
    assert {head.path for head in ledger.store.list(f"{NUMBERS.key}/data/")} == before
