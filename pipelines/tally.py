"""The counts behind the text rules, over code points: words are read once, for their block and for the page.

Text is lower case, as an array of code points; blocks are lines. All arithmetic is on integers until the last division,
so the same text has the same scores on every machine. An n-gram is counted only where both its (n - 1)-grams repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pipelines.grams import FACTOR, character_repetition, find, hashed, room, twice
from pipelines.kernel import compiled

STOP, FLAGGED, SPAM, GOPHER = 1, 2, 4, 8  # GOPHER << i: the i-th of eight words
NAMES = (
    "words", "mean_word_length", "character_repetition", "word_repetition", "special_characters", "stopwords",
    "gopher_stopwords", "flagged_words", "punctuation", "spam_words", "symbols", "bullets", "ellipsis",
    "alphabetic_words", "duplicate_lines", "top_2gram", "top_3gram", "top_4gram", "duplicate_5gram",
    "duplicate_10gram", "gibberish",
)  # fmt: skip
COUNTS = (
    "words", "chars", "tokens", "special", "stop", "flagged", "spam", "ends", "alphabetic", "symbols", "gibberish",
    "gopher",
)  # fmt: skip
Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]


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
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.uint16)
    for key, flag in sorted(flags.items()):
        slot = key & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], values[slot] = key, flag
    return keys, values


def _lowered(text, ends, lower, out, offsets):  # type: ignore[no-untyped-def]
    """Blocks of UTF-8 -> out u32[N]: their code points in lower case, and offsets i64[B + 1] in it.

    lower has 0 where that takes more than one code point or a look around; returns whether one is met.
    """
    met = False
    at = 0
    i = ends[0]
    offsets[0] = 0
    for b in range(len(ends) - 1):
        while i < ends[b + 1]:
            a = np.int64(text[i])
            i += 1
            if a >= 0x80:
                size = 1 if a < 0xE0 else 2 if a < 0xF0 else 3
                a &= 0x3F >> size
                for _ in range(size):
                    a = (a << 6) | np.int64(text[i] & 0x3F)
                    i += 1
                met |= lower[a] == 0
            out[at] = lower[a]
            at += 1
        offsets[b + 1] = at
    return met


def _tokens(text, offsets, table, keys, values, counts, hashes, lengths, starts):  # type: ignore[no-untyped-def]
    """Count each block of text u32[N] into counts i64[B, 12], in the order of COUNTS.

    The hash and length of its words go to hashes and lengths, from starts[b] to starts[b + 1].
    """
    mask = np.uint64(len(keys) - 1)
    words = 0
    for b in range(len(offsets) - 1):
        i = offsets[b]
        size = offsets[b + 1]
        begin = words
        chars = tokens = special = stop = flagged = spam = ends = alphabetic = symbols = gibberish = gopher = 0
        while i < size:
            if table[text[i]] & 1:
                i += 1
                continue
            start = i
            seen = 0
            kind = 0
            while i < size:
                code = text[i]
                kind = table[code]
                if kind & 1:
                    break
                seen |= kind
                if (kind & 6) == 0:
                    special += 1
                    if code == 35 or code == 0x2026:
                        symbols += 1
                    elif code == 46 and i + 2 < size and text[i + 1] == 46 and text[i + 2] == 46:
                        symbols += i == start or text[i - 1] != 46  # once an ellipsis
                i += 1
            letter = (seen & 2) != 0
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
            if (seen & 16) != 0 or address or (text[start] == 35 and letter and i - start > 1):
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
                flags = int(values[place])
                stop += (flags & 1) != 0
                flagged += (flags & 2) != 0
                spam += (flags & 4) != 0
                gopher |= flags >> 3
        row = counts[b]
        row[0] = words - begin
        row[1] = chars
        row[2] = tokens
        row[3] = special
        row[4] = stop
        row[5] = flagged
        row[6] = spam
        row[7] = ends
        row[8] = alphabetic
        row[9] = symbols
        row[10] = gibberish
        row[11] = gopher
        starts[b + 1] = words


def _first(hashes, num, grams, again):  # type: ignore[no-untyped-def]
    """The keys of 1-grams, and which words may occur again."""
    for i in range(num):
        grams[i] = hashes[i] * np.uint64(FACTOR)  # not the hash itself, lest "a b" be "b a"
    twice(hashes, num, again)


def _longer(hashes, sums, n, grams, again):  # type: ignore[no-untyped-def]
    """grams: keys of (n - 1)-grams -> of n-grams, where again[i] says that they occur more than once.

    Only an n-gram both of whose (n - 1)-grams occur again can itself. sums: of the lengths of the words. Returns how
    many n-grams occur more than once and the characters in the most frequent one.
    """
    num = max(len(hashes) - n + 1, 0)
    total = 0
    for i in range(num):
        again[i] = again[i] and again[i + 1]
        if again[i]:
            total += 1
            key = (grams[i] ^ hashes[i + n - 1]) * np.uint64(FACTOR)
            grams[i] = (key ^ (key >> np.uint64(31))) | np.uint64(1)
    again[num:] = False
    if total == 0:
        return 0, 0
    keys = np.zeros(room(total), np.uint64)
    counts = np.zeros(len(keys), np.int32)
    places = np.empty(num, np.int32)
    for i in range(num):
        if again[i]:
            places[i] = find(keys, grams[i])
            keys[places[i]] = grams[i]
            counts[places[i]] += 1
    repeated = 0
    most = 1
    longest = 0
    for i in range(num):
        if again[i]:
            count = counts[places[i]]
            if count < 2:
                again[i] = False
                continue
            repeated += 1
            size = sums[i + n] - sums[i]
            if count > most or (count == most and size > longest):
                most = int(count)
                longest = size
    return repeated, most * longest


def _duplicate(sums, n, grams, again):  # type: ignore[no-untyped-def]
    """GO, FW: characters in word n-grams that occurred before, none counted twice."""
    num = len(sums) - n
    if num < 2:
        return 0
    total = 0
    for i in range(num):
        total += again[i]
    keys = np.zeros(room(total), np.uint64)
    chars = 0
    i = 0
    while i < num:
        if again[i]:
            place = find(keys, grams[i])
            if keys[place] != 0:
                chars += sums[i + n] - sums[i]
                i += n
                continue
            keys[place] = grams[i]
        i += 1
    return chars


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


def _sums(lengths):  # type: ignore[no-untyped-def]
    sums = np.empty(len(lengths) + 1, np.int64)
    sums[0] = 0
    for i in range(len(lengths)):
        sums[i + 1] = sums[i] + lengths[i]
    return sums


def _repetition(text, offsets, asked, hashes, lengths, starts, bound, word_bound, out):  # type: ignore[no-untyped-def]
    """out f64[B, 2]: character and word repetition of the blocks that are asked for.

    What is certain not to be over its bound may stand as 0.
    """
    for b in range(len(offsets) - 1):
        out[b] = 0.0
        num = starts[b + 1] - starts[b]
        if not asked[b] or num == 0:
            continue
        out[b, 0] = character_repetition(text[offsets[b] : offsets[b + 1]], bound)
        if num < 6:
            continue
        words = hashes[starts[b] : starts[b + 1]]
        sums = word_sums(lengths[starts[b] : starts[b + 1]])
        grams = np.empty(num, np.uint64)
        again = np.empty(num, np.bool_)
        first(words, num, grams, again)
        run = may = repeated = 0
        for i in range(num):  # a 5-gram occurs again only where each of its words does
            run = run + 1 if again[i] else 0
            may += run >= 5
        if may <= word_bound * (num - 4):
            continue
        for n in range(2, 6):
            repeated = longer(words, sums, n, grams, again)[0]
            if repeated == 0:
                break
        out[b, 1] = repeated / (num - 4)


def _page(text, table, counts, hashes, lengths, out):  # type: ignore[no-untyped-def]
    """out f64[21], in the order of NAMES, from a text, the sums of its counts and its words."""
    words, chars, tokens, gopher = counts[0], counts[1], counts[2], counts[11]
    out[:] = 0.0
    if words == 0:
        out[4] = counts[3] / max(len(text), 1)
        out[20] = counts[10] / max(tokens, 1)
        return
    sums = word_sums(lengths)
    grams = np.empty(words, np.uint64)
    again = np.empty(words, np.bool_)
    first(hashes, words, grams, again)
    out[0] = words
    out[1] = chars / words
    out[2] = character_repetition(text, -1.0)
    out[4] = counts[3] / len(text)
    out[5] = counts[4] / words
    while gopher:
        out[6] += gopher & 1
        gopher >>= 1
    out[7] = counts[5] / words
    out[8] = counts[7] / tokens
    out[9] = counts[6] / words
    out[10] = counts[9] / words
    out[14], out[11], out[12] = duplicate_lines(text, table)
    out[13] = counts[8] / tokens
    for n in range(2, 5):
        out[13 + n] = min(1.0, longer(hashes, sums, n, grams, again)[1] / chars)
    out[3] = longer(hashes, sums, 5, grams, again)[0] / max(1, words - 4)
    out[18] = duplicate(sums, 5, grams, again) / chars
    for i in range(words - 9):  # a 10-gram is two 5-grams
        again[i] = again[i] and again[i + 5]
        grams[i] = ((grams[i] ^ (grams[i] >> np.uint64(32))) * np.uint64(FACTOR) ^ grams[i + 5]) | np.uint64(1)
    out[19] = duplicate(sums, 10, grams, again) / chars
    out[20] = counts[10] / tokens


def _gather(text, offsets, kept, hashes, lengths, starts):  # type: ignore[no-untyped-def]
    """The text of the kept blocks, a line each, with their words' hashes and lengths."""
    size = -1
    words = 0
    for b in kept:
        size += offsets[b + 1] - offsets[b] + 1
        words += starts[b + 1] - starts[b]
    joined = np.empty(max(size, 0), np.uint32)
    own = np.empty(words, np.uint64)
    sizes = np.empty(words, np.int32)
    at = 0
    word = 0
    for b in kept:
        if b != kept[0]:
            joined[at] = 10
            at += 1
        size = offsets[b + 1] - offsets[b]
        joined[at : at + size] = text[offsets[b] : offsets[b + 1]]
        at += size
        num = starts[b + 1] - starts[b]
        own[word : word + num] = hashes[starts[b] : starts[b + 1]]
        sizes[word : word + num] = lengths[starts[b] : starts[b + 1]]
        word += num
    return joined, own, sizes


# Bound in the order in which they call each other: numba resolves these names when it compiles.
lowered: Kernel = compiled(_lowered, allocates=False)
tokens: Kernel = compiled(_tokens)
first: Kernel = compiled(_first)
longer: Kernel = compiled(_longer)
duplicate: Kernel = compiled(_duplicate)
duplicate_lines: Kernel = compiled(_duplicate_lines)
word_sums: Kernel = compiled(_sums)
repetition: Kernel = compiled(_repetition)
page: Kernel = compiled(_page)
gather: Kernel = compiled(_gather)
