"""Thresholds on the scores that `extract` stored: a page is kept or has the first rule that it fails, cheap to dear.

Moving a threshold never parses a page again. Whether images stand among the text (K) is no reason here: such a page is
still good text, so it is kept and `select` looks at `interspersed` before it asks for an image.

Sources: K = KOSMOS-1, OB = OBELICS, GO = Gopher, FW = FineWeb, MI = MINT-1T.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine import schema
from engine.stage import Output, Unit, Work
from pipelines.reasons import Reason, tally

VERSION = 1
OUTPUTS = (Output(name="judgements", schema=schema.JUDGEMENTS, batch_rows=1 << 16),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Bounds on the scores of a page; None switches a rule off. The defaults are the preset kosmos1."""

    min_language_score: float | None = 0.65  # MI, FW
    min_words: float | None = 20  # OB 10
    max_words: float | None = 20_000  # OB 2,000
    min_mean_word_length: float | None = 3  # GO
    max_mean_word_length: float | None = 10  # GO
    max_character_repetition: float | None = 0.1  # OB
    max_word_repetition: float | None = 0.2  # OB
    max_special_characters: float | None = None
    min_stopwords: float | None = None
    min_gopher_stopwords: float | None = 2  # GO
    max_flagged_words: float | None = 0.01  # OB
    min_punctuation: float | None = None
    max_spam_words: float | None = None
    max_symbols: float | None = 0.1  # GO
    max_bullets: float | None = 0.9  # GO
    max_ellipsis: float | None = 0.3  # GO
    min_alphabetic_words: float | None = 0.8  # GO
    max_duplicate_lines: float | None = 0.3  # GO
    max_top_2gram: float | None = 0.20  # GO
    max_top_3gram: float | None = 0.18  # GO
    max_top_4gram: float | None = 0.16  # GO
    max_duplicate_5gram: float | None = 0.15  # GO
    max_duplicate_10gram: float | None = 0.10  # GO
    max_gibberish: float | None = 0.3  # K (the rule)


def kosmos1() -> Config:
    """English, GO's rules, and OB's bounds on words and repetition."""
    return Config()


def obelics() -> Config:
    """All document rules of OBELICS as well."""
    return Config(
        min_language_score=0.8,
        max_special_characters=0.275,
        min_stopwords=0.35,
        min_punctuation=0.03,
        max_spam_words=0.12,
    )


# (reason, score, the field of the lower bound, the field of the upper bound), in the order in which they are asked.
RULES: tuple[tuple[Reason, str, str, str], ...] = (
    (Reason.LANGUAGE, "lang_score", "min_language_score", ""),
    (Reason.WORDS, "words", "min_words", "max_words"),
    (Reason.MEAN_WORD_LENGTH, "mean_word_length", "min_mean_word_length", "max_mean_word_length"),
    (Reason.CHARACTER_REPETITION, "character_repetition", "", "max_character_repetition"),
    (Reason.WORD_REPETITION, "word_repetition", "", "max_word_repetition"),
    (Reason.SPECIAL_CHARACTERS, "special_characters", "", "max_special_characters"),
    (Reason.STOPWORDS, "stopwords", "min_stopwords", ""),
    (Reason.STOPWORDS, "gopher_stopwords", "min_gopher_stopwords", ""),
    (Reason.FLAGGED_WORDS, "flagged_words", "", "max_flagged_words"),
    (Reason.PUNCTUATION, "punctuation", "min_punctuation", ""),
    (Reason.SPAM_WORDS, "spam_words", "", "max_spam_words"),
    (Reason.SYMBOLS, "symbols", "", "max_symbols"),
    (Reason.BULLETS, "bullets", "", "max_bullets"),
    (Reason.ELLIPSIS, "ellipsis", "", "max_ellipsis"),
    (Reason.ALPHABETIC_WORDS, "alphabetic_words", "min_alphabetic_words", ""),
    (Reason.DUPLICATE_LINES, "duplicate_lines", "", "max_duplicate_lines"),
    (Reason.TOP_NGRAM, "top_2gram", "", "max_top_2gram"),
    (Reason.TOP_NGRAM, "top_3gram", "", "max_top_3gram"),
    (Reason.TOP_NGRAM, "top_4gram", "", "max_top_4gram"),
    (Reason.DUPLICATE_NGRAMS, "duplicate_5gram", "", "max_duplicate_5gram"),
    (Reason.DUPLICATE_NGRAMS, "duplicate_10gram", "", "max_duplicate_10gram"),
    (Reason.GIBBERISH, "gibberish", "", "max_gibberish"),
)


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Judge the pages of one WARC: every row of `scores`, in order."""
    table = work.read("extract", "scores")
    reasons, values = verdicts(table, config)
    for word, num in tally(reasons):
        work.count(word, num)
    columns = [table["row"].combine_chunks(), pa.array(reasons), pa.array(values)]
    yield "judgements", pa.Table.from_arrays(columns, schema=schema.JUDGEMENTS)


def verdicts(table: pa.Table, config: Config) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The first rule that each row of scores fails, u16, 0 if none, and the score that failed, f32."""
    reasons = np.zeros(len(table), np.uint16)
    values = np.zeros(len(table), np.float32)
    for reason, score, lower, upper in RULES:
        low = getattr(config, lower) if lower else None
        high = getattr(config, upper) if upper else None
        if low is None and high is None:
            continue
        # Stored scores are 32-bit: bounds are compared as such, so that a score on the bound passes.
        column = table[score].to_numpy().astype(np.float32)
        failed = np.zeros(len(table), bool)
        if low is not None:
            failed |= column < np.float32(low)
        if high is not None:
            failed |= column > np.float32(high)
        failed &= reasons == 0
        reasons[failed] = int(reason)
        values[failed] = column[failed]
    return reasons, values


def describe(config: Config, reason: Reason) -> str:
    """The bounds behind a reason, for people: "bounds 20 <= words <= 20000"."""
    parts = []
    for other, score, lower, upper in RULES:
        low = getattr(config, lower) if lower else None
        high = getattr(config, upper) if upper else None
        if other == reason and (low is not None or high is not None):
            below = "" if low is None else f"{low:g} <= "
            above = "" if high is None else f" <= {high:g}"
            parts.append(f"{below}{score}{above}")
    return "bounds " + ", ".join(parts) if parts else "no bound is set"
