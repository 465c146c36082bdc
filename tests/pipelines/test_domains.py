"""Whose servers answer: the politeness key of a host, without the network."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from pipelines.select import choose, domains


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("example.com", "example.com"),
        ("img.cdn.example.com", "example.com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("WWW.Example.COM.", "example.com"),
        ("a_b.example.com", "example.com"),
        # private suffixes: one key a customer of a rented network
        ("d111.cloudfront.net", "d111.cloudfront.net"),
        ("d222.cloudfront.net", "d222.cloudfront.net"),
        ("bucket.s3.amazonaws.com", "bucket.s3.amazonaws.com"),
        ("shop.akamaized.net", "shop.akamaized.net"),
        ("alice.blog.example.com", "example.com"),
        # one operator, whatever the list says
        ("alice.github.io", "github.io"),
        ("bob.github.io", "github.io"),
        ("raw.githubusercontent.com", "github.io"),
        ("1.bp.blogspot.com", "googleusercontent.com"),
        ("lh3.googleusercontent.com", "googleusercontent.com"),
        ("alice.files.wordpress.com", "wp.com"),
        ("i0.wp.com", "wp.com"),
        ("farm1.static.flickr.com", "staticflickr.com"),
        ("live.staticflickr.com", "staticflickr.com"),
        ("scontent-a.xx.fbcdn.net", "fbcdn.net"),
        ("upload.wikimedia.org", "wikimedia.org"),
        # a suffix ends at a dot
        ("notgithub.io", "notgithub.io"),
        ("github.io.example.com", "example.com"),
        # no registrable domain: the name itself
        ("localhost", "localhost"),
        ("co.uk", "co.uk"),
        ("10.0.0.1", "10.0.0.1"),
        ("93.184.216.34", "93.184.216.34"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("", ""),
        # top-level domains that the list does not know, and internationalised names
        ("img.photos.example", "photos.example"),
        ("photos.example", "photos.example"),
        ("www.xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("www.xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
    ],
)
def test_keys(host: str, key: str) -> None:
    assert domains.key(host) == key


@given(st.one_of(st.text(max_size=40), st.text("a.-b[]:1é", max_size=20)))
def test_any_string_has_a_key_and_a_key_is_its_own(host: str) -> None:
    key = domains.key(host)
    assert domains.key(key) == key


def test_keys_of_overrides_are_their_own() -> None:
    for suffix, key in domains.OVERRIDES.items():
        assert domains.OVERRIDES[key] == key
        assert domains.key(suffix) == domains.key(f"www.{suffix}") == key


def test_the_version_names_library_and_list_and_is_not_chosen() -> None:
    assert re.fullmatch(r"publicsuffixlist 1\.[0-9.]+ [0-9a-f]{12}", domains.version())
    assert choose.Config().libraries == domains.version()
    with pytest.raises(ConfigError, match="leave it out"):
        choose.Config(libraries="publicsuffixlist 0")
