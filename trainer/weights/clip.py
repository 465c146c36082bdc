"""CLIP's image tower from a file: OpenAI's archive, open_clip's (`visual.*`) or transformers' (`vision_model.*`).

Every name of our tower must be there once with its shape, and the file may hold no other name of a tower: one that is
left over would be a part of the model that is not computed. Text tower and projections are left out by name. KOSMOS-1's
is OpenAI's ViT-L/14 (arXiv 2103.00020), trained with QuickGELU: no shape tells that, so a config beside the file must.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engine.errors import ConfigError
from trainer.config import ModelConfig, TowerConfig
from trainer.tower import EPS
from trainer.weights.shapes import of_tower
from trainer.weights.tensors import File, Names, laid, opened, some

TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale")
MORE_TEXT = ("text.", "text_model.", "logit_bias", "input_resolution", "context_length", "vocab_size", "attn_mask")
OTHER = (*TEXT, *MORE_TEXT, "visual.proj", "visual.input_resolution", "visual_projection.")  # no part of the tower
POSITION_IDS = "embeddings.position_ids"  # 0, 1, 2 .., which older transformers wrote down
# of transformers' names: a block's, then what is outside of blocks
BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"} | {
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
AROUND = {
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # theirs is spelt so
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}


def read(path: str | Path, tower: TowerConfig) -> dict[str, torch.Tensor]:
    """Read the tensors of `trainer.tower.Tower` by its names, in float32 on the CPU.

    path: a .safetensors or .pt file, or a folder of safetensors. ConfigError where it is none, is damaged, holds no
    CLIP or one of another size than the config's tower.
    """
    check_config(Path(path), tower)
    with opened(path) as file:
        names, prefix = _layout(file)
        mine = [name for name in file.shapes if name.startswith(prefix) and not name.startswith(OTHER)]
        mine = [name for name in mine if not name.endswith(POSITION_IDS)]
        check_sizes(sizes(file, names), tower, "model.tower", file.place)
        return laid(file, of_tower(tower), names, mine, "CLIP's image tower")


def openai(name: str) -> tuple[str, ...]:
    """Our name of a tensor in OpenAI's and open_clip's: `visual.transformer.resblocks.0.ln_1.weight`."""
    return (f"visual.{'transformer.' if name.startswith('resblocks.') else ''}{name}",)


def transformers(prefix: str) -> Names:
    """Our names in transformers': below `prefix`, with q, k and v of an attention apart."""

    def names(name: str) -> tuple[str, ...]:
        if name in AROUND:
            return (prefix + AROUND[name],)
        _, number, part = name.split(".", 2)
        block = f"{prefix}encoder.layers.{number}."
        if part.startswith("attn.in_proj_"):
            kind = part.removeprefix("attn.in_proj_")
            return tuple(f"{block}self_attn.{letter}_proj.{kind}" for letter in "qkv")
        stem, kind = part.rsplit(".", 1)
        return (f"{block}{BLOCK[stem]}.{kind}",)

    return names


def sizes(file: File, names: Names) -> dict[str, int]:
    """The tower's sizes, as far as the file's shapes tell them; heads are not among them."""

    def shape(name: str, num: int) -> tuple[int, ...]:
        found = file.shapes.get(names(name)[0], ())
        return found if len(found) == num else (0,) * num

    width, _, patch, _ = shape("conv1.weight", 4)
    tokens, _ = shape("positional_embedding", 2)
    block = re.escape(names("resblocks.0.ln_1.weight")[0]).replace(r"\.0\.", r"\.([0-9]+)\.")
    layers = sum(re.fullmatch(block, name) is not None for name in file.shapes)
    ffn_dim, _ = shape("resblocks.0.mlp.c_fc.weight", 2)
    image_size = math.isqrt(max(0, tokens - 1)) * patch
    return {"image_size": image_size, "patch": patch, "width": width, "layers": layers, "ffn_dim": ffn_dim}


def check_sizes(theirs: Mapping[str, int], ours: TowerConfig | ModelConfig, prefix: str, place: str) -> None:
    """ConfigError that names the sizes in which a file and a config differ, and the words that make the config fit."""
    other = {name: size for name, size in theirs.items() if size != getattr(ours, name)}
    if other:
        found = ", ".join(f"{name} {size}" for name, size in other.items())
        wants = ", ".join(f"{getattr(ours, name)}" for name in other)
        sets = " ".join(f"--set {prefix}.{name}={size}" for name, size in other.items())
        raise ConfigError(f"{place} has {prefix} of {found} and the config wants {wants}; give another file, or {sets}")


def check_config(path: Path, tower: TowerConfig) -> None:
    """ConfigError if a config beside the weights says what their shapes do not: the activation, the heads, eps."""
    folder = path if path.is_dir() else path.parent
    for name, part in (("config.json", "vision_config"), ("open_clip_config.json", "model_cfg")):
        try:
            whole = json.loads((folder / name).read_bytes())
        except (OSError, ValueError):
            continue
        alone = isinstance(whole, dict) and str(whole.get("model_type", "")).startswith("clip")
        said = whole.get(part, whole if alone else None) if isinstance(whole, dict) else None
        if isinstance(said, dict):
            _check_said(said, tower, folder / name)


def _layout(file: File) -> tuple[Names, str]:
    """How the file names things, and the prefix of the image tower there."""
    if "visual.conv1.weight" in file.shapes:
        return openai, "visual."
    for prefix in ("vision_model.", ""):  # transformers 5 writes a tower that is alone without a prefix
        if prefix + AROUND["conv1.weight"] in file.shapes:
            return transformers(prefix), prefix
    first = f"it begins with {some(sorted(file.shapes))}" if file.shapes else "it holds no tensors"
    raise ConfigError(
        f"{file.place} holds no CLIP image tower that is known ({first}); give --clip OpenAI's .pt file, or one of "
        "open_clip or transformers"
    )


def _check_said(said: Mapping[str, Any], tower: TowerConfig, place: Path) -> None:
    in_open_clip = place.name.startswith("open_clip")  # where GELU is what is not said
    if not (said.get("quick_gelu", False) if in_open_clip else said.get("hidden_act", "quick_gelu") == "quick_gelu"):
        raise ConfigError(f"{place} says that this tower was not trained with QuickGELU; give --clip OpenAI's weights")
    heads, eps = said.get("num_attention_heads", tower.heads), said.get("layer_norm_eps", EPS)
    if heads != tower.heads:
        raise ConfigError(
            f"{place} says that the tower has {heads} heads and the config has {tower.heads}; --set "
            f"model.tower.heads={heads}"
        )
    if eps != EPS:
        raise ConfigError(f"{place} has layer_norm_eps {eps} and CLIP's is {EPS}; give --clip OpenAI's weights")
