"""Ids in numpy: 32-byte ids of addresses, their partitions, and the blocks of pages.

Ids of addresses are held as `S32`. numpy drops trailing zero bytes of such values when it shows them and pads with
zeros when it compares them, so order and equality are those of the 32 bytes; never turn them into Python bytes by hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.spread import check_partitions
from pipelines.dedupe import blocks, one

ID_BYTES = 32
Ids = npt.NDArray[np.bytes_]
__all__ = ["ID_BYTES", "Ids", "Parts", "arrow", "blocks", "first_of_runs", "ids", "partitions"]
Parts = npt.NDArray[np.uint16]


def ids(column: pa.ChunkedArray | pa.Array) -> Ids:
    """A binary(32) column without nulls as one `S32` array."""
    array = column if isinstance(column, pa.Array) else one(column)
    first = array.offset * ID_BYTES
    body = np.frombuffer(array.buffers()[1] or b"", np.uint8)[first : first + ID_BYTES * len(array)]
    return body.view(f"S{ID_BYTES}")


def arrow(values: Ids) -> pa.Array:
    """The binary(32) array of `S32` values."""
    plain = np.ascontiguousarray(values.astype(f"S{ID_BYTES}", copy=False))
    return pa.Array.from_buffers(pa.binary(ID_BYTES), len(plain), [None, pa.py_buffer(plain)])


def partitions(values: Ids, num: int) -> Parts:
    """The partition of each id: its first bits, so that order by id is order by partition."""
    check_partitions(num)
    plain = np.ascontiguousarray(values.astype(f"S{ID_BYTES}", copy=False))
    first: npt.NDArray[Any] = plain.view(">u8").reshape(-1, 4)[:, 0]
    bits = num.bit_length() - 1
    # a shift by all 64 bits is undefined
    return (first >> np.uint64(64 - bits) if bits else np.zeros(len(values), np.uint64)).astype(np.uint16)


def first_of_runs(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where rows sorted by the columns differ from the row before."""
    first = np.ones(len(columns[0]), np.bool_)
    first[1:] = False
    for column in columns:
        first[1:] |= column[1:] != column[:-1]
    return first
