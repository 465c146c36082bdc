"""What the processes of a world share."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from engine.errors import ConfigError
from tests.trainer.ranks import ranks
from trainer import world as worlds
from trainer.world import World, opened


def sums(world: World) -> tuple[list[int], list[float], str | None]:
    mine = f"from {world.rank}" if world.first else None
    return world.sum([world.rank, 1 << 60]), world.sum_floats([0.5]), world.say(mine)


def fail(world: World) -> None:
    if world.rank == 1:
        raise ValueError("rank 1 is the one")
    world.sum([1])


def test_sums_and_words_are_the_same_on_every_rank() -> None:
    assert ranks(3, sums) == [([3, 3 << 60], [1.5], "from 0")] * 3


def test_a_world_of_one_needs_no_group() -> None:
    assert sums(World()) == ([0, 1 << 60], [0.5], "from 0")


def test_a_rank_that_fails_is_told() -> None:
    with pytest.raises(AssertionError, match="rank"):
        ranks(2, fail)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What torchrun tells a process that is one of two; nothing else of that kind is set."""
    for name in (*worlds.TOLD, "ACCELERATE_TORCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    yield environment(1, 2, 9)
    assert not dist.is_initialized()


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    words = (size, rank, rank, size, "127.0.0.1", port)
    return dict(zip(worlds.TOLD, map(str, words), strict=True))


def by_torchrun(world: World, port: int) -> tuple[int, int, int, list[int]]:
    """As one of torchrun's processes: the group of the tests makes way, and comes back."""
    dist.destroy_process_group()
    os.environ.update(environment(world.rank, world.size, port))
    with opened("float32") as found:
        answer = (found.rank, found.size, found.local_size, found.sum([1]))
    assert not dist.is_initialized()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    return answer


def test_torchruns_environment_makes_a_group_that_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert ranks(2, by_torchrun, port) == [(0, 2, 2, [2]), (1, 2, 2, [2])]


def test_alone_there_is_a_group_in_bf16_only(told: dict[str, str]) -> None:
    with opened("float32") as world:
        assert world == World(device=torch.device("cuda:0" if torch.cuda.is_available() else "cpu"))
        assert not dist.is_initialized()
    with opened("bf16") as world:
        assert (world.rank, world.size, world.local_size) == (0, 1, 1)
        assert dist.get_world_size() == 1
        with opened("bf16") as again:
            assert again == world
        assert dist.is_initialized()  # whoever made it ends it


def test_half_of_torchruns_environment_is_told(told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(ConfigError, match=r"WORLD_SIZE is 2 and LOCAL_RANK and .* not set.*; start all by `torchrun"),
        opened("float32"),
    ):
        pass


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
def test_words_for_numbers_are_told(told: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other, value in told.items():
        monkeypatch.setenv(other, "two" if other == name else value)
    with pytest.raises(ConfigError, match=f"{name} is 'two', which is no number; start by"), opened("float32"):
        pass


def test_others_that_never_come_are_told(told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "TIMEOUT", timedelta(seconds=1))
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConfigError, match=r"the 2 processes of WORLD_SIZE do not meet at 127\.0\.0\.1:9 \(.*--rdzv"),
        opened("float32"),
    ):
        pass
