"""The fate of every image and document, items without scars, the bytes that were stored."""

from __future__ import annotations

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.errors import ConfigError, StoreError
from engine.stage import Unit
from engine.writer import OutputWriter
from pipelines.assemble import repeats, shards
from pipelines.coin import Coin, stays
from pipelines.images import FORMATS
from pipelines.reasons import Reason
from pipelines.select import Cut
from tests.offline import OfflineWork, collect
from tests.pipelines.blocks import Block, Candidate, Document, Row
from tests.pipelines.test_match import UNIT, Answer, doc, matched

REPEATED, HERE, SURPLUS = Reason.IMAGE_REPEATED, Reason.IMAGE_REPEATED_HERE, Reason.IMAGE_SURPLUS
SINGLE, NONE_LEFT, MUTE = Reason.SINGLE_IMAGE, Reason.NO_IMAGE_LEFT, Reason.NO_TEXT_LEFT
ALL = Coin(keep_single=1.0)
NEVER = Coin(keep_single=0.0)


def assembled(
    block: Block, config: shards.Config | None = None, order: random.Random | None = None
) -> tuple[dict[str, pa.Table], dict[str, int]]:
    work = block.work(order)
    return collect(shards.process, config or shards.Config(coin=ALL), work, shards.OUTPUTS), dict(work.counts)


def apart(left: Candidate, right: Candidate) -> int:
    """In how many bits two images differ: 0 for the same bytes, 65 if one has no hash."""
    if left.jpeg == right.jpeg:
        return 0
    return (left.looks ^ right.looks).bit_count() if left.looks and right.looks else 65


