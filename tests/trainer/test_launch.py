"""Training in Ray: as many workers as asked for, killed and started again, refused, stopped."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from engine.config import override
from engine.errors import BudgetExceeded, ConfigError, Interrupted, KosmosError, StoreError
from tests.trainer.runs import TOY, Data, go, losses
from trainer import command, launch, news
from trainer import fit as fits
from trainer.checkpoints.run import Run
from trainer.checkpoints.sharded import Gone
from trainer.config import Config
from trainer.job import Job, prepare
from trainer.loop import Result
from trainer.place import placed
from trainer.world import World

ROOT = Path(__file__).parent.parent.parent
STILL = override(TOY, ["model.dropout=0", "model.attention_dropout=0"])
pytestmark = pytest.mark.usefixtures("one_thread", "plain_environment")


def train(data: Data, out: Path | str, updates: int, config: Config = STILL, **options: Any) -> int:
    """`kosmos train`."""
    return command.train(config, [data.digest], data.store, str(out), updates, **options)


def in_a_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[KosmosError]]:
    """What is told goes into the list; in a thread, as this one is to look on."""
    told: list[KosmosError] = []

    def run() -> None:
        try:
            work()
        except KosmosError as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, told


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


def workers() -> list[int]:
    """The processes of Ray Train's workers, of the Ray that this process started."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in name:
            found.append(pid)
    return found


@pytest.mark.slow
@pytest.mark.ray
def test_two_workers_of_which_one_dies_go_on_stop_and_are_as_one_process(
    data: Data,
    tmp_path: Path,
    ray_session: Any,
    capsys: pytest.CaptureFixture[str],
    eventually: Callable[[Callable[[], Any]], Any],
) -> None:
    """kill -9 at a random update, a restart, a wish to stop; then one process goes on."""
    out, long = tmp_path / "run", override(STILL, ["optim.total_updates=500"])

    def reached(update: int) -> int:
        latest = Run(str(out)).latest()
        return latest.update if latest is not None and latest.update > update else 0

    def disturb() -> None:
        after = random.Random(os.getpid()).randint(1, 4)
        eventually(lambda: reached(after))
        before = workers()
        os.kill(before[-1], signal.SIGKILL)
        eventually(lambda: len([pid for pid in workers() if pid not in before]) == 2)
        done = eventually(lambda: reached(0))
        eventually(lambda: reached(done))
        os.kill(os.getpid(), signal.SIGINT)

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    with pytest.raises(Interrupted, match=r"its checkpoint is in .*; the same command resumes") as told:
        train(data, out, 500, config=long, workers=2, restarts=1)
    disturbing.join()
    (kept,) = (out / "failures").iterdir()
    assert "RayTrainWorker" in kept.read_text()
    (again,) = (line for line in capsys.readouterr().err.splitlines() if "2 workers go on from update" in line)
    assert again.startswith("worker") and " died; " in again
    latest = Run(str(out)).latest()
    assert latest is not None and f"interrupted after update {latest.update} of 500" in str(told.value)
    last = latest.update + 2
    go(data, out, last, config=long)
    go(data, tmp_path / "whole", last, config=long)
    assert [update for update, _ in losses(out)] == list(range(1, last + 1))
    # workers may have another number of threads, and sums in another order
    whole = [loss for _, loss in losses(tmp_path / "whole")]
    assert [loss for _, loss in losses(out)] == pytest.approx(whole, rel=1e-6 * last)


