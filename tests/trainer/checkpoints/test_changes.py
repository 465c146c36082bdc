"""What a run may go on with: freely, where a person accepts it, or never."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import override
from engine.errors import ConfigError, StoreError
from tests.trainer import runs
from tests.trainer.checkpoints.test_run import DESCRIBED, MODEL, run_at
from trainer.checkpoints.changes import Described, check, differences
from trainer.checkpoints.run import COMPLETE, Run


def given(*settings: str) -> Described:
    """The run as it is asked for with these settings."""
    return replace(DESCRIBED, config=override(DESCRIBED.config, list(settings)))


def checked(asked: Described, accept: bool = False) -> tuple[bool, list[str]]:
    return check(asked, DESCRIBED, "/run", DESCRIBED.config.data, accept)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (given("model.dim=256"), "model.dim is 256 here and 128 in the run"),
        (given("optim.betas=0.9,0.5"), "optim.betas is 0.9,0.5 here and 0.9,0.98 in the run"),
        (given("seed=3"), "seed is 3 here and 2 in the run"),
        (replace(DESCRIBED, vocabulary="0" * 64), "another vocabulary"),
        (replace(DESCRIBED, start="0" * 64), "begun from other weights"),
        (replace(DESCRIBED, digests=("e" * 64,)), f"begun on {'d' * 64}"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(memory: str, other: Described, sentence: str) -> None:
    run = run_at(memory)
    with pytest.raises(ConfigError, match=sentence) as error:
        run.create(other, MODEL)
    assert "--out" in str(error.value)


@pytest.mark.parametrize(
    "setting",
    [
        "name=mine",
        "checkpoint_every=7",
        "keep=9",
        "heldout.every=3",
        "data.micro_batch.text=3",
        "system.compile=true",
        "system.shard_ranks=4",
    ],
)
def test_what_does_not_change_an_update_may_differ(setting: str) -> None:
    assert given(setting).config != DESCRIBED.config
    assert checked(given(setting)) == (False, [])


def test_a_longer_schedule_needs_nobodys_word_is_told_and_recorded() -> None:
    changed, words = checked(given("optim.total_updates=2000"))
    assert changed
    assert words == ["optim.total_updates was 1000 and is 2000: the learning rate follows it from here on"]


def test_all_differences_are_in_one_sentence() -> None:
    with pytest.raises(ConfigError) as error:
        checked(given("optim.lr=0.5", "system.precision=bf16", "checkpoint_every=7"))
    assert str(error.value) == (
        "optim.lr is 0.5 here and 0.002 in the run /run, system.precision is bf16 here and float32 in the run; give "
        "--out a new folder, or --set optim.lr=0.002 --set system.precision=float32, or --accept-change to go on with "
        "these"
    )


@pytest.mark.parametrize(
    "setting",
    ["optim.lr=0.5", "optim.decay=matrices", "model.dropout=0.1", "model.attention_dropout=0.1"],
)
def test_what_changes_the_optimisation_is_accepted_once_a_person_says_so(setting: str) -> None:
    (one,) = differences(given(setting).config, DESCRIBED.config, DESCRIBED.config.data)
    with pytest.raises(ConfigError, match=f"{one.name} is .*--accept-change"):
        checked(given(setting))
    assert checked(given(setting), accept=True) == (
        True,
        [f"{one.name} was {one.theirs} and is {one.ours} from here on"],
    )


@pytest.mark.parametrize(
    "setting",
    [
        "model.ffn_dim=1024",
        "model.position=both",
        "model.freeze_tower=yes",
        "seed=3",
        "data.seed=1",
        "data.order=rows",
        "data.quotas.text=9",
        "data.scale_batch=2",
        "data.weights=a=1",
    ],
)
def test_what_makes_another_run_is_never_accepted(setting: str) -> None:
    name = setting.split("=")[0]
    with pytest.raises(ConfigError, match=f"^{name} is .*--out a new folder, or --set {name}=") as error:
        checked(given(setting, "optim.lr=0.5"), accept=True)
    assert "accept" not in str(error.value) and "optim.lr" not in str(error.value)


def test_what_rows_are_drawn_by_may_differ_where_data_is_added() -> None:
    asked = given("data.quotas.text=9")
    assert check(asked, DESCRIBED, "run", None) == (False, [])
    with pytest.raises(ConfigError, match=r"data.quotas.text is 9 here and 1 in the run .*--set data.quotas.text=1"):
        checked(asked)


def reaches(run: Run, update: int) -> None:
    """Have a checkpoint of an update there, as far as `describe` looks."""
    run.store.put(f"checkpoints/{update:08d}/{COMPLETE}", b"{}")


def test_an_accepted_change_is_the_runs_config_from_its_checkpoint_on(memory: str) -> None:
    run = run_at(memory)
    assert run.describe() == DESCRIBED
    slower, slowest = given("optim.lr=0.001"), given("optim.lr=0.0001")
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        run.create(slower, MODEL)
    run.create(slower, MODEL, accept=True)
    reaches(run, 100)
    for _ in range(2):
        run.set_change(101, slower.config)
        assert run.describe() == DESCRIBED  # no checkpoint was trained with it
    reaches(run, 150)
    run.set_change(101, slower.config)
    assert Run(memory).describe() == slower
    run.create(slower, MODEL)
    with pytest.raises(ConfigError, match=r"optim.lr is 0.002 here and 0.001 in the run"):
        run.create(DESCRIBED, MODEL)
    with pytest.raises(StoreError, match=r"another config from update 101 of"):
        run.set_change(101, slowest.config)
    run.set_change(151, slowest.config)
    run.set_change(101, slower.config)  # who goes on from a checkpoint before has not seen it
    reaches(run, 200)
    assert run.describe() == slower


def test_a_change_whose_checkpoint_never_came_binds_nobody(memory: str) -> None:
    run = run_at(memory)
    reaches(run, 2)
    one, other = given("optim.lr=0.5"), given("optim.lr=0.25")
    run.set_change(3, one.config)
    run.create(DESCRIBED, MODEL)
    run.set_change(3, other.config)
    reaches(run, 4)
    assert run.describe() == other
    run.set_change(5, one.config)
    run.set_change(5, None)
    reaches(run, 6)
    assert run.describe() == other


def test_after_a_first_save_that_failed_any_config_can_follow(
    data: runs.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise StoreError("the store is out")

    out = tmp_path / "run"
    runs.go(data, out, 2)
    first, second = override(runs.TOY, ["optim.lr=0.5"]), override(runs.TOY, ["optim.lr=0.25"])
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="the store is out"):
        patch.setattr("trainer.checkpoints.run.Run.commit", failing)
        runs.go(data, out, 4, config=first, accept_change=True)
    runs.go(data, out, 4)  # as it was, without a word
    runs.go(data, out, 6, config=second, accept_change=True)
    described = Run(str(out)).describe()
    assert described is not None and described.config.optim.lr == 0.25
    assert [path.name for path in (out / "changes").iterdir()] == ["00000005.json"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"config": 5}', b'{"config": {"name": 3}}', b"[" * 100_000])
def test_a_damaged_change_is_one_sentence(memory: str, body: bytes) -> None:
    run = run_at(memory)
    run.store.put("changes/00000101.json", body)
    reaches(run, 101)
    with pytest.raises(StoreError, match=r"changes/00000101.json in .*--out a new folder"):
        run.describe()
