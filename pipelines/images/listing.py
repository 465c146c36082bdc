"""What an evaluation set of images holds: the pictures of a folder, or the lines of a list of their hashes.

A folder is read file by file in the order of their names, and what is no image by its first bytes is passed over. A
list says the same of the same folder, so both give the same rows.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError
from engine.store import Store, absolute, local_path
from pipelines import evalsets
from pipelines.evalsets import Source
from pipelines.images import Encode, Gate, Measured, header
from pipelines.images.hashes import SIDE, phash
from pipelines.reasons import Reason

SETTING = "decontaminate.images"
MAX_IMAGES = 1 << 20  # of a set
MAX_FILE_BYTES = 64 << 20  # of a picture; fetch takes 20 MiB
MAX_LOOKS = 16  # hashes of one picture
NEARLY_SQUARE = 1.1  # larger side over smaller: the square of the centre looks like the whole
READS = 8  # pictures at once: each may take 400 MB while it is decoded
FILES = 1024  # that are handed to the readers at a time
KINDS = {".tsv": "tsv", ".csv": "csv", ".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl"}
COLUMNS = ("sha256", "phash")
# A row a hash: an image has one for each of its perceptual hashes, the first with its sha256; zeros are "none".
ROW = np.dtype([("set", "<u2"), ("item", "<u4"), ("phash", "<u8"), ("sha256", "S32")])
Rows = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image of a set. sha256: of the file, b"" if it is not known. looks: its perceptual hashes; none of a picture
    that is flat, or that nothing here can decode: it is known by its bytes only. reason: of the file, KEPT in a list.
    """

    name: str
    sha256: bytes
    looks: tuple[int, ...]
    reason: Reason = Reason.KEPT


def sources(settings: Sequence[str]) -> list[Source]:
    """The configured sets in their order: lists by the end of their names, all else folders; ConfigError if two have
    one name, or one has none."""
    found = [_source(setting) for setting in settings]
    names = [one.name for one in found]
    for one in found:
        if names.count(one.name) > 1:
            raise ConfigError(f"two sets of images are named {one.name}; give {SETTING} name=path to tell them apart")
    return found


def pictures(source: Source) -> Iterator[Picture]:
    """The images of a set in their order; ConfigError for what cannot be read, or if there is none."""
    found = _folder(source) if source.kind == "folder" else _list(source)
    num = 0
    for num, picture in enumerate(found, 1):
        if num > MAX_IMAGES:
            raise ConfigError(f"{source.uri} holds over {MAX_IMAGES} images; cut it into sets and name each of them")
        yield picture
    if num == 0:
        raise ConfigError(f"{source.uri} holds no image; take it out of {SETTING}")


def rows(sets: Sequence[Source]) -> Rows:
    """All sets as one array of ROW."""
    made: list[tuple[int, int, int, bytes]] = []
    for number, source in enumerate(sets):
        for item, picture in enumerate(pictures(source)):
            first, *others = picture.looks or (0,)
            made.append((number, item, first, picture.sha256))
            made += [(number, item, look, b"") for look in others]
    return np.array(made, ROW)


def described(picture: Picture) -> str:
    """The line of a .tsv list: sha256, perceptual hashes, name."""
    name = picture.name.encode("utf-8", "backslashreplace").decode()
    return f"{picture.sha256.hex()}\t{' '.join(f'{look:016x}' for look in picture.looks)}\t{' '.join(name.split())}"


def _source(setting: str) -> Source:
    named = evalsets.NAMED.fullmatch(setting)
    uri = named[2] if named else setting
    stem, suffix = evalsets.suffix(uri.rstrip("/"))
    kind = KINDS.get(suffix, "folder")
    name = named[1] if named else uri.rstrip("/").rpartition("/")[2] if kind == "folder" else stem
    if not evalsets.PLAIN.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a set (letters, digits, _ . -); give {SETTING} name={uri}")
    return Source(name=name, uri=uri, kind=kind)


# folders -----------------------------------------------------------------------------------------------------------
def _folder(source: Source) -> Iterator[Picture]:
    root = absolute(source.uri)
    files = _local_files(source, local_path(root)) if local_path(root) else _stored_files(root)
    seen = readable = 0
    with ThreadPoolExecutor(min(READS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), FILES):
            for picture in pool.map(lambda file: _picture(root, *file), files[start : start + FILES]):
                if picture:
                    seen += 1
                    readable += picture.reason == Reason.KEPT
                    yield picture
    if seen and not readable:
        raise ConfigError(f"{source.uri}: none of its {seen} images can be decoded; give {SETTING} another folder")


def _local_files(source: Source, folder: Path | None) -> list[tuple[str, int, float]]:
    """(name below the folder, bytes, when it was written) of its files, in order of names."""
    if folder is None or not folder.is_dir():
        raise ConfigError(
            f"{source.uri} is neither a folder nor a list ({', '.join(KINDS)}; .gz may follow); mend its address in "
            f"{SETTING}"
        )
    found = []
    try:
        for place, _, names in os.walk(folder, onerror=_raised):
            for name in names:
                path = Path(place, name)
                if path.is_file():
                    head = path.stat()
                    found.append((path.relative_to(folder).as_posix(), head.st_size, float(head.st_mtime_ns)))
    except OSError as error:
        raise ConfigError(
            f"{source.uri} cannot be read ({error.strerror}: {error.filename}); mend its address in {SETTING}"
        ) from None
    return sorted(found)


