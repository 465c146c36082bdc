"""Several processes train one model: the gradients and losses of one, with shares of unequal size, in every layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from engine.errors import ConfigError
from engine.vocab import BOS, IMAGE_SLOTS, PAD
from tests.trainer.ranks import ranks
from tests.trainer.test_loop import CONFIG, VOCAB, model_of
from trainer import loop, parallel
from trainer.batch import MicroBatch, Update
from trainer.config import Config, HeldoutConfig, SystemConfig
from trainer.data.order import num_micro_batches, slice_of
from trainer.metrics import Metrics
from trainer.world import World, opened

QUOTAS = {"text": 3, "caption": 5, "interleaved": 2}
MICRO = {"text": 1, "caption": 1, "interleaved": 1}
IMAGES = {"text": (0, 0, 0), "caption": (1, 1, 1, 1, 1), "interleaved": (0, 1)}
SHORT = 2  # updates whose gradients are kept
LENGTH = 100  # positions of each micro-batch
BF16 = SystemConfig(precision="bf16")
Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
TOWER = replace(CONFIG.model.tower, layers=2)  # of which one can be frozen
DROPPING = replace(CONFIG, model=replace(CONFIG.model, layers=1, tower=TOWER), system=SystemConfig(shard_ranks=2))
STILL = replace(DROPPING, model=replace(DROPPING.model, dropout=0.0, attention_dropout=0.0), system=SystemConfig())
UNCLIPPED = replace(STILL, optim=replace(STILL.optim, clip_norm=1e9))


def micro_batch(stream: str, rows: Sequence[int | None], number: int) -> MicroBatch:
    """Rows of an update by their numbers in its stream, None for one that is all pad; blank where it has no image."""
    tokens_BT = torch.full((len(rows), LENGTH), PAD)
    counted_BT = torch.zeros((len(rows), LENGTH), dtype=torch.bool)
    pixels, slots = [], []
    for at, row in enumerate(rows):
        if row is None:
            continue
        generator = torch.Generator().manual_seed(1000 * number + 10 * list(QUOTAS).index(stream) + row)
        head = 1
        for _ in range(IMAGES[stream][row]):
            pixels.append(torch.randint(0, 256, (3, 28, 28), generator=generator, dtype=torch.uint8))
            slots.append((at, head + 1))
            head += IMAGE_SLOTS + 2
        end = head + 4 + int(torch.randint(2, 24, (1,), generator=generator))
        tokens_BT[at, 0] = BOS
        tokens_BT[at, 1:end] = torch.randint(4, VOCAB, (end - 1,), generator=generator)
        counted_BT[at, head:end] = True
    if not pixels and stream != "text":
        pixels = [torch.zeros((3, 28, 28), dtype=torch.uint8)]
    return MicroBatch(
        stream=stream,
        tokens_BT=tokens_BT,
        counted_BT=counted_BT,
        pixels_NCHW=torch.stack(pixels) if pixels else torch.zeros((0, 3, 28, 28), dtype=torch.uint8),
        slots_N2=torch.tensor(slots, dtype=torch.int64).reshape(-1, 2),
        rows=tuple(None if row is None else (stream, row) for row in rows),
    )


def share(number: int, world: World, streams: Sequence[str] = tuple(QUOTAS)) -> Update:
    """What a rank has of an update: contiguous rows, and as many micro-batches as any other rank."""
    batches = []
    for stream in streams:
        quota, size = QUOTAS[stream], MICRO[stream]
        rows: list[int | None] = list(range(*slice_of(quota, world.rank, world.size)))
        rows += [None] * (num_micro_batches(quota, world.size, size) * size - len(rows))
        batches += [micro_batch(stream, rows[at : at + size], number) for at in range(0, len(rows), size)]
    return Update(number=number, micro_batches=tuple(batches))


def shares(first: int, last: int, world: World, streams: Sequence[str] = tuple(QUOTAS)) -> Iterator[Update]:
    return (share(number, world, streams) for number in range(first, last + 1))


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a rank saw: metrics (the first rank alone), whole gradients by name, and weights, and its checkpoints."""

    metrics: list[Metrics]
    gradients: dict[str, Array]
    weights: dict[str, Array]
    checkpoints: list[int]
    update: int