def fated(document: Document, config: shards.Config) -> tuple[list[tuple[int, float]], tuple[int, float]]:
    """The rules, said as plainly as can be: the fates of the candidates, the verdict on the document."""
    fates: list[tuple[int, float]] = []
    survivors: list[Candidate] = []
    candidates = sorted(document.candidates or (), key=lambda candidate: candidate.image)
    for candidate in candidates:
        near = [bits for c in survivors if (bits := apart(c, candidate)) <= config.near or c.jpeg == candidate.jpeg]
        if candidate.reason:
            fates.append((candidate.reason, candidate.value))
        elif candidate.repeated:
            fates.append((REPEATED, max(candidate.repeated)))
        elif near:
            fates.append((HERE, min(near)))
        else:
            fates.append((0, candidate.value))
            survivors.append(candidate)
    places = [place for place, fate in enumerate(fates) if not fate[0]]
    if len(places) > config.max_images:
        taken = range(config.max_images)
        if config.pick == "spread" and config.max_images > 1:
            taken = [i * (len(places) - 1) // (config.max_images - 1) for i in taken]  # type: ignore[assignment]
        for place in set(places) - {places[i] for i in taken}:
            fates[place] = (SURPLUS, 0)
        survivors = [survivors[i] for i in taken]
    if not survivors:
        return fates, (NONE_LEFT, 0)
    if len(survivors) == 1 and not stays([document.doc_id], config.coin)[0]:
        return [(SINGLE, 1) if fate[0] == 0 else fate for fate in fates], (SINGLE, 1)
    if document.recurring and not curated(document, survivors)["num_words"]:
        lost = len(document.recurring)
        return [(MUTE, lost) if fate[0] == 0 else fate for fate in fates], (MUTE, lost)
    return fates, (0, len(survivors))


def runs(items: Sequence[Row], captions: set[str]) -> list[set[int]]:
    """The runs of figcaptions that are one of the captions."""
    said = [number for number, item in enumerate(items) if item["block"] == "figcaption"]
    found = [said[i:j] for i in range(len(said)) for j in range(i + 1, len(said) + 1)]
    return [set(run) for run in found if " ".join(items[number]["text"] for number in run) in captions]


def curated(document: Document, survivors: Sequence[Candidate]) -> Row:
    """The row of a document that is kept."""
    extracted = document.extracted()
    places = {candidate.image: place for place, candidate in enumerate(survivors)}
    stayed = {document.images[image] for image in places}
    went = {caption for image, caption in enumerate(document.images) if image not in places}
    held, scars = runs(extracted["items"], stayed - {""}), runs(extracted["items"], went - {""})
    gone = {number for run in scars if not any(run & other for other in held) for number in run}
    items = []
    for number, item in enumerate(extracted["items"]):
        if number in document.recurring or number in gone:
            continue
        if item["kind"] == "image":
            if item["image"] in places:
                items.append({**item, "image": places[item["image"]]})
        else:
            items.append(item)
    images = [
        {
            "bytes": candidate.jpeg,
            "sha256": hashlib.sha256(candidate.jpeg).digest(),
            **{name: extracted["images"][candidate.image][name] for name in ("url", "alt", "caption", "title")},
            "width": 320 + candidate.body,
            "height": 240,
            "original_width": 640 + candidate.body,
            "original_height": 480,
            "format": FORMATS[1 + candidate.body % 2],
            "phash": candidate.looks,
            "url_docs": candidate.body + 1,
        }
        for candidate in survivors
    ]
    alike = document.alike > 1
    words = [word for item in items for word in re.split(r"[ \n\t]", item["text"]) if any(map(str.isalnum, word))]
    return {
        **document.page(),
        "items": items,
        "images": images,
        "scores": document.scores(),
        "dedupe": {
            "cluster": document.doc - alike,
            "size": document.alike,
            "kept_because": "best" if alike else "unique",
        },
        "num_images": len(images),
        "num_words": len(words),
    }


def check(block: Block, config: shards.Config, order: random.Random | None = None) -> dict[str, pa.Table]:
    """All outputs are what the rules say."""
    tables, counts = assembled(block, config, order)
    verdicts, fates, rows = [], [], []
    expected: dict[str, int] = defaultdict(int)
    for document in sorted(block.documents, key=lambda document: document.doc):
        if document.candidates is None:
            continue
        candidates = sorted(document.candidates, key=lambda candidate: candidate.image)
        own, (reason, value) = fated(document, config)
        verdicts.append({"doc": document.doc, "doc_id": document.doc_id, "reason": reason, "value": value})
        expected[Reason(reason).word] += 1
        for candidate, (fate, number) in zip(candidates, own, strict=True):
            fates.append({"doc": document.doc, "image": candidate.image, "reason": fate, "value": number})
            expected[f"image:{Reason(fate).word}"] += 1
        if not reason:
            survivors = [c for c, fate in zip(candidates, own, strict=True) if not fate[0]]
            rows.append(curated(document, survivors))
            if document.recurring:
                expected["paragraph:removed"] += len(document.recurring)
    assert tables["verdicts"].to_pylist() == verdicts
    assert tables["fates"].to_pylist() == fates
    assert tables["curated"].to_pylist() == rows
    assert counts == dict(expected)
    return tables


def one(candidates: Sequence[Candidate], **changed: Any) -> Document:
    """A document whose items are its images in order, a text before each."""
    num = max((candidate.image for candidate in candidates), default=0) + 1
    items = tuple(item for image in range(num) for item in (f"text {image}", image))
    made: dict[str, Any] = {"unit": 0, "row": 3, "items": items, "images": ("",) * num, "candidates": tuple(candidates)}
    return Document(**(made | changed))


def reasons(document: Document, config: shards.Config | None = None) -> tuple[list[int], int]:
    """(reasons of the images, reason of the document), checked against the rules as well."""
    tables = check(Block(documents=(document,)), config or shards.Config(coin=ALL))
    (verdict,) = tables["verdicts"]["reason"].to_pylist()
    return tables["fates"]["reason"].to_pylist(), verdict


GONE = int(Reason.HTTP_GONE)


def test_the_coin_is_tossed_for_what_is_left() -> None:
    single = one([Candidate(image=0, body=1), Candidate(image=1, reason=GONE)])
    assert reasons(single, shards.Config(coin=NEVER)) == ([SINGLE, GONE], SINGLE)
    assert reasons(single, shards.Config(coin=ALL)) == ([0, GONE], 0)
    assert reasons(one([Candidate(image=i, body=i) for i in range(2)]), shards.Config(coin=NEVER)) == ([0, 0], 0)
    half = Block(documents=tuple(one([Candidate(image=0)], row=row) for row in range(60)))
    kept = check(half, shards.Config())["curated"].num_rows
    assert 15 < kept < 45


def test_a_page_without_images_left_is_no_document() -> None:
    assert reasons(one([Candidate(image=0, reason=GONE)])) == ([GONE], NONE_LEFT)


def test_what_failed_leaves_no_scar() -> None:
    items = ("Before.", 0, ("figcaption", "A dog"), "Between, 3 words: !", 1, ("figcaption", "A cat"), 2, "After.", 3)
    images = ("A dog", "A cat", "A dog", "")
    candidates = (Candidate(image=1, body=1), Candidate(image=3, body=3))
    page = Document(unit=0, row=0, items=items, images=images, candidates=candidates)
    (row,) = check(Block(documents=(page,)), shards.Config())["curated"].to_pylist()
    assert [item["text"] or item["image"] for item in row["items"]] == [
        "Before.", "Between, 3 words: !", 0, "A cat", "After.", 1,
    ]  # fmt: skip
    assert row["num_words"] == 1 + 3 + 2 + 1
    # the caption of an image that stays is needed
    both = replace(page, candidates=(Candidate(image=0, body=1), Candidate(image=1, reason=GONE)))
    (row,) = check(Block(documents=(both,)), shards.Config(coin=ALL))["curated"].to_pylist()
    assert [item["text"] or item["image"] for item in row["items"]] == [
        "Before.", 0, "A dog", "Between, 3 words: !", "After.",
    ]  # fmt: skip


def test_the_same_text_elsewhere_is_no_caption() -> None:
    first = Document(
        unit=0, row=0, items=(0, ("figcaption", "x"), 1), images=("x", ""), candidates=(Candidate(image=1, body=1),)
    )
    second = replace(first, row=1, images=("", ""), items=(0, ("figcaption", "x"), "x", 1))
    tables = check(Block(documents=(first, second)), shards.Config(coin=ALL))
    texts = [[item["text"] for item in row["items"]] for row in tables["curated"].to_pylist()]
    assert texts == [[""], ["x", "x", ""]]


def test_repeated_paragraphs_go_and_what_is_left_is_counted_anew() -> None:
    items = ("All rights are reserved here.", 0, ("figcaption", "A dog"), "Of this page only.", ("h2", "Ours ours"))
    page = Document(unit=0, row=0, items=items, images=("A dog",), candidates=(Candidate(image=0),), recurring=(0, 4))
    tables = check(Block(documents=(page,)), shards.Config(coin=ALL))
    (row,) = tables["curated"].to_pylist()
    assert [item["text"] or item["image"] for item in row["items"]] == [0, "A dog", "Of this page only."]
    assert row["num_words"] == 2 + 4
    # the same items of another page stay
    other = replace(page, row=1, recurring=())
    rows = check(Block(documents=(page, other)), shards.Config(coin=ALL))["curated"].to_pylist()
    assert [len(row["items"]) for row in rows] == [3, 5]


def test_a_page_of_nothing_but_repeated_paragraphs_goes_with_its_images() -> None:
    mute = one([Candidate(image=0, body=1), Candidate(image=1, reason=GONE)], recurring=(0, 2))
    assert reasons(mute) == ([MUTE, GONE], MUTE)
    # a sign is no text; a caption is, as long as its image stays
    signs = replace(mute, items=("text", 0, "- !"), images=("",), candidates=(Candidate(image=0),), recurring=(0,))
    assert reasons(signs) == ([MUTE], MUTE)
    assert reasons(replace(signs, items=("text", 0, "- !", ("figcaption", "x")), images=("x",))) == ([0], 0)
    # a page that never had text is no worse than before
    assert reasons(replace(mute, items=(0, 1), recurring=())) == ([0, GONE], 0)
    # whoever goes for its images goes for them
    assert reasons(mute, shards.Config(coin=NEVER)) == ([SINGLE, GONE], SINGLE)


def test_pages_around_one_without_text_keep_their_own_images() -> None:
    pages = many().documents
    pages = tuple(
        replace(page, recurring=tuple(range(0, len(page.items), 2)) if page.row % 4 == 1 else ()) for page in pages
    )
    rows = check(Block(documents=pages), shards.Config(coin=ALL))["curated"]
    assert rows.num_rows == sum(page.row % 4 != 1 for page in pages)


def test_what_recurs_on_a_page_that_went_takes_nothing_from_the_next() -> None:
    pages = [one([Candidate(image=0, body=row)], row=row, items=("a", 0, "b", "c")) for row in range(5)]
    failed = (Candidate(image=0, reason=GONE),)
    pages = [
        replace(
            page, candidates=failed if page.row % 2 else page.candidates, recurring=(0, 2) if page.row % 2 else (3,)
        )
        for page in pages
    ]
    texts = check(Block(documents=tuple(pages)), shards.Config(coin=ALL))["curated"].to_pylist()
    assert [[item["text"] for item in row["items"]] for row in texts] == [["a", "", "b"]] * 3


@st.composite
def documents(draw: st.DrawFn, unit: int, row: int) -> Document:
    num = draw(st.integers(1, 8))
    texts = st.sampled_from(["one", "two b", "- !", "naïve 3 词 …", ""])
    parts = st.lists(st.sampled_from(["one", "two b", "naïve 3 词 …", ""]), max_size=3).map(" ".join)
    captions = tuple(draw(st.lists(parts, min_size=num, max_size=num)))
    boxed = st.tuples(st.sampled_from(["figcaption", "figcaption", "p", "h1"]), texts)
    items: list[Any] = draw(st.lists(st.one_of(texts, boxed), max_size=8))
    for image in range(num):
        items.insert(draw(st.integers(0, len(items))), image)
    said = [place for place, item in enumerate(items) if not isinstance(item, int)]
    recurring = draw(st.one_of(st.just(()), st.just(tuple(said)), st.tuples(*[st.booleans() for _ in said]).map(
        lambda goes: tuple(place for place, going in zip(said, goes, strict=True) if going))))  # fmt: skip
    some = draw(st.one_of(st.none(), st.lists(st.integers(0, num - 1), min_size=1, max_size=num, unique=True)))
    candidates = some and tuple(
        Candidate(
            image=image,
            body=draw(st.integers(0, 6)),
            looks=draw(st.sampled_from([0, 1, 3, 7, 8, 1 << 63 | 7])),
            reason=draw(st.sampled_from([0, 0, 0, 0, GONE, int(Reason.NOT_ASKED)])),
            value=0,
            repeated=draw(st.sampled_from([(), (), (), (11,), (12, 11), (11, 13)])),
        )
        for image in some
    )
    return Document(
        unit=unit,
        row=row,
        items=tuple(items),
        images=captions,
        candidates=candidates,
        alike=draw(st.integers(1, 2)),
        recurring=recurring,
    )


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    num, first = draw(st.integers(1, 3)), draw(st.sampled_from([0, 512]))
    rows = st.lists(st.integers(0, 20), max_size=5, unique=True)
    made = [draw(documents(first + unit, row)) for unit in range(num) for row in draw(rows)]
    taken = {(document.unit, document.row) for document in made}
    texts = tuple((first + u, row) for u in range(num) for row in (0, 5, 30) if (first + u, row) not in taken)
    return Block(documents=tuple(made), num_units=num, texts=texts, first=first)


configs = st.builds(
    shards.Config,
    max_images=st.integers(1, 5),
    pick=st.sampled_from(["first", "spread"]),
    near=st.integers(-1, 3),
    coin=st.builds(Coin, keep_single=st.sampled_from([0.0, 0.5, 1.0])),
)


@given(blocks(), configs, st.randoms())
@settings(max_examples=80, deadline=None)
def test_shards_are_the_rules_whatever_the_order(block: Block, config: shards.Config, order: random.Random) -> None:
    tables = check(block, config, order)
    for row in tables["curated"].to_pylist():
        shown = [item["image"] for item in row["items"] if item["kind"] == "image"]
        assert sorted(shown) == list(range(row["num_images"])), "each image stands once in the items"


def test_a_bound_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_images is 0; set it to 1"):
        shards.Config(max_images=0)
    with pytest.raises(ConfigError, match=r"assemble\.pick is 'best'; set it to first or spread"):
        shards.Config(pick="best")
    for near in (-2, 17):
        with pytest.raises(ConfigError, match=rf"assemble\.near is {near}; set it to 0-16"):
            shards.Config(near=near)


def test_blocks_of_units() -> None:
    assert shards.parts(shards.Config(), lambda name: [None] * 600 if name == "extract" else []) == [  # type: ignore[list-item]
        ("0", "256"), ("256", "256"), ("512", "88"),
    ]  # fmt: skip


def many() -> Block:
    made = [one([Candidate(image=i, body=row * 3 + i) for i in range(1 + row % 3)], row=row) for row in range(150)]
    return Block(documents=tuple(made))


@pytest.mark.parametrize("group_bytes", [1, 1 << 8, 1 << 30])
def test_files_do_not_depend_on_the_groups_and_tell_where_the_images_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_bytes: int
) -> None:
    def files(folder: Path) -> tuple[list[str], pa.Table, bytes]:
        folder.mkdir()
        work = many().work()
        writer = OutputWriter(shards.OUTPUTS[0], folder)
        for name, table in shards.process(work.unit, shards.Config(coin=ALL), work):
            if name == "curated":
                writer.add(table)
        written = writer.finish()
        (sidecar,) = writer.sidecar()
        located = pa.ipc.open_file(sidecar.path).read_all()
        return [file.sha256 for file in written], located, Path(written[0].path).read_bytes()

    sums, located, body = files(tmp_path / "one")
    for row, place in zip(range(150), located.to_pylist(), strict=True):
        jpegs = b"".join(Candidate(image=i, body=row * 3 + i).jpeg for i in range(1 + row % 3))
        assert body[place["offset"] : place["offset"] + place["length"]] == jpegs
    monkeypatch.setattr(shards, "GROUP_BYTES", group_bytes)
    monkeypatch.setattr(shards, "GROUP_DOCS", 7)
    assert files(tmp_path / "other")[0] == sums


