"""One walk over lexbor's tree: every node once, in document order, to a flat list of entries and spans of containers.

Nothing is decided here but what no reader sees (scripts, hidden elements); what is boilerplate is decided on the spans
by `stream`. The tree is written out by lexbor and read back by two compiled passes, `tokens` and `flow`; Python sees
only the attributes that matter, the images and the finished blocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from selectolax.lexbor import LexborHTMLParser

from pipelines import boilerplate, flow, pictures, tags, tokens
from pipelines.entries import Entry, Image, Stream
from pipelines.tags import Array
from pipelines.urls import absolute

FIGURE_ENTRIES = 1000  # that one caption can belong to
MAX_METAS = 1000
TITLE_CHARS = 500
ALT_CHARS = 2000
SHORT_BYTES = 512
ATTRIBUTE = re.compile(r'([^\s/>][^\s/>=]*)(?:="([^"]*)")?')
ENTITY = re.compile(r"&(amp|lt|gt|quot|nbsp);")
ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "nbsp": "\xa0"}
Attributes = dict[str, str | None]
Shown = tuple[str, Attributes, int, int]  # address, attributes, width, height


@dataclass(frozen=True, kw_only=True, slots=True)
class Walked:
    """A page as it stands: what it says of itself and its images, and its blocks."""

    stream: Stream
    blocks: flow.Blocks


def walk(tree: LexborHTMLParser, url: str, max_images: int) -> Walked:
    """All blocks of a page in document order; url: its canonical address."""
    root = tree.root
    html = ((root.html if root else "") or "").encode("utf-8", "replace")
    page = tokens.read(html)
    answers, shown = _ask(html, page, url)
    blocks = flow.blocks(page, answers, max_images)
    stream = Stream(too_many_images=blocks.too_many_images)
    if root is not None:
        stream.lang = (root.attrs.get("lang") or root.attrs.get("xml:lang") or "").strip().lower()
    _metas(html, page, blocks.metas, stream)
    for token in blocks.images:
        address, attributes, width, height = shown[token]
        stream.images.append(
            Image(
                url=address,
                alt=fold(attributes.get("alt") or "")[:ALT_CHARS],
                title=fold(attributes.get("title") or "")[:ALT_CHARS],
                width=width,
                height=height,
            )
        )
    for what, start, end in blocks.spans.tolist():
        if what in (tags.FIGURE, tags.LEGEND):
            _caption(stream, blocks, start, min(end, start + FIGURE_ENTRIES) if what == tags.FIGURE else end)
    return Walked(stream=stream, blocks=blocks)


def fold(text: str) -> str:
    """One space for every run of white space."""
    return " ".join(text.split())


def entries(walked: Walked, drop: Array, group: Array) -> list[Entry]:
    """The entries that stay; cells that `marks` has joined are lines of a table."""
    found: list[Entry] = []
    text, blocks = walked.blocks.text, walked.blocks.entries
    plain = text.decode("ascii") if text.isascii() else ""
    stay = np.flatnonzero(~drop)
    for place, (begin, end, kind, level, image) in zip(stay.tolist(), blocks[stay, :5].tolist(), strict=True):
        if image >= 0:
            found.append(Entry("", "", 0, image))
        elif kind == tags.TABLE:
            found.append(Entry(_table(text, blocks[place:][group[place:] == place]), "table"))
        else:
            said = plain[begin:end] if plain else text[begin:end].decode("utf-8", "replace")
            found.append(Entry(said, tags.KINDS[kind], level))
    return found


def _table(text: bytes, cells: Array) -> str:
    """A line a row, " | " between cells."""
    lines: list[list[str]] = []
    last_row = last_cell = -1
    for begin, end, cell, row in cells[:, (0, 1, 8, 9)].tolist():
        said = text[begin:end].decode("utf-8", "replace")
        if row != last_row:
            lines.append([said])
        elif cell != last_cell:
            lines[-1].append(said)
        else:
            lines[-1][-1] += " " + said
        last_row, last_cell = row, cell
    return "\n".join(" | ".join(line) for line in lines)


def _caption(stream: Stream, blocks: flow.Blocks, start: int, end: int) -> None:
    """The captions among these entries belong to the images among them."""
    among = blocks.entries[start:end]
    images = among[among[:, 4] >= 0, 4].tolist()
    if not images:
        return
    captions = among[(among[:, 2] == tags.FIGCAPTION) & (among[:, 4] < 0), :2].tolist()
    text = " ".join(blocks.text[begin:end].decode("utf-8", "replace") for begin, end in captions)
    for image in images:
        stream.images[image].caption = stream.images[image].caption or text


def _ask(html: bytes, page: tokens.Page, url: str) -> tuple[list[int], dict[int, Shown]]:
    """What the attributes say, as flags for each ask; the images by token."""
    shown: dict[int, Shown] = {}
    addresses: dict[str, int] = {}
    sources: list[Attributes] | None = None
    base = url
    what, tag, begin, end = page.asked()
    flags: list[int] = []
    for token, kind, number, start, stop in zip(page.asks.tolist(), what, tag, begin, end, strict=True):
        name = tags.TAGS[number]
        if name == "picture":
            if kind == tags.START:
                sources = []
                flags.append(_flags(html[start:stop]))
                continue
            attributes: Attributes = {}
            wanted = bool(sources)
        elif name == "img":
            attributes = _attributes(html[start:stop])
            wanted = not ("hidden" in attributes or boilerplate.hidden(attributes.get("style") or ""))
        else:
            if name == "source":
                if sources is not None:
                    sources.append(_attributes(html[start:stop]))
            elif name == "base" and base == url:
                base = absolute(url, _attributes(html[start:stop]).get("href") or "") or url
            flags.append(0 if name in ("meta", "source", "base", "title") else _flags(html[start:stop]))
            continue
        flag = 0
        if wanted:
            reference, lazy = pictures.choose(attributes, sources or ())
            address = absolute(base, reference) if reference else ""
            width, height = pictures.length(attributes, "width"), pictures.length(attributes, "height")
            if address and address != url and not (0 < width <= 2 or 0 < height <= 2):
                shown[token] = address, attributes, width, height
                page.address[token] = addresses.setdefault(address, len(addresses))
                flag = tags.PICTURED | (tags.LAZY if lazy else 0)
        if name == "picture":
            sources = None
        elif sources is not None:
            sources = []
        flags.append(flag)
    return flags, shown


def _metas(html: bytes, page: tokens.Page, found: list[int], stream: Stream) -> None:
    for token in found:
        text = html[page.begins[token] : page.ends[token]]
        if tags.TAGS[page.tags[token]] == "title":
            stream.title = stream.title or fold(_plain(text.decode("utf-8", "replace")))[:TITLE_CHARS]
        elif len(stream.metas) < MAX_METAS:
            attributes = _attributes(text)
            if attributes.get("name"):
                stream.metas.append(((attributes["name"] or "").strip().lower(), attributes.get("content") or ""))


def _plain(text: str) -> str:
    return ENTITY.sub(lambda match: ENTITIES[match[1]], text) if "&" in text else text


def _attributes(text: bytes) -> Attributes:
    """The attributes of an element as lexbor writes them, "" where there is no value."""
    found = ATTRIBUTE.findall(text.decode("utf-8", "replace"))
    return {name: _plain(value) for name, value in found} if b"&" in text else dict(found)


def _flags(text: bytes) -> int:
    """What the attributes of an element say about it; remembered while they are short, since memory must not grow with
    what strangers write."""
    return _short_flags(text) if len(text) <= SHORT_BYTES else _read_flags(text)


@lru_cache(maxsize=1 << 14)
def _short_flags(text: bytes) -> int:
    return _read_flags(text)


def _read_flags(text: bytes) -> int:
    attributes = _attributes(text)
    classes, identity, role = attributes.get("class") or "", attributes.get("id") or "", attributes.get("role")
    flags = 0
    if "hidden" in attributes or boilerplate.hidden(attributes.get("style") or ""):
        flags |= tags.HIDDEN
    if attributes.get("aria-hidden") == "true":
        flags |= tags.MUTED
    if ((classes or identity) and boilerplate.named(classes, identity)) or role in boilerplate.SKIPPED_ROLES:
        flags |= tags.NAMED
    if "aption" in classes and boilerplate.caption(classes):
        flags |= tags.CAPTION
    if role in boilerplate.MAIN_ROLES:
        flags |= tags.MAIN
    if "open" in attributes:
        flags |= tags.OPEN
    if ("sr-only" in classes or "editsection" in classes) and boilerplate.named(classes, ""):
        flags |= tags.UNSEEN
    if boilerplate.numbering(classes):
        flags |= tags.NUMBER
    return flags
