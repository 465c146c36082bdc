"""The decoder against torchscale's own numbers: logits, hidden states, gradients, initial weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from engine.vocab import PAD
from tests.trainer.test_decoder import CONFIG, check_initial, embed, logits
from trainer.config import POSITIONS, ModelConfig
from trainer.decoder import Decoder

REFERENCE = Path(__file__).parents[2].parent / "shared/reference/torchscale_reference.pt"
GOLDEN = Path(__file__).parents[1] / "golden/torchscale.safetensors"  # by tests/golden/torchscale_fixture.py
SMALL = ModelConfig(vocab_size=53, dim=32, layers=2, heads=2, ffn_dim=64, connector_heads=2)


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    if not REFERENCE.exists():
        pytest.skip("the reference file is not here")
    saved: dict[str, Any] = torch.load(REFERENCE, weights_only=True)
    return saved


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


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN)


def part(saved: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}


def torchscales(saved: dict[str, torch.Tensor], position: str) -> Decoder:
    made = Decoder(replace(SMALL, position=position)).eval()
    made.load_state_dict(part(saved, "weights."))
    return made


@torch.no_grad()
@pytest.mark.parametrize("case", ["tokens", "odd", "pad", "long", "image"])
@pytest.mark.parametrize("position", POSITIONS)
def test_each_kind_of_positions_is_torchscales(golden: dict[str, torch.Tensor], position: str, case: str) -> None:
    made = torchscales(golden, position)
    tokens_BT = golden["tokens" if case == "image" else case]
    x_BTD = made.embed_tokens(tokens_BT).clone()
    if case == "image":
        x_BTD[golden["img_mask"]] = golden["img_feat"]
    real_BT = tokens_BT != PAD
    got, expected = logits(made, x_BTD * math.sqrt(32)), golden[f"{position}.{case}"]
    torch.testing.assert_close(got[real_BT], expected[real_BT], atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_torchscale(golden: dict[str, torch.Tensor]) -> None:
    made = torchscales(golden, "xpos")
    tokens_BT = golden["tokens"]
    scores = logits(made, embed(made, tokens_BT))[:, :-1].flatten(0, 1)
    nn.functional.cross_entropy(scores, tokens_BT[:, 1:].flatten()).backward()
    expected = part(golden, "gradient.")
    assert {name for name, _ in made.named_parameters()} == set(expected)
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_the_cases_of_the_golden_file_are_different_things(golden: dict[str, torch.Tensor]) -> None:
    for one, other in (("xpos", "sinusoidal"), ("xpos", "both"), ("sinusoidal", "both")):
        assert float((golden[f"{one}.tokens"] - golden[f"{other}.tokens"]).abs().max()) > 0.1


def test_initial_weights_of_torchscale_follow_that_rule_too(reference: dict[str, Any]) -> None:
    check_initial(ours(reference["init_state_dict"]))
