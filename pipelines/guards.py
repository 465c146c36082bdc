"""The scan before the parse: how deep, how many nodes and attributes the parser would make of a page.

lexbor is quadratic in nesting, in the attributes of one tag (100 thousand of either: over 18 s), in the options of a
select (150 thousand: 96 s) and in distinct names of tags and attributes (200 thousand: 2.8 s). One pass over the bytes
follows the tokenizer and keeps the stack of open elements; where tree construction is complicated it counts too much
rather than too little. Limits are counts, so the answer never depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.kernel import compiled
from pipelines.reasons import Reason

VOID = "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr image"
RAW = "script style textarea title xmp iframe noembed noframes"
# Closed by what follows them; they nest only through elements that are counted.
IMPLIED = "p li dt dd option tr td th tbody thead tfoot colgroup caption html head body plaintext"
FORMATTING = "a b big code em font i nobr s small strike strong tt u"
SCOPES = "table template object marquee applet"
SPECIAL = (
    "address article aside blockquote button center details dialog dir div dl fieldset figcaption figure footer form "
    "frameset h1 h2 h3 h4 h5 h6 header hgroup listing main menu nav noscript ol pre search section select summary ul "
    + SCOPES
)
FOREIGN = "svg math"
# In svg and math every element nests, but for these, which end them.
BREAKOUT = (
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing menu meta "
    "nobr ol p pre ruby s small span strong strike sub sup table tt u ul var font"
)
# What in svg, and what in math, follows the rules of HTML again; and what may or may not, by its attributes or parent.
INTEGRATION = "foreignobject desc title", "mi mo mn ms mtext"
UNSURE = "annotation-xml mglyph malignmark"
HTML, SVG, MATH, EITHER = range(4)
OTHER_K, VOID_K, RAW_K, IMPLIED_K, FORMATTING_K, SPECIAL_K, SCOPE_K, FOREIGN_K = range(8)
FNV, PRIME = 0xCBF29CE484222325, 0x100000001B3


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Generous: beside each limit, the most that any of 4,100 real pages has."""

    depth: int = 512  # 217
    nodes: int = 250_000  # 81,181
    tag_attributes: int = 256  # 70
    attributes: int = 500_000  # 17,744
    names: int = 8_192  # 604 distinct, of tags and attributes
    marked: int = 65_536  # tags but links with a class, id, style, role, ...: each is read by Python
    images: int = 16_384  # 379 <img>, <source> and <figure>; of those that are shown a page may have far fewer
    options: int = 4_096  # 392


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Upper estimates; each stops growing soon after its limit."""

    depth: int
    nodes: int
    tag_attributes: int
    attributes: int
    names: int = 0
    marked: int = 0
    images: int = 0
    options: int = 0


def _hash(name: str) -> int:
    value = FNV
    for byte in name.encode():
        value = ((value ^ byte) * PRIME) % (1 << 64)
    return value


def _table() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Open addressing from the hash of a tag name to its kind; 0 is an empty slot."""
    keys, kinds = np.zeros(512, np.uint64), np.zeros(512, np.int64)
    groups = (
        (VOID, VOID_K), (RAW, RAW_K), (IMPLIED, IMPLIED_K), (FORMATTING, FORMATTING_K), (SCOPES, SCOPE_K),
        (SPECIAL, SPECIAL_K), (FOREIGN, FOREIGN_K),
    )  # fmt: skip
    for names, kind in groups:
        for name in names.split():
            key = _hash(name)
            slot = key & 511
            while keys[slot] not in (0, key):
                slot = (slot + 1) & 511
            if keys[slot] == 0:
                keys[slot], kinds[slot] = key, kind
    return keys, kinds


KEYS, KINDS = _table()
MERGED = np.array([_hash("html"), _hash("body")], np.uint64)  # a second <body> adds its attributes to the first
COUNTED = np.array([_hash(name) for name in ("img", "image", "source", "figure", "option", "a")], np.uint64)
MARKS = np.array([_hash(name) for name in ("class", "id", "style", "role", "hidden", "aria-hidden", "open")], np.uint64)
NAME_SLOTS = 1 << 14  # twice the names at most, so that one is found in a few steps
OUT = np.array([_hash(name) for name in BREAKOUT.split()], np.uint64)
AGAIN = np.array([_hash(name) for names in INTEGRATION for name in names.split()], np.uint64)  # three, then five
MAYBE = np.array([_hash(name) for name in UNSURE.split()], np.uint64)
FOREIGNERS = np.array([_hash("svg"), _hash("math")], np.uint64)


