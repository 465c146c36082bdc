"""What `kosmos plan train` says, against the rows that the loader lays out and the numbers of KOSMOS-1."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.vocab import PAD
from tests.trainer import shards
from tests.trainer.runs import TOY, Data
from trainer.config import Config, DataConfig, MicroBatch, Quotas, kosmos1, text
from trainer.data import order
from trainer.data.loader import Loader
from trainer.data.rows import sources
from trainer.estimate import estimate
from trainer.flops import flops
from trainer.loop import adamw
from trainer.model import Kosmos


def numbers(line: str) -> list[float]:
    return [float(word.replace(",", "")) for word in re.findall(r"[\d,]*\d(?:\.\d+)?", line)]


def line(lines: list[str], start: str) -> str:
    return next(each for each in lines if each.startswith(start))


def test_an_update_is_what_the_loader_lays_out(tmp_path: Path) -> None:
    """Quotas of whole epochs, so that the mean of what is read is the mean of every update."""
    store = str(tmp_path / "store")
    images = [shards.jpeg(number) for number in range(3)]
    unit: dict[str, Any] = {
        "text": [shards.rows_of(8)],
        "caption": [[shards.caption(images[i % 3], *[5] * (4 + 9 * i)) for i in range(12)]],
        "interleaved": [[shards.interleaved(4, images[0], *[6] * i, images[1]) for i in range(6)]],
    }
    digest = shards.pack(store, [unit])
    data = DataConfig(quotas=Quotas(text=8, caption=12, interleaved=6), micro_batch=MicroBatch(text=2, caption=3))
    config = replace(TOY, data=data, model=replace(TOY.model, max_length=512))
    lines = estimate(config, [digest], store, 1)
    with sources(store, [digest]) as opened:
        config = replace(config, model=replace(config.model, vocab_size=opened.vocab.size))
        state = order.start(opened.listing, [digest], data)
        size = config.model.tower.image_size
        with Loader(opened, state, data, opened.vocab, config.model.max_length, image_size=size) as loader:
            batches = loader.update(3).micro_batches
    lengths = [length for batch in batches for length in (batch.tokens_BT != PAD).sum(1).tolist()]
    laid_out = sum(batch.tokens_BT.numel() for batch in batches)
    counted, images_seen = sum(batch.counted for batch in batches), sum(len(batch.slots_N2) for batch in batches)
    found = numbers(line(lines, "  "))
    share = 100 * (1 - sum(lengths) / laid_out)
    assert found == [sum(lengths), laid_out, pytest.approx(share, abs=0.06), counted, images_seen]
    work = flops(config.model, False, lengths, counted, images_seen)
    assert numbers(line(lines, "an update: "))[3] == pytest.approx(work / 1e6, rel=6e-3)


def test_parameters_and_checkpoint_are_the_models(data: Data) -> None:
    lines = estimate(TOY, [data.digest], data.store, 1)
    model = Kosmos(replace(TOY.model, vocab_size=shards.VOCAB.size))
    num = sum(parameter.numel() for group in adamw(model, TOY.optim).param_groups for parameter in group["params"])
    assert line(lines, "parameters: ") == f"parameters: {num:,}, of which {num:,} train"
    assert numbers(line(lines, "a checkpoint: "))[0] == pytest.approx(12 * num / 2**20, abs=0.06)
    assert numbers(line(lines, "memory of a rank: "))[0] == pytest.approx(16 * num / 2**20, abs=0.06)


def kosmos1_on_toys() -> Config:
    return replace(kosmos1(), model=replace(kosmos1().model, freeze_tower="yes"))


def test_kosmos_1_has_its_numbers(data: Data) -> None:
    lines = estimate(kosmos1_on_toys(), [data.digest], data.store, 64)
    assert line(lines, "parameters: ") == "parameters: 1,662,375,936, of which 1,371,794,432 train"
    assert line(lines, "a checkpoint: ").startswith("a checkpoint: 15.3 GiB ")
    # 2.6 of weights, gradients and moments over the 8 of a node, 7.7 gathered, and the frozen tower in bf16
    assert numbers(line(lines, "memory of a rank: "))[0] == pytest.approx(10.8)
    assert line(lines, "on 64 H100 at 40-50 % of 989 TFLOP/s: ").endswith(" for 300,000 updates")
    assert "warning: stream caption has 20 rows and draws 6144 an update" in line(lines, "warning: stream caption")
    assert "`kosmos train` refuses that" in line(lines, "warning: model.vocab_size is 64007")


def test_clip_is_told_of_where_it_is_left_open(data: Data) -> None:
    auto = estimate(kosmos1(), [data.digest], data.store, 8)
    frozen = estimate(kosmos1_on_toys(), [data.digest], data.store, 8)
    work = numbers(line(frozen, "an update: "))[3]
    assert line(auto, "parameters: ").endswith(" 1,662,375,936 train")
    assert line(auto, "  with --clip, ").endswith(f": 1,371,794,432 train, {work:g} PFLOP an update")
    assert not any("--clip" in each for each in frozen)


def test_twice_the_devices_take_half_the_time_and_other_devices_another(data: Data) -> None:
    def seconds(ranks: int, device: str) -> float:
        lines = estimate(text(), [data.digest], data.store, ranks, device)
        found = re.search(r"([\d.]+)-[\d.]+ (m?s) an update", line(lines, "on "))
        assert found is not None
        return float(found[1]) * (1e-3 if found[2] == "ms" else 1.0)

    assert seconds(16, "H100") == pytest.approx(seconds(8, "H100") / 2, rel=0.01)
    assert seconds(8, "A100") == pytest.approx(seconds(8, "H100") * 989 / 312, rel=0.01)


def test_a_source_says_how_often_it_is_passed(data: Data) -> None:
    config = replace(TOY, optim=replace(TOY.optim, total_updates=100, warmup_updates=1))
    lines = estimate(config, [data.digest], data.store, 1)
    assert lines[0].split()[:6] == ["source", "rows", "tokens", "counted", "images", "drawn"]
    assert line(lines, "pack-0/caption").split()[1:2] == ["20"]
    assert line(lines, "pack-0/caption").split()[-2:] == ["3.0", "15.00"]  # 100 updates of 3 of 20 rows


def test_what_cannot_be_is_one_sentence(data: Data) -> None:
    with pytest.raises(ConfigError, match="--workers is 0; give the number of devices"):
        estimate(TOY, [data.digest], data.store, 0)
    with pytest.raises(ConfigError, match="--device Z80 is not known; give H100, "):
        estimate(TOY, [data.digest], data.store, 1, "Z80")
    short = replace(TOY, model=replace(TOY.model, max_length=70))
    assert any(
        "model.max_length is 70: `kosmos train` refuses" in each
        for each in estimate(short, [data.digest], data.store, 1)
    )
