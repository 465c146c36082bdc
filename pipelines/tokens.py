"""Serialised HTML to tokens: text, starts and ends of the elements that matter, and whose attributes must be read.

What lexbor writes is well formed: every element but the void ones is closed, text is escaped, attributes are quoted.
What no reader sees (scripts, forms' fields, drawings) gives no token. Attributes are looked at here, and read in Python
only where a token of them is one that `boilerplate` knows: a superset, by the same split into tokens (tested).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines import boilerplate
from pipelines import tags as t
from pipelines.kernel import compiled
from pipelines.tags import Array

Kernel = Callable[..., Any]

TITLE_N, META_N, PLAINTEXT_N = map(t.TAGS.index, ("title", "meta", "plaintext"))
NAME, ROLE = 1, 2  # what a word can be part of


def _telling() -> tuple[Array, Array]:
    """Open addressing from the hash of a word to where it can say something: tokens of names, and roles."""
    words = dict.fromkeys(boilerplate.NAMES | boilerplate.CAPTION | boilerplate.CLONES, NAME)
    for name in boilerplate.PAIRS | boilerplate.NUMBERING:
        words[boilerplate.tokens(name)[-1]] = NAME
    for role in boilerplate.SKIPPED_ROLES | boilerplate.MAIN_ROLES:
        words[role] = words.get(role, 0) | ROLE
    keys, values = np.zeros(1024, np.uint64), np.zeros(1024, np.int64)
    for word, value in words.items():
        key = t.FNV
        for byte in word.encode():
            key = ((key ^ byte) * t.PRIME) % (1 << 64)
        slot = key & 1023
        while keys[slot]:
            slot = (slot + 1) & 1023
        keys[slot], values[slot] = key, value
    return keys, values


WORD_KEYS, WORD_VALUES = _telling()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The tokens of a page."""

    data: Array  # u8, the HTML
    what: Array  # u8[N], TEXT, START, END or VERBATIM
    tags: Array  # u8[N], place in TAGS
    begins: Array  # i32[N], of the text, of an element's attributes or of a title's text
    ends: Array  # i32[N]
    flags: Array  # i32[N], what is seen without asking
    address: Array  # i32[N], equal for images of equal address
    asks: Array  # i32[A], tokens whose attributes must be read: one for all elements with the same, save images
    same: Array  # i32[N], the ask of a token; below 0 if there is none; of elements only
    depth: int

    def asked(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """What, tag, begin and end of the tokens to ask about."""
        what, tag, begin, end = (
            column[self.asks].tolist() for column in (self.what, self.tags, self.begins, self.ends)
        )
        return what, tag, begin, end


def read(html: bytes) -> Page:
    """The tokens of HTML as lexbor writes it, in UTF-8."""
    data = np.frombuffer(html, np.uint8)
    room = len(html) // 2 + 2  # "<b>x" is two tokens
    what, tags = np.empty(room, np.uint8), np.empty(room, np.uint8)
    begins, ends, flags, asks, same = (np.empty(room, np.int32) for _ in range(5))
    num, num_asks, depth = scan(
        data, t.TAG_KEYS, t.TAG_VALUES, t.ATTRIBUTE_KEYS, t.ATTRIBUTE_VALUES, t.TRAITS, WORD_KEYS, WORD_VALUES, what,
        tags, begins, ends, flags, asks, same, np.full(1024, -1, np.int32),
    )  # fmt: skip
    return Page(
        data=data, what=what[:num], tags=tags[:num], begins=begins[:num], ends=ends[:num], flags=flags[:num],
        address=np.zeros(num, np.int32), asks=asks[:num_asks], same=same[:num], depth=depth,
    )  # fmt: skip


def _lookup(keys, values, data, start, end):  # type: ignore[no-untyped-def]
    name = np.uint64(t.FNV)
    for i in range(start, end):
        name = (name ^ np.uint64(data[i])) * np.uint64(t.PRIME)
    slot = np.int64(name & np.uint64(1023))
    while keys[slot] != 0:
        if keys[slot] == name:
            return values[slot]
        slot = (slot + 1) & 1023
    return 0


def _image_name(data, start, end):  # type: ignore[no-untyped-def]
    """Whether an address has the extension of a picture before its end, "?" or "#"."""
    for i in range(start, end - 3):
        if data[i] != 46:
            continue
        name = (np.int64(data[i + 1] | 32) << 16) | (np.int64(data[i + 2] | 32) << 8) | np.int64(data[i + 3] | 32)
        fourth = np.int64(data[i + 4] | 32) if i + 4 < end else np.int64(0)
        size = 4 if name in (0x6A7067, 0x706E67, 0x676966, 0x626D70, 0x746966) else 0  # jpg png gif bmp tif
        if (name == 0x6A7065 and fourth == 103) or (name == 0x776562 and fourth == 112):  # jpeg webp
            size = 5
        if name in (0x617669, 0x746966) and fourth == 102:  # avif tiff
            size = 5
        if size and (i + size == end or data[i + size] == 63 or data[i + size] == 35):
            return True
    return False


def _raw_end(data, i, start, end):  # type: ignore[no-untyped-def]
    """Where the end tag of a raw element starts, whose name stands at start..end; scripts hold scripts in comments."""
    size = len(data)
    script = end - start == 6 and data[start] == 115 and data[start + 1] == 99
    comment = inside = False
    while i < size:
        while i < size and data[i] != 60 and not comment:
            i += 1
        if i == size:
            break
        if data[i] == 45 and comment and i + 2 < size and data[i + 1] == 45 and data[i + 2] == 62:
            comment = inside = False
        elif data[i] == 60 and i + 3 < size:
            if script and data[i + 1] == 33 and data[i + 2] == 45 and data[i + 3] == 45:
                comment = True
                i += 2
                continue
            closing = data[i + 1] == 47
            if closing or (comment and script):
                first = i + 2 if closing else i + 1
                same = first + end - start < size
                j = 0
                while same and j < end - start:
                    same = data[first + j] | 32 == data[start + j]
                    j += 1
                if same:
                    after = data[first + j]
                    if after <= 32 or after == 47 or after == 62:
                        if not closing:
                            inside = True
                        elif inside:
                            inside = False
                        else:
                            return i
        i += 1
    return size


def _named(data, start, end, keys, values):  # type: ignore[no-untyped-def]
    """Whether a class or id has a token, as `boilerplate.tokens` splits them, that says something."""
    i = start
    while i < end:
        if not 97 <= data[i] | 32 <= 122:
            i += 1
            continue
        stop = i
        while stop < end and 65 <= data[stop] <= 90:
            stop += 1
        if stop < end and 97 <= data[stop] <= 122:
            if stop - i > 1:
                stop -= 1  # the last capital begins a word
            else:
                while stop < end and 97 <= data[stop] <= 122:
                    stop += 1
        key = np.uint64(t.FNV)
        while i < stop:
            key = (key ^ np.uint64(data[i] | 32)) * np.uint64(t.PRIME)
            i += 1
        slot = np.int64(key & np.uint64(1023))
        while keys[slot] != 0:
            if keys[slot] == key:
                if values[slot] & NAME:
                    return True
                break
            slot = (slot + 1) & 1023
    return False


def _tells(data, start, end, known, keys, values):  # type: ignore[no-untyped-def]
    """Whether the value of an attribute can say something; what is odd is left to those who read it."""
    if known == t.CLASS_A or known == t.ID_A:
        return end - start > boilerplate.MAX_NAME or named(data, start, end, keys, values)
    if known == t.ROLE_A:
        return (lookup(keys, values, data, start, end) & ROLE) != 0
    if known == t.ARIA_A:  # true
        return end - start == 4 and data[start] == 116
    if known != t.STYLE_A:
        return True
    for i in range(start, end):  # none or hidden, whatever the case
        a = data[i] | 32
        if a >= 0x80 or (a == 110 and i + 3 < end and data[i + 1] | 32 == 111 and data[i + 2] | 32 == 110):
            return True
        if a == 104 and i + 5 < end and data[i + 1] | 32 == 105 and data[i + 2] | 32 == 100:
            return True
    return False


def _known(data, begin, end, begins, ends, asks, slots, num_asks):  # type: ignore[no-untyped-def]
    """Which ask has these very attributes; num_asks, and noted, if none has."""
    name = np.uint64(t.FNV)
    for i in range(begin, end):
        name = (name ^ np.uint64(data[i])) * np.uint64(t.PRIME)
    mask = len(slots) - 1
    slot = np.int64(name >> np.uint64(32)) & mask
    for _ in range(8):  # a full neighbourhood costs a question asked twice, no more
        if slots[slot] < 0:
            slots[slot] = num_asks
            break
        token = asks[slots[slot]]
        start = begins[token]
        equal = ends[token] - start == end - begin
        i = begin
        while equal and i < end:
            equal = data[i] == data[start + i - begin]
            i += 1
        if equal:
            return slots[slot]
        slot = (slot + 1) & mask
    return num_asks


def _scan(  # type: ignore[no-untyped-def]
    data, tag_keys, tag_values, attribute_keys, attribute_values, traits, word_keys, word_values, what, tags, begins,
    ends, flags, asks, same, slots,
):  # fmt: skip
    """Serialised HTML u8[N] -> (tokens, asks, depth): what, tag, begin, end, flags and its ask a token; the asks.

    begin..end of an element are its attributes, of text its bytes, of a title its text. Asked is only where a value
    can say something: of 84 elements a large page, 22. slots i32: all -1, a power of two of them, for what was asked.
    """
    size = len(data)
    num = num_asks = depth = deepest = skipped = 0
    i = 0
    while i < size:
        if data[i] != 60:
            start = i
            solid = False
            while i < size and data[i] != 60 and not solid:
                solid = data[i] > 32 or data[i] < 9 or 13 < data[i] < 28
                i += 1
            while i < size and data[i] != 60:
                i += 1
            if skipped == 0:
                what[num] = t.TEXT if solid else t.BLANK
                begins[num] = start
                ends[num] = i
                num += 1
            continue
        if i + 1 >= size:
            break
        if data[i + 1] == 33 or data[i + 1] == 63:  # a comment; the document type is not written
            if i + 3 < size and data[i + 2] == 45 and data[i + 3] == 45:
                i += 6  # "<!-->-->" holds ">": what opens a comment does not close it
                while i < size and not (data[i] == 62 and data[i - 1] == 45 and data[i - 2] == 45):
                    i += 1
            else:
                while i < size and data[i] != 62:
                    i += 1
            i += 1
            continue
        closing = data[i + 1] == 47
        start = i + 2 if closing else i + 1
        j = start
        while j < size and data[j] > 32 and data[j] != 47 and data[j] != 62:
            j += 1
        tag = lookup(tag_keys, tag_values, data, start, j)
        role, void, raw = traits[tag, 0], traits[tag, 1], traits[tag, 2]
        if closing:
            while j < size and data[j] != 62:
                j += 1
            i = j + 1
            if void:
                continue
            if skipped:
                skipped -= 1
            elif role != t.INLINE:
                what[num] = t.END
                tags[num] = tag
                flags[num] = 0
                begins[num] = ends[num] = start
                same[num] = -1
                if role == t.PICTURE:
                    same[num] = num_asks
                    asks[num_asks] = num
                    num_asks += 1
                num += 1
                depth = max(depth - 1, 0)
            continue
        name_end = j
        seen = bits = asked = 0
        if skipped == 0 and role != t.INLINE and role != t.SKIP:
            asked = traits[tag, 5] | (t.HREF_A if role == t.LINK else 0)
        while j < size:
            b = data[j]
            if b == 62:
                break
            if b <= 32 or b == 47:
                j += 1
                continue
            first = j
            j += 1
            while j < size and data[j] > 32 and data[j] != 61 and data[j] != 47 and data[j] != 62:
                j += 1
            known = 0
            if asked & ~t.ALWAYS:
                known = lookup(attribute_keys, attribute_values, data, first, j) & asked
            if j + 1 < size and data[j] == 61 and data[j + 1] == 34:
                first = j + 2
                j = first
                while j < size and data[j] != 34:
                    j += 1
                if known == t.HREF_A:
                    bits = t.LINKS | t.SHOWS if image_name(data, first, j) else t.LINKS
                elif known and tells(data, first, j, known, word_keys, word_values):
                    seen |= known
                j += 1
            else:
                seen |= known & (t.HIDDEN_A | t.OPEN_A)
        attributes_end = j
        i = j + 1
        if skipped or role == t.SKIP:
            if raw:
                i = size if tag == PLAINTEXT_N else raw_end(data, i, start, name_end)
            if not void:
                skipped += 1
            continue
        if role == t.INLINE:
            continue
        what[num] = t.START
        tags[num] = tag
        flags[num] = bits
        begins[num] = name_end
        ends[num] = attributes_end
        same[num] = -1
        if asked & t.ALWAYS and tag != TITLE_N and tag != META_N:
            same[num] = num_asks
            asks[num_asks] = num
            num_asks += 1
        elif seen:
            same[num] = known_as(data, name_end, attributes_end, begins, ends, asks, slots, num_asks)
            if same[num] == num_asks:
                asks[num_asks] = num
                num_asks += 1
        num += 1
        after = i
        while tag == TITLE_N and after < size and data[after] != 60:
            after += 1
        if tag == TITLE_N and after + 1 < size and data[after + 1] == 47:  # in math a title holds elements
            begins[num - 1] = i
            ends[num - 1] = i = after
            while i < size and data[i] != 62:
                i += 1
            i += 1
        elif not void:
            depth += 1
            deepest = max(deepest, depth)
        if raw:  # xmp
            first = i
            i = raw_end(data, i, start, name_end)
            what[num] = t.VERBATIM
            begins[num] = first
            ends[num] = i
            num += 1
    return num, num_asks, deepest


lookup: Kernel = compiled(_lookup, allocates=False)
image_name: Kernel = compiled(_image_name, allocates=False)
raw_end: Kernel = compiled(_raw_end, allocates=False)
named: Kernel = compiled(_named, allocates=False)
tells: Kernel = compiled(_tells, allocates=False)
known_as: Kernel = compiled(_known, allocates=False)
scan: Kernel = compiled(_scan, allocates=False)
