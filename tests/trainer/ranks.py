"""Several processes with one gloo group between them, for tests: each runs a function and hands back what it returns.

They are forked from a server that has torch loaded, so a group of four costs a second instead of fifteen.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from trainer.world import World

LIMIT_S = 120
FORK = multiprocessing.get_context("forkserver")
LOADED = ("torch", "torch.distributed.fsdp", "torch.distributed.checkpoint", "torch._dynamo", "torch.profiler")
FORK.set_forkserver_preload([*LOADED, "tests.trainer.runs"])


def ranks(size: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """What `work(world, *given)` returns on each of `size` ranks. `work`: a function of a module, not of a test.

    AssertionError with the traceback of the first rank that failed; the others are ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes = [FORK.Pipe(duplex=False) for _ in range(size)]
        processes = [
            FORK.Process(target=_run, args=(rank, size, f"{folder}/store", pipes[rank][1], work, given), daemon=True)
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        for _, end in pipes:
            end.close()
        results: list[Any] = []
        try:
            for reader, _ in pipes:
                assert reader.poll(LIMIT_S), f"a rank said nothing for {LIMIT_S} s"
                failed, value = reader.recv()
                assert not failed, value
                results.append(value)
        finally:
            for process in processes:
                if len(results) < size:
                    process.kill()
                process.join(LIMIT_S)
    return results


def _run(rank: int, size: int, store: str, pipe: Any, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        shared = dist.FileStore(store, size)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=shared, rank=rank, world_size=size)
        try:
            result = work(World(rank=rank, size=size, local_size=size), *given)
        finally:
            dist.destroy_process_group()
        pipe.send((False, result))
    except BaseException:
        pipe.send((True, traceback.format_exc()))
