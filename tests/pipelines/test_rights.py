"""Opt-outs: the whole grammar of X-Robots-Tag, robots meta, TDM reservation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import rights

HEADERS = [
    (["noindex"], "noindex", True),
    (["noai, noimageai"], "noai, noimageai", True),
    (["NoAI"], "noai", True),
    (["max-image-preview:large"], "max-image-preview:large", False),
    (["noai, max-image-preview:large"], "noai, max-image-preview:large", True),
    (["googlebot: noindex, nofollow"], "", False),
    (["googlebot: noindex", "noai"], "noai", True),
    (["kosmosbot: none"], "none", True),
    (["otherbot: noindex, kosmosbot: nofollow"], "nofollow", False),
    (["*: noimageindex"], "noimageindex", True),
    (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "unavailable_after: 25 jun 2030 15:00:00 pst, noai", True),
    (["unavailable_after: Friday, 25-Jun-30 15:00:00 GMT"], "unavailable_after: friday", False),
    (["all", "index, follow"], "all, index, follow", False),
    (["", " , ,"], "", False),
]


@pytest.mark.parametrize(("values", "directives", "out"), HEADERS)
def test_x_robots_tag(values: list[str], directives: str, out: bool) -> None:
    found = rights.robots_header(values)
    assert found == directives
    assert rights.opted_out(found) is out


def test_meta_counts_if_it_is_for_all_or_for_us() -> None:
    pairs = [("robots", "index, NOAI"), ("googlebot", "noindex"), ("KosmosBot", "noimageai"), ("author", "none")]
    assert rights.robots_meta(pairs) == "index, noai, noimageai"


def test_words_that_only_look_like_an_opt_out() -> None:
    assert not rights.opted_out("noindexing, nonesuch, max-snippet:none-at-all")


def test_reservation() -> None:
    assert rights.reserved(["0", " 1 "]) == "1"
    assert rights.reserved(["0", "", "true"]) == ""


@given(st.lists(st.text(max_size=60), max_size=4))
def test_the_grammar_is_total(values: list[str]) -> None:
    found = rights.robots_header(values)
    assert found == found.lower()
    rights.opted_out(found)
