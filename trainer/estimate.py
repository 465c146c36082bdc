"""What a training would take, before it is begun: data, arithmetic, time, memory; `kosmos plan train` prints it.

Rows are counted in the manifests; how long they are is measured on a few hundred of each source, which is right to a
percent or two since pack has shuffled them. No model is built: its parameters are counted without their memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from engine.errors import ConfigError
from trainer.config import Config, TowerConfig
from trainer.data import order
from trainer.data.collate import LENGTHS
from trainer.data.order import RUN, Source, State, Stream
from trainer.data.rows import Sources, sources
from trainer.flops import flops, of_image, peak_of
from trainer.model import Kosmos, num_parameters

RUNS = 4  # of 64 rows that are read of each source
MFU = (0.4, 0.5)  # what a large model reaches on a well-kept cluster, and what this one is meant to
NODE = 8  # devices of a usual node: those that share a copy of the weights where system.shard_ranks is 0
LONG = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0), ("s", 1.0), ("ms", 1e-3))
LARGE = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6))


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Rows of a source that were read: tokens, counted targets and images of each, int64."""

    lengths: npt.NDArray[np.int64]
    counted: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """An update, all ranks together, on average. padded: positions with padding. image_flops: the part of `flops`."""

    positions: float = 0.0
    padded: float = 0.0
    counted: float = 0.0
    images: float = 0.0
    flops: float = 0.0
    image_flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            positions=self.positions + other.positions,
            padded=self.padded + other.padded,
            counted=self.counted + other.counted,
            images=self.images + other.images,
            flops=self.flops + other.flops,
            image_flops=self.image_flops + other.image_flops,
        )


def estimate(config: Config, digests: Sequence[str], store: str, ranks: int, device: str = "H100") -> list[str]:
    """The lines to print. ranks: devices, one a process. device: a name, or a part of one, that `flops.PEAKS` knows.

    Raises ConfigError for a device that is not known and for data that cannot be trained on, StoreError where the store
    cannot be read.
    """
    if ranks < 1:
        raise ConfigError(f"--workers is {ranks}; give the number of devices, 1 or more")
    most = peak_of(device)
    if most is None:
        raise ConfigError(f"--device {device} is not known; give H100, H200, B200, GH200, A100, L40S or MI300X")
    with sources(store, digests) as opened:
        state = order.start(opened.listing, digests, config.data)
        streams = state.pieces[-1].streams
        seen = {source.name: _read(opened, source) for stream in streams for source in stream.sources}
        size = opened.vocab.size
    warnings = [*_vocabulary(config, size), *_too_long(config, seen), *state.warnings]
    if not config.model.vocab_size:
        config = replace(config, model=replace(config.model, vocab_size=size))
    frozen = config.model.freeze_tower == "yes"
    cost = sum((_cost(config, frozen, stream, seen, ranks) for stream in streams), Cost())
    num, trained = _parameters(config, frozen)
    return [
        *_of_sources(config, state, seen),
        *_of_update(streams, cost),
        f"parameters: {num:,}, of which {trained:,} train",
        *_of_tower(config, cost),
        *_of_time(config, cost, ranks, device, most),
        *_of_memory(config, num, trained, ranks),
        f"a checkpoint: {_bytes(12 * trained)} (weights and two moments in float32), every {config.checkpoint_every:,} "
        f"updates; the last {config.keep} stay",
        *(f"warning: {text}" for text in warnings),
    ]


# the data -----------------------------------------------------------------------------------------------------------
def _read(opened: Sources, source: Source) -> Seen:
    """Some runs of rows, evenly over the source."""
    runs = math.ceil(source.rows / RUN)
    chosen = sorted({round(place) for place in np.linspace(0, runs - 1, min(RUNS, runs))})
    numbers = [row for run in chosen for row in range(run * RUN, min((run + 1) * RUN, source.rows))]
    read = [opened.read(source.name, number) for number in numbers]
    return Seen(
        lengths=np.array([len(row.tokens) for row in read], np.int64),
        counted=np.array([int((row.loss[:, 1] - row.loss[:, 0]).sum()) for row in read], np.int64),
        images=np.array([len(row.images) for row in read], np.int64),
    )


