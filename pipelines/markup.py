"""lexbor's tree, serialised, as flat arrays: one pass to tokens, one to blocks, no Python object a node.

What lexbor writes is well formed: every element but the void ones is closed, text is escaped, attributes are quoted. So
a stack and four entities read it back; a node through Python's bindings costs a microsecond, here it costs fifty times
less. The text of scripts and of all else that no reader sees never leaves the first pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.kernel import compiled

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]

INLINE, BLOCK, SKIP, BREAK, IMG, PICTURE, LINK, CONTAINER, STRUCTURE, CELL, META, SPACED, NOTE = range(13)
GROUPS = {
    INLINE: "html b strong i em u s strike small big tt code kbd samp var cite dfn abbr acronym q sub sup mark ins del "
    "font bdi bdo nobr time data ruby rb rt rtc wbr blink output math mrow mi mo mn msup msub mfrac mtext semantics",
    BLOCK: "p h1 h2 h3 h4 h5 h6 li blockquote pre listing xmp figcaption dt dd caption address hr summary legend",
    SKIP: "script style svg iframe object embed applet audio video canvas select datalist textarea input template "
    "progress meter map frameset noframes noembed plaintext annotation annotation-xml rp option optgroup",
    CONTAINER: "div section ul ol dl table tbody thead tfoot tr center details fieldset figure article main dir hgroup "
    "menu body search noscript",
    STRUCTURE: "nav header footer aside form button dialog",
    BREAK: "br",
    IMG: "img",
    PICTURE: "picture",
    LINK: "a",
    CELL: "td th",
    META: "title meta base source",
    SPACED: "span label",
}  # fmt: skip
VOID = "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr"
RAW = "script style xmp iframe noembed noframes plaintext"
HEADINGS = {f"h{n}": n for n in range(1, 7)}
KINDS = ("other", "p", *HEADINGS, "li", "quote", "pre", "figcaption", "dt", "dd", "th", "table")
OTHER, PARAGRAPH, HEADING, ITEM, QUOTE, PRE, FIGCAPTION, DT, DD, TH = 0, 1, 2, 8, 9, 10, 11, 12, 13, 14
KIND_OF = {"blockquote": "quote", "listing": "pre", "xmp": "pre", "caption": "figcaption", "summary": "p"} | {
    "legend": "p"
}
TEXT, START, END, VERBATIM = range(4)  # tokens
# What attributes say of an element: found by the caller, save the two about links.
HIDDEN, MUTED, NAMED, CAPTION, MAIN, OPEN, NUMBER, LINKS, SHOWS, PICTURED, LAZY, UNSEEN = (1 << n for n in range(12))
CLASS_A, ID_A, STYLE_A, HIDDEN_A, ARIA_A, ROLE_A, HREF_A, OPEN_A = (1 << n for n in range(8))
ATTRIBUTES = {
    "class": CLASS_A, "id": ID_A, "style": STYLE_A, "hidden": HIDDEN_A, "aria-hidden": ARIA_A, "role": ROLE_A,
    "href": HREF_A, "open": OPEN_A,
}  # fmt: skip
ALWAYS = 1 << 15
REGION, BARE, SOFT, BODY, FIGURE, LEGEND = range(6)  # spans: structure, nav, named, main; figures and captions
FNV, PRIME = 0xCBF29CE484222325, 0x100000001B3

TAGS = ("", *(name for words in GROUPS.values() for name in words.split()))
TAGS += tuple(name for name in VOID.split() if name not in TAGS)
NUMBER_OF = {name: number for number, name in enumerate(TAGS)}


def _name_hash(name: str) -> int:
    value = FNV
    for byte in name.encode():
        value = ((value ^ byte) * PRIME) % (1 << 64)
    return value


def _table(values: dict[str, int]) -> tuple[Array, Array]:
    """Open addressing from the hash of a name to its value; 0 is an empty slot."""
    keys, found = np.zeros(1024, np.uint64), np.zeros(1024, np.int64)
    for name, value in values.items():
        slot = _name_hash(name) & 1023
        while keys[slot]:
            slot = (slot + 1) & 1023
        keys[slot], found[slot] = _name_hash(name), value
    return keys, found


def _traits() -> Array:
    """i64[tags, 6]: role, void, raw, kind of block, level, attributes to ask about."""
    hides = STYLE_A | HIDDEN_A | ARIA_A
    asked = {BLOCK: hides, LINK: hides, PICTURE: ALWAYS, IMG: ALWAYS, META: ALWAYS, SPACED: hides | CLASS_A}
    asked |= dict.fromkeys((CONTAINER, STRUCTURE, CELL), hides | CLASS_A | ID_A | ROLE_A | OPEN_A)
    roles = {name: role for role, words in GROUPS.items() for name in words.split()}
    table = np.zeros((len(TAGS), 6), np.int64)
    for number, name in enumerate(TAGS):
        role = roles.get(name, NOTE)
        kind = KIND_OF.get(name, name)
        table[number] = (
            role, name in VOID.split(), name in RAW.split(), KINDS.index(kind) if kind in KINDS else OTHER,
            HEADINGS.get(name, 0), asked.get(role, hides if role == NOTE else 0),
        )  # fmt: skip
    table[NUMBER_OF["p"], 5] |= CLASS_A
    return table


TRAITS = _traits()
TAG_KEYS, TAG_VALUES = _table(NUMBER_OF)
ATTRIBUTE_KEYS, ATTRIBUTE_VALUES = _table(ATTRIBUTES)
_N = NUMBER_OF
P_N, LI_N, HR_N, ADDRESS_N, CAPTION_N, FIGCAPTION_N, NOSCRIPT_N, DIALOG_N, HEADER_N, FOOTER_N, NAV_N = (
    _N[name] for name in "p li hr address caption figcaption noscript dialog header footer nav".split()
)
ARTICLE_N, MAIN_N, FIGURE_N, BODY_N, TBODY_N, THEAD_N, TFOOT_N, UL_N, OL_N, DIR_N, MENU_N, TABLE_N, TR_N = (
    _N[name] for name in "article main figure body tbody thead tfoot ul ol dir menu table tr".split()
)
TH_N, SECTION_N, SCRIPT_N, TITLE_N, SPAN_N, LABEL_N = (
    _N[name] for name in "th section script title span label".split()
)


def _lookup(keys, values, data, start, end):  # type: ignore[no-untyped-def]
    name = np.uint64(FNV)
    for i in range(start, end):
        name = (name ^ np.uint64(data[i])) * np.uint64(PRIME)
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
        a, b, c = data[i + 1] | 32, data[i + 2] | 32, data[i + 3] | 32
        d = data[i + 4] | 32 if i + 4 < end else 0
        size = 0
        if (a == 106 and b == 112 and c == 103) or (a == 112 and b == 110 and c == 103):  # jpg png
            size = 4
        elif (a == 103 and b == 105 and c == 102) or (a == 98 and b == 109 and c == 112):  # gif bmp
            size = 4
        elif (a == 106 and b == 112 and c == 101 and d == 103) or (a == 119 and b == 101 and c == 98 and d == 112):
            size = 5
        elif (a == 97 and b == 118 and c == 105 and d == 102) or (a == 116 and b == 105 and c == 102 and d == 102):
            size = 5
        elif a == 116 and b == 105 and c == 102:  # tif
            size = 4
        if size and (i + size == end or data[i + size] == 63 or data[i + size] == 35):
            return True
    return False


def _raw_end(data, i, start, end):  # type: ignore[no-untyped-def]
    """Where the end tag of a raw element starts, whose name stands at start..end; scripts hold scripts in comments."""
    size = len(data)
    script = end - start == 6 and data[start] == 115 and data[start + 1] == 99
    comment = inside = False
    while i < size:
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


def _scan(data, tag_keys, tag_values, attribute_keys, attribute_values, traits, what, tags, begins, ends, flags, asks):  # type: ignore[no-untyped-def]
    """Serialised HTML u8[N] -> (tokens, asks, depth): what, tag, begin, end and flags a token; the tokens to ask about.

    begin..end of an element are its attributes, of text its bytes, of a title its text.
    """
    size = len(data)
    num = num_asks = depth = deepest = skipped = 0
    i = 0
    while i < size:
        if data[i] != 60:
            start = i
            while i < size and data[i] != 60:
                i += 1
            if skipped == 0:
                what[num] = TEXT
                begins[num] = start
                ends[num] = i
                num += 1
            continue
        if i + 1 >= size:
            break
        if data[i + 1] == 33 or data[i + 1] == 63:  # a comment; the document type is not written
            if i + 3 < size and data[i + 2] == 45 and data[i + 3] == 45:
                i += 4
                while i < size and not (
                    data[i] == 62 and data[i - 1] == 45 and data[i - 2] == 45
                ):
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
            elif role != INLINE:
                what[num] = END
                tags[num] = tag
                flags[num] = 0
                begins[num] = ends[num] = start
                if role == PICTURE:
                    asks[num_asks] = num
                    num_asks += 1
                num += 1
                depth -= 1
            continue
        name_end = j
        seen = bits = 0
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
            known = lookup(attribute_keys, attribute_values, data, first, j)
            if j + 1 < size and data[j] == 61 and data[j + 1] == 34:
                first = j + 2
                j = first
                while j < size and data[j] != 34:
                    j += 1
                if known == HREF_A and j > first:
                    bits = LINKS | SHOWS if role == LINK and image_name(data, first, j) else LINKS
                j += 1
            seen |= known
        attributes_end = j
        i = j + 1
        if skipped or role == SKIP:
            if raw:
                i = raw_end(data, i, start, name_end)
            if not void:
                skipped += 1
            continue
        if role == INLINE:
            continue
        what[num] = START
        tags[num] = tag
        flags[num] = bits
        begins[num] = name_end
        ends[num] = attributes_end
        if traits[tag, 5] & (seen | ALWAYS):
            asks[num_asks] = num
            num_asks += 1
        num += 1
        if not void:
            depth += 1
            deepest = max(deepest, depth)
        if raw:  # xmp
            first = i
            i = raw_end(data, i, start, name_end)
            what[num] = VERBATIM
            begins[num] = first
            ends[num] = i
            num += 1
    return num, num_asks, deepest


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


lookup: Kernel = compiled(_lookup)
image_name: Kernel = compiled(_image_name)
raw_end: Kernel = compiled(_raw_end)
scan: Kernel = compiled(_scan)
