"""The walk against lexbor's own tree: the same text and the same images, whatever the page looks like."""

from __future__ import annotations

import html

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipelines import boilerplate, stream, tags, tokens
from pipelines.walk import Walked, _read_flags, laid, walk

URL = "https://a.example/"
UNSEEN = frozenset((*tags.GROUPS[tags.SKIP].split(), "title", "noscript"))
PIECES = [
    "<p>", "</p>", "<div class='x'>", "</div>", "<b>", "</b>", "<a href=/x.png>", "</a>", "<a href>", "<ul><li>",
    "</ul>", "<table><tr><td>", "<th>", "</table>", "<br>", "<hr>", "<img src=a{n}.png>",
    '<img alt="a>b&quot;" src=\'b{n}.png\'>', "<script>if (a < b) '<p>'</script>",
    "<script><!--<script></script>--></script>", "<style>p{}</style>", "<svg><a>x", "</svg>", "<textarea><p>no",
    "</textarea>", "<xmp><b>raw</b></xmp>", "<pre>\n a\n  b", "</pre>", "<math><mi>x</math>", "<!-- a > b -->",
    "<!--->", "<?php a ?>", '<p a=1 "b=\'c>d\'>', "<p/x=y>", "<x-y>", "</x-y>", "<select><option>z", "</select>",
    "<template><p>t", "</template>", "<h2>", "</h2>", "&lt;i&gt;", "&amp;amp;", "\u00a0", "&nbsp;", "é", "\u2003",
    "word", " ", "\n", "<", "&", '"', "<title>t</title>", "<col>", "<figure>", "<figcaption>", "</figure>",
    "<dl><dt>", "<dd>",
]  # fmt: skip


def everything(walked: Walked) -> list[tuple[str, str]]:
    """All blocks, nothing marked."""
    num = len(walked.blocks.entries)
    found = laid(walked, np.zeros(num, np.bool_), np.full(num, -1, np.int32))
    return [(entry.block, entry.text) for entry in found.entries]


def said(walked: Walked) -> str:
    return "".join("".join(text.split()) for _, text in everything(walked))


def visible(node: LexborNode, images: list[str]) -> str:
    """The text of a tree, white space out, by recursion."""
    found = ""
    child = node.first_child
    while child is not None:
        if child.is_text_node:
            found += "".join((child.text_content or "").split())
        elif child.is_element_node and child.tag not in UNSEEN:
            if child.tag == "img":
                images.append(child.attributes.get("src") or "")
            found += visible(child, images)
        child = child.next
    return found


@given(st.lists(st.sampled_from(PIECES), max_size=40))
@settings(deadline=None, max_examples=300)
def test_text_and_images_are_those_of_the_tree(pieces: list[str]) -> None:
    html = "<body>" + "".join(piece.replace("{n}", str(place)) for place, piece in enumerate(pieces))
    tree = LexborHTMLParser(html)
    images: list[str] = []
    assert tree.root is not None
    expected = visible(tree.root, images)
    found = walk(tree, URL, 4096)
    assert said(found) == expected
    assert [image[0] for image in found.images] == [URL + src for src in images]


@given(st.text(max_size=40), st.text(max_size=40))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_as_lexbor_reads_it(text: str, value: str) -> None:
    tree = LexborHTMLParser(f"<body><p title='{value}'>{text}</p>".encode("utf-8", "replace"))
    assert tree.root is not None
    assert said(walk(tree, URL, 10)) == visible(tree.root, [])


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a<plaintext>b</plaintext><p>c", "a"),
        ("<p>a<script><!-- <script> </script> <p>b --></script>c", "ac"),
        ("<p>a<script><!--></script>b", "ab"),
        ("<p>a</p><xmp></p>&amp;</xmp>", "a</p>&amp;"),
        ("<p>a<p hidden>b<p>c<div style='display:none'><p>d</div>e", "ace"),
        ("<p>a<span class=sr-only>b<span>c</span></span>d", "ad"),
        ("<svg><title>a</title></svg><title>b</title>c", "c"),
    ],
)
def test_what_no_reader_sees(html: str, text: str) -> None:
    assert said(walk(LexborHTMLParser(html), URL, 10)) == text


def test_a_header_cell_is_not_lost_and_a_number_stands_apart() -> None:
    html = "<h2><span class=secnum>4.2</span><span>Variations</span></h2><blockquote><table><tr><th>a<td>b</table>"
    assert everything(walk(LexborHTMLParser(html), URL, 10)) == [("h2", "4.2 Variations"), ("th", "a"), ("other", "b")]


WORDS = sorted(
    boilerplate.NAMES | boilerplate.PAIRS | boilerplate.CAPTION | boilerplate.NUMBERING | boilerplate.SKIPPED_ROLES
    | boilerplate.MAIN_ROLES
    | {"no", "wp-caption", "text", "x", "Nav", "siteHEADERBar", "display:none", "Visibility : Hidden", "true"}
)  # fmt: skip
VALUES = st.lists(
    st.sampled_from(WORDS) | st.sampled_from(WORDS).map(str.title) | st.sampled_from(WORDS).map(str.upper)
    | st.sampled_from([" ", "-", "_", "\u00a0", "\u017f", "7", "&"]) | st.text("aNv -_é", max_size=4),
    max_size=5,
).map("".join)  # fmt: skip
READ = {
    "p": tags.HIDDEN | tags.MUTED | tags.CAPTION, "li": tags.HIDDEN | tags.MUTED, "a": tags.HIDDEN | tags.MUTED,
    "span": tags.HIDDEN | tags.MUTED | tags.UNSEEN | tags.NUMBER, "x-y": tags.HIDDEN | tags.MUTED,
    "div": ~(tags.UNSEEN | tags.NUMBER), "nav": ~(tags.UNSEEN | tags.NUMBER),
}  # fmt: skip


@given(
    st.sampled_from(sorted(READ)),
    st.dictionaries(st.sampled_from(sorted((*tags.ATTRIBUTES, "data-x"))), VALUES, max_size=4),
)
@settings(deadline=None, max_examples=500)
def test_what_is_not_asked_has_nothing_to_say(tag: str, attributes: dict[str, str]) -> None:
    """The compiled pass asks Python about an element only where the answer may not be 0."""
    attributes.pop("href", None)
    inside = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    written = LexborHTMLParser(f"<body><{tag} {inside}>x</{tag}>").body
    assert written is not None
    read = tokens.read((written.html or "").encode())
    place = [read.data[begin:end].tobytes() for begin, end in zip(read.begins, read.ends, strict=True)]
    token = next(
        i for i in range(len(place)) if read.what[i] == tags.START and tags.TAGS[read.tags[i]] in (tag, "") and i
    )
    flags = _read_flags(place[token]) & READ[tag]
    assert read.same[token] >= 0 or flags == 0


def test_tags_hidden_from_the_depth_are_read_or_left_out() -> None:
    piece = b"<svg><script><t><script></svg></script>"
    for num in (1, 3, 200):
        found = stream.parse(b"<div>" * 9 + piece * num + b"<div>" * 300 + b"<p>Behind it.", "http://a.example/")
        assert [entry.text for entry in found.entries] in (["Behind it."], [])
    shown = stream.parse(b"<g><svg><script><t><script><p><a>Behind <b>it</b>.", "http://a.example/")
    assert [entry.text for entry in shown.entries] == ["Behind it."]
