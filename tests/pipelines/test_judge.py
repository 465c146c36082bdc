"""Thresholds: every row in order, the first failing rule, and a bound that is met passes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine import schema
from engine.stage import Unit
from pipelines import judge
from pipelines.reasons import Reason
from tests.offline import OfflineWork, collect

GOOD: dict[str, Any] = {
    "doc_id": bytes(16), "offset": 0, "url_hash": 0, "num_images": 1, "interspersed": False, "lang_score": 0.99,
    "words": 400, "mean_word_length": 5.0, "character_repetition": 0.02, "word_repetition": 0.0,
    "special_characters": 0.03, "stopwords": 0.45, "gopher_stopwords": 7, "flagged_words": 0.0, "punctuation": 0.12,
    "spam_words": 0.0, "symbols": 0.0, "bullets": 0.0, "ellipsis": 0.0, "alphabetic_words": 0.97,
    "duplicate_lines": 0.0, "top_2gram": 0.01, "top_3gram": 0.0, "top_4gram": 0.0, "duplicate_5gram": 0.0,
    "duplicate_10gram": 0.0, "gibberish": 0.0,
}  # fmt: skip


def run(config: judge.Config, *changes: dict[str, Any]) -> tuple[list[Reason], pa.Table, OfflineWork]:
    rows = [{**GOOD, "row": row, **change} for row, change in enumerate(changes)]
    table = pa.Table.from_pylist(rows, schema.SCORES)
    work = OfflineWork(unit=Unit(id="w"), scratch=Path("."), tables={("extract", "scores"): table})
    found = collect(judge.process, config, work, judge.OUTPUTS)["judgements"]
    return [Reason(r) for r in found["reason"].to_pylist()], found, work


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, Reason.KEPT),
        ({"lang_score": 0.6}, Reason.LANGUAGE),
        ({"words": 19}, Reason.WORDS),
        ({"words": 20_001}, Reason.WORDS),
        ({"words": 20}, Reason.KEPT),
        ({"mean_word_length": 2.9}, Reason.MEAN_WORD_LENGTH),
        ({"character_repetition": 0.1}, Reason.KEPT),
        ({"character_repetition": 0.11}, Reason.CHARACTER_REPETITION),
        ({"word_repetition": 0.21}, Reason.WORD_REPETITION),
        ({"gopher_stopwords": 1}, Reason.STOPWORDS),
        ({"stopwords": 0.2}, Reason.KEPT),
        ({"flagged_words": 0.02}, Reason.FLAGGED_WORDS),
        ({"symbols": 0.2}, Reason.SYMBOLS),
        ({"bullets": 0.95}, Reason.BULLETS),
        ({"ellipsis": 0.4}, Reason.ELLIPSIS),
        ({"alphabetic_words": 0.7}, Reason.ALPHABETIC_WORDS),
        ({"duplicate_lines": 0.4}, Reason.DUPLICATE_LINES),
        ({"top_3gram": 0.19}, Reason.TOP_NGRAM),
        ({"duplicate_10gram": 0.11}, Reason.DUPLICATE_NGRAMS),
        ({"gibberish": 0.31}, Reason.GIBBERISH),
        ({"words": 1, "lang_score": 0.1}, Reason.LANGUAGE),
        ({"interspersed": False}, Reason.KEPT),
    ],
)
def test_kosmos1(change: dict[str, Any], reason: Reason) -> None:
    assert run(judge.kosmos1(), change)[0] == [reason]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lang_score": 0.7}, Reason.LANGUAGE),
        ({"stopwords": 0.3}, Reason.STOPWORDS),
        ({"special_characters": 0.28}, Reason.SPECIAL_CHARACTERS),
        ({"punctuation": 0.02}, Reason.PUNCTUATION),
        ({"spam_words": 0.13}, Reason.SPAM_WORDS),
        ({}, Reason.KEPT),
    ],
)
def test_obelics(change: dict[str, Any], reason: Reason) -> None:
    assert run(judge.obelics(), change)[0] == [reason]


def test_rows_values_and_counts() -> None:
    _, table, work = run(judge.Config(), {}, {"words": 3}, {"words": 5}, {})
    assert table["row"].to_pylist() == [0, 1, 2, 3]
    assert table["value"].to_pylist() == [0.0, 3.0, 5.0, 0.0]
    assert work.counts == {"kept": 2, "words": 2}
    assert run(judge.Config())[0] == []


def test_every_bound_belongs_to_a_rule_and_can_be_switched_off() -> None:
    named = {name for _, _, lower, upper in judge.RULES for name in (lower, upper) if name}
    assert named == {field.name for field in fields(judge.Config)}
    off = judge.Config(**dict.fromkeys(named, None))
    assert run(off, {"words": 0, "lang_score": 0.0, "gibberish": 1.0})[0] == [Reason.KEPT]


def test_bounds_are_told() -> None:
    assert judge.describe(judge.Config(), Reason.WORDS) == "bounds 20 <= words <= 20000"
    assert judge.describe(judge.Config(), Reason.SPAM_WORDS) == "no bound is set"
