"""Planted pairs: two ways of counting agree, and the stages keep a page like each one that they remove."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest

from pipelines import dedupe, jaccard, sign
from tests.benchmarks import near_duplicates, similar_pages
from tests.benchmarks.dedupe_accuracy import batches, places, signed
from tests.benchmarks.near_duplicates import Prose
from tests.pipelines.dedupe_chain import Chain

THRESHOLD = 0.8


@pytest.fixture(scope="module")
def source() -> Prose:
    """60,000 words of 3,000, some with capitals, accents and marks."""
    draw = np.random.default_rng(5)
    letters = list("abcdefghijklmnopqrstuvwxyzéüñß")
    known = ["".join(draw.choice(letters, draw.integers(2, 9))) for _ in range(3000)]
    ends = draw.choice([" ", " ", " ", ", ", ". ", "\n\n", "' ", "-", "_"], 60_000).tolist()
    chosen = (3000 * draw.random(60_000) ** 2).astype(int).tolist()
    words = [known[place].title() if place % 7 == 0 else known[place] for place in chosen]
    return near_duplicates.prose(["".join(word + end for word, end in zip(words, ends, strict=True))])


def test_planted_similarity_is_what_the_product_counts(source: Prose) -> None:
    pairs = list(near_duplicates.plant(source, 60, words=(20, 400)))
    assert [pair.jaccard for pair in pairs] == [jaccard.of_texts(pair.left, pair.right) for pair in pairs]
    assert {pair.kind for pair in pairs} == set(near_duplicates.KINDS)
    assert 0.4 < min(pair.jaccard for pair in pairs) < 0.6 and max(pair.jaccard for pair in pairs) > 0.9


def test_all_pairs_are_those_of_sets() -> None:
    texts = [
        "one two three four five six",
        "one two three four five six seven",
        "Two words",
        "two WORDS",
        "",
        "漢字の本を読む",
    ]
    found = similar_pages.similarity(similar_pages.gram_sets(texts))
    assert found[0, 1] == np.float32(2 / 3) and found[2, 3] == 1 and found[5, 5] == 1
    assert found[4].sum() == 0 and found[0, 2] == 0


def test_every_removed_page_is_like_a_kept_one(source: Prose) -> None:
    pages = [page for family in near_duplicates.families(source, 25, seed=1) for page in family]
    pages += [page for pair in near_duplicates.plant(source, 60, seed=2) for page in (pair.left, pair.right)]
    alike = similar_pages.similarity(similar_pages.gram_sets(pages)) >= THRESHOLD
    verdicts = Chain(dedupe.Config(partitions=2, margin=1)).publish(signed(batches(pages), sign.Config()))
    kept = np.ones(len(pages), np.bool_)
    kept[places(dedupe.column(verdicts.filter(pc.not_equal(verdicts["reason"], 0)), "doc"))] = False
    wrong, left = similar_pages.faults(alike, kept)
    assert wrong == 0  # every pair is counted, so nothing is taken for what it is not
    assert left <= 0.02 * kept.sum()  # pairs that met in no band
    assert (~kept).sum() > 100


def test_components_remove_pages_that_no_kept_page_is_like(source: Prose) -> None:
    pages = [page for family in near_duplicates.families(source, 25, seed=1) for page in family]
    alike = similar_pages.similarity(similar_pages.gram_sets(pages)) >= THRESHOLD
    verdicts = Chain(dedupe.Config(partitions=2, components=True)).publish(signed(batches(pages), sign.Config()))
    kept = np.ones(len(pages), np.bool_)
    kept[places(dedupe.column(verdicts.filter(pc.not_equal(verdicts["reason"], 0)), "doc"))] = False
    assert similar_pages.faults(alike, kept)[0] > 50
