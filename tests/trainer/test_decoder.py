"""The decoder against its formulas written out; initial weights, positions, causality, caching, dropout, limits."""

from __future__ import annotations

import cmath
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from engine.errors import ConfigError
from engine.vocab import PAD
from tests.trainer.ranks import ranks
from trainer.config import POSITIONS, ModelConfig
from trainer.decoder import Decoder, DecoderLayer, initialise, rotate, rotation, sinusoids
from trainer.world import World

CONFIG = ModelConfig(vocab_size=97, dim=64, layers=3, heads=4, ffn_dim=256, connector_heads=4)
CPU = torch.device("cpu")


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


@torch.no_grad()
@pytest.mark.parametrize("init", ["torchscale", "xavier"])
def test_a_layer_of_kosmos1_has_the_deviations_of_its_rule(init: str) -> None:
    """Of one layer, as of a decoder of 24 of them: gamma is sqrt(ln 48) = 1.9675."""
    torch.manual_seed(0)
    config = ModelConfig(init=init)
    layer = DecoderLayer(config)
    initialise(layer, config)
    # kosmos1.md 1.4: q and k, v and out, fc1, fc2
    expected = {"torchscale": (0.01276, 0.02510, 0.02510, 0.01255), "xavier": (0.0221, 0.0435, 0.0275, 0.0275)}[init]
    attention = layer.self_attn
    pairs = ((attention.q_proj, attention.k_proj), (attention.v_proj, attention.out_proj))
    for linears, deviation in zip((*pairs, (layer.ffn.fc1,), (layer.ffn.fc2,)), expected, strict=True):
        for made in linears:
            assert float(made.weight.std()) == pytest.approx(deviation, rel=0.005)
            assert bool(made.bias.any()) == (init == "torchscale")
            # uniform has no tail, normal has
            assert bool((made.weight.abs().max() > 2 * deviation).item()) == (init == "xavier")
    assert bool((layer.final_layer_norm.weight == 1).all())


def test_xavier_changes_the_layers_alone() -> None:
    torch.manual_seed(3)
    state = Decoder(replace(CONFIG, init="xavier")).state_dict()
    gamma = math.sqrt(math.log(6))
    assert float(state["layers.2.ffn.fc1.weight"].std()) == pytest.approx(gamma * math.sqrt(2 / 320), rel=0.05)
    assert float(state["layers.0.self_attn.k_proj.weight"].std()) == pytest.approx(math.sqrt(2 / 128), rel=0.05)
    assert float(state["embed_tokens.weight"][PAD + 1 :].std()) == pytest.approx(64**-0.5, rel=0.05)
    assert not any(bool(value.any()) for name, value in state.items() if name.endswith("bias"))


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


def test_absolute_positions_are_fairseqs() -> None:
    table_TD = sinusoids(replace(CONFIG, dim=128), 5, 2043, CPU)
    assert table_TD.dtype == torch.float32
    for row, pair in ((0, 0), (0, 63), (7, 1), (100, 30), (2042, 0), (2042, 40)):
        angle = (row + 5 + 2) * math.exp(-pair * math.log(10_000) / 63)
        # the angle's own rounding to float32 is 1e-4 where it is 2,000
        assert float(table_TD[row, pair]) == pytest.approx(math.sin(angle), abs=2.5e-4)
        assert float(table_TD[row, 64 + pair]) == pytest.approx(math.cos(angle), abs=2.5e-4)
    torch.testing.assert_close(table_TD[3:], sinusoids(replace(CONFIG, dim=128), 8, 2040, CPU), atol=0, rtol=0)


