"""The MinHash of datasketch, value for value, whatever the words and however long the 5-grams."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from datasketch.hashfunc import sha1_hash32
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines import minhash as m
from pipelines import sketch
from pipelines.normalise import normalise

PROSE = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
    "it was the epoch of belief, it was the epoch of incredulity, it was the season of Light"
)
# First three and last of 126 hash values, first and last band key of 18 x 7.
GOLDEN = {
    "": ([0, 0, 0, 0], 0x0000000000000000, 0x0000000000000000),
    "one": ([2764019017, 2575501726, 102015674, 338630067], 0x0D40AE8B14BB1D86, 0x78BCE8F64E5F75E3),
    PROSE: ([206882920, 17417551, 7251917, 218103250], 0x8BCC060BDB34515A, 0x98D954ABE4DE0AE7),
    "漢字かなまじり文": ([377961793, 254582823, 271107812, 718616107], 0x77B5F521F3204506, 0x2EB13B06FBC82319),
}
LETTERS = st.sampled_from(["a", "b", "ß", "é", "я", "漢", "0"])
WORD = st.builds(lambda sign, times: sign * times, LETTERS, st.one_of(st.integers(1, 9), st.integers(1, 150)))


def values_of(texts: list[str], num: int) -> sketch.Hashes:
    done = normalise(pa.array(texts, pa.large_string()))
    return m.hashvalues(done.data, done.offsets, num)


def theirs(text: str, num: int) -> list[int]:
    """What datasketch says of a text, through its own interface; all zero for an empty one."""
    done = normalise(pa.array([text], pa.large_string()))
    words = bytes(done.data).decode().split()
    if not words:
        return [0] * num
    signature = MinHash(num_perm=num, seed=1, hashfunc=sha1_hash32)
    signature.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(len(words) - 4, 1))])
    return [int(value) for value in signature.hashvalues]


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.lists(WORD, max_size=12).map(" ".join), min_size=1, max_size=3), st.sampled_from([1, 112, 126]))
@example(["a" * size for size in (3, 54, 55, 56, 57, 63, 64, 65, 118, 119, 120, 121, 128)], 8)  # where blocks end
@example([" ".join(f"{i}" * (1 + i * i % 17) for i in range(size)) for size in (15, 16, 19, 20, 21, 36, 37, 60)], 126)
def test_hash_values_are_those_of_datasketch(texts: list[str], num: int) -> None:
    assert values_of(texts, num).tolist() == [theirs(text, num) for text in texts]


@pytest.mark.parametrize("num", [1, 7, 112, 126])
def test_permutations_are_those_of_datasketch(num: int) -> None:
    assert np.array_equal(np.array(m.permutations(num)), MinHash(num_perm=num, seed=1).permutations)


@pytest.mark.parametrize("text", GOLDEN)
def test_golden_vectors(text: str) -> None:
    # they hold also where a later datasketch gives other values by default
    slots = values_of([text], 126)
    keys = sketch.band_keys(slots)
    assert ([*slots[0, :3].tolist(), int(slots[0, 125])], int(keys[0, 0]), int(keys[0, 17])) == GOLDEN[text]


def test_constants_are_the_frozen_ones() -> None:
    assert m.digest(18, 7)[:16] == "905b6a030efe6974"
    assert m.digest(14, 8) != m.digest(18, 7) != sketch.digest(18, 7)


def test_other_numbers_of_numpy_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "SEED", 2)
    m.permutations.cache_clear()
    with pytest.raises(ValueError, match="install numpy"):
        m.permutations(126)
    m.permutations.cache_clear()


def test_eight_bits_of_different_slots_agree_by_chance_only() -> None:
    # the low bytes themselves would agree in all 126 slots for one pair of texts in 256, and in none for the rest
    low = m.low_bytes(values_of([str(i) for i in range(300)], 126))
    shares = np.array([(low[i] == low[j]).mean() for i, j in itertools.combinations(range(300), 2)])
    assert shares.mean() == pytest.approx(1 / 256, rel=0.1)
    assert shares.max() < 0.12
