"""The loop: learning rates, gradients that do not depend on how rows are cut, updates without a step, resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from engine.errors import BudgetExceeded
from engine.vocab import BOS, IMAGE_SLOTS, PAD
from trainer import loop
from trainer.batch import MicroBatch, Update
from trainer.config import Config, DataConfig, HeldoutConfig, ModelConfig, OptimConfig, TowerConfig, kosmos1
from trainer.flops import flops
from trainer.model import Kosmos

VOCAB = 40
CONFIG = Config(
    name="toy",
    model=ModelConfig(
        vocab_size=VOCAB,
        dim=16,
        layers=2,
        heads=2,
        ffn_dim=32,
        max_length=128,
        dropout=0.1,
        attention_dropout=0.1,
        connector_heads=2,
        tower=TowerConfig(image_size=28, patch=14, width=16, layers=1, heads=2, ffn_dim=32),
    ),
    data=DataConfig(),
    optim=OptimConfig(lr=1e-2, warmup_updates=2, total_updates=100),
    checkpoint_every=1000,
)
STILL = replace(CONFIG, model=replace(CONFIG.model, dropout=0.0, attention_dropout=0.0))


def micro_batch(stream: str, seed: int, rows: int = 3, length: int = 0) -> MicroBatch:
    """Rows of one stream with words of their own lengths; captions with an image each."""
    generator = torch.Generator().manual_seed(seed)
    images = rows if stream == "caption" else 0
    head = IMAGE_SLOTS + 3 if images else 1
    length = length or head + 12
    tokens_BT = torch.full((rows, length), PAD)
    counted_BT = torch.zeros((rows, length), dtype=torch.bool)
    for row in range(rows):
        end = head + int(torch.randint(2, 12, (1,), generator=generator))
        tokens_BT[row, 0] = BOS
        tokens_BT[row, 1:end] = torch.randint(4, VOCAB, (end - 1,), generator=generator)
        counted_BT[row, head:end] = True
    pixels_NCHW = torch.randint(0, 256, (images, 3, 28, 28), generator=generator, dtype=torch.uint8)
    slots_N2 = torch.tensor([(row, 2) for row in range(images)], dtype=torch.int64).reshape(-1, 2)
    return MicroBatch(
        stream=stream,
        tokens_BT=tokens_BT,
        counted_BT=counted_BT,
        pixels_NCHW=pixels_NCHW,
        slots_N2=slots_N2,
        rows=tuple((stream, row) for row in range(rows)),
    )


def update(number: int) -> Update:
    """A batch that depends on its number alone, of two streams."""
    batches = [
        micro_batch("text", 10 * number),
        micro_batch("caption", 10 * number + 1),
        micro_batch("caption", number),
    ]
    return Update(number=number, micro_batches=tuple(batches))


def updates(first: int, last: int) -> Iterator[Update]:
    """The updates of these numbers."""
    return (update(number) for number in range(first, last + 1))


def model_of(config: Config) -> Kosmos:
    """Its initial weights."""
    with loop.seeded(torch.device("cpu"), "weights", config.seed):
        return Kosmos(config.model)


class Kept:
    """What the loop handed out."""

    def __init__(self) -> None:
        self.metrics: list[loop.Metrics] = []
        self.checkpoints: list[tuple[int, list[int]]] = []

    def checkpoint(self, number: int, since: Sequence[loop.Metrics]) -> None:
        self.checkpoints.append((number, [metrics.update for metrics in since]))


def run(
    config: Config,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Update],
    start: int,
    last: int,
    stop_after: int = 10**9,
) -> tuple[loop.Result, Kept]:
    """The loop, with everything that it says kept."""
    kept = Kept()
    result = loop.train(
        config,
        model,
        optimizer,
        batches,
        start,
        last,
        kept.checkpoint,
        kept.metrics.append,
        lambda: bool(kept.metrics) and kept.metrics[-1].update >= stop_after,
    )
    return result, kept


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are the same, bit for bit."""
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("number", "lr"), [(1, 2e-4 / 375), (375, 2e-4), (150_187, 1.0001e-4), (300_000, 0.0)])
def test_the_learning_rate_is_the_papers(number: int, lr: float) -> None:
    assert kosmos1().optim.lr_at(number) == pytest.approx(lr, rel=1e-3)


