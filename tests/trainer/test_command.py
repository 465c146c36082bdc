"""`kosmos train` in this process: what it says, what it refuses, interrupted and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import override
from engine.errors import BudgetExceeded, ConfigError, Interrupted, KosmosError
from tests.trainer.runs import TOY, Data, go, losses, weights
from trainer import command, job, memory
from trainer.checkpoints.run import Run
from trainer.config import Config

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.usefixtures("one_thread", "plain_environment")


def train(data: Data, out: Path | str, updates: int = 3, config: Config = TOY, **options: Any) -> int:
    """`kosmos train`, in this process."""
    return command.train(config, [data.digest], data.store, str(out), updates, **{"workers": 0, **options})


def test_what_is_reached_is_not_trained_again(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data, tmp_path / "run", 3) == 0
    before = Run(str(tmp_path / "run")).latest()
    capsys.readouterr()
    assert train(data, tmp_path / "run", 2) == 0
    said = capsys.readouterr()
    assert said.err.endswith("is at update 3; --updates N above that trains further\n")
    assert "resuming" not in said.err
    assert said.out.startswith("loss ") and f"the checkpoint is {tmp_path}/run/checkpoints/00000003" in said.out
    assert Run(str(tmp_path / "run")).latest() == before


def test_a_finished_run_says_its_end_in_json_too(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = override(TOY, ["optim.total_updates=3"])
    assert train(data, tmp_path / "run", 3, config=short, as_json=True) == 0
    end = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert train(data, tmp_path / "run", 0, config=short, as_json=True) == 0
    note, again = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert again == end and end["last_loss"] is not None
    assert "--set optim.total_updates=N above that trains further" in note["text"]


# what is said -------------------------------------------------------------------------------------------------------
def test_json_has_a_line_an_update_and_an_end(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data, tmp_path / "run", 3, as_json=True) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["update", "update", "update", "end"]
    assert [event["update"] for event in events] == [1, 2, 3, 3]
    assert events[-1]["first_loss"] == events[0]["loss"] and events[-1]["last_loss"] == events[2]["loss"]


def test_plain_lines_end_with_what_to_type_next(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a run"
    assert train(data, out, 2) == 0
    said = capsys.readouterr()
    assert "update 2 of 2: loss " in said.err
    assert "Running in local mode" not in said.err
    assert said.out.startswith("loss ") and "at update 1" in said.out
    assert f"the checkpoint is {out}/checkpoints/00000002" in said.out
    assert said.out.endswith(f"next: kosmos generate --run '{out}' --image FILE\n")


# refused ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"workers": -7}, "--workers is -7; give 0 for this process"),
        ({"workers": 2, "restarts": -1}, "--restarts is -1; give how often"),
        ({"updates": 101}, "--updates is 101; set it from 1 to optim.total_updates, which is 100"),
        ({"updates": -1}, "--updates is -1"),
        ({"config": replace(TOY, model=replace(TOY.model, vocab_size=64_007))}, "--set model.vocab_size=100"),
        ({"extend": ["e" * 64]}, "to extend; give all digests without --extend"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    data: Data, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        train(data, tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_nothing_to_train_on_is_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kosmos freeze pack"):
        command.train(TOY, [], data.store, str(tmp_path / "run"), 1, workers="0")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", ["memory://run", "memory:///run", "https://example.org/run"])
def test_a_place_that_keeps_nothing_is_refused(data: Data, out: str) -> None:
    with pytest.raises(ConfigError, match="keeps nothing once this ends; give a folder"):
        train(data, out)


def test_a_place_that_cannot_be_written_is_told_before_the_first_update(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(KosmosError, match=r"give a --|cannot|refused"):
            train(data, out, 2, as_json=True)
    assert "update" not in capsys.readouterr().out


def test_a_model_larger_than_the_memory_is_refused_and_leaves_no_run(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = override(TOY, [f"model.ffn_dim={2**44}"])
    with pytest.raises(ConfigError, match=r"toy has [0-9,]+ parameters, which take .* train the recipe tiny"):
        train(data, tmp_path / "run", 2, config=huge)
    # where nothing tells how much there is, the allocator does
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    with pytest.raises(ConfigError, match=r"there is not enough memory .*micro_batch"):
        train(data, tmp_path / "run", 2, config=huge)
    assert train(data, tmp_path / "run", 2) == 0


def test_a_probe_that_a_killed_process_left_is_no_run(data: Data, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / job.PROBE).write_bytes(b"")
    assert train(data, tmp_path / "run", 1) == 0
    assert not (tmp_path / "run" / job.PROBE).exists()


def test_a_run_that_diverges_stops_and_keeps_the_checkpoints_before(data: Data, tmp_path: Path) -> None:
    wild = override(TOY, ["optim.lr=1e30", "checkpoint_every=1"])
    with pytest.raises(BudgetExceeded, match=r"not finite, .*--set optim\.lr=2\.5e\+29") as told:
        train(data, tmp_path / "run", 90, config=wild)
    assert told.value.exit_code == 3
    assert all(loss is not None for _, loss in losses(tmp_path / "run"))


COMMAND = """
import sys
from engine.errors import KosmosError
from tests.trainer.runs import TOY
from trainer import command

