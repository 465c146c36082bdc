"""What a short block says: whether its words, or its first words, are a phrase of the chrome of pages.

`phrases.txt` holds some 2,000 of them in fourteen languages. A block of up to 160 bytes is hashed once, letter by
letter, folded to lower case, all that is no letter one space; each word that ends costs one look at a table.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np

from pipelines import tags as t
from pipelines.kernel import compiled
from pipelines.tags import Array

Kernel = Callable[..., Any]

# What a block says, as bits: it is boilerplate wherever it stands; it is if it links; what follows is about other
# pages; what follows is by readers; it is at the foot of a page; it says there whose the page is; links that follow
# are content; when and under what a post was filed.
GONE, LINE, SECTION, REMARKS, TAIL, RIGHTS, KEPT, POSTED = (1 << n for n in range(8))
# And how it looks: it ends as a sentence does; it has no letter; it counts lines: 1, 2, 3 and so on; a phrase is
# a label before a colon.
ENDS, NO_LETTER, COUNTS, COLON = (1 << n for n in range(8, 12))
NAMES = {
    "gone": GONE,
    "line": LINE,
    "section": SECTION,
    "remarks": REMARKS,
    "tail": TAIL,
    "rights": RIGHTS,
    "kept": KEPT,
    "posted": POSTED,
}
MEANING = 255
BEGINNING = 16  # by so many bits is the meaning of a phrase moved that may begin a block
PHRASE_BYTES = 96  # of a block that may be a phrase; longer ones are prose in any script
START_BYTES = 64  # of a longer block, which may begin with one
SLOTS = 1 << 14


def _said(out, begin, end, keys, meanings):  # type: ignore[no-untyped-def]
    """What the block begin..end says."""
    found = 0
    last = end - 1
    while last > begin and (out[last] == 34 or out[last] == 39 or out[last] == 41 or out[last] == 93):  # "')]
        last -= 1
    a = out[last]
    if a == 46 or a == 33 or a == 63:  # .!?
        found = ENDS
    elif a >= 0x80 and last - 2 >= begin:
        b, c = out[last - 1], out[last - 2]
        stops = c == 0xE3 and b == 0x80 and (a == 0x82 or a == 0x8D or a == 0x8F)  # the Chinese one, closing quotes
        stops |= c == 0xE2 and b == 0x80 and (a == 0xA6 or a == 0x9D or a == 0x99 or a == 0x9C)  # ellipsis, quotes
        stops |= c == 0xEF and b == 0xBC and (a == 0x81 or a == 0x9F)  # wide ones
        found = ENDS if stops else 0
    counts, number = np.int64(0), np.int64(0)
    letters = False
    stop = end if end - begin <= PHRASE_BYTES else begin + START_BYTES
    name = np.uint64(t.FNV)
    apart = True  # from the word before
    i = begin
    digits = False
    while i < stop or (not letters and i < end):
        a = out[i]
        size = 1
        if a < 0x80:
            if 48 <= a <= 57:
                number = (number * 10 if digits else np.int64(0)) + np.int64(a) - 48
                digits = True
                if i + 1 == end or not 48 <= out[i + 1] <= 57:
                    counts = counts + 1 if number == counts + 1 else np.int64(-10000)
            else:
                digits = False
            letter = 65 <= (a & 0xDF) <= 90
            if a == 58 and not apart and meant(name, keys, meanings) & (LINE | (LINE << BEGINNING)):
                found |= COLON
        else:
            digits = False
            size = 2 if a < 0xE0 else 3 if a < 0xF0 else 4
            b = out[i + 1]
            letter = True
            if a == 0xC2:
                letter = b == 0xA9 or b == 0xAA or b == 0xB5 or b == 0xBA
            elif a == 0xE2 and b == 0x80 and out[i + 2] == 0x8C:  # joins no letters
                i += size
                continue
            else:  # punctuation and symbols, that of CJK, wide signs, the Arabic comma
                if a == 0xEF and b == 0xBC and out[i + 2] == 0x9A and found & LINE:
                    found |= COLON
                letter = not (
                    (a == 0xE2 and b < 0xB0)
                    or (a == 0xE3 and b == 0x80)
                    or (a == 0xEF and (b == 0xBC or b == 0xBD))
                    or (a == 0xD8 and b == 0x8C)
                )
        if not letter:
            if not apart:
                meaning = meant(name, keys, meanings)
                found |= (meaning >> BEGINNING) & MEANING
                apart = True
            i += size
            continue
        letters = True
        if apart:
            if name != np.uint64(t.FNV):
                name = (name ^ np.uint64(32)) * np.uint64(t.PRIME)
            apart = False
        for j in range(size):
            byte = out[i + j]
            if size == 1:
                byte |= 32
            elif size == 2 and j == 1:
                if (a == 0xC3 and 0x80 <= byte <= 0x9E) or (a == 0xD0 and 0x90 <= byte <= 0x9F):
                    byte += 32
                elif a == 0xD0 and 0xA0 <= byte <= 0xAF:
                    byte -= 32
            elif size == 2 and a == 0xD0 and 0xA0 <= out[i + 1] <= 0xAF:
                byte = np.uint8(0xD1)
            name = (name ^ np.uint64(byte)) * np.uint64(t.PRIME)
        i += size
        while i < stop and 97 <= out[i] | 32 <= 122:  # the rest of a plain word
            name = (name ^ np.uint64(out[i] | 32)) * np.uint64(t.PRIME)
            i += 1
        if size == 3:  # most scripts of three bytes write no spaces
            found |= meant(name, keys, meanings) >> BEGINNING
    if not letters:
        return found | NO_LETTER | (COUNTS if counts >= 2 else 0)
    if stop == end:
        meaning = meant(name, keys, meanings)
        found |= (meaning | (meaning >> BEGINNING)) & MEANING
    return found


def _meant(name, keys, meanings):  # type: ignore[no-untyped-def]
    """The meaning of the phrase of this hash, 0 if there is none."""
    slot = np.int64(name & np.uint64(SLOTS - 1))
    while keys[slot] != 0:
        if keys[slot] == name:
            return meanings[slot]
        slot = (slot + 1) & (SLOTS - 1)
    return 0


def _hash(phrase: str) -> int:
    """The hash of a phrase as `said` reads it."""
    raw = bytearray()
    for part in phrase.split():
        raw += (b" " if raw else b"") + part.encode()
    value = t.FNV
    for byte in raw:
        value = ((value ^ byte) * t.PRIME) % (1 << 64)
    return value


def _table() -> tuple[Array, Array]:
    """Open addressing from the hash of a phrase to its meaning."""
    found: dict[int, int] = {}
    meaning = 0
    for line in resources.files("pipelines").joinpath("phrases.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            meaning = NAMES[line[1 : line.index("]")]]
        elif line and not line.startswith("#"):
            for phrase in line.split("|"):
                begins = phrase.rstrip().endswith("*")
                plain = " ".join(phrase.replace("*", " ").split()).lower()
                # Scripts that `said` does not fold, as in "Łódź", are here in their usual spellings.
                for spelled in {plain, plain[0].upper() + plain[1:] if ord(plain[0]) > 0xFF else plain}:
                    name = _hash(spelled)
                    found[name] = found.get(name, 0) | (meaning << BEGINNING if begins else meaning)
    keys, meanings = np.zeros(SLOTS, np.uint64), np.zeros(SLOTS, np.int32)
    for name, meaning in found.items():
        slot = name & (SLOTS - 1)
        while keys[slot]:
            slot = (slot + 1) & (SLOTS - 1)
        keys[slot], meanings[slot] = name, meaning
    return keys, meanings


PHRASES, MEANINGS = _table()
meant: Kernel = compiled(_meant, allocates=False)
said: Kernel = compiled(_said, allocates=False)
