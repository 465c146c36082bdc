"""One run, trained by one process, then by four, then by two: the same rows, the same losses, the same moments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import override
from tests.trainer.ranks import ranks
from tests.trainer.runs import TOY, Data, losses, packed
from trainer import fit
from trainer.batch import Update
from trainer.checkpoints.run import Run
from trainer.config import MicroBatch, Quotas
from trainer.world import World

CHANGES = ((4, 26), (2, 46))  # so many processes, up to this update; one before, up to 6
STILL = override(TOY, ["model.dropout=0", "model.attention_dropout=0", "checkpoint_every=50"])
DATA = replace(
    STILL.data,
    quotas=Quotas(text=3, caption=5, interleaved=2),
    micro_batch=MicroBatch(text=3, caption=5, interleaved=2),
)
CONFIG = replace(STILL, data=DATA)

KINDS = ("exp_avg.", "exp_avg_sq.")
Rows = dict[tuple[int, str], list[tuple[str, int]]]


def trained(world: World, data: Data, out: str, updates: int) -> Rows:
    """Train as one of several processes; the rows that this one had, by update and stream."""
    seen: Rows = {}
    prefetch = fit.prefetch

    def noting(*given: Any) -> Iterator[Update]:
        for update in prefetch(*given):
            for batch in update.micro_batches:
                rows = seen.setdefault((update.number, batch.stream), [])
                rows += [row for row in batch.rows if row is not None]
            yield update

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "prefetch", noting)
        result = fit.fit(CONFIG, [data.digest], data.store, out, updates, world=world)
    assert result.update == updates
    return seen


def drawn(shares: list[Rows]) -> Rows:
    """What all processes had together; an update has no order within a stream."""
    keys = {key for share in shares for key in share}
    return {key: sorted(row for share in shares for row in share.get(key, [])) for key in keys}


def moments(out: str) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint, as one process has them."""
    run = Run(out)
    latest = run.latest()
    assert latest is not None
    return {kind + name: tensor for kind in KINDS for name, tensor in run.tensors(latest, kind).items()}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the others have: sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return packed(str(tmp_path_factory.mktemp("elastic") / "store"))


@pytest.mark.slow
def test_a_run_goes_on_with_four_processes_and_then_with_two(data: Data, tmp_path: Path, one_thread: None) -> None:
    out, alone = str(tmp_path / "run"), str(tmp_path / "alone")
    changed, whole = (drawn([trained(World(), data, place, 6)]) for place in (out, alone))
    for size, last in CHANGES:
        changed |= drawn(ranks(size, trained, data, out, last))
        whole |= drawn([trained(World(), data, alone, last)])
        assert changed == whole, "other rows, or in another order"
        ours, theirs = moments(out), moments(alone)
        assert ours.keys() == theirs.keys() and len(ours) > 50
        for kind in KINDS:
            names = [name for name in theirs if name.startswith(kind)]
            most = max(float(theirs[name].abs().max()) for name in names)
            for name in names:
                # of gradients that are 0 but for rounding, as of the biases of keys, nothing is left to compare
                torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5 * most)
    expected = losses(alone)
    assert [update for update, _ in losses(out)] == [update for update, _ in expected] == list(range(1, last + 1))
    apart = [abs(ours / loss - 1) for (_, ours), (_, loss) in zip(losses(out), expected, strict=True)]
    assert max(apart[:6]) == 0 and max(apart) <= 1e-6