@pytest.mark.slow
@pytest.mark.ray
def test_a_worker_that_dies_with_no_restart_left_ends_the_run_with_a_sentence(
    data: Data, tmp_path: Path, ray_session: Any, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    out = tmp_path / "run"
    training, told = in_a_thread(lambda: train(data, out, 100, workers=1))
    eventually(lambda: Run(str(out)).latest())
    os.kill(workers()[-1], signal.SIGKILL)
    training.join(120)
    (error,) = told
    assert "the training failed: worker" in str(error) and "died; the whole of it is in" in str(error)
    assert "the same command resumes" in str(error)
    (kept,) = (out / "failures").iterdir()
    assert str(kept) in str(error) and "RayTrainWorker" in kept.read_text()
    latest = Run(str(out)).latest()
    assert latest is not None and latest.update < 100


@pytest.mark.slow
@pytest.mark.ray
def test_a_sentence_of_a_worker_is_the_commands_and_nothing_is_restarted(
    data: Data, tmp_path: Path, ray_session: Any
) -> None:
    short = replace(TOY, model=replace(TOY.model, max_length=69))
    with pytest.raises(ConfigError, match=r"model\.max_length is 69"):
        train(data, tmp_path / "run", 1, config=short, workers="1-2", restarts=3)
    assert list((tmp_path / "run").rglob("*.txt")) == []


@pytest.mark.ray
def test_more_workers_than_fit_are_refused_at_once(data: Data, tmp_path: Path, ray_session: Any) -> None:
    with pytest.raises(ConfigError, match=r"3 workers of 1 CPU each do not fit here, .* 2 CPUs; give --workers 2"):
        train(data, tmp_path / "run", 1, workers=3)
    with pytest.raises(ConfigError, match=r"2 workers of 1 CPU and 1 GPU each do not fit .* --gpus-per-worker 0"):
        train(data, tmp_path / "run", 1, workers=2, gpus_per_worker=1)
    assert Run(str(tmp_path / "run")).describe() is None


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("asked", ["2", "1-2"])
def test_a_cluster_that_is_busy_is_told_and_can_be_left(
    data: Data, tmp_path: Path, ray_session: Any, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv(launch.PATIENCE, "2")
    both = ray_session.util.placement_group([{"CPU": 1}] * 2)
    ray_session.get(both.ready())
    try:
        with pytest.raises(KosmosError, match="no workers could be started within 2 s, none are free"):
            train(data, tmp_path / "run", 1, workers=asked)
    finally:
        ray_session.util.remove_placement_group(both)


@pytest.mark.ray
def test_a_worker_that_sees_no_run_says_so(data: Data, tmp_path: Path, ray_session: Any) -> None:
    desk = ray_session.remote(num_cpus=0)(launch._Desk).remote()
    job = Job(config=TOY, digests=(data.digest,), store=data.store, out=str(tmp_path / "elsewhere"), updates=1)
    given = {"job": job, "desk": desk, "witness": "failures/0.here", "spare": True}
    launch._worker(given)
    (up, (kind, error)) = ray_session.get(desk.take.remote())
    assert up == (news.UP, 1) and kind == news.ERROR and isinstance(error, ConfigError)
    assert "a folder that all nodes share" in str(error)
    # started again, it has nothing to do and nothing to say
    launch._worker(given)
    assert ray_session.get(desk.take.remote()) == []


@pytest.mark.ray
def test_what_fails_otherwise_is_told_with_its_traceback(ray_session: Any) -> None:
    desk = ray_session.remote(num_cpus=0)(launch._Desk).remote()
    with pytest.raises(ZeroDivisionError), launch._Teller(ray_session, desk):
        _ = 1 // 0
    ((kind, value),) = ray_session.get(desk.take.remote())
    words, text = value[0]
    assert kind == news.FAILED and words.startswith("failed (ZeroDivisionError: integer")
    assert "1 // 0" in text and not ray_session.get(desk.over.remote())


# without Ray --------------------------------------------------------------------------------------------------------
def remotely(work: Callable[..., Any]) -> SimpleNamespace:
    """A method of an actor that is none; `ray.get` of what it gives is that."""
    return SimpleNamespace(remote=work)


@pytest.mark.parametrize(
    ("error", "restarts", "told"),
    [
        (Gone("another process is gone"), 0, news.FAILED),
        (Gone("another process is gone"), 3, news.FAILED),
        (StoreError("the store gave out"), 3, news.FAILED),
        (StoreError("the store gave out"), 0, news.ERROR),
        (ConfigError("a wrong word"), 3, news.ERROR),
        (BudgetExceeded("it diverges"), 3, news.ERROR),
    ],
)
def test_a_crash_and_an_outage_are_left_to_ray_and_a_sentence_is_not(
    error: Exception, restarts: int, told: str
) -> None:
    desk = launch._Desk()
    desk._restarts = restarts
    said = SimpleNamespace(say=remotely(desk.say), again=remotely(desk.again))
    caught = None
    try:
        with launch._Teller(SimpleNamespace(get=lambda value: value), said):
            raise error
    except (Gone, KosmosError) as passed:
        caught = passed
    ((kind, _),) = desk.take()
    assert kind == told and (caught is error) == (told == news.FAILED) and desk.over() == (told == news.ERROR)


def test_an_outage_is_told_once_no_restart_is_left() -> None:
    desk = launch._Desk()
    desk._restarts = 2
    found = []
    for _ in range(3):
        desk.say(news.UP, 2)
        found.append(desk.again())
        desk.say(news.FAILED, {})
        assert desk.again() == found[-1], "the others of the group hear the same"
    assert found == [True, True, False]


@pytest.mark.parametrize(("asked", "elastic"), [("2", False), ("1-2", True)])
def test_what_workers_are_given_needs_no_file_of_the_driver_and_shows_no_key(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, elastic: bool
) -> None:
    given: list[Any] = []
    kept: list[dict[str, str]] = []
    fit = SimpleNamespace(options=lambda **_: remotely(lambda *words: given.append(words)))
    desk = SimpleNamespace(fit=fit, keep=remotely(kept.append))
    ray = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}],
        util=SimpleNamespace(scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda *_, **__: "")),
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: ""),
        remote=lambda **_: lambda _: remotely(lambda: desk),
        exceptions=SimpleNamespace(RayError=ZeroDivisionError),
        get=lambda value: value,
        kill=lambda _: None,
    )
    monkeypatch.setattr("engine.cluster.connect", lambda **_: contextlib.nullcontext(ray))
    monkeypatch.setattr(launch, "_drive", lambda *_: Result(update=1))
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    monkeypatch.setenv("WANDB_API_KEY", "secret-key")
    monkeypatch.setenv("WANDB_DIR", "/of/the/driver")
    first = tmp_path / "first"
    go(data, first, 1, config=STILL)
    job = Job(
        config=STILL,
        digests=(data.digest,),
        store=data.store,
        out=str(tmp_path / "run"),
        updates=2,
        init_from=str(first),
        wandb="project",
    )
    shown: Any = SimpleNamespace(note=lambda _: None)
    launch.in_ray(prepare(job), shown, lambda: False, placed(asked))
    ((_, _, config, _, environment),) = given
    assert config["elastic"] == elastic
    assert (kept[0]["WANDB_API_KEY"], "WANDB_DIR" in kept[0]) == ("secret-key", False)
    assert "secret-key" not in repr((config, environment))
    # what it began from is gone with the driver's disk, and a group that is started again goes on
    first.rename(tmp_path / "elsewhere")
    for updates in (1, 2):
        ready = prepare(replace(config["job"], updates=updates, wandb=""))
        assert ready.start == updates - 1 and ready.described.start
        assert fits.go(ready, lambda _: None, lambda: False, World()).update == updates


