"""The whole model: its sizes, its loss, where images go and what they reach."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import trainer.model
from engine.errors import ConfigError
from engine.vocab import IMAGE_SLOTS, PAD
from trainer.config import POSITIONS, ModelConfig, TowerConfig, kosmos1, text, tiny
from trainer.model import Kosmos, XConnector, nll_sum, num_parameters

TOWER = TowerConfig(image_size=28, patch=14, width=16, layers=1, heads=2, ffn_dim=32)
CONFIG = ModelConfig(
    vocab_size=50,
    dim=32,
    layers=2,
    heads=2,
    ffn_dim=64,
    max_length=256,
    dropout=0.0,
    attention_dropout=0.0,
    connector_heads=2,
    tower=TOWER,
)
NO_IMAGES = torch.zeros(0, 3, 28, 28, dtype=torch.uint8)
NO_SLOTS = torch.zeros(0, 2, dtype=torch.int64)


def kosmos(config: ModelConfig = CONFIG) -> Kosmos:
    torch.manual_seed(0)
    return Kosmos(config)


def images(number: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (number, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def tokens(rows: int, length: int, seed: int = 2) -> torch.Tensor:
    return torch.randint(4, 50, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_kosmos1_has_its_parameters_to_the_unit() -> None:
    with torch.device("meta"):
        model = Kosmos(kosmos1().model)
    assert num_parameters(model.decoder) == 1_340_180_480
    assert num_parameters(model.tower) == 303_179_776
    assert num_parameters(model.connector) == 19_015_680
    assert num_parameters(model) == 1_662_375_936
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert not list(model.buffers())


def test_tiny_is_the_same_architecture() -> None:
    with torch.device("meta"):
        small, large = Kosmos(replace(tiny().model, vocab_size=4007)), Kosmos(kosmos1().model)

    def kinds(model: Kosmos) -> set[str]:
        return {".".join(part for part in name.split(".") if not part.isdigit()) for name in model.state_dict()}

    assert kinds(small) == kinds(large)


def test_a_vocabulary_of_unknown_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size is 0; take it from the manifest"):
        Kosmos(tiny().model)


def test_the_loss_is_the_sum_over_counted_targets() -> None:
    model = kosmos()
    tokens_BT = tokens(3, 20)
    counted_BT = torch.rand(3, 20, generator=torch.Generator().manual_seed(5)) < 0.4
    counted_BT[:, 0] = False
    scores = model.logits(tokens_BT, NO_IMAGES, NO_SLOTS).double()
    expected = torch.zeros((), dtype=torch.float64)
    for row, j in counted_BT.nonzero().tolist():
        given = scores[row, j - 1]
        expected += given.exp().sum().log() - given[tokens_BT[row, j]]
    loss = model(tokens_BT, counted_BT, NO_IMAGES, NO_SLOTS)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_no_counted_target_is_a_loss_of_zero_that_can_be_differentiated() -> None:
    model = kosmos()
    loss = model(tokens(1, 70), torch.zeros(1, 70, dtype=torch.bool), images(1), torch.tensor([[0, 2]]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not bool(gradient.any()) for gradient in gradients)


def test_many_targets_in_chunks_are_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens_BT, counted_BT = tokens(2, 40), torch.ones(2, 40, dtype=torch.bool)
    found = []
    for rows in (4096, 7):
        monkeypatch.setattr(trainer.model, "HEAD_ROWS", rows)
        model = kosmos()
        loss = model(tokens_BT, counted_BT, NO_IMAGES, NO_SLOTS)
        loss.backward()
        found.append((loss.detach(), [parameter.grad for parameter in model.decoder.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-5)


def test_the_gradient_reaches_every_parameter() -> None:
    model = kosmos()
    tokens_BT, counted_BT = tokens(1, 80), torch.zeros(1, 80, dtype=torch.bool)
    counted_BT[0, 67:] = True
    model(tokens_BT, counted_BT, images(1), torch.tensor([[0, 2]])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def test_the_pad_entry_learns_as_an_output_and_never_as_an_input() -> None:
    model = kosmos()
    tokens_BT, counted_BT = tokens(1, 12), torch.ones(1, 12, dtype=torch.bool)
    tokens_BT[0, 0] = PAD
    x_BTD = model.hidden(tokens_BT, NO_IMAGES, NO_SLOTS)
    assert bool((model.head(x_BTD)[..., PAD] == 0).all())
    x_BTD.square().sum().backward()
    table = model.decoder.embed_tokens.weight
    assert table.grad is not None
    assert not bool(table.grad[PAD].any())
    assert bool(table.grad[tokens_BT[0, 1]].any())
    model.zero_grad()
    model(tokens_BT, counted_BT, NO_IMAGES, NO_SLOTS).backward()
    assert bool(table.grad is not None and table.grad[PAD].any())


@torch.no_grad()
def test_pixels_change_the_logits_from_the_first_slot_on() -> None:
    model = kosmos().eval()
    tokens_BT = tokens(2, 100)
    slots_N2 = torch.tensor([[0, 5], [1, 30]])
    before = model.logits(tokens_BT, images(2), slots_N2)
    changed = images(2)
    changed[1, 0, 3, 3] += 100
    after = model.logits(tokens_BT, changed, slots_N2)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1, :30], after[1, :30])
    assert bool((before[1, 30:] != after[1, 30:]).any(-1).all())


@torch.no_grad()
def test_image_vectors_stand_in_the_slots_in_order_and_scaled() -> None:
    model = kosmos().eval()
    tokens_BT = tokens(2, 140)
    slots_N2 = torch.tensor([[0, 2], [0, 70], [1, 76]])
    seen: list[torch.Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model.hidden(tokens_BT, images(3), slots_N2)
    expected = model.decoder.embed_tokens(tokens_BT).clone()
    y_NSD = model.embed_images(images(3))
    for image, (row, start) in enumerate(slots_N2.tolist()):
        expected[row, start : start + IMAGE_SLOTS] = y_NSD[image]
    torch.testing.assert_close(seen[0], expected * math.sqrt(32))


@torch.no_grad()
def test_attention_of_the_connector_is_dropped_out_in_training() -> None:
    model = kosmos(replace(CONFIG, attention_dropout=0.5))
    assert not torch.equal(model.embed_images(images(1)), model.embed_images(images(1)))
    model.eval()
    assert torch.equal(model.embed_images(images(1)), model.embed_images(images(1)))


@torch.no_grad()
def test_what_stands_in_a_slot_as_a_token_does_not_matter() -> None:
    model = kosmos().eval()
    tokens_BT, slots_N2 = tokens(1, 80), torch.tensor([[0, 10]])
    before = model.logits(tokens_BT, images(1), slots_N2)
    tokens_BT[0, 10:74] = 7
    assert torch.equal(before, model.logits(tokens_BT, images(1), slots_N2))


def test_without_images_the_tower_does_not_run() -> None:
    model = kosmos()
    ran: list[int] = []
    model.tower.register_forward_hook(lambda *_: ran.append(1))
    model(tokens(1, 70), torch.ones(1, 70, dtype=torch.bool), NO_IMAGES, NO_SLOTS).backward()
    assert not ran
    model.hidden(tokens(1, 70), images(1), torch.tensor([[0, 2]]))
    assert ran


@pytest.mark.parametrize(
    "slots",
    [
        [[0, 17]],  # one past the end
        [[2, 2]],
        [[-1, 2]],
        [[0, -1]],
        [[1, 2], [0, 2]],  # not ascending
        [[0, 2], [0, 10]],
    ],
)
def test_slots_that_do_not_fit_are_refused(slots: list[list[int]]) -> None:
    model = kosmos()
    with pytest.raises(ValueError, match="do not fit"):
        model.hidden(tokens(2, 80), images(len(slots)), torch.tensor(slots))


@pytest.mark.parametrize("number", [0, 3])
def test_as_many_runs_of_slots_as_images_or_one_less(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} images for 1 runs"):
        kosmos().hidden(tokens(2, 80), images(number), torch.tensor([[0, 2]]))


@pytest.mark.usefixtures("one_thread")  # two cut sums over two images otherwise than over three
@pytest.mark.parametrize("slots", [[], [[0, 2], [1, 10]]])
def test_one_image_more_than_slots_changes_nothing(slots: list[list[int]]) -> None:
    """Neither loss nor gradient; where it is the only one, tower and connector have gradients of 0 and not none."""
    slots_N2 = torch.tensor(slots, dtype=torch.int64).reshape(-1, 2)
    tokens_BT, counted_BT = tokens(2, 80), torch.ones(2, 80, dtype=torch.bool)
    found = []
    for extra in (0, 1):
        model = kosmos()
        ran: list[int] = []
        assert model.tower is not None
        model.tower.register_forward_hook(lambda *_, ran=ran: ran.append(1))
        pixels_NCHW = torch.cat((images(len(slots)), torch.zeros(extra, 3, 28, 28, dtype=torch.uint8)))
        loss = model(tokens_BT, counted_BT, pixels_NCHW, slots_N2)
        loss.backward()
        assert len(ran) == int(len(pixels_NCHW) > 0)
        found.append((loss.detach(), model))
    (expected, without), (got, with_extra) = found
    torch.testing.assert_close(got, expected, atol=0, rtol=1e-7 if slots else 0)
    for name, parameter in with_extra.named_parameters():
        before = without.get_parameter(name).grad
        assert parameter.grad is not None
        if before is None:
            assert not bool(parameter.grad.any()), name
        else:
            torch.testing.assert_close(parameter.grad, before, atol=1e-6, rtol=1e-5, msg=name)


def test_one_image_too_many_does_no_harm_whatever_comes_out_of_it() -> None:
    model = kosmos()
    assert model.connector is not None
    model.connector.register_forward_hook(lambda _module, _args, out: out * math.inf)
    counted_BT = torch.ones(1, 20, dtype=torch.bool)
    loss = model(tokens(1, 20), counted_BT, images(1), NO_SLOTS)
    loss.backward()
    assert torch.equal(loss, kosmos()(tokens(1, 20), counted_BT, NO_IMAGES, NO_SLOTS))


def test_without_images_there_is_no_tower() -> None:
    with torch.device("meta"):
        model = Kosmos(text().model)
    assert num_parameters(model) == 1_340_180_480
    assert (model.tower, model.connector) == (None, None)
    assert all(name.startswith("decoder.") for name in model.state_dict())
    assert not model.frozen
    assert model.frozen_parameters() == []
    with pytest.raises(ConfigError, match=r"no tower to freeze; set model\.freeze_tower=no"):
        model.freeze_tower()


def test_a_model_without_images_learns_text_and_refuses_images() -> None:
    model, whole = kosmos(replace(CONFIG, images=False)), kosmos()
    counted_BT = torch.ones(1, 80, dtype=torch.bool)
    loss = model(tokens(1, 80), counted_BT, NO_IMAGES, NO_SLOTS)
    loss.backward()
    assert torch.equal(loss, whole(tokens(1, 80), counted_BT, NO_IMAGES, NO_SLOTS))
    assert all(parameter.grad is not None for parameter in model.parameters())
    for slots_N2 in (torch.tensor([[0, 2]]), NO_SLOTS):
        with pytest.raises(ValueError, match=r"1 images for a model without an image tower"):
            model(tokens(1, 80), counted_BT, images(1), slots_N2)


def test_a_frozen_tower_leaves_kosmos1_its_parameters_to_the_unit() -> None:
    with torch.device("meta"):
        model = Kosmos(kosmos1().model)
    assert not model.frozen
    model.freeze_tower()
    assert model.frozen
    assert model.tower is not None
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(parameter.numel() for parameter in trained.values()) == 1_371_794_432
    assert sum(value.numel() for name, value in trained.items() if name.startswith("tower.")) == 12_598_272
    assert sum(parameter.numel() for parameter in model.frozen_parameters()) == 303_179_776 - 12_598_272
    model.train()
    assert not model.tower.resblocks[22].training
    assert model.tower.resblocks[23].training


def test_a_frozen_tower_is_left_as_it_is_by_a_step() -> None:
    model = kosmos(replace(CONFIG, tower=replace(TOWER, layers=2)))
    model.freeze_tower()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    model.train()
    model(tokens(1, 80), torch.ones(1, 80, dtype=torch.bool), images(1), torch.tensor([[0, 2]])).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    same = set(before) - changed
    assert {name.split(".")[1] for name in same if name.startswith("tower.")} == {
        "class_embedding",
        "positional_embedding",
        "conv1",
        "ln_pre",
        "resblocks",
    }
    assert {name for name in same if "resblocks" in name} == {name for name in before if "resblocks.0." in name}
    assert not [name for name in same if not name.startswith("tower.")]


@pytest.mark.parametrize("rows", [0, 1, 77])
def test_filled_up_rows_and_columns_of_the_head_do_not_count(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the same loss and the same gradients, in several chunks too."""
    generator = torch.Generator().manual_seed(3)
    target_M = torch.randint(0, 97, (rows,), generator=generator)
    given = [torch.randn(rows, 32, generator=generator), torch.randn(97, 32, generator=generator)]
    sizes: list[tuple[int, ...]] = []
    entropy = nn.functional.cross_entropy

    def look(logits_MV: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        sizes.append(tuple(logits_MV.shape))
        return entropy(logits_MV, *given, **named)

    monkeypatch.setattr("trainer.model.F.cross_entropy", look)
    found = []
    for aligned, most in ((False, 4096), (True, 4096), (True, 512)):
        monkeypatch.setattr(trainer.model, "HEAD_ROWS", most)
        x_MD, weight_VD = (value.clone().requires_grad_() for value in given)
        loss = nll_sum(x_MD, weight_VD, target_M, aligned=aligned)
        loss.backward()
        found.append((loss.detach(), x_MD.grad, weight_VD.grad))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[2], found[0], atol=1e-5, rtol=1e-5)
    # what is in chunks runs again in the backward pass
    assert sizes == [(rows, 97), (1024, 128), *[(512, 128)] * 4]