def _inside(state, name, again, maybe, foreigners):  # type: ignore[no-untyped-def]
    """By whose rules the parser reads what stands in an element of that name; state: those it stands under itself.

    Where it cannot be told, EITHER: everything nests there, so that too much is counted and never too little.
    """
    if state in (HTML, EITHER):
        for m in range(len(foreigners)):
            if foreigners[m] == name:
                return SVG + m
    if state != SVG:
        for m in range(len(maybe)):
            if maybe[m] == name:
                return EITHER
    for m in range(len(again)):
        if again[m] == name and state == (SVG if m < 3 else MATH):
            return HTML
    return state


_ruled: Callable[..., int] = compiled(_inside)
MADE = np.array([_hash("p"), _hash("br")], np.uint64)  # an end tag that closes nothing makes an element


def _white(byte):  # type: ignore[no-untyped-def]
    """Whether the tokenizer takes a byte for white space: other control characters are parts of names and values."""
    return byte == 32 or byte == 10 or byte == 9 or byte == 13 or byte == 12


white: Callable[..., bool] = compiled(_white, allocates=False)


def _note(seen, name):  # type: ignore[no-untyped-def]
    """1 if a name was not seen before, and it is noted; seen u64: 0 is an empty slot, and never are all full."""
    slot = np.int64(name >> np.uint64(17)) & (len(seen) - 1)
    while seen[slot] != 0:
        if seen[slot] == name:
            return 0
        slot = (slot + 1) & (len(seen) - 1)
    seen[slot] = name
    return 1


_noted: Callable[..., int] = compiled(_note)