def broken() -> Iterator[tuple[str, OfflineWork]]:
    block = Block(documents=(one([Candidate(image=0)]),))
    work = block.work()
    for commit in block.fetched.values():
        commit["blob"] = commit["blob"][:6]
    yield "short", work
    block = Block(documents=block.documents, fetched={})
    work = block.work()
    work.parts["match", "images", 0] = [schema.MATCHED.remove(0).empty_table()]
    yield "not the candidates", work
    work = block.work()
    work.frozen["extract", 0][0]["documents"] = schema.DOCUMENTS.empty_table()
    yield "missing", work
    work = block.work()
    other = one([Candidate(image=0)], row=4)
    work.frozen["extract", 0][0]["documents"] = pa.Table.from_pylist([other.extracted() | {"row": 3}], schema.DOCUMENTS)
    yield "other pages", work
    work = block.work()
    fewer = one([Candidate(image=0)], images=(), items=())
    work.frozen["extract", 0][0]["documents"] = pa.Table.from_pylist([fewer.extracted()], schema.DOCUMENTS)
    yield "fewer images", work
    for item in (1, 2):  # an image; the first item of the next page, if there were one
        block = Block(documents=(one([Candidate(image=0)], recurring=(item,)), one([Candidate(image=0)], row=5)))
        yield "other texts", block.work()


