"""Writing a checkpoint with any number of processes: each writes one file, of the chunks that are its own.

PyTorch's distributed checkpoint plans who writes what: each chunk once, however many processes hold it. The bytes are
ours: safetensors in any store, found by `trainer.checkpoints.index`; DCP's own storage would have to read a pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
import xxhash
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.tensor import DTensor

from engine.errors import BudgetExceeded, ConfigError, KosmosError, Missing, StoreError
from engine.store import Store
from trainer.checkpoints import index as indexes
from trainer.checkpoints.index import DTYPES, PIECE_BYTES, Chunk, Entry, Index, Part

FAULTS = (KosmosError, OSError, RuntimeError, ValueError, MemoryError)  # that one process may have and others not
# what one process says in a sentence all say so, and end with the same exit code
SAID = {kind.__name__: kind for kind in (BudgetExceeded, ConfigError, Missing, StoreError)}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Gone(RuntimeError):
    # trainer.checkpoints.sharded.Gone: a crash, no KosmosError, for whoever starts processes starts them again after
    # it, and never after a sentence that a person has to read
    """Another process died, or failed of what is no sentence for a person; its own words are where it failed."""


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor; writing into it writes into the tensor."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    with torch.no_grad():
        return tensor.to_local()


class Writer:
    """Writes checkpoints of one set of tensors, together with all processes of `group`, or alone where it is None.

    Who writes what is settled once, at the first: 64 processes have 72,000 chunks to agree about.
    """

    def __init__(self, store: Store, rank: int, group: dist.ProcessGroup | None) -> None:
        self.store, self.rank, self.group = store, rank, group
        self._own: list[_Piece] | None = None

    def plan(self, tensors: Mapping[str, torch.Tensor]) -> int:
        """Settle who writes what, if it is not yet, in all processes at once; the bytes that this one writes."""
        if self._own is None:
            with _others(self.group):
                self._own = _planned(tensors, self.rank, self.group)
        return sum(math.prod(piece.sizes) * tensors[piece.name].element_size() for piece in self._own)

    def write(
        self,
        folder: str,
        tensors: Mapping[str, torch.Tensor],
        staged: Mapping[str, torch.Tensor],
        begin: Callable[[], None],
        commit: Callable[[Part], object],
    ) -> None:
        """Write tensors below a folder of the store.

        tensors: by name, the same names everywhere: DTensors, or plain ones that are the same everywhere; only how they
        are laid out is read. staged: what this process holds of each, contiguous on the CPU. begin, commit: called in
        the first process before any file is written, and once all are there, with the index. A fault of one process is
        raised in all.
        """
        attempt: list[str | None] = [uuid.uuid4().hex[:12]]
        done: list[_Written] = []
        together(self.group, begin if self.rank == 0 else _nothing)
        self.plan(tensors)
        with _others(self.group):
            if self.group is not None:
                dist.broadcast_object_list(attempt, group=self.group, group_src=0)
        name = f"{self.rank:05d}.{attempt[0]}.safetensors"
        together(self.group, lambda: done.append(_write_file(self.store, folder, name, self._own or [], staged)))
        with _others(self.group):
            everyone = _gathered(done[0], self.rank, self.group)
        path = f"{folder}/index.{attempt[0]}.json"
        together(
            self.group, lambda: commit(_write_index(self.store, folder, path, everyone)) if self.rank == 0 else None
        )


def together(group: dist.ProcessGroup | None, work: Callable[[], object]) -> None:
    """Do a thing in all processes of a group. A fault of one is raised in all: in its words if they are a sentence for
    a person, as Gone if not."""
    fault: BaseException | None = None
    try:
        work()
    except FAULTS as error:
        fault = error
    said: list[tuple[str, str] | None] = [_words(fault)]
    if group is not None:
        said *= group.size()
        with _others(group):
            dist.all_gather_object(said, said[0], group=group)
    if fault is not None:
        raise fault
    # a sentence says more than that somebody failed
    for kind, words in sorted(filter(None, said), key=lambda one: one[0] not in SAID):
        raise SAID.get(kind, Gone)(words)


def _words(fault: BaseException | None) -> tuple[str, str] | None:
    """What the others are told of a fault: its kind, "" if it is no sentence for a person, and the words."""
    if fault is None:
        return None
    if isinstance(fault, KosmosError):
        return type(fault).__name__ if type(fault).__name__ in SAID else "StoreError", str(fault)
    words = f"another process failed ({fault!r:.300}); see its own words, then run the same command again to resume"
    return "", words


@contextlib.contextmanager
def _others(group: dist.ProcessGroup | None) -> Iterator[None]:
    """Gone where another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        if group is None:
            raise
        raise Gone(
            f"the checkpoint was not written or read: another process is gone ({str(error).splitlines()[0]}); run the "
            "same command again to resume"
        ) from None


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """A chunk that this process is to write. shape: of the tensor."""

    name: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


# a process's file, None if it has none, and of each of its chunks the tensor's name, type and shape
_Written = tuple[Part | None, list[tuple[str, str, tuple[int, ...], Chunk]]]


def _planned(tensors: Mapping[str, torch.Tensor], rank: int, group: dist.ProcessGroup | None) -> list[_Piece]:
    """What this process is to write: of chunks that several hold, one has each, and all have about as many bytes."""
    planner = DefaultSavePlanner(flatten_state_dict=False)
    with torch.no_grad():
        planner.set_up_planner(dict(tensors), None, rank == 0)
        plans = _gathered(planner.create_local_plan(), rank, group)
    own: list[Any] = [None]
    if rank == 0:
        plans = planner.create_global_plan(plans)[0]
        own[0] = plans[0]
    if group is not None:
        dist.scatter_object_list(own, plans if rank == 0 else None, group=group, group_src=0)
    return [
        _Piece(
            name=item.index.fqn,
            shape=tuple(item.tensor_data.size),
            offsets=tuple(item.index.offset),
            sizes=tuple(item.tensor_data.chunk.sizes),
        )
        for item in own[0].items
        if 0 not in item.tensor_data.chunk.sizes  # of a tensor with fewer rows than processes, some hold nothing
    ]


