"""How long training stands still for its checkpoints: python -m tests.benchmarks.checkpoint_stall [--every 10].

The recipe tiny on generated rows, with a 16th of its batch: where updates are short a checkpoint counts for more. Asked
is the training's thread alone: the time in which it waits for `Saver.save`, as a share of the updates and it. Then one
run with every checkpoint waited for. What is written at the end, when nothing is left to train, counts in neither.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.trainer.runs import Data, packed
from trainer.checkpoints.run import Run
from trainer.checkpoints.saver import Saver
from trainer.config import tiny
from trainer.fit import fit

GOAL = 0.02
SCALE = 1 / 16


def measure(data: Data, out: Path, updates: int, every: int, waiting: bool) -> tuple[float, float, float]:
    """Share of a run in which it stood still, seconds of that for a checkpoint, seconds of an update without it."""
    config = replace(tiny(), checkpoint_every=every, data=replace(tiny().data, scale_batch=SCALE))
    stood: list[float] = []
    save = Saver.save

    def timed(saver: Saver, *given: Any, **named: Any) -> None:
        began = time.perf_counter()
        save(saver, *given, **named)
        if waiting:
            saver.wait()
        stood.append(time.perf_counter() - began)

    Saver.save = timed  # type: ignore[method-assign, assignment]
    try:
        fit(config, [data.digest], data.store, str(out), updates)
    finally:
        Saver.save = save  # type: ignore[method-assign]
    seconds = sum(line["seconds"] for line in Run(str(out)).metrics())
    return sum(stood) / (sum(stood) + seconds), sum(stood) / len(stood), seconds / updates


def main() -> None:
    """Print a line for each run, and the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--every", type=int, default=10, help="updates between two checkpoints")
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = packed(f"{folder}/store")
        for waiting in (False, True):
            shares = []
            for number in range(1 if waiting else asked.runs):
                out = Path(folder) / f"{waiting}-{number}"
                share, pause_s, update_s = measure(data, out, asked.updates, asked.every, waiting)
                shares.append(share)
                print(
                    f"{share:.2%}, {pause_s * 1000:.1f} ms a checkpoint, {update_s * 1000:.0f} ms an update", flush=True
                )
            goal = "" if waiting else f" (goal: at most {GOAL:.0%})"
            how = "waiting for each" if waiting else "while the training goes on"
            print(
                f"median of {len(shares)}, checkpoints every {asked.every} updates, {how}: "
                f"{statistics.median(shares):.2%}{goal}",
                flush=True,
            )


if __name__ == "__main__":
    main()
