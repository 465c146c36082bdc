"""Files of named tensors, read without ever running what is in them, and written with the same bytes every time.

Read: safetensors, one file or a folder with its index, and PyTorch's .pt archives, TorchScript's too (`archive`).
Written: safetensors with sorted names, since the library's own order of the metadata changes from run to run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import ConfigError, Missing, StoreError
from engine.store import Store
from trainer.weights import archive

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
SINGLE = (FILE, "open_clip_model.safetensors", "start.safetensors")  # what a folder's one file is called
MAX_HEADER_BYTES = 16 << 20  # KOSMOS-1's has 100 kB
MAX_INDEX_BYTES = 64 << 20
CHUNK_BYTES = 16 << 20
MAX_FILE_BYTES = 256 << 30
ZIPPED = b"PK\x03\x04"
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
Names = Callable[[str], tuple[str, ...]]  # ours -> theirs, which follow one another along the first dimension
CODES = {torch.float32: "F32", torch.bfloat16: "BF16"}  # of what is written


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """An open file of tensors. shapes: by name, known without reading a tensor. metadata: of one safetensors file."""

    place: str
    shapes: dict[str, tuple[int, ...]]
    load: Callable[[str], torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> torch.Tensor:
        """A tensor as float32 on the CPU; ConfigError if it holds no floats, or NaN or infinities."""
        with _told(self.place):
            tensor = self.load(name)
        if tensor.dtype not in FLOATS:
            raise ConfigError(f"{name} in {self.place} is {tensor.dtype}, no floats; give a file of float weights")
        tensor = tensor.to(torch.float32, copy=True)  # the file's pages are another's to change
        if not bool(torch.isfinite(tensor).all()):
            raise ConfigError(f"{name} in {self.place} holds NaN or infinities; fetch the file again, or give another")
        return tensor


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[File]:
    """Open a .safetensors or .pt file, or a folder of safetensors; ConfigError if it is none or damaged."""
    place = Path(path)
    with contextlib.ExitStack() as stack:
        with _told(str(path)):
            files = parts(place)
            if len(files) == 1 and _begins(files[0], 4) == ZIPPED:
                shapes, load = stack.enter_context(archive.opened(files[0]))
                found = File(place=str(path), shapes=shapes, load=load)
            else:
                found = _safetensors(stack, str(path), files)
        yield found


def parts(place: Path) -> list[Path]:
    """The files that make up `place`: itself, or what a folder holds by its index; ConfigError if there is none."""
    if not place.is_dir():
        if not place.is_file():
            raise ConfigError(f"{place} is not there; give the path of a .safetensors or .pt file, or of a folder")
        return [place]
    single = [place / name for name in SINGLE if (place / name).is_file()]
    if single:
        return single[:1]
    if (place / INDEX).is_file():
        return _indexed(place)
    raise ConfigError(f"{place} holds neither {FILE} nor {INDEX}; give the path of a file of weights")


def laid(
    file: File, shapes: Mapping[str, tuple[int, ...]], names: Names, theirs: Iterable[str], what: str
) -> dict[str, torch.Tensor]:
    """Read ours, each from its parts; ConfigError unless `theirs` are just what is needed, in the shapes due."""
    needed = {name: names(name) for name in shapes}
    used = {part for parts in needed.values() for part in parts}
    gone = sorted(used - set(file.shapes))
    if gone:
        raise ConfigError(f"{file.place} is not the whole of {what}: {some(gone)} missing; give another file")
    left = sorted(set(theirs) - used)
    if left:
        raise ConfigError(
            f"{file.place} holds more of {what} than the config's model has: {some(left)} left over; give another "
            "file, or --set the sizes of model. to its own"
        )
    for name, parts in needed.items():
        found = _stacked([file.shapes[part] for part in parts])
        if found != shapes[name]:
            raise ConfigError(
                f"{parts[0]} in {file.place} makes {name} {found} and the config's model has {shapes[name]}; give "
                "another file, or --set the sizes of model. to its own"
            )
    return {name: torch.cat([file.read(part) for part in parts]) for name, parts in needed.items()}


def some(names: Sequence[str]) -> str:
    """The first names of a list, for a sentence."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def digest(place: Path) -> str:
    """The sha256 of a file in hex; of a folder of several, that of their sums in the order of their names."""
    with _told(str(place)):
        sums = [_sha256(path) for path in sorted(parts(place))]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def write(sink: IO[bytes], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Write float32 or bf16 tensors as safetensors, the same bytes for the same tensors; the sha256 of them."""
    at, header = 0, dict[str, Any](__metadata__=dict(sorted(metadata.items()))) if metadata else {}
    for name in sorted(tensors):
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    head += b" " * (-len(head) % 8)
    total = hashlib.sha256()
    for body in (struct.pack("<Q", len(head)), head):
        sink.write(body)
        total.update(body)
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        sink.write(flat)
        total.update(flat)
    return total.hexdigest()


def _safetensors(stack: contextlib.ExitStack, place: str, files: Sequence[Path]) -> File:
    handles: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for path in files:
        head = _begins(path, 8)
        if len(head) < 8 or struct.unpack("<Q", head)[0] > MAX_HEADER_BYTES:
            raise ConfigError(f"{path} is neither a safetensors file nor a zipped .pt archive; give a file of weights")
        handle = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        metadata |= handle.metadata() or {}
        for name in handle.keys():  # noqa: SIM118 (no mapping)
            if name in handles:
                raise ConfigError(f"{name} is in two files of {place}; fetch the folder again")
            handles[name] = handle
    shapes = {name: tuple(handle.get_slice(name).get_shape()) for name, handle in handles.items()}
    return File(place=place, shapes=shapes, load=lambda name: handles[name].get_tensor(name), metadata=metadata)


def _begins(path: Path, num_bytes: int) -> bytes:
    with open(path, "rb") as source:
        return source.read(num_bytes)


def _indexed(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise ConfigError(f"{index} is over {MAX_INDEX_BYTES >> 20} MiB; fetch the folder again")
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        beside = all(Path(name).name == name for name in names)
    except (AttributeError, KeyError, TypeError, ValueError):
        names, beside = [], False
    if not names or not beside:
        raise ConfigError(f"{index} is damaged: it does not name files beside it; fetch the folder again")
    gone = [name for name in names if not (folder / name).is_file()]
    if gone:
        raise ConfigError(f"{gone[0]} of {INDEX} is not in {folder}; fetch the rest of the folder")
    return [folder / name for name in names]


@contextlib.contextmanager
def _told(place: str) -> Iterator[None]:
    """Turn a fault of a file's bytes or of the disk into a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{place} cannot be read ({error.strerror or error}); give another file") from None
    except (SafetensorError, zipfile.BadZipFile, EOFError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{place} is damaged ({first[:200]}); fetch the file again, or give another") from None


def _stacked(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape of tensors behind one another; None if they do not fit."""
    if len(shapes) == 1:
        return shapes[0]
    if len({shape[1:] for shape in shapes}) != 1 or not all(shapes):
        return None
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


@contextlib.contextmanager
def local(store: Store, path: str, limit: int = MAX_FILE_BYTES) -> Iterator[Path]:
    """An object of a store as a file of this machine, for as long as it is open; Missing if there is none."""
    if store.folder is not None:
        if not (store.folder / path).is_file():
            raise Missing(f"{path} is not in {store.place}; give another folder")
        yield store.folder / path
        return
    with scratch() as folder:
        store.download(path, folder / "file", limit=limit)
        yield folder / "file"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A local folder for a file on its way; StoreError where the disk gives out."""
    try:
        with tempfile.TemporaryDirectory(prefix="kosmos-") as folder:
            yield Path(folder)
    except OSError as error:
        raise StoreError(
            f"cannot write weights into {tempfile.tempdir or 'a temporary folder'}: {error.strerror or error}; set "
            "TMPDIR to a folder with more room"
        ) from None
