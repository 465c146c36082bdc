"""The generic shuffle: a key's top bits are its partition."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.spread import with_parts

KEYS = st.lists(st.integers(0, 2**64 - 1), max_size=50)


def keyed(keys: list[int]) -> pa.Table:
    return pa.table({"key": pa.array(keys, pa.uint64()), "row": pa.array(range(len(keys)), pa.uint32())})


@given(KEYS, st.integers(0, 16))
def test_partition_is_the_top_bits(keys: list[int], bits: int) -> None:
    table = with_parts(keyed(keys), "key", 1 << bits)
    assert table.schema.field(0) == pa.field("part", pa.uint16(), nullable=False)
    assert table["part"].to_pylist() == [(key << bits) >> 64 for key in keys]
    assert table.drop_columns("part").equals(keyed(keys))


@given(KEYS)
def test_finer_partitions_split_coarser_ones(keys: list[int]) -> None:
    coarse, fine = (with_parts(keyed(keys), "key", p)["part"].to_numpy() for p in (4, 64))
    assert np.array_equal(coarse, fine >> 4)


def test_keys_above_two_to_the_63_keep_their_partition() -> None:
    # a key that passed through int64 or float64 would come out negative or rounded up into the next partition
    keys = [2**63 - 1, 2**63, 2**64 - 1, 2**64 - 2**10]
    assert with_parts(keyed(keys), "key", 2)["part"].to_pylist() == [0, 1, 1, 1]
    with pytest.raises(TypeError, match="int64"):
        with_parts(pa.table({"key": pa.array([1], pa.int64())}), "key", 2)


@pytest.mark.parametrize("partitions", [0, 3, 257, 1 << 17, -2])
def test_partitions_are_a_power_of_two(partitions: int) -> None:
    with pytest.raises(ConfigError, match="power of two"):
        with_parts(keyed([1]), "key", partitions)
