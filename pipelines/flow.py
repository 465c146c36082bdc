"""Tokens to blocks: the stack of open elements, what they mean for the text in them, and the spans they leave.

One pass; the text of all blocks goes to one buffer, white space folded as `str.split` would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines import tags as t
from pipelines.alphabet import classes
from pipelines.buffer import (
    AT,
    BEGIN,
    CELLS,
    ENTRIES,
    FALLBACK_AT,
    IMAGES,
    LAZY_AT,
    LINKED,
    METAS,
    NEWLINE,
    NUM_LINKS,
    PENDING,
    PIECES,
    ROWS,
    SOLID,
    SPANS,
    TABLES,
    TOO_MANY,
    append,
    blank,
    letters,
    preformatted,
)
from pipelines.kernel import compiled
from pipelines.phrases import MEANINGS, PHRASES, said
from pipelines.tags import Array
from pipelines.tokens import Page

Kernel = Callable[..., Any]

SPARE = 34  # levels beyond the depth that `tokens` counts; what is deeper still is not read
# Columns of the stack after the tag: what an open element means for what is in it.
LEAVE, BEGAN, KIND, LEVEL, LISTS, LINK_IN, FIGURE_AT, CONTENT, MUTED_IN, NOSCRIPT_IN, CELL_OF, TABLE_OF, BUTTON_IN = (
    range(1, 14)
)
P_N, LI_N, HR_N, ADDRESS_N, FIGCAPTION_N, NOSCRIPT_N, DIALOG_N, HEADER_N, FOOTER_N, NAV_N = map(
    t.TAGS.index, ["p", "li", "hr", "address", "figcaption", "noscript", "dialog", "header", "footer", "nav"]
)
FORM_N, ASIDE_N, BUTTON_N = map(t.TAGS.index, ["form", "aside", "button"])
ARTICLE_N, MAIN_N, FIGURE_N, BODY_N, TBODY_N, THEAD_N, TFOOT_N, UL_N, OL_N, DIR_N, MENU_N, TABLE_N, TR_N = map(
    t.TAGS.index,
    ["article", "main", "figure", "body", "tbody", "thead", "tfoot", "ul", "ol", "dir", "menu", "table", "tr"],
)
TH_N, SECTION_N, TITLE_N, META_N = map(t.TAGS.index, ["th", "section", "title", "meta"])


NAMES = t.NAMED | t.WEAK | t.REMARKS


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """The blocks of a page."""

    text: bytes
    entries: Array  # i32[E, 14], the columns of `marks`
    spans: Array  # i32[S, 3]: what, first entry, entry after the last
    images: list[int]  # tokens
    metas: list[int]  # tokens
    too_many_images: int


def blocks(page: Page, answers: list[int], max_images: int) -> Blocks:
    """The blocks of a page; answers: the flags of its asks."""
    num = len(page.what)
    out = np.empty(len(page.data) + 2 * num + 16, np.uint8)
    entries, spans = np.empty((num + 2, 14), np.int32), np.empty((num + 2, 3), np.int32)
    images, metas = np.empty(num, np.int32), np.empty(num, np.int32)
    # Tag, leave, entry where it began, then the context inside. Scripts within svg can hide tags from the depth.
    stack = np.zeros((page.depth + SPARE, 14), np.int32)
    stack[0, FIGURE_AT] = -1
    now = np.zeros(18, np.int64)
    now[LAZY_AT] = now[FALLBACK_AT] = -1
    walk(
        page.data, page.what, page.tags, page.begins, page.ends, page.flags, page.same,
        np.array([*answers, 0], np.int32), page.address, num, t.TRAITS, max_images, out, entries, spans,
        images, metas, classes(), PHRASES, MEANINGS, stack, now,
    )  # fmt: skip
    return Blocks(
        text=out[: now[AT]].tobytes(),
        entries=entries[: now[ENTRIES]],
        spans=spans[: now[SPANS]],
        images=images[: now[IMAGES]].tolist(),
        metas=metas[: now[METAS]].tolist(),
        too_many_images=int(now[TOO_MANY]),
    )


def _flush(now, row, entries, out, table, phrases, meanings):  # type: ignore[no-untyped-def]
    """End the open block; whether there was one."""
    if now[PIECES] == 0:
        return False
    solid = now[SOLID] != 0
    if solid:
        if row[KIND] == t.PRE:
            now[AT] = preformatted(out, now[BEGIN], now[AT])
        entry = entries[now[ENTRIES]]
        entry[0], entry[1], entry[2], entry[3] = now[BEGIN], now[AT], row[KIND], row[LEVEL]
        entry[4], entry[5], entry[6], entry[7] = -1, now[LINKED], now[NUM_LINKS], row[FIGURE_AT] >= 0
        entry[8] = entry[9] = entry[10] = 0
        if row[CELL_OF]:
            entry[8], entry[9], entry[10] = row[CELL_OF], now[ROWS], row[TABLE_OF]
        entry[11] = 0
        for i in range(now[BEGIN], now[AT]):
            entry[11] += (out[i] & 0xC0) != 0x80
        entry[12] = letters(out, now[BEGIN], now[AT], table) if now[NUM_LINKS] or row[CELL_OF] else 0
        entry[13] = said(out, now[BEGIN], now[AT], phrases, meanings)
        now[ENTRIES] += 1
        now[LINKED] = now[NUM_LINKS] = 0
        now[BEGIN] = now[AT]
    now[AT] = now[BEGIN]
    now[PIECES] = now[SOLID] = now[PENDING] = now[NEWLINE] = 0
    return solid


def _leave(row, out, now, entries, spans, table, phrases, meanings):  # type: ignore[no-untyped-def]
    """What the end of an element means; row: its own."""
    what = row[LEAVE]
    if what == t.NOTHING:
        return
    if what == t.GAP:
        blank(32, row[KIND] == t.PRE, out, now)
        return
    flush(now, row, entries, out, table, phrases, meanings)
    start, end = row[BEGAN], now[ENTRIES]
    caption = what == t.LEGEND and row[FIGURE_AT] < 0 and start > 0 and entries[start - 1, 4] >= 0
    if what == t.BODY or what == t.FIGURE or caption or (t.BOX <= what < t.BODY and end > start):
        span = spans[now[SPANS]]
        span[0], span[1], span[2] = what, start - caption, end
        now[SPANS] += 1


def _picture(  # type: ignore[no-untyped-def]
    row, token, linked, flag, address, images, max_images, out, now, entries, table, phrases, meanings
):  # fmt: skip
    """An image, unless it repeats what scripts would have loaded."""
    num = now[IMAGES]
    if num == max_images:
        now[TOO_MANY] += 1
        return
    if not flag & t.PICTURED:
        return
    again = num > 0 and address[images[num - 1]] == address[token]
    if row[NOSCRIPT_IN] and (now[LAZY_AT] == now[ENTRIES] or again):
        return
    if again and now[FALLBACK_AT] == now[ENTRIES]:  # the fallback stands before what it falls back from
        return
    if now[PIECES] and not flush(now, row, entries, out, table, phrases, meanings):
        blank(32, row[KIND] == t.PRE, out, now)
    entry = entries[now[ENTRIES]]
    entry[:] = 0
    entry[4] = num
    entry[5] = linked
    entry[7] = row[FIGURE_AT] >= 0 or (row[BUTTON_IN] == 1 and flag & t.LARGE != 0)
    images[num] = token
    now[IMAGES] += 1
    now[ENTRIES] += 1
    now[LAZY_AT] = now[ENTRIES] if flag & t.LAZY else -1
    now[FALLBACK_AT] = now[ENTRIES] if row[NOSCRIPT_IN] else -1


def _named(plain, flag):  # type: ignore[no-untyped-def]
    """The kind of span of an element with these names; plain: if it has none that say anything."""
    return t.SOFT if flag & t.NAMED else t.COMMENTS if flag & t.REMARKS else t.FAINT if flag & t.WEAK else plain


def _open(row, tag, flag, traits, now):  # type: ignore[no-untyped-def]
    """The context inside an element that is no inline one; False if it is not entered."""
    role = traits[tag, 0]
    kind = row[KIND]
    if role == t.BLOCK:
        legend = tag == FIGCAPTION_N or (tag == P_N and flag & t.CAPTION)
        row[LEAVE] = t.LEGEND if legend else t.BLOCK_END
        if legend:
            row[KIND] = t.FIGCAPTION
            row[LEVEL] = 0
        elif tag == P_N:
            row[KIND] = t.PARAGRAPH if kind == t.OTHER else kind
        elif tag != HR_N and tag != ADDRESS_N:
            row[KIND] = traits[tag, 3]
            row[LEVEL] = max(1, row[LISTS]) if tag == LI_N else traits[tag, 4]
        if not legend and (tag == LI_N or flag & NAMES):
            row[LEAVE] = named(t.BOX, flag)
        return True
    row[LEAVE] = t.BOX
    if tag == NOSCRIPT_N:
        row[LEAVE] = t.BLOCK_END
        row[NOSCRIPT_IN] = row[MUTED_IN] = 1
        return True
    if role == t.STRUCTURE:
        if tag == DIALOG_N and not flag & t.OPEN:
            return False
        ours = tag == HEADER_N and row[CONTENT]
        ours |= tag == FOOTER_N and (kind == t.QUOTE or row[FIGURE_AT] >= 0)
        ours |= tag == BUTTON_N and t.HEADING <= kind < t.HEADING + 6  # an accordion opens by its headings
        row[BUTTON_IN] |= tag == BUTTON_N
        if not ours:
            row[LEAVE] = t.REGION
            if tag == NAV_N:
                row[LEAVE] = t.BARE
            elif tag == FORM_N:
                row[LEAVE] = t.FORM
            elif row[CONTENT] and tag in (ASIDE_N, FOOTER_N):
                row[LEAVE] = named(t.ASIDE, flag)
    elif tag in (ARTICLE_N, MAIN_N) or flag & t.MAIN:
        row[CONTENT] = 1
        row[LEAVE] = t.BODY
        return True
    elif tag == FIGURE_N:
        row[FIGURE_AT] = now[ENTRIES]
        row[KIND] = t.OTHER
        row[LEAVE] = t.FIGURE
        return True
    elif tag in (BODY_N, TBODY_N, THEAD_N, TFOOT_N):
        return True
    if row[LEAVE] == t.BOX:
        row[LEAVE] = named(t.BOX, flag)
    if tag in (UL_N, OL_N, DIR_N, MENU_N):
        row[LISTS] = min(row[LISTS] + 1, 100)
    elif tag == TABLE_N:
        now[TABLES] += 1
        row[CELL_OF] = 0
        row[TABLE_OF] = now[TABLES]
    elif tag == TR_N:
        now[ROWS] += 1
    elif role == t.CELL:
        now[CELLS] += 1
        row[CELL_OF] = now[CELLS]
        if not (kind in (t.PRE, t.FIGCAPTION) or t.HEADING <= kind < t.HEADING + 6):  # a table in a list is a table
            row[KIND] = t.TH if tag == TH_N else t.OTHER
    elif tag == SECTION_N:
        row[CONTENT] = 1
    elif flag & t.CAPTION:
        row[KIND] = t.FIGCAPTION
        row[LEVEL] = 0
        row[LEAVE] = t.LEGEND
    return True


def _walk(  # type: ignore[no-untyped-def]
    data, what, tags, begins, ends, flags, same, answers, address, num, traits, max_images, out, entries,
    spans, images, metas, table, phrases, meanings, stack, now,
):  # fmt: skip
    """Tokens -> now i64[18], as `blocks` starts it: how many rows of entries, spans, images and metas were written.

    entries i32[,14]: begin and end in out, kind, level, image, characters linked, links, figure, cell, row, table,
    characters, letters where there are links or cells, what it says.
    spans i32[,3]: what, first entry, entry after the last. images, metas: tokens. address: equal for equal pictures.
    """
    top = 0
    i = 0
    while i < num:
        token = i
        i += 1
        row = stack[top]
        kind = what[token]
        if kind <= t.VERBATIM:
            if not row[MUTED_IN] and ends[token] > begins[token]:
                chars = append(data, begins[token], ends[token], row[KIND] == t.PRE, kind == t.TEXT, out, now)
                if row[LINK_IN]:
                    now[LINKED] += chars
            continue
        if kind == t.BLANK:
            if not row[MUTED_IN]:
                if row[KIND] == t.PRE:
                    append(data, begins[token], ends[token], True, False, out, now)
                else:
                    now[PIECES] += 1
                    now[NEWLINE] = ends[token] - begins[token] == 1 and data[begins[token]] == 10
                    now[PENDING] = 1
            continue
        if kind == t.END:
            place = top
            while place > 0 and stack[place, 0] != tags[token]:
                place -= 1
            if place == 0:
                continue
            while top >= place:
                row = stack[top]
                if traits[row[0], 0] == t.PICTURE and same[token] >= 0 and answers[same[token]] & t.PICTURED:
                    flag = answers[same[token]]
                    picture(
                        row, token, row[LINK_IN] == 1, flag, address, images, max_images, out, now, entries, table,
                        phrases, meanings,
                    )  # fmt: skip
                leave(row, out, now, entries, spans, table, phrases, meanings)
                top -= 1
            continue
        tag, flag = tags[token], flags[token]
        if same[token] >= 0:
            flag |= answers[same[token]]
        role, void = traits[tag, 0], traits[tag, 1]
        if role == t.BREAK:
            if now[NEWLINE] and row[KIND] != t.PRE:
                flush(now, row, entries, out, table, phrases, meanings)
            else:
                blank(10, row[KIND] == t.PRE, out, now)
            continue
        if role == t.META:
            if tag in (TITLE_N, META_N):
                metas[now[METAS]] = token
                now[METAS] += 1
            continue
        if role == t.IMG:
            picture(
                row, token, row[LINK_IN] == 1, flag, address, images, max_images, out, now, entries, table, phrases,
                meanings,
            )  # fmt: skip
            if void:
                continue
        # what an <amp-img> holds is its fallback
        entered = role != t.IMG and not flag & t.HIDDEN and not (role == t.SPACED and flag & t.UNSEEN)
        entered = entered and top + 1 < len(stack)
        if entered:
            inner = stack[top + 1]
            inner[0], inner[LEAVE] = tag, t.NOTHING
            for column in range(KIND, len(row)):
                inner[column] = row[column]
            if flag & t.MUTED:
                inner[MUTED_IN] = 1
            if role == t.LINK:
                now[NUM_LINKS] += 1
                inner[LINK_IN] = 2 if flag & t.SHOWS else 1 if flag & t.LINKS else 0
            elif role == t.SPACED:
                inner[LEAVE] = t.GAP if flag & t.NUMBER else t.NOTHING
            elif role == t.UNKNOWN:
                blank(32, row[KIND] == t.PRE, out, now)
                inner[LEAVE] = t.GAP
            elif role != t.PICTURE:
                flush(now, row, entries, out, table, phrases, meanings)
                entered = opened(inner, tag, flag, traits, now)
                inner[BEGAN] = now[ENTRIES]
        if void:
            if entered and role == t.UNKNOWN:
                blank(32, row[KIND] == t.PRE, out, now)
        elif entered:
            top += 1
        else:
            open_ = 1
            while open_ and i < num:
                if what[i] == t.START:
                    open_ += not traits[tags[i], 1] and tags[i] != TITLE_N
                elif what[i] == t.END:
                    open_ -= 1
                i += 1
    while top >= 0:
        leave(stack[top], out, now, entries, spans, table, phrases, meanings)
        top -= 1
    flush(now, stack[0], entries, out, table, phrases, meanings)


named: Kernel = compiled(_named, allocates=False)
flush: Kernel = compiled(_flush, allocates=False)
leave: Kernel = compiled(_leave, allocates=False)
picture: Kernel = compiled(_picture, allocates=False)
opened: Kernel = compiled(_open, allocates=False)
walk: Kernel = compiled(_walk, allocates=False)
