"""Runs of words in a table: what Python finds, byte for byte."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from engine import schema
from pipelines import normalise, overlaps
from tests.pipelines.eval_world import words

WORDS = st.lists(st.sampled_from(["a", "b", "cc"]), max_size=12)


@given(st.lists(WORDS, max_size=5), st.lists(WORDS, max_size=4), st.integers(1, 3), st.integers(0, 3))
def test_the_table_finds_what_python_finds(
    known: list[list[str]], pages: list[list[str]], least: int, longer: int
) -> None:
    size = least + longer
    texts, looked = (
        normalise.normalise(pa.array([" ".join(one) for one in many], schema.TEXT)) for many in (known, pages)
    )
    grams = overlaps.grams(texts, size, least)
    said = [bytes(grams.text[a:b]).decode() for a, b in zip(grams.starts, grams.stops, strict=True)]

    def runs(text: list[str], num: int) -> list[str]:
        return [" ".join(text[i : i + num]) for i in range(len(text) - num + 1)]

    expected = {(g, n) for n, text in enumerate(known) if len(text) >= least for g in runs(text, min(len(text), size))}
    assert {(said[g], n) for g, n in grams.places.tolist()} == expected and len(set(said)) == len(said)
    hits = Counter((n, said[g]) for n, g in overlaps.find(overlaps.table(grams), looked).tolist())
    wanted = {gram for gram, _ in expected}
    sizes = {len(gram.split()) for gram in wanted}
    assert hits == Counter((n, g) for n, text in enumerate(pages) for s in sizes for g in runs(text, s) if g in wanted)


def test_what_only_hashes_alike_is_no_hit() -> None:
    text = normalise.normalise(pa.array([words(1, 20), words(2, 9)], schema.TEXT))
    grams = overlaps.grams(text, 13, 8)
    assert len(overlaps.find(overlaps.table(grams), text)) == 9
    other = grams.text.copy()
    other[other == ord("x")] = ord("y")
    forged = replace(overlaps.table(grams), grams=replace(grams, text=other))
    assert len(overlaps.find(forged, text)) == 0


def test_more_hits_than_there_is_room_for() -> None:
    text = normalise.normalise(pa.array(["a " * 6000, "a " * 100], schema.TEXT))
    hits = overlaps.find(overlaps.table(overlaps.grams(text, 13, 8)), text)
    assert Counter(hits[:, 0].tolist()) == Counter({0: 5988, 1: 88})
