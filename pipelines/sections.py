"""What of a page is not its content, by containers and by what short blocks say.

A container goes by its name or role, unless it holds most of the page or prose of its own within the main text; a short
block by its phrase; what follows a heading as "Related" or "Comments" with it, to the end of its container.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines import phrases as p
from pipelines import tags as t
from pipelines.kernel import compiled

Kernel = Callable[..., Any]

# Columns of entries, as in `marks`.
BEGIN, END, KIND, LEVEL, IMAGE, LINKED, LINKS, FIGURE, CELL, ROW, TABLE, CHARS, LETTERS, SAYS = range(14)
TERM, MEANING = 12, 13  # dt, dd
UNDO_SHARE = 0.5  # of the text of a page, from which on a container is its content whatever it is called
PROSE_BYTES = 80  # of a block that ends as a sentence; bytes, since a sign of Chinese says as much as three letters
LONG_BYTES = 160  # of a block that needs no full stop
OWN_PROSE = 80  # bytes of prose that make content of a container with a weak name
FORM_PROSE = 200
ASIDE_PROSE = 100
ASIDE_CHARS = 60
LINE_CHARS = 120  # of a line that begins with a phrase
LABEL_CHARS = 80
TITLE_CHARS = 100  # of what stands above the title
KICKER_CHARS = 40
POSTED_CHARS = 400
RIGHTS_CHARS = 200
FOOT_CHARS = 300
SECTIONS = 3  # headings before a "See also" that is of the text
SECTION_SHARE = 0.35  # of the prose of a page that goes with a heading at most
BEFORE_REMARKS = 250  # bytes of prose on which readers remark
AMID_SHARE = 0.1  # of the prose of a page, above a box and below it
THREAD_PROSE = 600  # bytes of a post up to which longer answers are a thread
CONTENTS = p.GONE | p.LINE | p.SECTION | p.REMARKS


def _heading(entry):  # type: ignore[no-untyped-def]
    return entry[IMAGE] < 0 and t.HEADING <= entry[KIND] < t.HEADING + 6


def _prose(entry):  # type: ignore[no-untyped-def]
    """Bytes of an entry that is prose or code, else 0."""
    if entry[IMAGE] >= 0 or t.HEADING <= entry[KIND] < t.HEADING + 6:
        return 0
    size = entry[END] - entry[BEGIN]
    if entry[KIND] == t.PRE:
        return size if entry[SAYS] & p.COUNTS == 0 else 0
    if size < PROSE_BYTES or 2 * entry[LINKED] > entry[CHARS]:
        return 0
    if size < LONG_BYTES and not entry[SAYS] & p.ENDS:
        return 0
    if (
        entry[SAYS] & (p.TAIL | p.RIGHTS | p.LINE)
        and (entry[CHARS] < LINE_CHARS or entry[SAYS] & p.RIGHTS)
        and entry[CHARS] < FOOT_CHARS
    ):
        return 0
    return size


def _regions(entries, spans, parent, owner, drop):  # type: ignore[no-untyped-def]
    """Mark what stands in a region that is not content; figures stay, save in a nav."""
    num = len(entries)
    # Up to an entry: characters, characters linked, bytes of prose.
    sums, links, texts = np.zeros(num + 1, np.int64), np.zeros(num + 1, np.int64), np.zeros(num + 1, np.int64)
    for i in range(num):
        sums[i + 1] = sums[i] + entries[i, CHARS]
        links[i + 1] = links[i] + (entries[i, LINKED] if entries[i, IMAGE] < 0 else 0)
        texts[i + 1] = texts[i] + prose(entries[i])
    # How many dropped regions begin or end at an entry: all, and those that keep no figure.
    edges, strict = np.zeros(num + 1, np.int32), np.zeros(num + 1, np.int32)
    body = np.zeros(len(spans), np.bool_)
    for s in range(len(spans) - 1, -1, -1):
        body[s] = spans[s, 0] == t.BODY or (parent[s] >= 0 and body[parent[s]])
    # Readers' remarks: where they begin, in how many places they stand, their prose and the prose among and below them.
    remarks, said, times = num, 0, 0
    within = np.zeros(num + 1, np.int32)
    for s in range(len(spans)):
        if spans[s, 0] == t.COMMENTS:
            within[spans[s, 1]] += 1
            within[spans[s, 2]] -= 1
    depth, begun = 0, -1
    for i in range(num + 1):
        depth += within[i]
        if depth > 0 and begun < 0:
            begun = i
        elif depth == 0 and begun >= 0:
            if texts[i] > texts[begun]:  # a link to them says nothing yet
                remarks = min(remarks, begun)
                said += texts[i] - texts[begun]
                times += 1
            begun = -1
    below = texts[num] - texts[remarks] - said
    before = max(texts[remarks], (sums[remarks] - links[remarks]) // 3)  # verses are no prose
    shown = False  # a picture is a page of its own, however little is said of it
    for i in range(remarks if remarks < num else 0):
        shown |= entries[i, IMAGE] >= 0 and owner[i] >= 0 and body[owner[i]] and entries[i, LINKED] == 0
    thread = before < THREAD_PROSE and said > before and not shown
    thread |= times > 1 and 4 * below > texts[num]
    for s in range(len(spans)):
        what, start, end = spans[s, 0], spans[s, 1], spans[s, 2]
        if what < t.REGION or what >= t.BODY:
            continue
        chars, linked, own = sums[end] - sums[start], links[end] - links[start], texts[end] - texts[start]
        dense = 10 * linked > 3 * chars
        keep = chars > UNDO_SHARE * sums[num]
        if what == t.BARE:
            keep = False
        elif what == t.FAINT:
            above = owner[start - 1] if start > 0 else -1
            under = owner[end] if end < num else -1
            inline = (start > 0 and above == parent[s]) or (end < num and under == parent[s])
            # Amid the prose of the page: what stands beside the main text comes before or after it.
            inline |= min(texts[start], texts[num] - texts[end]) >= AMID_SHARE * texts[num]
            if under >= 0 and above >= 0 and parent[under] == parent[s] and prose(entries[end]):
                for _ in range(4):  # prose follows beside it, and what is before is no deeper than a heading's box
                    if above >= 0 and above != parent[s]:
                        above = parent[above]
                inline |= above == parent[s]
            if start > 0 and heading(entries[start - 1]) and entries[start - 1, SAYS] & p.KEPT:
                inline, dense = True, False
                own = OWN_PROSE
            keep |= own >= OWN_PROSE and not dense and (body[s] or inline)
            keep |= (body[s] or inline) and chars >= ASIDE_CHARS and linked == 0 and not entries[start, SAYS] & CONTENTS
        elif what == t.ASIDE or what == t.FORM:
            enough = own >= (ASIDE_PROSE if body[s] else FORM_PROSE)
            if what == t.ASIDE:
                enough = chars >= ASIDE_CHARS
                for i in range(start, min(end, start + 3)):
                    enough |= entries[i, KIND] == t.QUOTE
            if enough and not dense and own < 2 * FORM_PROSE:
                for i in range(start, end):
                    short = entries[i, CHARS] <= KICKER_CHARS or entries[i, SAYS] & p.RIGHTS
                    enough &= not short or entries[i, SAYS] & (CONTENTS | p.TAIL | p.RIGHTS) == 0
            keep |= enough and not dense
        elif what == t.COMMENTS:
            keep = thread
        if keep:
            continue
        edges[start] += 1
        edges[end] -= 1
        strict[start] += what != t.REGION and what != t.ASIDE
        strict[end] -= what != t.REGION and what != t.ASIDE
    inside = closed = 0
    for i in range(num):
        inside += edges[i]
        closed += strict[i]
        drop[i] = closed > 0 or (inside > 0 and not entries[i, FIGURE])
    # A page whose title is in its header, and nowhere else.
    title = -1
    for i in range(num):
        if prose(entries[i]) and not drop[i]:
            break
        if heading(entries[i]) and entries[i, LEVEL] <= 2 and not entries[i, SAYS] & CONTENTS:
            if not drop[i]:
                title = -1
                break
            main = entries[i, LEVEL] == 1 or (owner[i] >= 0 and body[owner[i]])
            if main and entries[i, LINKED] == 0 and title < 0:
                title = i
    if title >= 0:
        drop[title] = False


def _phrases(entries, drop):  # type: ignore[no-untyped-def]
    """Mark short blocks that say what only the chrome of a page says."""
    num = len(entries)
    for i in range(num):
        entry = entries[i]
        says = entry[SAYS]
        if drop[i] or says == 0 or entry[IMAGE] >= 0 or heading(entry) or entry[KIND] in (TERM, t.TH):
            continue
        if says & p.COUNTS and (entry[KIND] == t.PRE or entry[CELL]):
            drop[i] = True
            continue
        if entry[KIND] == t.PRE or entry[KIND] == t.FIGCAPTION or entry[KIND] == t.QUOTE:
            continue
        linked = entry[LINKS] > 0 and 3 * entry[LINKED] >= entry[CHARS]
        if entry[CELL] and not linked:  # a cell beside others is a value
            if i + 1 < num and entries[i + 1, ROW] == entry[ROW] and entries[i + 1, CELL] != entry[CELL]:
                continue
            if i > 0 and entries[i - 1, ROW] == entry[ROW] and entries[i - 1, CELL] != entry[CELL]:
                continue
        if (says & p.GONE and entry[CHARS] <= LINE_CHARS) or (says & p.POSTED and entry[CHARS] <= POSTED_CHARS):
            drop[i] = True
        elif says & p.LINE and entry[CHARS] <= LINE_CHARS:
            room = KICKER_CHARS if entry[KIND] == t.ITEM else LABEL_CHARS
            drop[i] = linked or (says & (p.ENDS | p.COLON) == p.COLON and entry[CHARS] <= room)


def _sections(entries, spans, parent, owner, drop):  # type: ignore[no-untyped-def]
    """Cut what a heading says is about other pages, or by readers: its container, or as far as it reaches."""
    num = len(entries)
    # Up to an entry: bytes of prose that stays, characters, blocks, blocks that link on.
    texts, sizes = np.zeros(num + 1, np.int64), np.zeros(num + 1, np.int64)
    blocks, links = np.zeros(num + 1, np.int64), np.zeros(num + 1, np.int64)
    stops = np.full(num + 1, num, np.int64)  # the next heading or prose from an entry on
    for i in range(num):
        entry = entries[i]
        texts[i + 1] = texts[i] + (0 if drop[i] else prose(entry))
        sizes[i + 1] = sizes[i] + entry[CHARS]
        block = entry[IMAGE] < 0
        blocks[i + 1] = blocks[i] + block
        # a link may hold several
        links[i + 1] = links[i] + (block and entry[LINKED] > 0 and 2 * entry[LINKED] >= entry[CHARS])
    for i in range(num - 1, -1, -1):
        stops[i] = i if heading(entries[i]) or prose(entries[i]) else stops[i + 1]
    levels = np.zeros(8, np.int32)
    i = 0
    while i < num:
        entry = entries[i]
        says = entry[SAYS]
        titled = heading(entry)
        label = titled or (entry[IMAGE] < 0 and entry[CHARS] <= KICKER_CHARS and not says & p.ENDS)
        loose = entry[KIND] == t.FIGCAPTION and not entry[FIGURE]
        label &= titled or loose or entry[KIND] == t.OTHER or entry[KIND] == t.PARAGRAPH
        if drop[i] or not label or not says & (p.SECTION | p.REMARKS) or entry[CHARS] > LABEL_CHARS:
            if titled and not drop[i]:
                levels[entry[LEVEL]] += 1
            i += 1
            continue
        if says & p.KEPT and titled and levels.sum() >= SECTIONS:  # "See also" of a manual
            i += 1
            continue
        s = owner[i]
        while s >= 0 and spans[s, 2] <= i + 1:
            s = parent[s]
        if s < 0 or texts[num] == 0:
            i += 1
            continue
        first, end = i, spans[s, 2]
        if spans[s, 1] < i:  # the container holds more: as far as the next heading like it
            j = i + 1 if titled else min(end, stops[i + 1])
            while titled and j < end:
                if not drop[j] and heading(entries[j]) and entries[j, LEVEL] <= entry[LEVEL]:
                    break
                j += 1
            end = j
        own = texts[end] - texts[first]
        alone = i + 1 == num or entries[i + 1, ROW] != entry[ROW] or entries[i + 1, CELL] == entry[CELL]
        linked = links[end] - links[first + 1]
        mostly = linked > 0 and 3 * linked >= blocks[end] - blocks[first + 1]  # teasers, each with a line of prose
        alone = alone and spans[s, 1] >= i and own == 0 and mostly
        if entry[CELL] and not titled and not alone:  # a cell is a heading if its row holds no other
            i += 1
            continue
        cut = own <= SECTION_SHARE * texts[num] and (titled or own == 0 or spans[s, 1] >= i)
        cut = cut and ((titled and own == 0 and sizes[end] - sizes[first] < FOOT_CHARS) or mostly)
        cut = cut and (own == 0 or not says & p.KEPT)
        if says & p.REMARKS and titled:  # what readers say stands below all else
            cut = texts[i] >= BEFORE_REMARKS and 10 * (texts[num] - texts[end]) <= texts[num]
        if cut:
            for j in range(first, end):
                drop[j] = True
            i = end
        else:
            i += 1


def _trim(entries, spans, parent, owner, drop):  # type: ignore[no-untyped-def]
    """Mark short blocks above the title and below the last prose that link on or say what feet of pages say."""
    num = len(entries)
    first = last = title = -1
    for i in range(num):
        if drop[i]:
            continue
        if title < 0 and first < 0 and heading(entries[i]) and entries[i, LEVEL] == 1:
            title = i
        if prose(entries[i]):
            if first < 0:
                first = i
            last = i
    if first < 0:
        return
    for i in range(first):
        entry = entries[i]
        if drop[i] or entry[FIGURE]:
            continue
        if entry[IMAGE] >= 0:
            drop[i] = i < title and entry[LINKED] != 0
        elif i < title:
            drop[i] = entry[CHARS] < TITLE_CHARS
        elif not heading(entry):
            drop[i] = (only_links(entry) and (title < 0 or entry[CHARS] <= KICKER_CHARS) and not entry[CELL]) or entry[
                SAYS
            ] & p.RIGHTS != 0
    place = owner[last]
    kept = named = False  # below a heading, one of references
    for i in range(last + 1, num):
        entry = entries[i]
        if drop[i] or entry[IMAGE] >= 0 or entry[KIND] == t.FIGCAPTION or entry[FIGURE]:
            continue
        if heading(entry):
            kept = not entry[SAYS] & (p.SECTION | p.TAIL | p.REMARKS | p.RIGHTS)
            named = entry[SAYS] & p.KEPT != 0
        foot = entry[SAYS] & p.RIGHTS != 0 and entry[CHARS] < RIGHTS_CHARS
        short = LABEL_CHARS if not entry[SAYS] & p.ENDS else KICKER_CHARS
        told = entry[LINKS] > 0 or (entry[CHARS] < short and entry[KIND] != TERM and entry[KIND] != MEANING)
        foot |= entry[SAYS] & p.TAIL != 0 and entry[CHARS] < FOOT_CHARS and told
        only = only_links(entry)
        if only and not foot:
            s = owner[i]
            for _ in range(2):
                if s >= 0 and s != place:
                    s = parent[s]
            near = place >= 0 and s == place
            told = entry[SAYS] & p.ENDS and entry[CHARS] > (KICKER_CHARS if near else PROSE_BYTES)
            listed = entry[KIND] == t.ITEM and (kept or near)
            only = not (named or told or listed or entry[KIND] in (TERM, MEANING))
        if only or foot or entry[SAYS] & p.NO_LETTER:
            drop[i] = True
            above = entries[i - 1]
            if only and i > last + 1 and above[IMAGE] >= 0 and above[LINKED] and not above[FIGURE]:
                drop[i - 1] = True


def _only_links(entry):  # type: ignore[no-untyped-def]
    """Whether a block is nothing but links."""
    if entry[LINKS] == 0:  # a link around several blocks counts in the first
        return entry[LINKED] > 0 and 10 * entry[LINKED] >= 8 * entry[CHARS]
    return 10 * entry[LINKED] >= 8 * entry[LETTERS] and 2 * entry[LINKED] >= entry[CHARS]


heading: Kernel = compiled(_heading, allocates=False)
only_links: Kernel = compiled(_only_links, allocates=False)
prose: Kernel = compiled(_prose, allocates=False)
mark_regions: Kernel = compiled(_regions)
mark_phrases: Kernel = compiled(_phrases, allocates=False)
cut_sections: Kernel = compiled(_sections)
trim: Kernel = compiled(_trim, allocates=False)
