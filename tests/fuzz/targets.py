"""What is fuzzed, and what must hold of every answer: each target takes bytes and raises where something does not."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser

from pipelines import charset, guards, language, pictures, rights, stream, urls, warc
from pipelines.reasons import Reason
from tests.fuzz import mutate

FOLDER = Path(tempfile.gettempdir())
LIMITS = guards.Limits()
ADDED = re.compile(r"[\s|]+")  # what a table's lines add to its text
BASE = "http://a.example/b/c?d"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A function under test, and what its inputs are made of."""

    run: Callable[[bytes], None]
    tokens: Sequence[bytes]


def records(data: bytes) -> None:
    """Ascending offsets, a reason for all that is not read, and the same again."""
    with tempfile.NamedTemporaryFile(dir=FOLDER, suffix=".warc") as file:
        file.write(data)
        file.flush()
        found = list(warc.records(Path(file.name), lambda _: True, 1 << 20))
        assert found == list(warc.records(Path(file.name), lambda _: True, 1 << 20)), "not the same again"
    offsets = [item.offset for item in found]
    assert found and offsets == sorted(set(offsets)), "offsets"
    for item in found:
        assert isinstance(item, warc.Bad) or not item.block or len(item.block) == item.size, "size"


def response(data: bytes) -> None:
    """A message has a status of three digits and names in lower case."""
    message = warc.response(data)
    if isinstance(message, Reason):
        return
    assert 0 <= message.status <= 999
    assert all(name == name.lower() for name, _ in message.headers)
    assert data.endswith(message.body)


def decoded(data: bytes) -> None:
    """Never more than the limit."""
    message = warc.response(data)
    if isinstance(message, warc.Response):
        body = warc.decoded(message, 5000)
        assert isinstance(body, Reason) or len(body) <= 5000, "limit"


def to_utf8(data: bytes) -> None:
    """UTF-8 without control characters, whatever header stands above."""
    header, _, body = data.partition(b"\n")
    found = charset.to_utf8(body, header.decode("latin-1"))
    text = found.text.decode("utf-8")
    assert not set(found.text) & set(charset.CONTROLS), "controls"
    assert "\ufffd" not in text or "\ufffd" in body.decode(found.codec, "ignore"), "replacement"
    assert bool(found.codec) or not text
    assert charset.to_utf8(found.text).text == found.text.removeprefix(b"\xef\xbb\xbf") or b"\x1b" in body, "not stable"


def scan(data: bytes) -> None:
    """No more nodes and attributes than bytes; the depth of lexbor's tree is not underestimated."""
    counts = guards.scan(data, LIMITS)
    assert counts.nodes <= len(data) + 1 or guards.exceeded(counts, LIMITS)
    assert counts.attributes <= len(data)
    if guards.exceeded(counts, LIMITS) is None and len(data) < 4000:
        deepest, pending = 0, [(LexborHTMLParser(data).root, 1)]
        while pending:
            node, depth = pending.pop()
            if node is not None:
                deepest = max(deepest, depth)
                pending += [(node.next, depth), (node.first_child, depth + 1)]
        assert deepest <= 8 + 5 * counts.depth, f"depth {deepest}, counted {counts.depth}"


def parse(data: bytes) -> None:
    """Entries in document order, valid indices and text, canonical addresses, and the same again."""
    html = charset.to_utf8(data).text
    if guards.exceeded(guards.scan(html, LIMITS), LIMITS):
        return
    found = stream.parse(html, BASE, 50)
    again = stream.parse(html, BASE, 50)
    assert found.entries == again.entries and found.images == again.images, "not the same again"
    assert (found.title, found.lang, found.metas) == (again.title, again.lang, again.metas), "not the same again"
    shown = [entry.image for entry in found.entries if entry.image >= 0]
    assert shown == list(range(len(found.images))), "images"
    for image in found.images:
        assert image.url and urls.canonical(image.url) == image.url, "address"
        for said in (image.alt, image.title, image.caption):
            said.encode("utf-8")
    said = "".join(entry.text for entry in found.entries)
    said.encode("utf-8")
    assert all(entry.text.strip() for entry in found.entries if entry.image < 0), "empty"
    root = LexborHTMLParser(html).root
    whole = iter(ADDED.sub("", root.text(deep=True) if root else ""))
    assert all(letter in whole for letter in ADDED.sub("", said)), "text that the page does not hold"


def srcset(data: bytes) -> None:
    """Candidates without white space, and a choice that is one of the values."""
    text = data.decode("utf-8", "replace")
    for address, width, density in pictures.srcset(text):
        assert not re.search(r"\s", address) and 0 <= width < 1e6 and 0 <= density < 1e3
    parts = text.split("\n")
    img = dict(zip(("src", "srcset", "data-src", "data-srcset", "width", "class"), parts, strict=False))
    chosen, lazy = pictures.choose(img, [{"srcset": part} for part in parts[6:]])
    assert not chosen or chosen in text
    assert chosen or not lazy


def canonical(data: bytes) -> None:
    """ASCII, a fixed point, and total on references too."""
    text = data.decode("utf-8", "surrogatepass" if b"\xed" in data and _valid(data) else "replace")
    for found in (urls.canonical(text), urls.absolute(BASE, text)):
        assert found.isascii()
        assert urls.canonical(found) == found, "not a fixed point"
        assert not found or (found.startswith(("http://", "https://")) and urls.host(found))


def _valid(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def robots(data: bytes) -> None:
    """Directives in lower case without agents; those for all hold beside those for others."""
    values = data.decode("latin-1").split("\n")
    found = rights.robots_header(values)
    assert found == found.lower()
    rights.opted_out(found)
    assert rights.opted_out(rights.robots_header([*values, "noai"])), "a directive for all is lost"


def identify(data: bytes) -> None:
    """Scores between 0 and 1, and the same again."""
    text = data.decode("utf-8", "replace")
    declared, _, rest = text.partition("\n")
    found = language.identify(rest, declared, "en")
    assert 0 <= found.score <= 1 and 0 <= found.wanted <= 1
    assert found == language.identify(rest, declared, "en"), "not the same again"


TARGETS = {
    "records": Target(run=records, tokens=mutate.WARC),
    "response": Target(run=response, tokens=mutate.HTTP),
    "decoded": Target(run=decoded, tokens=mutate.HTTP),
    "to_utf8": Target(run=to_utf8, tokens=(*mutate.CHARSETS, *mutate.HTML)),
    "scan": Target(run=scan, tokens=mutate.HTML),
    "parse": Target(run=parse, tokens=mutate.HTML),
    "srcset": Target(run=srcset, tokens=mutate.SRCSET),
    "canonical": Target(run=canonical, tokens=mutate.URL),
    "robots": Target(run=robots, tokens=mutate.ROBOTS),
    "identify": Target(run=identify, tokens=mutate.PROSE),
}
