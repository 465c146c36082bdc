"""Fast Similarity Sketching of word 5-grams: 126 slots that agree between two texts as often as their 5-grams do.

Dahlgaard, Knudsen, Thorup 2017: the cost of one permutation with less variance than 126 of them (rmse .031 against .036
at Jaccard .8 of 450 5-grams). 18 bands of 7 slots meet in some band with probability .985 at Jaccard .8, .39 at .6.
Every constant here is frozen: `DIGEST` stands for all of them in the key of a stage that signs.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from pipelines.kernel import compiled

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

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
DIGEST = hashlib.sha256(
    b"fss word5 18x7 1 %d %d %d %d " % (LETTER, WORD, MIX_1, MIX_2) + SEEDS.astype("<u8").tobytes()
).hexdigest()


def sketch(data: Bytes, offsets: Counts) -> Hashes:
    """Slots (num, SLOTS) of normalised texts, as `normalise.Normalised` lays them out; all zero for an empty one.

    The share of equal slots of two texts estimates the Jaccard similarity of their sets of 5-grams. A text of fewer
    words is one shingle. The low byte of a slot is a hash of the slot.
    """
    slots = np.zeros((len(offsets) - 1, SLOTS), np.uint64)
    longest = int(np.diff(offsets).max(initial=0))
    # every word but the last takes two bytes or more
    _sketch(data, offsets, SEEDS, np.empty(longest // 2 + 2, np.uint64), slots)
    return slots


def band_keys(slots: Hashes) -> Hashes:
    """64-bit keys (num, BANDS), the number of the band folded in; 0 stands for an empty text and for nothing else."""
    keys = np.zeros((len(slots), BANDS), np.uint64)
    _band_keys(slots, keys)
    return keys


def low_bytes(slots: Hashes) -> Bytes:
    """8-bit slots: two texts agree in a share of about J + (1 - J) / 256."""
    return (slots & np.uint64(0xFF)).astype(np.uint8)


@compiled
def _mix(value: np.uint64) -> np.uint64:
    value ^= value >> SHIFT
    value *= MIX_1
    value ^= value >> SHIFT
    value *= MIX_2
    return value ^ value >> SHIFT


@compiled
def _shingles(data: Bytes, start: int, stop: int, shingles: Hashes) -> int:
    # Rolling polynomial over the last SHINGLE word hashes; returns how many shingles were written.
    gone = ONE
    for _ in range(SHINGLE):
        gone *= WORD
    ring = np.zeros(SHINGLE, np.uint64)
    slot = 0
    words = 0
    num = 0
    rolling = NOTHING
    place = start
    while place < stop:
        letters = NOTHING
        while place < stop and data[place] != SPACE:
            letters = (letters + np.uint64(data[place])) * LETTER
            place += 1
        place += 1
        word = _mix(letters)
        rolling = rolling * WORD + word - ring[slot] * gone
        ring[slot] = word
        slot += 1
        if slot == SHINGLE:
            slot = 0
        words += 1
        if words >= SHINGLE:
            shingles[num] = _mix(rolling)
            num += 1
    if num == 0 and words > 0:
        shingles[0] = _mix(rolling)
        num = 1
    return num


@compiled
def _sketch(data: Bytes, offsets: Counts, seeds: Hashes, shingles: Hashes, slots: Hashes) -> None:
    # Round r hashes every shingle again. In the first SLOTS rounds the high half of the hash chooses a slot, in the
    # rest all shingles go to slot r - SLOTS, so that none can stay empty. A slot keeps its least value, an earlier
    # round before a later one; most texts fill all slots in one or two rounds.
    num_slots = np.uint64(SLOTS)
    for d in range(len(slots)):
        num = _shingles(data, offsets[d], offsets[d + 1], shingles)
        if num == 0:
            continue
        own = slots[d]
        own[:] = UNFILLED
        filled = 0
        for turn in range(2 * SLOTS):
            prefix = np.uint64(turn) << HALF
            seed = seeds[turn]
            for i in range(num):
                value = _mix(shingles[i] ^ seed)
                slot = np.int64((value >> HALF) * num_slots >> HALF) if turn < SLOTS else np.int64(turn - SLOTS)
                held = own[slot]
                value = prefix | (value & LOW)
                if value < held:
                    if held == UNFILLED:
                        filled += 1
                    own[slot] = value
            if filled == SLOTS:
                break


@compiled
def _band_keys(slots: Hashes, keys: Hashes) -> None:
    for d in range(len(slots)):
        if slots[d].max() == NOTHING:
            continue
        for band in range(BANDS):
            key = np.uint64(band + 1) * LETTER
            for row in range(band * ROWS, band * ROWS + ROWS):
                key = _mix(key ^ slots[d, row]) * WORD
            key = _mix(key)
            keys[d, band] = max(key, ONE)
