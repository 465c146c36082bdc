"""What an update costs in floating-point operations, and what a device can do: MFU is the one over the other.

Counted is the work that the model needs: matrix products of real positions (no padding), causal attention at each row's
own length, the head at counted targets, backward twice the forward; nothing that is computed twice to save memory. A
frozen tower runs forward only. KOSMOS-1's update at the paper's quotas comes to 10 PFLOP, an eighth of it for images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from engine.vocab import IMAGE_SLOTS
from trainer.config import ModelConfig

# Dense bf16 FLOP/s with float32 accumulation, boost clock, the first pattern that fits the device's name. The vendors'
# sheets often print twice that, "with sparsity".
PEAKS = (
    (r"\bMIG\b", None),  # a slice of a card
    (r"\bGB[23]00\b", 2500e12),  # NVIDIA GB200 NVL72 sheet: 360 PFLOP/s sparse over 72
    (r"\bB[23]00\b", 2250e12),  # NVIDIA HGX B200 sheet: 36 PFLOP/s sparse over 8
    (r"\bGH200\b", 990e12),  # NVIDIA GH200 sheet
    (r"\bH[12]00 NVL\b", 835.5e12),  # NVIDIA H100 and H200 sheets, column NVL
    (r"\bH[18]00 PCIe\b", 756e12),  # NVIDIA H100 PCIe product brief
    (r"\bH(100|200|800)\b", 989e12),  # NVIDIA H100 and H200 sheets, column SXM
    (r"\bA[18]00\b", 312e12),  # NVIDIA A100 sheet, SXM and PCIe alike
    (r"\bL40S\b", 362e12),  # NVIDIA L40S sheet
    (r"\bL40\b", 181e12),  # NVIDIA L40 sheet
    (r"\bL4\b", 121e12),  # NVIDIA L4 sheet: 242 sparse
    (r"\bA40\b", 149.7e12),  # NVIDIA A40 sheet
    (r"\bA30\b", 165e12),  # NVIDIA A30 sheet
    (r"\bMI3(00X|25X)\b", 1307.4e12),  # AMD Instinct MI300X and MI325X sheets
    (r"\bMI300A\b", 980.6e12),  # AMD Instinct MI300A sheet
    (r"\bMI250X\b", 191.5e12),  # AMD Instinct MI250X sheet, 383, of which a device is one of two dies
)


def flops(model: ModelConfig, frozen: bool, lengths: Sequence[int], counted: int, images: int) -> float:
    """Floating-point operations that an update needs, or a rank's share of one, forward and backward.

    frozen: whether the tower trains its last block and ln_post alone. lengths: of each row, without padding. counted:
    targets. images: without blank ones.
    """
    per_position = 2 * model.layers * (4 * model.dim**2 + 2 * model.dim * model.ffn_dim)
    # scores and mixed values, 2 D each for every pair of a position and one that it sees
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    decoder = per_position * sum(lengths) + 4 * model.dim * model.layers * pairs
    head = 2 * model.dim * model.vocab_size * counted
    return float(3 * (decoder + head) + images * of_image(model, frozen))


def of_image(model: ModelConfig, frozen: bool) -> int:
    """Operations that an image needs in tower and connector, forward and backward."""
    tower, tokens = model.tower, model.tower.num_tokens
    # pixels have no gradient, and so the stem no more than twice its forward
    stem = 2 * 3 * tower.patch**2 * tower.width * (tokens - 1)
    block = 2 * tokens * (4 * tower.width**2 + 2 * tower.width * tower.ffn_dim) + 4 * tower.width * tokens**2
    before = (tower.layers - 1) * block
    dense = 2 * tokens * tower.width * model.dim
    # the latents' own queries, keys and values are the same for all images of a micro-batch: no image's cost
    projected = 2 * model.dim**2 * (2 * tokens + IMAGE_SLOTS)
    attended = 4 * model.dim * IMAGE_SLOTS * (tokens + IMAGE_SLOTS)
    trained = 3 * (block + dense + projected + attended)
    return trained + (stem + before if frozen else 2 * stem + 3 * before)


def peak(device: torch.device) -> float | None:
    """The device's bf16 FLOP/s by its data sheet; None for a CPU and for what no line here names."""
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    """As `peak`, by a device's name as torch gives it, or a part of it, as H100."""
    return next((most for pattern, most in PEAKS if re.search(pattern, name, re.IGNORECASE)), None)