digest, store, out, updates, workers = sys.argv[1:]
try:
    command.train(TOY, [digest], store, out, int(updates), workers, as_json=True)
except KosmosError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""

# every line that runs, of the handler's own code too, is interrupted by the next signal
SIGNALLED = """
import os, signal, sys
from trainer.command import interrupts

def again(*_):
    global left
    left -= 1
    if left > 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return again

left = 300
with interrupts() as asked:
    sys.settrace(again)
    os.kill(os.getpid(), signal.SIGTERM)
    sys.settrace(None)
    print("stop", asked.stop)
"""


def test_a_signal_within_the_code_of_a_signal_does_not_wait_for_itself() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "stop True\n", done.stderr


@pytest.mark.parametrize("burst", [[signal.SIGTERM] * 50, [signal.SIGINT, signal.SIGTERM] * 20])
def test_a_burst_of_signals_ends_a_run_that_resumes(data: Data, tmp_path: Path, burst: list[signal.Signals]) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, data.digest, data.store, str(out), "100", "0"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as victim:
        assert victim.stdout is not None
        while json.loads(victim.stdout.readline()).get("update") != 3:
            pass
        for number in burst:
            victim.send_signal(number)
        _, errors = victim.communicate(timeout=60)
    # what comes once the handlers are put back ends the process as it ends any other
    assert victim.returncode in (130, -signal.SIGTERM, -signal.SIGINT), errors
    latest = Run(str(out)).latest()
    assert latest is not None and 2 <= latest.update < 100
    go(data, out, latest.update + 1)
    assert [update for update, _ in losses(out)] == list(range(1, latest.update + 2))


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that does not end the tests if it comes late."""
    before = signal.signal(request.param, lambda *_: None)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_ends_the_update_in_flight_and_leaves_a_checkpoint(
    data: Data, tmp_path: Path, number: signal.Signals, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    out = tmp_path / "run"

    def ask() -> None:
        eventually(lambda: Run(str(out)).latest())
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Interrupted, match=r"its checkpoint is in .*; the same command resumes") as told:
        train(data, out, 100)
    asking.join()
    latest = Run(str(out)).latest()
    assert latest is not None and latest.update < 100
    assert f"interrupted after update {latest.update} of 100" in str(told.value)
    go(data, out, latest.update + 1)
    go(data, tmp_path / "whole", latest.update + 1)
    assert weights(out) == weights(tmp_path / "whole")


def test_a_second_interrupt_is_passed_on(
    number: signal.Signals, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    with command.interrupts() as asked:
        os.kill(os.getpid(), number)
        eventually(lambda: asked.stop)
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
                threading.Event().wait(10)
        else:
            os.kill(os.getpid(), number)


def test_the_handlers_of_signals_are_put_back(data: Data, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(data, tmp_path / "run", 1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
