"""Curves as TensorBoard reads them, byte by byte; what a resumed run adds; what ends no training."""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from engine.errors import ConfigError, StoreError
from engine.store import Store
from trainer.board import Board, scalars
from trainer.checkpoints.run import Run
from trainer.metrics import Metrics
from trainer.world import World


def metrics(update: int, loss: float = 2.0, **others: Any) -> Metrics:
    values: dict[str, Any] = {
        "losses": {"text": 1.5, "caption": 2.5},
        "lr": 1e-3,
        "grad_norm": 0.5,
        "counted": 10,
        "positions": 100,
        "images": 3,
        "bad_images": 1,
        "skipped": "",
        "seconds": 2.0,
        "waited_s": 0.25,
        "tokens_per_s": 50.0,
    }
    return Metrics(update=update, loss=loss, **(values | others))


def masked(body: bytes) -> int:
    """The sum of the TFRecord format."""
    value = int(crc32c(body)) & 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(body: bytes) -> Iterator[Event]:
    """What an event file holds, its sums checked."""
    while body:
        length, of_length = struct.unpack_from("<QI", body)
        assert of_length == masked(body[:8])
        content = body[12 : 12 + length]
        assert struct.unpack_from("<I", body, 12 + length) == (masked(content),)
        yield Event.FromString(content)
        body = body[16 + length :]


def files(url: str) -> list[str]:
    return sorted(head.path for head in Store(url).list("tensorboard/") if "tfevents" in head.path)


