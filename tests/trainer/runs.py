"""Toy runs: a config that trains an update in 20 ms, data for it, and what is read back from a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.trainer import shards
from tests.trainer.test_loop import CONFIG
from trainer import loop
from trainer.checkpoints.run import Run
from trainer.config import Config, DataConfig, MicroBatch, Quotas
from trainer.fit import fit

TOY = replace(
    CONFIG,
    model=replace(CONFIG.model, vocab_size=0),
    data=DataConfig(
        quotas=Quotas(text=2, caption=3, interleaved=1), micro_batch=MicroBatch(text=1, caption=2, interleaved=1)
    ),
    checkpoint_every=2,
)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A store of training shards: two manifests of one stage."""

    store: str
    digest: str
    more: str


def packed(url: str) -> Data:
    """Texts, captions and interleaved documents; `more` has other ones."""
    images = [shards.jpeg(number) for number in range(6)]

    def unit(seed: int) -> dict[str, Any]:
        return {
            "text": [shards.rows_of(30, seed)],
            "caption": [[shards.caption(images[(i + seed) % 6], 4 + i, 5, 6 + i % 3) for i in range(20)]],
            "interleaved": [[shards.interleaved(4 + seed, images[i % 6], 5 + i) for i in range(8)]],
        }

    return Data(store=url, digest=shards.pack(url, [unit(0)]), more=shards.pack(url, [unit(1)]))


def go(data: Data, out: Path | str, updates: int, config: Config = TOY, **options: Any) -> loop.Result:
    """Train without a face."""
    return fit(config, [data.digest], data.store, str(out), updates, **options)


def losses(out: Path | str) -> list[tuple[int, float]]:
    """Of every update that the run's checkpoints cover."""
    return [(line["update"], line["loss"]) for line in Run(str(out)).metrics()]


def weights(out: Path | str) -> dict[str, Any]:
    """The newest checkpoint's model, as bytes."""
    run = Run(str(out))
    latest = run.latest()
    assert latest is not None
    return {name: value.numpy().tobytes() for name, value in run.tensors(latest).items()}
