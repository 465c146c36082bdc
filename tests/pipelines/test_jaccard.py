"""Similarity of texts: the estimate has no bias, the count is exact."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.schema import SLOTS
from pipelines import jaccard, minhash, sketch
from pipelines.normalise import normalise

Bytes = npt.NDArray[np.uint8]
Sketching = Callable[[Bytes, npt.NDArray[np.int64]], Bytes]

NUM = 1500  # pairs of texts
WORDS = 104  # 100 5-grams


def fss(num_slots: int) -> Sketching:
    return lambda data, offsets: sketch.low_bytes(sketch.sketch(data, offsets, num_slots))


def datasketch(num_slots: int) -> Sketching:
    return lambda data, offsets: minhash.low_bytes(minhash.hashvalues(data, offsets, num_slots))


def sharing(num: int) -> tuple[list[str], float]:
    """NUM pairs of texts of WORDS words, the first `num` of them the same, and their similarity."""
    texts = []
    for pair in range(NUM):
        same = [f"s{pair}x{word}" for word in range(num)]
        for side in "ab":
            texts.append(" ".join(same + [f"{side}{pair}x{word}" for word in range(WORDS - num)]))
    common = max(0, num - sketch.SHINGLE + 1)
    return texts, common / (2 * (WORDS - sketch.SHINGLE + 1) - common)


@pytest.mark.parametrize("words", [0, 24, 60, 93])
@pytest.mark.parametrize("scheme", [fss(126), fss(112), datasketch(126)], ids=["fss", "fineweb", "datasketch"])
def test_the_estimate_has_no_bias(scheme: Sketching, words: int) -> None:
    texts, true = sharing(words)
    text = normalise(pa.array(texts, pa.large_string()))
    slots = scheme(text.data, text.offsets)
    num_slots = slots.shape[1]
    a = np.arange(0, 2 * NUM, 2)
    # what agrees by chance is .0039 of what differs: as good as all of it at 0, where less than nothing must not be cut
    share = (slots[a] == slots[a + 1]).mean(axis=1)
    corrected = float(((share - 1 / 256) / (1 - 1 / 256)).mean())
    error = np.sqrt(max(true * (1 - true), 1 / 256) / num_slots / NUM)
    assert abs(corrected - true) < 4 * error
    assert true > 0.5 or abs(float(share.mean()) - true) > 2 * error, "chance would not be seen by this test"
    estimates = jaccard.estimate_pairs(slots, a, a + 1, num_slots)
    np.testing.assert_allclose(estimates, np.maximum(0, (share - 1 / 256) / (1 - 1 / 256)), atol=1e-12)


def test_the_low_byte_of_every_slot_is_any_byte() -> None:
    """Neither scheme's least values favour one: a bias of one in 256 would be a bias of every estimate."""
    texts, _ = sharing(0)
    text = normalise(pa.array(texts, pa.large_string()))
    for scheme in (fss(126), datasketch(126)):
        seen = np.bincount(scheme(text.data, text.offsets).reshape(-1), minlength=256)
        expected = 2 * NUM * 126 / 256
        chi = float(((seen - expected) ** 2 / expected).sum())
        assert abs(chi - 255) < 6 * np.sqrt(2 * 255), "255 degrees of freedom"


def test_slots_that_are_not_used_do_not_count() -> None:
    rng = np.random.default_rng(1)
    slots = rng.integers(1, 256, (40, SLOTS), np.uint8)
    slots[:, 112:] = 0
    a, b = np.arange(20), np.arange(20, 40)
    assert jaccard.estimate_pairs(slots, a, b, 112).max() < 0.1 < jaccard.estimate_pairs(slots, a, b, SLOTS).min()
    assert (jaccard.estimate(slots, slots, 112) == 1).all()
    assert (jaccard.estimate(slots[:20], slots[20:], 112) == jaccard.estimate_pairs(slots, a, b, 112)).all()


HASHES = st.lists(st.integers(0, 30) | st.sampled_from([2**31, 2**32 - 1]), max_size=40)


def similarity(left: set[int], right: set[int]) -> float:
    return len(left & right) / len(left | right) if left | right else 0.0


@settings(deadline=None)  # the first call compiles
@given(HASHES, HASHES)
def test_counted_is_what_sets_say(left: list[int], right: list[int]) -> None:
    own, other = np.array(left, np.uint32), np.array(right, np.uint32)
    assert jaccard.counted(own, other) == similarity(set(left), set(right))
    assert own.tolist() == left and other.tolist() == right, "what is asked about stays as it is"


@settings(deadline=None)
@given(st.lists(HASHES, min_size=1, max_size=6))
def test_many_texts_are_counted_by_their_places(texts: list[list[int]]) -> None:
    ends = np.cumsum([0, *(len(text) for text in texts)])
    data = np.array([value for text in texts for value in text], np.uint32)
    data, ends = jaccard.distinct(data, ends)
    assert [data[start:stop].tolist() for start, stop in pairwise(ends)] == [sorted(set(text)) for text in texts]
    a, b = (places.reshape(-1) for places in np.indices((len(texts), len(texts))))
    expected = [similarity(set(texts[i]), set(texts[j])) for i, j in zip(a, b, strict=True)]
    assert jaccard.count_pairs(data, ends, a, b).tolist() == expected


WORD = st.text("abc", min_size=1, max_size=2)


def grams(words: list[str]) -> set[tuple[str, ...]]:
    if not words:
        return set()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


@settings(deadline=None)
@given(st.lists(WORD, max_size=14), st.lists(WORD, max_size=14), st.integers(0, 14))
def test_of_texts_counts_5_grams(left: list[str], right: list[str], common: int) -> None:
    right = left[:common] + right
    expected = similarity({hash(gram) for gram in grams(left)}, {hash(gram) for gram in grams(right)})
    assert jaccard.of_texts(" ".join(left), " ".join(right)) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("", "", 0.0),
        ("", "one", 0.0),
        ("...", "?!", 0.0),
        ("one two", "One, TWO!", 1.0),
        ("one two", "two one", 0.0),
        ("a b c d e f", "a b c d e g", 1 / 3),
        ("a b c d e a b c d e", "a b c d e a b c d e a b c d e", 1.0),
    ],
)
def test_similarity_of_texts(a: str, b: str, expected: float) -> None:
    assert jaccard.of_texts(a, b) == jaccard.of_texts(b, a) == expected
