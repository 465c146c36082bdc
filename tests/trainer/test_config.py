"""The configs: KOSMOS-1's numbers, and a sentence for each that cannot be."""

from __future__ import annotations

import pytest

from engine.config import override
from engine.errors import ConfigError
from trainer.config import kosmos1, tiny


def test_kosmos1_is_the_papers() -> None:
    config = kosmos1()
    model, quotas = config.model, config.data.quotas
    assert (model.vocab_size, model.dim, model.layers, model.heads, model.ffn_dim) == (64_007, 2048, 24, 32, 8192)
    assert (model.tower.num_tokens, model.max_length, model.dropout) == (257, 2048, 0.1)
    assert (quotas.text, quotas.caption, quotas.interleaved) == (256, 6144, 128)
    assert (config.optim.lr, config.optim.betas, config.optim.eps) == (2e-4, (0.9, 0.98), 1e-6)


def test_a_scaled_batch_keeps_every_stream() -> None:
    data = override(kosmos1(), ["data.scale_batch=0.0625"]).data
    assert [data.quota(name) for name in ("text", "caption", "interleaved")] == [16, 384, 8]
    data = override(kosmos1(), ["data.scale_batch=0.001", "data.quotas.text=0"]).data
    assert [data.quota(name) for name in ("text", "caption", "interleaved")] == [0, 6, 1]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("model.heads=3", "must be a multiple of heads"),
        ("model.dropout=1", "are shares"),
        ("model.vocab_size=5", "0 takes it from the manifest"),
        ("model.tower.patch=15", "must be a multiple of patch"),
        ("model.layers=0", "model.layers is 0"),
        ("optim.warmup_updates=1000", "below total_updates"),
        ("optim.betas=0.9", "two numbers"),
        ("optim.lr=-1", "optim.lr is -1"),
        ("data.order=any", "blocks or rows"),
        ("data.scale_batch=0", "data.scale_batch is 0"),
        ("data.micro_batch.text=0", "data.micro_batch.text is 0"),
        ("data.quotas.caption=-1", "0 or more"),
        ("checkpoint_every=0", "checkpoint_every is 0; set it above 0"),
        ("model.width=3", "no field 'width'"),
    ],
)
def test_what_cannot_be_is_one_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        override(tiny(), [setting])
