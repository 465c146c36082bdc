"""What an attempt lends to `process`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from engine.attempt import attempt
from engine.errors import ConfigError, Missing, StoreError
from engine.ledger import Generation, Ledger
from engine.stage import Output, Unit
from engine.store import Store
from engine.work import InputError, LedgerWork, Note, read_slice
from engine.writer import OutputWriter
from tests import stages

RECIPE = stages.recipe()
NUMBERS, DOUBLE, UNIQUE, INDEX = (step.stage for step in RECIPE.steps)


@pytest.fixture
def ledger(memory: str, tmp_path: Path) -> Ledger:
    """Three units of numbers in generation 1 of unique."""
    found = Ledger(memory)
    for unit in stages.units(3):
        assert attempt(memory, NUMBERS, unit, str(tmp_path)).state == "committed"
    manifests = {"numbers": (NUMBERS.key, found.freeze(NUMBERS.key, ["u0000", "u0002"]))}
    first = found.claim(Generation(stage=UNIQUE.key, number=1, parent="", manifests=manifests))
    for part in range(2):
        unit = Unit(id=first.unit_id(part), inputs=(str(part),), generation=1)
        assert attempt(memory, UNIQUE, unit, str(tmp_path)).state == "committed"
    return found


def work(ledger: Ledger, tmp_path: Path, unit: Unit, stage: str = "unique") -> LedgerWork:
    return LedgerWork(ledger, RECIPE.stage(stage), unit, tmp_path)


def test_a_map_unit_reads_its_namesake(ledger: Ledger, tmp_path: Path) -> None:
    lent = work(ledger, tmp_path, Unit(id="u0001"), "double")
    table = lent.read("numbers", "numbers")
    assert table["n"].to_pylist() == [n for n in range(30, 60) if n % 7]
    assert lent.read("numbers", "numbers", ("text",)).schema.names == ["text"]
    with pytest.raises(Missing):
        work(ledger, tmp_path, Unit(id="u0009"), "double").read("numbers", "numbers")
    with pytest.raises(ConfigError, match="reads no stage"):
        lent.read("index", "index")


def test_a_unit_may_see_what_another_of_its_stage_committed(ledger: Ledger, tmp_path: Path) -> None:
    generation = ledger.generation(UNIQUE.key, 1)
    assert generation is not None
    lent = work(ledger, tmp_path, Unit(id=generation.unit_id(0), generation=1))
    other = lent.committed(generation.unit_id(1))
    assert other is not None and other == ledger.commit(UNIQUE.key, generation.unit_id(1))
    assert lent.committed("u0000") is None, "a unit of another stage"


def test_batches_are_the_rows_of_read_in_pieces(ledger: Ledger, tmp_path: Path) -> None:
    lent = work(ledger, tmp_path, Unit(id="u0001"), "double")
    pieces = list(lent.batches("numbers", "numbers", ("text", "n")))
    whole = lent.read("numbers", "numbers", ("text", "n"))
    assert pa.concat_tables(pieces).equals(whole) and whole.schema.names == ["text", "n"]
    assert len(pieces) == sum(len(file.batches) for file in ledger.commit(NUMBERS.key, "u0001").outputs["numbers"])
    assert max(piece.num_rows for piece in pieces) <= NUMBERS.output("numbers").batch_rows < whole.num_rows


def test_partitions_are_those_of_the_frozen_commits_only(ledger: Ledger, tmp_path: Path) -> None:
    lent = work(ledger, tmp_path, Unit(id="g-000000", generation=1))
    assert [commit.unit for commit in lent.commits("numbers")] == ["u0000", "u0002"]
    parts = [lent.partition("numbers", "keys", part) for part in range(3)]
    assert all(part.schema.names == ["key"] for part in parts)
    ns = [n for n in (*range(30), *range(60, 90)) if n % 7]
    expected = [(n % 50) * 0x9E3779B97F4A7C15 % 2**64 for n in ns]
    assert sorted(key for part in parts for key in part["key"].to_pylist()) == sorted(expected)
    assert all(key >> 63 == 0 for key in parts[0]["key"].to_pylist())
    assert all(key >> 63 == 1 for key in parts[1]["key"].to_pylist())
    assert parts[2].num_rows == 0, "a partition without rows"
    # in order of unit ids, sorted within each
    both = [key for unit in ("u0000", "u0002") for key in _keys(ledger, unit) if key >> 63 == 1]
    assert parts[1]["key"].to_pylist() == both


def test_slices_are_rows_of_record_batches(ledger: Ledger, tmp_path: Path) -> None:
    lent = work(ledger, tmp_path, Unit(id="g-000000", generation=1))
    commits = lent.commits("numbers")
    numbers, keys = NUMBERS.output("numbers"), NUMBERS.output("keys")
    for declared in (numbers, keys):  # of several batches with text, compressed; of one a partition, without
        wanted, expected = [], []
        for commit in commits:
            whole, before = lent.table(commit, declared.name), 0
            for number, batch in enumerate(commit.outputs[declared.name][0].batches):
                for first, num in ((0, batch.rows), (1, 3), (batch.rows - 1, 1), (2, 0)):
                    wanted.append((commit, number, first, num))
                    expected.append(whole.slice(before + first, num))
                before += batch.rows
        assert len(wanted) >= 16 and list(lent.slices(declared, wanted)) == expected
    batch = commits[0].outputs["keys"][0].batches[1]
    rows = batch.rows
    for wrong in ((1, 0, rows + 1), (1, -1, 2), (2, 0, 1)):
        with pytest.raises(StoreError, match="kosmos verify"):
            list(lent.slices(keys, [(commits[0], *wrong)]))
    path = commits[0].outputs["keys"][0].path
    ledger.store.put(path, ledger.store.get(path)[: batch.body + 20])
    with pytest.raises(StoreError):
        list(lent.slices(keys, [(commits[0], 1, 0, rows)]))


def test_slices_run_on_over_files(memory: str, tmp_path: Path) -> None:
    output = Output(name="rows", schema=pa.schema([pa.field("n", pa.uint16(), nullable=False)]), compression=None)
    cut = dataclasses.replace(output, batch_rows=5, file_rows=10)
    writer = OutputWriter(cut, tmp_path)
    writer.add(pa.table([pa.array(range(23), pa.uint16())], schema=output.schema))
    store, files = Store(memory), []
    for number, file in enumerate(writer.finish()):
        store.put_file(str(number), Path(file.path))
        files.append(dataclasses.replace(file, path=str(number)))
    assert len(files) == 3
    for number, first, num in ((0, 0, 5), (1, 4, 1), (2, 0, 5), (3, 1, 2), (4, 0, 3)):
        table = read_slice(store, cut, files, number, first, num)
        assert table["n"].to_pylist() == list(range(number * 5 + first, number * 5 + first + num))


def _keys(ledger: Ledger, unit: str) -> list[int]:
    ns = ledger.commit(NUMBERS.key, unit).inputs
    kept = [n for n in range(int(ns[0]), int(ns[0]) + int(ns[1])) if n % 7]
    return sorted((n % 50) * 0x9E3779B97F4A7C15 % 2**64 for n in kept)


def test_units_are_the_partitions_of_what_is_not_partitioned(ledger: Ledger, tmp_path: Path) -> None:
    manifests = {"unique": (UNIQUE.key, ledger.freeze(UNIQUE.key))}
    ledger.claim(Generation(stage=INDEX.key, number=1, parent="", manifests=manifests))
    lent = work(ledger, tmp_path, Unit(id="g-000000", generation=1), "index")
    by_unit = [lent.table(commit, "unique") for commit in lent.commits("unique")]
    assert [lent.partition("unique", "unique", part) for part in range(2)] == by_unit
    assert lent.partition("unique", "unique", 5).num_rows == 0


def test_a_generation_reads_what_it_names_and_nothing_else(ledger: Ledger, tmp_path: Path) -> None:
    lent = work(ledger, tmp_path, Unit(id="g-000000", generation=1))
    assert lent.generation.earlier("index") == ()
    for wrong in (("double", 0), ("index", 1), ("numbers", 4)):
        with pytest.raises(ConfigError, match="does not read"):
            lent.commits(*wrong)
    with pytest.raises(StoreError, match="kosmos verify"):
        _ = work(ledger, tmp_path, Unit(id="g-000000", generation=7)).generation


def test_a_damaged_file_is_a_store_error(ledger: Ledger, tmp_path: Path) -> None:
    commit = ledger.commit(NUMBERS.key, "u0000")
    ledger.store.put(commit.outputs["numbers"][0].path, b"ARROW1 and then nothing")
    ledger.store.put(commit.outputs["keys"][0].path, b"x" * commit.outputs["keys"][0].bytes)
    with pytest.raises(StoreError, match="kosmos verify"):
        work(ledger, tmp_path, Unit(id="u0000"), "double").read("numbers", "numbers")
    with pytest.raises(StoreError, match="kosmos verify"):
        work(ledger, tmp_path, Unit(id="g-0", generation=1)).partition("numbers", "keys", 0)
    ledger.store.put(commit.outputs["keys"][0].path, b"cut")
    with pytest.raises(StoreError):
        work(ledger, tmp_path, Unit(id="g-0", generation=1)).partition("numbers", "keys", 0)


def test_inputs_come_from_disk_or_a_store(memory: str, tmp_path: Path) -> None:
    (tmp_path / "with space.warc").write_bytes(b"here")
    store = Store(memory)
    store.put_new("a/one.warc", b"one")
    store.put_new("b/one.warc", b"two")
    lent = work(Ledger(memory), tmp_path, Unit(id="u"))
    assert lent.local(str(tmp_path / "with space.warc")).read_bytes() == b"here"
    assert lent.local(f"file://{tmp_path}/with%20space.warc").read_bytes() == b"here"
    with pytest.raises(InputError, match="not a file"):
        lent.local(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="cannot be read"):
        lent.local(f"{memory}/nothing/at/all")


@pytest.mark.s3
def test_two_inputs_of_one_unit_do_not_meet(s3: str, tmp_path: Path) -> None:
    store = Store(s3)
    store.put_new("a/one.warc", b"one")
    store.put_new("b/one.warc", b"two")
    lent = work(Ledger(s3), tmp_path, Unit(id="u"))
    first, second = lent.local(f"{s3}/a/one.warc"), lent.local(f"{s3}/b/one.warc")
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    with pytest.raises(InputError, match="cannot be read"):
        lent.local(f"{s3}/c/one.warc")


def test_poisoned_records_are_refused_and_listed(memory: str, tmp_path: Path) -> None:
    note = Note(tmp_path / "note")
    lent = LedgerWork(Ledger(memory), UNIQUE, Unit(id="u"), tmp_path, note, frozenset({7}))
    assert note.read() == -1
    assert lent.enter(2**40) and Note(tmp_path / "note").read() == 2**40
    assert not lent.enter(7) and lent.skipped == [7] and note.read() == 2**40


def test_counts_add_up(memory: str, tmp_path: Path) -> None:
    lent = work(Ledger(memory), tmp_path, Unit(id="u"))
    lent.count("a")
    lent.count("a", 5)
    assert lent.counts == {"a": 6}