def test_the_learning_rate_of_an_update_reaches_the_optimizer_and_the_metrics() -> None:
    model = model_of(STILL)
    optimizer = loop.adamw(model, STILL.optim)
    result, kept = run(STILL, model, optimizer, updates(1, 3), 0, 3)
    assert [metrics.lr for metrics in kept.metrics] == [STILL.optim.lr_at(number) for number in (1, 2, 3)]
    assert optimizer.param_groups[0]["lr"] == STILL.optim.lr_at(3)
    assert (result.update, result.interrupted) == (3, False)
    assert (result.first, result.last) == (kept.metrics[0], kept.metrics[2])


def test_every_parameter_decays_and_takes_part() -> None:
    model = model_of(STILL)
    optimizer = loop.adamw(model, STILL.optim)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.98), 1e-6, 0.01)
    # an update without images gives the tower no gradient: its step is counted and its weights decay all the same
    run(STILL, model, optimizer, iter([Update(number=1, micro_batches=(micro_batch("text", 1),))]), 0, 1)
    assert {int(state["step"]) for state in optimizer.state.values()} == {1}
    assert len(optimizer.state) == len(list(model.parameters()))


def test_only_matrices_decay_where_the_config_says_so() -> None:
    config = replace(STILL, optim=replace(STILL.optim, decay="matrices"))
    model = model_of(config)
    optimizer = loop.adamw(model, config.optim)
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert {parameter.ndim >= 2 for parameter in decayed["params"]} == {True}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))
    run(config, model, optimizer, updates(1, 1), 0, 1)
    assert {group["lr"] for group in optimizer.param_groups} == {config.optim.lr_at(1)}


def test_what_is_held_out_is_looked_at_now_and_then_and_at_the_end() -> None:
    config = replace(STILL, heldout=HeldoutConfig(every=2))
    model = model_of(config)
    kept = Kept()

    def evaluate(number: int) -> dict[str, float]:
        time.sleep(0.01)
        return {"text": float(number)}

    loop.train(
        config,
        model,
        loop.adamw(model, config.optim),
        texts(1, 5),
        0,
        5,
        kept.checkpoint,
        kept.metrics.append,
        lambda: False,
        evaluate=evaluate,
    )
    assert [metrics.heldout for metrics in kept.metrics] == [{}, {"text": 2.0}, {}, {"text": 4.0}, {"text": 5.0}]
    assert [metrics.heldout_s >= 0.01 for metrics in kept.metrics] == [False, True, False, True, True]
    assert kept.metrics[1].plain()["heldout"] == {"text": 2.0}


def test_the_loss_falls_on_a_batch_that_comes_again() -> None:
    model = model_of(STILL)
    same = (Update(number=number, micro_batches=update(1).micro_batches) for number in range(1, 16))
    _, kept = run(STILL, model, loop.adamw(model, STILL.optim), same, 0, 15)
    assert kept.metrics[0].loss == pytest.approx(math.log(VOCAB), rel=0.3)
    assert kept.metrics[-1].loss < 0.8 * kept.metrics[0].loss


def whole(batches: Sequence[MicroBatch]) -> MicroBatch:
    """Micro-batches of one stream, of one length, as one."""
    rows = [len(batch.tokens_BT) for batch in batches]
    shift = [torch.tensor([sum(rows[:index]), 0]) for index in range(len(rows))]
    return MicroBatch(
        stream=batches[0].stream,
        tokens_BT=torch.cat([batch.tokens_BT for batch in batches]),
        counted_BT=torch.cat([batch.counted_BT for batch in batches]),
        pixels_NCHW=torch.cat([batch.pixels_NCHW for batch in batches]),
        slots_N2=torch.cat([batch.slots_N2 + more for batch, more in zip(batches, shift, strict=True)]),
        rows=tuple(row for batch in batches for row in batch.rows),
    )


