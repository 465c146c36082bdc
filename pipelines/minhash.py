"""MinHash as datasketch 2 computes it, for those who have indexes of such sketches: equal value for value.

`MinHash(num_perm, seed=1, hashfunc=sha1_hash32)` with its scheme "affine32", over " ".join(gram) of the 5-grams of the
normalised words. datasketch takes a Python object a 5-gram; here SHA-1 and permutations run over the buffer, some 7
times as fast. `sketch` has less variance for a fifth of the time: it stays the default.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import numpy.typing as npt

from pipelines.kernel import compiled
from pipelines.sketch import LETTER, SHINGLE, SLOTS, SPACE, Bytes, Counts, Hashes

Words = npt.NDArray[np.uint32]

SEED = 1  # datasketch's default
STREAM_DIGEST = "bda2a06f6c606e8f67269e4d26e572293267a1185b76dbd784beccde06d84c75"
LARGEST = np.uint32(0xFFFFFFFF)
# MurmurHash3's 32-bit finaliser: datasketch mixes every hash once before it permutes
MIX_1, MIX_2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
# FIPS 180-4: where SHA-1 starts, and what is added in each quarter of its 80 rounds
START = np.array([0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0], np.uint32)
QUARTERS = tuple(np.uint32(word) for word in (0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6))
BLOCK = 64  # bytes
LANES = 16  # messages at once


def digest(bands: int, rows: int) -> str:
    """Hex sha256 of all that decides slots and band keys."""
    head = f"datasketch 2 affine32 sha1_hash32 word{SHINGLE} {bands}x{rows} 1 {SEED} {STREAM_DIGEST}"
    return hashlib.sha256(head.encode()).hexdigest()


@cache
def permutations(num: int) -> tuple[Words, Words]:
    """(factors, odd; terms) of the first `num` permutations of SEED, num up to SLOTS."""
    # numpy promises that the numbers of RandomState never change (NEP 19); datasketch draws the factors of 31 bits
    # first and then the terms of 32, each a word of this stream
    stream = np.random.RandomState(SEED).randint(0, 1 << 32, 2 * SLOTS, dtype=np.uint32)
    if hashlib.sha256(stream.astype("<u4").tobytes()).hexdigest() != STREAM_DIGEST:
        raise ValueError("numpy's RandomState gives other numbers than it promised; install numpy 1.26 or 2")
    return stream[:num] << np.uint32(1) | np.uint32(1), stream[num : 2 * num].copy()


def hashvalues(data: Bytes, offsets: Counts, num_slots: int) -> Hashes:
    """Slots (num, num_slots) of normalised texts, as `normalise.Normalised` lays them out; all zero for an empty one.

    Each slot is a hash value of datasketch, 32 bits in 64. A text of fewer than 5 words is one shingle.
    """
    factors, terms = permutations(num_slots)
    slots = np.zeros((len(offsets) - 1, num_slots), np.uint64)
    _hashvalues(data, offsets, factors, terms, slots)
    return slots


def low_bytes(slots: Hashes) -> Bytes:
    """8-bit slots: two texts agree in a share of about J + (1 - J) / 256.

    Not the low bytes: those of a permuted value know only the low byte of the shingle's hash, so that two shingles
    that agree in one permutation would in all.
    """
    return (slots * LETTER >> np.uint64(56)).astype(np.uint8)


@compiled
def _hashvalues(data: Bytes, offsets: Counts, factors: Words, terms: Words, slots: Hashes) -> None:
    least = np.empty(len(factors), np.uint32)
    starts = np.empty(SHINGLE, np.int64)  # of the last words, a ring
    spans = np.empty((LANES, 2), np.int64)  # shingles that wait until all lanes are full
    schedule, state = np.zeros(80 * LANES, np.uint32), np.zeros(85 * LANES, np.uint32)
    sums = np.empty(5 * LANES, np.uint32)
    for d in range(len(slots)):
        place, stop = offsets[d], offsets[d + 1]
        if place == stop:
            continue
        least[:] = LARGEST
        words = 0
        waiting = 0
        while place < stop:
            starts[words % SHINGLE] = place
            while place < stop and data[place] != SPACE:
                place += 1
            words += 1
            if words >= SHINGLE or place == stop:
                spans[waiting, 0] = starts[words % SHINGLE] if words >= SHINGLE else offsets[d]
                spans[waiting, 1] = place
                waiting += 1
            if waiting == LANES or place == stop:
                _sha1(data, spans, waiting, schedule, state, sums)
                for lane in range(waiting):
                    _permute(sums[lane], factors, terms, least)
                waiting = 0
            place += 1
        for i in range(len(least)):
            slots[d, i] = np.uint64(least[i])


@compiled
def _permute(head: np.uint32, factors: Words, terms: Words, least: Words) -> None:
    # head: the first word of a digest, of which datasketch reads the bytes as a little-endian number.
    value = np.uint32((head >> 24) | (head >> 8 & 0xFF00) | (head & 0xFF00) << 8 | head << 24)
    value = np.uint32((value ^ (value >> 16)) * MIX_1)
    value = np.uint32((value ^ (value >> 13)) * MIX_2)
    value = np.uint32(value ^ (value >> 16))
    for i in range(len(least)):
        least[i] = min(least[i], np.uint32(factors[i] * value + terms[i]))


@compiled
def _sha1(data: Bytes, spans: Counts, num: int, w: Words, state: Words, sums: Words) -> None:
    # SHA-1 of data[spans[i, 0]:spans[i, 1]], i < num <= LANES, as the five words sums[i::LANES]. The messages lie side
    # by side in w (80 rows of LANES words), state (85) and sums (5): one step of all of them is a few instructions
    # where arrays are flat, so that compilers see that no row touches the next.
    num_blocks = 0
    for i in range(num):
        num_blocks = max(num_blocks, _num_blocks(spans[i, 0], spans[i, 1]))
    for j in range(5 * LANES):
        sums[j] = START[j // LANES]
    for block in range(num_blocks):
        for i in range(num):
            _load(data, spans[i, 0], spans[i, 1], block, w, i)
        _rounds(w, state, sums)
        for i in range(num):
            if block < _num_blocks(spans[i, 0], spans[i, 1]):
                sums[i] += state[84 * LANES + i]
                sums[LANES + i] += state[83 * LANES + i]
                for row in range(2, 5):
                    sums[row * LANES + i] += _turn(state[(84 - row) * LANES + i], 30)


@compiled
def _num_blocks(start: int, stop: int) -> int:
    return (stop - start + 8) // BLOCK + 1  # a byte of padding and eight of length follow a message


@compiled
def _rounds(w: Words, s: Words, sums: Words) -> None:
    # Row i + 4 of s is `a` before round i; `b` was `a` a round ago, and `c`, `d`, `e` were before, turned by 30 bits.
    for j in range(LANES):
        s[4 * LANES + j], s[3 * LANES + j] = sums[j], sums[LANES + j]
        for row in range(2, 5):
            s[(4 - row) * LANES + j] = _turn(sums[row * LANES + j], 2)
    for j in range(16 * LANES, 80 * LANES):
        w[j] = _turn(w[j - 3 * LANES] ^ w[j - 8 * LANES] ^ w[j - 14 * LANES] ^ w[j - 16 * LANES], 1)
    one, two, three, four = QUARTERS
    for j in range(20 * LANES):
        b, c, d = s[j + 3 * LANES], _turn(s[j + 2 * LANES], 30), _turn(s[j + LANES], 30)
        s[j + 5 * LANES] = _next(s[j + 4 * LANES], (b & c) | (~b & d), s[j], one, w[j])
    for j in range(20 * LANES, 40 * LANES):
        b, c, d = s[j + 3 * LANES], _turn(s[j + 2 * LANES], 30), _turn(s[j + LANES], 30)
        s[j + 5 * LANES] = _next(s[j + 4 * LANES], b ^ c ^ d, s[j], two, w[j])
    for j in range(40 * LANES, 60 * LANES):
        b, c, d = s[j + 3 * LANES], _turn(s[j + 2 * LANES], 30), _turn(s[j + LANES], 30)
        s[j + 5 * LANES] = _next(s[j + 4 * LANES], (b & c) | (b & d) | (c & d), s[j], three, w[j])
    for j in range(60 * LANES, 80 * LANES):
        b, c, d = s[j + 3 * LANES], _turn(s[j + 2 * LANES], 30), _turn(s[j + LANES], 30)
        s[j + 5 * LANES] = _next(s[j + 4 * LANES], b ^ c ^ d, s[j], four, w[j])


@compiled
def _next(a: np.uint32, mixed: np.uint32, e: np.uint32, quarter: np.uint32, word: np.uint32) -> np.uint32:
    return np.uint32(_turn(a, 5) + mixed + _turn(e, 30) + quarter + word)


@compiled
def _load(data: Bytes, start: int, stop: int, block: int, w: Words, lane: int) -> None:
    # The 16 big-endian words of a block of a message, in its lane: it ends in a bit, zeros and its length in bits.
    first = start + block * BLOCK
    whole = min(16, max(0, stop - first) >> 2)
    for i in range(whole):
        at = first + 4 * i
        w[i * LANES + lane] = np.uint32(data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3])
    for i in range(whole, 16):
        w[i * LANES + lane] = 0
    if first <= stop < first + BLOCK:
        last = np.uint32(128 << 24)
        for at in range(stop - 1, first + 4 * whole - 1, -1):
            last = np.uint32(last >> 8 | data[at] << 24)
        w[whole * LANES + lane] = last
    if block + 1 == _num_blocks(start, stop):
        w[14 * LANES + lane] = np.uint32((stop - start) >> 29)
        w[15 * LANES + lane] = np.uint32((stop - start) << 3)


@compiled
def _turn(value: np.uint32, bits: int) -> np.uint32:
    return np.uint32(value << bits | value >> (32 - bits))
