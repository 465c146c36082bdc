"""Rows on their way to files: the bytes never depend on how rows were yielded, nor on whether they spilled."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.arrow import File, read_batch, stored_schema
from engine.errors import ConfigError
from engine.schema import TEXT, field, large_list, schema, struct
from engine.stage import Output
from engine.writer import OutputWriter

NESTED = schema(
    field("part", pa.uint16(), ""),
    field("key", pa.uint64(), ""),
    field("flag", pa.bool_(), ""),
    field("text", TEXT, ""),
    field("items", large_list(struct(("kind", TEXT), ("image", pa.int16()))), ""),
)
Row = tuple[int, int, bool, str, list[tuple[str, int]]]
ROW = st.tuples(
    st.integers(0, 5),
    st.integers(0, 9),
    st.booleans(),
    st.text("aé\0", max_size=4),
    st.lists(st.tuples(st.text("xy", max_size=2), st.integers(-9, 9)), max_size=3),
)
ROWS = st.lists(ROW, max_size=40)
_folders = itertools.count()


def table(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"part": p, "key": k, "flag": f, "text": t, "items": [{"kind": a, "image": b} for a, b in items]}
            for p, k, f, t, items in rows
        ],
        schema=NESTED,
    )


def written(output: Output, pieces: Sequence[pa.Table], folder: Path, spill_bytes: int = 1 << 30) -> list[File]:
    place = folder / f"w{next(_folders)}"
    place.mkdir()
    writer = OutputWriter(output, place, spill_bytes)
    for piece in pieces:
        writer.add(piece)
    files = writer.finish()
    assert sorted(str(path) for path in place.iterdir()) == sorted(file.path for file in files), "nothing else is left"
    return files


def sums(files: Sequence[File]) -> list[tuple[int, str]]:
    return [(file.rows, file.sha256) for file in files]


def read(files: Sequence[File]) -> pa.Table:
    return pa.concat_tables([ipc.open_file(file.path).read_all() for file in files])


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[int]:
    return [0, *sorted(draw(st.lists(st.integers(0, length), max_size=5))), length]


OUTPUTS = {
    "plain": Output(name="o", schema=NESTED, batch_rows=7),
    "rotated": Output(name="o", schema=NESTED, batch_rows=3, file_rows=10, compression=None),
    "small files": Output(name="o", schema=NESTED, batch_rows=5, file_bytes=2000),
    "sorted": Output(name="o", schema=NESTED, batch_rows=7, sort_by=("key",)),
    "sorted by two": Output(name="o", schema=NESTED, batch_rows=4, sort_by=("flag", "text"), file_rows=8),
    "partitioned": Output(name="o", schema=NESTED, partition_by="part", compression=None),
    "partitioned and sorted": Output(name="o", schema=NESTED, partition_by="part", sort_by=("key",), file_rows=9),
}


@pytest.mark.parametrize("name", OUTPUTS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(rows=ROWS, data=st.data())
def test_any_way_of_yielding_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[Row], data: st.DataObject
) -> None:
    output, folder = OUTPUTS[name], tmp_path_factory.getbasetemp()
    whole = table(rows)
    # slices of a larger table, tables built anew, and several chunks in one table are the same rows
    padded = table([*rows[:3], *rows, *rows[:2]]).slice(min(3, len(rows)), len(rows))
    at = data.draw(cuts(len(rows)))
    pieces = [
        data.draw(st.sampled_from([whole.slice(a, b - a), padded.slice(a, b - a), table(rows[a:b])]))
        for a, b in itertools.pairwise(at)
    ]
    expected = written(output, [whole], folder)
    assert sums(written(output, pieces, folder)) == sums(expected)
    assert sums(written(output, [pa.concat_tables(pieces)], folder)) == sums(expected)
    spill_bytes = data.draw(st.sampled_from([1, 300, 1000]))
    assert sums(written(output, pieces, folder, spill_bytes)) == sums(expected), "spilled"


@pytest.mark.parametrize("name", OUTPUTS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(rows=ROWS)
def test_no_row_is_lost_and_order_is_what_the_output_says(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[Row]
) -> None:
    output = OUTPUTS[name]
    files = written(output, [table(rows)], tmp_path_factory.getbasetemp(), 500)
    keys = ([output.partition_by] if output.partition_by else []) + list(output.sort_by)
    where = [NESTED.get_field_index(key) for key in keys]
    # text sorts by its UTF-8 bytes, as str does by code points: the same order
    expected = table(sorted(rows, key=lambda row: [row[i] for i in where]))
    if output.partition_by:
        expected = expected.drop_columns([output.partition_by])
    assert read(files).equals(expected)
    assert sum(file.rows for file in files) == len(rows)


def test_rotation_starts_a_file_once_one_is_full(tmp_path: Path) -> None:
    rows = table([(0, i, False, "t", []) for i in range(25)])
    files = written(Output(name="o", schema=NESTED, batch_rows=4, file_rows=10), [rows], tmp_path)
    assert [file.rows for file in files] == [12, 12, 1]
    assert [[batch.rows for batch in file.batches] for file in files] == [[4, 4, 4], [4, 4, 4], [1]]
    exact = written(Output(name="o", schema=NESTED, batch_rows=5, file_rows=25), [rows], tmp_path)
    assert [file.rows for file in exact] == [25], "no empty file after a full one"


def test_a_partition_is_one_batch_of_one_file(tmp_path: Path) -> None:
    rows = table([(i % 4, i, False, "t" * i, []) for i in range(400) if i % 4 != 2])
    output = Output(name="o", schema=NESTED, partition_by="part", batch_rows=7, file_rows=150, compression="zstd")
    files = written(output, [rows], tmp_path, 2000)
    assert [[(batch.part, batch.rows) for batch in file.batches] for file in files] == [
        [(0, 100), (1, 100)],
        [(3, 100)],
    ]
    for file in files:
        raw = Path(file.path).read_bytes()
        for batch in file.batches:
            found = read_batch(stored_schema(output), raw[batch.offset : batch.offset + batch.length], "a.arrow")
            assert found.column("key").to_pylist() == list(range(batch.part, 400, 4))


def test_large_partitions_cross_the_pieces_of_a_spilled_sort(tmp_path: Path) -> None:
    small = schema(field("part", pa.uint16(), ""), field("key", pa.uint64(), ""))
    output = Output(name="o", schema=small, partition_by="part", sort_by=("key",))
    random = np.random.default_rng(5)
    rows = pa.table([random.integers(0, 3, 200_000).astype(np.uint16), random.permutation(200_000)], schema=small)
    pieces = [rows.slice(i, 9_999) for i in range(0, 200_000, 9_999)]
    spilled = written(output, pieces, tmp_path, 300_000)
    assert sums(spilled) == sums(written(output, [rows], tmp_path))
    assert [batch.part for batch in spilled[0].batches] == [0, 1, 2]


@pytest.mark.parametrize("columns", [("part",), ("part", "key"), ("key", "part")])
def test_equal_rows_keep_their_order_through_a_merge_of_many_runs(tmp_path: Path, columns: tuple[str, ...]) -> None:
    small = schema(field("part", pa.uint16(), ""), field("key", pa.uint64(), ""), field("row", pa.uint32(), ""))
    output = Output(name="o", schema=small, sort_by=columns, compression=None)
    random = np.random.default_rng(5)
    parts, keys = np.sort(random.integers(0, 3, 40_000)).astype(np.uint16), random.integers(0, 50, 40_000)
    rows = pa.table([parts, keys, np.arange(40_000)], schema=small)
    pieces = [rows.slice(i, 999) for i in range(0, 40_000, 999)]
    (file,) = written(output, pieces, tmp_path, 50_000)  # a dozen runs, chunks of 50 rows
    order = np.lexsort([rows[name].to_numpy() for name in reversed(columns)])
    assert read([file])["row"].to_pylist() == order.tolist()


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_rows_are_one_empty_file(tmp_path: Path, name: str) -> None:
    (file,) = written(OUTPUTS[name], [], tmp_path)
    assert file.rows == 0 and file.batches == ()
    assert sums([file]) == sums(written(OUTPUTS[name], [table([]), table([])], tmp_path))
    assert ipc.open_file(file.path).read_all().num_rows == 0


def test_other_columns_are_refused(tmp_path: Path) -> None:
    writer = OutputWriter(OUTPUTS["plain"], tmp_path)
    with pytest.raises(TypeError, match="output o"):
        writer.add(pa.table({"key": [1]}))
    writer.close()


@pytest.mark.parametrize("name", ["plain", "sorted", "partitioned"])
def test_a_full_disk_is_the_system_s_error_once(tiny_disk: Path, name: str) -> None:
    random = np.random.default_rng(0)
    rows = table([(i % 5, i, False, random.bytes(600).hex(), []) for i in range(4000)])
    writer = OutputWriter(OUTPUTS[name], tiny_disk, 200_000)
    with pytest.raises(OSError, match="No space left"):
        for start in range(0, 4000, 100):
            writer.add(rows.slice(start, 100))
        writer.finish()
    writer.close()


BLOBS = schema(
    field("id", pa.uint64(), ""),
    field("images", large_list(struct(("name", TEXT), ("bytes", pa.large_binary()))), ""),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(st.binary(max_size=9), max_size=4), max_size=23), batch_rows=st.integers(1, 7))
def test_the_bytes_of_a_row_lie_where_the_sidecar_says(
    tmp_path: Path, rows: list[list[bytes]], batch_rows: int
) -> None:
    output = Output(
        name="blobs",
        schema=BLOBS,
        batch_rows=batch_rows,
        compression=None,
        file_bytes=1500,
        located="images.bytes",
    )
    place = tmp_path / f"w{next(_folders)}"
    place.mkdir()
    writer = OutputWriter(output, place)
    pieces = [
        pa.Table.from_pylist([{"id": i, "images": [{"name": "x", "bytes": blob} for blob in blobs]}], schema=BLOBS)
        for i, blobs in enumerate(rows)
    ]
    for piece in pieces:
        writer.add(piece)
    bodies = [Path(file.path).read_bytes() for file in writer.finish()]
    (sidecar,) = writer.sidecar()
    found = ipc.open_file(pa.memory_map(sidecar.path)).read_all().to_pylist()
    assert len(found) == len(rows) == sidecar.rows
    assert [bodies[at["file"]][at["offset"] : at["offset"] + at["length"]] for at in found] == [
        b"".join(blobs) for blobs in rows
    ]


def test_bytes_are_not_located_in_compressed_files() -> None:
    with pytest.raises(ConfigError, match="compression"):
        Output(name="blobs", schema=BLOBS, located="images.bytes")
