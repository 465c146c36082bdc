"""From pages to keys: which text, which order, which pages."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from engine import schema
from engine.config import override
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
    contaminated: list[dict[str, Any]] | None = None,
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
            ("decontaminate", "contaminated"): pa.Table.from_pylist(contaminated or [], schema.CONTAMINATED),
        },
    )
    result = collect(sign.process, config or sign.Config(), work, sign.OUTPUTS)
    assert work.counts["signed"] == result["signatures"].num_rows
    for output in ("slots", "shingles"):
        assert result[output]["row"].equals(result["signatures"]["row"])
    return result


def shingles(table: pa.Table) -> list[list[int]]:
    return [np.frombuffer(body, "<u4").tolist() for body in table["shingles"].to_pylist()]


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
    assert result["shingles"]["shingles"][0].as_py().hex() == "778f024c862d1ba03aef4f5ce1c9d321a5a196028d8ea105"


def test_outputs_are_laid_out_for_reading_by_place() -> None:
    slots, grams = sign.OUTPUTS[1:]
    assert (slots.batch_rows, slots.compression) == (1 << 24, None)
    assert (grams.located, grams.compression) == ("shingles", None)


@pytest.mark.parametrize(
    ("config", "num_bands", "num_slots"),
    [(sign.Config(), 18, 126), (sign.fineweb(), 14, 112), (sign.Config(scheme="datasketch", bands=9, rows=13), 9, 117)],
)
def test_what_a_shape_has_no_use_for_is_zero(config: sign.Config, num_bands: int, num_slots: int) -> None:
    pages = [page(i, f"http://example.com/{i}", text) for i, text in enumerate(["a b c d e f g", "h", "", "..."])]
    result = signed(pages, [], config=config)
    bands = np.array(result["signatures"]["bands"].to_pylist(), np.uint64)
    slots = np.array([list(body) for body in result["slots"]["slots"].to_pylist()])
    assert bands[:2, :num_bands].all()
    assert not bands[:, num_bands:].any()
    assert not bands[2:].any()
    assert (slots[:2, :num_slots].astype(bool).mean(axis=1) > 0.9).all()  # a byte in 256 is 0 by chance
    assert not slots[:, num_slots:].any()
    assert not slots[2:].any()
    # what 5-grams are counted by is the same whatever the sketch
    assert shingles(result["shingles"]) == shingles(signed(pages, [])["shingles"])
    assert [len(found) for found in shingles(result["shingles"])] == [3, 1, 0, 0]


def test_schemes_and_shapes_have_keys_of_their_own() -> None:
    configs = [
        sign.Config(scheme=scheme, bands=bands, rows=rows)
        for scheme in sign.SCHEMES
        for bands, rows in [(18, 7), (14, 8), (14, 7)]
    ]
    assert len({config.sketch for config in configs}) == len({canonical(config) for config in configs}) == 6
    first = [
        signed([page(0, "http://example.com/", "a b c d e f")], [], config=config)["signatures"]["bands"][0].as_py()[0]
        for config in configs
    ]
    assert len(set(first)) == 6
    assert dataclasses.replace(sign.Config(), bands=14, rows=8) == sign.fineweb()


def test_contaminated_pages_are_left_out_on_request() -> None:
    def held(row: int, reason: int) -> dict[str, Any]:
        return {"row": row, "set": 0, "item": 7, "grams": 9, "covered": 0.5, "reason": reason}

    pages = [page(i, f"http://example.com/{i}", "a text") for i in range(4)]
    found = [held(1, 0), held(2, 0), held(2, 1), held(3, 1)]
    out = signed(pages[:2], pages[2:], config=sign.Config(decontaminate=True), contaminated=found)
    assert out["signatures"]["row"].to_pylist() == [0, 1]
    assert signed(pages[:2], pages[2:], contaminated=found)["signatures"].num_rows == 4
    assert canonical(sign.Config(decontaminate=True)) == canonical(sign.Config())


@given(st.lists(st.lists(st.sampled_from(["", "abc", "d" * 40]), max_size=4), max_size=12), st.integers(1, 100))
def test_portions_are_all_pages_in_order_of_bounded_size(made: list[list[str]], num_bytes: int) -> None:
    batch = pa.RecordBatch.from_pylist([page(i, "", *items) for i, items in enumerate(made)], PAGES)
    found = list(sign.portions(batch, num_bytes))
    assert [row for portion in found for row in portion["row"].to_pylist()] == list(range(len(made)))
    for portion in found:
        sizes = [sum(map(len, made[row])) for row in portion["row"].to_pylist()]
        assert sizes
        assert sum(sizes[:-1]) < num_bytes + (sizes[0] if len(sizes) > 1 else 0)


def test_a_large_page_takes_a_bounded_multiple_of_its_size() -> None:
    # a text of 20 MB in two scripts; what is measured is the growth of the process that signs it
    child = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    num_bytes, grown, num_grams = map(int, child.stdout.split())
    assert num_bytes > 20 << 20
    assert num_grams > 2_000_000
    assert grown < 8 * num_bytes


LARGE = """
import contextlib, re
from pathlib import Path
import pyarrow as pa
from pipelines import sign
from tests.pipelines.test_sign import PAGES, page

def batch(text):
    return pa.RecordBatch.from_pylist([page(0, "http://example.com/", text)], PAGES)

def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

list(sign.sign(batch("a text"), sign.Config()))  # kernels are loaded and tables read
text = " ".join(f"слово{i % 99991} word" for i in range(1_050_000))
num_bytes = len(text.encode())
one = batch(text)
with contextlib.suppress(OSError):
    Path("/proc/self/clear_refs").write_text("5")  # what compiling took at its worst is forgotten
before = memory("VmRSS")
tables = dict(sign.sign(one, sign.Config()))
print(num_bytes, memory("VmHWM") - before, len(tables["shingles"]["shingles"][0].as_buffer()) // 4)
"""


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
    for path in ("sketch", "table"):
        with pytest.raises(ConfigError, match=f"no field '{path}'"):
            override(config, [f"{path}=0"])
    with pytest.raises(ConfigError, match="most_images"):
        sign.Config(most_images=-1)
    with pytest.raises(ConfigError, match="set it to fss or datasketch"):
        sign.Config(scheme="minhash")
    with pytest.raises(ConfigError, match="set it to 1-7"):
        sign.Config(rows=8)
    none = signed([page(0, "http://example.com/", "!", "a")], [], config=sign.Config(most_images=0))
    assert none["signatures"]["quality"].to_pylist() == [0]


def test_widths_are_the_schemas() -> None:
    from pipelines import sketch

    assert (sketch.BANDS, sketch.SLOTS) == (schema.BANDS, schema.SLOTS)
