"""KOSMOS-2's weights in transformers' names: the same logits there and here, with images and cached, both ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ConfigError
from trainer.config import ModelConfig, TowerConfig
from trainer.model import Kosmos
from trainer.tower import MEAN, STD
from trainer.weights import kosmos2
from trainer.weights.start import whole

TOY = ModelConfig(
    vocab_size=kosmos2.SIZE,
    dim=16,
    layers=2,
    heads=2,
    ffn_dim=32,
    max_length=128,
    connector_heads=2,
    position="sinusoidal",
    tower=TowerConfig(image_size=28, patch=14, width=16, layers=2, heads=2, ffn_dim=32),
)
TOKENS_BT = torch.randint(4, 64_000, (2, 90), generator=torch.Generator().manual_seed(3))
PIXELS_NCHW = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
SLOTS_N2 = torch.tensor([[0, 2], [1, 7]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model's weights in transformers' names, in one file with a config beside."""
    folder = tmp_path_factory.mktemp("kosmos2")
    torch.manual_seed(1)
    model = Kosmos(TOY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tensors = {name: value.detach().clone() for name, value in model.named_parameters()}
    save_file({name: value.clone() for name, value in kosmos2.renamed(tensors).items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(kosmos2.config(TOY)))
    return folder


@torch.no_grad()
def test_its_logits_are_those_of_transformers(saved: Path) -> None:
    pytest.importorskip("transformers")
    from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2ForConditionalGeneration

    theirs = Kosmos2ForConditionalGeneration.from_pretrained(saved).eval()
    ours = whole(TOY, kosmos2.read(saved, TOY)).eval()
    mask_BT = torch.zeros(TOKENS_BT.shape)
    for row, start in SLOTS_N2.tolist():
        mask_BT[row, start : start + 64] = 1
    x_NCHW = (PIXELS_NCHW / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected_BTV = theirs(input_ids=TOKENS_BT, pixel_values=x_NCHW, image_embeds_position_mask=mask_BT).logits
    assert expected_BTV.abs().max() > 1
    got_BTV = ours.logits(TOKENS_BT, PIXELS_NCHW, SLOTS_N2)
    torch.testing.assert_close(got_BTV, expected_BTV, atol=1e-5, rtol=1e-5)
    cache = ours.cache(90)
    cached = [ours.logits(TOKENS_BT[:, :80], PIXELS_NCHW, SLOTS_N2, cache)]
    for at, end in ((80, 81), (81, 87), (87, 90)):
        cached.append(ours.logits(TOKENS_BT[:, at:end], PIXELS_NCHW[:0], SLOTS_N2[:0], cache))
    torch.testing.assert_close(torch.cat(cached, dim=1), expected_BTV, atol=1e-5, rtol=1e-5)
    text_BTV = theirs.text_model(input_ids=TOKENS_BT).logits
    torch.testing.assert_close(ours.logits(TOKENS_BT, PIXELS_NCHW[:0], SLOTS_N2[:0]), text_BTV, atol=1e-5, rtol=1e-5)


def test_each_name_goes_there_and_back(saved: Path) -> None:
    tensors = kosmos2.read(saved, TOY)
    assert set(tensors) == {name for name, _ in Kosmos(TOY).named_parameters()}
    again = kosmos2.renamed(tensors)
    theirs = load_file(saved / "model.safetensors")
    assert set(again) == set(theirs) and all(torch.equal(again[name], value) for name, value in theirs.items())


def test_words_behind_kosmos_1s_last_are_left_out(saved: Path) -> None:
    fewer = replace(TOY, vocab_size=64_007)
    tensors, all_words = kosmos2.read(saved, fewer), kosmos2.read(saved, TOY)
    assert torch.equal(tensors[kosmos2.EMBEDDING], all_words[kosmos2.EMBEDDING][:64_007])
    with pytest.raises(ConfigError, match=r"has 65,037 words and the config's model 4,007, with other ids; pack with"):
        kosmos2.read(saved, replace(TOY, vocab_size=4007))


def test_a_model_of_text_alone_takes_the_decoder(saved: Path) -> None:
    tensors = kosmos2.read(saved, replace(TOY, images=False))
    assert tensors and all(name.startswith("decoder.") for name in tensors)


def test_shards_are_found_by_their_index(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    names = sorted(tensors)
    shards: dict[str, dict[str, torch.Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    index = {name: sorted(shards)[number % 2] for number, name in enumerate(names)}
    for name, shard in index.items():
        shards[shard][name] = tensors[name]
    for shard, held in shards.items():
        save_file(held, tmp_path / shard)

    def write(document: Any) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(document))

    write({"weight_map": index})
    whole_file = kosmos2.read(saved, TOY)
    assert all(torch.equal(value, whole_file[name]) for name, value in kosmos2.read(tmp_path, TOY).items())
    for document, words in (
        ({"weight_map": {"x": "../a.safetensors"}}, "does not name files beside it"),
        ({"weight_map": {"x": 5}}, "does not name files beside it"),
        ({"weight_map": {}}, "does not name files beside it"),
        ([], "does not name files beside it"),
        ({"weight_map": index | {"x": "c.safetensors"}}, "c.safetensors of .* is not in"),
    ):
        write(document)
        with pytest.raises(ConfigError, match=words):
            kosmos2.read(tmp_path, TOY)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(ConfigError, match="holds neither"):
        kosmos2.read(tmp_path, TOY)
    write({"weight_map": index})
    save_file(shards["a.safetensors"] | {"x": torch.ones(1)}, tmp_path / "a.safetensors")
    save_file(shards["b.safetensors"] | {"x": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ConfigError, match="x is in two files"):
        kosmos2.read(tmp_path, TOY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position": "xpos"}, "--set model.position=sinusoidal"),
        ({"dim": 32}, "--set model.dim=16"),
        ({"layers": 3, "ffn_dim": 64}, "--set model.layers=2 --set model.ffn_dim=32"),
        ({"heads": 4, "connector_heads": 4}, "--set model.heads=2"),
        ({"connector_heads": 4}, "--set model.connector_heads=2"),
        ({"layernorm_eps": 1e-6}, "--set model.layernorm_eps=1e-05"),
        ({"tower": replace(TOY.tower, heads=4)}, "--set model.tower.heads=2"),
        ({"tower": replace(TOY.tower, layers=3)}, "--set model.tower.layers=2"),
    ],
)
def test_another_model_names_what_to_set(saved: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        kosmos2.read(saved, replace(TOY, **change))


def test_a_head_of_its_own_and_names_that_do_not_belong_are_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    good = load_file(saved / "model.safetensors")
    for change, words in (
        ({kosmos2.HEAD: torch.zeros(65_037, 16)}, "is not its embedding"),
        ({kosmos2.TEXT + "layers.0.self_attn.xpos.scale": torch.ones(4)}, "xpos.scale left over"),
        ({kosmos2.CONNECTOR + "latent_query": torch.zeros(32, 16)}, r"latent_query .*\(32, 16\)"),
        ({kosmos2.VISION + "post_layernorm.bias": torch.full((16,), torch.inf)}, "NaN or infinities"),
    ):
        save_file(good | change, path)
        with pytest.raises(ConfigError, match=words):
            kosmos2.read(path, TOY)
    save_file(good | {kosmos2.VISION + "embeddings.position_ids": torch.arange(5)}, path)
    assert kosmos2.read(path, TOY)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ConfigError, match="holds no KOSMOS-2"):
        kosmos2.read(path, TOY)


def test_what_transformers_cannot_compute_is_no_kosmos_2() -> None:
    for change, words in (
        ({"position": "xpos"}, "model.position sinusoidal and the run has xpos"),
        ({"images": False}, "model.images True and the run has False"),
        ({"connector_heads": 4}, "model.connector_heads 2 and the run has 4"),
    ):
        with pytest.raises(ConfigError, match=words):
            kosmos2.config(replace(TOY, **change))
