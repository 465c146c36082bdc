"""Whether a model fits: said in one sentence before it is built, not by the kernel, which kills without one.

Training with AdamW holds 16 bytes of each parameter that trains, float32: weight, gradient and two moments, shared by
the processes of a shard group. Beside its share each process has gradients that are not yet summed, whole, and gathered
weights: KOSMOS-1 takes 12.4 GiB of each of 8 GPUs in bf16, and 34.1 GiB of a single one, before the first activation.
A checkpoint is written from a copy in the machine's memory, 12 bytes of each parameter of a process's share.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from engine.errors import ConfigError
from trainer.checkpoints.sharded import Gone
from trainer.config import Config
from trainer.model import Kosmos, num_parameters

# of a parameter: with gradient and moments; its copy for a checkpoint, without the gradient; in float32; in bf16
TRAINED_BYTES, STAGED_BYTES, WHOLE_BYTES, HALF_BYTES = 16, 12, 4, 2
SHORT = (  # faults that have no type of their own: of the CPU's allocator, and of CUDA's libraries
    "can't allocate memory",
    "Storage size calculation overflowed",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)
GPU_SHORT = ("CUDA", "CUBLAS")
MEMINFO = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_fits(config: Config, device: torch.device, ranks: int = 1, local: int = 0) -> None:
    """ConfigError if what training holds of the model, and the copy for checkpoints, are more than the memory left.

    ranks: processes that train it; local: those on this machine, 0 if all are. config.model.freeze_tower: "yes" counts
    the tower as frozen.
    """
    local = local or ranks
    with torch.device("meta"):
        model = Kosmos(config.model)
    if config.model.freeze_tower == "yes":
        model.freeze_tower()
    num = num_parameters(model)
    here = f"this machine, with {local} processes," if local > 1 else "this machine"
    held, staged = held_bytes(config, model, ranks, local), staged_bytes(config, model, ranks, local) * local
    if device.type == "cuda":
        # each process makes the whole model before it goes to its GPU; checkpoints come later
        _check(config, num, max(num * WHOLE_BYTES * local, staged), available_bytes(), here)
        _check(config, num, held, torch.cuda.mem_get_info(device)[0], "its GPU")
    else:
        _check(config, num, held * local + staged, available_bytes(), here)


def held_bytes(config: Config, model: Kosmos, ranks: int, local: int) -> int:
    """What one of `ranks` processes holds of a model, `local` of them on a node: weights, gradients and moments."""
    system = config.system
    frozen = sum(parameter.numel() for parameter in model.frozen_parameters())
    trained = num_parameters(model) - frozen
    width = HALF_BYTES if system.precision == "bf16" else WHOLE_BYTES
    if ranks == 1 and system.precision == "float32":
        return trained * TRAINED_BYTES + frozen * width
    shard = _sharing(config, ranks, local)
    gathered = 0 if system.reshard else width
    return trained * TRAINED_BYTES // shard + trained * (WHOLE_BYTES + gathered) + frozen * width


def staged_bytes(config: Config, model: Kosmos, ranks: int, local: int) -> int:
    """What one of them holds in the machine's memory beside, to write checkpoints from: weights and moments."""
    trained = num_parameters(model) - sum(parameter.numel() for parameter in model.frozen_parameters())
    return trained * STAGED_BYTES // _sharing(config, ranks, local)


def _sharing(config: Config, ranks: int, local: int) -> int:
    """Processes that share a parameter."""
    return min(ranks, config.system.shard_ranks or local)


def _check(config: Config, num: int, wanted: int, free: int | None, place: str) -> None:
    if free is None or wanted <= free:
        return
    advice = "train the recipe tiny, make the model smaller with --set model.layers=N, or take a larger machine"
    if place == "its GPU":
        advice = (
            "share it between more GPUs with --workers N, give --set system.reshard=true, or make the model smaller "
            "with --set model.layers=N"
        )
    copied = "" if place == "its GPU" else " with the copy that checkpoints are written from"
    raise ConfigError(
        f"{config.name} has {num:,} parameters, which take {wanted / 2**30:.1f} GiB{copied}, and {place} has "
        f"{free / 2**30:.1f} GiB of memory left; {advice}"
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
    except Gone:  # what another process lacks is said there
        raise
    except (MemoryError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(s in str(error) for s in SHORT):
            raise
        if isinstance(error, torch.OutOfMemoryError) or any(word in first for word in GPU_SHORT):
            raise ConfigError(
                f"the GPU has not enough memory ({first}); lower --set data.micro_batch.caption=N, .text and "
                ".interleaved, or give --set system.checkpoint_activations=true or system.reshard=true, or more GPUs "
                "with --workers N, and run the command again"
            ) from None
        raise ConfigError(
            f"there is not enough memory ({first}); make the model smaller with --set model.layers=N, or what it sees "
            "at once with --set data.micro_batch.caption=N, .text and .interleaved too, and run the command again"
        ) from None
