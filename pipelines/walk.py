"""One walk over lexbor's tree: every node once, in document order, to a flat list of entries and spans of containers.

Nothing is decided here but what no reader sees (scripts, hidden elements); what is boilerplate is decided on the spans
by `stream`. `LexborNode ==` serialises both subtrees, so nodes are never compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipelines import boilerplate, pictures
from pipelines.entries import Entry, Image, Stream
from pipelines.urls import absolute

INLINE, BLOCK, SKIP, BREAK, IMG, PICTURE, LINK, CONTAINER, STRUCTURE, CELL, META, SPACED = range(12)
GROUPS = {
    INLINE: "b strong i em u s strike small big tt code kbd samp var cite dfn abbr acronym q sub sup mark ins del font "
    "bdi bdo nobr time data ruby rb rt rtc wbr blink output math mrow mi mo mn msup msub mfrac mtext semantics",
    BLOCK: "p h1 h2 h3 h4 h5 h6 li blockquote pre listing xmp figcaption dt dd caption address hr summary legend",
    SKIP: "script style svg iframe object embed applet audio video canvas select datalist textarea input template "
    "progress meter map frameset noframes noembed plaintext annotation annotation-xml rp option optgroup",
    CONTAINER: "div section ul ol dl table tbody thead tfoot tr center details fieldset figure article main dir hgroup "
    "menu body search",
    STRUCTURE: "nav header footer aside form button dialog",
}  # fmt: skip
HEADINGS = {f"h{n}": n for n in range(1, 7)}
KINDS = {"blockquote": "quote", "listing": "pre", "xmp": "pre", "caption": "figcaption", "summary": "p", "legend": "p"}
FIGURE_ENTRIES = 1000  # that one caption can belong to
KEPT_KINDS = frozenset(("pre", "figcaption", *HEADINGS))  # of what a table stands in: its cells are no cells
TITLE_CHARS = 500
ALT_CHARS = 2000


def _roles() -> dict[str, tuple[str, int]]:
    """Every tag that is treated in its own way -> (name, role)."""
    names = {name: role for role, words in GROUPS.items() for name in words.split()}
    names |= {"br": BREAK, "img": IMG, "picture": PICTURE, "a": LINK, "td": CELL, "th": CELL, "title": META}
    names |= {"meta": META, "base": META, "noscript": CONTAINER, "source": META, "span": SPACED, "label": SPACED}
    return {name: (name, role) for name, role in names.items()}


def _numbers() -> dict[int, tuple[str, int]]:
    """The same by lexbor's number of the tag. Tags that it does not know have an address for a number: not those."""
    document = LexborHTMLParser("<p>")
    numbers = {document.create_node(name).tag_id: role for name, role in ROLES.items()}
    return {number: role for number, role in numbers.items() if number < MAX_NUMBER}


MAX_NUMBER = 1000
ROLES = _roles()
TAGS = _numbers()
UNKNOWN = ("", SPACED)
TEXT = 2  # lexbor's number of #text; checked below
_probe = LexborHTMLParser("<p>x").css_first("p")
assert _probe is not None and _probe.first_child is not None and _probe.first_child.tag_id == TEXT


@dataclass(slots=True)
class Context:
    """What an open element means for the text inside it. Never changed; not frozen, which would cost a tenth of all."""

    kind: str = "other"
    level: int = 0
    lists: int = 0
    link: int = 0  # 0 none, 1 to a page, 2 to an image
    figure: int = -1  # entry where the figure began
    content: bool = False  # inside article, main or section: a header here is a heading
    muted: bool = False
    noscript: bool = False
    cell: int = 0
    table: int = 0
    inner: dict[str, Context] | None = None  # inside its blocks, by name: the same few again and again


ROOT = Context()
IMAGE_HREF = re.compile(r"\.(?:jpe?g|png|gif|webp|avif|bmp|tiff?)(?:[?#]|$)", re.I)


def fold(text: str) -> str:
    """One space for every run of white space."""
    return " ".join(text.split())


