"""What a checkpoint's files hold: which bytes are which part of which tensor, and the sums that prove them.

A tensor lies in chunks, one of each process that held a part of it, cut along one dimension; a chunk is a run of bytes
of one file. Every MiB of a chunk has its xxh64, so that a process that needs a slice reads little more than it and
still knows that it is what was written; whole files have a sha256 besides.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

PIECE_BYTES = 1 << 20  # of a sum: KOSMOS-1's 20 GB have 19,000
SUM_DIGITS = 16
FILE = re.compile(r"[0-9]{5,}\.[0-9a-f]{12}\.safetensors")
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}  # as safetensors names them
MOST = 1 << 62
MOST_DIMS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One file of a checkpoint: its path below the run, its size, its sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A part of a tensor: where in the tensor, how large, and which bytes of which file, with a sum for every MiB."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: int
    start: int
    sums: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A tensor. dtype: a key of DTYPES. chunks: they tile it."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def item_bytes(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype].itemsize

    def num_bytes(self, chunk: Chunk) -> int:
        """Bytes of one of its chunks."""
        return math.prod(chunk.sizes) * self.item_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The files of a checkpoint, named below its own folder, and its tensors by name."""

    files: tuple[Part, ...]
    tensors: Mapping[str, Entry]

    def to_json(self) -> bytes:
        """Plain JSON, which `parsed` reads."""
        document = {
            "piece_bytes": PIECE_BYTES,
            "files": [asdict(part) for part in self.files],
            "tensors": {
                name: {"dtype": entry.dtype, "shape": entry.shape, "chunks": [_plain(chunk) for chunk in entry.chunks]}
                for name, entry in self.tensors.items()
            },
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _plain(chunk: Chunk) -> dict[str, Any]:
    # asdict copies, seven times slower: there may be 72,000 of these, and the training waits for the interpreter
    return {name: getattr(chunk, name) for name in ("offsets", "sizes", "file", "start", "sums")}


def parsed(body: bytes) -> Index:
    """Read an index; ValueError with the reason if it is not one that could be true."""
    try:
        document = json.loads(body)
        if document["piece_bytes"] != PIECE_BYTES:
            raise ValueError(f"its sums are of {document['piece_bytes']!r:.100} bytes, not of {PIECE_BYTES}")
        files = tuple(_part(one) for one in document["files"])
        tensors = {name: _entry(one) for name, one in document["tensors"].items()}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no index: {error!r:.300}") from None
    found = Index(files=files, tensors=tensors)
    check(found)
    return found


def check(index: Index) -> None:
    """ValueError if a tensor has holes or is there twice, or bytes lie outside of a file or are of two chunks."""
    taken: list[list[tuple[int, int, str]]] = [[] for _ in index.files]
    for name, entry in index.tensors.items():
        if entry.dtype not in DTYPES:
            raise ValueError(f"{name} is of the unknown type {entry.dtype!r}")
        # one of no numbers has no bytes that would bound it
        if len(entry.shape) > MOST_DIMS or math.prod(max(size, 1) for size in entry.shape) >= MOST >> 3:
            raise ValueError(f"{name} is larger than a tensor can be")
        if not _tiles(entry):
            raise ValueError(f"the chunks of {name} do not make up its shape {list(entry.shape)}")
        for chunk in entry.chunks:
            size = entry.num_bytes(chunk)
            if chunk.file >= len(index.files) or chunk.start < 8 or chunk.start + size > index.files[chunk.file].bytes:
                raise ValueError(f"a chunk of {name} lies outside of its file")
            if len(chunk.sums) != SUM_DIGITS * -(-size // PIECE_BYTES):
                raise ValueError(f"a chunk of {name} has {len(chunk.sums)} digits of sums for {size} bytes")
            taken[chunk.file].append((chunk.start, chunk.start + size, name))
    for runs in taken:
        runs.sort()
        for before, after in pairwise(runs):
            if after[0] < before[1]:
                raise ValueError(f"{before[2]} and {after[2]} share bytes")


def _tiles(entry: Entry) -> bool:
    """Whether the chunks lie side by side along one dimension, whole in the others, from one end to the other."""
    shape, chunks = entry.shape, entry.chunks
    if any(len(c.offsets) != len(shape) or len(c.sizes) != len(shape) or 0 in c.sizes for c in chunks):
        return False
    if not math.prod(shape):
        return not chunks
    cut = next((i for i in range(len(shape)) if any(c.sizes[i] != shape[i] for c in chunks)), None)
    if cut is None:
        return len(chunks) == 1 and not any(chunks[0].offsets)
    reach = 0
    for chunk in sorted(chunks, key=lambda c: c.offsets[cut]):
        if chunk.offsets[cut] != reach:
            return False
        if any(chunk.offsets[i] or chunk.sizes[i] != shape[i] for i in range(len(shape)) if i != cut):
            return False
        reach += chunk.sizes[cut]
    return reach == shape[cut]


def _part(plain: Any) -> Part:
    part = Part(path=plain["path"], bytes=_number(plain["bytes"]), sha256=_text(plain["sha256"]))
    if not FILE.fullmatch(part.path):
        raise ValueError(f"{part.path!r} is no name of a file")
    return part


def _entry(plain: Any) -> Entry:
    chunks = tuple(
        Chunk(
            offsets=_numbers(one["offsets"]),
            sizes=_numbers(one["sizes"]),
            file=_number(one["file"]),
            start=_number(one["start"]),
            sums=_text(one["sums"]),
        )
        for one in plain["chunks"]
    )
    return Entry(dtype=_text(plain["dtype"]), shape=_numbers(plain["shape"]), chunks=chunks)


def _numbers(plain: Any) -> tuple[int, ...]:
    if not isinstance(plain, Sequence) or isinstance(plain, str):
        raise TypeError(f"{plain!r:.100} where numbers were due")
    return tuple(_number(one) for one in plain)


def _number(plain: Any) -> int:
    if type(plain) is not int or not 0 <= plain < MOST:
        raise TypeError(f"{plain!r:.100} where a whole number was due")
    return plain


def _text(plain: Any) -> str:
    if not isinstance(plain, str):
        raise TypeError(f"{plain!r:.100} where a text was due")
    return plain
