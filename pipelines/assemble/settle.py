"""Which images of a document stay: not those nearly the same as one before them, and at most so many, as they read.

A compiled loop over all documents of a block, a hundred million candidates a CPU second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.kernel import compiled
from pipelines.reasons import Reason

FIRST, SPREAD = "first", "spread"
# Half of the bits differ between unrelated pictures, with a deviation of 4.
MOST_NEAR = 16
_HERE, _SURPLUS = int(Reason.IMAGE_REPEATED_HERE), int(Reason.IMAGE_SURPLUS)
_ONE = np.uint64(1)


def _apart(left: Any, right: Any, most: int) -> int:
    """In how many bits two hashes differ, counted up to most + 1."""
    differing, num = left ^ right, 0
    while differing and num <= most:
        differing &= differing - _ONE
        num += 1
    return num


_apart = compiled(_apart, allocates=False)


def _settle(
    first: npt.NDArray[np.bool_],
    bodies: npt.NDArray[np.int32],
    looks: npt.NDArray[np.uint64],
    near: int,
    most: int,
    spread: bool,
    reasons: npt.NDArray[np.uint16],
    values: npt.NDArray[np.float32],
) -> None:
    start, num = 0, len(first)
    while start < num:
        end = start + 1
        while end < num and not first[end]:
            end += 1
        left = 0
        for place in range(start, end):
            if reasons[place]:
                continue
            nearest = near + 1
            for before in range(start, place):
                if reasons[before]:
                    continue
                if bodies[place] == bodies[before]:
                    nearest = min(nearest, 0)
                    reasons[place] = _HERE
                # a hash of 0 says that there is none
                elif near >= 0 and looks[place] and looks[before]:
                    nearest = min(nearest, _apart(looks[place], looks[before], near))
            if reasons[place] or nearest <= near:
                reasons[place], values[place] = _HERE, nearest
            else:
                left += 1
        if left > most:
            seen = taken = 0
            for place in range(start, end):
                if reasons[place]:
                    continue
                # the i-th of those taken: evenly spaced, the last of all the last
                wanted = taken * (left - 1) // (most - 1) if spread and most > 1 else taken
                if taken < most and seen == wanted:
                    taken += 1
                else:
                    reasons[place], values[place] = _SURPLUS, 0
                seen += 1
        start = end


_kernel = compiled(_settle, allocates=False)


def settle(
    first: npt.NDArray[np.bool_],
    bodies: npt.NDArray[np.int32],
    looks: npt.NDArray[np.uint64],
    near: int,
    most: int,
    spread: bool,
    reasons: npt.NDArray[np.uint16],
    values: npt.NDArray[np.float32],
) -> None:
    """Write reason and value of each candidate [N] that goes, document by document in the order of reading.

    first: where a document starts, and row 0; bodies: equal where the bytes are; looks: perceptual hashes. Of two whose
    bytes are the same, or whose hashes differ in at most `near` bits (-1: none are compared), the later goes, with the
    bits as its value, 0 for the same bytes; what went is no measure for what comes after it. most: images that a
    document keeps, one or more: the first, or with `spread` evenly spaced ones with the first and the last. Candidates
    with a reason already are left as they are.
    """
    _kernel(first, bodies, looks, near, most, spread, reasons, values)
