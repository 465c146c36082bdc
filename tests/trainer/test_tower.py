"""The tower against a CLIP ViT put together from PyTorch's own attention; its sizes; what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.config import TowerConfig, kosmos1
from trainer.tower import Tower

CONFIG = TowerConfig(image_size=28, patch=7, width=24, layers=3, heads=3, ffn_dim=48)


def tower(seed: int = 0) -> Tower:
    """A tower no parameter of which is 0 or 1, so that a missing one shows."""
    torch.manual_seed(seed)
    made = Tower(CONFIG).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def pixels(number: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (number, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def plain(made: Tower, images: torch.Tensor) -> torch.Tensor:
    state = made.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (24,), state[name + ".weight"], state[name + ".bias"])

    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    rows = []
    for image in images.float():
        rgb = torch.stack([(image[c] / 255 - mean[c]) / deviation[c] for c in range(3)])
        tokens = [state["class_embedding"]]
        for top in range(0, 28, 7):
            for left in range(0, 28, 7):
                patch = rgb[:, top : top + 7, left : left + 7]
                tokens.append(torch.einsum("cij,ocij->o", patch, state["conv1.weight"]))
        rows.append(torch.stack(tokens) + state["positional_embedding"])
    x = norm(torch.stack(rows), "ln_pre")
    for number in range(CONFIG.layers):
        at = f"resblocks.{number}."
        attention = nn.MultiheadAttention(24, CONFIG.heads, batch_first=True)
        own = {name.removeprefix(at + "attn."): value for name, value in state.items() if name.startswith(at + "attn.")}
        attention.load_state_dict(own)
        h = norm(x, at + "ln_1")
        x = x + attention(h, h, h, need_weights=False)[0]
        u = F.linear(norm(x, at + "ln_2"), state[at + "mlp.c_fc.weight"], state[at + "mlp.c_fc.bias"])
        x = x + F.linear(
            u / (1 + torch.exp(-1.702 * u)), state[at + "mlp.c_proj.weight"], state[at + "mlp.c_proj.bias"]
        )
    x = norm(x, "ln_post")
    return x / x.square().sum(-1, keepdim=True).sqrt()


@torch.no_grad()
def test_the_tower_is_a_clip_vit() -> None:
    made = tower()
    torch.testing.assert_close(made(pixels(3)), plain(made, pixels(3)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_every_token_of_an_image_has_length_one() -> None:
    x_NPC = tower()(pixels(2))
    assert x_NPC.shape == (2, 17, 24)
    torch.testing.assert_close(x_NPC.norm(dim=-1), torch.ones(2, 17))


@torch.no_grad()
def test_an_image_does_not_see_the_others() -> None:
    made = tower()
    torch.testing.assert_close(made(pixels(3))[1:2], made(pixels(3)[1:2]), atol=1e-6, rtol=0)


def test_the_last_block_and_norm_hold_what_kosmos1_trains() -> None:
    with torch.device("meta"):
        made = Tower(kosmos1().model.tower)
    sizes = {name: parameter.numel() for name, parameter in made.named_parameters()}
    assert sum(sizes.values()) == 303_179_776
    assert sum(n for name, n in sizes.items() if "resblocks.23" in name or "ln_post" in name) == 12_598_272
    assert not list(made.buffers())


def test_initial_weights_have_the_deviations_of_clip() -> None:
    torch.manual_seed(0)
    state = Tower(TowerConfig(width=128, layers=2, heads=4, ffn_dim=512)).state_dict()
    for name, expected in {
        "positional_embedding": 128**-0.5,
        "resblocks.1.attn.in_proj_weight": 128**-0.5,
        "resblocks.1.attn.out_proj.weight": 128**-0.5 / math.sqrt(4),
        "resblocks.1.mlp.c_fc.weight": 256**-0.5,
        "resblocks.1.mlp.c_proj.weight": 128**-0.5 / math.sqrt(4),
    }.items():
        assert float(state[name].std()) == pytest.approx(expected, rel=0.03), name
    biases = [value for name, value in state.items() if name.endswith("bias")]
    assert len(biases) == 2 * 6 + 2
    assert all(not bool(bias.any()) for bias in biases)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 27, 28, dtype=torch.uint8), torch.zeros(1, 1, 28, 28).byte()]
)
def test_images_of_another_size_or_type_are_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"not torch\.uint8 of \(3, 28, 28\)"):
        tower()(wrong)


def test_frozen_it_trains_its_last_block_and_norm_alone() -> None:
    made = tower()
    assert made.frozen_parameters() == []
    made.freeze()
    names = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert names == {name for name in made.state_dict() if name.startswith(("resblocks.2.", "ln_post."))}
    held = {
        name for name, parameter in made.named_parameters() if any(parameter is one for one in made.frozen_parameters())
    }
    assert held == set(made.state_dict()) - names
    made(pixels(2)).square().sum().backward()
    made(pixels(2))[..., 0].sum().backward()
    for name, parameter in made.named_parameters():
        assert (parameter.grad is not None) == (name in names), name


def test_frozen_it_gives_the_same_tokens_and_gradients() -> None:
    free, frozen = tower(), tower()
    frozen.freeze()
    weight_NPC = torch.randn(2, 17, 24)
    for made in (free, frozen):
        (made(pixels(2)) * weight_NPC).sum().backward()
    assert torch.equal(free(pixels(2)), frozen(pixels(2)))
    for name, parameter in frozen.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, free.get_parameter(name).grad, atol=0, rtol=0)


def test_what_is_frozen_keeps_nothing_for_a_backward_pass() -> None:
    made = tower()
    made.freeze()
    seen: list[bool] = []
    made.resblocks[1].register_forward_hook(lambda _module, _args, out: seen.append(out.requires_grad))
    assert made(pixels(1)).requires_grad
    assert seen == [False]


def test_what_is_frozen_is_never_in_training_mode() -> None:
    made = tower()
    made.train()
    made.freeze()
    for _ in range(2):
        training = {name for name, module in made.named_children() if module.training}
        assert training == {"resblocks", "ln_post"}
        assert [block.training for block in made.resblocks] == [False, False, True]
        assert not any(module.training for module in made.resblocks[0].modules())
        made.train()
    made.eval()
    assert not any(module.training for module in made.modules())


@torch.no_grad()
def test_tokens_of_a_bf16_tower_are_divided_by_their_length_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    normalize = F.normalize
    monkeypatch.setattr("trainer.tower.F.normalize", lambda x, dim: (seen.append(x.dtype), normalize(x, dim=dim))[1])
    made = tower()
    exact = made(pixels(2))
    x_NPC = made.to(torch.bfloat16)(pixels(2))
    assert x_NPC.dtype == torch.bfloat16
    assert seen == [torch.float32] * 2
    assert float((x_NPC - exact).square().mean().sqrt()) < 0.02 * float(exact.square().mean().sqrt())
