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
    (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "unavailable_after: 2030-06-25, noai", True),
    (["unavailable_after: Friday, 25-Jun-30 15:00:00 GMT"], "unavailable_after: 2030-06-25", False),
    (["Unavailable_After: Friday, 25-Jun-30 15:00:00 GMT, noai"], "unavailable_after: 2030-06-25, noai", True),
    (["otherbot: unavailable_after: 25 Jun 2010 15:00:00 PST, nofollow"], "", False),
    (["otherbot: noai, *: unavailable_after: 2031-01-02T03:04:05+01:00"], "unavailable_after: 2031-01-02", False),
    (["unavailable_after: soon, noimageai"], "unavailable_after, noimageai", True),
    (["noindex nofollow"], "noindex nofollow", True),
    (["kosmosbot: index", "noindex"], "index, noindex", True),
    (["all", "index, follow"], "all, index, follow", False),
    (["", " , ,"], "", False),
]


@pytest.mark.parametrize(("values", "directives", "out"), HEADERS)
def test_x_robots_tag(values: list[str], directives: str, out: bool) -> None:
    found = rights.robots_header(values)
    assert found == directives
    assert bool(rights.opted_out(found)) is out


def test_meta_counts_if_it_is_for_all_or_for_us() -> None:
    pairs = [("robots", "index, NOAI"), ("googlebot", "noindex"), ("KosmosBot", "noimageai"), ("author", "none")]
    assert rights.robots_meta(pairs) == "index, noai, noimageai"


@pytest.mark.parametrize(
    ("until", "out"),
    [
        ("25 Jun 2010 15:00:00 PST", True),
        ("Friday, 25-Jun-10 15:00:00 GMT", True),
        ("2010-06-25", True),
        ("25 Aug 1999", True),
        ("Friday, 25-Jun-99 15:00:00 GMT", True),
        ("2024-05-17T09:00:00Z", False),  # the day of the capture itself
        ("25 Jun 2030 15:00:00 PST", False),
        ("Tuesday", False),
    ],
)
def test_a_page_is_out_after_its_day(until: str, out: bool) -> None:
    for directives in (rights.robots_header([f"nofollow, unavailable_after: {until}"]),
                       rights.robots_meta([("robots", f"unavailable_after:{until}, nofollow")])):  # fmt: skip
        assert (
            rights.opted_out(directives, "2024-05-17T10:00:00Z") == rights.OPT_OUT.index("unavailable_after") + 1
        ) is out
        assert not rights.opted_out(directives)


def test_the_directive_that_forbids_has_its_number() -> None:
    for number, directive in enumerate(rights.OPT_OUT, 1):
        if directive != rights.UNTIL:
            assert rights.opted_out(f"index, {directive}, noai") == number


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
