"""One key in a sorted file by range reads: never a wrong row, never a missing one, whatever the keys are like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.arrow import File
from engine.lookup import find
from engine.schema import VERDICTS
from engine.stage import Output
from engine.store import Store
from engine.writer import OutputWriter

TOP = 2**64 - 1


def stored(url: str, keys: np.ndarray, folder: Path, batch_rows: int = 1 << 20) -> tuple[Store, tuple[File, ...]]:
    output = Output(name="v", schema=VERDICTS, sort_by=("url_hash", "offset"), compression=None, batch_rows=batch_rows)
    writer = OutputWriter(output, folder)
    num = len(keys)
    columns = [pa.array(keys, pa.uint64()), np.arange(num, dtype=np.uint64), np.ones(num, np.uint16)]
    writer.add(pa.table([*columns, np.full(num, 0.5, np.float32)], schema=VERDICTS))
    files = writer.finish()
    store = Store(url)
    for file in files:
        store.put_file(Path(file.path).name, Path(file.path))
    return store, tuple(File(Path(f.path).name, f.rows, f.bytes, f.sha256, f.batches) for f in files)


def offsets(store: Store, files: tuple[File, ...], value: int) -> list[int]:
    rows = find(store, VERDICTS, files, "url_hash", value)
    assert all(row["url_hash"] == value and row["reason"] == 1 and row["value"] == 0.5 for row in rows)
    return [row["offset"] for row in rows]


@pytest.mark.parametrize("batch_rows", [1 << 20, 700])
def test_every_hash_is_found_and_no_other(memory: str, tmp_path: Path, batch_rows: int) -> None:
    keys = np.random.default_rng(1).integers(0, TOP, 20_000, np.uint64, endpoint=True)
    keys[:5] = (0, 0, TOP, TOP, 7)
    store, files = stored(memory, keys, tmp_path, batch_rows)
    for i in (*range(5), *range(5, 20_000, 997)):
        assert offsets(store, files, int(keys[i])) == np.flatnonzero(keys == keys[i]).tolist()
    assert offsets(store, files, 12345) == [] == offsets(store, files, TOP - 1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    keys=st.lists(st.sampled_from([0, 1, 2, 2**63, TOP - 1, TOP]) | st.integers(0, TOP), max_size=30),
    repeat=st.sampled_from([1, 50, 700]),
    batch_rows=st.sampled_from([64, 5000]),
    value=st.sampled_from([0, 1, 2**63, TOP]) | st.integers(0, TOP),
)
def test_keys_that_are_no_hashes_are_found_too(
    tmp_path_factory: pytest.TempPathFactory, keys: list[int], repeat: int, batch_rows: int, value: int
) -> None:
    column = np.repeat(np.array(keys, np.uint64), repeat)
    store, files = stored("memory:///lookup", column, tmp_path_factory.mktemp("lookup"), batch_rows)
    try:
        for wanted in (value, *keys[:2]):
            assert offsets(store, files, wanted) == np.flatnonzero(column == np.uint64(wanted)).tolist()
    finally:
        store.delete([file.path for file in files])
