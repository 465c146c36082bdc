"""The training loop of one process of a world: micro-batches in, an AdamW step an update, metrics out.

The loss of an update is the mean over all tokens that count in all its micro-batches on all processes (kosmos1.md 2):
each backward is of a sum divided by that one number, so how rows are cut does not matter. Gradients are summed over
processes once, in the last backward. Dropout is seeded by (seed, update, stream, micro-batch, rank), never by what ran
before: a resumed run is the undisturbed one, bit for bit. Of the heavy, this imports torch alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from engine.errors import BudgetExceeded
from engine.vocab import PAD, STREAMS
from trainer import parallel
from trainer.batch import MicroBatch, Update
from trainer.config import Config, OptimConfig
from trainer.flops import flops, peak
from trainer.metrics import Counts, Metrics, counted, memory_gib
from trainer.world import World

__all__ = ["EMPTY", "NOT_FINITE", "Metrics", "Result", "adamw", "seeded", "train"]

EMPTY, NOT_FINITE = "empty", "not finite"  # why an update made no step
MOST_WITHOUT_STEP = 20  # updates in a row; fewer come and go, as a batch of bad images or one overflow does


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Where a call of `train` came to. first, last: metrics of its first and last update, None if it ran none.

    interrupted: it was asked to stop before the update that it was to reach; update: the last one that is done.
    """

    update: int
    first: Metrics | None = None
    last: Metrics | None = None
    interrupted: bool = False