def test_micro_batches_of_unequal_counts_make_the_gradient_of_one_batch() -> None:
    parts = [micro_batch("caption", 5, rows=1), micro_batch("caption", 6, rows=4)]
    assert parts[0].counted != parts[1].counted
    gradients: list[list[torch.Tensor]] = []
    losses: list[float] = []
    for batches in (parts, [whole(parts)]):
        model = model_of(STILL)

        class Spy(torch.optim.SGD):
            def step(self, closure: object = None) -> None:  # type: ignore[override]
                gradients.append([p.grad.clone() for p in self.param_groups[0]["params"] if p.grad is not None])

        optimizer = Spy(model.parameters())
        config = replace(STILL, optim=replace(STILL.optim, clip_norm=1e9))
        _, kept = run(config, model, optimizer, iter([Update(number=1, micro_batches=tuple(batches))]), 0, 1)
        losses.append(kept.metrics[0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for cut, uncut in zip(*gradients, strict=True):
        torch.testing.assert_close(cut, uncut, rtol=1e-4, atol=1e-7)


def test_the_norm_is_clipped_over_all_parameters_together() -> None:
    norms: list[float] = []
    config = replace(STILL, optim=replace(STILL.optim, clip_norm=1e-3))
    model = model_of(config)

    class Spy(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            grads = [p.grad for p in self.param_groups[0]["params"] if p.grad is not None]
            norms.append(float(torch.stack([grad.norm() for grad in grads]).norm()))

    _, kept = run(config, model, Spy(model.parameters()), updates(1, 1), 0, 1)
    assert kept.metrics[0].grad_norm > 0.1
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_an_update_in_which_nothing_counts_makes_no_step() -> None:
    silent = replace(micro_batch("text", 1), counted_BT=torch.zeros((3, 13), dtype=torch.bool))
    model = model_of(CONFIG)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = loop.adamw(model, CONFIG.optim)
    result, kept = run(CONFIG, model, optimizer, iter([Update(number=1, micro_batches=(silent,))]), 0, 1)
    assert kept.metrics[0].skipped == loop.EMPTY
    assert kept.metrics[0].plain()["loss"] is None
    assert equal(model.state_dict(), before) and not optimizer.state
    assert result.update == 1


class Sick(torch.nn.Module):
    """A model whose loss is not a number at one of its calls, or at some in a row."""

    def __init__(self, inner: Kosmos, at: int, calls: int = 1) -> None:
        super().__init__()
        self.inner, self.sick, self.calls = inner, range(at, at + calls), 0

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        nll_sum: torch.Tensor = self.inner(*tensors)
        return nll_sum * (math.nan if self.calls in self.sick else 1.0)


def test_a_gradient_that_is_not_finite_makes_no_step_and_the_next_update_does() -> None:
    model = Sick(model_of(STILL), at=5)  # the middle of update 2
    optimizer = loop.adamw(model, STILL.optim)
    states: list[dict[str, torch.Tensor]] = []
    kept = Kept()

    def report(metrics: loop.Metrics) -> None:
        kept.metrics.append(metrics)
        states.append({name: value.clone() for name, value in model.inner.state_dict().items()})

    loop.train(STILL, model, optimizer, updates(1, 3), 0, 3, kept.checkpoint, report, lambda: False)
    assert [metrics.skipped for metrics in kept.metrics] == ["", loop.NOT_FINITE, ""]
    assert equal(states[0], states[1]) and not equal(states[1], states[2])
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}
    assert kept.metrics[1].plain()["grad_norm"] is None


def texts(first: int, last: int) -> Iterator[Update]:
    """Updates of one micro-batch."""
    return (Update(number=n, micro_batches=(micro_batch("text", n),)) for n in range(first, last + 1))


def test_updates_in_a_row_that_are_not_finite_stop_the_run_without_a_checkpoint_of_them() -> None:
    config = replace(STILL, checkpoint_every=2)
    model = Sick(model_of(config), at=4, calls=10**6)
    kept = Kept()
    with pytest.raises(BudgetExceeded, match=r"updates 4 to 23 made no step: .* --set optim\.lr=0\.0025") as told:
        loop.train(
            config,
            model,
            loop.adamw(model, config.optim),
            texts(1, 90),
            0,
            90,
            kept.checkpoint,
            kept.metrics.append,
            lambda: False,
        )
    assert told.value.exit_code == 3
    assert kept.checkpoints == [(2, [1, 2])]
    assert len(kept.metrics) == 3 + loop.MOST_WITHOUT_STEP


def test_a_run_that_ends_on_updates_that_are_not_finite_has_not_reached_its_end() -> None:
    model = Sick(model_of(STILL), at=4, calls=2)
    with pytest.raises(BudgetExceeded, match="updates 4 to 5 made no step"):
        run(STILL, model, loop.adamw(model, STILL.optim), texts(1, 5), 0, 5)


def test_a_checkpoint_that_is_due_waits_for_the_next_step() -> None:
    config = replace(STILL, checkpoint_every=2)
    model = Sick(model_of(config), at=3, calls=3)
    _, kept = run(config, model, loop.adamw(model, config.optim), texts(1, 9), 0, 9)
    assert kept.checkpoints == [(2, [1, 2]), (6, [3, 4, 5, 6]), (8, [7, 8]), (9, [9])]


@pytest.mark.parametrize(("stop_after", "update", "checkpoints"), [(5, 3, [(2, [1, 2]), (3, [3])]), (7, 7, None)])
def test_who_is_asked_to_stop_between_steps_keeps_the_last_one(
    stop_after: int, update: int, checkpoints: list[tuple[int, list[int]]] | None
) -> None:
    config = replace(STILL, checkpoint_every=2)
    model = Sick(model_of(config), at=4, calls=3)
    result, kept = run(config, model, loop.adamw(model, config.optim), texts(1, 9), 0, 9, stop_after)
    assert (result.update, result.interrupted) == (update, True)
    assert kept.checkpoints == (checkpoints or [(2, [1, 2]), (7, [3, 4, 5, 6, 7])])


def test_updates_in_a_row_in_which_nothing_counts_stop_the_run() -> None:
    silent = replace(micro_batch("caption", 1), counted_BT=torch.zeros((3, 79), dtype=torch.bool), bad_images=3)
    empty = (Update(number=n, micro_batches=(silent,)) for n in range(1, 91))
    model = model_of(STILL)
    with pytest.raises(BudgetExceeded, match=r"updates 1 to 20 made no step: .* 3 of the 3 images of the last are bad"):
        run(STILL, model, loop.adamw(model, STILL.optim), empty, 0, 90)


def test_metrics_count_what_was_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "peak", lambda _: 1e12)
    model = model_of(STILL)
    batch = replace(update(1), micro_batches=(micro_batch("text", 1), replace(micro_batch("caption", 2), bad_images=1)))
    _, kept = run(STILL, model, loop.adamw(model, STILL.optim), iter([batch]), 0, 1)
    (metrics,) = kept.metrics
    assert metrics.counted == batch.counted
    assert metrics.positions == sum(int((b.tokens_BT != PAD).sum()) for b in batch.micro_batches)
    assert (metrics.images, metrics.bad_images, metrics.skipped) == (3, 1, "")
    assert metrics.padding == 1 - metrics.positions / sum(b.tokens_BT.numel() for b in batch.micro_batches)
    assert metrics.images_per_s * metrics.seconds == pytest.approx(3)
    lengths = [int((row != PAD).sum()) for b in batch.micro_batches for row in b.tokens_BT]
    needed = flops(STILL.model, False, lengths, batch.counted, 3)
    assert metrics.mfu == pytest.approx(needed / 1e12 / metrics.seconds)
    assert 0.01 < metrics.memory_gib < 64
    share = {b.stream: b.counted / batch.counted for b in batch.micro_batches}
    assert list(metrics.losses) == ["text", "caption"]
    assert sum(metrics.losses[stream] * share[stream] for stream in share) == pytest.approx(metrics.loss, rel=1e-6)


@pytest.mark.parametrize("split", [1, 3])
def test_a_resumed_run_with_dropout_is_the_undisturbed_one_bit_for_bit(split: int) -> None:
    straight = model_of(CONFIG)
    _, whole_run = run(CONFIG, straight, loop.adamw(straight, CONFIG.optim), updates(1, 6), 0, 6)

    first = model_of(CONFIG)
    optimizer = loop.adamw(first, CONFIG.optim)
    _, before = run(CONFIG, first, optimizer, updates(1, split), 0, split)
    states = {name: value.clone() for name, value in first.state_dict().items()}, optimizer.state_dict()

    torch.manual_seed(12345)  # what the process drew in between does not matter
    second = Kosmos(CONFIG.model)
    resumed = loop.adamw(second, CONFIG.optim)
    second.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    _, after = run(CONFIG, second, resumed, updates(split + 1, 6), split, 6)

    assert equal(second.state_dict(), straight.state_dict())
    losses = [metrics.loss for metrics in before.metrics + after.metrics]
    assert losses == [metrics.loss for metrics in whole_run.metrics]


def test_dropout_differs_between_updates_micro_batches_and_ranks() -> None:
    def draw(*values: int | str) -> float:
        with loop.seeded(torch.device("cpu"), *values):
            return float(torch.rand(()))

    seeds = [(2, n, stream, index, rank) for n in (1, 2) for stream in (0, 1) for index in (0, 1) for rank in (0, 1)]
    assert len({draw("dropout", *seed) for seed in seeds}) == len(seeds)
    assert draw("dropout", *seeds[3]) == draw("dropout", *seeds[3])


def test_the_process_own_random_state_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with loop.seeded(torch.device("cpu"), "dropout", 1):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)


