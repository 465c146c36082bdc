"""Curated files to training shards, through a real ledger: complete, disjoint, the same however documents were cut."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from engine import schema
from engine.arrow import checksum
from engine.errors import ConfigError, StoreError
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe, Step
from engine.stage import Stage, Unit, Work
from engine.vocab import BOS, EOS, IMAGE_SLOTS, STREAMS
from engine.window import run
from engine.work import read_rows
from pipelines import pack
from pipelines.assemble import shards as assemble
from pipelines.pack import lay, shards, tokenise
from pipelines.pack.tokenizer import Tokenizer, bundled, load
from pipelines.reasons import Reason
from pipelines.smallweb.prose import Dice, Writer, topics

Row = dict[str, Any]
numbers = itertools.count()


# a store of curated files ------------------------------------------------------------------------------------------
def assembled(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Stands for assemble: the rows of two files."""
    for name, path in zip(("curated", "verdicts"), unit.inputs, strict=True):
        yield name, pa.ipc.open_file(path).read_all()


def recipe(config: pack.Config, model: str = "") -> Recipe:
    """The chain from curated files on; model: digest of the tokenizer, that of the config's if empty."""
    digest = model or pack.digest(config)
    shared: Row = {"seed": config.seed, "max_length": config.max_length, "partitions": config.partitions}
    shared |= {"shard_bytes": config.shard_bytes, "source": config.source}
    first = Stage(name="assemble", process=f"{__name__}:assembled", config=0, outputs=assemble.OUTPUTS)
    said = tokenise.Config(
        digest=digest,
        tokenizer=config.tokenizer,
        max_caption=config.max_caption,
        context_sentences=config.context_sentences,
        heldout=config.heldout,
        streams=config.streams,
        **shared,
    )
    second = barrier("tokenise", tokenise, said, first)
    third = barrier("lay", lay, lay.Config(**shared), second, first)
    last = shards.Config(digest=digest, tokenizer=config.tokenizer, shard_bytes=config.shard_bytes)
    fourth = barrier("pack", shards, last, second, third, first)
    fifth = barrier("heldout", shards, replace(last, heldout=True), second, third, first)
    steps = [Step(stage=first)]
    for stage, module in ((second, tokenise), (third, lay), (fourth, shards), (fifth, shards)):
        steps.append(Step(stage=stage, parts=module.parts))
    return Recipe(name="pack", config=config, steps=tuple(steps), listing=lambda inputs, ledger: list(inputs))


def barrier(name: str, module: Any, config: Any, *reads: Stage) -> Stage:
    process = f"{module.__name__}:process"
    return Stage(
        name=name, process=process, config=config, outputs=module.OUTPUTS, version=module.VERSION, reads=reads,
        barrier=True,
    )  # fmt: skip


class Packed:
    """A store with the chain run over files of documents; `cut` says how many documents each file has."""

    def __init__(self, folder: Path, documents: Sequence[Row], config: pack.Config, cut: Sequence[int]) -> None:
        self.ledger = Ledger(f"memory:///pack{next(numbers)}")
        self.recipe = recipe(config)
        self.units = list(units(folder, documents, cut))
        self.reports = run(self.recipe, self.ledger, self.units, InlinePool(self.ledger.store.url), Quiet())

    def table(self, stage: str, output: str) -> pa.Table:
        """All rows of an output, unit by unit."""
        commits = self.ledger.commits(self.recipe.stage(stage).key)
        return pa.concat_tables([read_rows(self.ledger.store, commit.outputs[output]) for commit in commits])

    def sums(self, *stages: str) -> list[Any]:
        """The sums of all files of the stages, without the names of their units."""
        return [
            (stage, number, name, file.sha256)
            for stage in stages
            for number, commit in enumerate(self.ledger.commits(self.recipe.stage(stage).key))
            for name, files in sorted(commit.outputs.items())
            for file in files
        ]

    def counts(self, stage: str) -> Counter[str]:
        total: Counter[str] = Counter()
        for commit in self.ledger.commits(self.recipe.stage(stage).key):
            total.update(commit.counts)
        return total