@contextlib.contextmanager
def seeded(device: torch.device, *values: int | str) -> Iterator[None]:
    """Draw random numbers from a state that depends on these values alone; leave the process's own as it was."""
    seed = int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:8], "little") >> 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW on all parameters that train, fused. By default all decay, biases and norms included, as fairseq's Adam
    excludes none (kosmos1.md 4); decay="matrices" leaves out what has fewer than two dimensions."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": parameters, "weight_decay": config.weight_decay}]
    if config.decay == "matrices":
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        others = [parameter for parameter in parameters if parameter.ndim < 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    beta1, beta2 = config.betas
    return torch.optim.AdamW(groups, lr=config.lr, betas=(beta1, beta2), eps=config.eps, fused=fused or None)


def train(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    updates: Iterator[Update],
    start: int,
    last: int,
    checkpoint: Callable[[int, Sequence[Metrics]], None],
    report: Callable[[Metrics], None],
    preempted: Callable[[], bool],
    world: World | None = None,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    every_s: float = math.inf,
) -> Result:
    """Run the updates start + 1 .. last; `updates` must give just these, in order (else ValueError).

    model: its call gives the sum of the NLL over a micro-batch's counted tokens; `parallel.spread` it for a world of
    several. `updates` is this process's share. checkpoint: called in all processes with the number of an update and the
    metrics since the one before, every `checkpoint_every` updates, at `last`, and when `preempted` says so in any
    process, after which all end at the same update. report: called in the first only. evaluate: called in all, every
    `heldout.every` updates and at `last`; gives the losses on what is held out. every_s: seconds after which a
    checkpoint is due whatever the number of updates, by the first process's clock.

    No checkpoint is written while updates make no step, and 20 such in a row, or a run that ends on several which are
    not finite, raise BudgetExceeded: what lies behind the last step is no progress. Raises ConfigError if a block
    cannot be compiled.
    """
    world = world or World()
    if world.size > 1 and not isinstance(model, FSDPModule):
        raise ValueError(f"a world of {world.size} trains one model: call parallel.spread on it before")
    model.train()
    without_step = 0
    due = False
    since: list[Metrics] = []
    first: Metrics | None = None
    done: Metrics | None = None
    saved = time.monotonic()
    for number in range(start + 1, last + 1):
        wish = preempted()
        began = time.perf_counter()
        update = next(updates, None)
        if update is None or update.number != number:
            raise ValueError(f"the batch of update {number} is due; got {update.number if update else 'none'}")
        counts = counted(update, wish, world, world.first and time.monotonic() - saved >= every_s)
        if counts.wishes:
            # the weights are those of the last step: with its number, the updates behind it run again
            stepped = number - 1 - without_step
            kept = since[: len(since) - without_step]
            if kept:
                checkpoint(stepped, kept)
            return Result(update=stepped, first=first, last=kept[-1] if kept else None, interrupted=True)
        with parallel.told_when_not_compiled(config.system):
            done = _update(config, model, optimizer, update, counts, began, world)
            if evaluate is not None and (number == last or number % config.heldout.every == 0):
                done = _looked(done, model, evaluate)
        first = first or done
        since.append(done)
        if world.first:
            report(done)
        without_step = without_step + 1 if done.skipped else 0
        _check_steps(config, done, without_step, number == last)
        due = due or counts.due or number % config.checkpoint_every == 0
        if number == last or (due and not without_step):
            checkpoint(number, since)
            since, due, saved = [], False, time.monotonic()
    return Result(update=max(start, last), first=first, last=done)


def _check_steps(config: Config, done: Metrics, without_step: int, is_last: bool) -> None:
    ends_badly = is_last and without_step > 1 and done.skipped == NOT_FINITE
    if without_step < MOST_WITHOUT_STEP and not ends_badly:
        return
    which = f"updates {done.update - without_step + 1} to {done.update} made no step"
    if done.skipped == EMPTY:
        raise BudgetExceeded(
            f"{which}: nothing counts in their loss, {done.bad_images} of the {done.images} images of the last are "
            "bad; see with `kosmos verify` whether the shards are whole, and pack again, or raise data.quotas"
        )
    raise BudgetExceeded(
        f"{which}: their gradients are not finite, the run has diverged; no checkpoint of them was written, the ones "
        f"before stay; train into a new folder with --out and a lower --set optim.lr={config.optim.lr / 4:g}"
    )


def _update(
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    update: Update,
    counts: Counts,
    began: float,
    world: World,
) -> Metrics:
    waited_s = time.perf_counter() - began  # the counts came when the slowest process had its batch
    compiled = parallel.compilations()
    lr = config.optim.lr_at(update.number)
    sums: dict[str, list[torch.Tensor]] = {}
    norm = math.nan
    if counts.counted:
        optimizer.zero_grad(set_to_none=True)
        # text first: the last has images if any has, and then all groups of parameters take part in it
        batches = sorted(update.micro_batches, key=lambda batch: STREAMS.index(batch.stream))
        for place, (index, batch) in enumerate(_indexed(batches)):
            if place in (0, len(batches) - 1):
                parallel.gather_gradients(model, place == len(batches) - 1, config.system.reshard)
            nll_sum = _backward(config.seed, model, update.number, index, batch, counts.counted, world)
            sums.setdefault(batch.stream, []).append(nll_sum)
        norm = _step(optimizer, lr, config.optim.clip_norm)
    most = peak(world.device)
    own = [math.fsum(torch.stack(sums[stream]).tolist()) if stream in sums else 0.0 for stream in STREAMS]
    own += [_flops(config, update) if most else 0.0, memory_gib(world.device), parallel.compilations() - compiled]
    *nll_sums, used, memory, recompiles = zip(*world.gather(own), strict=True)
    losses = dict(zip(STREAMS, map(math.fsum, nll_sums), strict=True))
    seconds = time.perf_counter() - began
    return Metrics(
        update=update.number,
        loss=sum(losses.values()) / counts.counted if counts.counted else math.nan,
        losses={stream: losses[stream] / num for stream, num in counts.targets.items() if num},
        lr=lr,
        grad_norm=norm,
        counted=counts.counted,
        positions=counts.positions,
        images=counts.images,
        bad_images=counts.bad_images,
        skipped=EMPTY if not counts.counted else "" if math.isfinite(norm) else NOT_FINITE,
        seconds=seconds,
        waited_s=waited_s,
        tokens_per_s=counts.positions / seconds,
        images_per_s=counts.images / seconds,
        padding=1 - counts.positions / counts.laid_out if counts.laid_out else 0.0,
        mfu=math.fsum(used) / (most * world.size * seconds) if most else None,
        memory_gib=max(memory),
        recompiles=int(max(recompiles)),
    )


def _flops(config: Config, update: Update) -> float:
    """What this process's share of an update needs."""
    batches = update.micro_batches
    return flops(
        config.model,
        config.model.freeze_tower == "yes",
        [length for batch in batches for length in (batch.tokens_BT != PAD).sum(1).tolist()],
        update.counted,
        sum(len(batch.slots_N2) for batch in batches),
    )


def _looked(done: Metrics, model: nn.Module, evaluate: Callable[[int], dict[str, float]]) -> Metrics:
    began = time.perf_counter()
    losses = evaluate(done.update)
    parallel.settle(model)
    return dataclasses.replace(done, heldout=losses, heldout_s=time.perf_counter() - began)


def _indexed(batches: Sequence[MicroBatch]) -> Iterator[tuple[int, MicroBatch]]:
    # counted within the stream: more micro-batches of one stream leave the dropout of another as it was
    before: dict[str, int] = {}
    for batch in batches:
        yield before.get(batch.stream, 0), batch
        before[batch.stream] = before.get(batch.stream, 0) + 1


def _backward(
    seed: int, model: nn.Module, number: int, index: int, batch: MicroBatch, num_counted: int, world: World
) -> torch.Tensor:
    tensors = (batch.tokens_BT, batch.counted_BT, batch.pixels_NCHW, batch.slots_N2)
    stream = STREAMS.index(batch.stream)
    with seeded(world.device, "dropout", seed, number, stream, index, world.rank):
        nll_sum: torch.Tensor = model(*(tensor.to(world.device, non_blocking=True) for tensor in tensors))
        # FSDP averages over processes: times their number it sums
        loss = nll_sum / num_counted if world.size == 1 else nll_sum * (world.size / num_counted)
        loss.backward()  # type: ignore[no-untyped-call]
    return nll_sum.detach()


def _step(optimizer: torch.optim.Optimizer, lr: float, clip_norm: float) -> float:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            # the tower, in an update without images: decayed and counted all the same, as it would be beside a stream
            # that has images
            parameter.grad = torch.zeros_like(parameter)
    total = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if isinstance(total, DTensor):
        total = total.full_tensor()  # over all processes: every one of them steps, or none
    nn.utils.clip_grads_with_norm_(parameters, clip_norm, total)
    norm = float(total)
    if math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