@torch.no_grad()
def test_absolute_positions_are_added_in_float32_and_rounded_once() -> None:
    made = decoder(replace(CONFIG, position="sinusoidal")).to(torch.bfloat16)
    seen: list[torch.Tensor] = []
    made.layers[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    x_BTD = torch.randn(2, 90, 64).to(torch.bfloat16)
    made(x_BTD)
    assert torch.equal(seen[0], (x_BTD.float() + sinusoids(CONFIG, 0, 90, CPU)).to(torch.bfloat16))


def test_without_xpos_nothing_is_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("rotated")

    made = decoder(replace(CONFIG, position="sinusoidal"))
    x_BTD = embed(made, torch.randint(4, 97, (1, 9)))
    monkeypatch.setattr("trainer.decoder.rotation", never)
    monkeypatch.setattr("trainer.decoder.rotate", never)
    made(x_BTD)
    with pytest.raises(AssertionError, match="rotated"):
        decoder(replace(CONFIG, position="both"))(x_BTD)


def test_tables_of_xpos_stay_float32_and_out_of_the_state() -> None:
    made = decoder().to(torch.bfloat16)
    x_BTD = embed(made, torch.randint(4, 97, (1, 9)))
    assert made(x_BTD).dtype == torch.bfloat16
    assert rotation(made.config, 0, 9, CPU).q_cos_TJ.dtype == torch.float32
    assert not list(made.buffers())


def sharded_tables(world: World) -> list[str]:
    """What arrives in a layer that FSDP2 runs in bf16: of its input, and of the tables of xPos."""
    layer = decoder().layers[0]
    seen: list[str] = []

    def look(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.extend((str(args[0].dtype), str(args[1].q_cos_TJ.dtype), str(args[1].k_sin_TJ.dtype)))

    mesh = init_device_mesh("cpu", (world.size,))
    fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    layer.register_forward_pre_hook(look)
    layer(torch.randn(1, 9, 64), rotation(CONFIG, 0, 9, CPU))
    return seen


def test_fsdp_leaves_the_tables_of_xpos_in_float32() -> None:
    assert ranks(1, sharded_tables) == [["torch.bfloat16", "torch.float32", "torch.float32"]]


def rms(x: torch.Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_bf16_logits_are_near_those_of_float32(position: str) -> None:
    """Off by .007 to .008 of their size; .004 to .006 are the weights', rounded alone."""
    made = decoder(replace(CONFIG, position=position))
    tokens_BT = torch.randint(4, 97, (2, 128))
    exact = logits(made, embed(made, tokens_BT))
    rough = made.to(torch.bfloat16)
    near = logits(rough, embed(rough, tokens_BT))
    assert near.dtype == torch.bfloat16
    assert rms(near.float() - exact) < 0.012 * rms(exact)


def test_bf16_vectors_are_rotated_in_float32_and_rounded_once() -> None:
    at = rotation(CONFIG, 1900, 48, CPU)
    x_BTHK = torch.randn(2, 48, 4, 16).to(torch.bfloat16)
    got = rotate(x_BTHK, at.k_cos_TJ, at.k_sin_TJ)
    assert torch.equal(got, rotate(x_BTHK.float(), at.k_cos_TJ, at.k_sin_TJ).to(torch.bfloat16))


@torch.no_grad()
def test_gelu_is_float32_in_a_bf16_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    gelu = nn.functional.gelu
    monkeypatch.setattr("trainer.decoder.F.gelu", lambda x: (seen.append(x.dtype), gelu(x))[1])
    made = decoder().to(torch.bfloat16)
    made(embed(made, torch.randint(4, 97, (1, 9))))
    assert seen == [torch.float32] * 3


@torch.no_grad()
def test_the_origin_of_xpos_does_not_matter() -> None:
    made, shifted = decoder(), decoder(replace(CONFIG, xpos_origin=0))
    x_BTD = embed(made, torch.randint(4, 97, (2, 200)))
    difference = (logits(made, x_BTD) - logits(shifted, x_BTD)).abs().max()
    assert 0 < float(difference) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_a_token_changes_nothing_before_it(position: str) -> None:
    made = decoder(replace(CONFIG, position=position))
    tokens_BT = torch.randint(4, 97, (1, 40))
    before = logits(made, embed(made, tokens_BT))
    for t in (1, 20, 39):
        changed = tokens_BT.clone()
        changed[0, t] = (changed[0, t] - 4 + 1) % 93 + 4
        after = logits(made, embed(made, changed))
        assert torch.equal(after[:, :t], before[:, :t])
        assert bool((after[:, t:] != before[:, t:]).any(-1).all())


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_padding_on_the_right_leaves_the_rest_as_it_is(position: str) -> None:
    made = decoder(replace(CONFIG, position=position))
    tokens_BT = torch.randint(4, 97, (2, 30))
    padded = torch.cat((tokens_BT, torch.full((2, 11), PAD)), dim=1)
    torch.testing.assert_close(
        logits(made, embed(made, padded))[:, :30], logits(made, embed(made, tokens_BT)), atol=2e-6, rtol=0
    )


@settings(deadline=None, max_examples=40)
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=8), position=st.sampled_from(POSITIONS))
@torch.no_grad()
def test_chunks_behind_a_cache_are_the_whole(chunks: list[int], position: str) -> None:
    made = decoder(replace(CONFIG, position=position))
    x_BTD = embed(made, torch.randint(4, 97, (2, sum(chunks))))
    cache = made.cache(sum(chunks))
    parts = [made(part, cache) for part in x_BTD.split(chunks, dim=1)]
    assert cache.length == sum(chunks)
    torch.testing.assert_close(torch.cat(parts, dim=1), made(x_BTD), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_one_by_one_is_the_whole_at_every_length(position: str) -> None:
    made = decoder(replace(CONFIG, position=position))
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
    layer = decoder(replace(CONFIG, dropout=0.5, attention_dropout=0.0)).train().layers[0]
    with torch.no_grad():
        for parameter in layer.get_submodule(silent).parameters():
            parameter.zero_()
    x_BTD, at = torch.randn(1, 12, 64), rotation(CONFIG, 0, 12, CPU)
    assert not torch.equal(layer(x_BTD, at), layer(x_BTD, at))


@pytest.mark.parametrize("position", POSITIONS)
def test_what_goes_into_the_first_layer_is_dropped_out_with_its_positions(position: str) -> None:
    made = decoder(replace(CONFIG, dropout=0.25, position=position))
    seen: list[torch.Tensor] = []
    made.layers[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    x_BTD = torch.randn(8, 100, 64)
    made.eval()(x_BTD)
    made.train()(x_BTD)
    whole, dropped = seen
    kept = dropped != 0
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    if position != "xpos":
        torch.testing.assert_close(whole, x_BTD + sinusoids(CONFIG, 0, 100, CPU))


def passed(made: Decoder, x_BTD: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor | None], int]:
    """The output of a training pass, all gradients, and how often the first layer's FFN ran."""
    ran: list[int] = []
    made.layers[0].ffn.register_forward_pre_hook(lambda *_: ran.append(1))
    made.zero_grad()
    torch.manual_seed(5)
    out = made.train()(x_BTD)
    out.square().sum().backward()
    return out.detach(), [parameter.grad for parameter in made.layers.parameters()], len(ran)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_computing_again_gives_the_same_gradients(rate: float) -> None:
    config = replace(CONFIG, dropout=rate, attention_dropout=rate)
    x_BTD = torch.randn(2, 12, 64)
    plain, saving = decoder(config), decoder(config)
    saving.recompute = True
    assert list(plain.state_dict()) == list(saving.state_dict())
    *expected, once = passed(plain, x_BTD)
    *got, twice = passed(saving, x_BTD)
    torch.testing.assert_close(got, expected, atol=0, rtol=0)
    assert (once, twice) == (1, 2)


def test_computing_again_is_for_training_alone() -> None:
    made = decoder()
    ran: list[int] = []
    x_BTD = embed(made, torch.randint(4, 97, (1, 12)))
    expected = made(x_BTD)
    made.recompute = True
    made.layers[0].ffn.register_forward_pre_hook(lambda *_: ran.append(1))
    for out in (made(x_BTD), made(x_BTD, made.cache())):
        torch.testing.assert_close(out, expected, atol=0, rtol=0)
        out.sum().backward(retain_graph=True)
    assert len(ran) == 2
