"""Training as a command: to the end, cut off and resumed, interrupted, killed, refused; in this process and in Ray."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import override
from engine.errors import ConfigError, Interrupted, KosmosError, StoreError
from tests.trainer import shards
from tests.trainer.test_loop import CONFIG
from trainer import launch, loop
from trainer.checkpoints import Run
from trainer.config import Config, DataConfig, MicroBatch, Quotas
from trainer.fit import Job, fit

ROOT = Path(__file__).parent.parent.parent
TOY = replace(
    CONFIG,
    model=replace(CONFIG.model, vocab_size=0),
    data=DataConfig(
        quotas=Quotas(text=2, caption=3, interleaved=1), micro_batch=MicroBatch(text=1, caption=2, interleaved=1)
    ),
    checkpoint_every=2,
)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A store of training shards: two manifests of one stage."""

    store: str
    digest: str
    more: str


def packed(url: str) -> Data:
    """Texts, captions and interleaved documents; `more` has other ones."""
    images = [shards.jpeg(number) for number in range(6)]

    def unit(seed: int) -> dict[str, Any]:
        return {
            "text": [shards.rows_of(30, seed)],
            "caption": [[shards.caption(images[(i + seed) % 6], 4 + i, 5, 6 + i % 3) for i in range(20)]],
            "interleaved": [[shards.interleaved(4 + seed, images[i % 6], 5 + i) for i in range(8)]],
        }

    return Data(store=url, digest=shards.pack(url, [unit(0)]), more=shards.pack(url, [unit(1)]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Nobody writes into it."""
    return packed(str(tmp_path_factory.mktemp("training") / "store"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on two busy cores wait for each other longer than a toy computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No torchrun, no cluster."""
    for name in ("WORLD_SIZE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def go(data: Data, out: Path | str, updates: int, config: Config = TOY, **options: Any) -> loop.Result:
    """Train without a face."""
    return fit(config, [data.digest], data.store, str(out), updates, **options)


def losses(out: Path | str) -> list[tuple[int, float]]:
    """Of every update that the run's checkpoints cover."""
    return [(line["update"], line["loss"]) for line in Run(str(out)).metrics()]


def weights(out: Path | str) -> dict[str, Any]:
    """The newest checkpoint's model, as bytes."""
    run = Run(str(out))
    latest = run.latest()
    assert latest is not None
    return {name: value.numpy().tobytes() for name, value in run.load(latest, "model").items()}


def command(data: Data, out: Path | str, updates: int = 3, config: Config = TOY, **options: Any) -> int:
    """`kosmos train`, in this process."""
    return launch.train(config, [data.digest], data.store, str(out), updates, **{"workers": 0, **options})


# to the end ---------------------------------------------------------------------------------------------------------
def test_a_run_cut_in_three_is_the_whole_one_bit_for_bit(data: Data, tmp_path: Path) -> None:
    whole = go(data, tmp_path / "whole", 7)
    assert (whole.update, whole.interrupted) == (7, False)
    for updates in (3, 4, 7):
        seen: list[int] = []
        go(data, tmp_path / "cut", updates, report=lambda metrics, seen=seen: seen.append(metrics.update))
        assert seen[-1] == updates
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert [update for update, _ in losses(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6, 7]
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_run_says_what_it_was_made_of(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "run", 1)
    described = Run(str(tmp_path / "run")).describe()
    assert described is not None
    assert described.config == replace(TOY, model=replace(TOY.model, vocab_size=shards.VOCAB.size))
    assert described.digests == (data.digest,)
    assert described.vocabulary == hashlib.sha256(shards.MODEL).hexdigest()
    assert Run(str(tmp_path / "run")).tokenizer(described) == shards.MODEL


def test_what_is_reached_is_not_trained_again(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(data, tmp_path / "run", 3) == 0
    before = Run(str(tmp_path / "run")).latest()
    capsys.readouterr()
    assert command(data, tmp_path / "run", 2) == 0
    assert "is at update 3; --updates N above that trains further" in capsys.readouterr().err
    assert Run(str(tmp_path / "run")).latest() == before


@pytest.mark.s3
def test_a_run_and_its_data_in_a_bucket(s3: str, data: Data, tmp_path: Path) -> None:
    remote = packed(s3)
    go(remote, f"{s3}-run", 2)
    go(remote, f"{s3}-run", 4)
    go(data, tmp_path / "run", 4)
    assert losses(f"{s3}-run") == losses(tmp_path / "run")
    assert weights(f"{s3}-run") == weights(tmp_path / "run")


def test_a_checkpoint_that_is_damaged_stops_the_run(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "run", 3)
    latest = Run(str(tmp_path / "run")).latest()
    assert latest is not None
    file = tmp_path / "run" / latest.parts["optimizer"].path
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)
    with pytest.raises(StoreError, match=r"delete .*00000003/complete.json to resume from the checkpoint before it"):
        go(data, tmp_path / "run", 5)
    (tmp_path / "run" / "checkpoints" / "00000003" / "complete.json").unlink()
    go(data, tmp_path / "run", 5)
    go(data, tmp_path / "whole", 5)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


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
        fit(TOY, [], data.store, str(tmp_path / "run"), 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        command(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_config_and_a_foreign_folder_are_refused(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "run", 1)
    with pytest.raises(ConfigError, match=r"optim.lr is 0.5 here and 0.01 in the run .*--out"):
        go(data, tmp_path / "run", 2, config=replace(TOY, optim=replace(TOY.optim, lr=0.5)))
    with pytest.raises(ConfigError, match="was begun on"):
        fit(TOY, [data.more], data.store, str(tmp_path / "run"), 2)
    with pytest.raises(ConfigError, match="holds other things"):
        go(data, data.store, 1)


# more data ----------------------------------------------------------------------------------------------------------
def test_added_data_counts_from_the_next_update_and_stays(data: Data, tmp_path: Path) -> None:
    notes: list[str] = []
    out = tmp_path / "run"
    go(data, out, 2)
    go(data, out, 4, extend=[data.more], note=notes.append)
    assert any("data added from update 3 on" in text for text in notes)
    go(data, out, 5, extend=[data.more])  # the same command resumes
    go(data, out, 6)  # and so does the one without
    (piece,) = Run(str(out)).orders().values()
    assert [entry["first_update"] for entry in piece["pieces"]] == [1, 3]

    plain = tmp_path / "plain"
    go(data, plain, 6)
    assert losses(out)[:2] == losses(plain)[:2]
    assert losses(out)[2:] != losses(plain)[2:]

    mixed = tmp_path / "mixed"
    go(data, mixed, 2)
    go(data, mixed, 6, extend=[data.more], union=True)
    assert losses(mixed)[2:] != losses(out)[2:]


def test_a_finished_run_goes_on_with_other_data_and_a_longer_schedule(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "run"
    short = override(TOY, ["optim.total_updates=3"])
    go(data, out, 0, config=short)
    with pytest.raises(ConfigError, match=r"--set optim.total_updates=N"):
        go(data, out, 5, config=short)
    notes: list[str] = []
    captions = override(TOY, ["optim.total_updates=5", "data.quotas.text=0", "data.quotas.interleaved=0"])
    go(data, out, 4, config=captions, extend=[data.more], note=notes.append)
    assert any("optim.total_updates was 3 and is 5" in text for text in notes)
    go(data, out, 5, config=override(captions, ["checkpoint_every=1", "data.micro_batch.caption=3"]))
    lines = list(Run(str(out)).metrics())
    assert [sorted(line["losses"]) for line in lines[2:]] == [
        ["caption", "interleaved", "text"],
        ["caption"],
        ["caption"],
    ]
    with pytest.raises(ConfigError, match=r"data.quotas.text is 2 here and 0 in the run"):
        go(data, out, 5, config=override(TOY, ["optim.total_updates=5"]))
    with pytest.raises(ConfigError, match="--union says how new rows are mixed in"):
        go(data, out, 5, config=captions, union=True)


# cut off ------------------------------------------------------------------------------------------------------------
SCRIPT = """
import sys
from tests.trainer.test_launch import TOY
from trainer.fit import fit

digest, store, out, updates = sys.argv[1:]
fit(TOY, [digest], store, out, int(updates), lambda metrics: print(metrics.update, flush=True))
"""


def test_a_run_that_is_killed_resumes_to_the_same_weights(data: Data, tmp_path: Path) -> None:
    last = 30
    at = random.randrange(3, last - 5)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, data.digest, data.store, str(tmp_path / "killed"), str(last)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as victim:
        assert victim.stdout is not None
        for line in victim.stdout:
            if int(line) == at:
                victim.kill()
        assert victim.wait(60) == -signal.SIGKILL
    latest = Run(str(tmp_path / "killed")).latest()
    assert latest is not None and latest.update < last
    go(data, tmp_path / "killed", last)
    go(data, tmp_path / "whole", last)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole"), f"killed at update {at}"
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole"), f"killed at update {at}"


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


def test_a_second_interrupt_is_passed_on(number: signal.Signals) -> None:
    with launch._interrupts() as asked:
        os.kill(os.getpid(), number)
        assert asked.wait(10)
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
