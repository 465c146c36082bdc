"""Whether a model fits: said in one sentence before it is built, not by the kernel, which kills without one.

Training in float32 with AdamW holds 16 bytes a parameter: weight, gradient and two moments. KOSMOS-1's 1,662,375,936
parameters take 24.8 GiB before the first activation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from engine.errors import ConfigError
from trainer.config import Config
from trainer.model import Kosmos, num_parameters

TRAINED_BYTES, BUILT_BYTES = 16, 4  # a parameter's: where it trains, and where it is only made
SHORT = ("can't allocate memory", "Storage size calculation overflowed")  # of the CPU's, whose fault has no type
MEMINFO = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_fits(config: Config, device: torch.device) -> None:
    """ConfigError if the weights, gradients and moments of the model are larger than the memory that is free."""
    with torch.device("meta"):
        num = num_parameters(Kosmos(config.model))
    wanted = num * (BUILT_BYTES if device.type == "cuda" else TRAINED_BYTES)
    free = available_bytes()
    place = "this machine"
    if device.type == "cuda" and (free is None or wanted <= free):
        wanted, free, place = num * TRAINED_BYTES, torch.cuda.mem_get_info(device)[0], "its GPU"
    if free is not None and wanted > free:
        raise ConfigError(
            f"{config.name} has {num:,} parameters, which take {wanted / 2**30:.1f} GiB, and {place} has "
            f"{free / 2**30:.1f} GiB of memory left; train the recipe tiny, make the model smaller with --set "
            "model.layers=N, or take a larger machine"
        )


def available_bytes(meminfo: Path = MEMINFO, limits: tuple[Path, ...] = LIMITS) -> int | None:
    """Memory that can still be had: the machine's, at most a container's limit; None where neither is told."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in lines:
            found.append(int(lines["MemAvailable"].split()[0]) << 10)
    for limit in limits:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            found.append(int(limit.read_text()))
    return min(found, default=None)


@contextlib.contextmanager
def told_when_short() -> Iterator[None]:
    """Turn an allocator's fault, whichever of its kinds, into a ConfigError; what else fails is passed on."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(s in str(error) for s in SHORT):
            raise
        raise ConfigError(
            f"there is not enough memory ({first}); make the model smaller with --set model.layers=N, or what it sees "
            "at once with --set data.micro_batch.caption=N, .text and .interleaved too, and run the command again"
        ) from None
