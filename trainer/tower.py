"""The image tower: a CLIP ViT (arXiv 2103.00020) without its projection; every token of the last layer is given out.

Promises OpenAI's parameter names (`resblocks.23` and `ln_post` are the part that KOSMOS-1 trains: 12,598,272
parameters). Not in the paper but in the team's code: each token is divided by its length before the connector.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import nn

from trainer.config import TowerConfig

# of CLIP's training images, RGB, pixels from 0 to 1
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
EPS = 1e-5


class Attention(nn.Module):
    """Attention of each token to all, with one matrix for queries, keys and values as in OpenAI's file."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_NPC: torch.Tensor) -> torch.Tensor:
        """x_NPC -> x_NPC"""
        qkv_NPX = F.linear(x_NPC, self.in_proj_weight, self.in_proj_bias)
        q_NHPK, k_NHPK, v_NHPK = torch.unflatten(qkv_NPX, -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        o_NHPK = F.scaled_dot_product_attention(q_NHPK, k_NHPK, v_NHPK)
        out: torch.Tensor = self.out_proj(o_NHPK.transpose(1, 2).flatten(-2))
        return out


class Mlp(nn.Module):
    """Two matrices with QuickGELU between, which CLIP's ViT-L/14 was trained with."""

    def __init__(self, width: int, ffn_dim: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, ffn_dim)
        self.c_proj = nn.Linear(ffn_dim, width)

    def forward(self, x_NPC: torch.Tensor) -> torch.Tensor:
        """x_NPC -> x_NPC"""
        u_NPF: torch.Tensor = self.c_fc(x_NPC)
        out: torch.Tensor = self.c_proj(u_NPF * torch.sigmoid(1.702 * u_NPF))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind an LN and added to what came in."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=EPS)
        self.attn = Attention(config.width, config.heads)
        self.ln_2 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = Mlp(config.width, config.ffn_dim)

    def forward(self, x_NPC: torch.Tensor) -> torch.Tensor:
        """x_NPC -> x_NPC"""
        x_NPC = x_NPC + self.attn(self.ln_1(x_NPC))
        out: torch.Tensor = x_NPC + self.mlp(self.ln_2(x_NPC))
        return out


class Tower(nn.Module):
    """Pixels to tokens: a class token and one for each patch.

    Initial weights have the deviations of CLIP's code: normal with C^-0.5 (tokens, positions, attention), (2 C)^-0.5
    (c_fc) and C^-0.5 (2 L)^-0.5 (what is added to the residual); biases are 0, the patch stem has PyTorch's own.

    frozen: all but the last block and ln_post (KOSMOS-1, section 3.2) take no gradient and are never in training mode.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.frozen = False
        width = config.width
        self.conv1 = nn.Conv2d(3, width, kernel_size=config.patch, stride=config.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.num_tokens, width))
        self.ln_pre = nn.LayerNorm(width, eps=EPS)
        self.resblocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_post = nn.LayerNorm(width, eps=EPS)
        added = (2 * width * config.layers) ** -0.5
        nn.init.normal_(self.class_embedding, std=width**-0.5)
        nn.init.normal_(self.positional_embedding, std=width**-0.5)
        for name, parameter in self.resblocks.named_parameters():
            if name.endswith("in_proj_weight"):
                nn.init.normal_(parameter, std=width**-0.5)
            elif name.endswith(("out_proj.weight", "c_proj.weight")):
                nn.init.normal_(parameter, std=added)
            elif name.endswith("c_fc.weight"):
                nn.init.normal_(parameter, std=(2 * width) ** -0.5)
            elif name.endswith(("proj.bias", "c_fc.bias")):
                nn.init.zeros_(parameter)

    def freeze(self) -> None:
        """Leave the last block and ln_post to training alone, for good."""
        self.frozen = True
        for parameter in self.frozen_parameters():
            parameter.requires_grad_(False)
        self.train(self.training)

    def frozen_parameters(self) -> list[nn.Parameter]:
        """The parameters that do not train: none before `freeze`."""
        if not self.frozen:
            return []
        held = [parameter for module in self._held() for parameter in module.parameters()]
        return [self.class_embedding, self.positional_embedding, *held]

    def train(self, mode: bool = True) -> Tower:
        """Set training mode, which reaches what trains only."""
        super().train(mode)
        if self.frozen:
            for module in self._held():
                module.eval()
        return self

    def _held(self) -> list[nn.Module]:
        return [self.conv1, self.ln_pre, *self.resblocks[:-1]]

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Embed uint8 RGB images: pixels_NCHW -> x_NPC, each token of length 1.

        Raises ValueError where the images have another size than the config's.
        """
        size = self.config.image_size
        if pixels_NCHW.shape[1:] != (3, size, size) or pixels_NCHW.dtype != torch.uint8:
            raise ValueError(
                f"images are {pixels_NCHW.dtype} of {tuple(pixels_NCHW.shape[1:])}, not torch.uint8 of (3, {size}, "
                f"{size})"
            )
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            x_NPC = self._embed(pixels_NCHW)
            for block in self.resblocks[:-1]:
                x_NPC = block(x_NPC)
        x_NPC = self.ln_post(self.resblocks[-1](x_NPC))
        # the length in float32, as norms are
        return F.normalize(x_NPC.float(), dim=-1).type_as(x_NPC)

    def _embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        # normalised here: uint8 is a quarter of the bytes on the way to the device
        mean_C11 = torch.tensor(MEAN, device=pixels_NCHW.device).view(3, 1, 1)
        std_C11 = torch.tensor(STD, device=pixels_NCHW.device).view(3, 1, 1)
        x_NCHW = ((pixels_NCHW / 255 - mean_C11) / std_C11).to(self.conv1.weight.dtype)
        patches_NPC = self.conv1(x_NCHW).flatten(2).transpose(1, 2)
        class_N1C = self.class_embedding.to(patches_NPC.dtype).expand(len(patches_NPC), 1, -1)
        x_NPC: torch.Tensor = torch.cat((class_N1C, patches_NPC), dim=1) + self.positional_embedding
        out: torch.Tensor = self.ln_pre(x_NPC)
        return out