def _scan(data, keys, kinds, merged, made, counted, marks, out, rules, limits):  # type: ignore[no-untyped-def]
    """data u8[N] -> the fields of Counts; stops at the first limit (i64[8]) that is exceeded."""
    size = len(data)
    max_depth, max_nodes, max_tag_attributes, max_attributes = limits[0], limits[1], limits[2], limits[3]
    names = marked = images = options = 0
    seen = np.zeros(NAME_SLOTS, np.uint64)
    opened = np.zeros(512, np.int32)  # open elements by the last bits of their names: most end tags close none
    stack = np.empty(max_depth + 2, np.uint64)
    stack_kind = np.empty(max_depth + 2, np.int64)
    again, maybe, foreigners = rules
    stack_in = np.zeros(max_depth + 3, np.int8)  # whose rules what stands inside follows; place 0: the page
    active = np.empty(max_depth + 2, np.uint64)  # formatting elements that later blocks open again
    active_raw = np.empty(max_depth + 2, np.uint64)
    depth = 0
    deepest = 0
    num_active = 0
    nodes = 0
    attributes = 0
    most = 0
    reopened = 0
    whole = 0
    text = False
    i = 0
    while i < size:
        c = data[i]
        if c != 60:  # <
            if not text:
                text = True
                nodes += 1
            i += 1
            continue
        if i + 1 >= size:
            break
        n = data[i + 1]
        if n == 33 or n == 63 or (n == 47 and i + 2 < size and not (97 <= (data[i + 2] | 32) <= 122)):  # <! <? </x
            text = False
            nodes += 1
            if n == 33 and i + 3 < size and data[i + 2] == 45 and data[i + 3] == 45:
                i += 4
                if i < size and data[i] == 62:
                    i += 1
                elif i + 1 < size and data[i] == 45 and data[i + 1] == 62:
                    i += 2
                else:
                    while i < size:
                        if data[i] == 62 and data[i - 1] == 45 and data[i - 2] == 45:
                            break
                        if data[i] == 62 and data[i - 1] == 33 and data[i - 2] == 45 and data[i - 3] == 45:
                            break
                        i += 1
                    i += 1
            elif SVG <= stack_in[depth] <= MATH and n == 33 and i + 2 < size and data[i + 2] == 91:  # CDATA
                while i < size and not (data[i] == 62 and data[i - 1] == 93 and data[i - 2] == 93):
                    i += 1
                i += 1
            else:
                name = np.uint64(FNV)  # that of a document type is kept among the others
                while i < size and data[i] != 62:
                    name = (name ^ np.uint64(data[i])) * np.uint64(PRIME)
                    i += 1
                names += _noted(seen, name)
                i += 1
            if nodes > max_nodes or names > limits[4]:
                break
            continue
        closing = n == 47
        j = i + 2 if closing else i + 1
        if j >= size or not (97 <= (data[j] | 32) <= 122):
            if not text:
                text = True
                nodes += 1
            i += 1
            continue
        text = False
        name = np.uint64(FNV)
        while j < size:
            b = data[j]
            if white(b) or b == 47 or b == 62:
                break
            if 65 <= b <= 90:
                b |= 32
            name = (name ^ np.uint64(b)) * np.uint64(PRIME)
            j += 1
        raw = name
        # attributes, as the tokenizer reads them
        count = 0
        mark = False
        selfclosing = False
        while j < size:
            b = data[j]
            if b == 62:
                break
            if white(b) or b == 47:
                selfclosing = b == 47
                j += 1
                continue
            selfclosing = False
            count += 1
            start = j
            j += 1  # a leading "=" belongs to the name
            while j < size and data[j] != 61 and data[j] != 62 and data[j] != 47 and not white(data[j]):
                j += 1
            attribute = np.uint64(FNV)
            for m in range(start, j):
                b = data[m]
                if 65 <= b <= 90:
                    b |= 32
                attribute = (attribute ^ np.uint64(b)) * np.uint64(PRIME)
            names += _noted(seen, attribute)
            if names > limits[4]:
                break
            for m in range(len(marks)):
                mark |= marks[m] == attribute
            k = j
            while k < size and white(data[k]):
                k += 1
            if k < size and data[k] == 61:
                j = k + 1
                while j < size and white(data[j]):
                    j += 1
                if j < size and (data[j] == 34 or data[j] == 39):
                    quote = data[j]
                    j += 1
                    while j < size and data[j] != quote:
                        j += 1
                    j += 1
                else:
                    while j < size and not white(data[j]) and data[j] != 62:
                        j += 1
            if not closing:
                for m in range(start, min(j, size)):
                    raw = (raw ^ np.uint64(data[m])) * np.uint64(PRIME)
        attributes += count
        if name == merged[0] or name == merged[1]:
            whole += count
            count = whole
        most = max(most, count)
        i = j + 1
        slot = np.int64(name & np.uint64(511))
        while keys[slot] != 0 and keys[slot] != name:
            slot = (slot + 1) & 511
        kind = kinds[slot] if keys[slot] == name else 0
        if keys[slot] != name:
            names += _noted(seen, name)
        if not closing:
            for m in range(4):
                images += name == counted[m]
            options += name == counted[4]
            marked += mark and name != counted[5]
        if names > limits[4] or marked > limits[5] or images > limits[6] or options > limits[7]:
            break
        block = kind in (SPECIAL_K, SCOPE_K, IMPLIED_K)
        if SVG <= stack_in[depth] <= MATH and not closing:
            leaves = False
            for m in range(len(out)):
                leaves |= out[m] == name
            while leaves and SVG <= stack_in[depth] <= MATH:
                depth -= 1
                opened[stack[depth] & np.uint64(511)] -= 1
        state = stack_in[depth]
        html = state == HTML
        if not closing:
            nodes += 1
            if block:
                reopened += num_active
            if kind == RAW_K and html:
                i = _find_raw_end(data, i, name)
                nodes += 1
                continue
            if kind in (VOID_K, IMPLIED_K) if html else selfclosing and state != EITHER:
                continue
            stack[depth] = name
            stack_kind[depth] = kind
            opened[name & np.uint64(511)] += 1
            depth += 1
            stack_in[depth] = _ruled(state, name, again, maybe, foreigners)
            if kind == FORMATTING_K:
                same = 0
                first = -1
                for m in range(num_active):
                    if active_raw[m] == raw:
                        same += 1
                        if first < 0:
                            first = m
                if same >= 3:  # the standard keeps three alike
                    for m in range(first, num_active - 1):
                        active[m] = active[m + 1]
                        active_raw[m] = active_raw[m + 1]
                    num_active -= 1
                active[num_active] = name
                active_raw[num_active] = raw
                num_active += 1
        else:
            if block:
                reopened += num_active
            if name == made[0] or name == made[1]:
                nodes += 1
            if kind == FORMATTING_K:
                for m in range(num_active - 1, -1, -1):
                    if active[m] == name:
                        for q in range(m, num_active - 1):
                            active[q] = active[q + 1]
                            active_raw[q] = active_raw[q + 1]
                        num_active -= 1
                        break
            if (kind not in (VOID_K, IMPLIED_K) or not html) and opened[name & np.uint64(511)] > 0:
                for m in range(depth - 1, -1, -1):
                    if stack[m] == name:
                        if kind == FORMATTING_K:  # only it goes; what it holds stays
                            for q in range(m, depth - 1):
                                stack[q] = stack[q + 1]
                                stack_kind[q] = stack_kind[q + 1]
                                stack_in[q + 1] = stack_in[q + 2]
                            depth -= 1
                            opened[name & np.uint64(511)] -= 1
                        else:
                            while depth > m:
                                depth -= 1
                                opened[stack[depth] & np.uint64(511)] -= 1
                        break
                    barrier = stack_kind[m]
                    if barrier == SCOPE_K or (barrier == SPECIAL_K and kind == OTHER_K):
                        break
        deepest = max(deepest, depth, num_active)
        if deepest > max_depth or nodes > max_nodes or most > max_tag_attributes or attributes > max_attributes:
            break
        if reopened > 4 * max_nodes:  # an estimate far above the truth: sloppy pages reopen few of what they could
            nodes += reopened
            break
    return deepest, nodes, most, attributes, names, marked, images, options