def units(folder: Path, documents: Sequence[Row], cut: Sequence[int]) -> Iterator[Unit]:
    rest = list(documents)
    place = folder / f"cut{next(numbers)}"
    place.mkdir()
    for number, size in enumerate(cut):
        own, rest = rest[:size], rest[size:]
        paths = [str(place / f"{number}.{name}.arrow") for name in ("curated", "verdicts")]
        curated = [{name: one[name] for name in schema.CURATED.names} for one in own]
        verdicts = [
            row
            for one in own
            for row in (
                {"doc": one["doc"], "doc_id": one["doc_id"], "reason": 0, "value": 1.0},
                # a page that went on nowhere: it has a verdict and no row
                {"doc": one["doc"] + 1, "doc_id": bytes(16), "reason": int(Reason.SINGLE_IMAGE), "value": 1.0},
            )
        ]
        for path, rows, kind in zip(paths, (curated, verdicts), (schema.CURATED, schema.ASSEMBLED), strict=True):
            with pa.ipc.new_file(path, kind) as writer:
                writer.write_table(pa.Table.from_pylist(rows, kind))
        yield Unit(id=f"a{number:03d}", inputs=tuple(paths))
    assert not rest


def document(number: int, items: Sequence[str | int], images: Sequence[tuple[str, str]]) -> Row:
    """A row of CURATED with its number `doc`; items are texts and images, images (alternative text, caption)."""
    blank: Row = {f.name: False if pa.types.is_boolean(f.type) else 0 for f in schema.CURATED_SCORES}
    shown = [
        {
            **{field.name: "" if field.type == schema.TEXT else 0 for field in schema.CURATED_IMAGE},
            "bytes": b"\xff\xd8 %d %d" % (number, index),
            "sha256": bytes(32),
            "alt": alt,
            "caption": caption,
        }
        for index, (alt, caption) in enumerate(images)
    ]
    return {
        "doc": 1 << 48 | number * 2,
        "doc_id": hashlib.sha256(b"%d" % number).digest()[:16],
        "url": f"https://h.example/{number}",
        "host": "h.example",
        "crawl": "c",
        "fetched_at": 0,
        "warc": {"file": "", "offset": 0, "length": 0, "record_id": ""},
        "lang": {"code": "en", "score": 1.0},
        "rights": {"robots": "", "meta": "", "tdm": ""},
        "title": "",
        "items": [
            {"kind": "image", "text": "", "block": "", "level": 0, "image": item}
            if isinstance(item, int)
            else {"kind": "text", "text": item, "block": "p", "level": 0, "image": -1}
            for item in items
        ],
        "images": shown,
        "scores": blank,
        "dedupe": {"cluster": 1 << 48 | number * 2, "size": 1, "kept_because": "unique"},
        "num_images": len(shown),
        "num_words": 0,
    }


def written(num: int) -> list[Row]:
    """Documents of prose with one to three images each."""
    made = []
    for number in range(num):
        writer = Writer(Dice("pack", number), topics()[number % len(topics())])
        num_images = 1 + number % 3
        items: list[str | int] = []
        for image in range(num_images):
            items += [writer.paragraph(1 + number % 4), image, writer.title() + "\n" + writer.sentence()]
        images = [
            (writer.sentence() if image != 1 else "photo.jpg", writer.sentence() if image == 2 else "")
            for image in range(num_images)
        ]
        made.append(document(number, items, images))
    return made


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load(bundled())


