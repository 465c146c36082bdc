"""The layouts, as truth tables of exact ids and as properties: nothing lost, nothing twice, no image cut.

And what goes into them: which text is a caption, which sentences stand near an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.vocab import BOS, EOS, IMAGE_SLOTS, Vocab
from pipelines.pack import tokenise
from pipelines.pack.layout import Block, Ids, Placed, Row, caption, closed, interleaved, packed, samples, text
from pipelines.reasons import Reason

V = Vocab(pieces=100)
BOI, EOI, LINE = V.image, V.image_end, V.line
IMAGE = [BOI] + [BOI] * IMAGE_SLOTS + [EOI]
SMALLEST = len(IMAGE) + 3


def counted(row: Row) -> set[int]:
    return {place for start, end in row.loss for place in range(start, end)}


def test_a_caption() -> None:
    row = caption(V, [11, 12, 13], 7)
    assert row.tokens.tolist() == [BOS, *IMAGE, 11, 12, 13, EOS]
    assert row.image_starts == (2,) and row.images == (7,)
    assert row.loss == ((67, 71),)


@given(st.lists(st.integers(4, 99), min_size=1, max_size=40))
def test_a_caption_counts_its_ids_and_the_end(ids: Ids) -> None:
    row = caption(V, ids, 0)
    assert row.counted == len(ids) + 1
    assert [row.tokens[place] for place in sorted(counted(row))] == [*ids, EOS]


TABLE: list[tuple[list[Block], list[list[int]]]] = [
    ([], []),
    ([[]], []),
    ([[[11, 12]]], [[BOS, 11, 12, EOS]]),
    ([[[11], [12]]], [[BOS, 11, LINE, 12, EOS]]),
    ([[[11]], [[12]]], [[BOS, 11, LINE, 12, EOS]]),
    ([0], [[BOS, *IMAGE, EOS]]),
    ([0, 1], [[BOS, *IMAGE, *IMAGE, EOS]]),
    # no </line> beside an image
    ([[[11]], 0, [[12]], [[13]]], [[BOS, 11, *IMAGE, 12, LINE, 13, EOS]]),
    # an empty block is none
    ([[[11]], [], [[12]], 0], [[BOS, 11, LINE, 12, *IMAGE, EOS]]),
]


@pytest.mark.parametrize(("blocks", "rows"), TABLE)
def test_a_document(blocks: list[Block], rows: list[list[int]]) -> None:
    assert [row.tokens.tolist() for row in interleaved(V, blocks, 200)] == rows


def test_what_counts_in_a_document() -> None:
    (row,) = interleaved(V, [[[11]], 5, [[12]], [[13]], 6], 200)
    # <s> 11 image 12 </line> 13 image </s>
    assert row.loss == ((1, 2), (68, 71), (137, 138))
    assert row.image_starts == (3, 72) and row.images == (5, 6)


def test_an_image_that_does_not_fit_begins_a_row() -> None:
    rows = interleaved(V, [[[11, 12]], 0], SMALLEST)
    assert [row.tokens.tolist() for row in rows] == [[BOS, 11, 12, EOS], [BOS, *IMAGE, EOS]]
    assert len(interleaved(V, [[[11]], 0], SMALLEST)) == 1, "exactly full"


def test_a_block_that_fits_nowhere_is_cut_at_lines_then_at_ids() -> None:
    line = list(range(4, 40))
    # one block of 36 + 1 + 36 tokens over 69: the second line goes to the next row, without a </line>
    rows = interleaved(V, [[line, line]], SMALLEST)
    assert [row.tokens.tolist() for row in rows] == [[BOS, *line, EOS]] * 2
    long = list(range(4, 84))
    first, second = interleaved(V, [[long, [99]]], SMALLEST)
    assert first.tokens.tolist() == [BOS, *long[:67], EOS]
    assert second.tokens.tolist() == [BOS, *long[67:], LINE, 99, EOS], "the rest of a line goes on without </line>"
    # but a block that fits in a row of its own is moved there whole
    rows = interleaved(V, [[[4] * 40], [[5] * 20, [6] * 20]], SMALLEST)
    assert [len(row.tokens) for row in rows] == [42, 43]


lines = st.lists(st.lists(st.integers(4, 99), min_size=1, max_size=90), max_size=4)


@given(st.lists(st.one_of(st.just(-1), lines), max_size=12), st.integers(SMALLEST, 180))
@settings(deadline=None)
def test_nothing_is_lost_whatever_the_length(drawn: list[int | list[Ids]], max_length: int) -> None:
    blocks: list[Block] = []
    for block in drawn:
        blocks.append(sum(isinstance(b, int) for b in blocks) if isinstance(block, int) else block)
    rows = interleaved(V, blocks, max_length)
    texts: Ids = []
    images: Ids = []
    for row in rows:
        ids = row.tokens.tolist()
        assert len(ids) <= max_length
        assert ids[0] == BOS and ids[-1] == EOS and BOS not in ids[1:] and EOS not in ids[:-1]
        for start in row.image_starts:
            assert ids[start - 1 : start + IMAGE_SLOTS + 1] == IMAGE, "an image is whole"
        assert ids.count(EOI) == len(row.images) == len(row.image_starts)
        assert counted(row) == {place for place, token in enumerate(ids) if token not in (BOS, BOI, EOI)}
        for start, end in row.loss:
            assert 0 < start < end <= len(ids)
        for place, token in enumerate(ids):
            if token == LINE:
                assert {ids[place - 1], ids[place + 1]}.isdisjoint({BOS, EOS, BOI, EOI, LINE}), "between two lines"
        texts += [token for token in ids if token not in (BOS, EOS, BOI, EOI, LINE)]
        images += row.images
    said = [token for block in blocks if isinstance(block, list) for line in block for token in line]
    assert texts == said, "every id once, in order"
    assert images == [block for block in blocks if isinstance(block, int)]


def test_lines_are_closed() -> None:
    assert closed(V, [], 10) == ([], [], 0)
    assert closed(V, [[11, 12]], 10) == ([11, 12, EOS], [3], 0)
    assert closed(V, [[11, 12], [13]], 10) == ([11, 12, LINE, 13, EOS], [3, 5], 0)
    # 9 ids and their end are 10, which is too long: 9 with the end fill a row of 10 behind <s>
    assert closed(V, [[9] * 9, [8] * 8], 10) == ([9] * 8 + [LINE] + [8] * 8 + [EOS], [9, 18], 1)


ROWS: list[tuple[list[int], int, list[tuple[int, int]]]] = [
    ([], 10, []),
    ([3], 10, [(0, 1)]),
    ([4, 5], 10, [(0, 2)]),
    ([4, 6], 10, [(0, 1), (1, 2)]),
    ([9, 9, 1], 10, [(0, 1), (1, 2), (2, 3)]),
    ([2, 2, 2, 2, 2, 2], 6, [(0, 2), (2, 4), (4, 6)]),
]


@pytest.mark.parametrize(("lengths", "max_length", "rows"), ROWS)
def test_text_rows(lengths: list[int], max_length: int, rows: list[tuple[int, int]]) -> None:
    assert list(packed(np.cumsum(lengths, dtype=np.int64), max_length)) == rows


@given(st.lists(st.lists(st.lists(st.integers(4, 99), min_size=1, max_size=30), min_size=1, max_size=5), max_size=8))
@settings(deadline=None)
def test_text_rows_are_the_lines_one_after_another(documents: list[list[Ids]]) -> None:
    stream: Ids = []
    ends: Ids = []
    for document in documents:
        tokens, own, _ = closed(V, document, 20)
        ends += [len(stream) + end for end in own]
        stream += tokens
    rows, last = [], 0
    for first, end in packed(np.array(ends, np.int64), 20):
        assert first == last < end
        tokens = stream[ends[first - 1] if first else 0 : ends[end - 1]]
        if end < len(ends):
            assert 1 + len(tokens) + ends[end] - ends[end - 1] > 20, "the next line had no room"
        rows.append(text(np.array(tokens, np.int32)))
        last = end
    assert last == len(ends)
    assert [token for row in rows for token in row.tokens.tolist()[1:]] == stream
    for row in rows:
        assert row.tokens[0] == BOS and len(row.tokens) <= 20
        assert row.loss == ((1, len(row.tokens)),), "every target counts"


def test_rows_as_a_table() -> None:
    jpegs = pa.array([b"a", b"b", b"c"], pa.large_binary())
    placed = [
        Placed(part=3, stream=2, rank=2**64 - 1, docs=b"d" * 16, row=interleaved(V, [2, [[9]], 0], 200)[0]),
        Placed(part=0, stream=0, rank=7, docs=b"e" * 16 + b"f" * 16, row=text(np.array([8, EOS], np.int32))),
    ]
    first, second = samples(placed, jpegs, "here").to_pylist()
    assert first["images"] == [b"c", b"a"] and first["image_starts"] == [2, 69] and first["num_images"] == 2
    assert first["loss"] == [{"start": 67, "end": 68}, {"start": 134, "end": 135}] and first["counted"] == 2
    assert first["rank"] == 2**64 - 1 and first["length"] == 135 and first["docs"] == [b"d" * 16]
    assert second == {
        "part": 0, "stream": 0, "rank": 7, "tokens": [BOS, 8, EOS], "image_starts": [], "images": [],
        "loss": [{"start": 1, "end": 3}], "length": 3, "counted": 2, "num_images": 0, "source": "here",
        "docs": [b"e" * 16, b"f" * 16],
    }  # fmt: skip
    assert samples([], jpegs, "here").equals(schema.SAMPLES.empty_table())


# captions and sentences --------------------------------------------------------------------------------------------
UNUSABLE = [
    ("", "caption_none", 0),
    ("   ", "caption_none", 0),
    ("a red apple", "kept", 3),
    ("a bee", "kept", 2),
    ("a b", "caption_short", 2),
    ("sunflower", "caption_short", 1),
    ("word " * 256, "kept", 256),
    ("word " * 257, "caption_long", 257),
    ("IMG_0034.JPG", "caption_name", 1),
    ("my holiday photo.jpeg", "caption_name", 3),
    ("DSC 0012", "caption_name", 2),
    ("Image 3", "caption_name", 2),
    ("Screen Shot 2020-01-01", "caption_name", 3),
    ("https://h.example/a/b", "caption_name", 1),
    ("www.example.org", "caption_name", 1),
    ("uploads/2020/a.png?w=3", "caption_name", 1),
    ("Image of a dog", "kept", 4),
    ("see https://h.example for more", "kept", 4),
    ("either/or", "caption_short", 1),
    ("a jpg of a.jpgs and more", "kept", 6),
    # no pattern takes more than linear time
    ("image " + "1" * 100_000 + " x", "kept", 3),
    ("a/.png" * 50_000 + " x y", "kept", 3),
]


@pytest.mark.parametrize(("text", "word", "value"), UNUSABLE)
def test_what_is_a_caption(text: str, word: str, value: float) -> None:
    reason, number = tokenise.unusable(text)
    assert (reason.word, number) == (word, value)


CHOSEN = [
    (("a red apple", "a green pear"), "a red apple"),
    (("a.jpg", "a green pear"), "a green pear"),
    (("", "a green pear"), "a green pear"),
    (("a red apple", ""), "a red apple"),
    (("", ""), Reason.CAPTION_NONE),
    (("a.jpg", ""), Reason.CAPTION_NAME),
    (("a.jpg", "pear"), Reason.CAPTION_SHORT),
]


@pytest.mark.parametrize(("captions", "expected"), CHOSEN)
def test_the_caption_before_the_alternative_text(captions: tuple[str, str], expected: str | Reason) -> None:
    text, reason, _ = tokenise.chosen(captions)
    assert (reason or text) == expected


NEARBY: list[tuple[list[Any], int, list[Any]]] = [
    ([["A. B. C."], 0, ["D. E."]], 0, [["A. B. C."], 0, ["D. E."]]),
    ([["A. B. C."], 0, ["D. E."]], 1, [["C."], 0, ["D."]]),
    ([["A. B. C."], 0, ["D. E."]], 2, [["B. C."], 0, ["D. E."]]),
    ([["A. B.", "C"], ["D"], 0], 3, [["B.", "C"], ["D"], 0]),
    ([0, ["A", "B. C."], ["D. E."]], 4, [0, ["A", "B. C."], ["D."]]),
    ([["A. B."], 0, ["C. D. E."], 1, ["F. G."]], 1, [["B."], 0, ["C. D. E."], 1, ["F."]]),
    ([["A. B."]], 1, [["A. B."]]),
    ([['He said "Yes!" Then 3.5 m left.'], 0], 1, [["Then 3.5 m left."], 0]),
]


@pytest.mark.parametrize(("blocks", "num", "expected"), NEARBY)
def test_sentences_near_the_images(blocks: list[Any], num: int, expected: list[Any]) -> None:
    assert tokenise.nearby(blocks, num) == expected
