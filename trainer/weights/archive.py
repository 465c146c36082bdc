"""PyTorch's zipped .pt archives, a state dict's or TorchScript's, read as data: nothing in them is ever called.

`torch.load(weights_only=True)` refuses TorchScript, and `torch.jit.load` runs the archive's own code, which can write
files. OpenAI's CLIP is such an archive. What it holds is a pickle that names tensors, and those in files of their own:
a table of 24 of pickle's instructions is enough, and each only moves values on a stack. A value is never hashed, shown
or followed down unless it is a number or a text: t = (t, t), thirty times, is 2 ** 30 values in 100 bytes.
"""

from __future__ import annotations

import contextlib
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MAX_PICKLE_BYTES = 16 << 20  # CLIP's has 0.2 MB
MOST_STEPS = 2_000_000  # instructions, and values that they copy: some seconds
# values that are walked through (shared ones may hide more of them than the file has bytes), how deep, and their names
MOST_VALUES, DEEPEST, LONGEST = 200_000, 64, 300
MOST_DIMS, MOST_SIZE = 16, 1 << 62
STORED = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
TENSOR, PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
ORDERED = "collections OrderedDict"
TYPED = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
LISTS = tuple(f"torch.jit._pickle {name}" for name in TYPED)
PUSHED = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
MARK, _OBJECT = object(), object()


@dataclass(frozen=True, slots=True)
class _Name:
    """What the pickle would have imported."""

    name: str


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a tensor's values are: the file of the archive, and how they lie in it."""

    key: str
    dtype: torch.dtype
    numel: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Storage:
    """A file of the archive, its type and how many values it has."""

    key: str
    dtype: torch.dtype
    numel: int


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[dict[str, tuple[int, ...]], Callable[[str], torch.Tensor]]]:
    """Open an archive: the shapes of its tensors by dotted name, and what reads one of them.

    Raises ValueError or zipfile.BadZipFile for anything but tensors in dicts, lists and modules.
    """
    with zipfile.ZipFile(path) as source:
        root = next((name[: -len("data.pkl")] for name in source.namelist() if name.endswith("/data.pkl")), None)
        if root is None:
            raise ValueError("it is a zip file and no .pt archive")
        if root + "byteorder" in source.namelist() and _plain(source, root + "byteorder", 16) != b"little":
            raise ValueError("its numbers are big-endian")
        top = _run(_plain(source, root + "data.pkl", MAX_PICKLE_BYTES))
        if isinstance(top, dict) and isinstance(top.get("state_dict"), dict):
            top = top["state_dict"]  # open_clip's own checkpoints have the optimizer's beside it
        tensors = {name.removeprefix("module."): stored for name, stored in _walk(top)}
        yield (
            {name: stored.shape for name, stored in tensors.items()},
            lambda name: _read(source, root, tensors[name]),
        )


def _plain(source: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member as torch writes it, neither compressed nor encrypted; ValueError over `limit` bytes."""
    try:
        entry = source.getinfo(name)
    except KeyError:
        raise ValueError(f"{name} is not in it") from None
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size > limit:
        raise ValueError(f"{name} in it is compressed, encrypted or over {limit} bytes")
    return source.read(entry)


def _read(source: zipfile.ZipFile, root: str, stored: _Stored) -> torch.Tensor:
    num_bytes = stored.numel * stored.dtype.itemsize
    body = _plain(source, f"{root}data/{stored.key}", num_bytes)
    if len(body) != num_bytes:
        raise ValueError(f"{root}data/{stored.key} has {len(body)} bytes of {num_bytes}")
    if 0 in stored.shape:
        return torch.empty(stored.shape, dtype=stored.dtype)
    flat = torch.frombuffer(bytearray(body), dtype=stored.dtype)
    return flat.as_strided(stored.shape, stored.stride, stored.offset).contiguous()


def _run(body: bytes) -> Any:
    """What a pickle describes: dicts, lists, tuples, plain values, and _Stored where it has tensors."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    steps = 0
    try:
        for opcode, value, _ in pickletools.genops(body):
            name = opcode.name
            steps += 1 + _copied(name, stack)
            if steps > MOST_STEPS:
                raise ValueError("its data.pkl has more instructions than weights would")
            if name == "STOP":
                return stack.pop()
            if name in PUSHED:
                stack.append(value)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[value] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[value])
            elif name not in ("PROTO", "FRAME"):
                _step(name, value, stack)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"its data.pkl makes no sense: {error!r:.100}") from None
    raise ValueError("its data.pkl has no end")


def _copied(name: str, stack: list[Any]) -> int:
    """Values that an instruction copies besides those that it takes off the stack: the same ones may be named often."""
    if name == "BUILD":
        return len(stack[-1]) if isinstance(stack[-1], dict) else 0
    if name == "REDUCE" and isinstance(stack[-1], tuple) and stack[-1]:
        return len(stack[-1][0]) if isinstance(stack[-1][0], dict | list | tuple) else 0
    return 0


