"""Priority in 32 bits: which pages of a large bucket all others are compared with.

If the first page of a bucket by priority were not among its leaders, it would take them all with it, and every other
page would be compared with pages that go: of 400 copies that differ in a word 104 stayed when the rank was quality and
length in 16 bits, and one stays by these. The bits of the id tell copies of one length apart: of a million, thirty are
alike in all bits, half as many as lead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.uint32]
QUALITY_BITS = 3
WORDS_BITS = 14
ID_BITS = 15


def ranks(quality: npt.NDArray[np.uint16], words: npt.NDArray[np.uint32], ids: npt.NDArray[np.uint64]) -> Ranks:
    """Smaller is better: quality that lacks to 7, words that lack to 16,383, the first 15 bits of the id.

    ids: first 8 bytes of each doc_id, big-endian. Of two pages the one that goes first by (-quality, -words, doc_id)
    never has the larger rank.
    """
    most_quality, most_words = np.uint32((1 << QUALITY_BITS) - 1), np.uint32((1 << WORDS_BITS) - 1)
    lacking = most_quality - np.minimum(quality.astype(np.uint32), most_quality)
    short = most_words - np.minimum(words.astype(np.uint32), most_words)
    # beyond what is told, what comes after it would contradict it
    short[quality > most_quality] = 0
    told = (quality <= most_quality) & (words <= most_words)
    first = np.where(told, ids >> np.uint64(64 - ID_BITS), np.uint64(0)).astype(np.uint32)
    found: Ranks = lacking << np.uint32(WORDS_BITS + ID_BITS) | short << np.uint32(ID_BITS) | first
    return found