def _shares(stream: Stream) -> list[float]:
    """The share of each source in the stream's draws."""
    counts = order.cycle_counts(stream.weights)
    return [num / sum(counts) for num in counts]


def _cost(config: Config, frozen: bool, stream: Stream, seen: dict[str, Seen], ranks: int) -> Cost:
    """What a stream adds to an update."""
    found = Cost(padded=_padded(config, stream, seen, ranks))
    for source, share in zip(stream.sources, _shares(stream), strict=True):
        rows = seen[source.name]
        each = stream.quota * share / len(rows.lengths)  # draws for one row that was read
        lengths, counted = rows.lengths.tolist(), int(rows.counted.sum())
        images = int(rows.images.sum()) if config.model.images else 0
        found += Cost(
            positions=each * sum(lengths),
            counted=each * counted,
            images=each * images,
            flops=each * flops(config.model, frozen, lengths, counted, images),
            image_flops=each * images * of_image(config.model, frozen),
        )
    return found


def _padded(config: Config, stream: Stream, seen: dict[str, Seen], ranks: int) -> float:
    """Positions with padding of a stream in an update: a rank's share of typical rows, laid out as the loader does."""
    rows = config.data.micro_batch.of(stream.name)
    mine = order.num_micro_batches(stream.quota, ranks, rows) * rows
    lengths = np.concatenate([seen[source.name].lengths for source in stream.sources])
    weights = np.concatenate(
        [
            np.full(len(seen[source.name].lengths), share / len(seen[source.name].lengths))
            for source, share in zip(stream.sources, _shares(stream), strict=True)
        ]
    )
    by_length = np.argsort(lengths, kind="stable")
    reach = np.cumsum(weights[by_length])
    drawn = math.ceil(stream.quota / ranks)
    places = np.searchsorted(reach, (np.arange(drawn) + 0.5) / drawn * reach[-1])
    # rows that are all padding come behind the longest and are as long as their micro-batch
    typical = [*lengths[by_length][places].tolist(), *[0] * (mine - drawn)]
    longest = [max(typical[first : first + rows]) for first in range(0, mine, rows)]
    return float(ranks * rows * sum(_laid_out(config, stream.name, length) for length in longest))


def _laid_out(config: Config, stream: str, longest: int) -> int:
    most = config.model.max_length
    return next((length for length in LENGTHS[stream] if longest <= length <= most), most)


def _vocabulary(config: Config, size: int) -> list[str]:
    if config.model.vocab_size in (0, size):
        return []
    return [
        f"model.vocab_size is {config.model.vocab_size} and the manifests' tokenizer makes {size}: `kosmos train` "
        "refuses that; pack with the KOSMOS tokenizer (--set pack.tokenizer=FILE), or --set model.vocab_size="
        f"{size}"
    ]


def _too_long(config: Config, seen: dict[str, Seen]) -> list[str]:
    longest = max(int(rows.lengths.max()) for rows in seen.values())
    if longest <= config.model.max_length:
        return []
    return [
        f"there are rows of {longest} tokens and model.max_length is {config.model.max_length}: `kosmos train` refuses "
        f"that; raise it, or pack again with pack.max_length={config.model.max_length}"
    ]


# the model ----------------------------------------------------------------------------------------------------------
def _parameters(config: Config, frozen: bool) -> tuple[int, int]:
    """(all, those that train)"""
    with torch.device("meta"):
        model = Kosmos(config.model)
    if frozen:
        model.freeze_tower()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return num_parameters(model), trained


def _of_tower(config: Config, cost: Cost) -> list[str]:
    if config.model.freeze_tower != "auto" or not config.model.images or config.model.tower != TowerConfig():
        return []
    whole, kept = (of_image(config.model, frozen) for frozen in (False, True))
    _, trained = _parameters(config, frozen=True)
    work = _flop(cost.flops - cost.images * (whole - kept))
    return [f"  with --clip, which freezes the tower but for its last block: {trained:,} train, {work} an update"]


