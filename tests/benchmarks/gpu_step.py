"""What an update of KOSMOS-1 takes on one GPU, and that the GPU computes what the CPU does.

    python -m tests.benchmarks.gpu_step --write FILE --store STORE --digest DIGEST
    python -m tests.benchmarks.gpu_step --read FILE [--only NAME,..] [--json OUT] [--small]

The first runs where the project is installed: real rows through the loader, as micro-batches, into one file of at most
40 MiB. The second needs torch alone (2.11 and up): it runs `trainer.loop.train` on them, each measure in a process of
its own, so that one that fails or runs out of memory costs no other. Batches are in memory beforehand; the optimiser is
in the time. MFU is of real positions (trainer/flops.py), dropout on unless a measure's name says otherwise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from engine.errors import ConfigError
from engine.vocab import PAD, STREAMS
from trainer import parallel
from trainer.batch import MicroBatch, Update
from trainer.config import Config, kosmos1, text, tiny
from trainer.flops import peak
from trainer.loop import adamw, seeded, train
from trainer.metrics import Metrics
from trainer.model import Kosmos
from trainer.world import World, opened

MOST_BYTES = 40 << 20
DTYPES = {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}
PARTS = ("tokens_BT", "counted_BT", "pixels_NCHW", "slots_N2")
WARM, MEASURED = 4, 6  # updates; in the first, blocks are compiled for each shape
PARITY_UPDATES = 20
# trainer.data.collate's
LENGTHS = {"text": (2048,), "caption": (96, 128, 192, 256, 384, 512), "interleaved": (512, 1024, 2048)}
REPEAT = 4  # the file's micro-batches in an update: a share of 1/32 four times is the share of one of 8 GPUs


# the file -----------------------------------------------------------------------------------------------------------
def write(path: Path, store: str, digest: str, scale: float) -> None:
    """Put update 1 at `scale` of KOSMOS-1's quotas into a file, as safetensors; ConfigError if it is over 40 MiB."""
    from trainer.config import MicroBatch as Sizes
    from trainer.data import order
    from trainer.data.loader import Loader
    from trainer.data.rows import sources

    config = kosmos1()
    data = replace(config.data, scale_batch=scale, micro_batch=Sizes(text=4, caption=64, interleaved=4))
    with sources(store, [digest]) as rows:
        state = order.start(rows.listing, [digest], data)
        with Loader(rows, state, data, rows.vocab, config.model.max_length) as loader:
            batches = loader.update(1).micro_batches
        said = {"digest": digest, "scale": str(scale), "vocab_size": str(rows.vocab.size)}
    tensors = {}
    for number, batch in enumerate(batches):
        for part in PARTS:
            value = getattr(batch, part)
            tensors[f"{number:04d}.{batch.stream}.{part}"] = value.int() if part == "tokens_BT" else value
    body = packed(tensors, said)
    if len(body) > MOST_BYTES:
        raise ConfigError(f"the file would have {len(body) >> 20} MiB of {MOST_BYTES >> 20}; give a lower --scale")
    path.write_bytes(body)
    images = sum(len(batch.slots_N2) for batch in batches)
    print(f"{path}: {len(batches)} micro-batches, {images} images, {len(body) / 2**20:.1f} MiB")


