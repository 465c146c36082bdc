"""What is not content goes by name, by phrase, by heading and by place; what only sounds like it stays."""

from __future__ import annotations

import numpy as np
import pytest
from selectolax.lexbor import LexborHTMLParser

from pipelines import marks, phrases, stream
from pipelines.walk import walk

URL = "http://a.example/page.html"
PROSE = "The ferry leaves the harbour at noon and comes back in the evening, when the market has closed. " * 3
SENTENCE = "Most of the passengers had brought their own chairs, and one of them a piano that he could not play."


def texts(html: str) -> list[str]:
    return [entry.text for entry in stream.parse(html.encode(), URL).entries if entry.image < 0]


def says(text: str) -> int:
    data = np.frombuffer(text.encode(), np.uint8)
    return int(phrases.said(data, 0, len(data), phrases.PHRASES, phrases.MEANINGS))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("Share this!", phrases.GONE), ("PRINT THIS PAGE", phrases.GONE), ("Версия для печати", phrases.GONE),
        ("ВЕРСИЯ ДЛЯ ПЕЧАТИ", phrases.GONE), ("上一篇", phrases.GONE), ("Posted in: Boats", phrases.LINE),
        ("3 Comments", phrases.REMARKS), ("Comments (3)", phrases.REMARKS), ("© 2004 A. Miller", phrases.RIGHTS),
        ("You might also like", phrases.SECTION), ("关键词：船匠", phrases.LINE),
        ("Don't miss: the piano", phrases.LINE),
    ],
)  # fmt: skip
def test_phrases_are_read_whole_or_as_a_beginning(text: str, meaning: int) -> None:
    assert says(text) & phrases.MEANING & meaning


@pytest.mark.parametrize("text", ["Sharing is hard", "Printing presses", "Nextdoor", "上一篇文章写得不错"])
def test_a_part_of_a_word_is_no_phrase(text: str) -> None:
    assert not says(text) & phrases.GONE


def test_how_a_block_looks() -> None:
    assert says("1\n2\n3") & phrases.COUNTS and says("1\n2\n3") & phrases.NO_LETTER
    assert not says("1\n3\n2") & phrases.COUNTS
    assert says("He said: “No.”") & phrases.ENDS and not says("A title") & phrases.ENDS


@pytest.mark.parametrize(
    "inside",
    [
        f"<div class=share-price><p>{SENTENCE}</p></div>",
        f"<div class='cookie-history'><p>{SENTENCE}</p></div>",
        f"<div id=sharing-with-a-piano-on-board><p>{SENTENCE}</p></div>",
        f"<aside class=infobox><p>{SENTENCE}</p></aside>",
        f"<footer><ol><li>{SENTENCE}</li></ol></footer>",
        f"<form><p>{SENTENCE}</p><p>{SENTENCE}</p></form>",
    ],
)
def test_prose_in_the_main_text_stays_whatever_its_box_is_called(inside: str) -> None:
    assert SENTENCE in texts(f"<article class='post category-cookies'><p>{PROSE}</p>{inside}<p>{PROSE}</p></article>")


def test_the_button_of_an_accordion_is_a_heading() -> None:
    assert "How long?" in texts(f"<p>{PROSE}</p><h3><button>How long?</button></h3><p>{PROSE}</p>")


@pytest.mark.parametrize(
    "inside",
    [
        "<h3>Related posts</h3><ul><li><a href=1>One ferry</a><li><a href=2>Two ferries</a></ul>",
        f"<h3>3 Comments</h3><p>Ann says:</p><p>{SENTENCE}</p>",
        f"<div class=comments><p>{SENTENCE}</p></div>",
        "<p>Filed under: <a href=1>Boats</a></p>",
        "<p>This entry was posted in <a href=1>Boats</a>. Bookmark the <a href=2>permalink</a>.</p>",
        "<p>© 2004 A. Miller. All rights reserved.</p>",
        "<p><a href=/>Home</a> <a href=/2>Next ferry</a></p>",
        "<aside><h3>Newsletter</h3><p>All that floats, every Friday, in your inbox and nowhere else.</p></aside>",
    ],
)
def test_what_stands_below_an_article_goes(inside: str) -> None:
    long = f"<p>{PROSE}</p>" * 3
    assert texts(f"<article><h1>A ferry</h1>{long}<div>{inside}</div></article>") == ["A ferry"] + [PROSE.strip()] * 3


def test_what_stands_above_the_title_goes() -> None:
    html = f"<div>Boats and more</div><p><a href=/>Home</a></p><h1>A ferry</h1><p>{PROSE}</p>"
    assert texts(html) == ["A ferry", PROSE.strip()]


def test_a_title_in_the_header_of_the_page_stays_if_there_is_no_other() -> None:
    assert texts(f"<header><h1>A ferry</h1></header><p>{PROSE}</p>")[0] == "A ferry"
    assert texts(f"<header><h1>Boats</h1></header><h2>A ferry</h2><p>{PROSE}</p>")[0] == "A ferry"


def test_references_are_content() -> None:
    links = "".join(f"<li><a href={n}>A book about ferries, part {n}</a></li>" for n in range(4))
    assert len(texts(f"<p>{PROSE}</p><h2>References</h2><ul>{links}</ul>")) == 6
    assert len(texts(f"<p>{PROSE}</p><h2>Most read</h2><ul>{links}</ul>")) == 1


def test_line_numbers_beside_code_go() -> None:
    html = f"<p>{PROSE}</p><table><tr><td><pre>1\n2\n3</pre><td><pre>a = 1\nb = 2\nc = 3</pre></table>"
    assert texts(html)[1:] == ["a = 1\nb = 2\nc = 3"]


def test_each_drop_has_a_step() -> None:
    walked = walk(LexborHTMLParser(f"<nav>x</nav><p>{PROSE}</p><p>Share this</p>"), URL, 10)
    assert marks.reasons(walked.blocks.entries, walked.blocks.spans)[0].tolist() == [1, 0, 2]