# the lines ----------------------------------------------------------------------------------------------------------
def _of_sources(config: Config, state: State, seen: dict[str, Seen]) -> list[str]:
    last = config.optim.total_updates
    passes = order.epochs(state, last)
    table: list[tuple[str, ...]] = [
        ("source", "rows", "tokens", "counted", "images", "drawn", f"passes by update {last:,}")
    ]
    for stream in state.pieces[-1].streams:
        for source, share in zip(stream.sources, _shares(stream), strict=True):
            rows = seen[source.name]
            means = [f"{values.mean():,.1f}" for values in (rows.lengths, rows.counted, rows.images)]
            drawn = f"{stream.quota * share:,.1f}"
            table.append((source.name, f"{source.rows:,}", *means, drawn, f"{passes[source.name]:,.2f}"))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(word.rjust(width) for word, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    ]
    num = sum(len(rows.lengths) for rows in seen.values())
    return [*lines, f"tokens, counted, images: means of {num:,} rows that were read; drawn: rows in an update"]


def _of_update(streams: Sequence[Stream], cost: Cost) -> list[str]:
    quotas = ", ".join(f"{stream.quota:,} {stream.name}" for stream in streams)
    rest = 100 * (1 - cost.positions / cost.padded)
    return [
        f"an update: {quotas} rows: {_flop(cost.flops)}, {_flop(cost.image_flops)} of it for images",
        f"  {cost.positions:,.0f} positions, {cost.padded:,.0f} with padding ({rest:.1f} %), "
        f"{cost.counted:,.0f} counted, {cost.images:,.0f} images",
    ]


def _of_time(config: Config, cost: Cost, ranks: int, device: str, most: float) -> list[str]:
    slow, fast = (cost.flops / (ranks * most * share) for share in MFU)
    last = config.optim.total_updates
    lines = [
        f"on {ranks:,} {device} at {MFU[0] * 100:.0f}-{MFU[1] * 100:.0f} % of {most / 1e12:,.0f} TFLOP/s: "
        f"{_span(fast, slow)} an update, {_span(fast * last, slow * last)} for {last:,} updates"
    ]
    if config.system.precision != "bf16":
        lines.append("these are bf16's: in float32 it takes several times as long; --set system.precision=bf16")
    return lines


def _of_memory(config: Config, num: int, trained: int, ranks: int) -> list[str]:
    """What a rank holds, as `trainer.parallel` lays it out."""
    half = config.system.precision == "bf16"
    shards = min(ranks, config.system.shard_ranks or NODE)
    own = 16 * trained / shards
    frozen = (num - trained) * (2 if half else 4)
    gathered = 0
    if ranks > 1 or half:
        # sums of gradients stay whole until the last micro-batch; so do weights, unless they are given back
        gathered = 4 * trained + (0 if config.system.reshard else (2 if half else 4) * trained)
    lines = [
        f"memory of a rank: {_bytes(own + gathered + frozen)} and activations",
        f"  {_bytes(own)} weights, gradients and moments: 16 bytes a parameter, over {shards} ranks",
    ]
    if gathered:
        lines.append(f"  {_bytes(gathered)} gathered weights and sums of gradients")
    if frozen:
        lines.append(f"  {_bytes(frozen)} the frozen tower")
    return lines


def _flop(value: float) -> str:
    return next((f"{value / size:.3g} {name}FLOP" for name, size in LARGE if value >= size), f"{value:.3g} FLOP")


def _span(fast_s: float, slow_s: float) -> str:
    unit, size = next((each for each in LONG if fast_s >= each[1]), LONG[-1])
    return f"{fast_s / size:.3g}-{slow_s / size:.3g} {unit}"


def _bytes(num: float) -> str:
    return f"{num / 2**30:,.1f} GiB" if num >= 2**30 else f"{num / 2**20:,.1f} MiB"