class Walk:
    """The state of one traversal."""

    __slots__ = (
        "base", "buffer", "cells", "entries", "images_left", "lazy_at", "linked", "links", "mains", "regions", "rows",
        "sources", "stack", "stream", "tables", "url",
    )  # fmt: skip

    def __init__(self, url: str, max_images: int) -> None:
        self.url = self.base = url
        self.stream = Stream()
        self.entries: list[Entry] = []
        self.buffer: list[str] = []
        self.linked = self.links = 0
        self.regions: list[tuple[int, int, bool, bool]] = []  # start, end, keeps figures, may be undone
        self.mains: list[tuple[int, int]] = []
        self.tables = 0
        self.sources: list[dict[str, str | None]] | None = None
        self.lazy_at = -1
        self.cells = self.rows = 0
        self.images_left = max_images
        self.stack: list[tuple[LexborNode, Context, str, int]] = []

    def run(self, root: LexborNode) -> None:
        """Visit every node once, in document order."""
        stack, buffer, tags = self.stack, self.buffer, TAGS
        node: LexborNode | None = root.first_child
        context = ROOT
        attributes = root.attributes
        self.stream.lang = (attributes.get("lang") or attributes.get("xml:lang") or "").strip().lower()
        while True:
            if node is None:
                if not stack:
                    break
                node, outer, leave, start = stack.pop()
                if leave:
                    self._leave(leave, start, context)
                context = outer
                node = node.next
                continue
            tag = node.tag_id
            if tag == TEXT:
                if not context.muted:
                    text = node.text_content
                    if text:
                        buffer.append(text)
                        if context.link and not text.isspace():
                            self.linked += len(text)
                node = node.next
                continue
            name, role = tags.get(tag) or ROLES.get(node.tag or "", UNKNOWN)
            if role == INLINE:
                child = node.first_child
                if child is None:
                    node = node.next
                else:
                    stack.append((node, context, "", 0))
                    node = child
                continue
            if role != SKIP and node.is_element_node:
                entered = self._enter(node, name, role, context)
                if entered is not None:
                    inner, leave = entered
                    stack.append((node, context, leave, len(self.entries)))
                    context = inner
                    node = node.first_child
                    continue
            node = node.next
        self.flush(context)

    def flush(self, context: Context) -> bool:
        """End the block that is open; whether there was one."""
        if not self.buffer:
            return False
        text = "".join(self.buffer)
        self.buffer.clear()
        if text.isspace():
            return False
        linked, links = self.linked, self.links
        self.linked = self.links = 0
        if context.kind == "pre":
            lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
            text = "\n".join(lines).strip("\n")
        else:
            text = " ".join(text.split())
        if text:
            figure = context.figure >= 0
            entry = Entry(text, context.kind, context.level, -1, linked, links, figure)
            if context.cell:
                entry.cell, entry.row, entry.table = context.cell, self.rows, context.table
            self.entries.append(entry)
        return True

    def _enter(self, node: LexborNode, name: str, role: int, context: Context) -> tuple[Context, str] | None:
        """The context inside an element and what to do at its end; None if it is not entered."""
        if role == BREAK:
            # Two line breaks in a row are how old pages end a paragraph.
            if self.buffer and self.buffer[-1] == "\n" and context.kind != "pre":
                self.flush(context)
            else:
                self.buffer.append("\n")
            return None
        attributes = node.attributes
        if role == IMG:
            self._image(attributes, context)
            return None
        if role == META:
            self._meta(node, name, attributes)
            return None
        if "hidden" in attributes or ((style := attributes.get("style")) and boilerplate.hidden(style)):
            return None
        if attributes.get("aria-hidden") == "true" and not context.muted:
            context = _with(context, muted=True)
        if role == LINK:
            self.links += 1
            href = attributes.get("href")
            return _with(context, link=0 if href is None else 2 if IMAGE_HREF.search(href) else 1), ""
        if role == SPACED:
            if name:
                classes = attributes.get("class")
                if classes and ("sr-only" in classes or "editsection" in classes) and boilerplate.named(classes, ""):
                    return None
                return context, "space" if classes and boilerplate.numbering(classes) else ""
            self.buffer.append(" ")
            return context, "space"
        if role == PICTURE:
            self.sources = []
            return context, "picture"
        self.flush(context)
        return self._container(name, role, attributes, context)

    def _container(
        self, name: str, role: int, attributes: Mapping[str, str | None], context: Context
    ) -> tuple[Context, str] | None:
        classes, identity, aria = attributes.get("class") or "", attributes.get("id") or "", attributes.get("role")
        leave = "block"
        if role == BLOCK:
            if classes and "aption" in classes and name == "p" and boilerplate.caption(classes):
                name = "figcaption"
            known = context.inner
            if known is None:
                known = context.inner = {}
            inner = known.get(name)
            if inner is None:
                inner = known[name] = _block(name, context)
            return inner, "figcaption" if name == "figcaption" else "block"
        if name == "noscript":
            return _with(context, noscript=True, muted=True), "block"
        if role == STRUCTURE:
            if name == "dialog" and "open" not in attributes:
                return None
            if not (name == "header" and context.content) and not (
                name == "footer" and (context.kind == "quote" or context.figure >= 0)
            ):
                leave = "nav" if name == "nav" else "structure"
        elif name in ("article", "main") or aria in boilerplate.MAIN_ROLES:
            return _with(context, content=True), "main"
        elif name == "figure":
            return _with(context, figure=len(self.entries), kind="other", content=context.content), "figure"
        elif name in ("body", "tbody", "thead", "tfoot"):
            return context, leave
        if leave == "block" and (
            ((classes or identity) and boilerplate.named(classes, identity)) or aria in boilerplate.SKIPPED_ROLES
        ):
            leave = "named"
        if name in ("ul", "ol", "dir", "menu"):
            context = _with(context, lists=min(context.lists + 1, 100))
        elif name == "table":
            self.tables += 1
            context = _with(context, cell=0, table=self.tables)
        elif name == "tr":
            self.rows += 1
        elif role == CELL:
            self.cells += 1
            kind = context.kind if context.kind in KEPT_KINDS else "th" if name == "th" else "other"
            context = _with(context, cell=self.cells, kind=kind)
        elif name == "section":
            context = _with(context, content=True)
        elif classes and "aption" in classes and boilerplate.caption(classes):
            return _with(context, kind="figcaption", level=0), "figcaption"
        return context, leave

    def _leave(self, leave: str, start: int, context: Context) -> None:
        """What the end of an element means; context is the one inside it."""
        if leave == "space":
            self.buffer.append(" ")
            return
        if leave == "picture":
            if self.sources:
                self._image({}, context)
            self.sources = None
            return
        self.flush(context)
        end = len(self.entries)
        if leave in ("nav", "structure", "named"):
            if end > start:
                self.regions.append((start, end, leave == "structure", leave != "nav"))
        elif leave == "main":
            self.mains.append((start, end))
        elif leave == "figure":
            self._caption(self.entries[start:end][:FIGURE_ENTRIES])
        elif leave == "figcaption" and context.figure < 0:
            before = self.entries[start - 1 : start]
            if before and before[0].image >= 0:
                self._caption(before + self.entries[start:end])

    def _caption(self, entries: list[Entry]) -> None:
        """The captions among the entries belong to the images among them."""
        text = " ".join(entry.text for entry in entries if entry.block == "figcaption")
        for entry in entries:
            if entry.image >= 0 and not self.stream.images[entry.image].caption:
                self.stream.images[entry.image].caption = text

    def _image(self, attributes: Mapping[str, str | None], context: Context) -> None:
        if self.images_left == 0:
            self.stream.too_many_images += 1
            return
        sources, self.sources = self.sources or (), [] if self.sources is not None else None
        if boilerplate.hidden(attributes.get("style") or "") or "hidden" in attributes:
            return
        if context.noscript and self.lazy_at == len(self.entries):
            return  # what scripts would have loaded stands before it
        reference, lazy = pictures.choose(attributes, sources)
        url = absolute(self.base, reference) if reference else ""
        width, height = pictures.length(attributes, "width"), pictures.length(attributes, "height")
        if not url or url == self.url or 0 < width <= 2 or 0 < height <= 2:
            return
        if context.noscript and self.stream.images and self.stream.images[-1].url == url:
            return
        self.images_left -= 1
        if self.buffer and not self.flush(context):
            self.buffer.append(" ")
        self.stream.images.append(
            Image(
                url=url,
                alt=fold(attributes.get("alt") or "")[:ALT_CHARS],
                title=fold(attributes.get("title") or "")[:ALT_CHARS],
                width=width,
                height=height,
            )
        )
        self.entries.append(
            Entry("", "", image=len(self.stream.images) - 1, linked=context.link == 1, figure=context.figure >= 0)
        )
        self.lazy_at = len(self.entries) if lazy else -1

    def _meta(self, node: LexborNode, name: str, attributes: Mapping[str, str | None]) -> None:
        if name == "source":
            if self.sources is not None:
                self.sources.append(dict(attributes))
        elif name == "title":
            child = node.first_child
            if not self.stream.title and child is not None:
                self.stream.title = fold(child.text_content or "")[:TITLE_CHARS]
        elif name == "base":
            if self.base == self.url and attributes.get("href"):
                self.base = absolute(self.url, attributes.get("href") or "") or self.url
        elif attributes.get("name") and len(self.stream.metas) < 1000:
            self.stream.metas.append(((attributes["name"] or "").strip().lower(), attributes.get("content") or ""))


def _block(name: str, context: Context) -> Context:
    """The context inside a block element."""
    if name == "p":
        return _with(context, kind="p") if context.kind == "other" else context
    if name == "li":
        return _with(context, kind="li", level=max(1, context.lists))
    if name in HEADINGS:
        return _with(context, kind=name, level=HEADINGS[name])
    if name in ("hr", "address"):
        return context
    return _with(context, kind=KINDS.get(name, name), level=0)


def _with(
    context: Context,
    kind: str | None = None,
    level: int | None = None,
    lists: int | None = None,
    link: int | None = None,
    figure: int | None = None,
    content: bool | None = None,
    muted: bool | None = None,
    noscript: bool | None = None,
    cell: int | None = None,
    table: int | None = None,
) -> Context:
    """`dataclasses.replace`, five times as fast."""
    return Context(
        context.kind if kind is None else kind,
        context.level if level is None else level,
        context.lists if lists is None else lists,
        context.link if link is None else link,
        context.figure if figure is None else figure,
        context.content if content is None else content,
        context.muted if muted is None else muted,
        context.noscript if noscript is None else noscript,
        context.cell if cell is None else cell,
        context.table if table is None else table,
    )
