"""Language: sure answers are cheap, doubtful ones get a second opinion, and no text makes it raise."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import language

SAMPLES = {
    "en": "The ferry leaves the harbour at noon and comes back in the evening, when the market has closed. ",
    "de": "Die Fähre verlässt den Hafen am Mittag und kehrt am Abend zurück, wenn der Markt geschlossen hat. ",
    "fr": "Le bac quitte le port à midi et revient le soir, quand le marché est fermé et que tout est calme. ",
    "es": "El transbordador sale del puerto al mediodía y vuelve por la tarde, cuando el mercado ha cerrado. ",
    "ja": "フェリーは正午に港を出て、市場が閉まる夕方に戻ってきます。",
    "ru": "Паром выходит из гавани в полдень и возвращается вечером, когда рынок уже закрыт. ",
}


@pytest.mark.parametrize("code", SAMPLES)
@pytest.mark.parametrize("times", [1, 20])
@pytest.mark.parametrize("declared", ["", "right", "en"])
def test_languages_are_told_apart(code: str, times: int, declared: str) -> None:
    found = language.identify(SAMPLES[code] * times, code if declared == "right" else declared, "en")
    assert found.code == code
    assert found.score > 0.6
    assert (found.wanted > 0.5) == (code == "en")


def test_a_declaration_alone_does_not_decide() -> None:
    assert language.identify(SAMPLES["de"] * 10, "en-US", "en").wanted < 0.5


@pytest.mark.parametrize("text", ["", " \n", "\ud800", "\x00\x01\ufdd0\U0010ffff", "1 2 3"])
def test_what_says_nothing_is_not_english(text: str) -> None:
    assert language.identify(text, "en", "en").wanted < 0.65


def test_tags_have_plain_codes() -> None:
    assert [language.plain(t) for t in ("en-GB", "EN_us", "nb-NO", "iw", "zh-Hant-TW", "")] == [
        "en", "en", "no", "he", "zh", "",
    ]  # fmt: skip


def test_the_model_is_in_the_wheel() -> None:
    assert len(language.model_digest()) == 64


@given(st.text(max_size=200), st.text(max_size=5))
@settings(deadline=None)
def test_scores_are_shares(text: str, declared: str) -> None:
    found = language.identify(text, declared, "en")
    assert 0 <= found.wanted <= 1
    assert 0 <= found.score <= 1
