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
    # as Google writes it: several agents in one header
    (["BadBot: noindex, nofollow, googlebot: nofollow"], "", False),
    (["BadBot: nofollow, KosmosBot: noindex, nofollow"], "noindex, nofollow", True),
    (["noindex, otherbot: nofollow"], "noindex", True),
    (["noindex; nofollow"], "noindex, nofollow", True),
    (["max-image-preview: none"], "max-image-preview: none", False),  # of what a search shows
    (["max-image-preview: none noai"], "max-image-preview: none noai", True),
    (["max-video-preview:0, max-snippet: -1"], "max-video-preview:0, max-snippet: -1", False),
    (["noindex max-snippet: -1, nofollow"], "noindex max-snippet: -1, nofollow", True),  # no agent has a space
    (["noai: 1"], "noai: 1", True),
    (["unavailable_after : 25 Jun 2030 15:00:00 PST, noai"], "unavailable_after: 2030-06-25, noai", True),
    (["unavailable_after: Jun 25, 2030, noai"], "unavailable_after: 2030-06-25, noai", True),
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
        ("Fri, 25 Jun 2010 15:00:00 PST", True),
        ("25-Aug-2007 15:00:00 EST", True),
        ("25 June 2010", True),
        ("June 25, 2010", True),
        ("Jun 25 2010", True),
        ("Fri Jun 25 15:00:00 2010", True),
        ("2010-06-25T15:00:00-08:00", True),
        ("Jun 25, 2030", False),
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


def test_a_name_is_ours_in_any_case() -> None:
    assert rights.robots_header(["acmebot: noai"], "AcmeBot") == "noai"
    assert rights.robots_meta([("acmebot", "noai")], "AcmeBot") == "noai"


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("train-ai=n", False),
        ("train-ai=y", True),
        ("search=y, train-ai=n", False),
        ("Train-AI = N", False),
        ("train-ai=n;why=x", False),
        ("ai-train=no", False),
        ("search=yes,ai-train=yes,ai-input=no,use=reference", True),
        ("ai-train=n", False),  # the words of one in the line of the other
        ("train-ai=no", False),
        ("train-ai=y, ai-train=no", False),
        ("train-ai=y, train-ai=n", False),
        ("ai=n", False),  # earlier drafts
        ("genai=n", False),
        ("train-genai=n", False),
        ("bots=n", False),
        ("tdm=n, search=y", False),
        ("bots=n, train-ai=y", True),
        ("bots=y, train-ai=n", False),
        ("", None),
        ("search=n, ai-use=n, ai-input=no", None),
        ("train-ai", None),
        ("train-ai=?0", None),
        ("train-ai=0", None),
        ('train-ai="n"', None),
        ("train-ai=never", None),
        ("no-train-ai=n", None),
        ("train-ai.x=n", None),
        ("-train-ai=n", None),
    ],
)
def test_what_is_said_of_training(value: str, allowed: bool | None) -> None:
    assert rights.training(value) is allowed
    assert rights.usage_reserved(["", value]) == ("1" if allowed is False else "")


def test_one_header_that_reserves_is_enough() -> None:
    assert rights.usage_reserved(["train-ai=y", "search=y", "train-ai=n"]) == "1"
    assert rights.usage_reserved([]) == ""


@given(st.lists(st.text(max_size=60), max_size=4))
def test_the_grammar_is_total(values: list[str]) -> None:
    found = rights.robots_header(values)
    assert found == found.lower()
    rights.opted_out(found)
    assert rights.usage_reserved(values) in ("", "1")
