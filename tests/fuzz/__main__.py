"""Fuzz what reads strangers' bytes, each target in a process of its own, so that a crash is a finding too.

    python -m tests.fuzz --seconds 600 [--seed 0] [--target parse ...] [--findings FOLDER]

The input is written down before it is tried (0.02 ms), so what kills the process is known. A finding is shrunk by
leaving bytes out and kept as FOLDER/TARGET-DIGEST; the exit status is 1 if there is any. Nothing here is a test: what
a run finds becomes one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz import mutate
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import save, work


def fuzz(name: str, seed: int, seconds: float, folder: Path) -> int:
    """Try one target; how many inputs were tried."""
    tries, end = 0, time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as scratch:
        current = Path(scratch) / "current"
        while (left := end - time.monotonic()) > 0.5:
            current.write_bytes(bytes(2 * mutate.MAX_BYTES))
            process = get_context("spawn").Process(target=work, args=(name, seed + tries, left, current, folder))
            process.start()
            process.join()
            noted = current.read_bytes()
            tried = int.from_bytes(noted[:8], "little")
            tries += tried
            if process.exitcode == 0 or not tried:
                break
            data = noted[16 : 16 + int.from_bytes(noted[8:16], "little")]
            save(folder, name, data, f"the process ended with {process.exitcode}")
    return tries


def main() -> int:
    """Share the time among the targets; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "kosmos-fuzz")
    given = parser.parse_args()
    given.findings.mkdir(parents=True, exist_ok=True)
    before = set(os.listdir(given.findings))
    names = given.target or list(TARGETS)
    for name in names:  # one after the other: a run on a busy machine takes one core
        started = time.monotonic()
        tries = fuzz(name, given.seed, given.seconds / len(names), given.findings)
        print(f"{name:10s} {tries:9d} inputs, {tries / (time.monotonic() - started):8.0f} a second", flush=True)
    return 1 if set(os.listdir(given.findings)) - before else 0


if __name__ == "__main__":
    sys.exit(main())
