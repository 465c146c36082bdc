"""Operations of an update against torch's own counter, and against KOSMOS-1's numbers; names of devices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.vocab import BOS, IMAGE_SLOTS
from trainer import flops
from trainer.config import ModelConfig, TowerConfig, kosmos1
from trainer.model import Kosmos

TOY = ModelConfig(
    vocab_size=96,
    dim=64,
    layers=3,
    heads=4,
    ffn_dim=192,
    connector_heads=2,
    dropout=0.0,
    attention_dropout=0.0,
    tower=TowerConfig(image_size=28, patch=7, width=32, layers=3, heads=2, ffn_dim=96),
)
LENGTH, IMAGES, TARGETS = 150, 2, 11


def _counted_by_torch(model: Kosmos, images: int) -> int:
    tokens_BT = torch.full((1, LENGTH), BOS)
    counted_BT = torch.zeros(1, LENGTH, dtype=torch.bool)
    counted_BT[0, -TARGETS:] = True
    size = TOY.tower.image_size
    pixels_NCHW = torch.zeros(images, 3, size, size, dtype=torch.uint8)
    slots_N2 = torch.tensor([(0, 2 + 70 * number) for number in range(images)]).reshape(-1, 2)
    # products alone: fused attention is counted by some versions and not by others
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens_BT, counted_BT, pixels_NCHW, slots_N2).backward()
    return int(counter.get_total_flops())


def _freeze(model: Kosmos) -> None:
    model.tower.requires_grad_(False)
    model.tower.resblocks[-1].requires_grad_(True)
    model.tower.ln_post.requires_grad_(True)


@pytest.mark.parametrize(("images", "frozen"), [(0, False), (IMAGES, False), (IMAGES, True)])
def test_they_are_what_torch_counts(images: int, frozen: bool) -> None:
    model = Kosmos(TOY)
    if frozen:
        _freeze(model)
    ours = flops.flops(TOY, frozen, [LENGTH], TARGETS, images)
    # torch multiplies the masked half of the scores too
    masked = 3 * 4 * TOY.dim * TOY.layers * (LENGTH**2 - LENGTH * (LENGTH + 1) // 2)
    # and projects the latents, once for all images
    latents = 3 * 3 * 2 * TOY.dim**2 * IMAGE_SLOTS if images else 0
    assert ours + masked + latents == pytest.approx(_counted_by_torch(model, images), rel=1e-12)


def test_an_update_of_kosmos_1_is_10_pflop() -> None:
    text, caption, interleaved = [2047] * 256, [85] * 6144, [404] * 128
    lengths, counted = [*text, *caption, *interleaved], 256 * 2046 + 6144 * 18 + 128 * 230
    model = kosmos1().model
    assert flops.flops(model, True, lengths, counted, 6144 + 256) == pytest.approx(10.06e15, rel=1e-3)
    assert flops.flops(model, True, lengths, counted, 0) == pytest.approx(8.82e15, rel=1e-3)
    # the rule of thumb, 6 operations for a weight and a position, has the head at every position
    parameters = 1_340_180_480 - 64_007 * 2048
    decoder = flops.flops(model, True, lengths, 0, 0)
    assert 1.0 < decoder / (6 * parameters * sum(lengths)) < 1.05


def test_padding_and_targets_elsewhere_cost_what_they_cost() -> None:
    one = flops.flops(TOY, False, [100], 10, 1)
    assert flops.flops(TOY, False, [100, 0], 10, 1) == one
    assert flops.flops(TOY, False, [100], 11, 1) - one == 6 * TOY.dim * TOY.vocab_size
    assert flops.flops(TOY, False, [60, 40], 10, 1) < one  # the pairs are fewer
    assert flops.flops(TOY, True, [100], 10, 1) < one
    assert flops.flops(replace(TOY, images=False), False, [100], 10, 0) == flops.flops(TOY, True, [100], 10, 0)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835.5e12),
        ("NVIDIA GH200 480GB", 990e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("AMD Instinct MI300X", 1307.4e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce GTX 1080", None),
        ("h100", 989e12),
    ],
)
def test_a_device_is_known_by_its_name(name: str, most: float | None) -> None:
    assert flops.peak_of(name) == most


def test_a_cpu_has_no_peak() -> None:
    assert flops.peak(torch.device("cpu")) is None
