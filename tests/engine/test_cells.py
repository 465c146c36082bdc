"""Single values of fixed-width columns, by range reads of a real store."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import work as engine_work
from engine.arrow import File
from engine.attempt import attempt
from engine.errors import StoreError
from engine.ledger import Generation, Ledger
from engine.schema import field, schema
from engine.stage import Output, Stage, Unit, Work
from engine.store import Store
from engine.work import LedgerWork, read_cells
from engine.writer import OutputWriter

ROWS = 53
SCHEMA = schema(
    field("odd", pa.bool_(), "one bit a value"),
    field("n", pa.uint32(), "the number of the row, times 3"),
    field("five", pa.binary(5), "five bytes of it"),
)
# batches of 7 rows, files of 21: three files, the last one shorter, its last batch too
OUTPUT = Output(name="cells", schema=SCHEMA, compression=None, batch_rows=7, file_rows=21)


def rows_of(first: int, num: int) -> pa.Table:
    numbers = range(first, first + num)
    five = [(n * 0x9E3779B97F % 2**40).to_bytes(5, "little") for n in numbers]
    columns = [[n % 2 == 1 for n in numbers], pa.array([3 * n for n in numbers], pa.uint32()), five]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


TABLE = rows_of(0, ROWS)


def publish(unit: Unit, config: None, lent: Work) -> Iterator[tuple[str, pa.Table]]:
    """Rows from inputs: the first number, how many."""
    yield "cells", rows_of(*(int(text) for text in unit.inputs))


def nothing(unit: Unit, config: None, lent: Work) -> Iterator[tuple[str, pa.Table]]:
    """No rows."""
    yield from ()


SIGNED = Stage(name="signed", process="tests.engine.test_cells:publish", config=None, outputs=(OUTPUT,))
READER = Stage(
    name="reader",
    process="tests.engine.test_cells:nothing",
    config=None,
    outputs=(OUTPUT,),
    reads=(SIGNED,),
    carries=(("signed", (OUTPUT,)),),
    barrier=True,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[File]]:
    store, files = Store("memory:///cells"), []
    writer = OutputWriter(OUTPUT, tmp_path_factory.mktemp("cells"))
    writer.add(TABLE)
    for number, file in enumerate(writer.finish()):
        store.put_file(str(number), Path(file.path))
        files.append(dataclasses.replace(file, path=str(number)))
    assert [len(file.batches) for file in files] == [3, 3, 2]
    return store, files


def expected(table: pa.Table, column: str, rows: list[int]) -> list[bytes]:
    values = table[column].take(pa.array(rows, pa.int64())).to_pylist()
    return [value if isinstance(value, bytes) else value.to_bytes(4, "little") for value in values]


def bodies(cells: npt.NDArray[np.uint8]) -> list[bytes]:
    return [cell.tobytes() for cell in cells]


@settings(deadline=None)
@given(
    st.sets(st.integers(0, ROWS - 1)) | st.just(set(range(ROWS))),
    st.sampled_from(["n", "five"]),
    st.sampled_from([0, 5, 12, 4096]),
)
def test_cells_are_the_values_at_the_rows(
    written: tuple[Store, list[File]], wanted: set[int], column: str, near_bytes: int
) -> None:
    rows = np.array(sorted(wanted), np.int64)
    with mock.patch.object(engine_work, "NEAR_BYTES", near_bytes):
        cells = read_cells(written[0], SCHEMA, written[1], column, rows)
    assert cells.dtype == np.uint8 and cells.shape == (len(rows), 4 if column == "n" else 5)
    assert bodies(cells) == expected(TABLE, column, sorted(wanted))


def test_neighbours_are_one_range_and_others_are_not(
    written: tuple[Store, list[File]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, files = written
    asked: list[tuple[int, int]] = []
    get_ranges = Store.get_ranges

    def noted(own: Store, path: str, ranges: Any, gap: int) -> list[bytes]:
        asked.extend(ranges)
        assert gap == engine_work.NEAR_BYTES, "the client merges no more than we do"
        return get_ranges(own, path, ranges, gap)

    monkeypatch.setattr(Store, "get_ranges", noted)
    read_cells(store, SCHEMA, files, "five", np.arange(ROWS))
    assert [length for _, length in asked] == [35] * 7 + [20], "one a batch"
    asked.clear()
    monkeypatch.setattr(engine_work, "NEAR_BYTES", 5)
    read_cells(store, SCHEMA, files, "five", np.array([0, 1, 3, 6, 20, 52]))
    assert [length for _, length in asked] == [10, 5, 5, 5, 5]


@pytest.mark.parametrize("rows", [[-1, 0], [3, 2]])
def test_rows_in_no_order_are_a_store_error(written: tuple[Store, list[File]], rows: list[int]) -> None:
    store, files = written
    with pytest.raises(StoreError, match="kosmos verify"):
        read_cells(store, SCHEMA, files, "five", np.array(rows))


@pytest.mark.parametrize("rows", [[ROWS], [0, ROWS], [5, 1 << 40]])
def test_a_row_that_is_not_there_is_a_store_error(written: tuple[Store, list[File]], rows: list[int]) -> None:
    with pytest.raises(StoreError, match=f"has no row {rows[-1]}; run `kosmos verify`"):
        read_cells(*((written[0], SCHEMA, written[1])), "five", np.array(rows))
    with pytest.raises(StoreError, match="has no row 0"):
        read_cells(written[0], SCHEMA, [], "five", np.array([0]))


def test_cells_of_many_commits_of_two_generations(memory: str, tmp_path: Path) -> None:
    ledger = Ledger(memory)
    manifests = {}
    for number in (1, 2):
        ids = [f"g{number}u{i:03}" for i in range(5)]
        for i, unit in enumerate(ids):
            inputs = (str(1000 * number + 100 * i), str(ROWS if i else 0))  # the first one has no rows
            assert attempt(memory, SIGNED, Unit(id=unit, inputs=inputs), str(tmp_path)).state == "committed"
        manifests[number] = (SIGNED.key, ledger.freeze(SIGNED.key, ids))
    ledger.claim(
        Generation(
            stage=READER.key,
            number=2,
            parent="",
            manifests={"signed": manifests[2]},
            carried={"signed": {1: manifests[1]}},
        )
    )
    lent = LedgerWork(ledger, READER, Unit(id="g-000000", generation=2), tmp_path)
    rng = np.random.default_rng(0)
    wanted, values = [], []
    for number in (1, 2):
        for i, commit in enumerate(lent.commits("signed", number % 2)):
            for size in (0, 1, 9, ROWS) if i else (0,):
                rows = np.sort(rng.choice(ROWS, size, replace=False))
                wanted.append((commit, rows))
                values.append(expected(rows_of(1000 * number + 100 * i, ROWS), "five", rows.tolist()))
    assert [bodies(cells) for cells in lent.cells("cells", "five", wanted)] == values
    assert lent.cells("cells", "five", []) == []
    commit = lent.commits("signed")[1]
    file = commit.outputs["cells"][0]
    with pytest.raises(StoreError, match="has no row 53"):
        lent.cells("cells", "n", [(commit, np.array([1, 53]))])
    whole = ledger.store.get(file.path)
    ledger.store.put(file.path, whole[: file.batches[1].body + 50])
    with pytest.raises(StoreError, match="kosmos verify"):
        lent.cells("cells", "five", [(commit, np.arange(14))])
    ledger.store.delete([file.path])
    with pytest.raises(StoreError, match="kosmos verify"):
        lent.cells("cells", "five", [(commit, np.arange(3))])
