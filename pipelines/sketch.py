"""Fast Similarity Sketching of word 5-grams: 126 slots that agree between two texts as often as their 5-grams do.

Dahlgaard, Knudsen, Thorup 2017: the cost of one permutation with less variance than 126 of them (rmse .031 against .036
at Jaccard .8 of 450 5-grams). 18 bands of 7 slots meet in some band with probability .985 at Jaccard .8, .39 at .6; 14
bands of 8, FineWeb's, .92 and .21. Every constant here is frozen: `digest` stands for all of them in the key of a stage
that signs.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from engine import schema
from engine.errors import ConfigError
from pipelines.kernel import compiled

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Shingles = npt.NDArray[np.uint32]

SHINGLE = 5  # words
BANDS = 18
ROWS = 7
SLOTS = BANDS * ROWS
SEED = 0x6B6F736D6F73  # "kosmos"
SPACE = 32

# All of these are typed: int64 mixed with uint64 would turn to float64 without a word.
LETTER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no letter is forgotten: 2^64 / golden ratio
WORD = np.uint64(0xD6E8FEB86659FD93)  # odd (Rrmxmx, P. Evensen 2018)
MIX_1 = np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's 64-bit finaliser
MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
HALF = np.uint64(32)
SHIFT = np.uint64(33)
LOW = np.uint64(0xFFFFFFFF)
ONE = np.uint64(1)
NOTHING = np.uint64(0)
UNFILLED = np.uint64(0xFFFFFFFFFFFFFFFF)


def seeds() -> Hashes:
    """One seed a round, two rounds a slot: SplitMix64 from SEED (numpy's generators may change between versions)."""
    mask = (1 << 64) - 1
    state, values = SEED, []
    for _ in range(2 * SLOTS):
        state = (state + 0x9E3779B97F4A7C15) & mask
        value = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
        values.append(value ^ value >> 31)
    return np.array(values, np.uint64)


SEEDS = seeds()


def digest(bands: int = BANDS, rows: int = ROWS) -> str:
    """Hex sha256 of all that decides slots, shingles and band keys."""
    head = b"fss word5 %dx%d 1 %d %d %d %d " % (bands, rows, LETTER, WORD, MIX_1, MIX_2)
    return hashlib.sha256(head + SEEDS[: 2 * bands * rows].astype("<u8").tobytes()).hexdigest()


DIGEST = digest()


def check_shape(bands: int, rows: int) -> None:
    """ConfigError if the tables of signatures have no room for so many band keys or slots."""
    if not 1 <= bands <= schema.BANDS:
        raise ConfigError(f"sign.bands is {bands}; set it to 1-{schema.BANDS}")
    if not 1 <= rows <= schema.SLOTS // bands:
        raise ConfigError(f"sign.rows is {rows}; with {bands} bands set it to 1-{schema.SLOTS // bands}")


def sketch(data: Bytes, offsets: Counts, num_slots: int = SLOTS) -> Hashes:
    """Slots (num, num_slots) of normalised texts, as `normalise.Normalised` lays them out; all zero for an empty one.

    The share of equal slots of two texts estimates the Jaccard similarity of their sets of 5-grams. A text of fewer
    words is one shingle. The low byte of a slot is a hash of the slot.
    """
    return sketch_and_shingles(data, offsets, num_slots)[0]


def shingles(data: Bytes, offsets: Counts) -> tuple[Shingles, Counts]:
    """(the top 32 bits of the hash of every 5-gram in the order of the text, ends (num + 1)) of normalised texts.

    Those of text d are [ends[d]:ends[d + 1]]: one a word after the fourth, one for a text of fewer, none for an empty.
    """
    _, found, ends = sketch_and_shingles(data, offsets, 0)
    return found, ends


def sketch_and_shingles(data: Bytes, offsets: Counts, num_slots: int = SLOTS) -> tuple[Hashes, Shingles, Counts]:
    """What `sketch` and `shingles` give, in one pass. num_slots: up to SLOTS; with 0 there are only shingles."""
    num = len(offsets) - 1
    slots = np.zeros((num, num_slots), np.uint64)
    lengths = np.diff(offsets)
    # every word but the last takes two bytes or more; pages of an array that are never written to take no memory
    held = np.empty(int(lengths.max(initial=0)) // 2 + 2, np.uint64)
    found = np.empty(int(lengths.sum()) // 2 + num, np.uint32)
    ends = np.zeros(num + 1, np.int64)
    _sketch(data, offsets, SEEDS, held, slots, found, ends)
    return slots, found[: ends[-1]], ends


def band_keys(slots: Hashes, bands: int = BANDS, rows: int = ROWS) -> Hashes:
    """64-bit keys (num, bands), the number of the band folded in; 0 stands for an empty text and for nothing else.

    slots: (num, bands * rows).
    """
    keys = np.zeros((len(slots), bands), np.uint64)
    _band_keys(slots, rows, keys)
    return keys


def low_bytes(slots: Hashes) -> Bytes:
    """8-bit slots: two texts agree in a share of about J + (1 - J) / 256."""
    return (slots & np.uint64(0xFF)).astype(np.uint8)


@compiled
def mix(value: np.uint64) -> np.uint64:
    """MurmurHash3's 64-bit finaliser: every bit depends on every bit."""
    value ^= value >> SHIFT
    value *= MIX_1
    value ^= value >> SHIFT
    value *= MIX_2
    return value ^ value >> SHIFT


@compiled
def _shingles(data: Bytes, start: int, stop: int, shingles: Hashes) -> int:
    # Writes the hash of each 5-gram, a polynomial over its words, which are polynomials over their letters; returns how
    # many. Three passes that nothing can hold up: over letters without a branch, for where a word ends is not to be
    # foreseen; then over words, where no step needs the one before it, so that compilers take several at once.
    if start == stop:
        return 0
    num = _words(data, start, stop, shingles)
    for i in range(num):
        shingles[i] = mix(shingles[i])
    if num < SHINGLE:
        rolling = NOTHING
        for i in range(num):
            rolling = rolling * WORD + shingles[i]
        shingles[0] = mix(rolling)
        return 1
    for i in range(num - SHINGLE + 1):
        first = (shingles[i] * WORD + shingles[i + 1]) * WORD + shingles[i + 2]
        shingles[i] = mix((first * WORD + shingles[i + 3]) * WORD + shingles[i + 4])
    return num - SHINGLE + 1


@compiled
def _words(data: Bytes, start: int, stop: int, words: Hashes) -> int:
    # A value that is not complete is written over by the next. Unsigned places save the question whether they count
    # from the end.
    num = NOTHING
    letters = NOTHING
    for place in range(start, stop):
        words[num] = letters
        letter = np.uint64(data[place])
        space = letter == SPACE
        num += np.uint64(space)
        letters = (letters + letter) * (NOTHING if space else LETTER)
    words[num] = letters
    return int(num) + 1


@compiled
def _sketch(
    data: Bytes, offsets: Counts, seeds: Hashes, held: Hashes, slots: Hashes, found: Shingles, ends: Counts
) -> None:
    # held: room for the shingles of the longest text; found: for those of all.
    end = 0
    for d in range(len(slots)):
        num = _shingles(data, offsets[d], offsets[d + 1], held)
        for i in range(num):
            found[end + i] = np.uint32(held[i] >> HALF)
        end += num
        ends[d + 1] = end
        if num > 0 and slots.shape[1] > 0:
            _fill(held, num, seeds, slots[d])


@compiled
def _fill(shingles: Hashes, num: int, seeds: Hashes, own: Hashes) -> None:
    # Round r hashes every shingle again. In as many rounds as there are slots the high half of the hash chooses a slot,
    # in the rest all shingles go to one slot after the other, so that none can stay empty. A slot keeps its least
    # value, an earlier round before a later one; most texts fill all slots in one or two rounds. No branch on whether a
    # value is kept, which one time in three it is: a wrong guess costs as much as a shingle.
    num_slots = np.uint64(len(own))
    own[:] = UNFILLED
    for turn in range(2 * len(own)):
        prefix = np.uint64(turn) << HALF
        seed = seeds[turn]
        for i in range(num):
            value = mix(shingles[i] ^ seed)
            slot = (value >> HALF) * num_slots >> HALF if turn < len(own) else np.uint64(turn - len(own))
            own[slot] = min(own[slot], prefix | (value & LOW))
        if own.max() != UNFILLED:
            break


@compiled
def _band_keys(slots: Hashes, rows: int, keys: Hashes) -> None:
    for d in range(len(slots)):
        if slots[d].max() == NOTHING:
            continue
        for band in range(keys.shape[1]):
            key = np.uint64(band + 1) * LETTER
            for row in range(band * rows, band * rows + rows):
                key = mix(key ^ slots[d, row]) * WORD
            key = mix(key)
            keys[d, band] = max(key, ONE)