def whole(tensor: torch.Tensor) -> Array:
    """All of a tensor, wherever its parts are; no tensor, as those do not leave a process that ends."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().float().numpy().copy()


def train(
    world: World,
    config: Config,
    last: int,
    streams: Sequence[str] = tuple(QUOTAS),
    stop: tuple[int, int] = (-1, 0),
    frozen: bool = False,
    spread: bool = True,
) -> Ran:
    """Run `last` updates; the gradients are those of the last, if they are few.

    stop: the rank that is asked to, and before what.
    """
    model = model_of(config)
    if frozen:
        model.freeze_tower()
    if spread:
        parallel.spread(model, config.system, world)
    gradients: dict[str, Array] = {}

    optimizer = loop.adamw(model, config.optim)

    def keep(*_: object) -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradients[name] = whole(parameter.grad)

    if last <= SHORT:
        optimizer.register_step_pre_hook(keep)
    metrics: list[Metrics] = []
    checkpoints: list[int] = []
    calls = iter(range(1, last + 2))
    result = loop.train(
        config,
        model,
        optimizer,
        shares(1, last, world, streams),
        0,
        last,
        lambda number, _: checkpoints.append(number),
        metrics.append,
        lambda: (world.rank, next(calls)) == stop,
        world,
    )
    return Ran(
        metrics=metrics,
        gradients=gradients,
        weights={name: whole(value) for name, value in model.state_dict().items()},
        checkpoints=checkpoints,
        update=result.update,
    )


def assert_close(ours: dict[str, Array], theirs: dict[str, Array], rtol: float) -> None:
    """Each tensor's difference is at most `rtol` of its norm, or of a thousandth of the norm of all."""
    assert list(ours) == list(theirs)
    every = math.sqrt(sum(float(np.linalg.norm(value)) ** 2 for value in theirs.values()))
    for name, value in theirs.items():
        off = float(np.linalg.norm(ours[name] - value)) / max(float(np.linalg.norm(value)), every / 1000)
        assert off <= rtol, f"{name} is off by {off}"


LAYOUTS = {
    "fsdp": SystemConfig(),
    "hsdp": SystemConfig(shard_ranks=2, reshard=True, checkpoint_activations=True),
    "bf16": BF16,
    "frozen": SystemConfig(),
    "frozen, bf16": BF16,
    "text": SystemConfig(),
}
FEW = ("text", "interleaved")


def as_laid_out(world: World, name: str) -> Ran:
    """One update in a layout; those named after what they train freeze the tower, or have no images."""
    config = replace(UNCLIPPED, system=LAYOUTS[name])
    streams = ("text",) if name == "text" else tuple(QUOTAS)
    return train(world, config, 1, streams, frozen=name.startswith("frozen"))


def several(world: World) -> dict[str, Ran]:
    """All that four ranks are to show, in one group."""
    found = {name: as_laid_out(world, name) for name in LAYOUTS}
    found["long"] = train(world, STILL, 20, FEW)
    found["dropout"] = train(world, DROPPING, 2, FEW)
    found["again"] = train(world, DROPPING, 2, FEW)
    found["stopped"] = train(world, STILL, 9, FEW, stop=(2, 4))
    return found


def long(world: World) -> list[float]:
    return [metrics.loss for metrics in train(world, STILL, 20, FEW).metrics]


@pytest.fixture(scope="module")
def four() -> list[dict[str, Ran]]:
    return ranks(4, several)


@pytest.fixture(scope="module")
def one() -> dict[str, Ran]:
    """The same by one process, in float32."""
    plain = {name: "frozen" if name.startswith("frozen") else "text" if name == "text" else "fsdp" for name in LAYOUTS}
    ran = {name: as_laid_out(World(), name) for name in set(plain.values())}
    return {name: ran[same] for name, same in plain.items()}


