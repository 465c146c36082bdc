"""The causal decoder of KOSMOS-1: pre-LN with sub-LN (Magneto) and xPos, as torchscale 0.3.0 computes it.

Promises torchscale's parameter names, so that its state loads as it is, and its numbers (1e-5 in float32). Keys are
cached rotated: the origin of xPos is fixed by the config, so no position's key ever changes. The tables of xPos stay
float32 in a bf16 model: rounding them to bf16 nearly doubles the error of the logits (1.1e-3 to 2.0e-3 rms).

Suffixes besides those of `trainer.batch`: J = K / 2 pairs of channels, U positions so far (cached and new).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from engine.errors import ConfigError
from engine.vocab import PAD
from trainer.config import ModelConfig

SCALED = ("fc1", "fc2", "out_proj", "v_proj")  # torchscale scales their initial weights and biases


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """Cosines and sines of xPos, float32, each already times the scale of its side.

    A dataclass and no tuple: FSDP2 casts the tensors that it finds in a block's arguments, and does not look in here.
    """

    q_cos_TJ: torch.Tensor
    q_sin_TJ: torch.Tensor
    k_cos_TJ: torch.Tensor
    k_sin_TJ: torch.Tensor


def rotation(config: ModelConfig, start: int, length: int, device: torch.device) -> Rotation:
    """Build the tables for positions start .. start + length - 1 (xPos, arXiv 2212.10554, as torchscale has it)."""
    head_dim = config.dim // config.heads
    # float64 until the end: n * theta in float32 is off by 1e-4 rad at position 2,047
    even_J = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device)
    position_T1 = torch.arange(start, start + length, dtype=torch.float64, device=device).unsqueeze(1)
    angle_TJ = position_T1 * 10_000.0 ** (-even_J / head_dim)
    zeta_J = (even_J + 0.4 * head_dim) / (1.4 * head_dim)
    scale_TJ = zeta_J ** ((position_T1 - config.xpos_origin) / config.xpos_scale_base)
    cos_TJ, sin_TJ = angle_TJ.cos(), angle_TJ.sin()
    return Rotation(
        q_cos_TJ=(cos_TJ * scale_TJ).float(),
        q_sin_TJ=(sin_TJ * scale_TJ).float(),
        k_cos_TJ=(cos_TJ / scale_TJ).float(),
        k_sin_TJ=(sin_TJ / scale_TJ).float(),
    )


def rotate(x_BTHK: torch.Tensor, cos_TJ: torch.Tensor, sin_TJ: torch.Tensor) -> torch.Tensor:
    """Rotate neighbouring channels (2i, 2i + 1) in float32, and cast back once."""
    a_BTHJ, b_BTHJ = torch.unflatten(x_BTHK.float(), -1, (-1, 2)).unbind(-1)
    cos_T1J, sin_T1J = cos_TJ.unsqueeze(1), sin_TJ.unsqueeze(1)
    pairs = torch.stack((a_BTHJ * cos_T1J - b_BTHJ * sin_T1J, b_BTHJ * cos_T1J + a_BTHJ * sin_T1J), dim=-1)
    return pairs.flatten(-2).type_as(x_BTHK)


class Cache:
    """Rotated keys, and values, of the positions so far, for each layer; room for `capacity` of them.

    Takes device and dtype from what is first put in. `length` grows when the last layer has run.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._layers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers

    def append(self, layer: int, k_BHTK: torch.Tensor, v_BHTK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put a layer's new keys and values behind the old ones; gives (k_BHUK, v_BHUK) of all."""
        kept = self._layers[layer]
        if kept is None:
            room = (*k_BHTK.shape[:2], self.capacity, k_BHTK.shape[-1])
            kept = self._layers[layer] = (k_BHTK.new_empty(room), v_BHTK.new_empty(room))
        end = self.length + k_BHTK.shape[2]
        for all_, new in zip(kept, (k_BHTK, v_BHTK), strict=True):
            all_[:, :, self.length : end] = new
        return kept[0][:, :, :end], kept[1][:, :, :end]


class SelfAttention(nn.Module):
    """Causal attention with one LN over all heads' outputs before the last projection (sub-LN)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.k_proj = nn.Linear(config.dim, config.dim)
        self.v_proj = nn.Linear(config.dim, config.dim)
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)
        self.inner_attn_ln = nn.LayerNorm(config.dim, eps=config.layernorm_eps)

    def forward(self, x_BTD: torch.Tensor, at: Rotation, cache: Cache | None, layer: int) -> torch.Tensor:
        """Attend to all positions up to each own: x_BTD -> x_BTD."""
        split = (self.heads, -1)
        q_BTHK = rotate(torch.unflatten(self.q_proj(x_BTD), -1, split), at.q_cos_TJ, at.q_sin_TJ)
        k_BTHK = rotate(torch.unflatten(self.k_proj(x_BTD), -1, split), at.k_cos_TJ, at.k_sin_TJ)
        v_BTHK = torch.unflatten(self.v_proj(x_BTD), -1, split)
        q_BHTK, k_BHUK, v_BHUK = q_BTHK.transpose(1, 2), k_BTHK.transpose(1, 2), v_BTHK.transpose(1, 2)
        mask_TU = None
        if cache is not None:
            k_BHUK, v_BHUK = cache.append(layer, k_BHUK, v_BHUK)
            mask_TU = _behind(q_BHTK.shape[2], k_BHUK.shape[2], x_BTD.device)
        # SDPA's own scale K^-0.5 is the only one: q is never scaled before
        o_BHTK = F.scaled_dot_product_attention(
            q_BHTK,
            k_BHUK,
            v_BHUK,
            attn_mask=mask_TU,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask_TU is None and q_BHTK.shape[2] == k_BHUK.shape[2],
        )
        out: torch.Tensor = self.out_proj(self.inner_attn_ln(o_BHTK.transpose(1, 2).flatten(-2)))
        return out


def _behind(new: int, total: int, device: torch.device) -> torch.Tensor | None:
    """The mask of a chunk behind cached positions; None where there is none to make: one token, or nothing cached.

    `is_causal` would align the chunk with the first key instead of the last.
    """
    if new in (1, total):
        return None
    return torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)


class FeedForward(nn.Module):
    """fc1, GELU (exact, float32), LN over the inner width (sub-LN), fc2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.ffn_layernorm = nn.LayerNorm(config.ffn_dim, eps=config.layernorm_eps)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """x_BTD -> x_BTD"""
        u_BTF: torch.Tensor = self.fc1(x_BTD)
        u_BTF = F.gelu(u_BTF.float()).type_as(u_BTF)
        out: torch.Tensor = self.fc2(self.ffn_layernorm(u_BTF))
        return out


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each behind an LN and added to what came in. `final_layer_norm`: before the FFN."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim, eps=config.layernorm_eps)
        self.ffn = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.dim, eps=config.layernorm_eps)

    def forward(self, x_BTD: torch.Tensor, at: Rotation, cache: Cache | None, layer: int) -> torch.Tensor:
        """x_BTD -> x_BTD"""
        attended = self.self_attn(self.self_attn_layer_norm(x_BTD), at, cache, layer)
        x_BTD = x_BTD + F.dropout(attended, self.dropout, self.training)
        return x_BTD + F.dropout(self.ffn(self.final_layer_norm(x_BTD)), self.dropout, self.training)


