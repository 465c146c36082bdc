"""The scan before the parse: how deep, how many nodes and attributes the parser would make of a page.

lexbor is quadratic in nesting and in the attributes of one tag (100 thousand of either: over 18 s). One pass over the
bytes follows the tokenizer and keeps the stack of open elements; where tree construction is complicated it counts too
much rather than too little. Limits are counts, so the answer never depends on the machine.
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
IMPLIED = "p li dt dd option optgroup tr td th tbody thead tfoot colgroup caption rb rt rp rtc html head body plaintext"
FORMATTING = "a b big code em font i nobr s small strike strong tt u"
SCOPES = "table template object marquee applet"
SPECIAL = (
    "address article aside blockquote button center details dialog dir div dl fieldset figcaption figure footer form "
    "frameset h1 h2 h3 h4 h5 h6 header hgroup listing main menu nav noscript ol pre search section select summary ul "
    + SCOPES
)
FOREIGN = "svg math"
OTHER_K, VOID_K, RAW_K, IMPLIED_K, FORMATTING_K, SPECIAL_K, SCOPE_K, FOREIGN_K = range(8)
FNV, PRIME = 0xCBF29CE484222325, 0x100000001B3


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Generous: the deepest of 3,896 real pages counts 217 levels here, the largest 54 thousand nodes."""

    depth: int = 512
    nodes: int = 300_000
    tag_attributes: int = 256
    attributes: int = 500_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Upper estimates; each stops growing soon after its limit."""

    depth: int
    nodes: int
    tag_attributes: int
    attributes: int


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
MADE = np.array([_hash("p"), _hash("br")], np.uint64)  # an end tag that closes nothing makes an element


def _scan(data, keys, kinds, merged, made, max_depth, max_nodes, max_tag_attributes, max_attributes):  # type: ignore[no-untyped-def]
    """data u8[N] -> (depth, nodes, attributes of one tag, attributes); stops at the first limit that is exceeded."""
    size = len(data)
    stack = np.empty(max_depth + 2, np.uint64)
    stack_kind = np.empty(max_depth + 2, np.int64)
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
    foreign = 0
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
            elif foreign > 0 and n == 33 and i + 2 < size and data[i + 2] == 91:  # CDATA
                while i < size and not (data[i] == 62 and data[i - 1] == 93 and data[i - 2] == 93):
                    i += 1
                i += 1
            else:
                while i < size and data[i] != 62:
                    i += 1
                i += 1
            continue
        closing = n == 47
        j = i + 2 if closing else i + 1
        if not (97 <= (data[j] | 32) <= 122):
            if not text:
                text = True
                nodes += 1
            i += 1
            continue
        text = False
        name = np.uint64(FNV)
        while j < size:
            b = data[j]
            if b <= 32 or b == 47 or b == 62:
                break
            if 65 <= b <= 90:
                b |= 32
            name = (name ^ np.uint64(b)) * np.uint64(PRIME)
            j += 1
        raw = name
        # attributes, as the tokenizer reads them
        count = 0
        selfclosing = False
        while j < size:
            b = data[j]
            if b == 62:
                break
            if b <= 32 or b == 47:
                selfclosing = b == 47
                j += 1
                continue
            selfclosing = False
            count += 1
            start = j
            j += 1  # a leading "=" belongs to the name
            while j < size and data[j] != 61 and data[j] != 62 and data[j] != 47 and data[j] > 32:
                j += 1
            k = j
            while k < size and data[k] <= 32:
                k += 1
            if k < size and data[k] == 61:
                j = k + 1
                while j < size and data[j] <= 32:
                    j += 1
                if j < size and (data[j] == 34 or data[j] == 39):
                    quote = data[j]
                    j += 1
                    while j < size and data[j] != quote:
                        j += 1
                    j += 1
                else:
                    while j < size and data[j] > 32 and data[j] != 62:
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
        block = kind in (SPECIAL_K, SCOPE_K, IMPLIED_K)
        if block and foreign > 0 and not closing:  # HTML breaks out of svg
            while foreign > 0:
                depth -= 1
                if stack_kind[depth] == FOREIGN_K:
                    foreign -= 1
        if not closing:
            nodes += 1
            if block:
                reopened += num_active
            if kind == RAW_K and foreign == 0:
                i = _find_raw_end(data, i, name)
                nodes += 1
                continue
            if kind in (VOID_K, IMPLIED_K) or (selfclosing and foreign > 0):
                continue
            stack[depth] = name
            stack_kind[depth] = kind
            depth += 1
            if kind == FOREIGN_K:
                foreign += 1
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
            if kind not in (VOID_K, IMPLIED_K):
                for m in range(depth - 1, -1, -1):
                    if stack[m] == name:
                        if kind == FORMATTING_K:  # only it goes; what it holds stays
                            for q in range(m, depth - 1):
                                stack[q] = stack[q + 1]
                                stack_kind[q] = stack_kind[q + 1]
                            depth -= 1
                        else:
                            while depth > m:
                                depth -= 1
                                if stack_kind[depth] == FOREIGN_K:
                                    foreign -= 1
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
    return deepest, nodes, most, attributes


def _raw_end(data, i, name):  # type: ignore[no-untyped-def]
    """Where the end tag of a raw text element starts."""
    size = len(data)
    while i < size:
        if data[i] == 60 and i + 1 < size and data[i + 1] == 47:
            found = np.uint64(FNV)
            j = i + 2
            while j < size:
                b = data[j]
                if b <= 32 or b == 47 or b == 62:
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
_compiled: Callable[..., tuple[int, int, int, int]] = compiled(_scan)


def scan(html: bytes, limits: Limits) -> Counts:
    """Count a page in UTF-8."""
    depth, nodes, most, attributes = _compiled(
        np.frombuffer(html, np.uint8), KEYS, KINDS, MERGED, MADE,
        limits.depth, limits.nodes, limits.tag_attributes, limits.attributes,
    )  # fmt: skip
    return Counts(depth=int(depth), nodes=int(nodes), tag_attributes=int(most), attributes=int(attributes))


def exceeded(counts: Counts, limits: Limits) -> tuple[Reason, int] | None:
    """The first limit that a page is over, and its count."""
    if counts.depth > limits.depth:
        return Reason.TOO_DEEP, counts.depth
    if counts.nodes > limits.nodes:
        return Reason.TOO_MANY_NODES, counts.nodes
    if counts.tag_attributes > limits.tag_attributes:
        return Reason.TOO_MANY_ATTRIBUTES, counts.tag_attributes
    if counts.attributes > limits.attributes:
        return Reason.TOO_MANY_ATTRIBUTES, counts.attributes
    return None