@pytest.mark.parametrize(("message", "work"), list(broken()), ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_fit_together_fails_the_unit(message: str, work: OfflineWork) -> None:
    with pytest.raises(StoreError, match=message):
        list(shards.process(work.unit, shards.Config(coin=ALL), work))


# the three together -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("partitions", [1, 16])
def test_one_banner_under_many_addresses_goes_from_every_page(partitions: int) -> None:
    """Twelve pages show the same bytes, each at its own address, and a picture of their own."""
    pages = [Document(unit=0, row=row, items=(0, "text", 1), images=("", "")) for row in range(12)]
    own = [Answer(url=100 + row, body=b"own %d" % row, phash=1000 + row) for row in range(12)]
    banners = [Answer(url=row, body=b"banner", phash=1 << 40) for row in range(12)]
    chosen = [(row, doc(row), 0) for row in range(12)] + [(100 + row, doc(row), 1) for row in range(12)]
    images, hashes, _, fetched = matched(chosen, [[own, banners[:5]], [banners[5:]]], partitions)
    found = [schema.REPEATED.empty_table()]
    for part in range(partitions):
        of = hashes.filter(pa.array([own == part for own in hashes["part"].to_pylist()])).drop_columns("part")
        work = OfflineWork(
            unit=Unit(id=UNIT, inputs=(str(part),)),
            scratch=Path(),
            parts={("match", "hashes", 0): [of] * (part + 1)},
            generation=SimpleNamespace(number=1, earlier=lambda name: ()),
        )
        config = repeats.Config(cut=Cut(partitions=partitions))
        found.append(collect(repeats.process, config, work, repeats.OUTPUTS)["images"])
    block = Block(documents=tuple(replace(page, candidates=(Candidate(image=0),) * 2) for page in pages))
    work = block.work()
    work.frozen |= fetched
    work.parts["match", "images", 0] = [images.drop_columns("block")]
    work.parts["repeats", "images", 0] = [pa.concat_tables(found).drop_columns("block")]
    tables = collect(shards.process, shards.Config(coin=ALL), work, shards.OUTPUTS)
    assert work.counts == {"kept": 12, "image:kept": 12, "image:image_repeated": 12}
    assert [row["images"][0]["bytes"] for row in tables["curated"].to_pylist()] == [answer.body for answer in own]
    assert [row["value"] for row in tables["fates"].to_pylist()] == [12.0, 0.0] * 12
