"""Pages made to be dear: each the worst of its kind that the limits admit, and what must become of it.

A case repeats one piece of markup, to the page limit of 4 MiB or as often as the guards let pass: both ends of the
range, since what is refused costs only the scan and what is just admitted costs the parse. Every page opens with
English prose, so that one that passes goes through all of the stage.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from pipelines import guards
from pipelines.extract import Config

CONFIG = Config()
PAGE_BYTES = CONFIG.max_page_bytes
PROSE = (
    b"The ferry leaves the harbour at noon and comes back in the evening. Nobody on the island minds that, because "
    b"those who live there have learnt to wait, and visitors are told of it by everyone whom they meet on the pier. "
)
TOP = b"<!doctype html><html lang=en><title>Ferry</title><p>" + PROSE + b"</p>\n"
GUARDED = ("too_deep", "too_many_nodes", "too_many_attributes", "too_many_images")
Piece = bytes | Callable[[int], bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A page, and the word of its only right verdict; head: the HTTP headers after its type."""

    name: str
    page: Callable[[], bytes]
    verdict: str
    head: bytes = b""


def joined(piece: Piece, num: int) -> bytes:
    """That many pieces, numbered where they differ."""
    return piece * num if isinstance(piece, bytes) else b"".join(map(piece, range(num)))


