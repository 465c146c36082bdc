"""--set: typed changes, and a wrong word names the right one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import lines, override
from engine.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    language: str = "en"
    share: float = 0.5
    words: int = 10
    strict: bool = False
    codes: tuple[str, ...] = ("a", "b")
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    extract: Inner = field(default_factory=Inner)
    judge: Inner = field(default_factory=Inner)
    seed: int = 1
    bounds: dict[str, int] = field(default_factory=dict)


def test_values_are_typed_by_their_field() -> None:
    changed = override(
        Outer(),
        ["extract.language=fr", "extract.share=1e-3", "judge.words=-7", "judge.strict=TRUE", "seed=9"],
    )
    assert changed == Outer(extract=Inner(language="fr", share=1e-3), judge=Inner(words=-7, strict=True), seed=9)
    assert override(Outer(), ["extract.codes=x,y", "extract.sizes=3,4"]).extract == Inner(
        codes=("x", "y"), sizes=(3, 4)
    )
    assert override(Outer(), ["extract.codes=", "extract.language="]).extract == Inner(codes=(), language="")
    assert override(Outer(), ["extract.language=a=b"]).extract.language == "a=b"
    assert override(Outer(), ["seed=1", "seed=2"]).seed == 2
    assert override(Outer(), []) == Outer()


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text())
def test_what_is_written_is_what_is_read(words: int, share: float, strict: bool, language: str) -> None:
    inner = Inner(words=words, share=share, strict=strict, language=language)
    settings = [f"judge.{name}={getattr(inner, name)}" for name in ("words", "share", "strict", "language")]
    assert override(Outer(), settings).judge == inner


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("seed", "write it as"),
        ("=1", "write it as"),
        ("sead=1", "did you mean seed"),
        ("extract.langage=fr", "did you mean language"),
        ("extract.zzz=1", "there are language, share"),
        ("extract=1", "group of fields; set one of language"),
        ("seed.deeper=1", "no fields below seed"),
        ("seed=1.5", "whole number"),
        ("extract.share=much", "it is a number"),
        ("extract.share=nan", "it is a finite number"),
        ("extract.share=-inf", "it is a finite number"),
        ("extract.strict=yes", "true or false"),
        ("extract.sizes=1,x", "whole number"),
        ("bounds=1", "cannot be set"),
    ],
)
def test_a_wrong_word_says_what_is_right(setting: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        override(Outer(), [setting])


def test_lines_say_every_field_once() -> None:
    found = list(lines(Outer()))
    assert found[0] == 'extract.language = "en"' and 'judge.codes = ["a", "b"]' in found and "seed = 1" in found
    assert len(found) == 6 + 6 + 2


@dataclass(frozen=True)
class Bounds:
    low: int = 1
    high: int = 5

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigError("low is above high")


def test_settings_that_must_agree_come_in_any_order() -> None:
    for settings in (["low=9", "high=12"], ["high=12", "low=9"], ["high=0", "low=9", "high=12"]):
        assert override(Bounds(), settings) == Bounds(low=9, high=12)
    with pytest.raises(ConfigError, match="low is above high"):
        override(Bounds(), ["low=9"])
