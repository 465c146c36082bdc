"""From pages to keys: which text, which order, which pages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from engine import schema
from engine.errors import ConfigError
from engine.stage import Unit, canonical
from pipelines import sign
from pipelines.urls import url_id
from tests.offline import OfflineWork, collect

PAGES = pa.schema([schema.DOCUMENTS.field(name) for name in sign.COLUMNS])
UNIT = Unit(id="0" * 24)


def page(row: int, url: str, *items: str) -> dict[str, Any]:
    """A page; an item that starts with '!' is an image."""
    return {
        "row": row,
        "doc_id": row.to_bytes(16, "big"),
        "url": url,
        "items": [
            {"kind": "image", "text": "", "block": "", "level": 0, "image": i}
            if text.startswith("!")
            else {"kind": "text", "text": text, "block": "p", "level": 0, "image": -1}
            for i, text in enumerate(items)
        ],
    }


def signed(
    documents: list[dict[str, Any]],
    texts: list[dict[str, Any]],
    dropped: frozenset[int] = frozenset(),
    config: sign.Config | None = None,
    chunk: int = 1000,
) -> dict[str, pa.Table]:
    rows = sorted(one["row"] for one in documents + texts)
    judgements = [{"row": row, "reason": 60 if row in dropped else 0, "value": 0.0} for row in rows]

    def table(pages: list[dict[str, Any]]) -> pa.Table:
        chunks = [pa.Table.from_pylist(pages[i : i + chunk], PAGES) for i in range(0, len(pages), chunk)]
        return pa.concat_tables([PAGES.empty_table(), *chunks])

    work = OfflineWork(
        unit=UNIT,
        scratch=Path(),
        tables={
            ("judge", "judgements"): pa.Table.from_pylist(judgements, schema.JUDGEMENTS),
            ("extract", "documents"): table(documents),
            ("extract", "texts"): table(texts),
        },
    )
    result = collect(sign.process, config or sign.Config(), work, sign.OUTPUTS)
    assert work.counts["signed"] == result["signatures"].num_rows == result["slots"].num_rows
    return result


def test_signatures_of_a_small_unit() -> None:
    documents = [
        page(1, "https://Example.com/a#top", "One two", "!", "three."),
        page(2, "https://example.com/b", *["!"] * 7, "x"),
    ]
    texts = [
        page(0, "http://example.com/c", "one TWO three"),
        page(3, "no address"),
        page(4, "http://example.com/d", "out"),
    ]
    table = signed(documents, texts, dropped=frozenset({4}))["signatures"]
    assert table["row"].to_pylist() == [0, 1, 2, 3]
    assert table["doc_id"].to_pylist() == [row.to_bytes(16, "big") for row in range(4)]
    assert table["words"].to_pylist() == [3, 3, 1, 0]
    assert table["quality"].to_pylist() == [0, 1, 5, 0]
    assert table["url_key"][1].as_py() == url_id("https://example.com/a")[:16]
    assert table["url_key"][3].as_py() == bytes(16)
    # the text is its items with a line end between them, and a line end is a space
    assert table["text_key"][0].as_py() == table["text_key"][1].as_py() == xxhash.xxh3_128_digest(b"one two three")
    assert table["text_key"][3].as_py() == bytes(16)
    assert table["bands"][0].as_py() == table["bands"][1].as_py() != table["bands"][2].as_py()
    assert table["bands"][3].as_py() == [0] * schema.BANDS


def test_golden_signature() -> None:
    result = signed([], [page(0, "https://example.com/", "To be, or not to be: that is the question")])
    row = result["signatures"].to_pylist()[0]
    assert row["text_key"].hex() == "661d0eef3fd0c31b76b3c4968c2e50f0"
    assert row["url_key"].hex() == "0f115db062b7c0dd030b16878c99dea5"
    assert [row["bands"][0], row["bands"][17]] == [0xCD481D719987A759, 0x5B1D56298CB624FB]
    assert result["slots"]["slots"][0].as_py().hex()[:32] == "abecf3860b9793777b5847308b9afc82"


ITEMS = st.lists(st.sampled_from(["!", "a b c", "d", "", "E f"]), max_size=5)


@given(st.lists(st.tuples(st.booleans(), ITEMS), max_size=8), st.integers(1, 4))
def test_rows_do_not_depend_on_how_they_were_chunked(made: list[tuple[bool, list[str]]], chunk: int) -> None:
    documents = [page(i, f"http://example.com/{i}", *items) for i, (first, items) in enumerate(made) if first]
    texts = [page(i, f"http://example.com/{i}", *items) for i, (first, items) in enumerate(made) if not first]
    whole, cut = signed(documents, texts), signed(documents, texts, chunk=chunk)
    assert whole == cut
    for one in documents + texts:
        alone = signed([one], [])["signatures"].to_pylist()[0]
        assert alone == whole["signatures"].filter(pa.compute.field("row") == one["row"]).to_pylist()[0]


def test_config_names_the_table_and_the_seeds() -> None:
    config = sign.Config()
    assert config.table in canonical(config)
    assert config.sketch in canonical(config)
    with pytest.raises(ConfigError, match="leave them out"):
        dataclasses.replace(config, sketch="0")
    with pytest.raises(ConfigError, match="most_images"):
        sign.Config(most_images=-1)
    none = signed([page(0, "http://example.com/", "!", "a")], [], config=sign.Config(most_images=0))
    assert none["signatures"]["quality"].to_pylist() == [0]


def test_widths_are_the_schemas() -> None:
    from pipelines import sketch

    assert (sketch.BANDS, sketch.SLOTS) == (schema.BANDS, schema.SLOTS)