class Decoder(nn.Module):
    """Token embedding, layers and the last LN. The embedding is used by `Kosmos`, for input and for the tied head.

    Initial weights are torchscale's: PyTorch's of a Linear, times sqrt(ln(2 L)) in fc1, fc2, out_proj and v_proj, their
    biases too; the embedding N(0, 1/sqrt(D)), 0 for <pad>. The Magneto paper (arXiv 2210.06423) has Xavier instead.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim, padding_idx=PAD)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.dim, eps=config.layernorm_eps)
        with torch.no_grad():
            nn.init.normal_(self.embed_tokens.weight, std=config.dim**-0.5)
            self.embed_tokens.weight[PAD].zero_()
            gamma = math.sqrt(math.log(2 * config.layers))
            for name, parameter in self.layers.named_parameters():
                if name.split(".")[-2] in SCALED:
                    parameter.mul_(gamma)

    def cache(self, capacity: int = 0) -> Cache:
        """Make an empty cache with room for `capacity` positions; 0: max_length."""
        return Cache(self.config.layers, capacity or self.config.max_length)

    def forward(self, x_BTD: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """Run all layers and the last LN on scaled embeddings: x_BTD -> x_BTD.

        With a cache the positions follow those in it, and are added to it. Raises ConfigError past max_length, or past
        the cache's capacity.
        """
        start = cache.length if cache else 0
        end = start + x_BTD.shape[1]
        limit = min(self.config.max_length, cache.capacity) if cache else self.config.max_length
        if end > limit:
            raise ConfigError(
                f"a sequence of {end:,} positions is longer than the model's {limit:,}; shorten the prompt or ask for "
                "fewer new tokens"
            )
        at = rotation(self.config, start, x_BTD.shape[1], x_BTD.device)
        for number, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, at, cache, number)
        if cache is not None:
            cache.length = end
        out: torch.Tensor = self.layer_norm(x_BTD)
        return out
