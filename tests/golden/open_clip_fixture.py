"""Writes open_clip.safetensors: a small random tower of open_clip's code, and what that makes of two images.

    pip install --no-deps --target PEER open_clip_torch==3.3.0
    PYTHONPATH=PEER python -m tests.golden.open_clip_fixture

Its package wants torchvision, for a layer that is not used here: the one module that is needed is loaded by itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).with_name("open_clip.safetensors")
SIZES = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "heads": 4, "mlp_ratio": 2.0, "output_dim": 24}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def peer() -> types.ModuleType:
    """open_clip.transformer without the rest of its package."""
    vision = types.ModuleType("torchvision.ops.misc")
    vision.__dict__["FrozenBatchNorm2d"] = torch.nn.Identity
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.submodule_search_locations, "PYTHONPATH=PEER: install open_clip_torch there"
    package = types.ModuleType("open_clip")
    package.__path__ = list(spec.submodule_search_locations)
    stubs = {"torchvision": types.ModuleType("torchvision"), "torchvision.ops": types.ModuleType("torchvision.ops")}
    sys.modules.update({**stubs, "torchvision.ops.misc": vision, "open_clip": package})
    return importlib.import_module("open_clip.transformer")


@torch.no_grad()
def main() -> None:
    """Write the file."""
    torch.manual_seed(5)
    code = peer()
    tower = code.VisionTransformer(**SIZES, act_layer=code.QuickGELU).eval()
    for parameter in tower.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)  # gains and biases too: a missing one shows
    pixels_NCHW = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    x_NCHW = (pixels_NCHW / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    x_NPC = tower.ln_post(tower.transformer(tower._embeds(x_NCHW)))
    tensors = {f"visual.{name}": value.clone() for name, value in tower.state_dict().items()}
    tensors |= {"pixels": pixels_NCHW, "outputs": torch.nn.functional.normalize(x_NPC, dim=-1)}
    save_file(tensors, OUT)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes, outputs {tuple(x_NPC.shape)}")


if __name__ == "__main__":
    main()
