"""The processes that train one model: which one this is, on which device, and the few sums that they share.

One process without a process group is a world of one; everything here works there and costs nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from engine.errors import ConfigError

# What torchrun tells each process that it starts; Ray Train tells the same.
TOLD = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# How long a process waits for another that hangs or died unseen; one that compiles, or reads its first shards from a
# slow store, needs minutes.
TIMEOUT = timedelta(minutes=15)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """rank of `size` processes; local_size: those of this node (for HSDP). device: where this one computes."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the process that reports and commits."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """All of them, None for a world of one."""
        return dist.group.WORLD if self.size > 1 else None

    def sum(self, values: list[int]) -> list[int]:
        """Element by element over all processes, as int64."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.int64, device=self.device)
        dist.all_reduce(total)
        found: list[int] = total.tolist()
        return found

    def sum_floats(self, values: list[float]) -> list[float]:
        """Element by element over all processes, each sum rounded once: the same whatever the order of processes."""
        return [math.fsum(column) for column in zip(*self.gather(values), strict=True)]

    def gather(self, values: list[float]) -> list[list[float]]:
        """The values of each process, by rank, as float64."""
        if self.size == 1:
            return [values]
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine)
        found: list[list[float]] = torch.stack(every).tolist()  # one wait for the device
        return found

    def say(self, text: str | None) -> str | None:
        """What the first process says, in all of them."""
        if self.size == 1:
            return text
        said = [text]
        dist.broadcast_object_list(said, src=0, device=self.device)
        return said[0]


@contextlib.contextmanager
def opened(precision: str) -> Iterator[World]:
    """Find this process's place: in the group that Ray Train made, in torchrun's, or alone.

    Groups that are made here end here. Alone in bf16 has a group of one, as FSDP keeps the float32 master weights.
    Raises ConfigError where torchrun's environment is half set or its other processes cannot be reached.
    """
    if dist.is_initialized():
        yield _place("cuda:nccl" in dist.get_backend_config())
        return
    size = _number("WORLD_SIZE", 1)
    if size == 1 and precision == "float32":
        yield World(device=_device(torch.cuda.is_available()))
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if size == 1:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=TIMEOUT)
    else:
        _join(backend, size)
    try:
        yield _place(torch.cuda.is_available())
    finally:
        dist.destroy_process_group()


def _join(backend: str, size: int) -> None:
    missing = [name for name in TOLD if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {size} and {' and '.join(missing)} not set: this process is to be one of {size} and is not "
            f"told which; start all by `torchrun --nproc-per-node {size} -m engine.cli train ...`, or unset WORLD_SIZE"
        )
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        _number(name, 0)
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (dist.DistError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the {size} processes of WORLD_SIZE do not meet at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({reason}); start all by one torchrun, or on every node with the same "
            "--nnodes and --rdzv-endpoint HOST:PORT"
        ) from None


def _place(on_gpu: bool) -> World:
    size = dist.get_world_size()
    return World(
        rank=dist.get_rank(),
        size=size,
        local_size=_number("LOCAL_WORLD_SIZE", size),
        device=_device(on_gpu and torch.cuda.is_available()),
    )


def _device(on_gpu: bool) -> torch.device:
    """This process's device, which is then the current one, as collectives want it."""
    if not on_gpu:
        return torch.device("cpu")
    # Ray Train says it by this name; its local rank is no index where a worker sees its own device alone
    said = os.environ.get("ACCELERATE_TORCH_DEVICE", "")
    device = torch.device(said if said.startswith("cuda:") else f"cuda:{_number('LOCAL_RANK', 0)}")
    torch.cuda.set_device(device)
    return device


def _number(name: str, default: int) -> int:
    """A number of the environment; ConfigError if it is none."""
    text = os.environ.get(name, "")
    if not text.isdecimal() and text:
        raise ConfigError(f"{name} is {text!r}, which is no number; start by `torchrun`, or unset it")
    return int(text or default)
