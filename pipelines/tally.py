"""The counts behind the text rules, over code points: one pass over words, a few over n-grams, no Python object a word.

Text is lower case, as an array of code points; blocks are lines. All arithmetic is on integers until the last division,
so the same text has the same scores on every machine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from pipelines.kernel import compiled

SPACE, LETTER, DIGIT, MARK, EMOJI, BULLET = 1, 2, 4, 8, 16, 32  # MARK: punctuation and symbols
BULLETS = (
    "\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013\u2043*-\u00b7\u25cf\u2756"  # GO, and plain marks
)
SEED, FACTOR = 0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD
STOP, FLAGGED, SPAM, GOPHER = 1, 2, 4, 8
NAMES = (
    "words", "mean_word_length", "character_repetition", "word_repetition", "special_characters", "stopwords",
    "gopher_stopwords", "flagged_words", "punctuation", "spam_words", "symbols", "bullets", "ellipsis",
    "alphabetic_words", "duplicate_lines", "top_2gram", "top_3gram", "top_4gram", "duplicate_5gram",
    "duplicate_10gram", "gibberish",
)  # fmt: skip
Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]


@cache
def classes() -> Array:
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
    for bullet in BULLETS:
        table[ord(bullet)] |= BULLET
    return table


def codes(text: str) -> Array:
    """The code points of a text, u32."""
    return np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)


def lookup(lists: Iterable[tuple[Iterable[str], int]]) -> tuple[Array, Array]:
    """Open addressing from word hash to flags: a word may stand in several lists."""
    flags: dict[int, int] = {}
    for words, flag in lists:
        for word in words:
            points = codes(word)
            key = int(hashed(points, 0, len(points)))
            flags[key] = flags.get(key, 0) | flag
    size = 1 << max(4, (4 * len(flags)).bit_length())
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.uint8)
    for key, flag in sorted(flags.items()):
        slot = key & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], values[slot] = key, flag
    return keys, values


def _hash(text, start, end):  # type: ignore[no-untyped-def]
    """u32 code points -> u64, never 0."""
    value = np.uint64(SEED)
    for i in range(start, end):
        value = (value ^ np.uint64(text[i])) * np.uint64(FACTOR)
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
    while keys[place] != 0 and keys[place] != key:
        place = (place + np.uint64(1)) & mask
    return place


def _character_repetition(text):  # type: ignore[no-untyped-def]
    """OB, ROOTS: of the counts of 10-grams, the share of the sqrt(n) largest that are over 1."""
    num = len(text) - 9
    if num < 2:
        return 0.0
    keys = np.zeros(room(num), np.uint64)
    counts = np.zeros(len(keys), np.int32)
    factor = np.uint64(0x100000001B3)
    power = np.uint64(1)
    for _ in range(10):
        power *= factor
    rolling = np.uint64(0)
    distinct = 0
    most = 0
    for i in range(len(text)):
        rolling = rolling * factor + np.uint64(text[i]) + np.uint64(1)
        if i >= 10:
            rolling -= power * (np.uint64(text[i - 10]) + np.uint64(1))
        if i >= 9:
            key = (rolling * np.uint64(FACTOR)) | np.uint64(1)
            place = find(keys, key)
            if keys[place] == 0:
                keys[place] = key
                distinct += 1
            counts[place] += 1
            if counts[place] > most:
                most = int(counts[place])
    if most < 2:
        return 0.0
    histogram = np.zeros(most + 1, np.int64)
    for place in range(len(counts)):
        histogram[counts[place]] += 1
    left = min(np.int64(np.sqrt(distinct)), distinct - histogram[1])
    total = 0
    for count in range(most, 1, -1):
        taken = min(left, histogram[count])
        total += taken * count
        left -= taken
    return total / num


def _repeated(hashes, lengths, n, chars):  # type: ignore[no-untyped-def]
    """(share of n-grams that occur twice or more, characters in the most frequent n-gram / chars)."""
    num = len(hashes) - n + 1
    if num < 2:
        return 0.0, 0.0
    keys = np.zeros(room(num), np.uint64)
    counts = np.zeros(len(keys), np.int32)
    sizes = np.zeros(len(keys), np.int32)
    for i in range(num):
        key = np.uint64(SEED)
        size = 0
        for j in range(i, i + n):
            key = (key ^ hashes[j]) * np.uint64(FACTOR)
            key ^= key >> np.uint64(31)
            size += lengths[j]
        key |= np.uint64(1)
        place = find(keys, key)
        keys[place] = key
        counts[place] += 1
        sizes[place] = size
    repeated = 0
    most = 1
    longest = 0
    for place in range(len(keys)):
        if counts[place] > 1:
            repeated += counts[place]
            if counts[place] > most or (counts[place] == most and sizes[place] > longest):
                most = counts[place]
                longest = sizes[place]
    return repeated / num, min(1.0, most * longest / chars)


def _duplicate(hashes, lengths, n, chars):  # type: ignore[no-untyped-def]
    """GO, FW: share of characters in word n-grams that occurred before, none counted twice."""
    num = len(hashes) - n + 1
    if num < 2:
        return 0.0
    keys = np.zeros(room(num), np.uint64)
    total = 0
    i = 0
    while i < num:
        key = np.uint64(SEED)
        size = 0
        for j in range(i, i + n):
            key = (key ^ hashes[j]) * np.uint64(FACTOR)
            key ^= key >> np.uint64(31)
            size += lengths[j]
        key |= np.uint64(1)
        place = find(keys, key)
        if keys[place] == 0:
            keys[place] = key
            i += 1
        else:
            total += size
            i += n
    return total / chars


def _duplicate_lines(text, table):  # type: ignore[no-untyped-def]
    """(share of lines that occurred before, share that start with a bullet, share that end with an ellipsis)."""
    size = len(text)
    lines = 1
    for i in range(size):
        lines += text[i] == 10
    keys = np.zeros(room(lines), np.uint64)
    lines = 0
    again = 0
    bullets = 0
    ellipses = 0
    start = 0
    while start < size:
        end = start
        while end < size and text[end] != 10:
            end += 1
        if end > start:
            lines += 1
            key = hashed(text, start, end)
            place = find(keys, key)
            if keys[place] == 0:
                keys[place] = key
            else:
                again += 1
            bullets += (table[text[start]] & 32) != 0
            dots = end - start >= 3 and text[end - 1] == 46 and text[end - 2] == 46 and text[end - 3] == 46
            ellipses += dots or text[end - 1] == 0x2026
        start = end + 1
    lines = max(lines, 1)
    return again / lines, bullets / lines, ellipses / lines


def _scores(text, table, keys, values, whole, out):  # type: ignore[no-untyped-def]
    """text u32[N] -> out f64[21], in the order of NAMES; not whole: without what is asked of pages only."""
    size = len(text)
    hashes = np.empty(size // 2 + 1, np.uint64)
    lengths = np.empty(size // 2 + 1, np.int32)
    words = chars = tokens = special = stop = flagged = spam = ends = alphabetic = symbols = gibberish = 0
    gopher = np.zeros(8, np.uint64)
    num_gopher = 0
    mask = np.uint64(len(keys) - 1)
    i = 0
    while i < size:
        if table[text[i]] & 1:
            i += 1
            continue
        start = i
        letter = False
        emoji = False
        while i < size and not table[text[i]] & 1:
            kind = table[text[i]]
            letter |= (kind & 2) != 0
            emoji |= (kind & 16) != 0
            special += (kind & 6) == 0
            if text[i] == 35 or text[i] == 0x2026:
                symbols += 1
            elif text[i] == 46 and i + 2 < size and text[i + 1] == 46 and text[i + 2] == 46:
                symbols += i == start or text[i - 1] != 46  # once an ellipsis
            i += 1
        tokens += 1
        alphabetic += letter
        ends += (table[text[i - 1]] & 8) != 0 and letter
        first = start
        last = i
        while first < last and table[text[first]] & 6 == 0:
            first += 1
        while last > first and table[text[last - 1]] & 6 == 0:
            last -= 1
        address = False
        if last - first > 4 and text[first] == 119 and text[first + 1] == 119 and text[first + 2] == 119:
            address = text[first + 3] == 46
        elif last - first > 8 and text[first] == 104 and text[first + 1] == 116 and text[first + 2] == 116:
            address = text[first + 3] == 112 and (text[first + 4] == 58 or text[first + 5] == 58)
        if emoji or address or (text[start] == 35 and letter and i - start > 1):
            gibberish += 1
        if last == first:
            continue
        key = hashed(text, first, last)
        hashes[words] = key
        lengths[words] = last - first
        words += 1
        chars += last - first
        place = key & mask
        while keys[place] != 0 and keys[place] != key:
            place = (place + np.uint64(1)) & mask
        if keys[place] == key:
            flags = values[place]
            stop += (flags & 1) != 0
            flagged += (flags & 2) != 0
            spam += (flags & 4) != 0
            if flags & 8:
                known = False
                for j in range(num_gopher):
                    known |= gopher[j] == key
                if not known and num_gopher < 8:
                    gopher[num_gopher] = key
                    num_gopher += 1
    hashes = hashes[:words]
    lengths = lengths[:words]
    out[:] = 0.0
    if words == 0:
        out[4] = special / max(size, 1)
        out[20] = gibberish / max(tokens, 1)
        return
    out[0] = words
    out[1] = chars / words
    out[2] = character_repetition(text)
    out[3] = repeated(hashes, lengths, 5, chars)[0]
    out[4] = special / size
    out[5] = stop / words
    out[6] = num_gopher
    out[7] = flagged / words
    out[8] = ends / tokens
    out[9] = spam / words
    out[10] = symbols / words
    out[13] = alphabetic / tokens
    out[20] = gibberish / tokens
    if not whole:
        return
    lines, bullets, ellipses = duplicate_lines(text, table)
    out[11] = bullets
    out[12] = ellipses
    out[14] = lines
    out[15] = repeated(hashes, lengths, 2, chars)[1]
    out[16] = repeated(hashes, lengths, 3, chars)[1]
    out[17] = repeated(hashes, lengths, 4, chars)[1]
    out[18] = duplicate(hashes, lengths, 5, chars)
    out[19] = duplicate(hashes, lengths, 10, chars)


def _blocks(text, offsets, table, keys, values, whole):  # type: ignore[no-untyped-def]
    """text u32[N], offsets i64[B + 1] -> f64[B, 21]."""
    num = len(offsets) - 1
    out = np.empty((num, 21), np.float64)
    for i in range(num):
        scores(text[offsets[i] : offsets[i + 1]], table, keys, values, whole, out[i])
    return out


# Bound in the order in which they call each other: numba resolves these names when it compiles.
room: Kernel = compiled(_room)
find: Kernel = compiled(_slot)
hashed: Kernel = compiled(_hash)
character_repetition: Kernel = compiled(_character_repetition)
repeated: Kernel = compiled(_repeated)
duplicate: Kernel = compiled(_duplicate)
duplicate_lines: Kernel = compiled(_duplicate_lines)
scores: Kernel = compiled(_scores)
blocks: Kernel = compiled(_blocks)
