"""Which figcaptions of a page go with the images that went.

The caption of an image is what the figcaptions of its figure say, joined with spaces. An image or several blocks in one
figcaption make several items of it, so it is runs of figcaptions, whatever stands between them, that are compared with
the captions, by a polynomial hash in 64 bits: sums over the page's text give that of every run. The next run of a size
never ends earlier, so a caption costs one pass over the figcaptions of its page, whatever they say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernel import compiled

Kernel = Callable[..., Any]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
STAYS, GOES = 1, 2
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: its powers never become 0
SPACE = np.uint64(32)


def scars(said: pa.Array, starts: Places, captions: pa.Array, owner: Places, stayed: Mask) -> Mask:
    """Which figcaptions go: runs that are the caption of an image that went, and have no part of one that stayed.

    said: texts of the figcaptions, page after page; starts: i64[P + 1], where those of each page start; captions: of
    the images that have one, in any order; owner: their pages; stayed: whether the image did.
    """
    marks = np.zeros(len(said), np.uint8)
    data, offsets = _letters(said)
    powers, before, after = (np.empty(len(said), np.uint64) for _ in range(3))
    summed(data, offsets, powers, before, after)
    for mark, chosen in ((STAYS, stayed), (GOES, ~stayed)):
        wanted = _letters(captions.filter(pa.array(chosen)))
        marked(offsets, powers, before, after, starts, *wanted, owner[chosen], mark, marks)
    gone: Mask = marks == GOES
    return gone


def _letters(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], Places]:
    """(UTF-8 of all texts, where each starts and the last ends) of a large_string array."""
    _, offsets, data = texts.buffers()
    letters = np.frombuffer(data or b"", np.uint8)
    letters.setflags(write=False)  # some buffers are so: the kernels are compiled for one type
    if not len(texts):
        return letters[:0], np.zeros(1, np.int64)
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return letters[ends[0] : ends[-1]], ends - ends[0]


def _summed(data, offsets, powers, before, after):  # type: ignore[no-untyped-def]
    """Of all texts joined with spaces: the power at which each starts, the sum before it, and the sum with it."""
    power, total = np.uint64(1), np.uint64(0)
    for i in range(len(offsets) - 1):
        powers[i], before[i] = power, total
        for k in range(offsets[i], offsets[i + 1]):
            total += np.uint64(data[k]) * power
            power *= BASE
        after[i] = total
        total += SPACE * power
        power *= BASE


def _marked(offsets, powers, before, after, starts, wanted, ends, owner, mark, marks):  # type: ignore[no-untyped-def]
    """Mark the runs that are a wanted text of their page; not for going those with an item that stays."""
    for w in range(len(owner)):
        size = ends[w + 1] - ends[w]
        power, total = np.uint64(1), np.uint64(0)
        for k in range(ends[w], ends[w + 1]):
            total += np.uint64(wanted[k]) * power
            power *= BASE
        first, last = starts[owner[w]], starts[owner[w] + 1]
        held = done = j = first - 1
        for i in range(first, last):
            # a run's size: its texts and a space between two
            while j + 1 < last and offsets[j + 1] - offsets[i] + j - i < size:
                j += 1
                if marks[j] == STAYS:
                    held = j
            if offsets[j + 1] - offsets[i] + j - i != size or after[j] - before[i] != total * powers[i]:
                continue
            if mark == GOES and held >= i:
                continue
            for k in range(max(i, done + 1), j + 1):
                marks[k] = mark
            done = j


summed: Kernel = compiled(_summed, allocates=False)
marked: Kernel = compiled(_marked, allocates=False)
