"""robots.txt of any bytes: encodings, limits, an oracle for patterns, and what no order of lines may change."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fetch import robots
from pipelines.fetch.robots import MAX_BYTES, MAX_PIECE, MAX_TEXT, MAX_WILDCARDS, parse

US = "kosmosbot"
SITE = "http://example.org"


def allows(text: str, path: str) -> bool:
    return parse(text.encode(), US).allows(SITE + path)


FORBIDDING = "User-agent: *\r\nDisallow: /x\r\nAllow: /x/ツ\r\n"


@pytest.mark.parametrize(
    "body",
    [
        FORBIDDING.encode(),
        FORBIDDING.encode("utf-8-sig"),
        FORBIDDING.encode("utf-16"),
        b"\xfe\xff" + FORBIDDING.encode("utf-16-be"),
        FORBIDDING.replace("\r\n", "\r").encode(),
        FORBIDDING.replace("\r\n", "\n").encode(),
        FORBIDDING.encode().replace(b"l", b"\0l"),
        b"\xff\xff\0\n" + FORBIDDING.encode() + b"\xc3\x28\xff: \xe9\n",
        "ü: ö\n".encode("latin-1") + FORBIDDING.encode(),
    ],
)
def test_bytes_of_many_kinds(body: bytes) -> None:
    rules = parse(body, US)
    assert not rules.allows(SITE + "/x/y")
    assert rules.allows(SITE + "/x/%E3%83%84")
    assert rules.allows(SITE + "/")


def test_utf_16_without_a_mark_and_octets_of_no_charset() -> None:
    for code in ("utf-16-le", "utf-16-be", "utf-32-le"):
        assert not parse("User-agent: *\nDisallow: /x".encode(code), US).allows(SITE + "/x")
    latin = parse("User-agent: *\nDisallow: /é".encode("latin-1"), US)
    assert not latin.allows(SITE + "/%E9")
    assert latin.allows(SITE + "/%C3%A9")


def test_the_lines_that_are_for_us() -> None:
    text = "User-agent: a\nDisallow: /a\nUser-agent: *\nALLOW : /ä # why\nSitemap: b\nCrawl-delay: 1\nContent-Signal: c"
    assert parse(text.encode(), US).text == "user-agent: *\nallow: /ä\ncrawl-delay: 1\ncontent-signal: c"
    long = parse(b"User-agent: *\n" + b"".join(b"Disallow: /\xff%d\n" % place for place in range(5000)), US)
    assert MAX_TEXT - 100 < len(long.text.encode()) <= MAX_TEXT
    assert not long.allows(SITE + "/%FF4999")


def test_beyond_the_limits_more_is_forbidden_and_never_less() -> None:
    many = "".join(f"Disallow: /d*-{place}$\nAllow: /a*-{place}$\n" for place in range(MAX_WILDCARDS))
    rules = parse(f"User-agent: *\nDisallow: /a\n{many}".encode(), US)
    assert len(rules.access.wild) == MAX_WILDCARDS
    assert not rules.allows(f"{SITE}/d-{MAX_WILDCARDS - 1}")  # a rule that was cut
    assert rules.allows(f"{SITE}/a-0")
    assert not rules.allows(f"{SITE}/a-{MAX_WILDCARDS - 1}")  # likewise
    assert rules.allows(SITE + "/other")

    long = "b" * (MAX_PIECE + 1)
    rules = parse(f"User-agent: *\nDisallow: /*{long}\nAllow: /a*{long}\n".encode(), US)
    assert not rules.allows(f"{SITE}/x{long}") and not rules.allows(f"{SITE}/a{long}")
    assert rules.allows(SITE + "/x")

    rules = parse(f"User-agent: *\nDisallow: /{long}*c\n".encode(), US)
    assert not rules.allows(f"{SITE}/{long}c") and rules.allows(
        f"{SITE}/{long}"
    )  # before a wildcard any length will do

    pieces = "*b" * robots.MAX_PIECES
    rules = parse(f"User-agent: *\nDisallow: /{pieces}$\nContent-Usage: /{pieces}$ train-ai=n\n".encode(), US)
    assert not rules.allows(SITE + "/" + "b" * robots.MAX_PIECES)
    assert rules.reserved(SITE + "/" + "b" * robots.MAX_PIECES)
    assert rules.allows(SITE + "/bb") and not rules.reserved(SITE + "/bb")


def test_what_lies_beyond_500_kib_is_not_read() -> None:
    head = b"User-agent: *\nDisallow: /x\n"
    room = MAX_BYTES - len(head)
    assert not parse(head + b"#" * (room - 13) + b"\nDisallow: /y\nAllow: /x/y", US).allows(SITE + "/y")
    assert parse(head + b"#" * room + b"\nDisallow: /y", US).allows(SITE + "/y")
    cut = head + b"#" * (room - 10) + b"\nAllow: /x/only/this"  # as cut: "Allow: /x"
    assert not parse(cut, US).allows(SITE + "/x")
    assert not parse(cut[:MAX_BYTES], US).allows(SITE + "/x")


@st.composite
def files(draw: st.DrawFn) -> tuple[list[tuple[str, str]], str]:
    """(lines, path) over so small an alphabet that patterns often match."""
    path = st.text("ab/", max_size=8).map(lambda text: "/" + text)
    pattern = st.tuples(st.sampled_from(["/", "*", "/a"]), st.text("ab/*$", max_size=6)).map("".join)
    lines = draw(st.lists(st.tuples(st.sampled_from(["allow", "disallow"]), pattern), max_size=6))
    return lines, draw(path)


def text_of(lines: list[tuple[str, str]]) -> str:
    return "user-agent: *\n" + "".join(f"{key}: {pattern}\n" for key, pattern in lines)


@given(files())
def test_patterns_as_an_expression_would_match_them(case: tuple[list[tuple[str, str]], str]) -> None:
    lines, path = case
    best = (-1, True)
    for key, pattern in lines:
        anchored = pattern.endswith("$")
        body = ".*".join(map(re.escape, pattern.removesuffix("$").split("*")))
        if re.match(body + ("$" if anchored else ""), path):
            best = max(best, (len(pattern), key == "allow"))
    assert allows(text_of(lines), path) is best[1]


@given(files(), st.text("ab/*$", max_size=6), st.randoms())
def test_order_means_nothing_and_allow_never_forbids(
    case: tuple[list[tuple[str, str]], str], extra: str, random: Random
) -> None:
    lines, path = case
    before = allows(text_of(lines), path)
    turned = list(lines)
    random.shuffle(turned)
    assert allows(text_of(turned), path) is before
    if before:
        assert allows(text_of([*lines, ("allow", "/" + extra)]), path)
    else:
        assert not allows(text_of([*lines, ("disallow", "/" + extra)]), path)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.tuples(
                st.sampled_from(
                    [b"user-agent", b"allow", b"disallow", b"crawl-delay", b"content-usage", b"content-signal", b"x"]
                ),
                st.one_of(st.binary(max_size=20), st.sampled_from([b"*", b"kosmosbot", b"/a*%2", b"/ train-ai=n"])),
            ).map(b":".join),
            max_size=12,
        ).map(b"\r\n".join),
    ),
    st.text(max_size=20),
    st.text(max_size=60),
)
def test_no_bytes_and_no_address_break_it(body: bytes, agent: str, url: str) -> None:
    rules = parse(body, agent)
    assert rules == parse(body, agent)
    for address in (url, SITE + "/" + url):
        assert rules.allows(address) in (True, False) and rules.reserved(address) in (True, False)
    assert rules.delay >= 0 and rules.num_bytes >= len(rules.text) and len(rules.text.encode()) <= MAX_TEXT


@given(st.text(min_size=1, max_size=20))
def test_an_escape_is_its_octet(text: str) -> None:
    escaped = "".join(f"%{octet:02x}" for octet in text.encode("utf-8", "replace"))
    assert not allows(f"user-agent: *\ndisallow: /{escaped}$", "/" + escaped.upper())
    assert not allows(f"user-agent: *\ndisallow: /*{escaped}", "/b/" + escaped)
