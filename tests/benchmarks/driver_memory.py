"""Memory of the driver over many units: python -m tests.benchmarks.driver_memory [--units 100 50000] [--workers 2].

Units that do nothing, on an embedded Ray and a file store, each number in a process of its own; it should be flat and
below 300 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from engine.cluster import connect
from engine.ledger import Ledger
from engine.pool import RayPool
from engine.progress import Quiet
from engine.stage import Stage, Unit, Work
from engine.window import run
from tests import stages


def nothing(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """No rows."""
    yield "doubled", stages.DOUBLED.schema.empty_table()


def status_bytes(name: str) -> int:
    """A size of this process, as /proc has it: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) << 10


def one(num: int, workers: int) -> None:
    """Run `num` units here and print what it took as JSON."""
    stage = Stage(name="nothing", process="tests.benchmarks.driver_memory:nothing", config=0, outputs=(stages.DOUBLED,))
    with tempfile.TemporaryDirectory() as folder, connect(num_cpus=workers) as ray:
        url = f"file://{folder}/store"
        units = [Unit(id=f"u{i:06d}") for i in range(num)]
        idle = status_bytes("VmRSS")
        started = time.monotonic()
        run(stages.alone(stage), Ledger(url), units, RayPool(ray, url, folder), Quiet())
        seconds = time.monotonic() - started
        again = time.monotonic()
        run(stages.alone(stage), Ledger(url), units, RayPool(ray, url, folder), Quiet())
        found = {
            "units": num,
            "idle": idle,
            "after": status_bytes("VmRSS"),
            "highest": status_bytes("VmHWM"),
            "seconds": seconds,
            "again": time.monotonic() - again,
        }
    print(json.dumps(found), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, nargs="+", default=[100, 50_000])
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--one", type=int, default=0, help="measure this number in this process")
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.workers)
        return
    table = Table(title="driver", box=None)
    for column in ("units", "before, MB", "after, MB", "highest, MB", "ms a unit", "run again, s"):
        table.add_column(column, justify="right")
    for num in arguments.units:
        command = [sys.executable, "-m", "tests.benchmarks.driver_memory", "--one", str(num)]
        done = subprocess.run(
            [*command, "--workers", str(arguments.workers)], capture_output=True, text=True, check=True
        )
        found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
        table.add_row(
            f"{num:,}",
            *(f"{found[name] / 1e6:.0f}" for name in ("idle", "after", "highest")),
            f"{found['seconds'] / num * 1e3:.1f}",
            f"{found['again']:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