def test_checkpoints_come_at_their_updates_and_at_the_last() -> None:
    config = replace(STILL, checkpoint_every=2)
    model = model_of(config)
    _, kept = run(config, model, loop.adamw(model, config.optim), updates(4, 9), 3, 9)
    assert kept.checkpoints == [(4, [4]), (6, [5, 6]), (8, [7, 8]), (9, [9])]


@pytest.mark.parametrize(("stop_after", "checkpoints"), [(3, [(2, [1, 2]), (3, [3])]), (2, [(2, [1, 2])])])
def test_who_is_asked_to_stop_finishes_the_update_and_leaves_a_checkpoint(
    stop_after: int, checkpoints: list[tuple[int, list[int]]]
) -> None:
    config = replace(STILL, checkpoint_every=2)
    model = model_of(config)
    result, kept = run(config, model, loop.adamw(model, config.optim), updates(1, 9), 0, 9, stop_after)
    assert (result.update, result.interrupted) == (stop_after, True)
    assert kept.checkpoints == checkpoints


def test_to_be_stopped_at_the_last_update_is_to_be_done() -> None:
    model = model_of(STILL)
    result, kept = run(STILL, model, loop.adamw(model, STILL.optim), updates(1, 2), 0, 2, stop_after=2)
    assert (result.update, result.interrupted, kept.checkpoints) == (2, False, [(2, [1, 2])])


def test_batches_out_of_order_are_refused() -> None:
    model = model_of(STILL)
    optimizer = loop.adamw(model, STILL.optim)
    with pytest.raises(ValueError, match="update 1 is due; got 2"):
        run(STILL, model, optimizer, updates(2, 3), 0, 2)
    with pytest.raises(ValueError, match="update 2 is due; got none"):
        run(STILL, model, optimizer, updates(1, 1), 0, 2)