def _step(name: str, value: Any, stack: list[Any]) -> None:
    """The instructions that build: each takes what it needs off the stack."""
    if name == "GLOBAL":
        stack.append(_allowed(value))
    elif name == "MARK":
        stack.append(MARK)
    elif name in ("EMPTY_DICT", "EMPTY_LIST"):
        stack.append({} if name == "EMPTY_DICT" else [])
    elif name == "TUPLE":
        stack.append(tuple(_to_mark(stack)))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        num = int(name[-1])
        stack[-num:] = [tuple(stack[-num:])]
    elif name in ("SETITEM", "SETITEMS"):
        items = _to_mark(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        stack[-1].update(_keyed(zip(items[::2], items[1::2], strict=True)))
    elif name in ("APPEND", "APPENDS"):
        new = _to_mark(stack) if name == "APPENDS" else [stack.pop()]
        stack[-1].extend(new)
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif name == "NEWOBJ":
        stack.pop()
        stack[-1] = {_OBJECT: stack[-1].name}
    elif name == "BUILD":
        state = stack.pop()
        # a module's attributes; an OrderedDict's are notes of torch's
        if isinstance(stack[-1], dict) and _OBJECT in stack[-1]:
            stack[-1].update(_keyed(state.items()))
    elif name == "REDUCE":
        given = stack.pop()
        stack[-1] = _made(stack[-1].name, given)
    else:
        raise ValueError(f"its data.pkl has the instruction {name}, which tensors need not")


def _keyed(items: Iterable[Any]) -> dict[Any, Any]:
    """A dict of pairs; ValueError for keys that are neither texts nor numbers, before they are hashed."""
    pairs = [(key, value) for key, value in items]
    for key, _ in pairs:
        if not isinstance(key, str | int) and key is not _OBJECT:
            raise ValueError(f"its data.pkl has a {type(key).__name__} as a key, where texts and numbers are due")
        if isinstance(key, str) and len(key) > LONGEST:
            raise ValueError(f"its data.pkl has a key of {len(key)} letters")
    return dict(pairs)


def _to_mark(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1
    while at >= 0 and stack[at] is not MARK:
        at -= 1
    if at < 0:
        raise ValueError("its data.pkl ends what it did not begin")
    found = stack[at + 1 :]
    del stack[at:]
    return found


def _allowed(name: str) -> _Name:
    module, _, kind = name.partition(" ")
    known = name in (TENSOR, PARAMETER, ORDERED, *LISTS) or module.startswith("__torch__")
    if not known and (module != "torch" or kind not in STORED):
        raise ValueError(f"it would run {module}.{kind}, which is not done")
    return _Name(name)


def _storage(given: Any) -> _Storage:
    kind, storage, key, _, numel = given
    kinds = [type(one).__name__ for one in (kind, storage, key, numel)]
    if kinds != ["str", "_Name", "str", "int"] or kind != "storage" or not 0 <= numel < MOST_SIZE:
        raise ValueError(f"its data.pkl describes a storage by {', '.join(kinds)}")
    return _Storage(key=key, dtype=STORED[storage.name.partition(" ")[2]], numel=numel)


def _made(name: str, given: Any) -> Any:
    if name == ORDERED:
        return _keyed(given[0].items() if isinstance(given[0], dict) else given[0]) if given else {}
    if name == PARAMETER or name in LISTS:
        return given[0]
    if name != TENSOR:
        raise ValueError(f"it would call {name.replace(' ', '.')}, which is not done")
    storage, offset, shape, stride = given[:4]
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple | list) or not isinstance(stride, tuple | list):
        raise ValueError("its data.pkl describes a tensor by something else than a storage, a shape and strides")
    if len(shape) != len(stride) or len(shape) > MOST_DIMS:
        raise ValueError(f"its data.pkl describes a tensor of {len(shape)} dimensions with {len(stride)} strides")
    if any(type(size) is not int or not 0 <= size < MOST_SIZE for size in (offset, *shape, *stride)):
        raise ValueError("its data.pkl describes a tensor by a shape, strides or an offset that none can have")
    end = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
    num = math.prod(shape)
    if (num and end > storage.numel) or num > storage.numel or math.prod(max(size, 1) for size in shape) >= MOST_SIZE:
        raise ValueError(f"a tensor of {tuple(shape)} lies past the {storage.numel} values of its storage")
    return _Stored(
        key=storage.key,
        dtype=storage.dtype,
        numel=storage.numel,
        offset=offset,
        shape=tuple(shape),
        stride=tuple(stride),
    )


def _walk(top: Any) -> Iterator[tuple[str, _Stored]]:
    """The tensors below a value, by dotted name."""
    waiting: list[tuple[str, Any, int]] = [("", top, 0)]
    seen = 0
    while waiting:
        prefix, value, depth = waiting.pop()
        if isinstance(value, _Stored):
            yield prefix, value
        elif isinstance(value, dict | list | tuple):
            seen += len(value)
            if seen > MOST_VALUES or depth > DEEPEST or len(prefix) > LONGEST:
                raise ValueError("its data.pkl holds more than weights would")
            items = value.items() if isinstance(value, dict) else enumerate(value)
            below = f"{prefix}." if prefix else ""
            waiting += [(f"{below}{key}", inner, depth + 1) for key, inner in items if isinstance(key, str | int)]
