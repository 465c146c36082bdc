"""The text of the open block: white space folded as `str.split` would, entities read, preformatted lines trimmed.

Compiled, on one buffer a page. A plain word is copied in a loop of its own: four fifths of all bytes are in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.kernel import compiled

Kernel = Callable[..., Any]

# State of a walk: the open block, then counts.
AT, BEGIN, PIECES, SOLID, PENDING, NEWLINE, LINKED, NUM_LINKS, ENTRIES, ROWS, CELLS, TABLES = range(12)
SPANS, IMAGES, METAS, LAZY_AT, TOO_MANY, FALLBACK_AT = range(12, 18)


def _space(data, i, end):  # type: ignore[no-untyped-def]
    """How many bytes the white space takes that stands at i; 0 if there is none. As `str.split` has it."""
    a = data[i]
    if a == 32 or 9 <= a <= 13 or 28 <= a <= 31:
        return 1
    if a < 0xC2:
        return 0
    b = data[i + 1] if i + 1 < end else 0
    if a == 0xC2:
        return 2 if b == 0x85 or b == 0xA0 else 0
    c = data[i + 2] if i + 2 < end else 0
    if a == 0xE2 and b == 0x80:
        return 3 if 0x80 <= c <= 0x8A or c == 0xA8 or c == 0xA9 or c == 0xAF else 0
    if (a == 0xE2 and b == 0x81 and c == 0x9F) or (a == 0xE1 and b == 0x9A and c == 0x80):
        return 3
    return 3 if a == 0xE3 and b == 0x80 and c == 0x80 else 0


def _append(data, start, end, raw, escaped, out, now):  # type: ignore[no-untyped-def]
    """Add text to the open block; raw: white space as it is, else one space. Characters, 0 if it shows nothing."""
    at, begin, pending = now[AT], now[BEGIN], now[PENDING]
    solid = False
    chars = 0
    i = start
    while i < end:
        a = data[i]
        size = 1
        wide = 0
        if a == 38 and escaped:  # & opens one of five entities
            b = data[i + 1]
            if b == 97:
                size = 5
            elif b == 108 or b == 103:
                a = np.uint8(60 if b == 108 else 62)
                size = 4
            elif b == 113:
                a = np.uint8(34)
                size = 6
            else:
                wide = size = 6  # a space that does not break
        elif a <= 32 or a >= 0xC2:
            wide = space(data, i, end)
            size = max(wide, 1)
        chars += size > 1 or (a & 0xC0) != 0x80
        if not wide:
            solid = True
            if pending and at > begin:
                out[at] = 32
                at += 1
            pending = 0
            out[at] = a
            at += 1
            i += size
            while i < end and 32 < data[i] < 0x80 and data[i] != 38:  # the rest of a plain word
                out[at] = data[i]
                at += 1
                i += 1
                chars += 1
            continue
        elif not raw:
            pending = 1
        elif wide == 6:
            out[at] = 0xC2
            out[at + 1] = 0xA0
            at += 2
        else:
            for j in range(wide):
                out[at] = data[i + j]
                at += 1
        i += size
    now[AT] = at
    now[PENDING] = pending
    now[PIECES] += 1
    now[NEWLINE] = end - start == 1 and data[start] == 10
    now[SOLID] |= solid
    return chars if solid else 0


def _blank(byte, raw, out, now):  # type: ignore[no-untyped-def]
    """Add a space or a line end to the open block."""
    now[PIECES] += 1
    now[NEWLINE] = byte == 10
    if raw:
        out[now[AT]] = byte
        now[AT] += 1
    else:
        now[PENDING] = 1


def _preformatted(out, begin, end):  # type: ignore[no-untyped-def]
    """Text as it is, in place, but for white space at the end of lines and empty lines around; where it ends."""
    at = keep = begin
    i = begin
    while i < end:
        a = out[i]
        if a == 13 or a == 10:
            i += 1 + (a == 13 and i + 1 < end and out[i + 1] == 10)
            at = keep
            if at > begin:
                out[at] = 10
                at += 1
                keep = at
            continue
        wide = space(out, i, end) if a <= 32 or a >= 0xC2 else 0
        size = max(wide, 1)
        for j in range(size):
            out[at + j] = out[i + j]
        at += size
        if not wide:
            keep = at
        i += size
    while keep > begin and out[keep - 1] == 10:
        keep -= 1
    return keep


def _letters(out, begin, end, table):  # type: ignore[no-untyped-def]
    """How many characters match \\w."""
    found = 0
    i = begin
    while i < end:
        a = np.int64(out[i])
        if a < 0x80:
            i += 1
            found += (table[a] & 64) != 0 or a == 95
            continue
        size = 2 if a < 0xE0 else 3 if a < 0xF0 else 4
        a &= 0x7F >> size
        for j in range(1, size):
            a = (a << 6) | np.int64(out[i + j] & 0x3F)
        found += (table[a] & 64) != 0
        i += size
    return found


space: Kernel = compiled(_space, allocates=False)
append: Kernel = compiled(_append, allocates=False)
blank: Kernel = compiled(_blank, allocates=False)
preformatted: Kernel = compiled(_preformatted, allocates=False)
letters: Kernel = compiled(_letters, allocates=False)