def test_shares_are_what_the_tests_say() -> None:
    each = [share(1, World(rank=rank, size=4)).micro_batches for rank in range(4)]
    assert {tuple(batch.stream for batch in batches) for batches in each} == {
        ("text", "caption", "caption", "interleaved")
    }
    images = [[len(batch.slots_N2) for batch in batches if batch.stream == "interleaved"] for batches in each]
    assert images == [[0], [0], [0], [1]]  # ranks whose images are all blank
    assert [sum(row is None for batch in batches for row in batch.rows) for batches in each] == [3, 1, 2, 0]


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "bf16" not in name])
def test_unequal_shares_make_the_gradients_of_one_process(
    name: str, four: list[dict[str, Ran]], one: dict[str, Ran]
) -> None:
    for rank in four:
        assert_close(rank[name].gradients, one[name].gradients, 1e-6)
        assert_close(rank[name].weights, one[name].weights, 1e-4)  # Adam's first step turns on signs
    ours, theirs = four[0][name].metrics[0], one[name].metrics[0]
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-6)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-6)
    assert (ours.counted, ours.positions, ours.images) == (theirs.counted, theirs.positions, theirs.images)
    assert ours.padding > theirs.padding  # the shares have rows that are all pad


@pytest.mark.parametrize("name", ["bf16", "frozen, bf16"])
def test_bf16_keeps_float32_weights_and_is_close(name: str, four: list[dict[str, Ran]], one: dict[str, Ran]) -> None:
    for rank in four:
        assert_close(rank[name].gradients, one[name].gradients, 0.05)
    assert four[0][name].metrics[0].loss == pytest.approx(one[name].metrics[0].loss, rel=2e-3)
    moved = four[0][name].weights["decoder.layers.0.ffn.fc1.weight"]
    rounded = torch.from_numpy(moved).bfloat16().float().numpy()
    assert not np.array_equal(moved, rounded)
    held = four[0][name].weights["tower.conv1.weight"]
    rounded = torch.from_numpy(held).bfloat16().float().numpy()
    assert np.array_equal(held, rounded) == name.startswith("frozen")


def test_only_the_first_rank_reports_and_all_make_checkpoints(four: list[dict[str, Ran]]) -> None:
    assert [len(rank["long"].metrics) for rank in four] == [20, 0, 0, 0]
    assert [rank["long"].checkpoints for rank in four] == [[20]] * 4


def test_losses_are_the_same_in_every_world(four: list[dict[str, Ran]]) -> None:
    alone = long(World())
    assert alone[-1] < alone[0]
    assert [metrics.loss for metrics in four[0]["long"].metrics] == pytest.approx(alone, rel=1e-6)
    assert ranks(2, long)[0] == pytest.approx(alone, rel=1e-6)


def test_the_same_world_with_dropout_repeats_itself_bit_for_bit(four: list[dict[str, Ran]]) -> None:
    for rank in four:
        assert [m.loss for m in rank["dropout"].metrics] == [m.loss for m in rank["again"].metrics]
        assert all(
            np.array_equal(rank["dropout"].weights[name], value) for name, value in rank["again"].weights.items()
        )
    assert four[0]["dropout"].metrics[0].loss != four[0]["long"].metrics[0].loss


def test_one_rank_that_is_asked_to_stop_ends_all_at_the_same_update(four: list[dict[str, Ran]]) -> None:
    assert [(rank["stopped"].update, rank["stopped"].checkpoints) for rank in four] == [(3, [3])] * 4


def edges(world: World) -> list[object]:
    """What is laid out otherwise, refused, or looked at in between."""
    seen: list[object] = []
    uneven = replace(world, local_size=1 if world.first else 2)
    for place in (replace(world, local_size=1), uneven, replace(world, local_size=3)):
        model = model_of(STILL)
        parallel.spread(model, STILL.system, place)
        weight = model.decoder.embed_tokens.weight
        seen.append(weight.device_mesh.shape if isinstance(weight, DTensor) else None)
    try:
        parallel.spread(model_of(STILL), SystemConfig(shard_ranks=2), world)
    except ConfigError as error:
        seen.append(str(error))
    with opened("float32") as found:
        seen.append((found.rank == world.rank, found.size, found.local_size))
    try:
        train(world, STILL, 1, spread=False)
    except ValueError as error:
        seen.append(str(error))
    looks: list[int] = []

    def evaluate(number: int) -> dict[str, float]:
        looks.append(number)
        model.eval()
        with torch.no_grad():
            batch = share(99, world).micro_batches[-1]
            nll_sum = model(batch.tokens_BT, batch.counted_BT, batch.pixels_NCHW, batch.slots_N2)
        model.train()
        (total,) = world.sum_floats([float(nll_sum)])
        return {"interleaved": total}

    kept: list[bool] = []
    metrics: list[Metrics] = []
    config = replace(STILL, heldout=HeldoutConfig(every=2), checkpoint_every=2)
    loop.train(
        config,
        model,
        loop.adamw(model, config.optim),
        shares(1, 3, world, FEW),
        0,
        3,
        lambda *_: kept.append(all(isinstance(parameter, DTensor) for parameter in model.parameters())),
        metrics.append,
        lambda: False,
        world,
        evaluate,
    )
    return [*seen, looks, kept, [sorted(m.heldout) for m in metrics]]


