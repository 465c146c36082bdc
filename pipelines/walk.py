"""One walk over lexbor's tree: every node once, in document order, to a flat list of entries and spans of containers.

Nothing is decided here but what no reader sees (scripts, hidden elements); what is boilerplate is decided on the spans
by `stream`. The tree is written out by lexbor and read back by two compiled passes, `tokens` and `flow`; Python sees
only the attributes that matter, the images and the finished blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from selectolax.lexbor import LexborHTMLParser

from pipelines import boilerplate, flow, marks, pictures, tags, tokens
from pipelines.entries import IMAGE, Image, Stream
from pipelines.kernel import compiled
from pipelines.tags import Array
from pipelines.urls import absolute

FIGURE_ENTRIES = 1000  # that one caption can belong to
MAX_METAS = 1000
TITLE_CHARS = 500
ALT_CHARS = 2000
LARGE = 100  # px of the smaller side: in a button this is a picture to look at, not a sign to press
SHORT_BYTES = 512
ATTRIBUTE = re.compile(r'([^\s/>][^\s/>=]*)(?:="([^"]*)")?')
ENTITY = re.compile(r"&(amp|lt|gt|quot|nbsp);")
TITLE_N, PICTURE_N, SOURCE_N, BASE_N = map(tags.TAGS.index, ("title", "picture", "source", "base"))
IMAGES_N = frozenset(map(tags.TAGS.index, tags.GROUPS[tags.IMG].split()))
ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "nbsp": "\xa0"}
Attributes = dict[str, str | None]
Shown = tuple[str, Attributes, int, int]  # address, attributes, width, height


@dataclass(frozen=True, kw_only=True, slots=True)
class Walked:
    """A page as it stands: what it says of itself, its blocks, and its images by number."""

    blocks: flow.Blocks
    images: list[Shown]
    captions: dict[int, str]
    title: str
    lang: str
    metas: list[tuple[str, str]]


def walk(tree: LexborHTMLParser, url: str, max_images: int) -> Walked:
    """All blocks of a page in document order; url: its canonical address."""
    root = tree.root
    html = ((root.html if root else "") or "").encode("utf-8", "replace")
    page = tokens.read(html)
    answers, shown = _ask(html, page, url)
    blocks = flow.blocks(page, answers, max_images)
    lang = ""
    if root is not None:
        lang = (root.attrs.get("lang") or root.attrs.get("xml:lang") or "").strip().lower()
    title, metas = _metas(html, page, blocks.metas)
    captions: dict[int, str] = {}
    spans = blocks.spans
    for what, start, end in spans[spans[:, 0] >= tags.FIGURE].tolist() if blocks.images else ():
        end = min(end, start + FIGURE_ENTRIES) if what == tags.FIGURE else end
        _caption(captions, blocks, start, end)
    return Walked(
        blocks=blocks, images=[shown[token] for token in blocks.images], captions=captions, title=title, lang=lang,
        metas=metas,
    )  # fmt: skip


def fold(text: str) -> str:
    """One space for every run of white space."""
    return " ".join(text.split())


def laid(walked: Walked, drop: Array, group: Array) -> Stream:
    """The entries that stay, as columns, with the images that they show; joined cells are lines of a table."""
    entries, num = walked.blocks.entries, len(drop)
    source = np.frombuffer(walked.blocks.text, np.uint8)
    text = np.empty(len(source) + 3 * num, np.uint8)
    offsets, shown = np.empty(num + 1, np.int64), np.empty(len(walked.images), np.int32)
    kinds, levels = np.empty(num, np.uint8), np.empty(num, np.int8)
    num, size, num_images = lay(source, entries, drop, group, text, offsets, kinds, levels, shown)
    return Stream(
        text=text[:size].copy(),  # the room around it need not wait for the rows
        offsets=offsets[: num + 1],
        kinds=kinds[:num],
        levels=levels[:num],
        images=[_image(walked, image) for image in shown[:num_images].tolist()],
        title=walked.title,
        lang=walked.lang,
        metas=walked.metas,
        too_many_images=walked.blocks.too_many_images,
    )


def _lay(source, entries, drop, group, text, offsets, kinds, levels, shown):  # type: ignore[no-untyped-def]
    """Entries i32[E, 14] that are not dropped -> how many, bytes of their text, images; and all the columns.

    Of a table: a line a row, " | " between cells. Its cells follow their first with nothing but dropped ones between.
    """
    total = len(entries)
    num = at = images = 0
    offsets[0] = 0
    for i in range(total):
        if drop[i]:
            continue
        entry = entries[i]
        kinds[num] = entry[marks.KIND]
        levels[num] = entry[marks.LEVEL]
        if entry[marks.IMAGE] >= 0:
            kinds[num] = IMAGE
            levels[num] = 0
            shown[images] = entry[marks.IMAGE]
            images += 1
        elif entry[marks.KIND] == tags.TABLE:
            levels[num] = 0
            last = i
            j = i
            while j < total and (j == i or drop[j]) and (group[j] == i or group[j] < 0):
                if group[j] == i:
                    cell = entries[j]
                    if j > i:
                        row = cell[marks.ROW] != entries[last, marks.ROW]
                        apart = not row and cell[marks.CELL] != entries[last, marks.CELL]
                        text[at] = 10 if row else 32
                        at += 1
                        if apart:
                            text[at] = 124
                            text[at + 1] = 32
                            at += 2
                    for k in range(cell[marks.BEGIN], cell[marks.END]):
                        text[at] = source[k]
                        at += 1
                    last = j
                j += 1
        else:
            for k in range(entry[marks.BEGIN], entry[marks.END]):
                text[at] = source[k]
                at += 1
        num += 1
        offsets[num] = at
    return num, at, images


def _image(walked: Walked, number: int) -> Image:
    address, attributes, width, height = walked.images[number]
    alt, title = attributes.get("alt"), attributes.get("title")
    return Image(
        address,
        fold(alt)[:ALT_CHARS] if alt else "",
        walked.captions.get(number, ""),
        fold(title)[:ALT_CHARS] if title else "",
        width,
        height,
    )


def _caption(captions: dict[int, str], blocks: flow.Blocks, start: int, end: int) -> None:
    """The captions among these entries belong to the images among them."""
    among = blocks.entries[start:end]
    images = among[among[:, 4] >= 0, 4].tolist()
    if not images:
        return
    said = among[(among[:, 2] == tags.FIGCAPTION) & (among[:, 4] < 0), :2].tolist()
    text = " ".join(blocks.text[begin:end].decode("utf-8", "replace") for begin, end in said)
    for image in images:
        captions[image] = captions.get(image) or text


def _ask(html: bytes, page: tokens.Page, url: str) -> tuple[list[int], dict[int, Shown]]:
    """What the attributes say, as flags for each ask; the images by token."""
    shown: dict[int, Shown] = {}
    addresses: dict[str, int] = {}
    sources: list[Attributes] | None = None
    base = url
    flags: list[int] = []
    for token, kind, tag, start, stop in zip(page.asks.tolist(), *page.asked(), strict=True):
        if tag in IMAGES_N:
            attributes = _attributes(html[start:stop])
            wanted = not ("hidden" in attributes or boilerplate.hidden(attributes.get("style") or ""))
            wanted = wanted and not boilerplate.decoration(attributes.get("class") or "")
        elif tag == PICTURE_N and kind == tags.END:
            attributes = {}
            wanted = bool(sources)
        else:
            flag = 0
            if tag == PICTURE_N:
                sources = []
                flag = _flags(html[start:stop])
            elif tag == SOURCE_N:
                if sources is not None:
                    sources.append(_attributes(html[start:stop]))
            elif tag == BASE_N:
                if base == url:
                    base = absolute(url, _attributes(html[start:stop]).get("href") or "") or url
            else:
                flag = _flags(html[start:stop])
            flags.append(flag)
            continue
        flag = 0
        if wanted:
            reference, lazy = pictures.choose(attributes, sources or ())
            address = absolute(base, reference) if reference else ""
            if address and address != url:
                width, height = pictures.length(attributes, "width"), pictures.length(attributes, "height")
                if not (width or height):
                    width = pictures.told(address)
                if not (0 < width <= 2 or 0 < height <= 2):
                    shown[token] = address, attributes, width, height
                    page.address[token] = addresses.setdefault(address, len(addresses))
                    flag = tags.PICTURED | (tags.LAZY if lazy else 0)
                    if min(width, height) >= LARGE:
                        flag |= tags.LARGE
        if tag == PICTURE_N:
            sources = None
        elif sources is not None:
            sources = []
        flags.append(flag)
    return flags, shown


def _metas(html: bytes, page: tokens.Page, found: list[int]) -> tuple[str, list[tuple[str, str]]]:
    """The title, and name and content of the meta elements that have a name."""
    title = ""
    metas: list[tuple[str, str]] = []
    for token in found:
        text = html[page.begins[token] : page.ends[token]]
        if page.tags[token] == TITLE_N:
            title = title or fold(_plain(text.decode("utf-8", "replace")))[:TITLE_CHARS]
        elif b' name="' in text and len(metas) < MAX_METAS:
            attributes = _attributes(text)
            if attributes.get("name"):
                metas.append(((attributes["name"] or "").strip().lower(), attributes.get("content") or ""))
    return title, metas


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
    if "hidden" in attributes or boilerplate.hidden(attributes.get("style") or "") or boilerplate.clone(classes):
        flags |= tags.HIDDEN
    if attributes.get("aria-hidden") == "true":
        flags |= tags.MUTED
    if classes or identity:
        flags |= boilerplate.names(classes, identity)
    if role in boilerplate.SKIPPED_ROLES:
        flags |= tags.NAMED
    if "aption" in classes and boilerplate.caption(classes):
        flags |= tags.CAPTION
    if role in boilerplate.MAIN_ROLES:
        flags |= tags.MAIN
    if "open" in attributes:
        flags |= tags.OPEN
    if classes and boilerplate.unseen(classes):
        flags |= tags.UNSEEN
    if boilerplate.numbering(classes):
        flags |= tags.NUMBER
    return flags


lay: Callable[..., Any] = compiled(_lay, allocates=False)
