"""Where a run is asked to train, and what each worker has of the cluster there. Knows no Ray: nodes are given to it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.errors import ConfigError

RESTARTS = 3  # of several workers, unless it is said
MAX_CPUS = 16  # a worker's: more threads than that do not help to decode images


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a run goes. most: workers in Ray, 0 for this process; from `least` on it begins.

    gpus: of each worker; None: 1 if the cluster has some. restarts: after crashes, at most. torchrun: this is one of
    the processes that it started.
    """

    least: int = 0
    most: int = 0
    gpus: float | None = None
    restarts: int = 0
    torchrun: bool = False


def placed(workers: str | int = "", gpus: float | None = None, restarts: int | None = None) -> Place:
    """The place that is asked for. workers: "0" for this process, "N" or "MIN-MAX" workers in Ray, "" decides: one
    worker if RAY_ADDRESS is set, this process if not. ConfigError for what cannot be.
    """
    world = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if not world.isdecimal():
        raise ConfigError(f"WORLD_SIZE is {world!r} in the environment and no number of processes; unset it")
    torchrun = int(world) > 1 or "TORCHELASTIC_RUN_ID" in os.environ
    text = str(workers).strip() or str(int(bool(os.environ.get("RAY_ADDRESS")) and not torchrun))
    words = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text)
    least, most = (int(words[1]), int(words[2] or words[1])) if words else (1, 0)
    if least > most or (least == 0 and most):
        raise ConfigError(f"--workers is {text}; give 0 for this process, N workers in Ray, or MIN-MAX from 1 on")
    if torchrun and most:
        raise ConfigError(f"torchrun starts the processes already; leave out --workers {text}, or torchrun")
    if not most and (gpus is not None or restarts is not None):
        which = "--gpus-per-worker" if gpus is not None else "--restarts"
        raise ConfigError(f"{which} is of workers in Ray; give --workers N too, or leave it out")
    if gpus is not None and not 0 <= gpus <= 1:
        raise ConfigError(
            f"--gpus-per-worker is {gpus:g} and a worker computes on one; give 1, a part of it, or 0 for none, and as "
            "many --workers as there are GPUs"
        )
    if gpus is not None and most > 1 and 0 < gpus < 1:
        raise ConfigError(
            f"--gpus-per-worker is {gpus:g} and NCCL joins no two workers on one GPU; give 1, or 0 for none, or "
            "--workers 1"
        )
    if restarts is not None and restarts < 0:
        raise ConfigError(f"--restarts is {restarts}; give how often a crash may be restarted, 0 for never")
    usual = RESTARTS if most > 1 else 0
    return Place(least=least, most=most, gpus=gpus, restarts=usual if restarts is None else restarts, torchrun=torchrun)


def check_shards(place: Place, shard_ranks: int) -> None:
    """ConfigError if `system.shard_ranks` does not divide a number of workers that there may be, now or later."""
    odd = [size for size in range(place.least, place.most + 1) if size > shard_ranks and size % (shard_ranks or 1)]
    if odd:
        asked = f"{place.least}-{place.most} may be" if place.least < place.most else f"{place.most} is"
        raise ConfigError(
            f"--workers {asked} {odd[0]} processes, which system.shard_ranks {shard_ranks} does not divide; set it to "
            "0 for those of one node, or give --workers N that it divides"
        )


def each_of(nodes: Sequence[Mapping[str, float]], place: Place, precision: str = "float32") -> dict[str, float]:
    """The resources of a worker: as many CPUs as each can have, as Ray gives it so many threads; ConfigError if they
    do not fit and the cluster is this machine, which will not grow, or if it is not clear whether bf16 is for CPUs.
    """
    unsaid = place.gpus is None and precision == "bf16" and os.environ.get("RAY_ADDRESS")
    if unsaid and not any(node.get("GPU", 0) for node in nodes):
        raise ConfigError(
            "the cluster shows no GPU and the recipe computes in bf16; give --gpus-per-worker 1, or 0 if CPUs are meant"
        )
    gpus = float(any(node.get("GPU", 0) >= 1 for node in nodes)) if place.gpus is None else place.gpus

    def room(cpus: int) -> int:
        fits = (min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else 1e9) for node in nodes)
        return int(sum(fits))

    wanted = max(place.least, min(place.most, room(1)))
    cpus = next((cpus for cpus in range(MAX_CPUS, 0, -1) if room(cpus) >= wanted), 0)
    found = {"CPU": float(cpus or 1), **({"GPU": gpus} if gpus else {})}
    if not cpus and not os.environ.get("RAY_ADDRESS"):
        has = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
        fewer = f"--workers {room(1)}" if room(1) else "--gpus-per-worker 0"
        raise ConfigError(
            f"{worded(place)} of {amounts(found)} each do not fit here, where there are {amounts(has)}; give "
            f"{fewer}, or set RAY_ADDRESS to a cluster"
        )
    return found


def worded(place: Place) -> str:
    if place.least < place.most:
        return f"{place.least} to {place.most} workers"
    return f"{place.most} worker{'s' if place.most > 1 else ''}"


def amounts(resources: Mapping[str, float]) -> str:
    found = ((resources.get(kind, 0), kind) for kind in ("CPU", "GPU"))
    return " and ".join(f"{amount:g} {kind}{'s' if amount != 1 else ''}" for amount, kind in found if amount) or "none"
