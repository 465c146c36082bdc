"""What two texts are allowed to differ in and still be the same text."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import normalise as n

# Marks are left out: of several on one letter NFC and NFD may change the order, which the table does not mend.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Mn", "Mc", "Me"]), max_size=80)


def tokens(*texts: str) -> list[str]:
    done = n.normalise(pa.array(texts, pa.large_string()))
    found = [bytes(done.data[a:b]).decode() for a, b in zip(done.offsets[:-1], done.offsets[1:], strict=True)]
    assert done.words.tolist() == [len(text.split(" ")) if text else 0 for text in found]
    return found


def reference(text: str) -> str:
    """The definition, sign by sign, over the whole text."""
    out: list[str] = []
    for sign in n.folded(text):
        code, category = ord(sign), unicodedata.category(sign)
        if 0x300 <= code <= 0x36F or category == "Cf" or any(a <= code <= b for a, b in n.SELECTORS):
            continue
        if category[0] not in "LMN":
            out.append(" ")
        elif any(a <= code <= b for a, b in n.SOLO_RANGES):
            out.append(f" {sign} ")
        else:
            out.append(sign)
    return " ".join("".join(out).split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, WORLD!", "hello world"),
        ("don't stop", "don t stop"),
        ("naïve café Ångström", "naive cafe angstrom"),
        ("nai\u0308ve", "naive"),
        ("STRASSE straße", "strasse strasse"),
        ("ﬁne ½ x² ™", "fine 1 2 x2 tm"),
        ("soft\u00adhyphen zero\u200bwidth heart\ufe0f", "softhyphen zerowidth heart"),
        ("漢字かな kana", "漢 字 か な kana"),
        ("abc漢def", "abc 漢 def"),
        ("สวัสดี", "ส ว ั ส ด ี"),
        ("हिन्दी में", "हिन्दी में"),
        ("ŻÓŁĆ İstanbul ΣΊΣΥΦΟΣ", "zołc istanbul σισυφοσ"),
        ("  \n\t -- ", ""),
        ("", ""),
        ("😀 ok 🎉", "ok"),
        ("\U0001d54f \U00020000", "x \U00020000"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert tokens(text) == [expected]


@given(st.lists(TEXT, max_size=5))
def test_is_the_definition(texts: list[str]) -> None:
    if unicodedata.unidata_version == "14.0.0":
        assert tokens(*texts) == [reference(text) for text in texts]


@given(TEXT)
def test_case_composition_and_compatibility_do_not_matter(text: str) -> None:
    (once,) = tokens(text)
    assert tokens(once) == [once]
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert tokens(unicodedata.normalize(form, text)) == [once]
    assert tokens(text.casefold()) == [once]


@given(TEXT)
def test_accents_and_punctuation_do_not_matter(text: str) -> None:
    assert tokens("".join(sign + "\u0301" for sign in text)) == tokens(text)
    assert tokens(f"«{text}»…") == tokens(text)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=6), st.data())
def test_texts_do_not_touch_one_another(texts: list[str], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(texts) - 1))
    array = pa.array(["x" * 7, *texts], pa.large_string()).slice(1 + first)
    done = n.normalise(array)
    assert [bytes(done.data[a:b]).decode() for a, b in zip(done.offsets[:-1], done.offsets[1:], strict=True)] == [
        tokens(text)[0] for text in texts[first:]
    ]


def test_output_never_outgrows_its_room() -> None:
    table = n.load_table()
    points = np.flatnonzero(table.codes != n.DROPPED)
    points = points[(points < 0xD800) | (points >= 0xE000)]
    every = [chr(point) for point in points[points < 0x110000].tolist()]
    lengths = [len(text.encode()) + 1 for text in tokens(*every)]
    grown = [length / len(sign.encode()) for length, sign in zip(lengths, every, strict=True) if not sign.isascii()]
    assert max(grown) + 1 / 2 <= n.GROWTH  # and a space before it, where a token ends that it does not belong to
    assert tokens("a" * 99 + "!" * 99) == ["a" * 99]


def test_broken_utf8_is_refused() -> None:
    broken = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int64)), pa.py_buffer(b"a\xe6"))
    with pytest.raises(pa.ArrowInvalid):
        n.normalise(broken)


def test_table_is_the_frozen_one() -> None:
    assert n.load_table().digest == n.TABLE_DIGEST
    if unicodedata.unidata_version == "14.0.0":
        assert n.build_table().digest == n.TABLE_DIGEST


def test_works_where_no_cache_can_be_written() -> None:
    code = (
        "import pyarrow as pa; from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from pipelines.normalise import normalise\n"
        "print(bytes(normalise(pa.array(['A b'], pa.large_string())).data).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert (done.stdout, done.returncode) == ("a b\n", 0), done.stderr
