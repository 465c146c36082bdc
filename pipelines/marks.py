"""What of a page is not its content: decided on the flat list of its blocks, because a container that holds most of a
page's text is its content whatever it is called. Every step is linear in the entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines import phrases as p
from pipelines import tags as t
from pipelines.kernel import compiled
from pipelines.sections import cut_sections, mark_phrases, mark_regions, prose, trim
from pipelines.tags import Array
from pipelines.trees import tree

Kernel = Callable[..., Any]

TABLE_CELL = 300  # characters; a table with longer cells is a layout, and its cells are prose
RELATED = 3  # link-only blocks in a row that make a list of links
LINK_SHARE = 0.8  # of the characters of a block that is nothing but links
LINK_CHARS = 300  # a longer link is prose
MAIN_SHARE = 2 / 3
# Columns of entries.
BEGIN, END, KIND, LEVEL, IMAGE, LINKED, LINKS, FIGURE, CELL, ROW, TABLE, CHARS, LETTERS, SAYS = range(14)


def mark(entries: Array, spans: Array) -> tuple[Array, Array]:
    """(drop, group): entries that are not content, and for cells of one table the first of them, else -1.

    Kinds change in place: the first of joined cells becomes a table.
    """
    why, group = reasons(entries, spans)
    return why > 0, group


def reasons(entries: Array, spans: Array) -> tuple[Array, Array]:
    """As `mark`, with which step dropped an entry: the first of them is 1, 0 where it stays."""
    why, group = np.zeros(len(entries), np.int8), np.full(len(entries), -1, np.int32)
    drop = np.zeros(len(entries), np.bool_)
    decide(entries, spans, drop, group, why)
    return why, group


def _decide(entries, spans, drop, group, why):  # type: ignore[no-untyped-def]
    """All steps in one call: each costs Python some microseconds, which are most of the time of a small page."""
    num = len(entries)
    parent, owner = np.empty(len(spans), np.int32), np.empty(num, np.int32)
    tree(spans, parent, owner, np.empty(num + 1, np.int32))
    mark_regions(entries, spans, parent, owner, drop)
    note(drop, why, 1)
    mark_phrases(entries, drop)
    note(drop, why, 2)
    cut_sections(entries, spans, parent, owner, drop)
    note(drop, why, 3)
    join_cells(entries, drop, group)
    note(drop, why, 4)
    mark_links(entries, parent, owner, drop)
    note(drop, why, 5)
    mark_outside(entries, spans, drop)
    note(drop, why, 6)
    trim(entries, spans, parent, owner, drop)
    note(drop, why, 7)


def _note(drop, why, step):  # type: ignore[no-untyped-def]
    """Which step dropped an entry."""
    for i in range(len(drop)):
        if drop[i] and why[i] == 0:
            why[i] = step


def _join(entries, drop, group):  # type: ignore[no-untyped-def]
    """Runs of short cells of one table become one block; images and cells of prose break the run and stay."""
    num = len(entries)
    first = last = -1
    for i in range(num + 1):
        if i < num and drop[i]:
            continue
        short = False
        if i < num:
            entry = entries[i]
            kind = entry[KIND]
            short = entry[IMAGE] < 0 and entry[CELL] > 0 and entry[CHARS] <= TABLE_CELL
            short &= kind == t.PARAGRAPH or kind == t.OTHER or kind == t.TH
        if first >= 0 and (not short or entries[i, TABLE] != entries[first, TABLE]):
            if last > first or entries[first, KIND] == t.TH:
                entries[first, KIND] = t.TABLE
                entries[first, LEVEL] = 0
            else:
                group[first] = -1
            first = -1
        if not short:
            continue
        if first < 0:
            first = last = i
        else:
            head = entries[first]
            if entries[i, ROW] == entries[last, ROW] and entries[i, CELL] != entries[last, CELL]:
                head[CHARS] += 2  # " | " where else is one character
            head[CHARS] += entries[i, CHARS] + 1
            head[LETTERS] += entries[i, LETTERS]
            head[LINKED] += entries[i, LINKED]
            head[LINKS] += entries[i, LINKS]
            drop[i] = True
            last = i
        group[i] = first
    for i in range(num):
        if entries[i, KIND] == t.TH:
            entries[i, KIND] = t.OTHER


def _links(entries, parent, owner, drop):  # type: ignore[no-untyped-def]
    """Mark runs of blocks that are nothing but links, with the images that link on and the heading above."""
    num = len(entries)
    run = np.empty(num, np.int32)
    size = blocks = 0
    heading = -1
    for i in range(num + 1):
        titled = True
        if i < num:
            if drop[i]:
                continue
            entry = entries[i]
            if entry[IMAGE] >= 0:
                if size or entry[LINKED]:
                    run[size] = i
                    size += 1
                continue
            links, linked, chars = entry[LINKS], entry[LINKED], entry[CHARS]
            only = links > 0 and 2 * linked >= chars and chars <= LINK_CHARS * links
            only = only and linked >= LINK_SHARE * entry[LETTERS]
            if only and (size or not t.HEADING <= entry[KIND] <= t.HEADING + 1):
                run[size] = i
                size += 1
                blocks += 1
                continue
            titled = t.HEADING <= entry[KIND] < t.HEADING + 6
        several = blocks >= RELATED
        if blocks == 1:
            for place in run[:size]:
                several |= entries[place, IMAGE] < 0 and entries[place, LINKS] >= RELATED
        spared = 0  # references: what stands under their heading in its container
        if several and heading >= 0 and entries[heading, SAYS] & p.KEPT:
            for place in run[:size]:
                s = owner[place]
                for _ in range(2):
                    if s >= 0 and s != owner[heading]:
                        s = parent[s]
                if s != owner[heading]:
                    break
                spared += 1
        if several:
            for place in run[spared:size]:
                if entries[place, IMAGE] < 0 or (entries[place, LINKED] and not entries[place, FIGURE]):
                    drop[place] = True
            # A heading of nothing else goes, too; one of the whole page, or of what follows, stays.
            if heading >= 0 and titled and not spared and entries[heading, LEVEL] > 1:
                after = i < num and not t.HEADING <= entries[i, KIND] < t.HEADING + 6
                if not after or entries[heading, KIND] > t.HEADING + 1:
                    drop[heading] = True
        size = blocks = 0
        heading = i if i < num and titled else -1


def _outside(entries, spans, drop):  # type: ignore[no-untyped-def]
    """Mark what stands outside the smallest main element that holds most of what is left."""
    num = len(entries)
    sums = np.zeros(num + 1, np.int64)
    for i in range(num):
        sums[i + 1] = sums[i] + (0 if drop[i] else entries[i, CHARS])
    if sums[num] == 0:
        return
    first = last = -1
    for s in range(len(spans)):  # inner ones come first
        start, end = spans[s, 1], spans[s, 2]
        if spans[s, 0] != t.BODY or sums[end] - sums[start] < MAIN_SHARE * sums[num]:
            continue
        if first < 0 or end - start < last - first or (end - start == last - first and start < first):
            first, last = start, end
    if first < 0:
        return
    # A main element around it holds what leads to the article, as prose.
    outer, behind = first, last
    for s in range(len(spans)):
        if spans[s, 0] == t.BODY and spans[s, 1] <= first and last <= spans[s, 2]:
            outer, behind = min(outer, spans[s, 1]), max(behind, spans[s, 2])
    for i in range(num):
        if not first <= i < last and not entries[i, FIGURE] and not (entries[i, KIND] == t.HEADING and i < first):
            drop[i] = drop[i] or not (outer <= i < behind and prose(entries[i]) > 0)


join_cells: Kernel = compiled(_join)
mark_links: Kernel = compiled(_links)
mark_outside: Kernel = compiled(_outside)
note: Kernel = compiled(_note, allocates=False)
decide: Kernel = compiled(_decide)
