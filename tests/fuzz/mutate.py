"""Inputs for the fuzzer: seeds of each kind, and mutations that know what the kind is made of.

Half of the changes put in, repeat or move whole tokens of the kind (a tag, a header, a gzip member), half are bytes.
"""

from __future__ import annotations

import gzip
import random
import re
import zlib
from collections.abc import Sequence

import brotli

MAX_BYTES = 1 << 14
TAGS = """div p a b i span ul ol li table tbody tr td th caption h1 h3 figure figcaption img picture source noscript svg
math foreignObject select option template script style title textarea pre xmp blockquote nav header footer aside main
article form button br hr base meta body html head frameset iframe details summary dialog dl dt dd font ruby rt label
video plaintext annotation-xml optgroup desc mi mtext input rb rp rtc colgroup col x-y address section"""
ATTRIBUTES = """class=nav|class='caption x'|id=footer|hidden|style='display:none'|role=main|role=navigation
href=/x|aria-hidden=true|href=//b.example/|href=a.jpg|src=/a.jpg|src=data:,|src='a b.png'|name=robots|content=noai
srcset='/a.jpg 1x,/b.jpg 2x'|data-src=/l.jpg|width=1|width=300|height=9|alt='An &amp; alt'|title=x|open|lang=en
type=image/avif"""
TEXTS = (
    "x", " ", "\n", "The ferry leaves the harbour at noon and comes back. ", "é", "漢字", "\U0001f600", "\u202e",
    "\u0301", "&amp;", "&lt;b&gt;", "&nbsp;", "&#0;", "&#x1F600", "&NotEqualTilde;", "<", "</", "<!", "<!--", "-->",
    "<![CDATA[", "]]>", "<?", "<!doctype html>", "\x00", "\x1b", "\ufffd", "\u00a0", "\u2028", "|", " | ",
)  # fmt: skip
HOLDERS = "div a img source p span meta base html"
LABELS = "utf-8 utf-16 gb2312 shift_jis iso-8859-1 iso-2022-jp big5 euc-kr koi8-r utf-7 x-user-defined"
HTML = tuple(
    text.encode()
    for text in (
        *(f"<{tag}>" for tag in TAGS.split()),
        *(f"</{tag}>" for tag in TAGS.split()),
        *(f"<{tag} {attribute}>" for tag in HOLDERS.split() for attribute in re.split(r"[|\n]", ATTRIBUTES)),
        *TEXTS,
    )
)
CHARSETS = (
    *(f"<meta charset={label}>".encode() for label in LABELS.split()), b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff",
    b'\x1b$B$"\x1b(B', b"\x82\xa0", b"\xd6\xd0", b"\xe9", b"caf\xe9 ", b"f\xfcr", b"\xc3", b"\n",
)  # fmt: skip
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
BODY = b"<p>The ferry leaves the harbour at noon." * 3
RECORD = (
    b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
    b"WARC-Record-ID: <urn:uuid:1>\r\nContent-Length: %d\r\n\r\n" % len(HEAD + b"\r\n" + BODY)
) + HEAD + b"\r\n" + BODY + b"\r\n\r\n"  # fmt: skip
WARC = (
    RECORD, gzip.compress(RECORD, mtime=0), gzip.compress(RECORD * 2, mtime=0), gzip.compress(b""), b"WARC/1.0\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 99999\r\n", b"\r\n\r\n", b"\x1f\x8b\x08", b"\0" * 9, b"WARC/1.0\n",
)  # fmt: skip
HTTP = (
    HEAD, b"\r\n", b"\n", b" folded\r\n", b"HTTP/1.1 200 OK\r\n", b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: br\r\n",
    b"Content-Encoding: deflate, gzip\r\n", b"Content-Encoding: zstd\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"X-Robots-Tag: noai\r\n", BODY, gzip.compress(BODY, mtime=0),
    zlib.compress(BODY), brotli.compress(BODY), b"5\r\nabcde\r\n", b"0\r\n\r\n", b"fffffff\r\n", b"1;x=y\r\na\r\n",
)  # fmt: skip
SRCSET = (
    b"/a.jpg", b" 1x", b" 2x", b" 300w", b", ", b",", b" ", b"data:image/png;base64,aa", b"\t", b"nan", b" infx",
    b" 1e9w",
    b" -1w", b"(", b"\xe2\x80\xa8", b"%20", b"{{x}}", b".svg", b"\n", b"loading.gif",
)  # fmt: skip
URL = (
    b"http://", b"https://", b"a.example", b"/", b"//", b"\\", b"?", b"#", b":80", b":443", b":", b"@", b"%", b"%2e",
    b"%41",
    b"..", b".", b"[::1]", b"[", b"]", b"127.1", b"0x7f.1", b"\xc3\xa9", b"xn--", b"\t", b" ", b"HTTP:",
    b"\xef\xbc\x8e",
    b"%zz",
    b"%C3%A9", b"\xc2\xad", b"\xef\xbf\xbd", b"a" * 70, b"..%2f", b"\0", b"%00", b"&", b"=", b"+",
)  # fmt: skip
ROBOTS = (
    b"noai", b"noindex", b"none", b"all", b",", b": ", b"googlebot", b"kosmosbot", b"*", b"max-snippet:5", b" ", b"\n",
    b"unavailable_after: 25 Jun 2010 15:00:00 GMT", b"unavailable_after: Friday, 25-Jun-10", b"max-image-preview:large",
)  # fmt: skip
PROSE = (
    b"The ferry leaves the harbour at noon and comes back in the evening. " * 9, b"\n",
    b"Der Hafen liegt im Westen. " * 20,
    "Паром выходит из гавани в полдень. ".encode() * 9, "漢字かな".encode() * 30, b"\xf0\x9f\x98\x80", b"\xef\xb7\x90",
    b"\x00",
    b"\xc2\x85", b"\xed\xa0\x80", b"__label__en", b"\xe2\x80\xa8", b"1 2 3 ", b"",
)  # fmt: skip


def made(tokens: Sequence[bytes], rng: random.Random, corpus: list[bytes]) -> bytes:
    """A new input: tokens alone, or an earlier input changed a few times; some are kept for later."""
    if not corpus or rng.random() < 0.3:
        data = b"".join(rng.choices(tokens, k=rng.randint(1, 40)))
    else:
        data = rng.choice(corpus)
        for _ in range(rng.randint(1, 6)):
            data = changed(data, tokens, rng, corpus)
    data = data[:MAX_BYTES]
    if len(corpus) < 500:
        corpus.append(data)
    elif rng.random() < 0.05:
        corpus[rng.randrange(len(corpus))] = data
    return data


def changed(data: bytes, tokens: Sequence[bytes], rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One change."""
    at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    end = min(end, at + rng.choice((1, 4, 60, 4000)))
    match rng.randrange(9):
        case 0 | 1:
            return data[:at] + rng.choice(tokens) + data[at:]
        case 2:
            return data[:at] + rng.choice(tokens) * rng.choice((2, 9, 300)) + data[at:]
        case 3:
            return data[:at] + rng.choice(tokens) + data[end:]
        case 4:
            return data[:at] + data[end:]
        case 5:
            return data[:end] + data[at:end] + data[end:]
        case 6:
            other = rng.choice(corpus)
            return data[:at] + other[rng.randint(0, len(other)) :]
        case 7:
            return data[:at] + rng.randbytes(rng.randint(1, 6)) + data[min(end, at + 6) :]
        case _:
            flipped = bytearray(data)
            for _ in range(rng.randint(1, 4) if flipped else 0):
                flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            return bytes(flipped)
