"""A page to its reading-order stream: text blocks and image references, boilerplate out.

The walk notes a flat list of entries and the spans of containers; what is boilerplate is decided afterwards, because a
container that holds most of a page's text is its content whatever it is called. Every step is linear in the entries.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser

from pipelines.entries import Entry, Stream
from pipelines.walk import HEADINGS, Walk

TABLE_CELL = 300  # characters; a table with longer cells is a layout, and its cells are prose
RELATED = 3  # link-only blocks in a row that make a list of links
LINK_SHARE = 0.8  # of the characters of a block that is nothing but links
LINK_CHARS = 300  # a longer link is prose
BETWEEN = re.compile(r"[^\w]+")
MAIN_SHARE = 2 / 3
UNDO_SHARE = 0.5


def parse(html: bytes, url: str, max_images: int = 4096) -> Stream:
    """The stream of a page in UTF-8 that passed the guards; url: its canonical address."""
    tree = LexborHTMLParser(html)
    walk = Walk(url, max_images)
    if tree.root is not None:
        walk.run(tree.root)
    _mark(walk)
    walk.stream.entries = walk.entries
    walk.stream.settle()
    return walk.stream


def _join_cells(entries: list[Entry]) -> None:
    """Runs of short cells of one table become one block with a line a row and " | " between cells.

    Images and cells of prose break the run and stay: a layout made of tables is no table.
    """
    run: list[Entry] = []

    def close() -> None:
        if len(run) > 1 or (run and run[0].block == "th"):
            rows: list[list[str]] = []
            row = cell = -1
            for entry in run:
                if entry.row != row:
                    rows.append([entry.text])
                elif entry.cell != cell:
                    rows[-1].append(entry.text)
                else:
                    rows[-1][-1] += " " + entry.text
                row, cell = entry.row, entry.cell
                entry.drop = True
            first = run[0]
            first.text = "\n".join(" | ".join(cells) for cells in rows)
            first.linked, first.links = sum(e.linked for e in run), sum(e.links for e in run)
            first.block, first.level, first.drop = "table", 0, False
        run.clear()

    for entry in entries:
        if entry.drop:
            continue
        short = entry.image < 0 and entry.cell and entry.block in ("p", "other", "th") and len(entry.text) <= TABLE_CELL
        if run and (not short or entry.table != run[0].table):
            close()
        if short:
            run.append(entry)
    close()
    for entry in entries:
        if entry.block == "th":
            entry.block = "other"


def _mark(walk: Walk) -> None:
    """Mark what is not content: regions, lists of links, and what is outside the main element."""
    entries = walk.entries
    sums = [0]
    for entry in entries:
        sums.append(sums[-1] + len(entry.text))
    # How many dropped regions begin or end at an entry: all, and those that keep no figure.
    edges, strict = [0] * (len(entries) + 1), [0] * (len(entries) + 1)
    for start, end, figures, soft in walk.regions:
        if soft and sums[end] - sums[start] > UNDO_SHARE * sums[-1]:
            continue
        edges[start] += 1
        edges[end] -= 1
        strict[start] += not figures
        strict[end] -= not figures
    inside = closed = 0
    for place, entry in enumerate(entries):
        inside += edges[place]
        closed += strict[place]
        entry.drop = closed > 0 or (inside > 0 and not entry.figure)
    _join_cells(entries)
    _mark_links(entries)
    sums = [0]
    for entry in entries:
        sums.append(sums[-1] + (0 if entry.drop else len(entry.text)))
    held = [(end - start, start, end) for start, end in walk.mains if sums[end] - sums[start] >= MAIN_SHARE * sums[-1]]
    if not held or not sums[-1]:
        return
    _, start, end = min(held)
    for place, entry in enumerate(entries):
        if not start <= place < end and not (entry.figure or (entry.block == "h1" and place < start)):
            entry.drop = True


def _links_only(entry: Entry) -> bool:
    """Whether a block is links and what stands between them."""
    if not entry.links or 2 * entry.linked < len(entry.text) or len(entry.text) > LINK_CHARS * entry.links:
        return False
    return entry.linked >= LINK_SHARE * len(BETWEEN.sub("", entry.text))


def _mark_links(entries: list[Entry]) -> None:
    """Mark runs of blocks that are nothing but links, with the images that link on and the heading above."""
    run: list[Entry] = []
    heading: Entry | None = None
    blocks = 0

    def close(following: Entry | None) -> None:
        nonlocal blocks
        alone = blocks == 1 and any(e.image < 0 and e.links >= RELATED for e in run)
        if blocks >= RELATED or alone:
            for entry in run:
                entry.drop = entry.drop or entry.image < 0 or (bool(entry.linked) and not entry.figure)
            if heading is not None and (following is None or following.block in HEADINGS):
                heading.drop = True
        run.clear()
        blocks = 0

    for entry in entries:
        if entry.drop:
            continue
        if entry.image >= 0:
            if run or entry.linked:
                run.append(entry)
            continue
        if _links_only(entry) and (entry.block not in ("h1", "h2") or run):
            run.append(entry)
            blocks += 1
            continue
        close(entry)
        heading = entry if entry.block in HEADINGS else None
    close(None)
