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
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
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
# The same for 14 bands of 8.
GOLDEN_14X8 = {
    "": (0x0000000000000000, 0x0000000000000000, "0000000000000000"),
    "one": (0x64A78AD77A6EEEFD, 0x57E79CB17778DBB0, "6f474eceecf8f7e8"),
    PROSE: (0x57593AC1346EB019, 0xFA0EE000C4900B42, "aa6bec2e89b0aaca"),
    "漢字かなまじり文": (0x796B07E22D47D149, 0x920A457D01292421, "55205efdeaf04964"),
}
# How many 5-grams, and the hashes of the first.
GOLDEN_SHINGLES = {
    "": (0, []),
    "one": (1, [0x35EAC223]),
    PROSE: (38, [0x70407100, 0xF4DF2695, 0xE72F5C75]),
    "漢字かなまじり文": (5, [0x128595F6, 0xB09A3F18, 0xFF89719D]),
}
MASK = (1 << 64) - 1


def slots_of(*texts: str, num_slots: int = s.SLOTS) -> s.Hashes:
    done = normalise(pa.array(texts, pa.large_string()))
    return s.sketch(done.data, done.offsets, num_slots)


def shingles_of(*texts: str) -> list[list[int]]:
    done = normalise(pa.array(texts, pa.large_string()))
    found, ends = s.shingles(done.data, done.offsets)
    return [found[a:b].tolist() for a, b in itertools.pairwise(ends)]


def mix(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ value >> 33


def hashes(text: str) -> list[int]:
    """The definition: a polynomial over letters makes a word, one over words a 5-gram."""
    words = []
    for word in text.split():
        letters = 0
        for byte in word.encode():
            letters = (letters + byte) * 0x9E3779B97F4A7C15 & MASK
        words.append(mix(letters))
    found = []
    for i in range(max(len(words) - 4, 1) if words else 0):
        gram = 0
        for value in words[i : i + 5]:
            gram = (gram * 0xD6E8FEB86659FD93 + value) & MASK
        found.append(mix(gram))
    return found


def reference(text: str, num: int) -> list[int]:
    """The definition of a sketch, a slot at a time."""
    if not (grams := hashes(text)):
        return [0] * num
    slots: list[int] = [MASK] * num
    for turn in range(2 * num):
        for gram in grams:
            value = mix(gram ^ int(s.SEEDS[turn]))
            slot = (value >> 32) * num >> 32 if turn < num else turn - num
            slots[slot] = min(slots[slot], turn << 32 | value & 0xFFFFFFFF)
        if MASK not in slots:
            break
    return slots


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
    slots = slots_of(text, num_slots=112)
    keys, low = s.band_keys(slots, 14, 8), s.low_bytes(slots)
    assert (int(keys[0, 0]), int(keys[0, 13]), bytes(low[0, :8]).hex()) == GOLDEN_14X8[text]
    assert keys.shape == (1, 14)
    assert slots.shape == low.shape == (1, 112)
    found = shingles_of(text)[0]
    assert (len(found), found[:3]) == GOLDEN_SHINGLES[text]


def test_constants_are_the_frozen_ones() -> None:
    assert s.DIGEST[:16] == "47fa5e122d39dfa5"
    assert s.digest(14, 8)[:16] == "82bd98e7871787bf"
    assert len(np.unique(s.SEEDS)) == 2 * s.SLOTS


WORD = st.one_of(st.text("abc", min_size=1, max_size=3), st.text("xyé漢ไ", min_size=1, max_size=40))
TEXTS = st.lists(st.lists(WORD, max_size=14).map(" ".join), max_size=4)


@settings(deadline=None)  # the first example compiles
@given(TEXTS, st.sampled_from([1, 5, 112, 126]))
def test_slots_and_shingles_are_what_they_are_defined_to_be(texts: list[str], num: int) -> None:
    done = normalise(pa.array(texts, pa.large_string()))
    bodies = [bytes(done.data[a:b]).decode() for a, b in itertools.pairwise(done.offsets)]
    slots, found, ends = s.sketch_and_shingles(done.data, done.offsets, num)
    assert slots.tolist() == [reference(body, num) for body in bodies]
    assert [found[a:b].tolist() for a, b in itertools.pairwise(ends)] == [
        [gram >> 32 for gram in hashes(body)] for body in bodies
    ]
    assert found.dtype == np.uint32


@pytest.mark.parametrize("shared", [0, 300, 400])
def test_shingles_count_what_grams_count(shared: int) -> None:
    for a, b in pairs(shared, 20, seed=4):
        # each text three times over: repetitions are told, in the order of the text
        left, right = shingles_of(" ".join([a] * 3), b)
        assert left[:450] == left[454 : 454 + 450]
        assert (len(left), len(right)) == (3 * 454 - 4, 450)
        left, right = shingles_of(a, b)
        assert len(set(left) & set(right)) / len(set(left) | set(right)) == jaccard(a, b)


@pytest.mark.parametrize(("bands", "rows"), [(0, 7), (19, 1), (18, 8), (14, 10), (9, 0), (-1, 7), (1, 127)])
def test_shapes_that_tables_cannot_hold_are_refused(bands: int, rows: int) -> None:
    with pytest.raises(ConfigError, match=r"set it to 1-\d+"):
        s.check_shape(bands, rows)


@pytest.mark.parametrize(("bands", "rows"), [(18, 7), (14, 8), (9, 14), (1, 126), (18, 1)])
def test_shapes_of_all_sizes_give_that_many_keys(bands: int, rows: int) -> None:
    s.check_shape(bands, rows)
    keys = s.band_keys(slots_of(PROSE, "one", num_slots=bands * rows), bands, rows)
    assert keys.shape == (2, bands)
    assert len(np.unique(keys)) == 2 * bands


@pytest.mark.parametrize("text", ["", "...", "a", "b" * (1 << 20), "漢" * 300000, "?! \n" * 100000, "a " * 300000])
def test_odd_texts_leave_the_next_alone(text: str) -> None:
    together = slots_of(PROSE, text, PROSE)
    assert np.array_equal(together[0], together[2])
    found = shingles_of(PROSE, text, PROSE)
    assert found[0] == found[2]
    assert together[1].any() == bool(found[1])


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
