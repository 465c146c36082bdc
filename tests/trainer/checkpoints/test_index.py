"""An index of a checkpoint: what is written is read, and nothing that cannot be true is believed."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoints.index import PIECE_BYTES, Chunk, Entry, Index, Part, parsed

FILES = tuple(
    Part(path=f"{rank:05d}.0123456789ab.safetensors", bytes=100 + 4 * PIECE_BYTES, sha256="f" * 64) for rank in range(2)
)
SUM = "0123456789abcdef"


def chunk(offsets: tuple[int, ...], sizes: tuple[int, ...], file: int = 0, start: int = 8, sums: str = SUM) -> Chunk:
    return Chunk(offsets=offsets, sizes=sizes, file=file, start=start, sums=sums)


INDEX = Index(
    files=FILES,
    tensors={
        "rows": Entry(dtype="F32", shape=(5, 3), chunks=(chunk((3, 0), (2, 3), 1), chunk((0, 0), (3, 3)))),
        "columns": Entry(
            dtype="I64", shape=(2, 2), chunks=(chunk((0, 0), (2, 1), 0, 44), chunk((0, 1), (2, 1), 1, 32))
        ),
        "one": Entry(dtype="BF16", shape=(), chunks=(chunk((), (), 0, 60),)),
        "none": Entry(dtype="F32", shape=(0, 4), chunks=()),
        "large": Entry(dtype="F32", shape=(PIECE_BYTES,), chunks=(chunk((0,), (PIECE_BYTES,), 0, 62, SUM * 4),)),
    },
)
GOOD: dict[str, Any] = json.loads(INDEX.to_json())


def test_what_is_written_is_read() -> None:
    assert parsed(INDEX.to_json()) == INDEX


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("piece_bytes",), 4096, "its sums are of 4096 bytes"),
        (("files",), None, "no index"),
        (("files", 0, "bytes"), -1, "no index"),
        (("files", 0, "bytes"), True, "no index"),
        (("files", 0, "bytes"), 1 << 70, "no index"),
        (("files", 0, "bytes"), 50, "lies outside of its file"),
        (("files", 0, "path"), "../../run.json", "is no name of a file"),
        (("tensors",), [], "no index"),
        (("tensors", "rows", "dtype"), "F8", "unknown type 'F8'"),
        (("tensors", "rows", "shape"), "53", "no index"),
        (("tensors", "rows", "shape"), [5, 4], "do not make up its shape"),
        (("tensors", "rows", "shape"), [15], "do not make up its shape"),
        (("tensors", "rows", "shape"), [5.0, 3], "no index"),
        (("tensors", "rows", "chunks", 0, "offsets"), [2, 0], "do not make up its shape"),
        (("tensors", "rows", "chunks", 0, "offsets"), [3, 1], "do not make up its shape"),
        (("tensors", "rows", "chunks", 0, "sizes"), [2, 2], "do not make up its shape"),
        (("tensors", "rows", "chunks", 0, "sizes"), [0, 3], "do not make up its shape"),
        (("tensors", "rows", "chunks", 0, "file"), 2, "lies outside of its file"),
        (("tensors", "rows", "chunks", 0, "start"), 0, "lies outside of its file"),
        (("tensors", "rows", "chunks", 0, "start"), 4 * PIECE_BYTES + 90, "lies outside of its file"),
        (("tensors", "rows", "chunks", 0, "sums"), SUM * 2, "32 digits of sums for 24 bytes"),
        (("tensors", "rows", "chunks", 0, "sums"), 7, "no index"),
        (("tensors", "large", "chunks", 0, "sums"), SUM, "16 digits of sums"),
        (("tensors", "large", "chunks", 0, "start"), 61, "one and large share bytes"),
        (("tensors", "one", "chunks"), [], "do not make up its shape"),
        (("tensors", "none", "shape"), [1, 4], "do not make up its shape"),
    ],
)
def test_what_cannot_be_true_is_refused(path: tuple[Any, ...], value: object, reason: str) -> None:
    document = copy.deepcopy(GOOD)
    inner: Any = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match=reason):
        parsed(json.dumps(document).encode())


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_nothing_but_a_value_error_comes_of_any_change(data: st.DataObject) -> None:
    document: Any = copy.deepcopy(GOOD)
    inner, place = document, document
    while isinstance(inner, dict | list) and inner:
        names = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
        name = data.draw(st.sampled_from(names))
        place, inner = inner, inner[name]
        if data.draw(st.integers(0, 3)) == 0:
            break
    anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=3)
    place[name] = data.draw(anything | st.dictionaries(st.text(), st.integers(), max_size=2))
    with contextlib.suppress(ValueError):
        parsed(json.dumps(document).encode())
