"""What an update did, over all processes, and the counts that all of them agree on before it."""

from __future__ import annotations

import dataclasses
import math
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine.vocab import PAD, STREAMS
from trainer.batch import Update
from trainer.world import World

STATM = Path("/proc/self/statm")  # of Linux; its second number is the pages of memory in use


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What one update did. loss: mean over the tokens that count, NaN if none do; losses: the same of each stream.

    grad_norm: before clipping. positions: of the batch without padding, and padding the share of all that is; images:
    without blank ones. seconds: of the whole update, optimiser included, in which it stood still for waited_s until the
    slowest process had its batch; tokens_per_s, images_per_s: positions and images a second of it. skipped: why no step
    was made, "" if one was.

    mfu: the share of the devices' bf16 peak that real positions used (`trainer.flops`), None where no peak is known.
    memory_gib: most that one process had allocated on its GPU in this update, or has in memory on a CPU. recompiles:
    graphs compiled in this update. heldout: losses on what is held out, {} in an update that did not look; heldout_s:
    what the look took, after `seconds`.
    """

    update: int
    loss: float
    losses: dict[str, float]
    lr: float
    grad_norm: float
    counted: int
    positions: int
    images: int
    bad_images: int
    skipped: str
    seconds: float
    waited_s: float
    tokens_per_s: float
    images_per_s: float = 0.0
    padding: float = 0.0
    mfu: float | None = None
    memory_gib: float = 0.0
    recompiles: int = 0
    heldout: dict[str, float] = field(default_factory=dict)
    heldout_s: float = 0.0

    def plain(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: null there."""

        def finite(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: finite(inner) for name, inner in value.items()}
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {name: finite(value) for name, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What an update holds over all processes. targets: tokens that count, of each stream; laid_out: positions with
    padding; wishes: processes that are asked to stop before it; due: whether a checkpoint is wanted after it."""

    targets: dict[str, int]
    positions: int
    laid_out: int
    images: int
    bad_images: int
    wishes: int
    due: bool = False

    @property
    def counted(self) -> int:
        """Tokens that count, over all streams."""
        return sum(self.targets.values())


def counted(update: Update, wish: bool, world: World, due: bool = False) -> Counts:
    """Count an update in all processes by one sum of integers, whose result is the same in each.

    wish: whether this process is asked to stop; due: whether it wants a checkpoint.
    """
    batches = update.micro_batches
    *targets, positions, laid_out, images, bad_images, wishes, dues = world.sum(
        [
            *(sum(batch.counted for batch in batches if batch.stream == stream) for stream in STREAMS),
            sum(int((batch.tokens_BT != PAD).sum()) for batch in batches),
            sum(batch.tokens_BT.numel() for batch in batches),
            sum(len(batch.slots_N2) for batch in batches),
            sum(batch.bad_images for batch in batches),
            int(wish),
            int(due),
        ]
    )
    return Counts(
        targets=dict(zip(STREAMS, targets, strict=True)),
        positions=positions,
        laid_out=laid_out,
        images=images,
        bad_images=bad_images,
        wishes=wishes,
        due=dues > 0,
    )


def memory_gib(device: torch.device) -> float:
    """The most memory allocated on a GPU since it was asked last; on a CPU what the process has now."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most / 2**30
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * resource.getpagesize() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # macOS counts bytes, and the most so far
