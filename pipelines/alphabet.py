"""What every code point is to the text rules (space, letter, digit, mark ...), from Python's Unicode table."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np

# MARK: punctuation and symbols; WORD: what \w matches, but for "_"
SPACE, LETTER, DIGIT, MARK, EMOJI, BULLET, WORD = 1, 2, 4, 8, 16, 32, 64
BULLETS = (
    "\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013\u2043*-\u00b7\u25cf\u2756"  # GO, and plain marks
)


@cache
def classes() -> np.ndarray[Any, Any]:
    """u8[0x110000]: the class of every code point, from Python's Unicode table."""
    table = np.zeros(0x110000, np.uint8)
    kinds = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": MARK, "S": MARK, "Z": SPACE}
    for code in range(0x110000):
        if 0x20000 <= code < 0xE0000:
            table[code] = LETTER if code < 0x323B0 else 0
            continue
        category = unicodedata.category(chr(code))
        table[code] = kinds.get(category[0], 0)
        if category == "So" and (0x2600 <= code < 0x27C0 or 0x1F000 <= code < 0x1FB00):
            table[code] |= EMOJI
    for code in (9, 10, 11, 12, 13, 28, 29, 30, 31, 0x85):
        table[code] = SPACE
    for code in range(0x110000):
        if chr(code).isalnum():
            table[code] |= WORD
    for bullet in BULLETS:
        table[ord(bullet)] |= BULLET
    return table


@cache
def lower_codes() -> np.ndarray[Any, Any]:
    """u32[0x110000]: every code point in lower case; 0 for what `str.lower` makes longer or reads in its context."""
    table = np.arange(0x110000, dtype=np.uint32)
    for code in range(0x20000):  # no letter beyond has a case
        lower = chr(code).lower()
        table[code] = ord(lower) if len(lower) == 1 else 0
    table[[ord(sigma) for sigma in "\u03a3\u03c3\u03c2"]] = 0  # sigma looks at its neighbours
    return table
