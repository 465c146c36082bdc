"""Sketches estimate Jaccard similarity of 5-grams; bands meet as often as the theory says; keys never change."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from pipelines import sketch as s
from pipelines.normalise import normalise

REAL = Path(__file__).parents[3] / "shared/data/text/near-duplicates/debian-copyright-a-l.jsonl.gz"
PROSE = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
    "it was the epoch of belief, it was the epoch of incredulity, it was the season of Light"
)
# Fixed texts, fixed keys: a change here is a new sketch, which no index of the old one can be compared with.
GOLDEN = {
    "": (0x0000000000000000, 0x0000000000000000, "0000000000000000"),
    "one": (0x62A89D3636E57D18, 0x99D2ADC50ECE946B, "c96f663aecf82a92"),
    PROSE: (0x82467FF57ED8AE87, 0x4969701206091695, "366bece4895fb0eb"),
    "漢字かなまじり文": (0x46FF8C2D2940D0CA, 0x8583ACBA308DA78A, "55201f9cfd38f05a"),
}


def slots_of(*texts: str) -> s.Hashes:
    done = normalise(pa.array(texts, pa.large_string()))
    return s.sketch(done.data, done.offsets)


def grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(max(len(words) - 4, 1))}


def jaccard(a: str, b: str) -> float:
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def pairs(shared: int, num: int, seed: int) -> list[tuple[str, str]]:
    """Pairs of texts of 450 5-grams each, `shared` of them in common."""
    rng = np.random.default_rng(seed)
    common = shared + 4 if shared else 0
    made = []
    for _ in range(num):
        words = [format(value, "x") for value in rng.choice(1 << 40, size=common + 2 * (454 - common)).tolist()]
        first, rest = words[:common], words[common:]
        made.append((" ".join(first + rest[: len(rest) // 2]), " ".join(first + rest[len(rest) // 2 :])))
    return made


@pytest.mark.parametrize("text", GOLDEN)
def test_golden_vectors(text: str) -> None:
    slots = slots_of(text)
    keys = s.band_keys(slots)
    low = s.low_bytes(slots)
    assert (int(keys[0, 0]), int(keys[0, 17]), bytes(low[0, :8]).hex()) == GOLDEN[text]


def test_constants_are_the_frozen_ones() -> None:
    assert s.DIGEST[:16] == "47fa5e122d39dfa5"
    assert len(np.unique(s.SEEDS)) == 2 * s.SLOTS


@pytest.mark.parametrize("shared", [0, 300, 360, 400, 430])
def test_estimates_are_unbiased_and_closer_than_permutations_promise(shared: int) -> None:
    made = pairs(shared, 400, seed=shared)
    true = jaccard(*made[0])
    assert true == pytest.approx(shared / (900 - shared))
    left, right = slots_of(*(a for a, _ in made)), slots_of(*(b for _, b in made))
    errors = (left == right).mean(axis=1) - true
    # 126 permutations have sqrt(J (1 - J) / 126), the sketch a tenth less; 400 pairs know it to 3.5 %
    assert np.sqrt((errors**2).mean()) <= np.sqrt(true * (1 - true) / s.SLOTS)
    assert abs(errors.mean()) <= 4 * np.sqrt(true * (1 - true) / s.SLOTS / 400)
    low = (s.low_bytes(left) == s.low_bytes(right)).mean()
    assert low == pytest.approx(true + (1 - true) / 256, abs=0.01)


def test_datasketch_agrees() -> None:
    made = pairs(360, 60, seed=1)
    left, right = slots_of(*(a for a, _ in made)), slots_of(*(b for _, b in made))
    ours = (left == right).mean(axis=1)

    def minhash(text: str) -> MinHash:
        signature = MinHash(num_perm=126, seed=1)
        signature.update_batch([" ".join(gram).encode() for gram in sorted(grams(text))])
        return signature

    theirs = np.array([minhash(a).jaccard(minhash(b)) for a, b in made])
    # two estimates of 60 pairs each, standard error .0063 of the difference of their means
    assert abs(ours.mean() - theirs.mean()) < 0.025


@pytest.mark.parametrize(("shared", "low", "high"), [(400, 0.975, 0.995), (337, 0.36, 0.44), (430, 0.999, 1.0)])
def test_bands_meet_as_often_as_they_should(shared: int, low: float, high: float) -> None:
    # 1 - (1 - J^7)^18: .985 at .8, .397 at .6, 1.000 at .915; 2,000 pairs know it to .003, .011 and .000
    made = pairs(shared, 2000, seed=7)
    left, right = (s.band_keys(slots_of(*texts)) for texts in zip(*made, strict=True))
    assert low <= (left == right).any(axis=1).mean() <= high


def test_unrelated_texts_share_no_key() -> None:
    texts = [text for pair in pairs(0, 1000, seed=3) for text in pair]
    keys = s.band_keys(slots_of(*texts))
    # also across bands: the band's number is in the key
    assert len(np.unique(keys)) == keys.size


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 4))
def test_order_and_repetition_of_grams_do_not_matter(words: list[int], times: int) -> None:
    # a text said over and over has the grams of itself said twice
    text = " ".join(map(str, words))
    again, many = slots_of(" ".join([text] * (1 + times + 5)), " ".join([text] * 7))
    assert not len(words) or np.array_equal(again, many)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4))
def test_short_texts_are_one_shingle(words: list[str]) -> None:
    same, other = slots_of(" ".join(words), " ".join([*words, "g"])[-2 * len(words) :])
    assert (same == other).all() == (words == [*words, "g"][-len(words) :])
    assert len(np.unique(s.band_keys(same[None]))) == s.BANDS


def test_word_borders_matter() -> None:
    keys = s.band_keys(slots_of("a b c d e", "ab c d e f", "a bc d e", "abcde", "e d c b a"))
    assert len(np.unique(keys)) == keys.size


def test_all_empty_texts_have_no_key() -> None:
    slots = slots_of("", "...", "\n")
    assert not slots.any()
    assert not s.band_keys(slots).any()


def test_keys_use_all_64_bits() -> None:
    keys = s.band_keys(slots_of(*(str(i) for i in range(2000)))).reshape(-1)
    assert keys.dtype == np.uint64
    for bit in range(64):
        assert ((keys >> np.uint64(bit)) & np.uint64(1)).mean() == pytest.approx(0.5, abs=0.02)


def test_a_text_has_one_sketch_whatever_stands_beside_it() -> None:
    texts = [a for a, _ in pairs(10, 5, seed=2)] + ["", "short", PROSE]
    together = slots_of(*texts)
    assert all(np.array_equal(together[i], slots_of(text)[0]) for i, text in enumerate(texts))


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared data")
def test_real_near_duplicates_are_found() -> None:
    with gzip.open(REAL, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, 160)]
    done = normalise(pa.array(texts, pa.large_string()))
    slots = s.sketch(done.data, done.offsets)
    keys = s.band_keys(slots)
    bodies = [bytes(done.data[a:b]).decode() for a, b in itertools.pairwise(done.offsets)]
    shingles = [grams(body) for body in bodies]
    near, found, errors = 0, 0, []
    for i, j in itertools.combinations(range(len(texts)), 2):
        small, large = sorted((len(shingles[i]), len(shingles[j])))
        if small < 0.3 * large:
            continue
        shared = len(shingles[i] & shingles[j])
        true = shared / (small + large - shared)
        if true > 0.3:
            errors.append((slots[i] == slots[j]).mean() - true)
        if true >= 0.8:
            near += 1
            found += bool((keys[i] == keys[j]).any())
    assert near > 50
    assert found >= 0.98 * near
    assert np.sqrt(np.mean(np.square(errors))) < 0.045  # sqrt(.25 / 126), the worst of 126 permutations