def packed(tensors: dict[str, torch.Tensor], said: dict[str, str]) -> bytes:
    """A safetensors file: the length of a JSON header, the header, the tensors."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": said}
    bodies, end = [], 0
    for name, tensor in tensors.items():
        bodies.append(tensor.contiguous().numpy().tobytes())
        begin, end = end, end + len(bodies[-1])
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *bodies])


def read(path: Path) -> tuple[list[MicroBatch], int]:
    """(micro-batches, vocabulary) of a file that `write` made; by hand, as a machine may have torch alone."""
    body = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(body[:8], "little")
    header = json.loads(body[8:start])
    vocab_size = int(header.pop("__metadata__")["vocab_size"])
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for name, entry in header.items():
        number, stream, part = name.split(".")
        begin, end = entry["data_offsets"]
        dtype = DTYPES[entry["dtype"]]
        flat = (
            torch.frombuffer(body, dtype=torch.uint8, count=end - begin, offset=start + begin) if end > begin else None
        )
        value = torch.empty(0, dtype=dtype) if flat is None else flat.clone().view(dtype)
        found.setdefault((number, stream), {})[part] = value.reshape(entry["shape"])
    batches = []
    for (_, stream), parts in sorted(found.items()):
        tokens_BT = parts["tokens_BT"].long()
        batches.append(
            MicroBatch(
                stream=stream,
                tokens_BT=tokens_BT,
                counted_BT=parts["counted_BT"],
                pixels_NCHW=parts["pixels_NCHW"],
                slots_N2=parts["slots_N2"],
                rows=(None,) * len(tokens_BT),
            )
        )
    return batches, vocab_size


# micro-batches ------------------------------------------------------------------------------------------------------
def cut(batch: MicroBatch, first: int, last: int) -> MicroBatch:
    """Rows first .. last - 1 of a micro-batch, with their images, as short as the loader lays them out."""
    slots_N2 = batch.slots_N2
    mine = (slots_N2[:, 0] >= first) & (slots_N2[:, 0] < last)
    tokens_BT = batch.tokens_BT[first:last]
    longest = int((tokens_BT != PAD).sum(1).max())
    length = next((length for length in LENGTHS[batch.stream] if length >= longest), longest)
    return MicroBatch(
        stream=batch.stream,
        tokens_BT=tokens_BT[:, :length].contiguous(),
        counted_BT=batch.counted_BT[first:last, :length].contiguous(),
        pixels_NCHW=batch.pixels_NCHW[: len(slots_N2)][mine],
        slots_N2=slots_N2[mine] - torch.tensor([first, 0]),
        rows=batch.rows[first:last],
    )


def pieces(batches: Sequence[MicroBatch], rows: dict[str, int]) -> Iterator[MicroBatch]:
    """The same rows in micro-batches of at most so many."""
    for batch in batches:
        size = rows[batch.stream]
        for first in range(0, len(batch.rows), size):
            yield cut(batch, first, min(first + size, len(batch.rows)))


def sizes(words: str) -> dict[str, int]:
    """Rows of each stream that go through the model at once, from three numbers."""
    return dict(zip(STREAMS, map(int, words.split(",")), strict=True))


def filled(batch: MicroBatch) -> MicroBatch:
    """The text with its padding replaced by the text's own beginning: rows as long as the model allows."""
    tokens_BT, counted_BT = batch.tokens_BT.clone(), batch.counted_BT.clone()
    for tokens_T in tokens_BT:
        length = int((tokens_T != PAD).sum())
        rest = len(tokens_T) - length
        tokens_T[length:] = tokens_T[1:length].repeat(rest // max(1, length - 1) + 1)[:rest]
    counted_BT[:, 1:] = True
    return replace(batch, tokens_BT=tokens_BT, counted_BT=counted_BT)


def pinned(batch: MicroBatch) -> MicroBatch:
    """The same in memory that a GPU copies from while others compute, as the loader makes it."""
    if not torch.cuda.is_available():
        return batch
    return replace(batch, **{part: getattr(batch, part).pin_memory() for part in PARTS if getattr(batch, part).numel()})


def small(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """A row of each stream and no more, of text its beginning: for a CPU, to see that everything runs."""
    first = {batch.stream: batch for batch in reversed(batches)}
    found = [cut(first[stream], 0, 1) for stream in STREAMS if stream in first]
    return [
        replace(batch, tokens_BT=batch.tokens_BT[:, :128], counted_BT=batch.counted_BT[:, :128])
        if batch.stream == "text"
        else batch
        for batch in found
    ]


def slices(batches: Sequence[MicroBatch], number: int) -> list[MicroBatch]:
    """Update `number` of the comparison of devices: one row of text, 16 captions, one interleaved row."""
    by_stream: dict[str, list[MicroBatch]] = {}
    for piece in pieces(batches, {"text": 1, "caption": 16, "interleaved": 1}):
        by_stream.setdefault(piece.stream, []).append(piece)
    return [found[number % len(found)] for found in by_stream.values()]


# measures -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A setting. alone: the decoder on full rows of text; else whole updates of all streams."""

    alone: bool = False
    compile: bool = True
    recompute: bool = False
    dropout: bool = True


MEASURES = {
    "decoder": Measure(alone=True),
    "update": Measure(),
    "update-without-dropout": Measure(dropout=False),
    "update-eager": Measure(compile=False),
    "decoder-eager": Measure(alone=True, compile=False),
    "update-recompute": Measure(recompute=True),
    "update-eager-recompute": Measure(compile=False, recompute=True),
}
PARITY = "parity"


def run(
    config: Config, batches: Sequence[MicroBatch], updates: int, world: World, before_last: Callable[[], None]
) -> list[Metrics]:
    """Train a new model on the same micro-batches, `updates` times."""
    with seeded(world.device, "weights", config.seed), torch.device(world.device):
        model = Kosmos(config.model)
    if config.model.freeze_tower == "yes":
        model.freeze_tower()
    parallel.spread(model, config.system, world)
    optimizer = adamw(model, config.optim)
    found: list[Metrics] = []

    def given() -> Iterator[Update]:
        for number in range(1, updates + 1):
            if number == updates:
                before_last()
            yield Update(number=number, micro_batches=tuple(batches))

    train(config, model, optimizer, given(), 0, updates, lambda *_: None, found.append, lambda: False, world)
    return found


def recipe(measure: Measure, vocab_size: int, is_small: bool) -> Config:
    """KOSMOS-1, or `tiny` in its precision."""
    base = text() if measure.alone else kosmos1()
    model = base.model
    if is_small:
        model = replace(tiny().model, vocab_size=vocab_size, images=model.images, dropout=0.1)
    if not measure.alone:
        model = replace(model, freeze_tower="yes")
    if not measure.dropout:
        model = replace(model, dropout=0.0, attention_dropout=0.0)
    system = replace(
        base.system, compile=measure.compile and not is_small, checkpoint_activations=measure.recompute, shard_ranks=1
    )
    return replace(base, model=model, system=system)


def measured(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One measure's figures; medians of updates that follow the warm-up."""
    measure = MEASURES[name]
    batches, vocab_size = read(given.read)
    batches = small(batches) if given.small else list(pieces(batches, sizes(given.micro_batch)))
    if measure.alone:
        batches = [filled(batch) for batch in batches if batch.stream == "text"]
    batches = [pinned(batch) for batch in batches] * (1 if given.small else given.repeat)
    warm, num = (1, 1) if given.small else (WARM, MEASURED)
    config = recipe(measure, vocab_size, given.small)
    began = time.perf_counter()
    profile = torch.profiler.profile() if given.trace else None
    with opened(config.system.precision) as world:
        device = world.device
        updates = run(config, batches, warm + num, world, profile.start if profile else lambda: None)
    after = updates[warm:]
    middle = statistics.median(metrics.seconds for metrics in after)
    if profile is not None:
        profile.stop()
        print(profile.key_averages().table(sort_by="self_device_time_total", row_limit=30))
    most = peak(device)
    return {
        "measure": name,
        **asdict(measure),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "peak_tflops": most / 1e12 if most else None,
        "seconds": middle,
        "slowest_s": max(metrics.seconds for metrics in after),
        "mfu": statistics.median(metrics.mfu for metrics in after if metrics.mfu is not None) if most else None,
        "tokens_per_s": after[0].positions / middle,
        "images_per_s": after[0].images / middle,
        "positions": after[0].positions,
        "padding": after[0].padding,
        "memory_gib": max(metrics.memory_gib for metrics in updates),
        "recompiles": sum(metrics.recompiles for metrics in after),
        "compiled": sum(metrics.recompiles for metrics in updates[:warm]),
        "warm_up_s": time.perf_counter() - began - sum(metrics.seconds for metrics in after),
        "losses": [metrics.loss for metrics in updates],
    }


def parity(path: Path, is_small: bool) -> dict[str, Any]:
    """The losses of `tiny` in float32 on the CPU and on the device, from the same weights, on the same rows."""
    batches, vocab_size = read(path)
    batches, updates = (small(batches), 2) if is_small else (batches, PARITY_UPDATES)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # of the patch stem; TF32 has 10 bits
    found = [
        _losses(batches, vocab_size, updates, device)
        for device in ("cpu", "cuda:0" if torch.cuda.is_available() else "cpu")
    ]
    apart = [abs(ours - theirs) / abs(theirs) for theirs, ours in zip(*found, strict=True)]
    return {"measure": PARITY, "updates": updates, "worst": max(apart), "first": apart[0], "losses": found[0]}


def _losses(batches: Sequence[MicroBatch], vocab_size: int, updates: int, device: str) -> list[float]:
    config = tiny()
    config = replace(config, model=replace(config.model, vocab_size=vocab_size))
    world = World(device=torch.device(device))
    with seeded(torch.device("cpu"), "weights", config.seed):
        model = Kosmos(config.model)
    parallel.spread(model, config.system, world)
    found: list[Metrics] = []
    given = (
        Update(number=number, micro_batches=tuple(slices(batches, number - 1))) for number in range(1, updates + 1)
    )
    optimizer = adamw(model, config.optim)
    train(config, model, optimizer, given, 0, updates, lambda *_: None, found.append, lambda: False, world)
    return [metrics.loss for metrics in found]


# the face -----------------------------------------------------------------------------------------------------------
def told(found: dict[str, Any]) -> str:
    """A line for people."""
    if found["measure"] == PARITY:
        return (
            f"parity: tiny, float32, {found['updates']} updates: losses at most {found['worst']:.1e} apart (relative), "
            f"the first {found['first']:.1e}"
        )
    share = "" if found["mfu"] is None else f", MFU {found['mfu']:.1%} of {found['peak_tflops']:,.0f} TFLOP/s"
    return (
        f"{found['measure']}: {found['seconds']:.3f} s an update (slowest {found['slowest_s']:.3f}){share}, "
        f"{found['tokens_per_s']:,.0f} positions/s, {found['images_per_s']:,.0f} images/s, "
        f"padding {found['padding']:.1%}, {found['memory_gib']:.1f} GiB, {found['compiled']} graphs, "
        f"{found['recompiles']} more after {found['warm_up_s']:.0f} s of warm-up; {found['device']}, "
        f"torch {found['torch']}"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Write a file, or measure what is in one; the number of measures that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--store")
    parser.add_argument("--digest")
    parser.add_argument("--scale", type=float, default=1 / 32, help="of KOSMOS-1's quotas")
    parser.add_argument("--micro-batch", default="4,16,4", help="rows of text, captions, interleaved at once")
    parser.add_argument("--read", type=Path)
    parser.add_argument("--only", default=",".join([*list(MEASURES)[:2], PARITY, *list(MEASURES)[2:]]))
    parser.add_argument("--json", type=Path, help="append a line for each measure")
    parser.add_argument("--repeat", type=int, default=REPEAT, help="times that the file's micro-batches make an update")
    parser.add_argument("--small", action="store_true", help="tiny and a row of each stream: to see that it runs")
    parser.add_argument("--trace", action="store_true", help="print what the time went to, kernel by kernel")
    parser.add_argument("--limit", type=int, default=300, help="seconds for a measure")
    parser.add_argument("--here", action="store_true", help="measure in this process; of --only, the first")
    given = parser.parse_args(words)
    if given.write:
        write(given.write, given.store, given.digest, given.scale)
        return 0
    names = given.only.split(",")
    if not given.read or not {*names} <= {*MEASURES, PARITY}:
        parser.error(f"give --write FILE, or --read FILE and --only some of {', '.join([*MEASURES, PARITY])}")
    if given.here:
        one = names[0]
        found = parity(given.read, given.small) if one == PARITY else None
        found = found or measured(one, given)
        print(told(found), flush=True)
        if given.json:
            with open(given.json, "a") as sink:
                sink.write(json.dumps(found) + "\n")
        return 0
    return sum(_apart(name, given) for name in names)


def _apart(name: str, given: argparse.Namespace) -> bool:
    """Measure in a process of its own; whether that failed."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu_step", "--here", "--read", str(given.read), "--only", name]
    command += [
        "--repeat",
        str(given.repeat),
        *(["--small"] if given.small else []),
        *(["--trace"] if given.trace else []),
    ]
    command += ["--json", str(given.json)] if given.json else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=given.limit, check=False)
    except subprocess.TimeoutExpired:
        print(f"{name}: not done after {given.limit} s", flush=True)
        return True
    print(done.stdout, end="", flush=True)
    if done.returncode:
        print(f"{name}: failed\n" + "\n".join(done.stderr.strip().splitlines()[-12:]), flush=True)
    return bool(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
