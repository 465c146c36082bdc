"""What a unit costs beyond its work: python -m tests.benchmarks.engine_overhead [--units 200] [--spin 0.2].

Units that spin the CPU for a set time, on an embedded Ray and on a file store. What passes between the units and the
CPU time that an attempt takes beyond the spinning are measured apart: other load on the machine counts little.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from engine.cluster import connect
from engine.ledger import Ledger
from engine.pool import InlinePool, Pool, RayPool
from engine.progress import Quiet
from engine.stage import Stage, Unit, Work
from engine.window import run
from tests import stages


def spin(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Burn `config` milliseconds of this thread's CPU time, then write one row."""
    until = time.thread_time() + config / 1000
    while time.thread_time() < until:
        pass
    yield "doubled", pa.table([pa.array([0], pa.uint64())], schema=stages.DOUBLED.schema)


def stage(spin_ms: int) -> Stage:
    """A stage of spinning units."""
    return Stage(
        name="spin", process="tests.benchmarks.engine_overhead:spin", config=spin_ms, outputs=(stages.DOUBLED,)
    )


def measure(pool: Pool, url: str, num: int, spin_ms: int, workers: int) -> tuple[float, float, float]:
    """Overhead a unit in seconds: wall time between attempts, CPU of the attempts, CPU of the driver (0 if inline)."""
    spinning = stage(spin_ms)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    run(stages.alone(spinning), Ledger(url), [Unit(id=f"u{i:06d}") for i in range(num)], pool, Quiet())
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    commits = list(Ledger(url).commits(spinning.key))
    between = (wall * workers - sum(commit.seconds for commit in commits)) / num
    cpu = sum(commit.cpu_seconds for commit in commits) / num - spin_ms / 1000
    driver = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / num
    return between, cpu, driver if isinstance(pool, RayPool) else 0.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--spin", type=float, default=0.2, help="seconds of CPU a unit")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    spin_ms = int(arguments.spin * 1000)
    table = Table(title=f"{arguments.units} units of {arguments.spin} s, {arguments.workers} workers", box=None)
    for column in ("pool", "between, ms", "attempt, ms CPU", "driver, ms CPU", "share of 1 s"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        rows = [("inline", measure(InlinePool(f"file://{folder}/a"), f"file://{folder}/a", 20, spin_ms, 1))]
        with connect(num_cpus=arguments.workers) as ray:
            warm = RayPool(ray, f"file://{folder}/b", folder)
            measure(warm, f"file://{folder}/b", 2 * arguments.workers, 1, arguments.workers)
            pool = RayPool(ray, f"file://{folder}/c", folder)
            found = measure(pool, f"file://{folder}/c", arguments.units, spin_ms, arguments.workers)
            rows.append(("ray", found))
    for name, (between, cpu, driver) in rows:
        table.add_row(name, *(f"{value * 1e3:.1f}" for value in (between, cpu, driver)), f"{between + cpu:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
