"""Memory and speed of grouping: python -m tests.benchmarks.group_memory [--cases ...].

Each case is a process of its own that groups one partition with the kept keys of before, rows made as they are read, so
that no more of them is in memory than a worker would have. The peak should be below 0.5 GB whatever the size. Seconds
are of CPU, without the making of rows, and with the writing of pairs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from engine import schema
from engine.arrow import Batch, File, stored_schema
from engine.ledger import Commit
from engine.stage import Output, Unit
from engine.writer import OutputWriter
from pipelines import dedupe
from pipelines.dedupe import bloom, group, radix
from tests.benchmarks.driver_memory import status_bytes

BLOCKS = 8  # files that this generation's rows come from
# name: (partitions, new keys of the partition, keys of each of two runs of before)
CASES = {
    "10 M keys, a partition of 256": (256, 10_000_000 // 256, 20_000_000 // 256),
    "100 M keys, a partition of 256": (256, 100_000_000 // 256, 200_000_000 // 256),
    "2 billion pages, a partition of 4,096": (4096, 36_000_000_000 // 4096, 9_000_000_000 // 4096),
    "10 M keys in one partition": (1, 10_000_000, 20_000_000),
    "100 M keys in one partition": (1, 100_000_000, 100_000_000),
}


def mixed(values: dedupe.Docs) -> dedupe.Docs:
    """Hashes of numbers (SplitMix64's finaliser)."""
    values = values * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> np.uint64(27))


