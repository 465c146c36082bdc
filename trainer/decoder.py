"""The causal decoder of KOSMOS-1: pre-LN with sub-LN (Magneto) and xPos, as torchscale 0.3.0 computes it.

Promises torchscale's parameter names, so that its state loads as it is, and its numbers (1e-5 in float32). Keys are
cached rotated: the origin of xPos is fixed by the config, so no position's key ever changes. The tables of positions
stay float32 in a bf16 model: rounding those of xPos nearly doubles the error of the logits (1.1e-3 to 2.0e-3 rms).

Suffixes besides those of `trainer.batch`: J = K / 2 pairs of channels, U positions so far (cached and new).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine.errors import ConfigError
from engine.vocab import PAD
from trainer.config import ModelConfig

SCALED = ("fc1", "fc2", "out_proj", "v_proj")  # torchscale scales their initial weights and biases
FIRST = 2  # fairseq's number of the first position: those up to <pad>'s id are taken

# puts a layer's new keys and values behind its old ones: (k_BHTK, v_BHTK) -> (k_BHUK, v_BHUK)
Append = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Rotation:
    """Cosines and sines of xPos, float32, each already times the scale of its side.

    A plain class on purpose: FSDP2 casts to bf16 every tensor that it finds in a block's arguments, and it looks into
    tuples, dictionaries and dataclasses.
    """

    def __init__(
        self, *, q_cos_TJ: torch.Tensor, q_sin_TJ: torch.Tensor, k_cos_TJ: torch.Tensor, k_sin_TJ: torch.Tensor
    ) -> None:
        self.q_cos_TJ, self.q_sin_TJ, self.k_cos_TJ, self.k_sin_TJ = q_cos_TJ, q_sin_TJ, k_cos_TJ, k_sin_TJ


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


def sinusoids(config: ModelConfig, start: int, length: int, device: torch.device) -> torch.Tensor:
    """Build fairseq's table of absolute positions start .. start + length - 1: float32 table_TD.

    Sines, then cosines; position 0 has number 2. Frequencies and angles are rounded to float32 as fairseq's are, an
    error of 1e-4 at position 2,047 that the team's weights have been trained with.
    """
    half = config.dim // 2
    # on the CPU: another device's exp differs in the last bit, which is 1e-4 of an angle of 2,000
    frequency_J = torch.exp(
        torch.arange(half, dtype=torch.float32, device="cpu") * -(math.log(10_000) / max(half - 1, 1))
    )
    number_T1 = torch.arange(FIRST + start, FIRST + start + length, dtype=torch.float32, device=device).unsqueeze(1)
    angle_TJ = number_T1 * frequency_J.to(device)
    return torch.cat((angle_TJ.sin(), angle_TJ.cos()), dim=1)


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

    def forward(self, x_BTD: torch.Tensor, at: Rotation | None, append: Append | None) -> torch.Tensor:
        """Attend to all positions up to each own: x_BTD -> x_BTD. at: None where there is no xPos."""
        split = (self.heads, -1)
        q_BTHK = torch.unflatten(self.q_proj(x_BTD), -1, split)
        k_BTHK = torch.unflatten(self.k_proj(x_BTD), -1, split)
        v_BTHK = torch.unflatten(self.v_proj(x_BTD), -1, split)
        if at is not None:
            q_BTHK = rotate(q_BTHK, at.q_cos_TJ, at.q_sin_TJ)
            k_BTHK = rotate(k_BTHK, at.k_cos_TJ, at.k_sin_TJ)
        q_BHTK, k_BHUK, v_BHUK = q_BTHK.transpose(1, 2), k_BTHK.transpose(1, 2), v_BTHK.transpose(1, 2)
        mask_TU = None
        if append is not None:
            k_BHUK, v_BHUK = append(k_BHUK, v_BHUK)
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

    def forward(
        self, x_BTD: torch.Tensor, at: Rotation | None, append: Append | None = None, recompute: bool = False
    ) -> torch.Tensor:
        """x_BTD -> x_BTD. recompute: keep x_BTD alone for the backward pass, which draws the same dropout again."""
        if not recompute or not self.training or append is not None:
            return self._run(x_BTD, at, append)
        # inside forward, so that gathering (FSDP) and compiling are around it; `at` is enclosed, as no graph takes it
        out: torch.Tensor = checkpoint(lambda x: self._run(x, at, None), x_BTD, use_reentrant=False)
        return out

    def _run(self, x_BTD: torch.Tensor, at: Rotation | None, append: Append | None) -> torch.Tensor:
        attended = self.self_attn(self.self_attn_layer_norm(x_BTD), at, append)
        x_BTD = x_BTD + F.dropout(attended, self.dropout, self.training)
        return x_BTD + F.dropout(self.ffn(self.final_layer_norm(x_BTD)), self.dropout, self.training)


@torch.no_grad()
def initialise(layers: nn.Module, config: ModelConfig) -> None:
    """Give the Linears of freshly made layers their initial weights, for a decoder of `config.layers` of them.

    "torchscale": PyTorch's own, times sqrt(ln(2 L)) in fc1, fc2, out_proj and v_proj, biases too. "xavier", the Magneto
    paper's (arXiv 2210.06423): Xavier-normal, with that gain in the same four and 1 in q_proj and k_proj; biases 0.
    """
    gamma = math.sqrt(math.log(2 * config.layers))
    for name, module in layers.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        gain = gamma if name.split(".")[-1] in SCALED else 1.0
        if config.init == "xavier":
            nn.init.xavier_normal_(module.weight, gain=gain)
            nn.init.zeros_(module.bias)
        elif gain != 1.0:
            for parameter in module.parameters():
                parameter.mul_(gain)


class Decoder(nn.Module):
    """Token embedding, layers and the last LN. The embedding is used by `Kosmos`, for input and for the tied head.

    Its initial weights are N(0, 1/sqrt(D)), and 0 for <pad>; those of the layers: `initialise`. recompute: in training,
    keep what goes into a layer alone for the backward pass, and compute the rest again there.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim, padding_idx=PAD)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.dim, eps=config.layernorm_eps)
        with torch.no_grad():
            nn.init.normal_(self.embed_tokens.weight, std=config.dim**-0.5)
            self.embed_tokens.weight[PAD].zero_()
        initialise(self.layers, config)

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
        where = (self.config, start, x_BTD.shape[1], x_BTD.device)
        if self.config.position != "xpos":
            x_BTD = (x_BTD.float() + sinusoids(*where)).type_as(x_BTD)
        x_BTD = F.dropout(x_BTD, self.config.dropout, self.training)
        at = rotation(*where) if self.config.position != "sinusoidal" else None
        for number, layer in enumerate(self.layers):
            # no number goes into a layer: one compilation serves them all
            x_BTD = layer(x_BTD, at, partial(cache.append, number) if cache is not None else None, self.recompute)
        if cache is not None:
            cache.length = end
        out: torch.Tensor = self.layer_norm(x_BTD)
        return out
