"""One process's training loop: micro-batches in, an AdamW step an update, metrics out. Of the heavy, it imports torch.

The loss of an update is the mean over all tokens that count in all its micro-batches (kosmos1.md 2): each backward is
of a sum divided by that one number, so how rows are cut into micro-batches does not matter. Dropout is seeded by
(seed, update, stream, micro-batch, rank), never by what ran before: a resumed run is the undisturbed one, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine.errors import BudgetExceeded
from engine.vocab import PAD, STREAMS
from trainer.batch import MicroBatch, Update
from trainer.config import Config, OptimConfig

EMPTY, NOT_FINITE = "empty", "not finite"  # why an update made no step
MOST_WITHOUT_STEP = 20  # updates in a row; fewer come and go, as a batch of bad images or one overflow does


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What one update did. loss: mean over the tokens that count, NaN if none do; losses: the same of each stream.

    grad_norm: before clipping. positions: of the batch without padding; tokens_per_s: positions a second of the whole
    update, of which it stood still for its batch for waited_s. skipped: why no step was made, "" if one was.
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

    def plain(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: null there."""

        def finite(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: finite(inner) for name, inner in value.items()}
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {name: finite(value) for name, value in dataclasses.asdict(self).items()}


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
    """AdamW on all parameters that train, biases and norms included: fairseq's Adam excludes none (kosmos1.md 4)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    beta1, beta2 = config.betas
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=(beta1, beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused or None,
    )


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
    rank: int = 0,
) -> Result:
    """Run the updates start + 1 .. last; `updates` must give just these, in order (else ValueError).

    model: its call gives the sum of the NLL over a micro-batch's counted tokens. checkpoint: called with the number of
    an update and the metrics since the one before, every `checkpoint_every` updates, at `last`, and when `preempted`
    says so, after which the loop ends. None is written while updates make no step, and 20 such in a row, or a run that
    ends on several which are not finite, raise BudgetExceeded: what lies behind the last step is no progress.
    """
    model.train()
    without_step = 0
    due = False
    since: list[Metrics] = []
    first: Metrics | None = None
    done: Metrics | None = None
    for number in range(start + 1, last + 1):
        if preempted():
            # the weights are those of the last step: with its number, the updates behind it run again
            stepped = number - 1 - without_step
            kept = since[: len(since) - without_step]
            if kept:
                checkpoint(stepped, kept)
            return Result(update=stepped, first=first, last=kept[-1] if kept else None, interrupted=True)
        began = time.perf_counter()
        update = next(updates, None)
        if update is None or update.number != number:
            raise ValueError(f"the batch of update {number} is due; got {update.number if update else 'none'}")
        done = _update(config, model, optimizer, update, began, rank)
        first = first or done
        since.append(done)
        report(done)
        without_step = without_step + 1 if done.skipped else 0
        _check_steps(config, done, without_step, number == last)
        due = due or number % config.checkpoint_every == 0
        if number == last or (due and not without_step):
            checkpoint(number, since)
            since, due = [], False
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
    config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, update: Update, began: float, rank: int
) -> Metrics:
    waited_s = time.perf_counter() - began
    counted = update.counted  # of the whole update, before the first backward
    lr = config.optim.lr_at(update.number)
    sums: dict[str, list[torch.Tensor]] = {}
    norm = math.nan
    if counted:
        optimizer.zero_grad(set_to_none=True)
        for index, batch in _indexed(update.micro_batches):
            nll_sum = _backward(config.seed, model, update.number, index, batch, counted, rank)
            sums.setdefault(batch.stream, []).append(nll_sum)
        norm = _step(model, optimizer, lr, config.optim.clip_norm)
    losses = {stream: math.fsum(torch.stack(nll_sums).tolist()) for stream, nll_sums in sums.items()}
    targets = {stream: sum(b.counted for b in update.micro_batches if b.stream == stream) for stream in losses}
    positions = sum(int((batch.tokens_BT != PAD).sum()) for batch in update.micro_batches)
    seconds = time.perf_counter() - began
    return Metrics(
        update=update.number,
        loss=sum(losses.values()) / counted if counted else math.nan,
        losses={stream: losses[stream] / targets[stream] for stream in losses if targets[stream]},
        lr=lr,
        grad_norm=norm,
        counted=counted,
        positions=positions,
        images=sum(len(batch.slots_N2) for batch in update.micro_batches),
        bad_images=sum(batch.bad_images for batch in update.micro_batches),
        skipped=EMPTY if not counted else "" if math.isfinite(norm) else NOT_FINITE,
        seconds=seconds,
        waited_s=waited_s,
        tokens_per_s=positions / seconds,
    )


def _indexed(batches: Sequence[MicroBatch]) -> Iterator[tuple[int, MicroBatch]]:
    # counted within the stream: more micro-batches of one stream leave the dropout of another as it was
    before: dict[str, int] = {}
    for batch in batches:
        yield before.get(batch.stream, 0), batch
        before[batch.stream] = before.get(batch.stream, 0) + 1


def _backward(
    seed: int, model: nn.Module, number: int, index: int, batch: MicroBatch, counted: int, rank: int
) -> torch.Tensor:
    device = next(model.parameters()).device
    tensors = (batch.tokens_BT, batch.counted_BT, batch.pixels_NCHW, batch.slots_N2)
    stream = STREAMS.index(batch.stream)
    with seeded(device, "dropout", seed, number, stream, index, rank):
        nll_sum: torch.Tensor = model(*(tensor.to(device, non_blocking=True) for tensor in tensors))
        (nll_sum / counted).backward()  # type: ignore[no-untyped-call]
    return nll_sum.detach()


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, lr: float, clip_norm: float) -> float:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            # the tower, in an update without images: decayed and counted all the same, as it would be beside a rank
            # that has images
            parameter.grad = torch.zeros_like(parameter)
    norm = float(nn.utils.clip_grad_norm_(parameters, clip_norm))
    if math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
