"""One key in a file sorted by a uint64 column, by range reads: some kilobytes instead of the file.

Keys that are hashes are spread evenly, so the place of one is known to within some square roots of the number of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from engine.arrow import Batch, File, column_range
from engine.store import Store

NEAR = 512  # rows read on either side of the expected place: 4 KiB, more than 5 standard deviations at 30,000 rows


def find(store: Store, schema: pa.Schema, files: tuple[File, ...], column: str, value: int) -> list[dict[str, Any]]:
    """Rows whose `column` equals `value`, of files that are sorted by it, fixed in width and not compressed."""
    rows = []
    for file in files:
        for batch in file.batches:
            for first, last in _places(store, schema, file, batch, column, value):
                ranges = [column_range(schema, batch, name, first, last - first) for name in schema.names]
                parts = store.get_ranges(file.path, ranges)
                columns = {
                    name: np.frombuffer(part, schema.field(name).type.to_pandas_dtype())
                    for name, part in zip(schema.names, parts, strict=True)
                }
                rows += [{name: values[i].item() for name, values in columns.items()} for i in range(last - first)]
    return rows


def _places(
    store: Store, schema: pa.Schema, file: File, batch: Batch, column: str, value: int
) -> list[tuple[int, int]]:
    if not batch.rows:
        return []
    expected = batch.rows * value >> 64
    first, last = max(0, expected - NEAR), min(batch.rows, expected + NEAR)
    while True:
        body = store.get_range(file.path, *column_range(schema, batch, column, first, last - first))
        keys = np.frombuffer(body, np.uint64)
        wanted = np.uint64(value)
        below, above = first > 0 and keys[0] >= wanted, last < batch.rows and keys[-1] <= wanted
        if not below and not above:
            start, end = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
            return [(first + int(start), first + int(end))] if end > start else []
        # not where hashes should be: look twice as far on the side that may hold more
        width = last - first
        first, last = max(0, first - width) if below else first, min(batch.rows, last + width) if above else last
