"""Where a run goes, and what a worker has there."""

from __future__ import annotations

import re

import pytest

from engine.errors import ConfigError
from trainer.place import Place, check_shards, each_of, placed

NODE = {"CPU": 96.0, "GPU": 8.0, "memory": 1e12}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No torchrun, no cluster."""
    for name in ("WORLD_SIZE", "RAY_ADDRESS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("asked", "address", "least", "most", "restarts"),
    [
        ("0", "", 0, 0, 0),
        (1, "", 1, 1, 0),
        ("", "", 0, 0, 0),
        ("", "head:6379", 1, 1, 0),
        (0, "head:6379", 0, 0, 0),
        ("2", "", 2, 2, 3),
        ("1-8", "", 1, 8, 3),
        ("8-64", "head:6379", 8, 64, 3),
    ],
)
def test_it_is_as_asked_or_where_a_cluster_is(
    monkeypatch: pytest.MonkeyPatch, asked: str | int, address: str, least: int, most: int, restarts: int
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert placed(asked) == Place(least=least, most=most, restarts=restarts)


def test_torchrun_starts_the_processes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert placed() == placed("0") == Place(torchrun=True)
    with pytest.raises(ConfigError, match="torchrun starts the processes already; leave out --workers 2"):
        placed("2")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not placed("0").torchrun
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert placed("0").torchrun
    monkeypatch.setenv("WORLD_SIZE", "abc")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'abc'"):
        placed()


@pytest.mark.parametrize(
    ("asked", "gpus", "restarts", "sentence"),
    [
        ("-1", None, None, "--workers is -1; give 0 for this process, N workers in Ray, or MIN-MAX"),
        ("4-2", None, None, "--workers is 4-2"),
        ("0-2", None, None, "--workers is 0-2"),
        ("two", None, None, "--workers is two"),
        ("0", 1.0, None, "--gpus-per-worker is of workers in Ray; give --workers N"),
        ("0", None, 2, "--restarts is of workers in Ray; give --workers N"),
        ("2", 8.0, None, "--gpus-per-worker is 8 and a worker computes on one"),
        ("2", float("nan"), None, "--gpus-per-worker is nan"),
        ("2", None, -1, "--restarts is -1"),
        ("2", 0.5, None, "--gpus-per-worker is 0.5 and NCCL joins no two workers on one GPU; give 1, or 0 for none"),
        ("1-2", 0.5, None, "--gpus-per-worker is 0.5 and NCCL"),
    ],
)
def test_what_cannot_be_is_one_sentence(asked: str, gpus: float | None, restarts: int | None, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        placed(asked, gpus, restarts)


@pytest.mark.parametrize(
    ("nodes", "asked", "gpus", "each"),
    [
        ([{"CPU": 2.0}], "1", None, {"CPU": 2.0}),
        ([{"CPU": 2.0}], "2", None, {"CPU": 1.0}),
        ([{"CPU": 64.0}], "1", None, {"CPU": 16.0}),
        ([{"CPU": 8.0}] * 3, "4", None, {"CPU": 4.0}),  # two on one of the nodes
        ([{"CPU": 2.0}], "1-4", None, {"CPU": 1.0}),  # as many as there is room for
        ([NODE], "8", None, {"CPU": 12.0, "GPU": 1.0}),
        ([NODE] * 8, "64", None, {"CPU": 12.0, "GPU": 1.0}),
        ([NODE] * 2 + [{"CPU": 16.0}], "8-64", None, {"CPU": 12.0, "GPU": 1.0}),
        ([NODE], "1", 0.5, {"CPU": 16.0, "GPU": 0.5}),
        ([NODE], "4", 0.0, {"CPU": 16.0}),
    ],
)
def test_a_worker_has_its_share_of_a_node(
    nodes: list[dict[str, float]], asked: str, gpus: float | None, each: dict[str, float]
) -> None:
    assert each_of(nodes, placed(asked, gpus)) == each


def test_what_does_not_fit_is_refused_where_nothing_will_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"9 workers of 1 CPU and 1 GPU each do not fit here, .* 96 CPUs and 8 GPUs"):
        each_of([NODE], placed("9"))
    with pytest.raises(ConfigError, match="give --gpus-per-worker 0, or set RAY_ADDRESS"):
        each_of([{"CPU": 2.0}], placed("1", 1.0))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert each_of([NODE], placed("9")) == {"CPU": 1.0, "GPU": 1.0}


def test_a_cluster_without_a_gpu_is_asked_about_where_the_recipe_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cpus = [{"CPU": 16.0}] * 4
    assert each_of(cpus, placed("2"), "bf16") == {"CPU": 16.0}  # this machine has what it has
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(ConfigError, match=r"the cluster shows no GPU .* give --gpus-per-worker 1, or 0 if CPUs are"):
        each_of(cpus, placed("2"), "bf16")
    assert each_of(cpus, placed("2"), "float32") == each_of(cpus, placed("2", 0.0), "bf16") == {"CPU": 16.0}
    assert each_of(cpus, placed("2", 1.0), "bf16") == {"CPU": 1.0, "GPU": 1.0}  # it will grow
    assert each_of([*cpus, NODE], placed("2"), "bf16") == {"CPU": 16.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("asked", "shard_ranks", "sentence"),
    [
        ("0", 8, ""),
        ("64", 0, ""),
        ("64", 8, ""),
        ("4", 8, ""),  # all of them share one copy
        ("1-64", 1, ""),
        ("8-64", 0, ""),
        ("2-8", 8, ""),
        ("12", 8, "--workers 12 is 12 processes, which system.shard_ranks 8 does not divide"),
        ("8-64", 8, "--workers 8-64 may be 9 processes, which system.shard_ranks 8 does not divide; set it to 0"),
    ],
)
def test_shards_that_a_resized_group_could_not_have_are_refused(asked: str, shard_ranks: int, sentence: str) -> None:
    if not sentence:
        check_shards(placed(asked), shard_ranks)
        return
    with pytest.raises(ConfigError, match=sentence):
        check_shards(placed(asked), shard_ranks)
