"""Pairs out of many tables: each once, in order, whatever fits into memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.dedupe import candidates

LARGE = 1 << 63  # docs are uint64: as float64 or int64 these would be others
DOC = st.integers(0, 6) | st.integers(LARGE, LARGE + 6)
TABLES = st.lists(st.lists(st.tuples(DOC, DOC), max_size=12), max_size=12)


def table(pairs: list[tuple[int, int]]) -> pa.Table:
    columns = [pa.array([pair[side] for pair in pairs], pa.uint64()) for side in (0, 1)]
    return pa.table(columns, names=["a", "b"])


@settings(deadline=None)
@given(TABLES, st.integers(1, 40), st.integers(1, 5))
@example([[(1, 3), (2, 3)], [(1, 3)], [(0, 3), (2, 3)], [(2, 4)]], 1, 1)
def test_each_pair_comes_once_and_in_order(tables: list[list[tuple[int, int]]], held: int, chunk: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(candidates, "HELD", held),
        mock.patch.object(candidates, "CHUNK", chunk),
    ):
        pieces = list(candidates.chunks(map(table, tables), Path(folder)))
        assert all(0 < len(a) == len(b) <= chunk for a, b in pieces)
        assert all(values.dtype == np.uint64 for piece in pieces for values in piece)
        found = [pair for a, b in pieces for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert found == sorted({pair for pairs in tables for pair in pairs}, key=lambda pair: (pair[1], pair[0]))


def test_memory_does_not_grow_with_the_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "HELD", 1000)
    monkeypatch.setattr(candidates, "CHUNK", 300)
    rng = np.random.default_rng(0)
    tables = [pa.table(list(np.sort(rng.integers(0, 1 << 40, (2, 200), np.uint64), axis=0)), names=["a", "b"])] * 3
    tables += [pa.table(list(rng.integers(0, 1 << 40, (2, 200), np.uint64)), names=["a", "b"]) for _ in range(50)]
    once, largest = candidates.once, 0

    def watched(runs: list[candidates.Run]) -> candidates.Run:
        nonlocal largest
        largest = max(largest, sum(run.shape[1] for run in runs))
        return once(runs)

    monkeypatch.setattr(candidates, "once", watched)
    found = sum(len(a) for a, _ in candidates.chunks(tables, tmp_path))
    assert found == 51 * 200 and len(list(tmp_path.iterdir())) > 5
    assert largest <= 1000 + 200, "what is held, and the table that was one too many"
