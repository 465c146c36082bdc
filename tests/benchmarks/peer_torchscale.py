"""torchscale 0.3.0's Decoder, the peer of decoder_throughput and the source of the golden fixture of the decoder.

    python peer_torchscale.py CONFIG.json WEIGHTS.safetensors

For each line on stdin, one forward and backward pass over the tokens in WEIGHTS; prints a JSON line for it: CPU seconds
of the process, and the loss. Runs in an environment of its own: `pip install --no-deps torchscale==0.3.0` beside the
same torch, numpy and safetensors. What torchscale imports and a plain decoder never calls is stubbed: fairscale's
wrappers and timm's drop_path, whose installation would put another torch in place of this one.
"""

import json
import math
import sys
import time
import types

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

HEAD_ROWS = 4096  # as in trainer.model: the same part of the loss at once on both sides


def stub():
    """Put empty modules in place of what is imported and not called."""
    for name in ("fairscale", "fairscale.nn", "timm", "timm.models", "timm.models.layers"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["fairscale.nn"].checkpoint_wrapper = sys.modules["fairscale.nn"].wrap = lambda module: module
    sys.modules["timm.models.layers"].drop_path = lambda x, *_: x


def decoder(config, positions=None):
    """torchscale's Decoder as KOSMOS-1 has it. config: the fields of trainer.config.ModelConfig that matter to it."""
    stub()
    from torchscale.architecture.config import DecoderConfig
    from torchscale.architecture.decoder import Decoder
    from torchscale.component.embedding import TextEmbedding

    theirs = DecoderConfig(
        decoder_embed_dim=config["dim"],
        decoder_attention_heads=config["heads"],
        decoder_ffn_embed_dim=config["ffn_dim"],
        decoder_layers=config["layers"],
        vocab_size=config["vocab_size"],
        no_scale_embedding=False,
        share_decoder_input_output_embed=True,
        subln=True,
        xpos_rel_pos=config["position"] != "sinusoidal",
        xpos_scale_base=512,
    )
    table = TextEmbedding(config["vocab_size"], config["dim"], 1)
    return Decoder(theirs, embed_tokens=table, embed_positions=positions)


def loss(made, tokens):
    """The mean NLL of all tokens but the first, through the tied head in chunks that are computed again."""
    x = made(tokens, features_only=True)[0][:, :-1].flatten(0, 1)
    target = tokens[:, 1:].flatten()

    def part(x, target):
        return F.cross_entropy(made.output_layer(x), target, reduction="sum")

    parts = list(zip(x.split(HEAD_ROWS), target.split(HEAD_ROWS), strict=True))
    if len(parts) == 1:
        return part(*parts[0]) / len(target)
    return sum(checkpoint(part, *one, use_reentrant=False, preserve_rng_state=False) for one in parts) / len(target)


def main():
    """Answer each line with one pass."""
    torch.set_num_threads(1)
    with open(sys.argv[1]) as file:
        config = json.load(file)
    state = load_file(sys.argv[2])
    tokens = state.pop("tokens")
    made = decoder(config)
    missing, unexpected = made.load_state_dict(state, strict=False)
    assert not unexpected and all(".xpos." in name or "output_projection" in name for name in missing), missing
    for _ in sys.stdin:
        made.zero_grad(set_to_none=True)
        started = time.process_time()
        value = loss(made, tokens)
        value.backward()
        cpu_s = time.process_time() - started
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in made.parameters()))
        print(json.dumps({"cpu_s": cpu_s, "loss": float(value.detach()), "grad_norm": norm}), flush=True)


if __name__ == "__main__":
    main()
