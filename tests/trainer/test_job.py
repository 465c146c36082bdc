"""What is asked for, in one process and in several: what the first finds all hold to, and all see one folder."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from engine.errors import ConfigError, KosmosError, StoreError
from tests.trainer.ranks import ranks
from tests.trainer.runs import TOY, Data, go
from trainer import job as jobs
from trainer.checkpoints.run import Run
from trainer.fit import fit
from trainer.job import Job, prepare, prepared
from trainer.world import World

pytestmark = pytest.mark.usefixtures("one_thread", "plain_environment")


def job_of(data: Data, out: Path | str) -> Job:
    return Job(config=TOY, digests=(data.digest,), store=data.store, out=str(out), updates=4)


# what a process ends with: functions of this module, as others run them ---------------------------------------------
def find(world: World, job: Job, apart: bool) -> tuple[str, str, int]:
    """What `prepared` gives. apart: the last process has a disk of its own."""
    if apart and world.rank == world.size - 1:
        job = replace(job, out=f"{job.out}-of-its-own")
    try:
        ready = prepared(job, world)
    except KosmosError as error:
        return type(error).__name__, str(error), -1
    return "found", ready.run.place, ready.start


def lag(world: World, job: Job) -> tuple[str, str, int]:
    """What `prepared` gives where another process lists an older checkpoint as the newest."""
    if not world.first:
        Run.latest = lambda self: self.checkpoint(2)  # type: ignore[method-assign]
    return find(world, job, apart=False)


def small(world: World, data: Data, out: str) -> str:
    """What a run ends with whose last process has no memory."""

    def check_fits(*_: object) -> None:
        if world.rank == world.size - 1:
            raise ConfigError("there is no room")

    def built(*_: object) -> None:
        raise AssertionError("a model was built")

    from trainer import fit as fits

    fits.memory.check_fits, fits.start.built = check_fits, built  # type: ignore[assignment]
    try:
        fit(TOY, [data.digest], data.store, out, 2, world=world)
    except ConfigError as error:
        return str(error)
    return ""


# one folder ---------------------------------------------------------------------------------------------------------
def test_processes_that_see_one_folder_find_one_run_and_leave_nothing_in_it(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert ranks(2, find, job_of(data, out), False) == [("found", str(out), 0)] * 2
    assert [path for path in out.rglob("*") if path.is_file()] == []
    go(data, out, 3)
    assert ranks(2, find, job_of(data, out), False) == [("found", str(out), 3)] * 2


@pytest.mark.parametrize("begun", [False, True])
def test_a_process_with_a_disk_of_its_own_is_refused_by_all(data: Data, tmp_path: Path, begun: bool) -> None:
    out = tmp_path / "run"
    if begun:
        go(data, out, 2)
    found = ranks(3, find, job_of(data, out), True)
    assert found[0] == found[1] == found[2]
    kind, text, _ = found[0]
    assert kind == "ConfigError"
    assert "process 2 does not see what is in" in text and "a folder that all nodes share" in text
    assert list(out.rglob("*.here")) == []


def test_what_the_first_refuses_all_refuse_in_its_words(data: Data, tmp_path: Path) -> None:
    found = ranks(2, find, replace(job_of(data, tmp_path / "run"), updates=1000), False)
    assert found[0] == found[1] and found[0][0] == "ConfigError" and "--updates is 1000" in found[0][1]


def test_all_go_on_from_the_checkpoint_that_the_first_found(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(data, out, 3)
    assert ranks(2, lag, job_of(data, out)) == [("found", str(out), 3)] * 2


@pytest.mark.parametrize(("update", "index"), [(3, "0" * 64), (4, "0" * 64)])
def test_another_checkpoint_than_the_first_ones_is_refused(data: Data, tmp_path: Path, update: int, index: str) -> None:
    go(data, tmp_path / "run", 3)
    first = jobs.Found(started="", freeze_tower="no", update=update, index=index)
    with pytest.raises(StoreError, match=f"the checkpoint of update {update} in .* not what the first process sees"):
        prepare(job_of(data, tmp_path / "run"), first)


# before anything is built -------------------------------------------------------------------------------------------
def test_where_one_process_has_no_memory_none_builds_a_model(data: Data, tmp_path: Path) -> None:
    assert ranks(2, small, data, str(tmp_path / "run")) == ["there is no room"] * 2


def test_only_the_process_that_tells_wandb_needs_its_key(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    told = replace(job_of(data, tmp_path / "run"), wandb="project")
    with pytest.raises(ConfigError, match="needs a key; set WANDB_API_KEY"):
        prepare(told)
    assert prepare(told, jobs.Found(started="", freeze_tower="no", update=0, index="")).start == 0