def _raised(error: OSError) -> None:
    raise error


def _stored_files(root: str) -> list[tuple[str, int, float]]:
    return sorted((head.path, head.size, head.modified.timestamp()) for head in Store(root).list(""))


@lru_cache(maxsize=1 << 18)  # a command asks for the same folder more than once
def _picture(root: str, name: str, size: int, modified: float) -> Picture | None:
    """A file of a folder; None if it is no image. modified: is part of what it is known by."""
    if size > MAX_FILE_BYTES:
        return None
    body = _body(root, name)
    if not header.sniff(body):
        return None
    from pipelines.images.decode import measure

    # looser than any gate: small pictures and long ones are in evaluation sets too
    found = measure(body, Encode(min_side=8, max_side=65_535, max_aspect=100.0))
    return Picture(name=name, sha256=hashlib.sha256(body).digest(), looks=looks(found), reason=found.reason)


def _body(root: str, name: str) -> bytes:
    folder = local_path(root)
    if folder is None:
        return Store(root).get(name)
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{folder / name} cannot be read ({error.strerror}); mend it, or take it out") from None


def looks(found: Measured) -> tuple[int, ...]:
    """The perceptual hashes by which a picture is found: as it is, and the square of its centre; both mirrored, too.

    Of 60 photographs' squares, which thumbnails are, a photograph's own hash finds 22 % within 6 bits and of mirrored
    copies none; these find all. Crops of 5 and 10 % are found to 65 and 7 %: hashes of more crops would find those, and
    each takes its share of innocent pictures. What is flat has no hash: it would say nothing.
    """
    from pipelines.images.decode import deviation

    if found.reason != Reason.KEPT:
        return ()
    import cv2  # after decode, which sets the limit that it reads once

    picture = np.asarray(cv2.imdecode(np.frombuffer(found.body, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    shown = [picture[:, ::-1]]
    if max(height, width) > NEARLY_SQUARE * side:
        square = picture[top : top + side, left : left + side]
        shown += [square, square[:, ::-1]]
    least = Gate().min_deviation
    made = [found.phash] if found.deviation >= least else []
    for one in shown:
        cells = np.asarray(cv2.resize(np.ascontiguousarray(one), (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
        if deviation(cells) >= least:
            made.append(phash(np.asarray(cv2.cvtColor(cells, cv2.COLOR_BGR2GRAY), np.uint8)))
    return tuple(dict.fromkeys(made))


# lists -------------------------------------------------------------------------------------------------------------
def _list(source: Source) -> Iterator[Picture]:
    content = evalsets.body(source.uri, SETTING)
    for line, value in _lines(source, content):
        try:
            picture = _told(value)
        except ValueError as error:
            raise ConfigError(
                f"{source.uri}, line {line + 1}: {error}; `python -m pipelines.images.evaluation FOLDER` makes lists"
            ) from None
        yield picture


def _lines(source: Source, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 0, columns) of each line that is not empty."""
    if source.kind == "jsonl":
        yield from evalsets.objects(source, content)
    elif source.kind == "txt":
        for line, text in evalsets.lines(source, content):
            yield line, {"sha256" if len(text.strip()) == 64 else "phash": text}
    else:
        names: list[str] = []
        for line, text in evalsets.lines(source, content):
            cells = _cells(source, line, text)
            if names:
                yield line, dict(zip(names, cells, strict=False))
                continue
            names = [cell.strip().lower() for cell in cells]
            if not set(names) & set(COLUMNS):
                raise ConfigError(
                    f"{source.uri}, line {line + 1} names no column sha256 or phash; "
                    "`python -m pipelines.images.evaluation FOLDER` makes lists"
                )


def _cells(source: Source, line: int, text: str) -> list[str]:
    if source.kind == "tsv":
        return text.split("\t")
    try:
        return next(csv.reader([text]), [])
    except csv.Error as error:
        raise ConfigError(f"{source.uri}, line {line + 1} is no CSV ({error}); mend it") from None


def _told(value: dict[str, Any]) -> Picture:
    """ValueError says what is wrong with the hashes."""
    plain = {name: value.get(name) or "" for name in (*COLUMNS, "name")}
    for name in COLUMNS:
        if not isinstance(plain[name], str):
            raise ValueError(f"its {name} is no text")
    sha256 = _hex(plain["sha256"].strip(), 64, "sha256")
    words = plain["phash"].split()
    if len(words) > MAX_LOOKS:
        raise ValueError(f"it has over {MAX_LOOKS} perceptual hashes")
    found = tuple(int.from_bytes(_hex(word, 16, "phash"), "big") for word in words)
    for look in found:
        # the bit of the mean is set, and of the 63 others those over their median
        if not look & 1 or look.bit_count() > 32:
            raise ValueError(f"{look:016x} is no perceptual hash of this program")
    if not sha256 and not found:
        raise ValueError("it has neither sha256 nor phash")
    return Picture(name=str(plain["name"]), sha256=sha256, looks=found)


def _hex(text: str, digits: int, name: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b"?"
    if text and len(text) == digits == 2 * len(found):
        return found
    if text:
        raise ValueError(f"{text[:80]!r} is no {name}, {digits} hex digits")
    return b""
