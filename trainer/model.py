"""KOSMOS-1 (arXiv 2302.14045): image tower, connector and causal decoder with one tied embedding; 1,662,375,936 in all.

Single-device code: parallelism comes from outside, which is why the loss is computed inside `Kosmos.forward` (a sharded
embedding can be used nowhere else). The head, the widest matrix, sees the counted targets only: in a caption that is
one position in five, since 66 positions of an image are no targets.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine.errors import ConfigError
from engine.vocab import IMAGE_SLOTS
from trainer.config import ModelConfig
from trainer.decoder import Cache, Decoder
from trainer.tower import Tower

HEAD_ROWS = 4096  # targets whose logits exist at once: 1.0 GB in float32 at V = 64,007
# on a GPU: rows of the head in few sizes, and columns that its kernels take well (64,007 as they are cost 12 %)
ROW_STEP, COLUMN_STEP = 1024, 64
NOT_COUNTED = -100  # a target that the loss leaves out


def num_parameters(module: nn.Module) -> int:
    """Count parameters, each once, on whatever device they are."""
    return sum(parameter.numel() for parameter in module.parameters())


class CrossAttention(nn.Module):
    """Attention of the latents, the same for each image, to an image's tokens and to themselves.

    Initial weights are fairseq's: q, k, v Xavier-uniform with gain 1/sqrt(2), biases as of a Linear; out Xavier-uniform
    with bias 0.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        for projection in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, latent_SD: torch.Tensor, z_NPD: torch.Tensor) -> torch.Tensor:
        """(latent_SD, z_NPD) -> y_NSD"""
        q_HSK = self._split(self.q_proj(latent_SD))
        y_NHSK = F.scaled_dot_product_attention(
            q_HSK.expand(len(z_NPD), -1, -1, -1),
            self._behind(self.k_proj, z_NPD, latent_SD),
            self._behind(self.v_proj, z_NPD, latent_SD),
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: torch.Tensor = self.out_proj(y_NHSK.transpose(1, 2).flatten(-2))
        return out

    def _behind(self, projection: nn.Linear, z_NPD: torch.Tensor, latent_SD: torch.Tensor) -> torch.Tensor:
        # the latents' part is the same for all images: projected once, a fifth of the work
        own_NSD = projection(latent_SD).expand(len(z_NPD), -1, -1)
        return self._split(torch.cat((projection(z_NPD), own_NSD), dim=1))

    def _split(self, x_XSD: torch.Tensor) -> torch.Tensor:
        return torch.unflatten(x_XSD, -1, (self.heads, -1)).transpose(-3, -2)


class XConnector(nn.Module):
    """Make 64 vectors of the decoder's width of an image's tokens: one attention layer; no LN, residual or FFN.

    The paper points to Flamingo's resampler of six layers; its parameter count ("1.6B") fits only this one.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.tower.width, config.dim)
        self.latent_query = nn.Parameter(torch.empty(IMAGE_SLOTS, config.dim))
        self.x_attn = CrossAttention(config.dim, config.connector_heads, config.attention_dropout)
        nn.init.normal_(self.latent_query)

    def forward(self, x_NPC: torch.Tensor) -> torch.Tensor:
        """x_NPC -> y_NSD"""
        out: torch.Tensor = self.x_attn(self.latent_query, self.dense(x_NPC))
        return out


class Kosmos(nn.Module):
    """The whole model. `vocab_size` must be set: ConfigError where it is 0.

    tower, connector: None where `config.images` is False. `freeze_tower` leaves of the tower its last block and ln_post
    to training, which is 1,371,794,432 parameters of KOSMOS-1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size <= 0:
            raise ConfigError("model.vocab_size is 0; take it from the manifest or --set model.vocab_size=N")
        self.config = config
        self.decoder = Decoder(config)
        self.tower = Tower(config.tower) if config.images else None
        self.connector = XConnector(config) if config.images else None

    @property
    def frozen(self) -> bool:
        """Whether the tower is frozen but for its last block."""
        return self.tower is not None and self.tower.frozen

    def freeze_tower(self) -> None:
        """Take all of the tower but its last block and ln_post out of training, for good; ConfigError without one."""
        if self.tower is None:
            raise ConfigError("model.images is false: there is no tower to freeze; set model.freeze_tower=no")
        self.tower.freeze()

    def frozen_parameters(self) -> list[nn.Parameter]:
        """The parameters that do not train: none before `freeze_tower`."""
        return self.tower.frozen_parameters() if self.tower is not None else []

    def forward(
        self,
        tokens_BT: torch.Tensor,
        counted_BT: torch.Tensor,
        pixels_NCHW: torch.Tensor,
        slots_N2: torch.Tensor,
    ) -> torch.Tensor:
        """Sum the negative log-likelihoods, in nats, of the counted tokens: 0-dim, float32; 0 where none counts.

        Arguments as in `trainer.batch.MicroBatch`. Raises ValueError where the 64 slots of an image do not fit, or for
        images where the model has no tower.
        """
        x_BTD = self.hidden(tokens_BT, pixels_NCHW, slots_N2)
        counted = counted_BT[:, 1:]  # token j is predicted at j - 1
        x_MD, target_M = x_BTD[:, :-1][counted], tokens_BT[:, 1:][counted]
        return nll_sum(x_MD, self.decoder.embed_tokens.weight, target_M, aligned=x_MD.is_cuda)

    def logits(
        self,
        tokens_BT: torch.Tensor,
        pixels_NCHW: torch.Tensor,
        slots_N2: torch.Tensor,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Score every entry of the vocabulary as the next token, at each position: (B, T, V).

        With a cache the tokens follow those in it; slots count from the first token given.
        """
        return self.head(self.hidden(tokens_BT, pixels_NCHW, slots_N2, cache))

    def hidden(
        self,
        tokens_BT: torch.Tensor,
        pixels_NCHW: torch.Tensor,
        slots_N2: torch.Tensor,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Run the decoder on text and images: x_BTD behind the last LN."""
        x_BTD: torch.Tensor = self.decoder.embed_tokens(tokens_BT)
        index_R = _slot_rows(tokens_BT, pixels_NCHW, slots_N2)
        if len(pixels_NCHW):
            y_NSD = self.embed_images(pixels_NCHW).type_as(x_BTD)
            num = len(slots_N2)
            if num:
                x_BTD = x_BTD.flatten(0, 1).index_copy(0, index_R, y_NSD[:num].flatten(0, 1)).view_as(x_BTD)
            if len(y_NSD) > num:
                # the blank image too many: no part of it but a gradient of 0, whatever it holds (0 * inf is NaN)
                extra_NSD = y_NSD[num:]
                x_BTD = x_BTD + extra_NSD.masked_fill(torch.ones_like(extra_NSD, dtype=torch.bool), 0.0).sum()
        out: torch.Tensor = self.decoder(x_BTD * math.sqrt(self.config.dim), cache)
        return out

    def head(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Multiply with the token embedding: (..., D) -> (..., V)."""
        return F.linear(x_BTD, self.decoder.embed_tokens.weight)

    def embed_images(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Make an image's 64 vectors, not yet scaled by sqrt(D): uint8 pixels_NCHW -> (N, 64, D).

        Raises ValueError where the model has no tower.
        """
        if self.tower is None or self.connector is None:
            raise ValueError(f"{len(pixels_NCHW)} images for a model without an image tower (model.images is false)")
        out: torch.Tensor = self.connector(self.tower(pixels_NCHW))
        return out

    def cache(self, capacity: int = 0) -> Cache:
        """Make an empty cache for `logits` or `hidden`, with room for `capacity` positions; 0: max_length."""
        return self.decoder.cache(capacity)


def nll_sum(x_MD: torch.Tensor, weight_VD: torch.Tensor, target_M: torch.Tensor, *, aligned: bool) -> torch.Tensor:
    """Sum the negative log-likelihoods of targets, in nats, from what the decoder gives for them: 0-dim, float32.

    aligned: fill rows up to a multiple of 1,024 and the vocabulary to one of 64, neither of which counts.
    """
    bias_V = None
    if aligned:
        rows = max(1, math.ceil(len(x_MD) / ROW_STEP)) * ROW_STEP - len(x_MD)
        x_MD, target_M = F.pad(x_MD, (0, 0, 0, rows)), F.pad(target_M, (0, rows), value=NOT_COUNTED)
        columns = -len(weight_VD) % COLUMN_STEP
        if columns:
            # as a bias the entries that are none cost nothing: -inf has no share of a softmax
            bias_V = F.pad(weight_VD.new_zeros(len(weight_VD)), (0, columns), value=-math.inf)
            weight_VD = F.pad(weight_VD, (0, 0, 0, columns))

    def chunk_nll(x_MD: torch.Tensor, target_M: torch.Tensor) -> torch.Tensor:
        logits_MV = F.linear(x_MD, weight_VD, bias_V)
        return F.cross_entropy(logits_MV.float(), target_M, reduction="sum", ignore_index=NOT_COUNTED)

    chunks = list(zip(torch.split(x_MD, HEAD_ROWS), torch.split(target_M, HEAD_ROWS), strict=True))
    if len(chunks) == 1:
        return chunk_nll(*chunks[0])
    # recomputed in the backward pass, so that the logits of one chunk only are alive
    return torch.stack(
        [checkpoint(chunk_nll, x, target, use_reentrant=False, preserve_rng_state=False) for x, target in chunks]
    ).sum()


def _slot_rows(tokens_BT: torch.Tensor, pixels_NCHW: torch.Tensor, slots_N2: torch.Tensor) -> torch.Tensor:
    """Where the images' vectors go in (B * T) positions: 64 of each image, but of one that is too many, in order."""
    if not len(slots_N2) <= len(pixels_NCHW) <= len(slots_N2) + 1:
        raise ValueError(f"{len(pixels_NCHW)} images for {len(slots_N2)} runs of slots")
    if not len(slots_N2):
        return slots_N2.new_empty(0)
    rows, length = tokens_BT.shape
    row_N, start_N = slots_N2.unbind(1)
    first_N = row_N * length + start_N
    fits = (row_N >= 0).all() & (row_N < rows).all() & (start_N >= 0).all() & (start_N + IMAGE_SLOTS <= length).all()
    if not bool(fits & (first_N.diff() >= IMAGE_SLOTS).all()):
        raise ValueError(
            f"the {IMAGE_SLOTS} slots of each image, one behind the other, do not fit in {rows} rows of {length}: "
            f"{slots_N2.tolist()}"
        )
    return (first_N.unsqueeze(1) + torch.arange(IMAGE_SLOTS, device=slots_N2.device)).flatten()
