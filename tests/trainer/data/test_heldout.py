"""The held-out loss: a function of rows and weights, whatever the ranks, and that it sees whether images are used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.errors import ConfigError
from engine.vocab import Vocab
from tests.trainer.ranks import ranks
from tests.trainer.shards import VOCAB, Sample, caption, interleaved, jpeg, pack, rows_of, text
from trainer.config import DataConfig, HeldoutConfig, MicroBatch, Quotas, tiny
from trainer.data.heldout import Heldout, notes
from trainer.data.rows import sources
from trainer.world import World

CONFIG = replace(
    tiny(),
    data=DataConfig(
        quotas=Quotas(text=1, caption=8, interleaved=2), micro_batch=MicroBatch(text=2, caption=3, interleaved=2)
    ),
    heldout=HeldoutConfig(rows=20),
)
CONFIG = replace(CONFIG, model=replace(CONFIG.model, tower=replace(CONFIG.model.tower, image_size=28)))


class Looking(nn.Module):
    """Stands for a model: the loss of a token is its id times `scale`, and in a row with an image the image's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.01))
        self.calls: list[tuple[int, bool, int, bool]] = []

    def forward(
        self, tokens_BT: torch.Tensor, counted_BT: torch.Tensor, pixels_NCHW: torch.Tensor, slots_N2: torch.Tensor
    ) -> torch.Tensor:
        self.calls.append((len(tokens_BT), self.training, len(pixels_NCHW), torch.is_grad_enabled()))
        bright_B = torch.zeros(len(tokens_BT))
        for (row, _), pixels_CHW in zip(slots_N2.tolist(), pixels_NCHW, strict=False):
            bright_B[row] += pixels_CHW.float().mean()
        nll_BT = tokens_BT * self.scale + bright_B[:, None]
        return (nll_BT * counted_BT).sum()


def held(url: str, **streams: list[Sample]) -> str:
    return pack(url, [{name: [samples] for name, samples in streams.items()}], key="heldout-0")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    url = str(tmp_path_factory.mktemp("heldout"))
    mark = held(
        url,
        text=rows_of(7),
        caption=[caption(jpeg(i), *[5 + i] * (1 + i % 5)) for i in range(23)],
        interleaved=[interleaved(5, jpeg(40 + i), 6, *[7] * i) if i % 3 else text(9, 9) for i in range(10)],
    )
    return url, mark


def on_rank(world: World, url: str, mark: str) -> tuple[dict[str, float], list[int], bool]:
    model = Looking()
    with sources(url, [mark], heldout=True) as opened, Heldout(opened, CONFIG, world, VOCAB) as heldout:
        found = heldout.evaluate(model)
    return found, [rows for rows, _, _, _ in model.calls], model.training


def test_any_number_of_ranks_gives_the_same_losses(kept: tuple[str, str]) -> None:
    alone, _, _ = on_rank(World(), *kept)
    assert list(alone) == ["text", "caption", "interleaved", "caption_permuted"]
    together = ranks(3, on_rank, *kept)
    assert all(found == pytest.approx(alone, rel=1e-6) for found, _, _ in together)
    first, *others = [calls for _, calls, _ in together]
    assert all(calls == first for calls in others), "every rank runs as many micro-batches, of as many rows"


def test_the_losses_are_those_of_the_first_rows(kept: tuple[str, str]) -> None:
    found, _, _ = on_rank(World(), *kept)
    texts = [token for sample in rows_of(7) for token in sample.tokens[1:]]
    assert found["text"] == pytest.approx(0.01 * sum(texts) / len(texts), rel=1e-5)
    bright = [float(torch.tensor(pixels(i)).mean()) for i in range(20)]
    num = [2 + i % 5 for i in range(20)]  # words and </s>
    words = sum((5 + i) * (n - 1) + 2 for i, n in enumerate(num))
    own = sum(b * n for b, n in zip(bright, num, strict=True))
    others = sum(b * n for b, n in zip([*bright[1:], bright[0]], num, strict=True))
    assert found["caption"] == pytest.approx((0.01 * words + own) / sum(num), rel=1e-5)
    assert found["caption_permuted"] == pytest.approx((0.01 * words + others) / sum(num), rel=1e-5)


def pixels(seed: int) -> list[float]:
    from trainer.data.images import decode

    found = decode(jpeg(seed), 28)
    assert found is not None
    return found.flatten().float().tolist()


def test_the_model_is_left_as_it_was(kept: tuple[str, str]) -> None:
    model = Looking()
    with sources(kept[0], [kept[1]], heldout=True) as opened, Heldout(opened, CONFIG, World(), VOCAB) as heldout:
        for training in (True, False):
            model.train(training)
            heldout.evaluate(model)
            assert model.training is training
        assert not any(training or grad for _, training, _, grad in model.calls)
        assert model.scale.grad is None
        broken = nn.Linear(2, 2)  # takes other arguments
        with pytest.raises(TypeError):
            heldout.evaluate(broken)
        assert broken.training


def test_micro_batches_of_images_have_at_least_a_blank_one(kept: tuple[str, str]) -> None:
    model = Looking()
    with (
        sources(kept[0], [kept[1]], heldout=True) as opened,
        Heldout(opened, CONFIG, World(rank=0, size=1), VOCAB) as heldout,
    ):
        heldout.evaluate(model)
    num_text = 4
    assert [images for _, _, images, _ in model.calls[:num_text]] == [0] * num_text
    assert all(images for _, _, images, _ in model.calls[num_text:])


def test_a_stream_without_rows_is_left_out_and_told(tmp_path: Path) -> None:
    mark = held(str(tmp_path), caption=[caption(jpeg(1), 5, 6)])
    config = replace(CONFIG, data=replace(CONFIG.data, quotas=Quotas(text=0, caption=2, interleaved=1)))
    with sources(str(tmp_path), [mark], heldout=True) as opened, Heldout(opened, config, World(), VOCAB) as heldout:
        (note,) = notes(opened, config)
        assert "interleaved" in note
        assert list(heldout.evaluate(Looking())) == ["caption"], "one caption has no other's image to see"


def test_an_image_that_is_bad_costs_its_row_alone(tmp_path: Path) -> None:
    mark = held(str(tmp_path), caption=[caption(b"bad", 90, 90), caption(jpeg(1), 5, 5)])
    config = replace(CONFIG, data=replace(CONFIG.data, quotas=Quotas(text=0, caption=2, interleaved=0)))
    with sources(str(tmp_path), [mark], heldout=True) as opened, Heldout(opened, config, World(), VOCAB) as heldout:
        found = heldout.evaluate(Looking())
    bright = float(torch.tensor(pixels(1)).mean())
    assert found["caption"] == pytest.approx(0.04 + bright, rel=1e-5)
    assert found["caption_permuted"] == pytest.approx(0.01 * 182 / 3 + bright, rel=1e-5)


def test_only_what_is_held_out_is_taken(kept: tuple[str, str], tmp_path: Path) -> None:
    mark = pack(str(tmp_path), [{"text": [rows_of(3)]}])
    with pytest.raises(ConfigError, match=f"manifest {mark} holds rows to train on.*kosmos freeze heldout"):
        sources(str(tmp_path), [mark], heldout=True)
    with (
        sources(kept[0], [kept[1]], heldout=True) as opened,
        pytest.raises(ConfigError, match="vocabulary of 100 and the model has 64007"),
    ):
        Heldout(opened, CONFIG, World(), Vocab())
