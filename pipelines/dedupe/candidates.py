"""Pairs of pages out of many tables, each once, in order of the later page, in memory that does not grow with them.

A pair comes from as many partitions as bands of it meet: some five times at Jaccard .85. What outgrows the memory lies
sorted in the unit's scratch folder until it is merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dedupe import Docs, column

# Two rows: b, a. Columns ascend by (b, a).
Run = npt.NDArray[np.uint64]

HELD = 1 << 23  # pairs in memory, 16 bytes each
CHUNK = 1 << 20  # pairs handed out at a time: two pages each, with slots 0.3 GB at most


def chunks(tables: Iterable[pa.Table], scratch: Path) -> Iterator[tuple[Docs, Docs]]:
    """(a, b) of all pairs of tables with these columns, each pair once, by (b, a), at most CHUNK at a time."""
    held: list[Run] = []
    runs: list[Run] = []
    num = 0
    for table in (whole.slice(start, HELD) for whole in tables for start in range(0, whole.num_rows, HELD)):
        held.append(np.stack([column(table, "b"), column(table, "a")]))
        num += held[-1].shape[1]
        if num > HELD:
            held = [once(held)]
            num = held[0].shape[1]
            if num > HELD // 2:
                runs.append(_spilled(held.pop(), scratch / f"candidates.{len(runs)}.npy"))
                num = 0
    for piece in _merged([*runs, once(held)]):
        for start in range(0, piece.shape[1], CHUNK):
            yield piece[1, start : start + CHUNK], piece[0, start : start + CHUNK]


def once(runs: list[Run]) -> Run:
    """All pairs of the runs in one, in order, each once."""
    both = np.concatenate([np.zeros((2, 0), np.uint64), *runs], axis=1)
    both = both[:, np.lexsort((both[1], both[0]))]
    first = np.ones(both.shape[1], np.bool_)
    first[1:] = np.any(both[:, 1:] != both[:, :-1], axis=0)
    return both[:, first]


def _spilled(run: Run, path: Path) -> Run:
    np.save(path, run)
    mapped: Run = np.load(path, mmap_mode="r")
    return mapped


def _merged(runs: list[Run]) -> Iterator[Run]:
    """Runs, each in order and without repetitions, as pieces in order, together without repetitions."""
    runs = [run for run in runs if run.shape[1]]
    while runs:
        step = max(1, HELD // 2 // len(runs))
        # what is no later than the last pair in sight of every run that goes on cannot come again
        ends = [(int(run[0, step - 1]), int(run[1, step - 1])) for run in runs if run.shape[1] > step]
        cuts = [_through(run, *min(ends)) if ends else run.shape[1] for run in runs]
        yield once([np.asarray(run[:, :cut]) for run, cut in zip(runs, cuts, strict=True)])
        runs = [run[:, cut:] for run, cut in zip(runs, cuts, strict=True) if cut < run.shape[1]]


def _through(run: Run, b: int, a: int) -> int:
    """How many pairs of a run come no later than a pair."""
    first, stop = (int(np.searchsorted(run[0], np.uint64(b), side)) for side in ("left", "right"))
    return first + int(np.searchsorted(run[1, first:stop], np.uint64(a), "right"))
