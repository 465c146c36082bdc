"""When a checkpoint is due: after so many updates or so many seconds, in all processes after the same update."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from engine.config import override
from tests.trainer.ranks import ranks
from tests.trainer.test_loop import STILL, Kept, model_of, texts, update
from trainer import loop
from trainer.metrics import counted
from trainer.world import World


def test_a_checkpoint_is_due_after_some_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter))
    config = override(STILL, ["checkpoint_every=5"])
    model = model_of(config)
    kept = Kept()

    def report(_: loop.Metrics) -> None:
        now[0] += 10

    optimizer = loop.adamw(model, config.optim)
    loop.train(config, model, optimizer, texts(1, 8), 0, 8, kept.checkpoint, report, lambda: False, every_s=20)
    # known before the update after which it comes: the decision travels with its counts
    assert [number for number, _ in kept.checkpoints] == [3, 5, 8]


def wants(world: World, whose: int) -> tuple[bool, int]:
    counts = counted(update(1), False, world, due=world.rank == whose)
    return counts.due, counts.wishes


def test_what_one_process_wants_all_hear_with_the_counts() -> None:
    assert ranks(2, wants, 0) == [(True, 0)] * 2
    assert ranks(2, wants, 2) == [(False, 0)] * 2
