"""Under torchrun: several processes train as one, and one of them speaks for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from engine.config import override
from engine.errors import ConfigError, KosmosError, StoreError
from tests.trainer.ranks import FORK, LIMIT_S
from tests.trainer.runs import TOY, Data, losses
from trainer import command
from trainer.checkpoints.run import Run
from trainer.checkpoints.sharded import Gone
from trainer.config import tiny
from trainer.job import Job
from trainer.torchrun import together

ROOT = Path(__file__).parent.parent.parent
SMALLER = (
    "model.dim=16",
    "model.layers=2",
    "model.heads=2",
    "model.ffn_dim=32",
    "model.connector_heads=2",
    "model.tower.image_size=28",
    "model.tower.width=16",
    "model.tower.layers=1",
    "model.tower.heads=2",
    "model.tower.ffn_dim=32",
    "data.quotas.caption=5",
    "checkpoint_every=2",
)
pytestmark = pytest.mark.usefixtures("one_thread", "plain_environment")


# one voice ----------------------------------------------------------------------------------------------------------
def _speak(how: str, rank: int, size: int, port: int, out: str, pipe: Any) -> None:
    """What a process of a group ends with, which has torchrun's environment."""
    torch.set_num_threads(1)
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_USE_AGENT_STORE="True")
    try:
        with together(Job(config=TOY, digests=("0" * 64,), store=out, out=out)) as world:
            if how == "alike":
                raise ConfigError("what all of them find")
            if rank == 1:
                if how == "disk":
                    time.sleep(0.3)  # the others know of it before it speaks
                    raise OSError(28, "No space left on device")
                if how == "alone":
                    raise StoreError("what one finds")
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "disk":
                raise Gone("another process failed")
            world.sum([1])
        pipe.send(("nothing", ""))
    except (KosmosError, SystemExit) as ended:
        pipe.send((type(ended).__name__, str(ended)))


def speak(how: str, out: Path, size: int = 3) -> list[tuple[str, str]]:
    """How each of several processes ended, "killed" where it could not say."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    pipes = [FORK.Pipe(duplex=False) for _ in range(size)]
    given = (size, store.port, str(out))
    processes = [
        FORK.Process(target=_speak, args=(how, rank, *given, pipes[rank][1]), daemon=True) for rank in range(size)
    ]
    for process in processes:
        process.start()
    ended = []
    for process, (reader, end) in zip(processes, pipes, strict=True):
        end.close()
        try:
            assert reader.poll(LIMIT_S), "a process does not end"
            ended.append(reader.recv())
        except EOFError:
            ended.append(("killed", ""))
        process.join(LIMIT_S)
    return ended


def test_what_all_find_one_tells(tmp_path: Path) -> None:
    ended = sorted(speak("alike", tmp_path))
    assert ended == [("ConfigError", "what all of them find"), ("SystemExit", "2"), ("SystemExit", "2")]


def test_what_one_finds_it_tells_and_the_others_do_not_hang(tmp_path: Path) -> None:
    assert speak("alone", tmp_path) == [("SystemExit", "1"), ("StoreError", "what one finds"), ("SystemExit", "1")]


def test_of_those_that_a_process_has_left_one_tells(tmp_path: Path) -> None:
    ended = speak("killed", tmp_path)
    assert ended[1] == ("killed", "")
    silent, (kind, text) = sorted([ended[0], ended[2]], reverse=True)
    assert silent == ("SystemExit", "1") and kind == "KosmosError"
    assert "failed (" in text and "the same command resumes" in text
    Path(text.split("the whole of it is in ")[1].split(";")[0]).unlink()


def test_who_was_only_left_lets_the_one_speak_that_failed(tmp_path: Path) -> None:
    ended = speak("disk", tmp_path)
    assert [kind for kind, _ in ended] == ["SystemExit", "KosmosError", "SystemExit"]
    text = ended[1][1]
    assert text.startswith("process 1 failed (OSError: ") and "No space left on device" in text
    Path(text.split("the whole of it is in ")[1].split(";")[0]).unlink()


# torchrun itself ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_signal_to_all_of_torchrun_leaves_a_checkpoint_that_one_process_goes_on_from(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = [word for setting in SMALLER for word in ("--set", setting)]
    words = ["train", data.digest, "--store", data.store, "--out", str(out), *settings]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "engine.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*launcher, *words],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as victim:
        until = time.monotonic() + LIMIT_S
        while not Run(str(out)).latest():
            assert victim.poll() is None and time.monotonic() < until, "it never wrote a checkpoint"
            time.sleep(0.05)
        os.killpg(victim.pid, signal.SIGTERM)
        _, errors = victim.communicate(timeout=LIMIT_S)
    assert errors.count("kosmos: ") == 1 and "its checkpoint is in" in errors
    assert errors.count("of 1,000: loss") <= 1, "one process speaks"
    latest = Run(str(out)).latest()
    assert latest is not None and f"interrupted after update {latest.update} of 1000" in errors
    last = latest.update + 2
    for place in (out, tmp_path / "whole"):
        command.train(override(tiny(), SMALLER), [data.digest], data.store, str(place), last, workers="0")
    capsys.readouterr()
    whole = [loss for _, loss in losses(tmp_path / "whole")]
    assert [loss for _, loss in losses(out)] == pytest.approx(whole, rel=1e-6 * last) and len(whole) == last