def test_a_vocabulary_that_is_aligned_gets_no_more_columns() -> None:
    x_MD, weight_VD, target_M = torch.randn(5, 32), torch.randn(128, 32), torch.randint(0, 128, (5,))
    padded = nll_sum(x_MD.bfloat16(), weight_VD.bfloat16(), target_M, aligned=True)
    assert padded.dtype == torch.float32
    torch.testing.assert_close(
        padded, nll_sum(x_MD.bfloat16(), weight_VD.bfloat16(), target_M, aligned=False), atol=0, rtol=1e-5
    )


@pytest.mark.parametrize("position", POSITIONS)
def test_computing_again_gives_the_same_loss_and_gradients(position: str) -> None:
    found = []
    for on in (False, True):
        model = kosmos(replace(CONFIG, dropout=0.2, attention_dropout=0.2, position=position)).train()
        model.decoder.recompute = on
        torch.manual_seed(1)
        loss = model(tokens(1, 80), torch.ones(1, 80, dtype=torch.bool), images(1), torch.tensor([[0, 2]]))
        loss.backward()
        found.append((loss.detach(), [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], atol=0, rtol=0)


@torch.no_grad()
def test_the_connector_is_one_attention_layer_over_tokens_and_latents() -> None:
    torch.manual_seed(4)
    made = XConnector(CONFIG)
    x_NPC = torch.randn(3, 5, 16)
    oracle = nn.MultiheadAttention(32, CONFIG.connector_heads, batch_first=True)
    mine = made.x_attn
    three = (mine.q_proj, mine.k_proj, mine.v_proj)
    oracle.in_proj_weight.copy_(torch.cat([projection.weight for projection in three]))
    oracle.in_proj_bias.copy_(torch.cat([projection.bias for projection in three]))
    oracle.out_proj.load_state_dict(mine.out_proj.state_dict())
    latent_NSD = made.latent_query.expand(3, -1, -1)
    keys = torch.cat((made.dense(x_NPC), latent_NSD), dim=1)
    expected = oracle(latent_NSD, keys, keys, need_weights=False)[0]
    torch.testing.assert_close(made(x_NPC), expected, atol=1e-5, rtol=0)


def test_initial_weights_of_the_connector_are_those_of_fairseq() -> None:
    torch.manual_seed(0)
    state = XConnector(replace(CONFIG, dim=128)).state_dict()
    xavier = math.sqrt(6 / (128 + 128))
    for name, bound in {"q_proj": xavier / 2**0.5, "k_proj": xavier / 2**0.5, "out_proj": xavier}.items():
        largest = float(state[f"x_attn.{name}.weight"].abs().max())
        assert 0.98 * bound < largest <= bound
    assert not bool(state["x_attn.out_proj.bias"].any())
    assert float(state["latent_query"].std()) == pytest.approx(1.0, abs=0.03)


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_a_cache_continues_behind_an_image(position: str) -> None:
    model = kosmos(replace(CONFIG, position=position)).eval()
    tokens_BT, slots_N2 = tokens(1, 90), torch.tensor([[0, 2]])
    whole = model.logits(tokens_BT, images(1), slots_N2)
    cache = model.cache(90)
    first = model.logits(tokens_BT[:, :70], images(1), slots_N2, cache)
    second = model.logits(tokens_BT[:, 70:], NO_IMAGES, NO_SLOTS, cache)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole, atol=1e-5, rtol=0)


def test_bfloat16_gives_nearly_the_loss_of_float32() -> None:
    model = kosmos()
    arguments = (tokens(1, 80), torch.ones(1, 80, dtype=torch.bool), images(1), torch.tensor([[0, 2]]))
    exact = float(model(*arguments).detach())
    loss = model.to(torch.bfloat16)(*arguments)
    loss.backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(exact, rel=0.02)
