"""Canonical addresses: one spelling for one address, and nothing that a page can hold makes them raise."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import urls

SPELLINGS = [
    ("HTTP://Example.COM", "http://example.com/"),
    ("http://example.com:80/a", "http://example.com/a"),
    ("https://example.com:443", "https://example.com/"),
    ("https://example.com:8443/x#part", "https://example.com:8443/x"),
    ("https://example.com./x", "https://example.com/x"),
    ("http://example.com/%7euser/%e4%b8%ad", "http://example.com/~user/%E4%B8%AD"),
    ("http://example.com/a/./b/../c", "http://example.com/a/c"),
    ("http://example.com/a/%2e%2E/c", "http://example.com/c"),
    ("http://example.com/../..", "http://example.com/"),
    ("http://example.com?q=1&q=2&utm_source=x", "http://example.com/?q=1&q=2&utm_source=x"),
    ("http://example.com/a b?c d", "http://example.com/a%20b?c%20d"),
    ("http://example.com/100%/x%zz", "http://example.com/100%25/x%25zz"),
    ("http://bücher.example/ä", "http://xn--bcher-kva.example/%C3%A4"),
    (" \thttp://example.com/a\nb ", "http://example.com/ab"),
    ("http:\\\\example.com\\a", "http://example.com/a"),
    ("http://[2001:DB8::0:1]:8080/", "http://[2001:db8::1]:8080/"),
    ("http://0x7f.1/", "http://127.0.0.1/"),
    ("http://2130706433/", "http://127.0.0.1/"),
    ("http://example.com/a//b", "http://example.com/a//b"),
    ("http://under_score.example.com/", "http://under_score.example.com/"),
]
REFUSED = [
    "", "x", "ftp://example.com/", "data:image/png;base64,AAAA", "javascript:alert(1)", "http://", "http:///path",
    "http://user:pw@example.com/", "http://exa mple.com/", "http://a..b/", "http://example.com:99999/",
    "http://example.com:x/", "http://1.2.3.256/", "http://[::1", "http://" + "a" * 64 + ".com/",
    "http://example.com/" + "a" * 9000, "mailto:a@b.example", "//example.com/x",
    "http://-1.0.0.1/", "http://0x-7f.1/", "http://1_0.0.0.1/", "http://+1.2.3.4/",
]  # fmt: skip
JOINS = [
    ("http://example.com/a/b?c", "d.png", "http://example.com/a/d.png"),
    ("http://example.com/a/b?c", "../d.png", "http://example.com/d.png"),
    ("http://example.com/a/b", "/d.png", "http://example.com/d.png"),
    ("https://example.com/a/b", "//cdn.example/d.png", "https://cdn.example/d.png"),
    ("http://example.com/a/b?c", "?e", "http://example.com/a/b?e"),
    ("http://example.com/a/b?c", "", "http://example.com/a/b?c"),
    ("http://example.com/a/b", "w_100,h_50/d.png", "http://example.com/a/w_100,h_50/d.png"),
    ("http://example.com/a/b", "data:image/gif;base64,R0", ""),
    ("http://example.com/a/b", "HTTPS://OTHER.example/x", "https://other.example/x"),
    ("http://example.com/a/b", "./x y.png", "http://example.com/a/x%20y.png"),
    ("", "x.png", ""),
]


@pytest.mark.parametrize(("url", "expected"), SPELLINGS)
def test_spellings_meet(url: str, expected: str) -> None:
    assert urls.canonical(url) == expected


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_no_address_has_no_id(url: str) -> None:
    assert urls.canonical(url) == ""
    assert urls.url_hash(url) == 0
    with pytest.raises(ValueError, match="address"):
        urls.url_id(url)


@pytest.mark.parametrize(("base", "reference", "expected"), JOINS)
def test_references_join(base: str, reference: str, expected: str) -> None:
    assert urls.absolute(base, reference) == expected


def test_ids_are_sha256_of_the_canonical_form() -> None:
    digest = hashlib.sha256(b"http://example.com/").digest()
    assert urls.url_id("HTTP://example.com:80#x") == digest
    assert urls.url_hash("HTTP://example.com:80#x") == int.from_bytes(digest[:8], "little")


def test_host() -> None:
    assert urls.host("http://example.com:8080/x") == "example.com"
    assert urls.host("http://[2001:db8::1]:8080/x") == "[2001:db8::1]"
    assert urls.host("") == ""


ADDRESSISH = st.one_of(
    st.text(max_size=60),
    st.builds("{}{}".format, st.sampled_from(["http://", "https://a.example/", "//", "http:"]), st.text(max_size=40)),
    st.builds(
        "https://{}{}".format,
        st.sampled_from(["a.example", "A.b.example:81", "1.2.3", "[::1]"]),
        st.text("/.%?#&=azAZ09_~-+,;:@é\\ []|", max_size=40),
    ),
)


@given(ADDRESSISH)
def test_canonical_is_a_fixed_point_and_total(url: str) -> None:
    once = urls.canonical(url)
    assert once.isascii()
    assert urls.canonical(once) == once
    assert not urls.PLAIN.fullmatch(url) or urls.canonical(url + "#") == url


@given(ADDRESSISH, ADDRESSISH)
def test_joining_is_total(base: str, reference: str) -> None:
    joined = urls.absolute(urls.canonical(base), reference)
    assert urls.canonical(joined) == joined
