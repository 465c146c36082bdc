"""Checkpoints written while the training goes on: what is saved, what is told, what a fault leaves."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.errors import BudgetExceeded, ConfigError, KosmosError, StoreError
from engine.store import Store
from tests.trainer.checkpoints.test_run import run_at, same, save, toy
from tests.trainer.checkpoints.test_sharded import adamw, net, spread, step, whole
from tests.trainer.ranks import ranks
from trainer.checkpoints import state
from trainer.checkpoints.run import COMPLETE, Run
from trainer.checkpoints.saver import Saver
from trainer.checkpoints.sharded import Gone
from trainer.memory import told_when_short
from trainer.world import World


def newest(run: Run) -> int | None:
    """The update of the newest checkpoint."""
    latest = run.latest()
    return latest.update if latest is not None else None


def test_the_training_goes_on_while_a_checkpoint_is_written(memory: str) -> None:
    run, go_on = run_at(memory), threading.Event()
    model, optimizer = toy(1)

    def record() -> None:
        assert go_on.wait(60)

    with Saver(run, World(), 3) as saver:
        saver.save(1, 1.0, model, optimizer, record=record)
        assert newest(run) is None
        with torch.no_grad():
            model.weight.zero_()  # an update goes on
            for moment in state.MOMENTS:
                optimizer.state[model.weight][moment].zero_()
        state.set_steps(optimizer, 7)
        go_on.set()
        saver.wait()
        assert newest(run) == 1
    latest = run.latest()
    assert latest is not None and latest.steps == 1 and same(run, latest, 1)
    assert torch.equal(run.tensors(latest, "exp_avg_sq.")["weight"], toy(1)[0].weight / 4)


def test_the_buffers_are_made_once(memory: str) -> None:
    with Saver(run_at(memory), World(), 3) as saver:
        saver.save(1, 1.0, *toy(1))
        saver.wait()
        before = {name: buffer.data_ptr() for name, buffer in saver._staged.items()}
        saver.save(2, 1.0, *toy(2))
        assert before == {name: buffer.data_ptr() for name, buffer in saver._staged.items()}


def test_a_change_is_written_once_the_files_are_there_and_before_the_checkpoint_counts(memory: str) -> None:
    run, seen = run_at(memory), []

    def look() -> None:
        seen.append(sorted(head.path.split(".")[-1] for head in run.store.list("checkpoints/")))

    with Saver(run, World(), 3) as saver:
        saver.save(1, 1.0, *toy(1), record=look, settle=look)
    assert seen == [[], ["json", "safetensors"]] and newest(run) == 1


@pytest.mark.parametrize("then", ["save", "wait", "leave"])
def test_a_fault_is_told_by_the_next_call(memory: str, then: str) -> None:
    run = run_at(memory)
    save(run, 1, 1.0, 1)

    def fail() -> None:
        raise StoreError("no room; make some")

    with pytest.raises(StoreError, match="no room; make some"), Saver(run, World(), 3) as saver:
        saver.save(2, 1.0, *toy(2), record=fail)
        if then == "save":
            saver.save(3, 1.0, *toy(3))
            pytest.fail("it was not told")
        elif then == "wait":
            saver.wait()
    assert newest(run) == 1
    save(run, 3, 1.0, 3)
    assert newest(run) == 3


def test_what_has_begun_is_ended_behind_a_fault_of_the_training(memory: str) -> None:
    run = run_at(memory)
    with pytest.raises(BudgetExceeded, match="diverged"), Saver(run, World(), 3) as saver:
        saver.save(1, 1.0, *toy(1))
        raise BudgetExceeded("diverged")
    assert newest(run) == 1


def test_what_is_frozen_is_not_in_a_step_checkpoint(memory: str) -> None:
    run, model = run_at(memory), net()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    with Saver(run, World(), 3) as saver:
        saver.save(1, 1.0, model, optimizer)  # before any step, too
    latest = run.latest()
    assert latest is not None and latest.steps == 0
    found = run.tensors(latest, "")
    assert sorted(name for name in found if name.startswith("model.")) == [
        "model.1.bias",
        "model.1.weight",
        "model.2.weight",
        "model.3.bias",
        "model.3.weight",
    ]
    assert all(not tensor.any() for name, tensor in found.items() if name.startswith("exp_avg"))
    run.restore(latest, model, optimizer, World())
    step(model, optimizer)
    assert state.steps(optimizer) == 1


# several processes ---------------------------------------------------------------------------------------------------
def train(world: World, url: str, every: int) -> dict[str, bytes]:
    """Twelve steps, a checkpoint after some; a look without a backward before each."""
    model = net()
    spread(model, "sharded", world)
    optimizer = adamw(model)
    with Saver(Run(url), world, 3) as saver:
        for update in range(1, 13):
            step(model, optimizer)
            if every and update % every == 0:
                with torch.no_grad():
                    model(torch.randn(4, 7))
                saver.save(
                    update, 1.0, model, optimizer, [{"update": n} for n in range(update - every + 1, update + 1)]
                )
    return whole(model, optimizer)


def test_what_is_said_of_a_checkpoint_does_not_come_between_the_training(tmp_path: Path) -> None:
    saving, plain = str(tmp_path / "saving"), str(tmp_path / "plain")
    run = run_at(saving)
    (alone, *_), (found, *others) = ranks(2, train, plain, 0), ranks(2, train, saving, 1)
    assert found == alone and others == [found]
    assert newest(run) == 12
    assert [line["update"] for line in run.metrics()] == list(range(1, 13))


def fault_of_one(world: World, url: str, disk: str) -> list[str]:
    """What each process is told of a checkpoint for which one of them has no room, and of the next."""
    import tempfile

    told = []
    model = nn.Linear(1000, 1000, bias=False)
    optimizer = adamw(model)
    for update, folder in ((2, disk), (3, None)):
        tempfile.tempdir = folder if world.rank == 1 else None
        try:
            with Saver(Run(url), world, 3) as saver:
                saver.save(update, 1.0, model, optimizer)
            told.append("")
        except StoreError as error:
            told.append(str(error))
    return told


def test_a_fault_of_one_process_is_told_to_all(tiny_disk: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    run_at(url)
    first, second = ranks(2, fault_of_one, url, str(tiny_disk))
    assert first == second
    assert first[0].startswith("cannot write a checkpoint below") and "set TMPDIR" in first[0] and first[1] == ""
    assert newest(Run(url)) == 3


def apart(world: World, url: str) -> str:
    """What each process is told where each has a disk of its own under the same name."""
    model = nn.Linear(10, 10)
    with pytest.raises(StoreError) as error, Saver(Run(f"{url}/{world.rank}"), world, 3) as saver:
        saver.save(1, 1.0, model, adamw(model))
    return str(error.value)


def test_a_checkpoint_that_lies_on_several_disks_never_counts(tmp_path: Path) -> None:
    first, second = ranks(2, apart, str(tmp_path))
    assert first == second
    assert first.startswith("process 1 wrote a part of the checkpoint where process 0 does not see it")
    assert "give --out a bucket or a folder that all nodes share" in first
    assert list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob(COMPLETE))


def crash(world: World, url: str, fault: BaseException) -> tuple[str, str]:
    """What a process ends with where the second fails: of what kind it is, and its words."""
    model = nn.Linear(10, 10)

    def failing(*_: object) -> None:
        raise fault

    if world.rank == 1:
        Store.put_file = failing  # type: ignore[method-assign]
    with pytest.raises((KosmosError, MemoryError, ValueError, Gone)) as error, Saver(Run(url), world, 3) as saver:
        saver.save(1, 1.0, model, adamw(model))
    if isinstance(error.value, Gone):
        with pytest.raises(Gone), told_when_short():
            raise error.value
    return type(error.value).__name__, str(error.value)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (StoreError("the store is out; wait"), "StoreError"),
        (ConfigError("other words; give them"), "ConfigError"),
        (MemoryError("can't allocate memory"), "Gone"),
        (ValueError("a bug"), "Gone"),
    ],
)
def test_only_what_is_a_sentence_for_one_is_a_sentence_for_all(tmp_path: Path, fault: Exception, kind: str) -> None:
    first, second = ranks(2, crash, str(tmp_path), fault)
    assert first[0] == kind and str(fault) in first[1]
    assert second == (type(fault).__name__, str(fault))


def die(world: World, url: str, at: str, last: int) -> str | None:
    """Save twice; at the second time one process is killed. What the other is told."""
    run, model = Run(url), net()
    spread(model, "plain" if world.size == 1 else "sharded", world)
    optimizer = adamw(model)

    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(Gone) as error, Saver(run, world, 3) as saver:
        saver.save(1, 1.0, model, optimizer, [{"update": 1}])
        saver.wait()
        if world.rank == last:
            # before its file is there; before the mark of completeness
            {"file": lambda: setattr(Store, "put_file", killed), "mark": lambda: setattr(Store, "put_new", killed)}[
                at
            ]()
        saver.save(2, 1.0, model, optimizer, [{"update": 2}])
    Path(f"{url}.told").write_text(str(error.value))
    return None


@pytest.mark.parametrize(("size", "at", "last"), [(1, "file", 0), (1, "mark", 0), (2, "file", 1), (2, "mark", 0)])
def test_a_kill_at_any_moment_leaves_the_checkpoint_before(tmp_path: Path, size: int, at: str, last: int) -> None:
    url = str(tmp_path / "run")
    run = run_at(url)
    with pytest.raises((EOFError, AssertionError)):
        ranks(size, die, url, at, last)
    assert newest(run) == 1
    assert [line["update"] for line in run.metrics()] == [1]
    if (size, last) == (2, 1):
        assert "another process is gone" in Path(f"{url}.told").read_text()
    run.forget_after(1)
    model = net()
    optimizer = adamw(model)
    latest = run.latest()
    assert latest is not None
    run.restore(latest, model, optimizer, World())
    with Saver(run, World(), 3) as saver:
        saver.save(2, 1.0, model, optimizer, [{"update": 2}])
    assert newest(run) == 2
    assert len(list((tmp_path / "run/checkpoints/00000002").iterdir())) == 3  # what was left is gone
    assert [line["update"] for line in run.metrics()] == [1, 2]
