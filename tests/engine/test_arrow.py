"""Arrow IPC files: a file's bytes depend on its rows and its Output alone, and their places stand in the commit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from engine.arrow import Batch, FileWriter, checksum, column_range, conform, read_batch, sort
from engine.errors import StoreError
from engine.schema import VERDICTS, field, schema
from engine.stage import Output

FIXED = schema(
    field("flag", pa.bool_(), ""),
    field("small", pa.int8(), ""),
    field("id", pa.binary(5), ""),
    field("value", pa.float32(), ""),
    field("big", pa.uint64(), ""),
)


def fixed_rows(num: int) -> pa.Table:
    random = np.random.default_rng(num)
    return pa.table(
        [
            pa.array(random.integers(0, 2, num).astype(bool)),
            pa.array(random.integers(-100, 100, num), pa.int8()),
            pa.array([random.bytes(5) for _ in range(num)], pa.binary(5)),
            pa.array(random.random(num), pa.float32()),
            pa.array(random.integers(0, 2**60, num), pa.uint64()),
        ],
        schema=FIXED,
    )


@given(st.integers(1, 70), st.data())
def test_column_range_finds_the_bytes(tmp_path_factory: pytest.TempPathFactory, num: int, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "fixed.arrow"
    writer = FileWriter(path, Output(name="o", schema=FIXED, compression=None))
    tables = [fixed_rows(num), fixed_rows(num + 3)]
    for table in tables:
        writer.write(table)
    file = writer.finish()
    which = data.draw(st.integers(0, 1))
    batch, table = file.batches[which], tables[which]
    first, length = data.draw(st.integers(0, batch.rows - 1)), data.draw(st.integers(1, 80))
    name, kind = data.draw(st.sampled_from([("small", np.int8), ("value", np.float32), ("big", np.uint64)]))
    start, size = column_range(FIXED, batch, name, first, length)
    raw = path.read_bytes()[start : start + size]
    assert np.array_equal(np.frombuffer(raw, kind), table[name].to_numpy()[first : first + length])
    start, size = column_range(FIXED, batch, "id", first, length)
    assert path.read_bytes()[start : start + size] == b"".join(table["id"].to_pylist()[first : first + length])


def test_column_range_serves_the_verdicts(tmp_path: Path) -> None:
    hashes = np.sort(np.random.default_rng(0).integers(0, 2**63, 5000).astype(np.uint64))
    rows = pa.table(
        [hashes, np.arange(5000, dtype=np.uint64), np.ones(5000, np.uint16), np.ones(5000, np.float32)], schema=VERDICTS
    )
    writer = FileWriter(tmp_path / "v", Output(name="verdicts", schema=VERDICTS, compression=None))
    writer.write(rows)
    (batch,) = writer.finish().batches
    start, size = column_range(VERDICTS, batch, "url_hash", 4990, 100)
    assert np.array_equal(np.frombuffer((tmp_path / "v").read_bytes()[start : start + size], np.uint64), hashes[4990:])
    with pytest.raises(KeyError):
        column_range(VERDICTS, batch, "no such column", 0, 1)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_batch_reads_from_its_range_and_the_file_from_its_footer(tmp_path: Path, compression: str | None) -> None:
    writer = FileWriter(tmp_path / "f", Output(name="o", schema=FIXED, compression=compression))
    for num in (3, 1, 9):
        writer.write(fixed_rows(num), part=num)
    file = writer.finish()
    raw = (tmp_path / "f").read_bytes()
    assert (file.rows, file.bytes, file.sha256) == (13, len(raw), hashlib.sha256(raw).hexdigest())
    for batch in file.batches:
        found = read_batch(FIXED, raw[batch.offset : batch.offset + batch.length], "a.arrow")
        assert pa.table([found[i] for i in range(5)], schema=FIXED).equals(fixed_rows(batch.part))
    assert ipc.open_file(tmp_path / "f").read_all().equals(pa.concat_tables([fixed_rows(n) for n in (3, 1, 9)]))


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_sums_are_of_the_bytes_of_each_batch(tmp_path: Path, compression: str | None) -> None:
    files = []
    for sums in (True, False):
        writer = FileWriter(tmp_path / "f", Output(name="o", schema=FIXED, compression=compression, sums=sums))
        for num in (3, 1, 9):
            writer.write(fixed_rows(num))
        files.append(writer.finish())
    raw = (tmp_path / "f").read_bytes()
    expected = [xxhash.xxh64_intdigest(raw[b.offset : b.offset + b.length]) for b in files[0].batches]
    assert files[0].sums == tuple(expected) and files[1].sums == ()
    assert replace(files[0], sums=()) == files[1]
    assert checksum(pa.py_buffer(raw)) == xxhash.xxh64_intdigest(raw)


def test_a_damaged_batch_is_a_store_error(tmp_path: Path) -> None:
    writer = FileWriter(tmp_path / "f", Output(name="o", schema=FIXED))
    writer.write(fixed_rows(50))
    (batch,) = writer.finish().batches
    raw = (tmp_path / "f").read_bytes()[batch.offset : batch.offset + batch.length]
    for damaged in (b"", raw[:20], raw[:-40], bytes(len(raw))):
        with pytest.raises(StoreError, match="kosmos verify"):
            read_batch(FIXED, damaged, "a.arrow")


def test_conform_names_what_is_wrong() -> None:
    rows = fixed_rows(4)
    assert conform(rows.select(["big", "value", "id", "small", "flag"]), FIXED, "x").schema.equals(FIXED)
    with pytest.raises(TypeError, match="lacks the column 'big'"):
        conform(rows.drop_columns("big"), FIXED, "x")
    with pytest.raises(TypeError, match="does not know: more"):
        conform(rows.append_column("more", pa.array([1, 2, 3, 4])), FIXED, "x")
    with pytest.raises(TypeError, match="small is int64, not int8"):
        conform(rows.set_column(1, "small", pa.array([1, 2, 3, 4], pa.int64())), FIXED, "x")


def test_conform_refuses_nulls() -> None:
    rows = fixed_rows(4).set_column(1, "small", pa.array([1, None, 3, 4], pa.int8()))
    with pytest.raises((TypeError, ValueError), match="null"):
        conform(rows, FIXED, "x")
    # and also where the table claims that there are none
    with pytest.raises((TypeError, ValueError), match="null"):
        conform(pa.table(rows.columns, schema=FIXED), FIXED, "x")


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 9))
def test_sort_is_stable_over_chunks(keys: list[int], chunk: int) -> None:
    table = pa.table({"key": pa.array(keys, pa.uint8()), "row": pa.array(range(len(keys)), pa.uint32())})
    chunked = pa.concat_tables([table.slice(i, chunk) for i in range(0, len(keys), chunk)] or [table])
    expected = sorted(range(len(keys)), key=lambda i: (keys[i], i))
    assert sort(chunked, ("key",))["row"].to_pylist() == expected


def test_batches_are_plain_numbers() -> None:
    assert Batch(1, 2, 3, 4) == Batch(1, 2, 3, 4, -1)