SMALL = pack.Config(
    max_length=256, max_caption=20, partitions=4, shard_bytes=1 << 15, heldout=0.2, seed=3, source="test"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return Packed(tmp_path_factory.mktemp("pack"), written(60), SMALL, (17, 0, 43))


# what comes out ----------------------------------------------------------------------------------------------------
def rows(packed: Packed, stage: str, stream: str) -> list[Row]:
    found: list[Row] = packed.table(stage, stream).to_pylist()
    return found


def test_every_stage_ran(store: Packed) -> None:
    assert [report.stage for report in store.reports] == ["assemble", "tokenise", "lay", "pack", "heldout"]
    assert all(report.complete for report in store.reports)


def test_every_kept_row_is_in_one_shard_and_the_held_out_are_apart(store: Packed) -> None:
    documents = {one["doc_id"]: one for one in written(60)}
    out = {doc_id for doc_id in documents if pack.is_heldout(SMALL.seed, doc_id, SMALL.heldout)}
    assert 4 <= len(out) <= 24 and store.counts("tokenise")["documents:heldout"] == len(out)
    verdicts = store.table("tokenise", "verdicts").to_pylist()
    for number, stream in enumerate(STREAMS):
        kept = Counter(v["doc_id"] for v in verdicts if v["stream"] == number and not v["reason"])
        shown = Counter(doc for row in rows(store, "pack", stream) for doc in row["docs"])
        apart = Counter(doc for row in rows(store, "heldout", stream) for doc in row["docs"])
        assert set(apart) <= out and not set(shown) & out
        if stream == "text":
            assert set(shown) | set(apart) == set(kept)
        else:
            assert shown + apart == kept
        total = sum(row["counted"] for stage in ("pack", "heldout") for row in rows(store, stage, stream))
        assert total == sum(v["value"] for v in verdicts if v["stream"] == number and not v["reason"])
        counts = store.counts("pack") + store.counts("heldout")
        assert counts[f"{stream}:tokens"] == total
        assert counts[f"{stream}:rows"] == sum(shown.values()) + sum(apart.values()) or stream == "text"
    assert store.counts("lay")["text:rows"] == sum(
        counts["text:rows"] for counts in (store.counts("pack"), store.counts("heldout"))
    )


def test_rows_keep_the_contract(store: Packed) -> None:
    documents = {one["doc_id"]: one for one in written(60)}
    for stage, stream in itertools.product(("pack", "heldout"), STREAMS):
        for row in rows(store, stage, stream):
            tokens = row["tokens"]
            assert len(tokens) == row["length"] <= SMALL.max_length and tokens[0] == BOS
            assert sum(span["end"] - span["start"] for span in row["loss"]) == row["counted"]
            assert len(row["images"]) == len(row["image_starts"]) == row["num_images"]
            for start in row["image_starts"]:
                assert tokens[start - 1 : start + IMAGE_SLOTS + 1] == [4003] * 65 + [4004]
            assert row["source"] == "test"
            if stream == "caption":
                assert row["num_images"] == 1 and row["counted"] == row["length"] - 67 and tokens[-1] == EOS
            if stream == "interleaved":
                jpegs = [image["bytes"] for image in documents[row["docs"][0]]["images"]]
                assert b"".join(row["images"]) in b"".join(jpegs), "its images, in order"
            if stream == "text":
                assert row["loss"] == [{"start": 1, "end": row["length"]}]


def test_shards_are_cut_and_sorted_by_rank(store: Packed) -> None:
    commits, curated = (list(store.ledger.commits(store.recipe.stage(name).key)) for name in ("pack", "assemble"))
    assert len(commits) == pack.num_shards(curated, SMALL.shard_bytes) >= 4
    for stream in STREAMS:
        ranks = [
            read_rows(store.ledger.store, commit.outputs[stream])["rank"].to_pylist() for commit in commits
        ]  # fmt: skip
        for shard, own in enumerate(ranks):
            assert own == sorted(own) and all(pack.part(rank, len(commits)) == shard for rank in own)
        assert sum(map(bool, ranks)) > len(commits) // 2, "spread over the shards"


def test_every_batch_of_a_training_shard_has_its_sum(store: Packed) -> None:
    mark = store.ledger.freeze(store.recipe.stage("pack").key)
    (first, *_) = store.ledger.manifest(mark)
    for stream in STREAMS:
        (file,) = first.outputs[stream]
        body = store.ledger.store.get(file.path)
        assert list(file.sums) == [checksum(body[b.offset : b.offset + b.length]) for b in file.batches]
    assert not first.outputs["vocabulary"][0].sums


def test_text_rows_are_the_lines_in_hashed_order(store: Packed, tokenizer: Tokenizer) -> None:
    by_rank = {row["rank"]: row for stage in ("pack", "heldout") for row in rows(store, stage, "text")}
    documents = {one["doc_id"]: one for one in written(60)}
    found: Counter[bytes] = Counter()
    for part in range(SMALL.partitions + 1):
        tokens: list[int] = []
        order: list[bytes] = []
        for number in itertools.count():
            rank = pack.rank(SMALL.seed, b"text", part.to_bytes(4, "little"), number.to_bytes(8, "little"))
            if rank not in by_rank:
                break
            row = by_rank.pop(rank)
            tokens += row["tokens"][1:]
            order += [doc for doc in row["docs"] if doc not in order[-1:]]
        assert order == sorted(order, key=lambda doc: pack.rank(SMALL.seed, b"order", doc))
        found.update(order)
        said = tokens_of([documents[doc] for doc in order], tokenizer)
        assert tokens == said
    assert not by_rank and set(found) == set(documents) and set(found.values()) == {1}


def tokens_of(documents: Sequence[Row], tokenizer: Tokenizer) -> list[int]:
    """All lines of the documents, `</line>` between those of one and `</s>` after the last."""
    said: list[int] = []
    for one in documents:
        lines = [line for item in one["items"] for line in item["text"].split("\n") if line]
        for ids in tokenizer.encode(lines):
            said += [*ids, tokenizer.vocab.line]
        said[-1] = EOS
    return said


def test_the_first_shard_carries_the_model(store: Packed) -> None:
    model = bundled().read_bytes()
    expected = [{"sha256": hashlib.sha256(model).digest(), "pieces": 4000, "model": model}]
    assert rows(store, "pack", "vocabulary") == rows(store, "heldout", "vocabulary") == expected


def test_shards_do_not_depend_on_the_cuts(store: Packed, tmp_path: Path) -> None:
    stages = ("pack", "heldout")
    again = Packed(tmp_path, written(60), SMALL, (60,))
    assert again.sums(*stages) == store.sums(*stages)
    documents = written(60)
    for place, one in enumerate(documents):  # numbers of documents and clusters follow the cut
        one["dedupe"]["cluster"] = 2 << 48 | (60 - place) << 24
    mixed = Packed(tmp_path, documents[::3] + documents[1::3] + documents[2::3], SMALL, (20, 13, 7, 20))
    assert mixed.sums(*stages) == store.sums(*stages)
    other = Packed(tmp_path, documents, replace(SMALL, seed=4), (60,))
    assert other.sums(*stages) != store.sums(*stages)


def test_documents_that_come_later_are_packed_alone(tmp_path: Path) -> None:
    documents = written(20)
    packed = Packed(tmp_path, documents[:12], SMALL, (5, 7))
    before = packed.sums("pack")
    more = [replace(unit, id=f"b{number}") for number, unit in enumerate(units(tmp_path, documents[12:], (8,)))]
    run(packed.recipe, packed.ledger, [*packed.units, *more], InlinePool(packed.ledger.store.url), Quiet())
    generations = {commit.generation for commit in packed.ledger.commits(packed.recipe.stage("pack").key)}
    assert generations == {1, 2}
    sums = [row[2:] for row in packed.sums("pack")]
    assert all(row[2:] in sums for row in before)
    found = [row for stage in ("pack", "heldout") for row in rows(packed, stage, "interleaved")]
    assert {doc for row in found for doc in row["docs"]} == {one["doc_id"] for one in documents}
    assert len({row["rank"] for row in found}) == len(found), "none twice"


@pytest.mark.parametrize("cut", [(0,), (0, 0)])
def test_no_documents(tmp_path: Path, cut: Sequence[int]) -> None:
    packed = Packed(tmp_path, [], SMALL, cut)
    assert all(report.complete for report in packed.reports)
    for stage in ("pack", "heldout"):
        assert [packed.table(stage, stream).num_rows for stream in (*STREAMS, "vocabulary")] == [0, 0, 0, 1]
        assert packed.table(stage, "text").schema.equals(schema.TRAINING)
    assert packed.table("tokenise", "verdicts").num_rows == packed.table("lay", "samples").num_rows == 0


def test_one_stream_alone(tmp_path: Path) -> None:
    packed = Packed(tmp_path, written(6), replace(SMALL, streams=("caption",), heldout=0.0), (6,))
    assert packed.table("pack", "caption").num_rows == packed.counts("pack")["caption:rows"] > 6
    assert packed.table("pack", "text").num_rows == packed.table("pack", "interleaved").num_rows == 0
    assert set(packed.table("tokenise", "verdicts")["stream"].to_pylist()) == {STREAMS.index("caption")}


def test_verdicts_say_what_became_of_everything(tmp_path: Path, tokenizer: Tokenizer) -> None:
    long = "and " * 100
    items: list[str | int] = ["Hello there.", 0, 1, long + "\n" + long + "\n" + long, "Bye."]
    one = document(1, items, [("A red apple", "photo.jpg"), ("", ""), ("word", "")])
    two = document(2, ["  \n ", 0], [(long, "")])
    packed = Packed(tmp_path, [one, two], replace(SMALL, heldout=0.0), (2,))
    verdicts = [
        (v["doc"] & 7, STREAMS[v["stream"]], v["index"], Reason(v["reason"]).word, v["value"])
        for v in packed.table("tokenise", "verdicts").to_pylist()
    ]
    hello, red, bye, many = tokenizer.encode(["Hello there.", "A red apple", "Bye.", long])
    texts = len(hello) + 1 + 3 * (len(many) + 1) + len(bye) + 1
    assert len(many) == 100
    assert verdicts == [
        (2, "text", 0, "kept", texts),
        (2, "caption", 0, "kept", len(red) + 1),
        (2, "caption", 1, "caption_none", 0),
        (2, "caption", 2, "caption_short", 1),
        # 302 tokens of one block fit in no row: its first line goes beside the images
        (2, "interleaved", 0, "kept", len(hello) + 100 + 1),
        (2, "interleaved", 1, "part_without_image", 1 + 100 + 1 + 100 + 1 + len(bye) + 1),
        (4, "text", 0, "no_text", 0),
        (4, "caption", 0, "kept", SMALL.max_caption + 1),
        (4, "interleaved", 0, "kept", 1),
    ]
    counts = packed.counts("tokenise")
    assert counts["caption:cut"] == 1 and counts["caption:kept"] == 2 and counts["interleaved:part_without_image"] == 1
    assert counts["line:cut"] == 0


def test_context_is_of_the_interleaved_rows_only(tmp_path: Path, tokenizer: Tokenizer) -> None:
    one = document(1, ["First one. Second one.", 0, "Third one. Fourth one."], [("a red apple", "")])
    config = replace(SMALL, context_sentences=1, heldout=0.0)
    packed = Packed(tmp_path, [one], config, (1,))
    ((text,), (row,)) = (rows(packed, "pack", stream) for stream in ("text", "interleaved"))
    assert tokenizer.decode(text["tokens"]) == "First one. Second one.\nThird one. Fourth one."
    start = row["image_starts"][0]
    assert tokenizer.decode(row["tokens"][:start]) == "Second one."
    assert tokenizer.decode(row["tokens"][start:]) == "Third one."


# what is refused ---------------------------------------------------------------------------------------------------
REFUSED: list[tuple[Row, str]] = [
    ({"partitions": 3}, "partitions"),
    ({"partitions": 1 << 16}, "pack.partitions"),
    ({"max_length": 68}, "pack.max_length"),
    ({"max_caption": 0}, "pack.max_caption"),
    ({"max_length": 100, "max_caption": 33}, "1-32"),
    ({"context_sentences": -1}, "pack.context_sentences"),
    ({"seed": -1}, "pack.seed"),
    ({"shard_bytes": 0}, "pack.shard_bytes"),
    ({"heldout": 1.0}, "pack.heldout"),
    ({"heldout": float("nan")}, "pack.heldout"),
    ({"streams": ()}, "pack.streams"),
    ({"streams": ("text", "video")}, "pack.streams"),
    ({"streams": ("text", "text")}, "pack.streams"),
]


@pytest.mark.parametrize(("changed", "sentence"), REFUSED)
def test_settings_that_are_refused(changed: Row, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        pack.Config(**changed)


def test_the_tokenizer_keys_by_its_bytes_and_not_by_its_path(tmp_path: Path) -> None:
    shutil.copy(bundled(), tmp_path / "copy.model")
    own, copy = (recipe(replace(SMALL, tokenizer=path)) for path in ("", str(tmp_path / "copy.model")))
    assert [step.stage.key for step in own.steps] == [step.stage.key for step in copy.steps]
    assert recipe(SMALL, model="0" * 64).stage("pack").key != own.stage("pack").key


def test_documents_that_are_not_those_of_the_verdicts(tmp_path: Path) -> None:
    documents = written(3)
    for change in ({"doc_id": bytes(16)}, None):
        ledger = Ledger(f"memory:///pack{next(numbers)}")
        (unit,) = units(tmp_path, documents, (3,))
        verdicts = pa.ipc.open_file(unit.inputs[1]).read_all().to_pylist()
        changed = [*verdicts[:-2], verdicts[-2] | change] if change else [*verdicts, verdicts[0] | {"doc": 1 << 50}]
        with pa.ipc.new_file(unit.inputs[1], schema.ASSEMBLED) as writer:
            writer.write_table(pa.Table.from_pylist(changed, schema.ASSEMBLED))
        with pytest.raises(StoreError, match="kosmos verify"):
            run(recipe(SMALL), ledger, [unit], InlinePool(ledger.store.url), Quiet())


SHARDS = [(0, 100, 1), (100, 100, 1), (101, 100, 2), (201, 100, 4), (400, 100, 4), (401, 100, 8), (1 << 40, 1, 1 << 14)]


@pytest.mark.parametrize(("num_bytes", "shard_bytes", "expected"), SHARDS)
def test_number_of_shards(num_bytes: int, shard_bytes: int, expected: int) -> None:
    halves: Any = [num_bytes // 2, num_bytes - num_bytes // 2]
    batches = [[SimpleNamespace(length=half)] for half in halves]
    commits: Any = [SimpleNamespace(outputs={"curated": [SimpleNamespace(batches=own)]}) for own in batches]
    assert pack.num_shards(commits, shard_bytes) == expected


@pytest.mark.parametrize("documents", [1, 3, 7])
def test_text_rows_do_not_depend_on_how_many_documents_are_taken_at_once(
    store: Packed, tmp_path: Path, documents: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lay, "DOCUMENTS", documents)
    again = Packed(tmp_path, written(60), SMALL, (17, 0, 43))
    assert again.sums("lay") == store.sums("lay")
