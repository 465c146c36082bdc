"""The golden pages: those written for the suite, and the marks on real ones.

Marks are read by a walk of its own over selectolax's tree that decides nothing: what is content was marked by a person.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from tests.golden.score import Item

HERE = Path(__file__).parent
CHARSET = re.compile(r"charset=[\"']?([\w-]+)", re.I)
# Labels that browsers take for a larger charset.
BROWSERS = dict.fromkeys(("iso-8859-1", "us-ascii", "ascii"), "windows-1252") | {
    "gb2312": "gb18030",
    "shift_jis": "cp932",
}
UNREAD = frozenset(("script", "style", "template", "noscript", "svg", "-comment", "-doctype", "head"))
BLOCKS = (
    "address article aside blockquote br center dd details div dl dt fieldset figcaption figure footer form h1 h2 "
    "h3 h4 h5 h6 header hr img li main nav ol option p pre section summary table tbody td tfoot th thead tr ul"
)
BREAKS = frozenset(BLOCKS.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page, what an extractor is told of it, and what it should find."""

    name: str
    case: str
    html: bytes
    url: str
    content_type: str
    items: list[Item]


def written(folder: Path = HERE / "pages") -> Iterator[Page]:
    """The pages of a folder of cases, in order of their names."""
    for path in sorted(folder.glob("*/*.json")):
        facts = json.loads(path.read_text("utf-8"))
        yield Page(
            name=f"{path.parent.name}/{path.stem}",
            case=path.parent.name,
            html=path.with_suffix(".html").read_bytes(),
            url=facts["url"],
            content_type=facts["content_type"],
            items=facts["items"],
        )


def real(crawl: Path, folder: Path = HERE / "real") -> Iterator[Page]:
    """The real pages that are marked, read from the WARCs in a folder; ValueError if a page is not the one marked."""
    for path in sorted(folder.glob("*.json")):
        marks = json.loads(path.read_text("utf-8"))
        html = body(crawl / marks["warc"], marks["offset"])
        if hashlib.sha1(html).hexdigest() != marks["sha1"]:
            raise ValueError(f"{marks['warc']} at {marks['offset']} is not the page that {path.name} marks")
        yield Page(
            name=path.stem,
            case=marks["source"],
            html=html,
            url=marks["url"],
            content_type=marks["content_type"],
            items=marked(html, marks),
        )


def body(warc: Path, offset: int) -> bytes:
    """The body of the response whose gzip member starts there; it is stored as it is, by Content-Length."""
    with warc.open("rb") as file:
        file.seek(offset)
        with gzip.GzipFile(fileobj=file) as member:
            size = 0
            for line in iter(member.readline, b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    size = int(value)
            record = member.read(size)
    return record.partition(b"\r\n\r\n")[2]


def marked(html: bytes, marks: dict[str, Any]) -> list[Item]:
    """The expected stream of a marked page; ValueError if its marks do not fit."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decoded(html, marks["content_type"]))
    content, without, optional = (
        {node.mem_id for selector in marks.get(name, ()) for node in tree.css(selector)}
        for name in ("content", "without", "optional")
    )
    if not content:
        raise ValueError("the marks select no content")
    items: list[Item] = []
    found = tree.css_first("base[href]")
    base = urljoin(marks["url"], (found.attributes["href"] if found else "") or "")
    images = list(marks["images"])
    line: list[str] = []

    def flush(free: bool) -> None:
        text = " ".join("".join(line).split())
        line.clear()
        if text:
            items.append({"text": text, **({"optional": True} if free else {})})

    def walk(node: Any, inside: bool, free: bool) -> None:
        for child in node.iter(include_text=True):
            tag = child.tag
            if tag in UNREAD:
                continue
            if tag == "-text":
                if inside:
                    line.append(child.text_content or "")
                continue
            within = (inside or child.mem_id in content) and child.mem_id not in without
            loose = free or child.mem_id in optional
            if tag in BREAKS or loose != free or within != inside:
                flush(free)
            if tag == "img" and within and loose:  # whichever of its addresses an answer takes
                items.extend({"image": address, "optional": True} for address in _addresses(child.attributes, base))
            elif tag == "img" and within:
                if not images:
                    raise ValueError("the content has more images than the marks")
                if shown := images.pop(0):
                    items.append({"image": shown})
            walk(child, within, loose)
            if tag in BREAKS or loose != free or within != inside:
                flush(loose)

    if tree.root is not None:
        walk(tree.root, tree.root.mem_id in content, False)
    flush(False)
    if images:
        raise ValueError(f"the marks have {len(images)} images more than the content")
    for late in marks.get("noscript_images", ()):
        _place(items, late["after"], late["image"])
    return items


def _addresses(attributes: dict[str, str | None], base: str) -> set[str]:
    """Whatever could be an address among the attributes of an image, absolute."""
    values = [value for name, value in attributes.items() if value and ("src" in name or name.startswith("data-"))]
    return {urljoin(base, word.strip(",")) for value in values[:50] for word in value.split()[:50]}


def _place(items: list[Item], after: str, image: str) -> None:
    for place, item in enumerate(items):
        if after in item.get("text", ""):
            items.insert(place + 1, {"image": image})
            return
    raise ValueError(f"no text holds {after!r}")


def decoded(html: bytes, content_type: str) -> str:
    """The text of a marked page: UTF-8 if it is, else by header or meta."""

    try:
        return html.decode("utf-8")
    except UnicodeDecodeError:
        found = re.search(CHARSET, content_type) or re.search(CHARSET, html[:4096].decode("latin-1"))
        label = found[1].lower() if found else ""
        return html.decode(BROWSERS.get(label, label or "windows-1252"), "replace")