def sick(world: World) -> tuple[list[str], list[bool]]:
    """Why updates made no step, and whether the weights moved, where one rank's first loss is not a number."""
    model = model_of(STILL)
    parallel.spread(model, STILL.system, world)
    calls = iter(range(99))
    if world.rank == 1:
        model.register_forward_hook(lambda _, __, nll_sum: nll_sum * (math.nan if next(calls) == 0 else 1.0))
    before = whole(model.decoder.layer_norm.weight)
    moved: list[bool] = []
    metrics: list[Metrics] = []
    batches = iter([*shares(1, 2, world, ("text",)), Update(number=3, micro_batches=())])

    def preempted() -> bool:
        moved.append(not np.array_equal(whole(model.decoder.layer_norm.weight), before))
        return False

    optimizer = loop.adamw(model, STILL.optim)
    loop.train(STILL, model, optimizer, batches, 0, 3, lambda *_: None, metrics.append, preempted, world)
    return [m.skipped for m in metrics], moved


def odd(world: World) -> tuple[list[object], tuple[list[str], list[bool]]]:
    return edges(world), sick(world)


def test_other_worlds() -> None:
    (first, ended), (second, _), (third, _) = answers = ranks(3, odd)
    # a rank whose gradient is not finite holds back all
    assert ended[0] == [loop.NOT_FINITE, "", loop.EMPTY]
    assert [moved for _, (_, moved) in answers] == [[False, False, True]] * 3
    assert first[:3] == [(3, 1), (3,), (3,)]
    assert "shard_ranks is 2 and there are 3 processes; set it to a divisor" in first[3]
    assert first[4] == (True, 3, 3)
    assert "call parallel.spread" in first[5]
    assert first[6:] == [[2, 3], [True, True], [[], ["interleaved"], ["interleaved"]]]
    assert second[:-1] == third[:-1] == first[:-1]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks are traced as for a compiler, and run as they are: a real one takes a minute here."""
    import torch._dynamo.config as dynamo

    compiled = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, **options: compiled(module, **options, backend="eager")
    )
    torch._dynamo.reset()
    with dynamo.patch():
        yield
    torch._dynamo.reset()


COMPILED = SystemConfig(compile=True, checkpoint_activations=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which the tracer looks at
@pytest.mark.usefixtures("traced", "one_thread")
def test_a_compiled_model_has_its_names_and_losses_and_meets_each_shape_once(one: dict[str, Ran]) -> None:
    ran = train(World(), replace(UNCLIPPED, system=COMPILED), 2)
    assert_close(ran.gradients, train(World(), UNCLIPPED, 2).gradients, 1e-5)
    assert list(ran.weights) == list(one["fsdp"].weights)
    # a decoder layer and a tower block, which all their kind share; nothing for a shape that was met before
    assert [metrics.recompiles for metrics in ran.metrics] == [2, 0]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which the tracer looks at
@pytest.mark.usefixtures("traced", "one_thread")
def test_too_many_shapes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "MOST_SHAPES", 1)
    monkeypatch.setitem(MICRO, "caption", 2)
    with pytest.raises(ConfigError, match=r"more than 1 shapes.*--set system\.compile=false"):
        train(World(), replace(UNCLIPPED, system=COMPILED), 2)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"needs the compiler g\+\+; install it, or say --set system\.compile=false"):
        parallel.spread(model_of(STILL), COMPILED, World())


@pytest.mark.usefixtures("plain_environment", "one_thread")
def test_bf16_alone_has_float32_weights_too(one: dict[str, Ran]) -> None:
    with opened("bf16") as world:
        ran = train(world, replace(UNCLIPPED, system=BF16), 1)
    assert_close(ran.gradients, one["fsdp"].gradients, 0.05)
    moved = ran.weights["decoder.layers.0.ffn.fc1.weight"]
    assert not np.array_equal(moved, torch.from_numpy(moved).bfloat16().float().numpy())
