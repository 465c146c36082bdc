"""The scorer itself: what is equal scores 1, what is lost, invented or moved costs what it should."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import __main__, pages
from tests.golden.score import IMAGE_WORDS, Item, _f1_of_order, address, score, total, words

CAT = {"image": "https://example.org/cat.jpg"}
DOG = {"image": "https://example.org/dog.jpg"}
BEFORE = {"block": "p", "text": "One two three four five six seven eight nine ten."}
AFTER = {"block": "p", "text": "Eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty."}


def longest(one: Sequence[str], other: Sequence[str]) -> int:
    """The longest common subsequence, the slow way."""
    row = [0] * (len(other) + 1)
    for word in one:
        row = [0, *row[1:]]
        above = row.copy()
        for place, found in enumerate(other, 1):
            row[place] = above[place - 1] + 1 if word == found else max(above[place], row[place - 1])
    return row[-1]


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd")))
def test_order_is_the_longest_common_subsequence(one: list[str], other: list[str]) -> None:
    expected = 2 * longest(one, other) / (len(one) + len(other)) if one or other else 1.0
    assert _f1_of_order(one, other) == pytest.approx(expected)


def test_the_same_stream_is_perfect() -> None:
    items = [BEFORE, CAT, AFTER, CAT, DOG]
    found = score(items, items)
    assert (found.images_found, found.images_expected, found.images_answered) == (3, 3, 3)
    assert found.order == found.text == found.kinds == 1.0


@pytest.mark.parametrize(
    ("answer", "order", "text"),
    [
        ([BEFORE, AFTER], 2 * 20 / (30 + 20), 1.0),  # an image lost costs as much as ten words
        ([CAT, BEFORE, AFTER], 2 * 20 / 60, 1.0),  # an image moved costs its words
        ([AFTER, CAT, BEFORE], 2 * 10 / 60, 1.0),
        ([BEFORE, CAT], 2 * 20 / (30 + 20), 2 * 10 / (20 + 10)),
        ([], 0.0, 0.0),
    ],
)
def test_what_errors_cost(answer: list[Item], order: float, text: float) -> None:
    assert IMAGE_WORDS == 10
    found = score([BEFORE, CAT, AFTER], answer)
    assert found.order == pytest.approx(order)
    assert found.text == pytest.approx(text)


def test_images_are_counted_as_often_as_they_stand() -> None:
    sums = total([score([CAT, CAT, DOG], [CAT, DOG, DOG, DOG])])
    assert (sums.image_recall, sums.image_precision) == (2 / 3, 2 / 4)


def test_optional_items_count_neither_way() -> None:
    byline = {"block": "p", "text": "By the author of this page", "optional": True}
    portrait = {**DOG, "optional": True}
    expected = [byline, BEFORE, CAT, portrait, AFTER]
    for answer in ([BEFORE, CAT, AFTER], [byline, BEFORE, CAT, DOG, AFTER]):
        found = score(expected, answer)
        assert (found.order, found.text) == (1.0, 1.0)
        assert found.images_found == found.images_expected == found.images_answered
    assert score([BEFORE, AFTER], [byline, BEFORE, AFTER]).text < 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTPS://Example.ORG:443/a.jpg#top", "https://example.org/a.jpg"),
        ("https://example.org/\u00e9t\u00e9.jpg", "https://example.org/%c3%a9t%C3%A9.jpg"),
        ("https://example.org/a b.jpg", "https://example.org/a%20b.jpg"),
        ("https://example.org/a(1).jpg?x=1,2", "https://example.org/a%281%29.jpg?x=1,2"),
    ],
)
def test_spellings_of_one_address(one: str, other: str) -> None:
    assert address(one) == address(other)


def test_words_of_scripts_without_spaces() -> None:
    assert words("Das ist\u00a0gut\u2014 2\u00bd \u6771\u4eac\u30bf\u30ef\u30fc.") == [
        *("das", "ist", "gut", "21", "2", "\u6771", "\u4eac", "\u30bf", "\u30ef", "\u30fc")
    ]


def test_answers_made_elsewhere_are_scored(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    page = next(iter(pages.written()))
    lines = tmp_path / "answers.jsonl"
    lines.write_text(json.dumps({"page": page.name, "items": page.items}) + "\n", "utf-8")
    assert __main__.main(["--answers", str(lines), "--case", page.case, "--json"]) == 0
    scored = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in scored if line["page"] == page.name] == [1.0]
    assert __main__.main(["--answers", str(lines), "--case", "no such case"]) == 2


MARKS = {
    "url": "https://example.org/folder/page",
    "content_type": "text/html",
    "content": ["#main"],
    "without": [".nav"],
    "optional": [".by"],
    "images": ["https://example.org/a.jpg", None],
}
MARKED = b"""<title>T</title><p>before</p><div id=main><h1>Title <b>bold</b></h1><p class=by>By me<img src=me.jpg></p>
<div class=nav><img src=n.gif>Next</div>text<img src=a.jpg>more<script>x</script><img src=icon.gif></div><p>after</p>"""


def test_marks_are_read_as_they_say() -> None:
    assert pages.marked(MARKED, MARKS) == [
        {"text": "Title bold"},
        {"text": "By me", "optional": True},
        {"image": "https://example.org/folder/me.jpg", "optional": True},
        {"text": "text"},
        {"image": "https://example.org/a.jpg"},
        {"text": "more"},
    ]


@pytest.mark.parametrize("images", [[], [None], [None, None, None]])
def test_marks_that_do_not_fit_are_refused(images: list[str | None]) -> None:
    with pytest.raises(ValueError, match=r"images|more"):
        pages.marked(MARKED, {**MARKS, "images": images})
