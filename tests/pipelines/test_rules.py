"""Scores against their definitions written out plainly, and which blocks go."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import rules
from pipelines.rules import COLUMN, BlockRules
from pipelines.tags import KINDS

PROSE = "The ferry leaves the harbour at noon and comes back in the evening, when the market has closed."


def count(texts: list[str]) -> rules.Counted:
    blocks = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, blocks)])
    return rules.count(np.frombuffer(b"".join(blocks), np.uint8), ends)


def page(texts: list[str]) -> list[float]:
    scores: list[float] = rules.page(count(texts)).tolist()
    return scores


def score(text: str, name: str) -> float:
    return float(page([text])[COLUMN[name]])


def character_repetition(text: str) -> float:
    counts = sorted(Counter(text[i : i + 10] for i in range(len(text) - 9)).values(), reverse=True)
    if not counts:
        return 0.0
    num = min(int(math.sqrt(len(counts))), len(counts) - counts.count(1))
    return sum(counts[:num]) / sum(counts)


def grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def duplicate(words: list[str], n: int) -> float:
    seen: set[tuple[str, ...]] = set()
    total = place = 0
    while place < len(words) - n + 1:
        gram = tuple(words[place : place + n])
        if gram in seen:
            total += len("".join(gram))
            place += n
        else:
            seen.add(gram)
            place += 1
    return total / len("".join(words))


def top(words: list[str], n: int) -> float:
    counts = Counter(grams(words, n))
    most = max(counts.values(), default=1)
    if most == 1:
        return 0.0
    longest = max(len("".join(gram)) for gram, num in counts.items() if num == most)
    return min(1.0, most * longest / len("".join(words)))


TEXT = st.lists(st.sampled_from(["the", "ferry", "of", "xx", "a", "harbour", "12", "and"]), min_size=1, max_size=60)


@given(TEXT)
@settings(deadline=None)
def test_repetition_is_what_the_papers_define(words: list[str]) -> None:
    found = dict(zip(COLUMN, page([" ".join(words)]), strict=True))
    fives = Counter(grams(words, 5))
    assert found["words"] == len(words)
    assert found["mean_word_length"] == pytest.approx(len("".join(words)) / len(words))
    assert found["character_repetition"] == pytest.approx(character_repetition(" ".join(words)))
    assert found["word_repetition"] == pytest.approx(
        sum(n for n in fives.values() if n > 1) / sum(fives.values()) if fives else 0
    )
    for n in (2, 3, 4):
        assert found[f"top_{n}gram"] == pytest.approx(top(words, n))
    for n in (5, 10):
        assert found[f"duplicate_{n}gram"] == pytest.approx(duplicate(words, n))


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("The cat, the dog!", "stopwords", 0.5),
        ("The THE of with", "gopher_stopwords", 3),
        ("One porn word here", "flagged_words", 0.25),
        ("Sussex and Essex have cocktails", "flagged_words", 0),
        ("casino bonus for you", "spam_words", 0.5),
        ("One, two. Three four!", "punctuation", 0.75),
        ("a-b c%", "special_characters", 2 / 6),
        ("wait... for #this one…", "symbols", 0.75),
        ("• one\n• two\nthree\n- four", "bullets", 0.75),
        ("one...\ntwo…\nthree", "ellipsis", 2 / 3),
        ("abc 12 %% d4", "alphabetic_words", 0.5),
        ("same\nother\nsame\nsame", "duplicate_lines", 0.5),
        ("😀 #tag www.a.example https://b.example word", "gibberish", 0.8),
        ("1, 2, 3", "words", 3),
        ("... !!! --", "words", 0),
        ("", "words", 0),
        ("Größe Straße", "mean_word_length", 5.5),
    ],
)
def test_scores(text: str, name: str, expected: float) -> None:
    assert score(text, name) == pytest.approx(expected)


def test_a_page_is_its_blocks_as_lines() -> None:
    assert page(["a b", "c"]) == page(["a b\nc"])
    counted = count(["x y", PROSE, "z", "ΑΣ", "İ"])
    assert rules.page(counted, np.array([1])).tolist() == page([PROSE])
    assert rules.page(counted, np.array([0, 2, 3, 4])).tolist() == page(["x y", "z", "ΑΣ", "İ"])


LETTERS = st.characters(codec="utf-8") | st.sampled_from("ΑΣσςİıẞÅKǅ")


@given(st.lists(st.text(LETTERS, max_size=20), max_size=5))
@settings(deadline=None)
def test_words_are_read_in_the_lower_case_of_their_own_block(texts: list[str]) -> None:
    counted = count(texts)
    blocks = [counted.text[begin:end] for begin, end in itertools.pairwise(counted.offsets.tolist())]
    assert [block.tobytes() for block in blocks] == [text.lower().encode("utf-32-le") for text in texts]


@given(st.lists(st.text(max_size=80), max_size=5))
@settings(deadline=None)
def test_scores_of_any_text_are_finite(texts: list[str]) -> None:
    scores = page(texts)
    assert len(scores) == len(COLUMN)
    assert np.isfinite(scores).all() and min(scores) >= 0
    for name in ("character_repetition", "word_repetition", "stopwords", "punctuation", "gibberish", "duplicate_5gram"):
        assert scores[COLUMN[name]] <= 1


@given(st.lists(TEXT, min_size=1, max_size=4), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_blocks_fail_by_the_scores_of_a_page(blocks: list[list[str]], characters: float, words: float) -> None:
    texts = [" ".join(block) for block in blocks]
    bounds = BlockRules(min_words=None, character_repetition=characters, word_repetition=words)
    for text, found in zip(texts, failing(*(("p", text) for text in texts), bounds=bounds), strict=True):
        if score(text, "character_repetition") > characters:
            assert found == "character_repetition"
        else:
            assert found == ("word_repetition" if score(text, "word_repetition") > words else "")


def failing(*blocks: tuple[str, str], beside: bool = False, bounds: BlockRules | None = None) -> list[str]:
    kinds, texts = [kind for kind, _ in blocks], [text for _, text in blocks]
    numbers = np.array([KINDS.index(kind) for kind in kinds], np.uint8)
    failed = rules.failing(numbers, np.full(len(blocks), beside), count(texts), bounds or rules.kosmos1())
    return [rules.RULES[rule] for rule in failed.tolist()]


@pytest.mark.parametrize(
    ("kind", "text", "rule"),
    [
        ("p", PROSE, ""),
        ("p", "Read more", "words"),
        ("h2", "Read more", ""),
        ("figcaption", "The ferry", ""),
        ("pre", "x = 1", ""),
        ("p", "word " * 1001, "words"),
        ("p", "again and " * 30, "character_repetition"),
        ("p", PROSE + " xxx porn", "flagged_words"),
        ("li", "Home", "words"),
    ],
)
def test_blocks(kind: str, text: str, rule: str) -> None:
    assert failing((kind, text)) == [rule]


def test_a_short_block_beside_an_image_stays() -> None:
    assert failing(("p", "The ferry"), beside=True) == [""]
    assert failing(("p", "xxx porn"), beside=True) == ["flagged_words"]


def test_a_list_is_judged_as_one() -> None:
    long, short = "take the ferry at noon from the harbour", "come back"
    assert failing(("li", long), ("li", short), ("li", long)) == ["", "", ""]
    assert failing(("li", "Home"), ("li", "About us"), ("li", "Contact")) == ["words"] * 3


def test_a_term_stays_with_its_definitions() -> None:
    long, short = "print more than is usual to the terminal", "come back"
    assert failing(("dt", "-d"), ("dd", long), ("dt", "--quiet"), ("dt", "-q"), ("dd", short)) == [""] * 5
    assert failing(("dt", "-d"), ("dd", short), ("dt", "-e"), ("dd", short)) == ["words"] * 4
    assert failing(("dt", "-d"), ("pre", "x = 1"), ("dt", "-e"), ("p", PROSE)) == [""] * 4
    repeated = "again and " * 30
    assert failing(("dt", "-d"), ("dd", repeated), ("dd", long)) == ["", "character_repetition", ""]
    assert failing(("dt", "-d"), ("dd", repeated)) == ["character_repetition"] * 2


def test_obelics_asks_for_more() -> None:
    listing = "Widget gadget gizmo doohickey contraption thing item piece unit part bit lot"
    assert failing(("p", listing)) == [""]
    assert failing(("p", listing), bounds=rules.obelics()) == ["stopwords"]
    assert failing(("p", PROSE), bounds=rules.obelics()) == [""]


def test_word_lists_are_lower_case_and_apart() -> None:
    lists = rules.lists()
    assert set(lists) == {"stopwords", "flagged", "spam"}
    for words in lists.values():
        assert words == {word.lower() for word in words}
    assert not lists["flagged"] & lists["stopwords"]
