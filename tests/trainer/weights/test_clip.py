"""CLIP's tower from each layout that it comes in: the same numbers as the code that it is from, or one sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from engine.errors import ConfigError
from trainer.config import TowerConfig
from trainer.tower import MEAN, STD, Tower
from trainer.weights import clip

GOLDEN = Path(__file__).parents[2] / "golden/open_clip.safetensors"
TOY = TowerConfig(image_size=28, patch=14, width=16, layers=2, heads=2, ffn_dim=32)


def tower(config: TowerConfig = TOY, seed: int = 0) -> Tower:
    """A random tower whose gains and biases are no 1 and 0: one that is missing shows."""
    torch.manual_seed(seed)
    made = Tower(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.eval()


def visual(made: Tower) -> dict[str, torch.Tensor]:
    """Its weights as OpenAI and open_clip name them, with what else is in their files."""
    found = {clip.openai(name)[0]: value.detach().clone() for name, value in made.named_parameters()}
    others = ("visual.proj", "positional_embedding", "text_projection", "token_embedding.weight", "logit_scale")
    return found | {name: torch.ones(2) for name in (*others, "transformer.resblocks.0.ln_1.weight", "ln_final.bias")}


def vision(made: Tower, prefix: str = "vision_model.") -> dict[str, torch.Tensor]:
    """Its weights as transformers names them."""
    found = {}
    for name, value in made.named_parameters():
        theirs = clip.transformers(prefix)(name)
        found |= dict(zip(theirs, (part.clone() for part in value.detach().chunk(len(theirs))), strict=True))
    ids = torch.arange(5)[None]
    return found | {f"{prefix}embeddings.position_ids": ids, "text_model.final_layer_norm.bias": torch.ones(2)}


def equal(found: Mapping[str, torch.Tensor], made: Tower) -> bool:
    theirs = dict(made.named_parameters())
    return set(found) == set(theirs) and all(torch.equal(value, theirs[name]) for name, value in found.items())


class Holder(nn.Module):
    """A module with parameters of any dotted names, which TorchScript takes."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        below: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                below.setdefault(first, {})[rest] = tensor
            else:
                self.register_parameter(first, nn.Parameter(tensor))
        for name, inner in below.items():
            self.add_module(name, Holder(inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_each_layout_gives_the_same_tower(tmp_path: Path) -> None:
    made = tower()
    save_file(visual(made), tmp_path / "open_clip.safetensors")
    torch.save(visual(made), tmp_path / "open_clip.pt")
    torch.save({"state_dict": {f"module.{n}": v for n, v in visual(made).items()}}, tmp_path / "trained.pt")
    torch.jit.save(torch.jit.script(Holder(visual(made))), tmp_path / "openai.pt")
    save_file(vision(made), tmp_path / "clip.safetensors")
    save_file(vision(made, ""), tmp_path / "vision.safetensors")
    (tmp_path / "folder").mkdir()
    save_file(vision(made), tmp_path / "folder" / "model.safetensors")
    for path in sorted(tmp_path.iterdir()):
        assert equal(clip.read(path, TOY), made), path.name


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    halved = {name: value.half() for name, value in visual(tower()).items()}
    torch.jit.save(torch.jit.script(Holder(halved)), tmp_path / "openai.pt")
    for name, value in clip.read(tmp_path / "openai.pt", TOY).items():
        assert value.dtype == torch.float32 and torch.equal(value, halved[clip.openai(name)[0]].float())


@torch.no_grad()
def test_it_computes_what_open_clip_computes() -> None:
    config = TowerConfig(image_size=28, patch=14, width=32, layers=2, heads=4, ffn_dim=64)
    ours = Tower(config).eval()
    ours.load_state_dict(clip.read(GOLDEN, config))
    kept = load_file(GOLDEN)
    torch.testing.assert_close(ours(kept["pixels"]), kept["outputs"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_it_computes_what_transformers_computes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers.models.clip.configuration_clip import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=56, patch_size=14, hidden_act="quick_gelu")).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    config = replace(TOY, image_size=56)
    ours = Tower(config).eval()
    ours.load_state_dict(clip.read(tmp_path, config))
    pixels_NCHW = torch.randint(0, 256, (3, 3, 56, 56), dtype=torch.uint8)
    x_NCHW = (pixels_NCHW / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    inner = getattr(theirs, "vision_model", theirs)  # in releases before the fifth
    x_NPC = inner.post_layernorm(theirs(pixel_values=x_NCHW).last_hidden_state)
    torch.testing.assert_close(ours(pixels_NCHW), nn.functional.normalize(x_NPC, dim=-1), atol=1e-5, rtol=1e-5)


def test_another_size_names_what_to_set(tmp_path: Path) -> None:
    bigger = TowerConfig(image_size=56, patch=14, width=32, layers=3, heads=2, ffn_dim=64)
    for number, found in enumerate((visual(tower(bigger)), vision(tower(bigger)))):
        path = tmp_path / f"{number}.safetensors"
        save_file(found, path)
        with pytest.raises(ConfigError) as error:
            clip.read(path, TOY)
        said = str(error.value)
        assert "image_size 56, width 32, layers 3, ffn_dim 64 and the config wants 28, 16, 2, 32" in said
        for words in ("image_size=56", "width=32", "layers=3", "ffn_dim=64"):
            assert f"--set model.tower.{words}" in said
        assert equal(clip.read(path, bigger), tower(bigger))


def test_each_name_is_there_once_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    good = visual(tower())
    for change, words in (
        ({"visual.ln_post.bias": None}, "not the whole of .*: visual.ln_post.bias missing"),
        ({"visual.ls_1.gamma": torch.ones(16)}, "holds more .*: visual.ls_1.gamma left over"),
        ({"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(16)}, "resblocks.0.ls_1.gamma left over"),
        ({"visual.ln_pre.weight": torch.ones(17)}, r"makes ln_pre.weight \(17,\) and .* \(16,\)"),
        ({"visual.conv1.weight": torch.ones(4)}, "patch 0"),
        ({"visual.conv1.weight": None}, "no CLIP image tower that is known"),
        ({"visual.ln_pre.weight": torch.full((16,), torch.nan)}, "visual.ln_pre.weight .* holds NaN or infinities"),
        ({"visual.ln_pre.weight": torch.ones(16, dtype=torch.int64)}, "is torch.int64, no floats"),
    ):
        save_file({name: value for name, value in (good | change).items() if value is not None}, path)
        with pytest.raises(ConfigError, match=words):
            clip.read(path, TOY)
    parts = vision(tower())
    parts.pop("vision_model.encoder.layers.1.self_attn.k_proj.weight")
    save_file(parts, path)
    with pytest.raises(ConfigError, match=r"layers\.1\.self_attn\.k_proj\.weight missing"):
        clip.read(path, TOY)
    parts["vision_model.encoder.layers.1.self_attn.k_proj.weight"] = torch.ones(16, 15)
    save_file(parts, path)
    with pytest.raises(ConfigError, match=r"makes resblocks\.1\.attn\.in_proj_weight None"):
        clip.read(path, TOY)
    save_file({}, path)
    with pytest.raises(ConfigError, match="it holds no tensors"):
        clip.read(path, TOY)


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        ("config.json", {"vision_config": {"hidden_act": "gelu"}}, "not trained with QuickGELU"),
        ("config.json", {"model_type": "clip_vision_model", "num_attention_heads": 4}, "--set model.tower.heads=4"),
        ("config.json", {"vision_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps 1e-06"),
        ("open_clip_config.json", {"model_cfg": {"embed_dim": 24}}, "not trained with QuickGELU"),
        ("open_clip_config.json", {"model_cfg": {"quick_gelu": True}}, ""),
        ("config.json", {"num_attention_heads": 4, "hidden_act": "gelu"}, ""),  # of some other model
        ("config.json", ["gelu"], ""),
    ],
)
def test_what_no_shape_tells_is_in_the_config_beside(tmp_path: Path, name: str, said: object, words: str) -> None:
    save_file(visual(tower()), tmp_path / "clip.safetensors")
    (tmp_path / name).write_text(json.dumps(said))
    if not words:
        assert equal(clip.read(tmp_path / "clip.safetensors", TOY), tower())
        return
    with pytest.raises(ConfigError, match=words):
        clip.read(tmp_path / "clip.safetensors", TOY)


def test_what_is_no_file_of_weights_is_one_sentence(tmp_path: Path) -> None:
    empty, headless, huge, text = (tmp_path / name for name in ("empty", "headless", "huge", "text.pt"))
    empty.mkdir()
    headless.write_bytes(b"1234")
    huge.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    text.write_text("no weights at all")
    long = tmp_path / "long.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 4]}}).encode()
    long.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    for path, words in (
        (tmp_path / "nothing", "is not there; give the path"),
        (empty, "holds neither model.safetensors nor"),
        (headless, "neither a safetensors file nor"),
        (huge, "neither a safetensors file nor"),
        (text, "neither a safetensors file nor"),
        (long, "is damaged"),
    ):
        with pytest.raises(ConfigError, match=words):
            clip.read(path, TOY)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 4000), value=st.integers(0, 255), cut=st.integers(0, 20))
def test_a_damaged_header_does_no_more_than_a_sentence(tmp_path: Path, at: int, value: int, cut: int) -> None:
    path = tmp_path / "clip.safetensors"
    save_file(visual(tower()), path)
    body = bytearray(path.read_bytes())
    body[at] = value
    path.write_bytes(bytes(body[: len(body) - cut]))
    try:
        clip.read(path, TOY)
    except ConfigError as error:
        assert str(path) in str(error)