class Made:
    """A `Work` whose rows are functions of their numbers: ascending keys, a tenth of them common to all files."""

    def __init__(self, part: int, partitions: int, new: int, old: int) -> None:
        self.unit = Unit(id=f"{'0' * 12}-{part:06d}", inputs=(str(part),), generation=3)
        self.generation = SimpleNamespace(number=3, earlier=lambda name: (1, 2))
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0  # that the making of rows took
        self._low, self._width = (1 << 64) // partitions * part, (1 << 64) // partitions
        rows = new // BLOCKS
        self._bands = [self._commit("keys", f"{'0' * 12}-{i:06d}", rows, rows, part) for i in range(BLOCKS)]
        self._runs = {n: self._commit("bands", self.unit.id, old, 1 << 20, -1, f"run{n}") for n in (1, 2)}

    def _commit(self, output: str, unit: str, rows: int, batch: int, part: int, attempt: str = "") -> Commit:
        batches = [Batch(i, 0, 0, min(batch, rows - i), part) for i in range(0, rows, batch)]
        outputs: dict[str, tuple[File, ...]] = {output: (File(attempt or unit, rows, 0, "", tuple(batches)),)}
        outputs["generations"] = (File("", 1, 0, "", ()),)
        return Commit(stage="made", unit=unit, attempt=attempt, outputs=outputs)

    def commits(self, stage: str, generation: int = 0) -> list[Commit]:
        """The blocks, or the one run of a generation."""
        return self._bands if stage == "bands" else [self._runs[generation]]

    def count(self, reason: str, num: int = 1) -> None:
        """Add up."""
        self.counts[reason] += num

    def slices(self, declared: Output, wanted: Sequence[tuple[Commit, int, int, int]]) -> Iterator[pa.Table]:
        """Rows by their numbers."""
        for commit, number, first, num in wanted:
            started = time.process_time()
            (file,) = commit.outputs[declared.name]
            which = int(file.path[-1]) + (BLOCKS if declared.name == "bands" else 0)
            start = file.batches[number].offset + first
            rows = np.arange(start, start + num, dtype=np.uint64)
            step = np.uint64(self._width // file.rows)
            own = mixed(rows * np.uint64(64) + np.uint64(which))
            common = own % np.uint64(10) == 0
            places = np.where(common, mixed(rows), own) % step
            keys = np.uint64(self._low) + rows * step + places
            pages, ranks = own >> np.uint64(40), np.zeros(num, np.uint32)
            if declared.name == "keys":
                table = pa.table([keys, pages.astype(np.uint32), ranks], schema=stored_schema(declared))
            else:
                docs = np.uint64(1 << 48 | which << 24) | pages
                table = pa.table([keys, docs, ranks], schema=schema.INDEX_BANDS)
            self.seconds += time.process_time() - started
            yield table


def one(name: str) -> dict[str, Any]:
    """Group a case here and say what it took."""
    partitions, new, old = CASES[name]
    config = dedupe.Config(partitions=partitions)
    small = Made(0, 4, 20_000, 50_000)
    list(group.process(small.unit, dedupe.Config(partitions=4), small))  # type: ignore[arg-type] # compiles
    idle = status_bytes("VmRSS")
    work = Made(0, partitions, new, old)
    with tempfile.TemporaryDirectory() as folder:
        writer = OutputWriter(group.OUTPUTS[0], Path(folder))
        started = time.process_time()
        pairs = 0
        for _, table in group.process(work.unit, config, work):  # type: ignore[arg-type]
            pairs += table.num_rows
            writer.add(table)
        writer.finish()
        seconds = time.process_time() - started - work.seconds
    return {"idle": idle, "highest": status_bytes("VmHWM"), "seconds": seconds, "rows": new + 2 * old, "pairs": pairs}


def kernels() -> Table:
    """Sort, join and filter alone, in millions of rows a second of one core."""

    def rate(num: int, call: Callable[[], object]) -> str:
        times = []
        for _ in range(3):
            started = time.process_time()
            call()
            times.append(time.process_time() - started)
        return f"{num / min(times) / 1e6:,.0f}"

    rng = np.random.default_rng(1)
    num = 1 << 22
    pieces = []
    for _ in range(BLOCKS):
        keys, docs = (rng.integers(7 << 56, 8 << 56, num // BLOCKS, dtype=np.uint64) for _ in range(2))
        pieces.append(radix.Rows(np.sort(keys), docs, docs.astype(np.uint32)))
    whole = radix.joined(pieces)
    old = radix.ordered(list(pieces)).keys
    words = bloom.empty(num)
    bloom.add(words, old)
    table = Table(title="kernels", box=None)
    table.add_column("kernel")
    table.add_column("M rows/s", justify="right")

    def join(every: int) -> None:
        keys = old[::every] + np.uint64(every)
        for start in range(0, num, 1 << 17):
            piece = old[start : start + (1 << 17)]
            assert radix.ascending(piece)
            radix.matches(keys, piece)

    table.add_row("order by (key, doc)", rate(num, lambda: radix.ordered(list(pieces))))
    table.add_row(
        "the same, numpy's stable argsort", rate(num, lambda: whole.take(np.argsort(whole.keys, kind="stable")))
    )
    table.add_row("the same, numpy's lexsort", rate(num, lambda: whole.take(np.lexsort((whole.docs, whole.keys)))))
    for every in (1, 4, 16, 50):
        table.add_row(f"join old keys, 1 new to {every}", rate(num, lambda every=every: join(every)))  # type: ignore[misc]
    table.add_row("filter: add", rate(num, lambda: bloom.add(words, old)))
    table.add_row("filter: look up", rate(num, lambda: bloom.maybe(words, old)))
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="numbers of cases, from 0")
    parser.add_argument("--one", default="", help="measure this case in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return
    table = Table(title="group", box=None)
    for column in ("case", "before, MB", "highest, MB", "CPU s", "M keys/s", "M pairs"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name in [list(CASES)[number] for number in arguments.cases]:
        command = [sys.executable, "-m", "tests.benchmarks.group_memory", "--one", name]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        sizes = [f"{found[key] / 1e6:.0f}" for key in ("idle", "highest")]
        speed = f"{found['rows'] / found['seconds'] / 1e6:.1f}"
        table.add_row(name, *sizes, f"{found['seconds']:.2f}", speed, f"{found['pairs'] / 1e6:.2f}")
    Console(width=110).print(table)
    Console(width=110).print(kernels())


if __name__ == "__main__":
    main()
