"""References and requests of two crawls of three pages: every step counts what it leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.errors import ConfigError
from engine.ledger import Ledger
from engine.store import Store
from tests.benchmarks.duplicate_crawl import AGAIN, COPY, FRESH, Mix, crawls, fresh
from tests.benchmarks.requests_avoided import Counts, count, ingest


def test_each_step_counts_what_it_leaves(memory: str) -> None:
    media = "https://media.example"
    logo, small = (f"{media}/logo.png", 0), (f"{media}/face.png", 32)
    a1, a2, a3, b1, b2, c1 = ((f"{media}/{name}.jpg", 0) for name in ("a1", "a2", "a3", "b1", "b2", "c1"))
    first, second, third = (fresh(Mix(), 0, number) for number in range(3))
    first = replace(first, images=(a1, a2, a3, logo, a1))
    second = replace(second, images=(b1, b2, small))
    third = replace(third, images=(a1, c1))
    copy = replace(first, url="https://mirror.example/first")
    ingest([[first, copy, second], [first, third]], memory)
    assert count(Ledger(memory)) == Counts(
        extracted=20,
        judged=20,
        kept=10,
        passing=7,
        unique=6,
        chosen=7,
        asked=6,  # a1 is on record when the third page wants it
        robots=0,
        reasons={"image_blocked": 1, "image_twice": 1, "image_declared_small": 1},
    )


def test_the_mix_is_the_stated_one() -> None:
    made = crawls(Mix(pages=100))
    kinds = [capture.kind for captures in made for capture in captures]
    assert len(kinds) == 300
    assert 0.45 < 1 - kinds.count(FRESH) / len(kinds) < 0.6
    assert 0.2 < kinds.count(COPY) / len(kinds) < 0.3 and kinds.count(AGAIN) > 0
    assert crawls(Mix(pages=9)) == crawls(Mix(pages=9))


def test_a_store_of_two_configs_is_refused(memory: str) -> None:
    for key in ("extract-0123456789ab", "extract-ba9876543210"):
        Store(memory).put_new(f"{key}/stage.json", b"{}")
    with pytest.raises(ConfigError, match="one config"):
        count(Ledger(memory))
