"""Training as a command: what it says, what it refuses, interrupted, in this process and in Ray."""

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
from trainer import fit, launch, loop, memory
from trainer.checkpoints import Run
from trainer.config import Config
from trainer.fit import Job

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.usefixtures("one_thread", "plain_environment")


def command(data: Data, out: Path | str, updates: int = 3, config: Config = TOY, **options: Any) -> int:
    """`kosmos train`, in this process."""
    return launch.train(config, [data.digest], data.store, str(out), updates, **{"workers": 0, **options})


def test_what_is_reached_is_not_trained_again(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(data, tmp_path / "run", 3) == 0
    before = Run(str(tmp_path / "run")).latest()
    capsys.readouterr()
    assert command(data, tmp_path / "run", 2) == 0
    said = capsys.readouterr()
    assert said.err.endswith("is at update 3; --updates N above that trains further\n")
    assert "resuming" not in said.err
    assert said.out.startswith("loss ") and f"the checkpoint is {tmp_path}/run/checkpoints/00000003" in said.out
    assert Run(str(tmp_path / "run")).latest() == before


def test_a_finished_run_says_its_end_in_json_too(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = override(TOY, ["optim.total_updates=3"])
    assert command(data, tmp_path / "run", 3, config=short, as_json=True) == 0
    end = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert command(data, tmp_path / "run", 0, config=short, as_json=True) == 0
    note, again = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert again == end and end["last_loss"] is not None
    assert "--set optim.total_updates=N above that trains further" in note["text"]


# what is said -------------------------------------------------------------------------------------------------------
def test_json_has_a_line_an_update_and_an_end(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(data, tmp_path / "run", 3, as_json=True) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["update", "update", "update", "end"]
    assert [event["update"] for event in events] == [1, 2, 3, 3]
    assert events[-1]["first_loss"] == events[0]["loss"] and events[-1]["last_loss"] == events[2]["loss"]


def test_plain_lines_end_with_what_to_type_next(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a run"
    assert command(data, out, 2) == 0
    said = capsys.readouterr()
    assert "update 2 of 2: loss " in said.err
    assert "Running in local mode" not in said.err
    assert said.out.startswith("loss ") and "at update 1" in said.out
    assert f"the checkpoint is {out}/checkpoints/00000002" in said.out
    assert said.out.endswith(f"next: kosmos generate --run '{out}' --image FILE\n")


def test_a_bar_shows_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    bar = launch.Bar()
    bar.note("resuming [at] update 5")
    bar.begin(4, 10)
    bar.advance(
        loop.Metrics(
            update=5,
            loss=1.25,
            losses={},
            lr=0.1,
            grad_norm=1.0,
            counted=1,
            positions=1,
            images=0,
            bad_images=2,
            skipped=loop.NOT_FINITE,
            seconds=1.0,
            waited_s=0.0,
            tokens_per_s=1.0,
        )
    )
    bar.close()
    said = capsys.readouterr().err
    assert "resuming [at] update 5" in said
    assert "5/10" in said and "loss 1.250" in said and "update 5 made no step: not finite" in said


# refused ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"workers": 2}, "this version trains with one process"),
        ({"workers": -7}, "--workers is -7; give 0 for this process"),
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
        command(data, tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_nothing_to_train_on_and_torchrun_are_refused(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="kosmos freeze pack"):
        fit.fit(TOY, [], data.store, str(tmp_path / "run"), 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        command(data, tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "abc")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'abc'"):
        command(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", ["memory://run", "memory:///run", "https://example.org/run"])
def test_a_place_that_keeps_nothing_is_refused(data: Data, out: str) -> None:
    with pytest.raises(ConfigError, match="keeps nothing once this ends; give a folder"):
        command(data, out)


def test_a_place_that_cannot_be_written_is_told_before_the_first_update(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(KosmosError, match=r"give a --|cannot|refused"):
            command(data, out, 2, as_json=True)
    assert "update" not in capsys.readouterr().out


def test_a_model_larger_than_the_memory_is_refused_and_leaves_no_run(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = override(TOY, [f"model.ffn_dim={2**44}"])
    with pytest.raises(ConfigError, match=r"toy has [0-9,]+ parameters, which take .* train the recipe tiny"):
        command(data, tmp_path / "run", 2, config=huge)
    # where nothing tells how much there is, the allocator does
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    with pytest.raises(ConfigError, match=r"there is not enough memory .*micro_batch"):
        command(data, tmp_path / "run", 2, config=huge)
    assert command(data, tmp_path / "run", 2) == 0


def test_a_probe_that_a_killed_process_left_is_no_run(data: Data, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / fit.PROBE).write_bytes(b"")
    assert command(data, tmp_path / "run", 1) == 0
    assert not (tmp_path / "run" / fit.PROBE).exists()


def test_a_run_that_diverges_stops_and_keeps_the_checkpoints_before(data: Data, tmp_path: Path) -> None:
    wild = override(TOY, ["optim.lr=1e30", "checkpoint_every=1"])
    with pytest.raises(BudgetExceeded, match=r"not finite, .*--set optim\.lr=2\.5e\+29") as told:
        command(data, tmp_path / "run", 90, config=wild)
    assert told.value.exit_code == 3
    assert all(loss is not None for _, loss in losses(tmp_path / "run"))


def test_a_cluster_that_does_not_answer_leaves_no_run(data: Data, tmp_path: Path) -> None:
    # in a process of its own: this one may have a Ray already
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, data.digest, data.store, str(tmp_path / "run"), "3", "1"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "at RAY_ADDRESS=127.0.0.1:1" in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()


COMMAND = """
import sys
from engine.errors import KosmosError
from tests.trainer.runs import TOY
from trainer import launch

digest, store, out, updates, workers = sys.argv[1:]
try:
    launch.train(TOY, [digest], store, out, int(updates), int(workers), as_json=True)
except KosmosError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""

# every line that runs, of the handler's own code too, is interrupted by the next signal
SIGNALLED = """
import os, signal, sys
from trainer.launch import _interrupts

def again(*_):
    global left
    left -= 1
    if left > 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return again

left = 300
with _interrupts() as asked:
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
        command(data, out, 100)
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
    with launch._interrupts() as asked:
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
    command(data, tmp_path / "run", 1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# in Ray -------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.ray
def test_a_worker_of_ray_train_does_what_this_process_does(
    data: Data, tmp_path: Path, ray_session: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(data, tmp_path / "ray", 5, workers=1, as_json=True) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["update"] for event in events if event["event"] == "update"] == [1, 2, 3, 4, 5]
    command(data, tmp_path / "here", 5)
    ours, theirs = losses(tmp_path / "ray"), losses(tmp_path / "here")
    assert [update for update, _ in ours] == [update for update, _ in theirs]
    # a worker may have another number of threads, and sums in another order
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-4)


@pytest.mark.slow
@pytest.mark.ray
def test_a_sentence_of_a_worker_is_the_commands(data: Data, tmp_path: Path, ray_session: Any) -> None:
    short = replace(TOY, model=replace(TOY.model, max_length=69))
    with pytest.raises(ConfigError, match=r"model\.max_length is 69"):
        command(data, tmp_path / "run", 1, config=short, workers=1)


@pytest.mark.ray
def test_a_worker_that_sees_no_run_says_so(data: Data, tmp_path: Path, ray_session: Any) -> None:
    wire = ray_session.remote(num_cpus=0)(launch._Wire).remote()
    job = Job(config=TOY, digests=(data.digest,), store=data.store, out=str(tmp_path / "elsewhere"), updates=1)
    launch._worker({"job": job, "wire": wire})
    ((kind, error),) = ray_session.get(wire.take.remote())
    assert kind == launch.ERROR and isinstance(error, ConfigError)
    assert "a folder that all nodes share" in str(error)


def descendants(pid: int) -> Iterator[int]:
    """The processes below one of ours."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = entry.read_text()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == pid:
            child = int(entry.parent.name)
            yield child
            yield from descendants(child)


@pytest.mark.slow
@pytest.mark.ray
def test_a_worker_that_is_killed_is_one_sentence_and_the_command_resumes(
    data: Data, tmp_path: Path, ray_session: Any, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    out = tmp_path / "run"
    found: list[KosmosError] = []

    def train() -> None:
        try:
            command(data, out, 100, workers=1)
        except KosmosError as error:
            found.append(error)

    training = threading.Thread(target=train)
    training.start()
    assert eventually(lambda: training.is_alive() and Run(str(out)).latest())
    workers = [pid for pid in descendants(os.getpid()) if b"TrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    training.join(120)
    (error,) = found
    assert "the training worker failed" in str(error) and "the same command resumes" in str(error)
    (kept,) = (tmp_path / "run" / "failures").iterdir()
    assert str(kept) in str(error) and kept.stat().st_size > 100
    latest = Run(str(out)).latest()
    assert latest is not None
    go(data, out, latest.update + 1)
    assert [update for update, _ in losses(out)] == list(range(1, latest.update + 2))


@pytest.mark.parametrize(
    ("asked", "address", "workers"), [(0, "", 0), (1, "", 1), (-1, "", 0), (-1, "head:6379", 1), (0, "head:6379", 0)]
)
def test_where_it_runs_is_as_asked_or_where_a_cluster_is(
    monkeypatch: pytest.MonkeyPatch, asked: int, address: str, workers: int
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert launch.num_workers(asked) == workers
