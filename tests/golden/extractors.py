"""Extractors that the suite compares: (html, url, content_type) -> items in reading order. Each imports its own."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urljoin

from tests.golden.pages import decoded
from tests.golden.score import Item


def kosmos(html: bytes, url: str, content_type: str) -> list[Item]:
    """Ours: the stream of extract, and the address rules of select with the bounds of the preset kosmos1."""
    import pyarrow as pa

    from pipelines import charset, guards, stream, urls
    from pipelines.select import Rules
    from pipelines.select.refer import refuse

    text = charset.to_utf8(html, content_type).text
    if guards.exceeded(guards.scan(text, guards.Limits()), guards.Limits()):
        return []
    found = stream.parse(text, urls.canonical(url))
    columns = {name: [getattr(image, name) for image in found.images] for name in ("url", "width", "height")}
    schema = pa.schema([("url", pa.large_string()), ("width", pa.int32()), ("height", pa.int32())])
    refused = refuse(pa.table(columns, schema=schema), Rules())[0]
    items: list[Item] = []
    for entry in found.entries:
        if entry.image < 0:
            items.append({"block": entry.block, "text": entry.text})
        elif not refused[entry.image]:
            items.append({"image": found.images[entry.image].url})
    return items


def trafilatura(html: bytes, url: str, content_type: str) -> list[Item]:
    """Trafilatura with images, as its documentation asks for them."""
    return _trafilatura(html, url)


def trafilatura_recall(html: bytes, url: str, content_type: str) -> list[Item]:
    """Trafilatura with images, favouring recall."""
    return _trafilatura(html, url, favor_recall=True)


def _trafilatura(html: bytes, url: str, **options: Any) -> list[Item]:
    from lxml import etree
    from trafilatura import extract

    xml = extract(html, url=url, include_images=True, include_comments=False, output_format="xml", **options)
    if not xml:
        return []
    main = etree.fromstring(xml.encode(), etree.XMLParser(recover=True)).find("main")
    items: list[Item] = []

    def walk(node: Any) -> None:
        if node.tag == "graphic":
            items.append({"image": urljoin(url, node.get("src") or "")})
        if node.text:
            items.append({"text": node.text})
        for child in node:
            walk(child)
            if child.tail:
                items.append({"text": child.tail})

    if main is not None:
        walk(main)
    return items


def resiliparse(html: bytes, url: str, content_type: str) -> list[Item]:
    """Resiliparse's main content; it has no images."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    said = re.search(r"charset=[\"']?([\w-]+)", content_type)
    text = bytes_to_str(html, said[1] if said else detect_encoding(html))
    return [{"text": extract_plain_text(text, main_content=True, alt_texts=False, list_bullets=False)}]


def selectolax(html: bytes, url: str, content_type: str) -> list[Item]:
    """All text and every img of the page, by selectolax: what no rule at all gives."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decoded(html, content_type))
    tree.strip_tags(["script", "style", "noscript", "template", "svg"])
    items: list[Item] = []
    for node in tree.body.traverse(include_text=True) if tree.body else ():
        if node.tag == "-text":
            items.append({"text": node.text_content or ""})
        elif node.tag == "img":
            items.append({"image": urljoin(url, (node.attributes.get("src") or "").strip())})
    return items