def shown(url: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: the files by name, and what a START at a step or above it had before is dropped."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in files(url):
        first, *rest = events(Store(url).get(path))
        assert first.file_version == "brain.Event:2"
        for event in rest:
            if event.session_log.status == SessionLog.START:
                curves = {name: [at for at in curve if at[0] < event.step] for name, curve in curves.items()}
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def test_every_curve_has_its_name_and_what_is_not_finite_is_left_out() -> None:
    found = scalars(
        metrics(
            7, heldout={"text": 3.0, "caption_permuted": 4.0}, mfu=0.41, padding=0.1, images_per_s=1.5, recompiles=2
        )
    )
    assert found == {
        "train/loss": 2.0,
        "train/loss_text": 1.5,
        "train/loss_caption": 2.5,
        "heldout/text": 3.0,
        "heldout/caption_permuted": 4.0,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "tokens_per_s": 50.0,
        "images_per_s": 1.5,
        "mfu": 0.41,
        "padding": 0.1,
        "waited_s": 0.25,
        "memory_gib": 0.0,
        "recompiles": 2.0,
        "bad_images": 1.0,
    }
    empty = scalars(metrics(8, loss=float("nan"), losses={}, grad_norm=float("inf")))
    assert {"train/loss", "grad_norm", "mfu"}.isdisjoint(empty)


def test_a_folder_is_followed_live_and_an_update_that_runs_again_is_shown_once(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    first = Board(Run(out), World())
    first.put(metrics(1, 9.0))
    assert shown(out)["train/loss"] == [(1, 9.0)]  # before any flush
    for update in (2, 3, 4):
        first.put(metrics(update, 9.0 - update))
        first.flush()
    assert len(files(out)) == 1
    # killed here, two updates behind its checkpoint
    second = Board(Run(out), World())
    for update in (3, 4, 5):
        second.put(metrics(update, 1.0))
    second.close()
    assert shown(out)["train/loss"] == [(1, 9.0), (2, 7.0), (3, 1.0), (4, 1.0), (5, 1.0)]
    assert len(files(out)) == 2
    assert socket.gethostname() in files(out)[0]


def test_an_object_store_gets_one_new_file_a_flush(tmp_path: Path) -> None:
    url = "memory:///board"
    board = Board(Run(url), World())
    board.put(metrics(1))
    assert files(url) == []
    board.flush()
    board.flush()  # nothing new: nothing written
    board.put(metrics(2))
    board.put(metrics(3))
    board.close()
    assert len(files(url)) == 2
    assert [at for at, _ in shown(url)["lr"]] == [1, 2, 3]
    starts = [event.step for path in files(url) for event in events(Store(url).get(path)) if event.session_log.status]
    assert starts == [1]  # a later file of the same process drops nothing


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    board = Board(Run(str(tmp_path / "run")), World(rank=1, size=2), project="none")
    board.put(metrics(1))
    board.flush()
    board.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    _told_once(str(tmp_path / "run"))
    tmp_path.chmod(stat.S_IRWXU)


def test_a_file_where_the_folder_should_be_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("")
    _told_once(str(tmp_path / "run"))


def test_a_store_that_fails_at_a_flush_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreError("the store is away")

    monkeypatch.setattr(Store, "put_file", fail)
    _told_once("memory:///away")


def _told_once(url: str) -> None:
    said: list[str] = []
    board = Board(Run(url), World(), note=said.append)
    for update in (1, 2, 3):
        board.put(metrics(update))
        board.flush()
    board.close()
    assert len(said) == 1
    assert said[0].startswith("warning: TensorBoard's files are not written any more (")


# W&B ----------------------------------------------------------------------------------------------------------------
class Online(ModuleType):
    """Stands for the package: what it is told, and a fault when it is to have one."""

    def __init__(self, step: int = 0) -> None:
        super().__init__("wandb")
        self.told: list[tuple[str, Any]] = []
        self.starting_step = step
        self.fault: BaseException | None = None
        self.config = self
        self.errors = self
        self.Error = type("Error", (Exception,), {})
        self.Settings = dict

    def _tell(self, what: str, value: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        self.told.append((what, value))
        return self

    def init(self, **given: Any) -> Any:
        return self._tell("init", given)

    def log(self, values: dict[str, float], step: int) -> None:
        self._tell("log", (step, values["train/loss"]))

    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:
        self._tell("config", values)

    def finish(self) -> None:
        self._tell("finish", None)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Online:
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    package = Online()
    _install(monkeypatch, package)
    return package


def _install(monkeypatch: pytest.MonkeyPatch, package: Online) -> None:
    mailbox = ModuleType("wandb.sdk.mailbox")
    for name in ("MailboxClosedError", "HandleAbandonedError"):
        setattr(mailbox, name, type(name, (Exception,), {}))
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setitem(sys.modules, "wandb.sdk", ModuleType("wandb.sdk"))
    monkeypatch.setitem(sys.modules, "wandb.sdk.mailbox", mailbox)


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(
    tmp_path: Path, online: Online, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(str(tmp_path / "run"))
    board = Board(run, World(), project="kosmos")
    board.put(metrics(1, 5.0))
    board.close()
    again = Online(step=2)
    _install(monkeypatch, again)
    board = Board(run, World(), project="kosmos")
    board.put(metrics(1, 4.0))  # W&B has it already
    board.put(metrics(2, 3.0))
    board.close()
    assert [told for told in online.told if told[0] != "init"] == [("log", (1, 5.0)), ("finish", None)]
    assert [told for told in again.told if told[0] != "init"] == [("log", (2, 3.0)), ("finish", None)]
    first, second = online.told[0][1], again.told[0][1]
    assert first["id"] == second["id"] and len(first["id"]) == 16
    assert first["resume"] == "allow" and first["project"] == "kosmos"
    assert "a key" not in repr((online.told, again.told))


def test_faults_of_wandb_end_no_training_and_are_told_once(tmp_path: Path, online: Online) -> None:
    said: list[str] = []
    board = Board(Run(str(tmp_path / "run")), World(), project="kosmos", note=said.append)
    board.put(metrics(1))
    online.fault = ConnectionResetError("Connection lost")
    for update in (2, 3):
        board.put(metrics(update))
        board.flush()
    board.close()
    assert said == ["warning: W&B is not told any more (Connection lost); training goes on"]
    assert [at for at, _ in shown(str(tmp_path / "run"))["train/loss"]] == [1, 2, 3]


def test_what_wandb_raises_of_its_own_at_the_start_is_told(tmp_path: Path, online: Online) -> None:
    online.fault = online.Error("no such\nentity")
    said: list[str] = []
    board = Board(Run(str(tmp_path / "run")), World(), project="kosmos", note=said.append)
    board.put(metrics(1))
    board.close()
    assert said == ["warning: W&B is not told any more (no such entity); training goes on"]


def test_no_package_or_no_key_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = Run(str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        with pytest.raises(ConfigError, match="needs the package wandb, which is not installed; `pip install wandb`"):
            Board(run, World(), project="kosmos")
    _install(monkeypatch, Online())
    with pytest.raises(ConfigError, match="needs a key; set WANDB_API_KEY in the environment, or WANDB_MODE=offline"):
        Board(run, World(), project="kosmos")
    monkeypatch.setenv("WANDB_MODE", "offline")
    Board(run, World(), project="kosmos").close()
