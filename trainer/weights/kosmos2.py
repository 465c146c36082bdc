"""KOSMOS-2's weights (arXiv 2306.14824) in transformers' names, which are KOSMOS-1's model with 1,030 more words.

Released are weights of KOSMOS-2 alone. They were trained with sinusoidal positions, whatever the paper says of xPos, so
they need `model.position` "sinusoidal". Words have the same ids up to 64,007, KOSMOS-1's last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.errors import ConfigError
from engine.vocab import Vocab
from trainer.config import ModelConfig
from trainer.weights import clip
from trainer.weights.shapes import of_model
from trainer.weights.tensors import File, laid, opened

SIZE = 65_037  # of KOSMOS-2's vocabulary: box corners and phrase marks behind KOSMOS-1's 64,007
TEXT, VISION, CONNECTOR = "text_model.model.", "vision_model.model.", "image_to_text_projection."
HEAD = "text_model.lm_head.weight"  # the embedding once more
TABLES = (TEXT + "embed_positions.weights", VISION + clip.POSITION_IDS)  # computed, which older transformers wrote
EMBEDDING = "decoder.embed_tokens.weight"


def known(file: File) -> bool:
    """Whether a file of tensors has these names."""
    return names(EMBEDDING)[0] in file.shapes


def read(path: str | Path, model: ModelConfig) -> dict[str, torch.Tensor]:
    """Read all tensors of `trainer.model.Kosmos` by its names, in float32 on the CPU.

    path: a .safetensors file, or a folder with its index. The vocabulary is the file's, or KOSMOS-1's 64,007 of the
    65,037: their first rows, which have the same ids under the released tokenizer. Without `model.images` the decoder
    alone is read. ConfigError where the file is damaged or holds another model than the config's.
    """
    if model.position != "sinusoidal":
        raise ConfigError(
            f"{path}: KOSMOS-2 was trained with sinusoidal positions, model.position is {model.position}; add --set "
            "model.position=sinusoidal"
        )
    _check_config(Path(path), model)
    with opened(path) as file:
        if not known(file):
            raise ConfigError(f"{path} holds no KOSMOS-2 in transformers' names; give another file")
        _check_sizes(file, model)
        shapes = of_model(model)
        rows = file.shapes[names(EMBEDDING)[0]][0]
        shapes[EMBEDDING] = (rows, model.dim)
        prefixes = (TEXT, VISION, CONNECTOR) if model.images else (TEXT,)
        theirs = [name for name in file.shapes if name.startswith(prefixes) and name not in TABLES]
        tensors = laid(file, shapes, names, theirs, "KOSMOS-2")
        if HEAD in file.shapes and not torch.equal(file.read(HEAD), tensors[EMBEDDING]):
            raise ConfigError(f"{HEAD} in {path} is not its embedding, to which KOSMOS-1's is tied; give another file")
    tensors[EMBEDDING] = tensors[EMBEDDING][: model.vocab_size].clone()
    return tensors


def names(name: str) -> tuple[str, ...]:
    """Our name of a tensor in transformers': one, or those of q, k and v in the tower."""
    part, _, rest = name.partition(".")
    if part == "tower":
        return clip.transformers(VISION)(rest)
    return ((TEXT if part == "decoder" else CONNECTOR) + rest,)


def renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give tensors transformers' names, the head beside the embedding, for a file that it loads."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        theirs = names(name)
        found |= dict(zip(theirs, tensor.chunk(len(theirs)) if theirs[1:] else (tensor,), strict=True))
    return found | {HEAD: tensors[EMBEDDING]}


def config(model: ModelConfig) -> dict[str, Any]:
    """What transformers' config.json says of such a model; ConfigError for one that its code cannot compute."""
    wrong = {"position": ("sinusoidal", model.position), "images": (True, model.images)}
    wrong |= {"connector_heads": (model.heads, model.connector_heads)}
    for name, (theirs, ours) in wrong.items():
        if theirs != ours:
            raise ConfigError(
                f"KOSMOS-2's code has model.{name} {theirs} and the run has {ours}; export it with --layout kosmos"
            )
    tower = model.tower
    return {
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "model_type": "kosmos-2",
        "latent_query_num": 64,
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "kosmos_2_text_model",
            "vocab_size": model.vocab_size,
            "max_position_embeddings": model.max_length,
            "embed_dim": model.dim,
            "layers": model.layers,
            "ffn_dim": model.ffn_dim,
            "attention_heads": model.heads,
            "activation_function": "gelu",
            "dropout": model.dropout,
            "attention_dropout": model.attention_dropout,
            "layer_norm_eps": model.layernorm_eps,
            "scale_embedding": True,
            "tie_word_embeddings": True,
        },
        "vision_config": {
            "model_type": "kosmos_2_vision_model",
            "hidden_size": tower.width,
            "intermediate_size": tower.ffn_dim,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
            "image_size": tower.image_size,
            "patch_size": tower.patch,
            "hidden_act": "quick_gelu",
        },
    }


def _check_sizes(file: File, model: ModelConfig) -> None:
    rows, dim = _shape(file, names(EMBEDDING)[0])
    layer = re.compile(re.escape(TEXT) + r"layers\.[0-9]+\.ffn\.fc1\.weight")
    theirs = {
        "dim": dim,
        "layers": sum(layer.fullmatch(name) is not None for name in file.shapes),
        "ffn_dim": _shape(file, TEXT + "layers.0.ffn.fc1.weight")[0],
    }
    clip.check_sizes(theirs, model, "model", file.place)
    if model.images:
        clip.check_sizes(clip.sizes(file, clip.transformers(VISION)), model.tower, "model.tower", file.place)
    if model.vocab_size != rows and (model.vocab_size, rows) != (Vocab().size, SIZE):
        raise ConfigError(
            f"{file.place} has {rows:,} words and the config's model {model.vocab_size:,}, with other ids; pack with "
            f"the KOSMOS tokenizer (--set pack.tokenizer=FILE), which makes {Vocab().size:,}"
        )


def _shape(file: File, name: str) -> tuple[int, int]:
    found = file.shapes.get(name, ())
    return (found[0], found[1]) if len(found) == 2 else (0, 0)


def _check_config(path: Path, model: ModelConfig) -> None:
    """ConfigError if a config beside the weights says what their shapes do not: the heads, above all."""
    if model.images:
        clip.check_config(path, model.tower)
    for said in _said((path if path.is_dir() else path.parent) / "config.json"):
        for name, ours in (("attention_heads", model.heads), ("layer_norm_eps", model.layernorm_eps)):
            if said.get(name, ours) != ours:
                raise ConfigError(
                    f"{path} says that {name} is {said[name]} and the config has {ours}; --set "
                    f"model.{'heads' if name == 'attention_heads' else 'layernorm_eps'}={said[name]}"
                )
    if model.connector_heads != model.heads:
        raise ConfigError(
            f"{path}: KOSMOS-2's connector has as many heads as its decoder; --set model.connector_heads={model.heads}"
        )


def _said(place: Path) -> Iterator[Mapping[str, Any]]:
    try:
        said = json.loads(place.read_bytes())["text_config"]
    except (KeyError, OSError, TypeError, ValueError):
        return
    if isinstance(said, dict):
        yield said
