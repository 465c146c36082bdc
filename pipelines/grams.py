"""What occurs more than once in a text, by the hashes of its words or of runs of ten characters.

Counts are exact but for equal hashes of 64 bits. Most of what is asked about occurs once, so a filter of 16 bits an
item comes first, and only what it cannot clear is counted in a table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.kernel import compiled

SEED, FACTOR = 0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD
Kernel = Callable[..., Any]


def _hash(text, start, end):  # type: ignore[no-untyped-def]
    """u32 code points -> u64, never 0."""
    value = np.uint64(SEED)
    i = start
    while i + 1 < end:
        value = (value ^ (np.uint64(text[i]) | np.uint64(text[i + 1]) << np.uint64(32))) * np.uint64(FACTOR)
        value ^= value >> np.uint64(29)
        i += 2
    if i < end:
        value = (value ^ (np.uint64(text[i]) | np.uint64(1) << np.uint64(63))) * np.uint64(FACTOR)
        value ^= value >> np.uint64(29)
    return value | np.uint64(1)


def _room(num):  # type: ignore[no-untyped-def]
    size = 16
    while size < 2 * num:
        size *= 2
    return size


def _slot(keys, key):  # type: ignore[no-untyped-def]
    """Where a key is or would be; keys: power of two, 0 = free."""
    mask = np.uint64(len(keys) - 1)
    place = (key ^ (key >> np.uint64(32))) & mask
    while (keys[place] != 0) & (keys[place] != key):  # one branch, for which of the two ends it is not foreseen
        place = (place + np.uint64(1)) & mask
    return place


def _twice(hashes, num, maybe):  # type: ignore[no-untyped-def]
    """maybe[i]: whether hashes[i] may occur twice among the first num; False is certain. Returns how many may."""
    bits = 6
    while 1 << bits < 16 * num:
        bits += 1
    shift = np.uint64(64 - bits)
    low = np.uint64(63)
    once, again = np.zeros(1 << (bits - 6), np.uint64), np.zeros(1 << (bits - 6), np.uint64)
    for i in range(num):
        place = hashes[i] >> shift
        bit = np.uint64(1) << (place & low)
        word = place >> np.uint64(6)
        again[word] |= once[word] & bit
        once[word] |= bit
    total = 0
    for i in range(num):
        place = hashes[i] >> shift
        maybe[i] = (again[place >> np.uint64(6)] >> (place & low)) & np.uint64(1)
        total += maybe[i]
    return total


def _character_repetition(text, bound):  # type: ignore[no-untyped-def]
    """OB, ROOTS: of the counts of 10-grams, the share of the sqrt(n) largest that are over 1.

    0 where it is certain not to be over the bound: most blocks repeat so little that nothing needs counting.
    """
    num = len(text) - 9
    if num < 2:
        return 0.0
    bits = 6
    while 1 << bits < 16 * num:
        bits += 1
    shift = np.uint64(64 - bits)
    low = np.uint64(63)
    once, again = np.zeros(1 << (bits - 6), np.uint64), np.zeros(1 << (bits - 6), np.uint64)
    hashes = np.empty(num, np.uint64)
    factor = np.uint64(0x100000001B3)
    power = np.uint64(1)
    for _ in range(10):
        power *= factor
    rolling = np.uint64(0)
    for i in range(9):
        rolling = rolling * factor + np.uint64(text[i]) + np.uint64(1)
    left = np.uint64(0)
    hits = np.uint64(0)
    for i in range(num):
        rolling = rolling * factor + np.uint64(text[i + 9]) + np.uint64(1) - power * left
        left = np.uint64(text[i]) + np.uint64(1)
        key = (rolling * np.uint64(FACTOR)) | np.uint64(1)
        hashes[i] = key
        place = key >> shift
        word = place >> np.uint64(6)
        seen = once[word]
        bit = np.uint64(1) << (place & low)
        hits += (seen >> (place & low)) & np.uint64(1)
        again[word] |= seen & bit
        once[word] = seen | bit
    if 2 * np.int64(hits) <= bound * num:  # each hit makes two of them at most that may occur twice
        return 0.0
    total = np.int64(0)
    for i in range(num):  # those that may occur twice move to the front
        key = hashes[i]
        hashes[total] = key
        place = key >> shift
        total += np.int64((again[place >> np.uint64(6)] >> (place & low)) & np.uint64(1))
    if total <= bound * num:
        return 0.0
    keys = np.zeros(room(total), np.uint64)
    counts = np.zeros(len(keys), np.int32)
    distinct = num - total
    most = 0
    for i in range(total):
        place = find(keys, hashes[i])
        distinct += keys[place] == 0
        keys[place] = hashes[i]
        counts[place] += 1
        most = max(most, int(counts[place]))
    if most < 2:
        return 0.0
    histogram = np.zeros(most + 1, np.int64)
    several = 0
    for times in counts:
        if times > 1:
            histogram[times] += 1
            several += 1
    rest = min(np.int64(np.sqrt(distinct)), several)
    repeated = 0
    for count in range(most, 1, -1):
        taken = min(rest, histogram[count])
        repeated += taken * count
        rest -= taken
    return repeated / num


# Bound in the order in which they call each other: numba resolves these names when it compiles.
room: Kernel = compiled(_room, allocates=False)
find: Kernel = compiled(_slot, allocates=False)
hashed: Kernel = compiled(_hash, allocates=False)
twice: Kernel = compiled(_twice)
character_repetition: Kernel = compiled(_character_repetition)
