"""The scan before the parse: hostile pages are refused by counts, and no real nesting is underestimated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from pipelines import guards
from pipelines.guards import Limits
from pipelines.reasons import Reason

NUMBERED = [b"%d" % n for n in range(100_000)]
HOSTILE = {
    "nested": (b"<div>" * 1_000_000, Reason.TOO_DEEP),
    "svg": (b"<svg>" + b"<g>" * 100_000, Reason.TOO_DEEP),
    "buttons": (b"<button>" * 10_000, Reason.TOO_DEEP),
    "formatting": (b"".join(b"<p><b id=%b>" % n for n in NUMBERED), Reason.TOO_DEEP),
    "masked": ((b"<div>" * 400 + b"<table><td>" + b"</div>" * 400) * 50, Reason.TOO_DEEP),
    "ignored ends": (b"<span><div></span>" * 5000, Reason.TOO_DEEP),
    "framesets": (b"<frameset>" * 5000, Reason.TOO_DEEP),
    "attributes": (b"<a " + b" ".join(b"a" + n for n in NUMBERED) + b">", Reason.TOO_MANY_ATTRIBUTES),
    "bodies": (b"".join(b"<body a%b=1>" % n for n in NUMBERED), Reason.TOO_MANY_ATTRIBUTES),
    "in all": (b"<p a b c d e f g h i j>" * 60_000, Reason.TOO_MANY_ATTRIBUTES),
    "nodes": (b"<p>" * 400_000, Reason.TOO_MANY_NODES),
    "ruby texts": (b"<rt>" * 100_000, Reason.TOO_DEEP),
    "groups of options": (b"<optgroup>" * 100_000, Reason.TOO_DEEP),
    "rows in svg": (b"<svg>" + b"<tr>" * 100_000, Reason.TOO_DEEP),
    "inputs in math": (b"<math>" + b"<input>" * 100_000, Reason.TOO_DEEP),
    "svg in integration points": (b"<svg><desc><p>" * 100_000, Reason.TOO_DEEP),
    "masked by a control character": (b'<p a=\x1b">' + b"<div>" * 100_000 + b'">', Reason.TOO_DEEP),
    "options": (b"<select>" + b"<option>x" * 100_000, Reason.TOO_MANY_NODES),
    "names": (b"".join(b"<x-%b></x-%b>" % (n, n) for n in NUMBERED), Reason.TOO_MANY_ATTRIBUTES),
    "names of attributes": (b"".join(b"<p a%b>" % n for n in NUMBERED), Reason.TOO_MANY_ATTRIBUTES),
    "names of ends": (b"".join(b"</x%b>" % n for n in NUMBERED), Reason.TOO_MANY_ATTRIBUTES),
    "document types": (b"".join(b"<!doctype x%b>" % n for n in NUMBERED), Reason.TOO_MANY_ATTRIBUTES),
    "classes": (b"".join(b"<p class=a%b>" % n for n in NUMBERED), Reason.TOO_MANY_ATTRIBUTES),
    "images": (b"<img>" * 100_000, Reason.TOO_MANY_IMAGES),
    "figures": (b"<figure></figure>" * 100_000, Reason.TOO_MANY_IMAGES),
    "ends that make nodes": (b"</br>" * 400_000, Reason.TOO_MANY_NODES),
}
HARMLESS = {
    "unclosed p": b"<p>paragraph\n" * 20_000,
    "unclosed cells": b"<table>" + b"<tr><td>x<td>y" * 20_000,
    "unclosed items": b"<ul>" + b"<li>x" * 50_000,
    "the same font": b"<font size=2>" * 2 + b"<p><font size=2>x" * 300,
    "quote": b'<a href="' + b"<p>" * 500_000,
    "comment": b"<!--" + b"<div>" * 500_000,
    "script": b"<script>" + b"<div>" * 500_000,
    "textarea": b"<textarea>" + b"<div>" * 500_000,
    "ampersands": b"&" * 4_000_000,
    "less than": b"<" * 1_000_000,
    "ruby": "<ruby>漢<rt>かん</ruby>".encode() * 10_000,
    "drawings": b"<svg><path d=x><g><use/></g></svg>" * 5000,
    "a table in a drawing": b"<svg><foreignObject><table><tr><td>x<br></td></tr></table></foreignObject></svg>" * 3000,
    "drawings left open": b"<div><svg><path><p>x<br></div>" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pages_are_refused(name: str) -> None:
    html, reason = HOSTILE[name]
    found = guards.exceeded(guards.scan(html[: 4 << 20], Limits()), Limits())
    assert found is not None
    assert found[0] == reason
    assert found[1] > 256


@pytest.mark.parametrize("name", HARMLESS)
def test_sloppy_pages_pass(name: str) -> None:
    assert guards.exceeded(guards.scan(HARMLESS[name], Limits()), Limits()) is None


def levels(html: bytes) -> Iterator[int]:
    tree = LexborHTMLParser(html)
    pending = [(tree.root, 1)]
    while pending:
        node, depth = pending.pop()
        if node is None:
            continue
        yield depth
        pending += [(node.next, depth), (node.first_child, depth + 1)]


TAGS = ["div", "b", "span", "p", "table", "td", "ul", "li", "svg", "g", "a", "i", "section", "object", "script", "h1"]
TAGS += ["math", "mi", "desc", "title", "tr", "input", "rt", "ruby", "option", "optgroup", "select", "font", "button"]
TOKEN = st.one_of(
    st.sampled_from(TAGS).map(lambda t: f"<{t}>"),
    st.sampled_from(TAGS).map(lambda t: f"</{t}>"),
    st.sampled_from(["x", "<!--", "-->", "<b class=1>", "<br>", "</p>", '<i a="', '">', "<", "</", "<?", "<!x>"]),
)


@pytest.mark.parametrize(
    "start",
    [
        "<math><title><title>", "<math><desc><style>", "<svg><mi><title>", "<math><mi><mglyph><title>",
        "<math><annotation-xml><title>", "<svg><annotation-xml><xmp>", "<math><mi><svg><mglyph><script>",
        '<math><annotation-xml encoding="text/html"><title>x</title>' + "<div/>" * 90,
    ],
)  # fmt: skip
def test_what_is_raw_in_html_may_hold_elements_elsewhere(start: str) -> None:
    html = (start + "<e><t>" * 90).encode()
    deepest = max(levels(html))
    assert deepest > 90  # else the case shows nothing
    assert deepest <= guards.scan(html, Limits()).depth + 8


@given(st.lists(TOKEN, max_size=60))
def test_depth_is_not_underestimated(tokens: list[str]) -> None:
    html = "".join(tokens).encode()
    counts = guards.scan(html, Limits())
    # html, body, and what tables and lists add between the elements that are counted.
    assert max(levels(html)) <= 8 + 5 * counts.depth


@given(st.binary(max_size=400))
def test_any_bytes_can_be_counted(html: bytes) -> None:
    counts = guards.scan(html, Limits())
    assert counts.nodes <= len(html) + 1
    assert counts.attributes <= len(html)
