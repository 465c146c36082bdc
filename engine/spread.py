"""The generic file shuffle: a key's top bits are its partition, a file holds its rows in order of partitions.

The attempt sorts by the column added here and notes where each partition starts (`Output.partition_by`), so a reader
takes one range of each file: many units times many partitions stay as many files as units. Keys must be hashes, or the
partitions are of very different sizes.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.errors import ConfigError

MAX_PARTITIONS = 1 << 16


def check_partitions(partitions: int) -> None:
    """ConfigError unless it is a power of two up to 65,536."""
    if not 1 <= partitions <= MAX_PARTITIONS or partitions & (partitions - 1):
        raise ConfigError(f"{partitions} partitions: set a power of two from 1 to {MAX_PARTITIONS}")


def with_parts(table: pa.Table, key_column: str, partitions: int) -> pa.Table:
    """The table with a first column "part" (uint16): the top bits of a uint64 key without nulls."""
    check_partitions(partitions)
    keys = table[key_column].to_numpy()
    if keys.dtype != np.uint64:
        raise TypeError(f"{key_column} is {keys.dtype}, not uint64")
    bits = partitions.bit_length() - 1
    # a shift by all 64 bits is undefined
    parts = (keys >> np.uint64(64 - bits) if bits else np.zeros(len(keys), np.uint64)).astype(np.uint16)
    return table.add_column(0, pa.field("part", pa.uint16(), nullable=False), pa.array(parts))
