"""Rows by number: every file and batch border, local and remote, and no damaged or foreign shard is ever read."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine import schema
from engine.errors import ConfigError, Missing, StoreError
from engine.ledger import Commit, Ledger
from tests.trainer import shards
from tests.trainer.shards import Sample, caption, interleaved, jpeg, pack, rows_of, text
from trainer.data.rows import Row, Sources, sources


def same(row: Row, sample: Sample) -> bool:
    return (
        tuple(row.tokens.tolist()) == sample.tokens
        and tuple(row.image_starts.tolist()) == sample.starts
        and tuple(body.tobytes() for body in row.images) == sample.images
        and tuple(tuple(span) for span in row.loss.tolist()) == sample.loss
    )


def files(url: Path, stream: str = "text") -> list[Path]:
    return sorted((url / "pack-0/data").glob(f"*.{stream}.*.arrow"))


# what is read -------------------------------------------------------------------------------------------------------
def test_rows_are_numbered_over_files_and_units_and_manifests(tmp_path: Path) -> None:
    parts = [rows_of(num, seed) for seed, num in enumerate((100, 64, 1, 63, 130, 7))]
    first = pack(str(tmp_path), [{"text": parts[:2]}, {"text": [], "caption": [[caption(jpeg(), 5)]]}])
    second = pack(str(tmp_path), [{"text": parts[2:5]}])
    third = pack(str(tmp_path), [{"text": parts[5:]}], key="pack-1")
    with sources(str(tmp_path), [first, second, third]) as opened:
        listing = {source.name: source.rows for source in opened.listing}
        assert listing == {
            "pack-0/caption": 1,
            "pack-0/interleaved": 0,
            "pack-0/text": 358,
            "pack-1/caption": 0,
            "pack-1/interleaved": 0,
            "pack-1/text": 7,
        }
        wanted = [sample for part in parts[:5] for sample in part]
        numbers = list(range(len(wanted)))
        random.Random(0).shuffle(numbers)
        assert all(same(opened.read("pack-0/text", number), wanted[number]) for number in numbers)
        assert same(opened.read("pack-1/text", 6), parts[5][6])
        for outside in (-1, 358):
            with pytest.raises(IndexError):
                opened.read("pack-0/text", outside)


def test_more_manifests_change_no_number(tmp_path: Path) -> None:
    first = pack(str(tmp_path), [{"text": [rows_of(70)]}])
    second = pack(str(tmp_path), [{"text": [rows_of(30, 1)]}])
    with sources(str(tmp_path), [first]) as few, sources(str(tmp_path), [first, second]) as more:
        for row in range(70):
            assert few.read("pack-0/text", row).tokens.tolist() == more.read("pack-0/text", row).tokens.tolist()


def test_what_an_earlier_manifest_holds_is_numbered_once(tmp_path: Path) -> None:
    first = pack(str(tmp_path), [{"text": [rows_of(70)]}])
    pack(str(tmp_path), [{"text": [rows_of(30, 1)]}])
    whole = Ledger(str(tmp_path)).freeze("pack-0")
    with sources(str(tmp_path), [first, whole]) as opened:
        assert {source.name: source.rows for source in opened.listing}["pack-0/text"] == 100
        assert same(opened.read("pack-0/text", 70), rows_of(30, 1)[0])


def test_images_and_spans_come_with_their_row(tmp_path: Path) -> None:
    samples = [
        interleaved(5, jpeg(1), 6, 7, jpeg(2), jpeg(3), 8),
        interleaved(jpeg(4)),
        text(9),
        interleaved(5, 6, jpeg(5, 64, 48)),
    ]
    mark = pack(str(tmp_path), [{"interleaved": [samples]}])
    with sources(str(tmp_path), [mark]) as opened:
        assert all(same(opened.read("pack-0/interleaved", i), sample) for i, sample in enumerate(samples))


def test_the_vocabulary_is_that_of_the_manifests(tmp_path: Path) -> None:
    mark = pack(str(tmp_path), [{"text": [rows_of(3)]}, {"text": [rows_of(3)]}], model=b"pieces")
    with sources(str(tmp_path), [mark]) as opened:
        assert (opened.vocab, opened.model, opened.digests) == (shards.VOCAB, b"pieces", (mark,))
        assert opened.sha256 == hashlib.sha256(b"pieces").hexdigest()


def test_mapped_shards_hold_no_descriptor(tmp_path: Path) -> None:
    mark = pack(str(tmp_path), [{"text": [rows_of(2, seed) for seed in range(20)]}])
    with sources(str(tmp_path), [mark]) as opened:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for row in range(40):
            opened.read("pack-0/text", row)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before


# damage -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_shard_that_is_gone_is_named_and_one_made_again_is_found(scheme: str, tmp_path: Path) -> None:
    url = str(tmp_path) if scheme == "file" else f"memory:///gone-{tmp_path.name}"
    mark = pack(url, [{"text": [rows_of(10)]}])
    ledger = Ledger(url)
    (commit,) = ledger.manifest(mark)
    (file,) = commit.outputs["text"]
    body = ledger.store.get(file.path)
    ledger.store.delete([file.path])
    with sources(url, [mark]) as opened, pytest.raises(Missing, match=file.path):
        opened.read("pack-0/text", 0)
    # as `run` makes it again: another attempt's name under the unit's commit
    again = dataclasses.replace(file, path=file.path.replace(".a.", ".b."))
    ledger.store.put(again.path, body)
    path = f"pack-0/commits/{commit.unit}.json"
    outputs = {**ledger.commit("pack-0", commit.unit).outputs, "text": (again,)}
    ledger.store.put(path, Commit(stage="pack-0", unit=commit.unit, attempt="b", outputs=outputs).to_json())
    with sources(url, [mark]) as opened:
        assert same(opened.read("pack-0/text", 0), rows_of(10)[0])


def with_column(name: str, value: list[object]) -> pa.Table:
    rows = shards.table([interleaved(5, jpeg(1), 6), interleaved(jpeg(2), 7)])
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, schema.TRAINING.field(name), pa.array(value, schema.TRAINING.field(name).type))


def spans(*rows: list[tuple[int, int]]) -> list[object]:
    return [[{"start": start, "end": end} for start, end in row] for row in rows]


GOOD_SPANS = ([(1, 2), (68, 70)], [(67, 69)])


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("tokens", [[100] * 70, [4] * 69], "outside 0-99"),
        ("tokens", [[4] * 70, [-1] * 69], "outside 0-99"),
        ("tokens", [[4] * 69, [4] * 69], "lengths"),
        ("tokens", [[], [4] * 69], "lengths"),
        ("image_starts", [[3], []], "number of images"),
        ("image_starts", [[3, 3], [2]], "number of images"),
        ("image_starts", [[0], [2]], "places of images"),
        ("image_starts", [[7], [2]], "places of images"),
        ("images", [[], [b"a", b"b"]], "number of images"),
        ("num_images", [2, 1], "number of images"),
        ("loss", spans([(1, 2), (68, 71)], [(67, 69)]), "lie outside"),
        ("loss", spans([(0, 1), (68, 70)], [(67, 69)]), "lie outside"),
        ("loss", spans([(68, 70), (1, 2)], [(67, 69)]), "overlap"),
        ("loss", spans([(1, 3), (2, 3)], [(67, 69)]), "overlap"),
        ("loss", spans([(2, 1), (66, 70)], [(67, 69)]), "lie outside"),
        ("loss", spans([(1, 2)], [(67, 69)]), "other numbers"),
        ("counted", [3, 1], "other numbers"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(
    column: str, value: list[object], words: str, tmp_path: Path
) -> None:
    mark = pack(str(tmp_path), [{"interleaved": [with_column(column, value)]}])
    with sources(str(tmp_path), [mark]) as opened, pytest.raises(StoreError, match=words):
        opened.read("pack-0/interleaved", 0)


def test_the_rows_above_are_right_but_for_one_column(tmp_path: Path) -> None:
    mark = pack(str(tmp_path), [{"interleaved": [with_column("loss", spans(*GOOD_SPANS))]}])
    with sources(str(tmp_path), [mark]) as opened:
        assert len(opened.read("pack-0/interleaved", 0).tokens) == 70
        assert len(opened.read("pack-0/interleaved", 1).tokens) == 69


@pytest.mark.parametrize("scheme", ["file", "memory"])
@pytest.mark.parametrize("column", ["rank", "tokens", "images", "loss", "source", "docs"])
def test_other_columns_are_refused(scheme: str, column: str, tmp_path: Path) -> None:
    url = str(tmp_path) if scheme == "file" else f"memory:///columns-{tmp_path.name}"
    mark = pack(url, [{"text": [shards.table(rows_of(3)).drop_columns([column])]}])
    with sources(url, [mark]) as opened, pytest.raises(StoreError, match="other columns"):
        opened.read("pack-0/text", 0)


# what is no manifest of training rows -------------------------------------------------------------------------------
def refused(url: str, digests: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        sources(url, digests)
    return str(caught.value)


def test_a_manifest_of_another_stage_says_which_to_take(tmp_path: Path) -> None:
    pack(str(tmp_path), [{"text": [rows_of(3)]}])
    ledger = Ledger(str(tmp_path))
    file = shards.write(ledger, "assemble-1/data/u.a.curated.0.arrow", shards.table(rows_of(3)))
    ledger.put_commit(Commit(stage="assemble-1", unit="u", attempt="a", outputs={"curated": (file,)}))
    words = refused(str(tmp_path), [ledger.freeze("assemble-1")])
    assert "assemble-1" in words and "kosmos freeze pack" in words


def test_digests_and_stores_that_are_none_are_sentences(tmp_path: Path) -> None:
    mark = pack(str(tmp_path / "a"), [{"text": [rows_of(3)]}])
    assert "kosmos freeze pack" in refused(str(tmp_path / "a"), [])
    assert "given twice" in refused(str(tmp_path / "a"), [mark, mark])
    assert "no manifest" in refused(str(tmp_path / "a"), ["0" * 64])
    assert f"did you mean {mark}" in refused(str(tmp_path / "a"), [mark[:12]])
    assert "holds nothing" in refused(str(tmp_path / "b"), [mark])
    assert not (tmp_path / "b").exists()


def test_manifests_of_two_vocabularies_do_not_mix(tmp_path: Path) -> None:
    first = pack(str(tmp_path), [{"text": [rows_of(3)]}])
    second = pack(str(tmp_path), [{"text": [rows_of(3)]}], key="pack-1", model=b"another")
    words = refused(str(tmp_path), [first, second])
    assert first in words and second in words and "pack.tokenizer" in words


def test_a_manifest_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    pack(str(tmp_path), [{"text": [rows_of(3)]}, {"text": [rows_of(3)]}])
    ledger = Ledger(str(tmp_path))
    bare = [c.unit for c in ledger.commits("pack-0") if not c.rows("vocabulary")]
    assert "no vocabulary" in refused(str(tmp_path), [ledger.freeze("pack-0", bare)])


def test_a_damaged_vocabulary_is_refused(tmp_path: Path) -> None:
    mark = pack(str(tmp_path), [{"text": [rows_of(3)]}])
    (path,) = files(tmp_path, "vocabulary")
    body = bytearray(path.read_bytes())
    body[body.index(shards.MODEL)] ^= 1
    path.write_bytes(body)
    with pytest.raises(StoreError, match="kosmos verify"):
        sources(str(tmp_path), [mark])


def test_many_rows_at_once_are_the_same_rows(tmp_path: Path) -> None:
    parts = [rows_of(num, seed) for seed, num in enumerate((100, 64, 1, 63, 700, 7))]
    wanted = [sample for part in parts for sample in part]
    numbers = random.Random(2).choices(range(len(wanted)), k=300)
    for url in (str(tmp_path), f"memory:///many-{tmp_path.name}"):
        mark = pack(url, [{"text": parts, "caption": [[caption(jpeg(), 5)]]}])
        with sources(url, [mark]) as opened:
            found = opened.rows([("pack-0/text", number) for number in numbers])
            assert all(same(row, wanted[number]) for row, number in zip(found, numbers, strict=True))
            mixed = opened.rows([("pack-0/text", 934), ("pack-0/caption", 0), ("pack-0/text", 0)])
            assert [len(row.images) for row in mixed] == [0, 1, 0]
            assert opened.rows([]) == []
            with pytest.raises(IndexError):
                opened.rows([("pack-0/text", 0), ("pack-0/text", 935)])


def test_rows_of_an_object_store_hold_no_batch(tmp_path: Path) -> None:
    url = f"memory:///apart-{tmp_path.name}"
    mark = pack(url, [{"caption": [[caption(jpeg(1), 5), caption(jpeg(2), 6)]]}])
    with sources(url, [mark]) as opened:
        row = opened.read("pack-0/caption", 1)
        arrays = [row.tokens, row.image_starts, row.loss, *row.images]
        assert all(array.flags.owndata for array in arrays)  # type: ignore[attr-defined]


def test_arrays_are_views_of_the_shard(tmp_path: Path) -> None:
    mark = pack(str(tmp_path), [{"caption": [[caption(jpeg(1), 5)]]}])
    with sources(str(tmp_path), [mark]) as opened:
        assert isinstance(opened, Sources)
        row = opened.read("pack-0/caption", 0)
        assert not row.tokens.flags.owndata and not row.images[0].flags.owndata
        assert not row.images[0].flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            row.tokens[0] = np.int32(5)


def test_what_is_held_out_is_no_data_to_train_on(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    samples = [caption(jpeg(0), 5, 6)]
    kept, apart = (pack(store, [{"caption": [samples]}], key=key) for key in ("pack-0", "heldout-1"))
    for digests in ([apart], [kept, apart]):
        with pytest.raises(ConfigError, match=f"manifest {apart} is of what is held out"):
            sources(store, digests)
