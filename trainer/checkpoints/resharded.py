"""Reading a checkpoint with any number of processes: each reads the bytes that it needs, and little more.

PyTorch's distributed checkpoint plans which chunks make up what a process holds now, whoever held it when it was
written. Nothing that is read is believed without its sum, or ever unpickled.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from engine.store import GAP_BYTES, Store
from trainer.checkpoints.index import DTYPES, PIECE_BYTES, SUM_DIGITS, Chunk, Entry, Index, Part

# of one request, of those under way at once, and how many these are: one alone has a tenth of what S3 gives
FETCH_BYTES, BATCH_BYTES, FETCHES = 16 << 20, 256 << 20, 8
Array = npt.NDArray[np.uint8]


class Damaged(Exception):
    """A file that is not what was written."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


@dataclass(frozen=True, kw_only=True, slots=True)
class _Want:
    """A box of a chunk and where it goes. low, high: the bytes of the chunk that are read for it, whole pieces."""

    name: str
    chunk: Chunk
    dtype: torch.dtype
    box: tuple[tuple[int, int], ...]  # first and length in each dimension of the chunk
    target: torch.Tensor
    low: int
    high: int


def read(store: Store, folder: str, index: Index, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill what this process holds of tensors with what was saved, whatever held it then.

    tensors: all of them in `index`, with the shapes that they have there. Raises Damaged for a file that is not what
    was written, StoreError where the store cannot be read.
    """
    metadata = Metadata(
        {
            name: TensorStorageMetadata(
                TensorProperties(dtype=DTYPES[index.tensors[name].dtype]),
                torch.Size(index.tensors[name].shape),
                [ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes)) for c in index.tensors[name].chunks],
            )
            for name in tensors
        }
    )
    held: list[list[tuple[int, int]]] = [[] for _ in index.files]
    for entry in index.tensors.values():
        for chunk in entry.chunks:
            held[chunk.file].append((chunk.start, entry.num_bytes(chunk)))
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    with torch.no_grad():
        planner.set_up_planner(dict(tensors), metadata, False)
        wanted: dict[int, list[_Want]] = {}
        for item in planner.finish_plan(planner.create_local_plan()).items:
            entry = index.tensors[item.storage_index.fqn]
            chunk = entry.chunks[item.storage_index.index or 0]
            box = tuple(zip(item.storage_offsets, item.lengths, strict=True))
            if not all(length for _, length in box):
                continue
            target = planner.resolve_tensor(item).detach()
            wanted.setdefault(chunk.file, []).append(_want(item.storage_index.fqn, entry, chunk, box, target))
        for number, wants in sorted(wanted.items()):
            part = index.files[number]
            _read_file(store, replace(part, path=f"{folder}/{part.path}"), wants, sorted(held[number]))


def check_sizes(store: Store, folder: str, index: Index) -> None:
    """Damaged if a file is not of the size that the index gives; no tensor is larger than its files together."""
    with ThreadPoolExecutor(max_workers=FETCHES) as pool:
        for _ in pool.map(lambda part: _check_size(store, replace(part, path=f"{folder}/{part.path}")), index.files):
            pass


def _check_size(store: Store, part: Part) -> None:
    head = store.head(part.path)
    if head is None or head.size != part.bytes:
        raise Damaged(part.path, f"it has {head.size} bytes of {part.bytes}" if head else "it is gone")


def _want(name: str, entry: Entry, chunk: Chunk, box: tuple[tuple[int, int], ...], target: torch.Tensor) -> _Want:
    size = entry.num_bytes(chunk)
    row_bytes = size // chunk.sizes[0] if box else size
    first, rows = box[0] if box else (0, 1)
    low = first * row_bytes // PIECE_BYTES * PIECE_BYTES
    high = min(size, -(-(first + rows) * row_bytes // PIECE_BYTES) * PIECE_BYTES)
    return _Want(name=name, chunk=chunk, dtype=DTYPES[entry.dtype], box=box, target=target, low=low, high=high)


def _read_file(store: Store, part: Part, wants: list[_Want], held: Sequence[tuple[int, int]]) -> None:
    _check_size(store, part)
    wants.sort(key=lambda want: want.chunk.start + want.low)
    read = [(want.chunk.start + want.low, want.high - want.low) for want in wants]
    # who needs all of it proves all of it; who needs a slice has the sums of its pieces
    sha256 = hashlib.sha256(store.get_range(part.path, 0, read[0][0])) if read == held else None
    batch: list[_Want] = []
    with ThreadPoolExecutor(max_workers=FETCHES) as pool:
        for number, want in enumerate(wants):
            batch.append(want)
            if number + 1 == len(wants) or sum(one.high - one.low for one in batch) >= BATCH_BYTES:
                _read_batch(store, part.path, batch, sha256, pool)
                batch = []
    if sha256 is not None and sha256.hexdigest() != part.sha256:
        raise Damaged(part.path, "its sha256 is not the recorded one")


def _read_batch(store: Store, path: str, batch: Sequence[_Want], sha256: Any, pool: ThreadPoolExecutor) -> None:
    for want, body in zip(batch, _fetched(store, path, batch, pool), strict=True):
        if not _proved(want.chunk, want.low, body):
            raise Damaged(path, f"the bytes of {want.name} are not those that were written")
        if sha256 is not None:
            sha256.update(body)
        _place(want, torch.from_numpy(body))


def _fetched(store: Store, path: str, batch: Sequence[_Want], pool: ThreadPoolExecutor) -> Iterator[Array]:
    """The bytes from `low` to `high` of each: of small ones several by one request, of a large one by several."""
    requests: list[tuple[int, int]] = []  # first byte and end
    cuts: list[list[tuple[int, int, int]]] = []  # of each want: which request, and from where to where in the file
    for want in batch:
        first, end = want.chunk.start + want.low, want.chunk.start + want.high
        cuts.append([])
        for begin in range(first, end, FETCH_BYTES):
            stop = min(end, begin + FETCH_BYTES)
            if requests and begin - requests[-1][1] <= GAP_BYTES and stop - requests[-1][0] <= FETCH_BYTES:
                requests[-1] = requests[-1][0], stop
            else:
                requests.append((begin, stop))
            cuts[-1].append((len(requests) - 1, begin, stop))
    bodies = list(pool.map(lambda request: store.get_range(path, request[0], request[1] - request[0]), requests))
    for pieces in cuts:
        views = [np.frombuffer(bodies[n], np.uint8)[begin - requests[n][0] : stop - requests[n][0]]
                 for n, begin, stop in pieces]  # fmt: skip
        yield np.concatenate(views)


def _proved(chunk: Chunk, low: int, body: Array) -> bool:
    number = low // PIECE_BYTES
    sums = "".join(xxhash.xxh64_hexdigest(body[a : a + PIECE_BYTES].data) for a in range(0, len(body), PIECE_BYTES))
    return chunk.sums[number * SUM_DIGITS : number * SUM_DIGITS + len(sums)] == sums


def _place(want: _Want, buffer: torch.Tensor) -> None:
    if not want.box:
        want.target.copy_(buffer.view(want.dtype).view(()))
        return
    (first, rows), *others = want.box
    row_bytes = math.prod(want.chunk.sizes[1:]) * want.dtype.itemsize
    begin = first * row_bytes - want.low
    found = buffer[begin : begin + rows * row_bytes].view(want.dtype).view(rows, *want.chunk.sizes[1:])
    for dim, (start, length) in enumerate(others, 1):
        found = found.narrow(dim, start, length)
    want.target.copy_(found)