def _gathered(value: Any, rank: int, group: dist.ProcessGroup | None) -> list[Any]:
    """The values of all processes in the first, nothing in the others."""
    if group is None:
        return [value]
    found = [None] * group.size() if rank == 0 else None
    dist.gather_object(value, found, group=group, group_dst=0)
    return found or []


def _write_file(
    store: Store, folder: str, name: str, own: Sequence[_Piece], staged: Mapping[str, torch.Tensor]
) -> _Written:
    if not own:
        return None, []
    # stable: every number lies at a multiple of its size
    laid = sorted(own, key=lambda piece: -staged[piece.name].element_size())
    head = _header([(_named(piece), staged[piece.name]) for piece in laid])
    with _scratch("write a checkpoint below") as scratch:
        with open(scratch / name, "wb") as file:
            sink = _Summing(file)
            sink.write(head)
            runs = [(sink.size, _sums_written(sink, staged[piece.name])) for piece in laid]
        store.put_file(f"{folder}/{name}", scratch / name)
    part = Part(path=name, bytes=sink.size, sha256=sink.sha256.hexdigest())
    chunks = [
        (
            piece.name,
            NAMES[staged[piece.name].dtype],
            piece.shape,
            Chunk(offsets=piece.offsets, sizes=piece.sizes, file=0, start=start, sums=sums),
        )
        for piece, (start, sums) in zip(laid, runs, strict=True)
    ]
    return part, chunks


def _write_index(store: Store, folder: str, path: str, everyone: Sequence[_Written]) -> Part:
    for number, (part, _) in enumerate(everyone):
        head = store.head(f"{folder}/{part.path}") if part is not None else None
        # a folder of the same name on each node's own disk: a checkpoint that nobody could read
        if part is not None and (head is None or head.size != part.bytes):
            raise StoreError(
                f"process {number} wrote a part of the checkpoint where process 0 does not see it in {store.place}; "
                "give --out a bucket or a folder that all nodes share"
            )
    files: list[Part] = []
    found: dict[str, tuple[str, tuple[int, ...], list[Chunk]]] = {}
    for part, written in everyone:
        if part is None:
            continue
        for name, dtype, shape, chunk in written:
            found.setdefault(name, (dtype, shape, []))[2].append(replace(chunk, file=len(files)))
        files.append(part)
    tensors = {
        name: Entry(dtype=dtype, shape=shape, chunks=tuple(chunks)) for name, (dtype, shape, chunks) in found.items()
    }
    index = Index(files=tuple(files), tensors=tensors)
    indexes.check(index)
    body = index.to_json()
    put_kept(store, path, body)
    return Part(path=path, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def put_kept(store: Store, path: str, body: bytes) -> None:
    """Write an object, over an old one if there is one, so that it outlives a power cut once this returns."""
    with _scratch("write a checkpoint below") as scratch:
        (scratch / "body").write_bytes(body)
        store.put_file(path, scratch / "body")


def check_room(num_bytes: int) -> None:
    """StoreError if the folder for temporary files has no room for so many bytes, which lie there on their way."""
    with _scratch("write a checkpoint below") as scratch:
        free = shutil.disk_usage(scratch).free
    if free < num_bytes:
        raise StoreError(
            f"cannot write a checkpoint below {scratch.parent}: it takes {num_bytes / 2**20:,.1f} MiB there on its "
            f"way, and {free / 2**20:,.1f} MiB are free; set TMPDIR to a folder with more room"
        )


def _named(piece: _Piece) -> str:
    """A chunk's name in its file: the tensor's, with where in it the chunk begins unless it is all of it."""
    return piece.name if piece.sizes == piece.shape else f"{piece.name}@{','.join(map(str, piece.offsets))}"


def _header(laid: Iterable[tuple[str, torch.Tensor]]) -> bytes:
    """The beginning of a safetensors file: its length as 8 bytes, then JSON, with blanks to a multiple of 8."""
    entries, reach = {}, 0
    for name, tensor in laid:
        entries[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [reach, reach + tensor.nbytes],
        }
        reach += tensor.nbytes
    body = json.dumps(entries, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body


class _Summing:
    """A sink that sums what goes through it: a file of 20 GB is not read again."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink, self.sha256, self.size = sink, hashlib.sha256(), 0

    def write(self, body: bytes | memoryview) -> None:
        self.sha256.update(body)
        self.size += len(body)
        self._sink.write(body)


def _sums_written(sink: _Summing, tensor: torch.Tensor) -> str:
    body = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    sums = []
    for at in range(0, len(body), PIECE_BYTES):
        piece = body[at : at + PIECE_BYTES]
        sums.append(xxhash.xxh64_hexdigest(piece))
        sink.write(piece)
    return "".join(sums)


@contextlib.contextmanager
def _scratch(doing: str) -> Iterator[Path]:
    """A local folder for a file on its way; StoreError where the disk gives out (the store's faults are its own)."""
    try:
        with tempfile.TemporaryDirectory(prefix="kosmos-") as folder:
            yield Path(folder)
    except OSError as error:
        raise StoreError(
            f"cannot {doing} {tempfile.tempdir or 'a temporary folder'}: {error.strerror or error}; set TMPDIR to a "
            "folder with more room"
        ) from None