@pytest.mark.parametrize(("stop", "leaving", "why"), [(True, True, launch.STOPPED), (False, True, news.MOVED)])
def test_a_wish_to_stop_and_a_node_that_goes_away_are_seen(
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[[Callable[[], Any]], Any],
    stop: bool,
    leaving: bool,
    why: str,
) -> None:
    asked = SimpleNamespace(stop=False, leaving=None)
    ray_train = SimpleNamespace(get_preemption_info=lambda: asked.leaving)
    ray = SimpleNamespace(get=lambda value: value, exceptions=SimpleNamespace(RayError=KosmosError))
    desk = SimpleNamespace(stopped=SimpleNamespace(remote=lambda: asked.stop))
    monkeypatch.setattr(launch, "_ray_train", lambda: ray_train)
    monkeypatch.setattr(launch, "WATCH_S", 0.01)
    with launch._Watch(ray, desk, first=True) as watch:
        assert not watch.wanted()
        asked.stop, asked.leaving = stop, leaving
        eventually(watch.wanted)
        assert watch.why == why
        asked.stop = True  # who wants an end has the last word
        eventually(lambda: watch.why == launch.STOPPED)
    watch.join(10)
    assert not watch.is_alive()


REFUSED = """
import sys
from engine.errors import KosmosError
from tests.trainer.runs import TOY
from trainer import command

digest, store, out = sys.argv[1:]
try:
    command.train(TOY, [digest], store, out, 3, workers=1)
except KosmosError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def test_a_cluster_that_does_not_answer_leaves_no_run(data: Data, tmp_path: Path) -> None:
    # in a process of its own: this one may have a Ray already
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, data.digest, data.store, str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "at RAY_ADDRESS=127.0.0.1:1" in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()
