"""Perceptual hash: the signs of the 63 lowest frequencies of a 32 x 32 grey picture, against their median.

Cosines are 13-bit integers and the transform is integer arithmetic: near ties fall the same way on every machine, which
neither OpenCV's transform nor a BLAS promises. The bit of the mean is always set, so no hash is 0, "not decoded".

Half of the bits are set, so hashes differ in an even number of them unless a picture is flat. Coded or resized anew,
.95-1.00 of photographs differ in at most 2 bits and .98-1.00 in 6; cropped by 2 %, .65 and .95; by 5 %, .12 and .55;
the mirror is another picture. Of 22 million pairs of pieces of different photographs 12 differ in at most 6 bits (8 of
them chequers), 20 in 8, 65 in 10; screenshots and plots of one book a thousand times as often. Measured by
tests.benchmarks.phash_recall.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIDE = 32
KEPT = 8  # of the 32 x 32 frequencies, the 8 x 8 lowest
_SHIFT = 13


def _cosines() -> npt.NDArray[np.int64]:
    """The first KEPT rows of the DCT-II matrix of order SIDE, scaled by 2^13: [KEPT, SIDE].

    Rows are symmetric to the bit, so that all but the mean of a flat picture is exactly 0.
    """
    angles = np.outer(np.arange(KEPT), 2 * np.arange(SIDE) + 1) * (np.pi / (2 * SIDE))
    cosines: npt.NDArray[np.int64] = np.rint(np.cos(angles) * (1 << _SHIFT)).astype(np.int64)
    return cosines


_COSINES = _cosines()
_MEDIAN = (KEPT * KEPT - 1) // 2


def phash(grey: npt.NDArray[np.uint8]) -> int:
    """Hash a grey picture [32, 32]: bit 8 v + u is set where frequency (u, v) is over the median of all but the mean.

    Bit 0, the mean's, is always set.
    """
    frequencies = (_COSINES @ grey.astype(np.int64) @ _COSINES.T).reshape(-1)
    median = np.partition(frequencies[1:], _MEDIAN)[_MEDIAN]
    bits = frequencies > median
    bits[0] = True
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def hamming(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """In how many bits hashes differ; arrays broadcast."""
    return np.bitwise_count(np.bitwise_xor(left, right))
