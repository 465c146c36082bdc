"""The decoder beside torchscale's, tokens a CPU second: python -m tests.benchmarks.decoder_throughput --peer PYTHON

Forward and backward pass of the loss on random tokens, float32, one thread, no dropout, the same weights and the same
chunks of the loss on both sides; turn by turn, each side in a process of its own. Loss and norm of the gradient must
agree. PYTHON: of the environment that `peer_torchscale` tells of.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainer.config import ModelConfig
from trainer.model import Kosmos

PEER = Path(__file__).with_name("peer_torchscale.py")
SIZES = {  # name: rows, positions, model; the last is one layer of KOSMOS-1
    "1024": (2, 1024, {"dim": 512, "layers": 4, "heads": 8, "ffn_dim": 2048, "vocab_size": 8_000}),
    "2048": (1, 2048, {"dim": 512, "layers": 4, "heads": 8, "ffn_dim": 2048, "vocab_size": 8_000}),
    "kosmos1": (1, 2048, {"dim": 2048, "layers": 1, "heads": 32, "ffn_dim": 8192, "vocab_size": 8_000}),
}


def ours(model: Kosmos, tokens_BT: torch.Tensor) -> dict[str, float]:
    """One pass: CPU seconds, the mean loss, the norm of the gradient."""
    counted_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    pixels_NCHW, slots_N2 = torch.zeros(0, 3, 224, 224, dtype=torch.uint8), torch.zeros(0, 2, dtype=torch.int64)
    model.zero_grad(set_to_none=True)
    started = time.process_time()
    loss = model(tokens_BT, counted_BT, pixels_NCHW, slots_N2) / tokens_BT[:, 1:].numel()
    loss.backward()
    cpu_s = time.process_time() - started
    squares = [float(parameter.grad.square().sum()) for parameter in model.parameters() if parameter.grad is not None]
    return {"cpu_s": cpu_s, "loss": float(loss.detach()), "grad_norm": math.sqrt(sum(squares))}


def compare(peer: str, name: str, rounds: int) -> None:
    """Print a line for each round, and the ratio of the medians."""
    rows, length, sizes = SIZES[name]
    config = ModelConfig(**sizes, images=False, dropout=0.0, attention_dropout=0.0)
    torch.manual_seed(0)
    model = Kosmos(config)
    tokens_BT = torch.randint(4, config.vocab_size, (rows, length))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder)
        (written / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
        save_file({**model.decoder.state_dict(), "tokens": tokens_BT}, written / "weights.safetensors")
        command = [peer, str(PEER), str(written / "config.json"), str(written / "weights.safetensors")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            found: list[tuple[float, float]] = []
            for number in range(rounds + 1):
                process.stdin.write("go\n")
                process.stdin.flush()
                theirs: dict[str, Any] = json.loads(process.stdout.readline())
                mine = ours(model, tokens_BT)
                for key in ("loss", "grad_norm"):
                    assert math.isclose(mine[key], theirs[key], rel_tol=1e-4), (key, mine, theirs)
                if number:  # the first warms up
                    found.append((mine["cpu_s"], theirs["cpu_s"]))
                    mine_s, theirs_s = (tokens_BT.numel() / seconds for seconds in found[-1])
                    print(f"{name} round {number}: {mine_s:,.0f} tokens/s of CPU, torchscale {theirs_s:,.0f}")
            process.stdin.close()
    mine_s, theirs_s = (tokens_BT.numel() / statistics.median(side) for side in zip(*found, strict=True))
    print(
        f"{name}: {rows} x {length:,} positions, D {config.dim}, L {config.layers}, V {config.vocab_size:,}: "
        f"{mine_s:,.0f} tokens/s of CPU, torchscale {theirs_s:,.0f}, ratio {mine_s / theirs_s:.2f} (medians of "
        f"{rounds}), torch {torch.__version__}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="a python that has torchscale")
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in SIZES if arguments.size == "all" else (arguments.size,):
        compare(arguments.peer, name, arguments.rounds)


if __name__ == "__main__":
    main()
