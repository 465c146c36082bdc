"""Families of texts that differ in a word, with real sketches: of any size one page stays."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pyarrow as pa
import pytest

from engine import schema
from pipelines import dedupe, sign
from tests.pipelines.dedupe_chain import Chain

PAGES = pa.schema([schema.DOCUMENTS.field(name) for name in sign.COLUMNS])


def signed(texts: Sequence[str], seed: int) -> dict[str, pa.Table]:
    """What sign writes for pages with these texts, at addresses and with ids of their own."""
    rng = random.Random(seed)
    rows = [
        {
            "row": row,
            "doc_id": rng.randbytes(16),
            "url": f"http://example.com/{seed}/{row}",
            "items": [{"kind": "text", "text": text, "block": "p", "level": 0, "image": -1}],
        }
        for row, text in enumerate(texts)
    ]
    tables: dict[str, list[pa.Table]] = {}
    for batch in pa.Table.from_pylist(rows, PAGES).to_batches():
        for name, table in sign.sign(batch, sign.Config()):
            tables.setdefault(name, []).append(table)
    return {name: pa.concat_tables(several) for name, several in tables.items()}


def family(num: int, words: int, seed: int) -> list[str]:
    """Texts of one length that differ from each other in a word or two: similarities about 1 - 10 / words."""
    rng = random.Random(seed)
    base = [f"w{rng.randrange(10**6)}" for _ in range(words)]
    texts = []
    for number in range(num):
        own = list(base)
        own[rng.randrange(words)] = f"x{number}"
        texts.append(" ".join(own))
    return texts


@pytest.mark.parametrize("num", [60, 500])
def test_one_page_of_a_family_stays_however_large_its_buckets(num: int) -> None:
    texts = family(num, 300, seed=num)
    chain = Chain(dedupe.Config(partitions=2))
    chain.publish([signed(texts[: num // 3], 1), signed(texts[num // 3 :], 2)])
    assert (chain.counts["group"]["overflow:buckets"] > 0) == (num > 64)
    assert chain.verdicts() == {"kept": 1, "duplicate_url": 0, "duplicate_text": 0, "near_duplicate": num - 1}
    # and none of those that come later
    chain.publish([signed(family(num, 300, seed=num)[::-1], 3), signed(["something else " * 9], 4)])
    assert chain.verdicts()["kept"] == 1


def test_copies_and_near_copies_of_a_family_leave_its_best_page() -> None:
    texts = family(200, 300, seed=9)
    chain = Chain(dedupe.Config(partitions=2))
    # every text on three pages: the one that stands for it is the best of them
    chain.publish([signed(texts, 1), signed(texts, 2), signed(texts, 3)])
    assert chain.verdicts() == {"kept": 1, "duplicate_url": 0, "duplicate_text": 2, "near_duplicate": 597}
