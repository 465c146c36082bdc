"""A blocked Bloom filter of 64-bit keys: says without reading a run that a key is not in it.

All bits of a key lie in one block of 512 bits, one cache line, so a look-up misses the cache once. At 10 bits a key
1.0 % of strangers are taken for members (test_index measures it); a member is never taken for a stranger.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.errors import StoreError
from pipelines.kernel import compiled

BITS = 10  # a key
PROBES = 6  # bits set a key, 9 bits of its hash each
WORDS = 8  # uint64 a block

Words = npt.NDArray[np.uint64]


def empty(num_keys: int) -> Words:
    """A filter for that many keys: whole blocks, one at least."""
    return np.zeros(max(1, -(-num_keys * BITS // 512)) * WORDS, np.uint64)


def load(body: bytes) -> Words:
    """The filter from its bytes; StoreError if they are not whole blocks."""
    if not body or len(body) % (8 * WORDS):
        raise StoreError(f"a filter of the index has {len(body)} bytes, no whole blocks; run `kosmos verify`")
    return np.frombuffer(body, "<u8").astype(np.uint64, copy=False)


def add(words: Words, keys: Words) -> None:
    """Put the keys into the filter."""
    _add(words, keys)


def maybe(words: Words, keys: Words) -> npt.NDArray[np.bool_]:
    """Which of the keys may be in the filter: all that are, and about one in a hundred of the others."""
    found = np.empty(len(keys), np.bool_)
    _maybe(words, keys, found)
    return found


def _mixed(key: np.uint64) -> np.uint64:
    # fmix64 of MurmurHash3: band keys are hashes, but the top bits of all keys of a partition are the same
    key ^= key >> np.uint64(33)
    key *= np.uint64(0xFF51AFD7ED558CCD)
    key ^= key >> np.uint64(33)
    key *= np.uint64(0xC4CEB9FE1A85EC53)
    return key ^ (key >> np.uint64(33))


_mixed = compiled(_mixed, allocates=False)


def _add(words: Words, keys: Words) -> None:
    num_blocks = np.uint64(len(words) // WORDS)
    for i in range(len(keys)):
        mixed = _mixed(keys[i])
        first = ((mixed >> np.uint64(32)) * num_blocks >> np.uint64(32)) * np.uint64(WORDS)
        bits = _mixed(mixed)
        for _ in range(PROBES):
            words[first + ((bits >> np.uint64(6)) & np.uint64(7))] |= np.uint64(1) << (bits & np.uint64(63))
            bits >>= np.uint64(9)


def _maybe(words: Words, keys: Words, found: npt.NDArray[np.bool_]) -> None:
    num_blocks = np.uint64(len(words) // WORDS)
    for i in range(len(keys)):
        mixed = _mixed(keys[i])
        first = ((mixed >> np.uint64(32)) * num_blocks >> np.uint64(32)) * np.uint64(WORDS)
        bits = _mixed(mixed)
        missing = np.uint64(0)
        for _ in range(PROBES):
            word = words[first + ((bits >> np.uint64(6)) & np.uint64(7))]
            missing |= ~(word >> (bits & np.uint64(63))) & np.uint64(1)
            bits >>= np.uint64(9)
        found[i] = missing == 0


_add = compiled(_add, allocates=False)
_maybe = compiled(_maybe, allocates=False)