def _raw_end(data, i, name):  # type: ignore[no-untyped-def]
    """Where the end tag of a raw text element starts."""
    size = len(data)
    while i < size:
        if data[i] == 60 and i + 1 < size and data[i + 1] == 47:
            found = np.uint64(FNV)
            j = i + 2
            while j < size:
                b = data[j]
                if white(b) or b == 47 or b == 62:
                    break
                if 65 <= b <= 90:
                    b |= 32
                found = (found ^ np.uint64(b)) * np.uint64(PRIME)
                j += 1
            if found == name:
                return i
        i += 1
    return size


_find_raw_end: Callable[..., int] = compiled(_raw_end)
_compiled: Callable[..., tuple[int, ...]] = compiled(_scan)


def scan(html: bytes, limits: Limits) -> Counts:
    """Count a page in UTF-8."""
    bounds = np.array(
        (limits.depth, limits.nodes, limits.tag_attributes, limits.attributes, limits.names, limits.marked,
         limits.images, limits.options), np.int64,
    )  # fmt: skip
    found = _compiled(
        np.frombuffer(html, np.uint8),
        KEYS,
        KINDS,
        MERGED,
        MADE,
        COUNTED,
        MARKS,
        OUT,
        (AGAIN, MAYBE, FOREIGNERS),
        bounds,
    )
    depth, nodes, most, attributes, names, marked, images, options = map(int, found)
    return Counts(
        depth=depth, nodes=nodes, tag_attributes=most, attributes=attributes, names=names, marked=marked,
        images=images, options=options,
    )  # fmt: skip


def exceeded(counts: Counts, limits: Limits) -> tuple[Reason, int] | None:
    """The first limit that a page is over, and its count."""
    for reason, count, limit in (
        (Reason.TOO_DEEP, counts.depth, limits.depth),
        (Reason.TOO_MANY_NODES, counts.nodes, limits.nodes),
        (Reason.TOO_MANY_ATTRIBUTES, counts.tag_attributes, limits.tag_attributes),
        (Reason.TOO_MANY_ATTRIBUTES, counts.attributes, limits.attributes),
        (Reason.TOO_MANY_ATTRIBUTES, counts.names, limits.names),
        (Reason.TOO_MANY_ATTRIBUTES, counts.marked, limits.marked),
        (Reason.TOO_MANY_IMAGES, counts.images, limits.images),
        (Reason.TOO_MANY_NODES, counts.options, limits.options),
    ):
        if count > limit:
            return reason, count
    return None
