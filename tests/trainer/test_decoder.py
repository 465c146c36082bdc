"""The decoder against torchscale's saved numbers and against its formulas written out; causality, caching, limits."""

from __future__ import annotations

import cmath
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.errors import ConfigError
from engine.vocab import PAD
from trainer.config import ModelConfig
from trainer.decoder import Decoder, rotation

REFERENCE = Path(__file__).parents[2].parent / "shared/reference/torchscale_reference.pt"
CONFIG = ModelConfig(vocab_size=97, dim=64, layers=3, heads=4, ffn_dim=256, connector_heads=4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    if not REFERENCE.exists():
        pytest.skip("the reference file is not here")
    saved: dict[str, Any] = torch.load(REFERENCE, weights_only=True)
    return saved


def decoder(config: ModelConfig = CONFIG, seed: int = 0) -> Decoder:
    """A decoder in eval mode whose norms are not the identity, so that a missing one shows."""
    torch.manual_seed(seed)
    made = Decoder(config).eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.add_(0.3 * torch.randn_like(module.weight))
                module.bias.add_(0.3 * torch.randn_like(module.bias))
    return made


def embed(made: Decoder, tokens_BT: torch.Tensor) -> torch.Tensor:
    x_BTD: torch.Tensor = made.embed_tokens(tokens_BT) * math.sqrt(made.config.dim)
    return x_BTD


def logits(made: Decoder, x_BTD: torch.Tensor) -> torch.Tensor:
    scores: torch.Tensor = made(x_BTD) @ made.embed_tokens.weight.T
    return scores


def ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchscale's state without its tables of xPos and the second name of the tied matrix."""
    return {name: x for name, x in state.items() if ".xpos." not in name and not name.startswith("output_projection")}


@torch.no_grad()
@pytest.mark.parametrize("case", ["", "_odd", "_pad"])
def test_logits_are_those_of_torchscale(reference: dict[str, Any], case: str) -> None:
    made = Decoder(CONFIG).eval()
    made.load_state_dict(ours(reference["state_dict"]))
    tokens_BT = reference[f"tokens{case}"]
    real_BT = tokens_BT != PAD  # what stands at padding is nobody's
    got, expected = logits(made, embed(made, tokens_BT)), reference[f"logits{case}"]
    torch.testing.assert_close(got[real_BT], expected[real_BT], atol=1e-5, rtol=0)
    assert int(real_BT.sum()) == {"": 48, "_odd": 46, "_pad": 41}[case]


@torch.no_grad()
def test_vectors_in_place_of_tokens_give_the_logits_of_torchscale(reference: dict[str, Any]) -> None:
    made = Decoder(CONFIG).eval()
    made.load_state_dict(ours(reference["state_dict"]))
    x_BTD = made.embed_tokens(reference["tokens"]).clone()
    x_BTD[reference["img_mask"]] = reference["img_feat"]
    torch.testing.assert_close(logits(made, 8.0 * x_BTD), reference["logits_img"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_every_layer_gives_the_hidden_states_of_torchscale(reference: dict[str, Any]) -> None:
    made = Decoder(CONFIG).eval()
    made.load_state_dict(ours(reference["state_dict"]))
    seen: list[torch.Tensor] = []
    for layer in made.layers:
        layer.register_forward_hook(lambda _module, _args, out: seen.append(out))
    x_BTD = embed(made, reference["tokens"])
    made(x_BTD)
    for got, expected in zip([x_BTD, *seen], reference["hidden_states"], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def bounds(state: dict[str, torch.Tensor], layers: int) -> dict[str, float]:
    """The largest value that torchscale's rule allows in each matrix and bias of a Linear."""
    gamma = math.sqrt(math.log(2 * layers))
    found = {}
    for name in state:
        owner = name.split(".")[-2]
        if owner in ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"):
            fan_in = state[name.rsplit(".", 1)[0] + ".weight"].shape[1]
            found[name] = fan_in**-0.5 * (1.0 if owner in ("q_proj", "k_proj") else gamma)
    return found


def check_initial(state: dict[str, torch.Tensor]) -> None:
    limits = bounds(state, layers=3)
    assert len(limits) == 3 * 6 * 2
    for name, limit in limits.items():
        largest = float(state[name].abs().max())
        assert 0.9 * limit < largest <= limit * (1 + 1e-6), name
        if name.endswith("weight"):
            assert float(state[name].std()) == pytest.approx(limit / math.sqrt(3), rel=0.05), name
    for name, value in state.items():
        if name not in limits and name != "embed_tokens.weight":
            assert bool((value == (1.0 if name.endswith("weight") else 0.0)).all()), name
    table = state["embed_tokens.weight"]
    assert bool((table[PAD] == 0).all())
    assert float(table[PAD + 1 :].std()) == pytest.approx(64**-0.5, rel=0.05)


def test_initial_weights_follow_the_rule_of_torchscale() -> None:
    torch.manual_seed(3)
    check_initial(Decoder(CONFIG).state_dict())


def test_initial_weights_of_torchscale_follow_that_rule_too(reference: dict[str, Any]) -> None:
    check_initial(ours(reference["init_state_dict"]))


def norm(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[name + ".weight"] + state[name + ".bias"]


def linear(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return torch.einsum("btd,ed->bte", x, state[name + ".weight"]) + state[name + ".bias"]


def plain_xpos(x_THK: torch.Tensor, sign: int, origin: float) -> torch.Tensor:
    """xPos by its definition: neighbours as one complex number, turned by n * theta and scaled by zeta ** +-e."""
    out = torch.empty_like(x_THK)
    length, _, width = x_THK.shape
    for n in range(length):
        for pair in range(width // 2):
            theta = 10_000 ** (-2 * pair / width)
            zeta = (2 * pair / width + 0.4) / 1.4
            turn = cmath.exp(1j * n * theta) * zeta ** (sign * (n - origin) / 512)
            a, b = x_THK[n, :, 2 * pair], x_THK[n, :, 2 * pair + 1]
            out[n, :, 2 * pair] = a * turn.real - b * turn.imag
            out[n, :, 2 * pair + 1] = b * turn.real + a * turn.imag
    return out


def plain(config: ModelConfig, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The equations of a layer (arXiv 2210.06423, 2212.10554), in float64 and with no fused operation."""
    state = {name: value.double() for name, value in state.items()}
    x, length, heads = x.double(), x.shape[1], config.heads
    for layer in range(config.layers):
        at = f"layers.{layer}."
        h = norm(x, state, at + "self_attn_layer_norm")
        q, k, v = (
            linear(h, state, f"{at}self_attn.{name}_proj").view(len(x), length, heads, -1) for name in ("q", "k", "v")
        )
        q = torch.stack([plain_xpos(row, 1, math.ceil(length / 2)) for row in q]) * (config.dim // heads) ** -0.5
        k = torch.stack([plain_xpos(row, -1, math.ceil(length / 2)) for row in k])
        out = torch.zeros_like(v)
        for position in range(length):
            scores = torch.einsum("bhk,bnhk->bhn", q[:, position], k[:, : position + 1])
            out[:, position] = torch.einsum("bhn,bnhk->bhk", scores.softmax(-1), v[:, : position + 1])
        o = norm(out.reshape(len(x), length, -1), state, at + "self_attn.inner_attn_ln")
        x = x + linear(o, state, at + "self_attn.out_proj")
        u = linear(norm(x, state, at + "final_layer_norm"), state, at + "ffn.fc1")
        u = 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))
        x = x + linear(norm(u, state, at + "ffn.ffn_layernorm"), state, at + "ffn.fc2")
    return torch.einsum("btd,vd->btv", norm(x, state, "layer_norm"), state["embed_tokens.weight"])


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 13, 24])
def test_the_decoder_is_its_equations(length: int) -> None:
    made = decoder()
    x_BTD = embed(made, torch.randint(0, 97, (2, length)))
    expected = plain(CONFIG, made.state_dict(), x_BTD)
    torch.testing.assert_close(logits(made, x_BTD).double(), expected, atol=1e-5, rtol=0)


def test_tables_of_xpos_are_its_closed_form() -> None:
    config = replace(CONFIG, dim=256, xpos_origin=12)
    at = rotation(config, 2000, 48, CPU)
    pairs = 32
    for row, position in enumerate(range(2000, 2048)):
        for pair in range(pairs):
            turn = cmath.exp(1j * position * 10_000 ** (-pair / pairs))
            scale = ((pair / pairs + 0.4) / 1.4) ** ((position - 12) / 512)
            assert float(at.q_cos_TJ[row, pair]) == pytest.approx(turn.real * scale, abs=1e-7)
            assert float(at.q_sin_TJ[row, pair]) == pytest.approx(turn.imag * scale, abs=1e-7)
            assert float(at.k_cos_TJ[row, pair]) == pytest.approx(turn.real / scale, rel=1e-6)
            assert float(at.k_sin_TJ[row, pair]) == pytest.approx(turn.imag / scale, rel=1e-6)


def test_tables_of_xpos_stay_float32_and_out_of_the_state() -> None:
    made = decoder().to(torch.bfloat16)
    x_BTD = embed(made, torch.randint(4, 97, (1, 9)))
    assert made(x_BTD).dtype == torch.bfloat16
    assert rotation(made.config, 0, 9, CPU).q_cos_TJ.dtype == torch.float32
    assert not list(made.buffers())


@torch.no_grad()
def test_the_origin_of_xpos_does_not_matter() -> None:
    made, shifted = decoder(), decoder(replace(CONFIG, xpos_origin=0))
    x_BTD = embed(made, torch.randint(4, 97, (2, 200)))
    difference = (logits(made, x_BTD) - logits(shifted, x_BTD)).abs().max()
    assert 0 < float(difference) < 1e-4


@torch.no_grad()
def test_a_token_changes_nothing_before_it() -> None:
    made = decoder()
    tokens_BT = torch.randint(4, 97, (1, 40))
    before = logits(made, embed(made, tokens_BT))
    for t in (1, 20, 39):
        changed = tokens_BT.clone()
        changed[0, t] = (changed[0, t] - 4 + 1) % 93 + 4
        after = logits(made, embed(made, changed))
        assert torch.equal(after[:, :t], before[:, :t])
        assert bool((after[:, t:] != before[:, t:]).any(-1).all())


@torch.no_grad()
def test_padding_on_the_right_leaves_the_rest_as_it_is() -> None:
    made = decoder()
    tokens_BT = torch.randint(4, 97, (2, 30))
    padded = torch.cat((tokens_BT, torch.full((2, 11), PAD)), dim=1)
    torch.testing.assert_close(
        logits(made, embed(made, padded))[:, :30], logits(made, embed(made, tokens_BT)), atol=2e-6, rtol=0
    )


@settings(deadline=None, max_examples=40)
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=8))
@torch.no_grad()
def test_chunks_behind_a_cache_are_the_whole(chunks: list[int]) -> None:
    made = decoder()
    x_BTD = embed(made, torch.randint(4, 97, (2, sum(chunks))))
    cache = made.cache(sum(chunks))
    parts = [made(part, cache) for part in x_BTD.split(chunks, dim=1)]
    assert cache.length == sum(chunks)
    torch.testing.assert_close(torch.cat(parts, dim=1), made(x_BTD), atol=1e-5, rtol=0)


@torch.no_grad()
def test_one_by_one_is_the_whole_at_every_length() -> None:
    made = decoder()
    x_BTD = embed(made, torch.randint(4, 97, (1, 24)))
    cache = made.cache()
    for length in range(1, 25):
        last = made(x_BTD[:, length - 1 : length], cache)
        torch.testing.assert_close(last, made(x_BTD[:, :length])[:, -1:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_sequence_that_is_too_long_is_refused_in_one_sentence() -> None:
    made = decoder(replace(CONFIG, max_length=16))
    x_BTD = torch.randn(1, 17, 64)
    with pytest.raises(ConfigError, match="17 positions is longer than the model's 16"):
        made(x_BTD)
    made(x_BTD[:, :16], cache := made.cache())
    with pytest.raises(ConfigError, match="shorten the prompt"):
        made(x_BTD[:, :1], cache)
    with pytest.raises(ConfigError, match="5 positions is longer than the model's 4"):
        made(x_BTD[:, :5], made.cache(4))


def test_dropout_is_in_training_only_and_follows_the_seed() -> None:
    made = decoder()
    x_BTD = torch.randn(1, 12, 64)
    assert torch.equal(made(x_BTD), made(x_BTD))
    made.train()
    torch.manual_seed(1)
    first, second = made(x_BTD), made(x_BTD)
    torch.manual_seed(1)
    assert torch.equal(first, made(x_BTD))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("which", ["dropout", "attention_dropout"])
def test_each_dropout_acts_alone(which: str) -> None:
    rates = {"dropout": 0.0, "attention_dropout": 0.0, which: 0.5}
    made = decoder(replace(CONFIG, **rates)).train()
    x_BTD = torch.randn(1, 12, 64)
    assert not torch.equal(made(x_BTD), made(x_BTD))


@pytest.mark.parametrize("silent", ["self_attn.out_proj", "ffn.fc2"])
def test_both_branches_are_dropped_out(silent: str) -> None:
    made = decoder(replace(CONFIG, dropout=0.5, attention_dropout=0.0)).train()
    with torch.no_grad():
        for layer in made.layers:
            for parameter in layer.get_submodule(silent).parameters():
                parameter.zero_()
    x_BTD = torch.randn(1, 12, 64)
    assert not torch.equal(made(x_BTD), made(x_BTD))