def full(piece: Piece, before: bytes = b"", after: bytes = b"") -> bytes:
    """As many pieces as fill the page limit."""
    room = PAGE_BYTES - len(TOP) - len(before) - len(after)
    body = joined(piece, room // len(piece if isinstance(piece, bytes) else piece(0)) + 1)[:room]
    return TOP + before + body + after


def most(piece: Piece, before: bytes = b"", after: bytes = b"") -> bytes:
    """As many pieces as the guards admit, to a sixty-fourth."""
    size = len(piece if isinstance(piece, bytes) else piece(0))
    low, high = 1, (PAGE_BYTES - len(TOP) - len(before) - len(after)) // size
    page = TOP
    while low <= high and high - low >= low // 64:
        middle = (low + high) // 2
        found = TOP + before + joined(piece, middle) + after
        counts = guards.scan(found, CONFIG.guards)
        if len(found) <= PAGE_BYTES and guards.exceeded(counts, CONFIG.guards) is None:
            page, low = found, middle + 1
        else:
            high = middle - 1
    return page


def nested(piece: bytes, close: bytes, inner: bytes = b"<p>" + PROSE) -> Callable[[int], bytes]:
    """A piece of markup that opens elements up to a few below the limit of depth, fills and closes them."""
    deep = (CONFIG.guards.depth - 12) // piece.count(b"<")
    whole = piece * deep + inner + close * deep
    return lambda _: whole


@cache
def noise() -> bytes:
    return random.Random(1).randbytes(PAGE_BYTES)


# piece: repeated to the page limit, and as often as the guards admit.
PIECES: dict[str, tuple[Piece, bytes, bytes]] = {
    "div": (b"<div>", b"", b""),
    "div with text": (b"<div>x", b"", b""),
    "p": (b"<p>", b"", b""),
    "p with a letter": (b"<p>x", b"", b""),
    "paragraphs": (b"<p>" + PROSE[:67] + b"</p>\n", b"", b""),
    "short paragraphs": (b"<p>It is a ferry.\n", b"", b""),
    "distinct paragraphs": (lambda n: b"<p>Ferry %d leaves the pier at %d and is back by then." % (n, n * 7), b"", b""),
    "br": (b"<br>", b"", b""),
    "br and text": (b"a<br>\n", b"", b""),
    "hr": (b"<hr>", b"", b""),
    "a": (b"<a>", b"", b""),
    "a href": (b"<a href=/x>", b"", b""),
    "a href with text": (b"<a href=/x>y", b"", b""),
    "links": (lambda n: b"<a href=/%d>link %d</a> " % (n, n), b"", b""),
    "list of links": (lambda n: b"<li><a href=/%d>link %d</a>" % (n, n), b"<ul>", b""),
    "a and p": (b"<a><p>", b"", b""),
    "a and p with text": (b"<a href=/y><p>x", b"", b""),
    "a and div": (b"<a><div></a>", b"", b""),
    "b and i misnested": (b"<b><i></b></i>", b"", b""),
    "b and p misnested": (b"<b><p></b>x</p>", b"", b""),
    "formatting over blocks": (b"<p>x", b"<b><i><u><s><tt><big><em><code>" * 3, b""),
    "formatting that differs": (lambda n: b"<b id=%d><p>" % n, b"", b""),
    "font": (b"<font size=2>", b"", b""),
    "font in p": (b"<p><font size=2>x", b"", b""),
    "fonts that differ": (lambda n: b"<p><font size=%d>x" % n, b"", b""),
    "font closed late": (b"<font><div></font></div>", b"", b""),
    "nobr": (b"<nobr>x", b"", b""),
    "span": (b"<span>", b"", b""),
    "span closed": (b"<span>x</span>", b"", b""),
    "ends only": (b"</div>", b"", b""),
    "ends that make p": (b"</p>", b"", b""),
    "ends in a deep page": (b"</b>", b"<div>" * 490, b""),
    "ends of others in a deep page": (b"</section>", b"<i>" * 490, b""),
    "text in a deep page": (b"x<br>", b"<div>" * 490, b""),
    "blocks in a deep page": (b"<p>x", b"<div>" * 490, b""),
    "spans in a deep page": (b"<span>x</span>", b"<div>" * 490, b""),
    "blocks in deep spans": (b"<p>x", b"<span>" * 490, b""),
    "formatting in a deep page": (b"<b>x</b>", b"<div>" * 490, b""),
    "misnested in a deep page": (b"<b><p></b>x</p>", b"<div>" * 480, b""),
    "a in a deep page": (b"<a href=/x>x", b"<div>" * 490, b""),
    "li in a deep page": (b"<li>x", b"<span>" * 490, b""),
    "nested and closed": (nested(b"<div>", b"</div>"), b"", b""),
    "nested spans": (nested(b"<span>", b"</span>"), b"", b""),
    "nested quotes": (nested(b"<blockquote>", b"</blockquote>"), b"", b""),
    "nested lists": (nested(b"<ul><li>", b"</li></ul>", b"It is a ferry."), b"", b""),
    "nested tables": (nested(b"<table><tr><td>", b"</table>", b"It is a ferry."), b"", b""),
    "nested svg": (nested(b"<svg><g>", b"</g></svg>", b"x"), b"", b""),
    "table": (b"<table><tr><td>", b"", b""),
    "cells": (b"<td>x", b"<table><tr>", b"</table>"),
    "rows": (b"<tr><td>x<td>y", b"<table>", b"</table>"),
    "cells of prose": (b"<td>" + PROSE[:67], b"<table><tr>", b"</table>"),
    "text in a table": (b"x<tr>", b"<table>", b"</table>"),
    "fostered": (b"<p>x<tr>", b"<table>", b"</table>"),
    "fostered b": (b"<b>x<tr>", b"<table>", b"</table>"),
    "fostered spaces": (b" <b>", b"<table>", b""),
    "select": (b"<select><option>", b"", b""),
    "option": (b"<option>x", b"<select>", b""),
    "options selected": (b"<option selected>x", b"<select>", b""),
    "selects": (b"<select><option>x</select>", b"", b""),
    "options in groups": (b"<optgroup><option>x", b"<select>", b""),
    "options in a deep page": (b"<option>x", b"<div>" * 480 + b"<select>", b""),
    "options without select": (b"<option>x", b"", b""),
    "options of a data list": (b"<option>x", b"<datalist>", b""),
    "others in a select": (b"<p>x", b"<select>", b"<option>y"),
    "svg and html": (b"<svg><foreignObject><p>", b"", b""),
    "svg closed": (b"<svg><foreignObject>x</foreignObject></svg>", b"", b""),
    "math": (b"<math><mi>x</mi></math>", b"", b""),
    "math deep": (b"<math><mtext>", b"", b""),
    "frameset": (b"<frameset>", b"", b""),
    "template": (b"<template>", b"", b""),
    "template closed": (b"<template><p>x</template>", b"", b""),
    "form": (b"<form><input>", b"", b""),
    "button": (b"<button>x", b"", b""),
    "button closed": (b"<button>x</button>", b"", b""),
    "ruby": (b"<ruby>x<rt>y", b"", b""),
    "ruby texts": (b"<rt>", b"", b""),
    "groups of options": (b"<optgroup>", b"", b""),
    "rows in svg": (b"<tr>", b"<svg>", b""),
    "void in svg": (b"<input>", b"<svg>", b""),
    "items in math": (b"<option>", b"<math>", b""),
    "svg in a paragraph": (b"<svg><desc><p>", b"", b""),
    "math in a paragraph": (b"<math><mi><p>", b"", b""),
    "raw in svg": (b"<svg><title><p>", b"", b""),
    "custom": (lambda n: b"<x-%d>y</x-%d>" % (n, n), b"", b""),
    "custom open": (lambda n: b"<x%d>" % n, b"", b""),
    "ends that differ": (lambda n: b"</x%d>" % n, b"", b""),
    "document types": (lambda n: b"<!doctype x%d>" % n, b"", b""),
    "attributes that differ": (lambda n: b"<p a%d>" % n, b"", b""),
    "attributes of ends": (lambda n: b"</p a%d>" % n, b"", b""),
    "identifiers": (lambda n: b"<p id=a%d>x" % n, b"", b""),
    "forms": (b"<form></form>", b"", b""),
    "inputs": (b"<input form=a>", b"<form>", b""),
    "body again": (b"<body a=1>", b"", b""),
    "body with attributes": (lambda n: b"<body a%d>" % n, b"", b""),
    "html with attributes": (lambda n: b"<html a%d>" % n, b"", b""),
    "images": (lambda n: b"<img src=/%06d.jpg>" % n, b"", b""),
    "images alike": (b"<img src=/a.jpg>", b"", b""),
    "images without address": (b"<img>", b"", b""),
    "images of data": (b"<img src='data:image/png;base64,aaaa'>", b"", b""),
    "images of hidden style": (b"<img style='display:none' src=a>", b"", b""),
    "pictures": (lambda n: b"<picture><source srcset='/%d.jpg 2x'><img src=/%d.jpg></picture>" % (n, n), b"", b""),
    "pictures empty": (b"<picture></picture>", b"", b""),
    "sources": (b"<source srcset='/a.jpg 2x'>", b"<picture>", b"<img></picture>"),
    "sources again": (b"<source srcset='/a.jpg 2x'><img>", b"<picture>", b"</picture>"),
    "source for many": (b"<img>", b"<picture>" + b"<source srcset='/a.svg 2x'>" * 4000, b"</picture>"),
    "figures": (lambda n: b"<figure><img src=/%d.jpg><figcaption>Ferry %d</figcaption></figure>" % (n, n), b"", b""),
    "figures empty": (b"<figure><figcaption>It is a ferry.</figcaption></figure>", b"", b""),
    "figures nested": (nested(b"<figure>", b"</figure>", b"<img src=a.jpg><figcaption>A ferry"), b"", b""),
    "captions in one figure": (b"<figcaption>x</figcaption>", b"<figure><img src=/a.jpg>", b"</figure>"),
    "noscript": (b"<noscript>x</noscript>", b"", b""),
    "noscript images": (lambda n: b"<noscript><img src=/%d.jpg></noscript>" % n, b"", b""),
    "noscript open": (b"<noscript>", b"", b""),
    "headings": (b"<h1>x</h1>", b"", b""),
    "headings open": (b"<h2>x", b"", b""),
    "items": (b"<li>x", b"<ul>", b""),
    "terms": (b"<dt>x<dd>y", b"<dl>", b""),
    "meta": (b"<meta name=a content=b>", b"<head>", b""),
    "base": (b"<base href=/a>", b"<head>", b""),
    "titles": (b"<title>x</title>", b"", b""),
    "scripts": (b"<script>x</script>", b"", b""),
    "styles": (b"<style>x</style>", b"", b""),
    "textareas": (b"<textarea>x</textarea>", b"", b""),
    "iframes": (b"<iframe>x</iframe>", b"", b""),
    "script comments": (b"<!--<script>", b"<script>", b"</script>"),
    "script half ends": (b"</scrip", b"<script>", b"</script>"),
    "xmp": (b"</xmq>", b"<xmp>", b"</xmp>"),
    "comments": (b"<!---->", b"", b""),
    "comments with text": (b"<!--x-->y", b"", b""),
    "comments of dashes": (b"--", b"<!-", b""),
    "comments that nearly end": (b"-- >", b"<!--", b""),
    "instructions": (b"<?x>", b"", b""),
    "doctypes": (b"<!doctype html>", b"", b""),
    "cdata": (b"]] >", b"<svg><![CDATA[", b""),
    "cdata in svg": (b"<![CDATA[x]]>", b"<svg>", b"</svg>"),
    "less than": (b"<", b"", b""),
    "ends without name": (b"</", b"", b""),
    "greater than": (b">", b"", b""),
    "ampersands": (b"&", b"", b""),
    "entities": (b"&amp;", b"", b""),
    "entities open": (b"&amp", b"", b""),
    "entities long": (b"&CounterClockwiseContourIntegral;", b"", b""),
    "entities nearly": (b"&CounterClockwiseContourIntegra", b"", b""),
    "entities double": (b"&NotEqualTilde;", b"", b""),
    "numbers": (b"&#x1F600;", b"", b""),
    "numbers wrong": (b"&#xFFFFFFFF;", b"", b""),
    "nbsp": (b"&nbsp;", b"", b""),
    "attributes of a div": (lambda n: b"<div a b c d e f g h i j></div>", b"", b""),
    "hundred attributes": (b"<p " + b" ".join(b"a%d" % n for n in range(100)) + b">", b"", b""),
    "attributes at the limit": (b"<p " + b" ".join(b"a%d=1" % n for n in range(250)) + b">", b"", b""),
    "attributes alike": (b"<p " + b"a " * 250 + b">", b"", b""),
    "data attributes": (b"<img " + b" ".join(b"data-%d=x" % n for n in range(99)) + b">", b"", b""),
    "images with much": (lambda n: b"<img src=/%d.jpg alt='%s' title='%s'>" % (n, b"y" * 400, b"z" * 400), b"", b""),
    "distinct classes": (lambda n: b"<div class='navx%d subY%d'>x</div>" % (n, n), b"", b""),
    "distinct styles": (lambda n: b"<p style='color:#%06x'>x" % n, b"", b""),
    "related": (b"<p>Related</p>", b"", b""),
    "related in cells": (b"<tr><td>Related</td></tr>", b"<table>", b"</table>"),
    "comments alone": (b"<div>Comments</div>", b"", b""),
    "related headings": (b"<h6>Related</h6><p>a</p>", b"", b""),
    "class of words": (b"ab ", b'<div class="', b'">x</div>'),
    "class of humps": (b"aB", b'<div class="', b'">x</div>'),
    "style of one": (b"width:1px;", b'<div style="', b'">x</div>'),
    "srcset of one": (b"a.jpg 1w,", b'<img srcset="', b'">'),
    "srcset of commas": (b",", b'<img srcset="', b'">'),
    "address of data": (b"A", b'<img src="data:image/png;base64,', b'">'),
    "address of dots": (b"../", b'<img src="', b'">'),
    "address of sizes": (b"w=1&", b'<img src="/a?', b'">'),
    "widths of one": (b"1,", b'<img data-src="{width}.jpg" data-widths="', b'">'),
    "media of one": (b"(min-width:1px) and ", b'<picture><source media="', b'" srcset=a.jpg><img src=b.jpg></picture>'),
    "name of one attribute": (b"data-", b"<img ", b'="x.jpg">'),
    "hidden": (b"<div hidden>x</div>", b"", b""),
    "asides": (b"<aside>x</aside>", b"", b""),
    "navs": (b"<nav><a href=/x>y</a></nav>", b"", b""),
    "mains": (b"<main>x</main>", b"", b""),
    "mains nested": (nested(b"<main>", b"</main>"), b"", b""),
    "labels": (b"<label>x</label>", b"", b""),
    "pre": (b"x\n", b"<pre>", b"</pre>"),
    "pre spaces": (b" \n", b"<pre>x", b"</pre>"),
    "pre many": (b"<pre>x\n</pre>", b"", b""),
    "letters": (b"x", b"<p>", b""),
    "words": (b"the ", b"<p>", b""),
    "one-letter words": (b"a ", b"<p>", b""),
    "prose": (PROSE, b"<p>", b""),
    "lines": (b"the ferry\n", b"<p>", b""),
    "spaces": (b" ", b"<p>", b"x"),
    "no-break spaces": (b"\xc2\xa0", b"<p>", b"x"),
    "full stops": (b".", b"<p>", b""),
    "hashes": (b"#a ", b"<p>", b""),
    "combining": ("e" "\u0301".encode(), b"<p>", b""),
    "combining only": ("\u0301".encode(), b"<p>", b""),
    "overrides": ("\u202e".encode(), b"<p>", b""),
    "emoji": ("\U0001f600".encode(), b"<p>", b""),
    "emoji joined": ("\U0001f468\u200d".encode(), b"<p>", b""),
    "grows in lower case": ("\u0130".encode(), b"<p>", b""),
    "ligatures": ("\ufb03 ".encode(), b"<p>", b""),
    "cjk": ("\u6f22".encode(), b"<p>", b""),
    "replacement": ("\ufffd".encode(), b"<p>", b""),
    "latin 1": (b"caf\xe9 ", b"<p>", b""),
    "latin 1 only": (b"\xe9", b"<p>", b""),
    "high bytes": (b"\xff", b"<p>", b""),
    "utf-8 half": (b"\xc3\xa9\xe9", b"<p>", b""),
    "gb2312": (b"\xd6\xd0\xce\xc4", b"<meta charset=gb2312><p>", b""),
    "shift_jis": (b"\x82\xa0\x83", b"<meta charset=shift_jis><p>", b""),
    "big5 that is none": (b"\x81\xff\xfe", b"<meta charset=big5><p>", b""),
    "iso-2022-jp": (b"\x1b$B$\"\x1b(B", b"<meta charset=iso-2022-jp><p>", b""),
    "escapes": (b"\x1b$B", b"<p>", b""),
    "bells": (b"text\x07", b"<p>", b""),
    "bells, few": (b"the ferry is at the pier, and the ferry is at it\x07 ", b"<p>", b""),
}  # fmt: skip


# What becomes of a full page, and of what is admitted of it, where that is not "kept".
VERDICTS: dict[str, tuple[str, str]] = {
    "div": ("too_deep", "kept"),
    "div with text": ("too_deep", "kept"),
    "p": ("too_many_nodes", "kept"),
    "p with a letter": ("too_many_nodes", "kept"),
    "short paragraphs": ("too_many_nodes", "kept"),
    "br": ("too_many_nodes", "kept"),
    "br and text": ("too_many_nodes", "kept"),
    "hr": ("too_many_nodes", "kept"),
    "a": ("too_deep", "kept"),
    "a href": ("too_deep", "kept"),
    "a href with text": ("too_deep", "kept"),
    "links": ("too_many_nodes", "kept"),
    "list of links": ("too_many_nodes", "kept"),
    "a and p": ("too_deep", "kept"),
    "a and p with text": ("too_deep", "kept"),
    "a and div": ("too_deep", "kept"),
    "b and i misnested": ("too_many_nodes", "kept"),
    "b and p misnested": ("too_many_nodes", "kept"),
    "formatting over blocks": ("too_many_nodes", "kept"),
    "formatting that differs": ("too_deep", "kept"),
    "font": ("too_deep", "kept"),
    "font in p": ("too_deep", "kept"),
    "fonts that differ": ("too_deep", "kept"),
    "font closed late": ("too_many_nodes", "kept"),
    "nobr": ("too_deep", "kept"),
    "span": ("too_deep", "kept"),
    "span closed": ("too_many_nodes", "kept"),
    "ends that make p": ("too_many_nodes", "kept"),
    "ends of others in a deep page": ("too_many_nodes", "kept"),
    "text in a deep page": ("too_many_nodes", "kept"),
    "blocks in a deep page": ("too_many_nodes", "kept"),
    "spans in a deep page": ("too_many_nodes", "kept"),
    "blocks in deep spans": ("too_many_nodes", "kept"),
    "formatting in a deep page": ("too_many_nodes", "kept"),
    "misnested in a deep page": ("too_many_nodes", "kept"),
    "a in a deep page": ("too_deep", "kept"),
    "li in a deep page": ("too_many_nodes", "kept"),
    "nested and closed": ("too_many_nodes", "kept"),
    "nested spans": ("too_many_nodes", "kept"),
    "nested lists": ("too_many_nodes", "kept"),
    "nested tables": ("too_many_nodes", "kept"),
    "nested svg": ("too_many_nodes", "kept"),
    "table": ("too_deep", "kept"),
    "cells": ("too_many_nodes", "kept"),
    "rows": ("too_many_nodes", "language"),
    "text in a table": ("too_many_nodes", "kept"),
    "fostered": ("too_many_nodes", "kept"),
    "fostered b": ("too_deep", "kept"),
    "fostered spaces": ("too_deep", "kept"),
    "select": ("too_deep", "kept"),
    "option": ("too_many_nodes", "kept"),
    "options selected": ("too_many_nodes", "kept"),
    "selects": ("too_many_nodes", "kept"),
    "options in groups": ("too_deep", "kept"),
    "options in a deep page": ("too_many_nodes", "kept"),
    "options without select": ("too_many_nodes", "kept"),
    "options of a data list": ("too_many_nodes", "kept"),
    "others in a select": ("too_many_nodes", "kept"),
    "svg and html": ("too_deep", "kept"),
    "svg closed": ("too_many_nodes", "kept"),
    "math": ("too_many_nodes", "kept"),
    "math deep": ("too_deep", "kept"),
    "frameset": ("too_deep", "kept"),
    "template": ("too_deep", "kept"),
    "template closed": ("too_many_nodes", "kept"),
    "form": ("too_deep", "kept"),
    "button": ("too_deep", "kept"),
    "button closed": ("too_many_nodes", "kept"),
    "ruby": ("too_deep", "kept"),
    "ruby texts": ("too_deep", "kept"),
    "groups of options": ("too_deep", "kept"),
    "rows in svg": ("too_deep", "kept"),
    "void in svg": ("too_deep", "kept"),
    "items in math": ("too_deep", "kept"),
    "svg in a paragraph": ("too_deep", "kept"),
    "math in a paragraph": ("too_deep", "kept"),
    "raw in svg": ("too_deep", "kept"),
    "custom": ("too_many_attributes", "language"),
    "custom open": ("too_deep", "kept"),
    "ends that differ": ("too_many_attributes", "kept"),
    "document types": ("too_many_attributes", "kept"),
    "attributes that differ": ("too_many_attributes", "kept"),
    "attributes of ends": ("too_many_attributes", "kept"),
    "identifiers": ("too_many_attributes", "kept"),
    "forms": ("too_many_nodes", "kept"),
    "inputs": ("too_many_nodes", "kept"),
    "body again": ("too_many_nodes", "kept"),
    "body with attributes": ("too_many_attributes", "kept"),
    "html with attributes": ("too_many_attributes", "kept"),
    "images": ("too_many_images", "too_many_images"),
    "images alike": ("too_many_images", "too_many_images"),
    "images without address": ("too_many_images", "kept"),
    "images of data": ("too_many_images", "kept"),
    "images of hidden style": ("too_many_images", "kept"),
    "pictures": ("too_many_images", "too_many_images"),
    "sources": ("too_many_images", "kept"),
    "sources again": ("too_many_images", "too_many_images"),
    "source for many": ("too_many_images", "kept"),
    "figures": ("too_many_images", "too_many_images"),
    "figures empty": ("too_many_images", "kept"),
    "figures nested": ("too_many_images", "kept"),
    "captions in one figure": ("too_many_nodes", "kept"),
    "noscript": ("too_many_nodes", "kept"),
    "noscript images": ("too_many_images", "too_many_images"),
    "noscript open": ("too_deep", "kept"),
    "headings": ("too_many_nodes", "kept"),
    "headings open": ("too_deep", "kept"),
    "items": ("too_many_nodes", "kept"),
    "terms": ("too_many_nodes", "language"),
    "base": ("too_many_nodes", "kept"),
    "titles": ("too_many_nodes", "kept"),
    "scripts": ("too_many_nodes", "kept"),
    "styles": ("too_many_nodes", "kept"),
    "textareas": ("too_many_nodes", "kept"),
    "iframes": ("too_many_nodes", "kept"),
    "xmp": ("language", "language"),
    "comments": ("too_many_nodes", "kept"),
    "comments with text": ("too_many_nodes", "language"),
    "instructions": ("too_many_nodes", "kept"),
    "doctypes": ("too_many_nodes", "kept"),
    "cdata in svg": ("too_many_nodes", "kept"),
    "entities double": ("language", "language"),
    "attributes of a div": ("too_many_attributes", "kept"),
    "hundred attributes": ("too_many_attributes", "kept"),
    "attributes at the limit": ("too_many_attributes", "kept"),
    "attributes alike": ("too_many_attributes", "kept"),
    "images with much": ("too_many_images", "too_many_images"),
    "distinct classes": ("too_many_attributes", "kept"),
    "distinct styles": ("too_many_attributes", "kept"),
    **dict.fromkeys(("related", "related in cells", "comments alone", "related headings"), ("too_many_nodes", "kept")),
    "hidden": ("too_many_attributes", "kept"),
    "asides": ("too_many_nodes", "kept"),
    "navs": ("too_many_nodes", "kept"),
    "mains": ("too_many_nodes", "kept"),
    "mains nested": ("too_many_nodes", "kept"),
    "labels": ("too_many_nodes", "kept"),
    "pre many": ("too_many_nodes", "kept"),
    "latin 1": ("language", "language"),
    "latin 1 only": ("language", "language"),
    "gb2312": ("language", "language"),
    "big5 that is none": ("charset", "charset"),
    "bells": ("charset", "charset"),
}


def cases() -> Iterator[Case]:
    """Every case; a piece of which a full page passes the guards makes one, else two."""
    for name, (piece, before, after) in PIECES.items():
        whole, admitted = VERDICTS.get(name, ("kept", "kept"))
        yield Case(name=f"{name}: 4 MiB", page=partial(full, piece, before, after), verdict=whole)
        if whole in GUARDED:
            yield Case(name=f"{name}: admitted", page=partial(most, piece, before, after), verdict=admitted)
