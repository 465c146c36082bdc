"""Captions in parts go with their images: figures of several figcaptions, galleries, every run against plain rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from pipelines.assemble import shards
from pipelines.assemble.captions import scars
from tests.pipelines.blocks import Block, Candidate, Document
from tests.pipelines.test_assemble import ALL, check, runs

PARTS = ("Move", "with the tool.", "Café, 4.2")
WHOLE = " ".join(PARTS)
DOG = tuple(("figcaption", text) for text in PARTS)
CAT = ("figcaption", "A cat")
# a figure whose caption is three items, by an image in it, and another image with a caption of its own
FIGURE = Document(
    unit=0,
    row=0,
    items=("Before.", 0, DOG[0], 1, *DOG[1:], "Between.", 2, CAT, "After."),
    images=(WHOLE, WHOLE, "A cat"),
    candidates=(Candidate(image=2, body=2),),
)


def left(page: Document) -> list[str | int]:
    """The items of its row, images by their new numbers, checked against the rules as well."""
    (row,) = check(Block(documents=(page,)), shards.Config(coin=ALL))["curated"].to_pylist()
    return [item["text"] or item["image"] for item in row["items"]]


def test_a_caption_in_parts_goes_with_its_image() -> None:
    assert left(FIGURE) == ["Before.", "Between.", 0, "A cat", "After."]
    # parts that the site repeats are parts nonetheless
    assert left(replace(FIGURE, recurring=(2,))) == ["Before.", "Between.", 0, "A cat", "After."]


def test_an_image_of_the_figure_that_stays_needs_all_parts() -> None:
    shown = replace(FIGURE, candidates=(Candidate(image=1, body=1),))
    assert left(shown) == ["Before.", "Move", 0, *PARTS[1:], "Between.", "After."]


@pytest.mark.parametrize(
    "caption", ["Move with the", "with the tool. Café", f"{WHOLE}.", f"{WHOLE} ", "Move with the tool. Cafe, 4.2!"]
)
def test_what_is_no_run_of_whole_items_is_no_caption(caption: str) -> None:
    other = replace(FIGURE, images=(caption, "", "A cat"))
    assert left(other) == ["Before.", *PARTS, "Between.", 0, "A cat", "After."]


def test_other_blocks_are_no_part_of_a_caption() -> None:
    title = replace(FIGURE, items=("Before.", 0, DOG[0], 1, ("p", PARTS[1]), DOG[2], 2))
    assert left(title) == ["Before.", *PARTS, 0]
    # but may stand between parts, as a heading in a figcaption does
    title = replace(title, items=("Before.", 0, DOG[0], 1, ("h3", "A heading"), *DOG[1:], 2))
    assert left(title) == ["Before.", "A heading", 0]


def test_a_gallery_keeps_what_its_last_image_needs() -> None:
    """Two figures in one that has a caption, and an image that has only this."""
    texts = ("A dog", "A cat", "All of ours")
    items = (0, ("figcaption", "A dog"), 1, CAT, 2, ("figcaption", "All of ours"), "After.", 3)
    images = ("A dog", "A cat", " ".join(texts), "")
    gallery = Document(unit=0, row=0, items=items, images=images, candidates=(Candidate(image=0),))
    assert left(gallery) == [0, "A dog", "All of ours", "After."]
    assert left(replace(gallery, candidates=(Candidate(image=2),))) == ["A dog", "A cat", 0, "All of ours", "After."]
    assert left(replace(gallery, candidates=(Candidate(image=3),))) == ["After.", 0]


words = st.sampled_from(["a", "b", "a b", "é", ""])
pages = st.tuples(
    st.lists(words, max_size=8), st.lists(st.tuples(st.lists(words, min_size=1, max_size=4), st.booleans()), max_size=6)
)


@given(st.lists(pages, max_size=4), st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_scars_are_the_rules(drawn: list[tuple[list[str], list[tuple[list[str], bool]]]], cut: int) -> None:
    said = pa.array(["cut off"] * cut + [text for texts, _ in drawn for text in texts], schema.TEXT)[cut:]
    images = [(" ".join(parts), n, stay) for n, (_, shown) in enumerate(drawn) for parts, stay in shown]
    images = [image for image in images if image[0]]
    captions = pa.array(["cut off"] * cut + [caption for caption, _, _ in images], schema.TEXT)[cut:]
    starts = np.cumsum([0] + [len(texts) for texts, _ in drawn])
    owner, stayed = (np.array([image[i] for image in images], kind) for i, kind in ((1, np.int64), (2, np.bool_)))
    gone = scars(said, starts, captions, owner, stayed)
    expected: list[bool] = []
    for n, (texts, _) in enumerate(drawn):
        items = [{"block": "figcaption", "text": text} for text in texts]
        held, went = (runs(items, {c for c, page, stay in images if page == n and stay is s}) for s in (True, False))
        goes = {place for run in went if not any(run & other for other in held) for place in run}
        expected += [place in goes for place in range(len(texts))]
    assert gone.tolist() == expected
