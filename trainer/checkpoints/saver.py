"""Checkpoints while the training goes on: it stands still for a copy to the CPU, and a thread does the rest.

The thread has a process group of its own: what it says to other processes' must not come between the collectives of
the training. One save is under way at a time; what went wrong with it is raised, in every process, by the call of
`save` or `wait` that follows.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.checkpoints import sharded, state
from trainer.checkpoints.index import Part
from trainer.checkpoints.run import Run, folder_of
from trainer.world import World

LIMIT = datetime.timedelta(hours=1)  # for the slowest process's upload; one that is gone is noticed at once


class Saver:
    """Writes the checkpoints of a run. Made in all processes of a world at once, and closed in all: a `with` block.

    keep: complete checkpoints that stay.
    """

    def __init__(self, run: Run, world: World, keep: int) -> None:
        self.run, self.world, self.keep = run, world, keep
        group = dist.new_group(backend="gloo", timeout=LIMIT) if world.size > 1 else None
        self._writer = sharded.Writer(run.store, world.rank, group)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None
        self._staged: dict[str, torch.Tensor] = {}
        self._ready = False

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            # what has begun is ended even behind a fault: it is the newest checkpoint to go on from
            self._thread.shutdown()

    def ready(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Settle, in all processes, what each writes, and have the room for it: before hours of training, not after.

        StoreError if a disk for temporary files has too little. `save` does it where nobody did.
        """
        if self._ready:
            return
        tensors = state.held(model, optimizer)
        num_bytes = self._writer.plan(tensors)

        def make() -> None:
            # the processes of a node write at the same time, each about as much
            sharded.check_room(num_bytes * self.world.local_size)
            self._make(tensors)

        sharded.together(self._writer.group, make)
        self._ready = True

    def save(
        self,
        update: int,
        loss: float | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lines: Sequence[Mapping[str, Any]] = (),
        record: Callable[[], None] = lambda: None,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to write the checkpoint of an update, in all processes; it counts once `wait`, or the next, returns.

        loss: of the update, None if it had none. lines: its metrics and those of the updates since the checkpoint
        before. record, settle: called in the first process's thread, before anything is written, to write down what the
        run is; and once all files are there, right before the checkpoint counts. Raises what the save before failed of:
        StoreError where a store or a disk gave out (the one before stays), Gone where another process did.
        """
        self.wait()
        self.ready(model, optimizer)
        tensors = state.held(model, optimizer)
        steps = state.steps(optimizer)
        self._stage(tensors)

        def commit(index: Part) -> None:
            settle()
            self.run.commit(update, loss, steps, index, lines, self.keep)

        self._under_way = self._thread.submit(
            self._writer.write, folder_of(update), tensors, self._staged, record, commit
        )

    def wait(self) -> None:
        """Until nothing is under way; raises what the last save failed of."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _make(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The buffers to copy into, made once: on CUDA locked in memory, for a fast copy."""
        for name, tensor in tensors.items():
            own = sharded.local(tensor)
            self._staged[name] = torch.empty(own.shape, dtype=own.dtype, pin_memory=own.is_cuda)

    def _stage(self, tensors: Mapping[str, torch.Tensor]) -> None:
        on_gpu = False
        for name, tensor in tensors.items():
            own = sharded.local(tensor)
            self._staged[name].copy_(own, non_blocking=True)
            on_gpu = on_gpu or own.is_cuda
        if on_gpu:
            torch.cuda.synchronize()  # the next step writes over what is copied
