"""Write torchscale.safetensors: what torchscale 0.3.0's own Decoder gives for a small model, in each kind of positions.

    PYTHON -m tests.golden.torchscale_fixture

PYTHON: of the environment that `tests.benchmarks.peer_torchscale` tells of. Inside: weights.*, gradient.* (of the mean
loss of `tokens`), and for xpos, sinusoidal and both, as KIND.CASE, the logits of tokens, odd, pad (row 1 padded on the
right from 17) and long, and of image: `tokens` with the vectors of img_feat where img_mask says so.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.benchmarks.peer_torchscale import decoder, loss

PAD = 1
CONFIG = {"dim": 32, "heads": 2, "ffn_dim": 64, "layers": 2, "vocab_size": 53, "position": "xpos"}
CASES = ("tokens", "odd", "pad", "long")


class Sinusoidal(nn.Module):
    """fairseq's SinusoidalPositionalEmbedding, which torchscale leaves to fairseq: the first position is PAD + 1."""

    def forward(self, tokens, incremental_state=None):
        half = CONFIG["dim"] // 2
        frequency = torch.exp(torch.arange(half, dtype=torch.float) * -(math.log(10000) / (half - 1)))
        angle = torch.arange(PAD + 1 + tokens.shape[1], dtype=torch.float).unsqueeze(1) * frequency.unsqueeze(0)
        table = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
        table[PAD] = 0
        real = tokens.ne(PAD).int()
        return table[(torch.cumsum(real, dim=1).type_as(real) * real).long() + PAD]


def made(position, state=None):
    """torchscale's decoder in eval mode, with norms that are not the identity or with the weights of another."""
    torch.manual_seed(0)
    one = decoder(CONFIG | {"position": position}, None if position == "xpos" else Sinusoidal()).eval()
    if state is not None:
        one.load_state_dict(state, strict=False)
        return one
    with torch.no_grad():
        one.embed_tokens.weight[PAD] = 0  # as KOSMOS-1's is; its own reset leaves it so
        for module in one.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.add_(0.3 * torch.randn_like(module.weight))
                module.bias.add_(0.3 * torch.randn_like(module.bias))
    return one


def main():
    """Compute and write it beside this file."""
    torch.set_num_threads(1)
    first = made("xpos")
    out = {f"weights.{name}": value for name, value in first.named_parameters() if "output_projection" not in name}
    torch.manual_seed(1)
    shapes = {"tokens": (2, 24), "odd": (2, 23), "pad": (2, 24), "long": (1, 160)}
    given = {name: torch.randint(4, CONFIG["vocab_size"], shapes[name]) for name in CASES}
    given["pad"][1, 17:] = PAD
    img_mask = torch.zeros(2, 24, dtype=torch.bool)
    img_mask[0, 2:8] = img_mask[1, 9:15] = True
    img_feat = torch.randn(12, CONFIG["dim"])
    loss(first, given["tokens"]).backward()
    out |= {f"gradient.{name}": p.grad for name, p in first.named_parameters() if "output_projection" not in name}
    out |= {**given, "img_mask": img_mask, "img_feat": img_feat}
    with torch.no_grad():
        for kind in ("xpos", "sinusoidal", "both"):
            one = made(kind, first.state_dict())
            for case in CASES:
                out[f"{kind}.{case}"] = one(given[case], self_attn_padding_mask=given[case].eq(PAD))[0]
            embedded = one.embed_tokens(given["tokens"])
            embedded[img_mask] = img_feat
            out[f"{kind}.image"] = one(given["tokens"], token_embeddings=embedded)[0]
    made_of = {name: value.detach().contiguous() for name, value in out.items()}
    save_file(made_of, Path(__file__).with_name("torchscale.safetensors"), {"made_by": "torchscale 0.3.0"})


if __name__ == "__main__":
    main()
