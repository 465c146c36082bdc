"""Rows of training shards by number: the manifests of a run, opened once, and any row of them at once.

A row costs its record batch of 64, of which the last few stay open: local shards are mapped into memory and nothing of
them is copied; those of an object store are downloaded whole into a folder bounded in bytes. The sha256 of a shard is
checked when it is opened and every batch when it is first read, so no damaged byte is ever trained on.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc

from engine.arrow import File, read_batch
from engine.errors import ConfigError, Missing, StoreError
from engine.ledger import Commit, Ledger
from engine.schema import TRAINING, VOCABULARY
from engine.vocab import HELDOUT, IMAGE_SLOTS, STREAMS, Vocab
from trainer.order import Source

CACHE_BYTES = 64 << 30  # of downloaded shards; what a run reads again and again should fit, or it is downloaded again
OPEN_BATCHES = 16  # a run of 64 rows in the order "blocks" lies in two, and several sources take turns

Ids = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One sequence. tokens: ids. image_starts: index of the first of 64 slots of each image. loss: spans [num, 2].

    images: encoded bytes of each image. Arrays are views of the shard: they must not be written to.
    """

    tokens: Ids
    image_starts: Ids
    images: tuple[npt.NDArray[np.uint8], ...]
    loss: Ids


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """A file of a manifest; `first` is the number of its first row in its source."""

    commit: Commit
    output: str
    index: int
    first: int

    @property
    def file(self) -> File:
        return self.commit.outputs[self.output][self.index]


@dataclass(kw_only=True, slots=True)
class _Table:
    """The shards of a source, by first row."""

    shards: list[_Shard] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    rows: int = 0

    def add(self, commit: Commit, output: str) -> None:
        for index, file in enumerate(commit.outputs[output]):
            if file.rows:
                self.shards.append(_Shard(commit=commit, output=output, index=index, first=self.rows))
                self.firsts.append(self.rows)
                self.rows += file.rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    """A shard whose bytes are there and right. ends: row number in the file past each batch. checked: of each batch."""

    whole: pa.Buffer
    ends: Offsets
    checked: bytearray
    cached: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """Rows first .. last - 1 of a source as arrays: their values one after another and where each row's begin."""

    first: int
    last: int
    tokens: Ids
    token_offsets: list[int]
    starts: Ids
    start_offsets: list[int]
    images: npt.NDArray[np.uint8]
    image_offsets: list[int]
    spans: Ids
    span_offsets: list[int]

    def row(self, at: int) -> Row:
        first, last = self.start_offsets[at], self.start_offsets[at + 1]
        bounds = self.image_offsets[first : last + 1]
        return Row(
            tokens=self.tokens[self.token_offsets[at] : self.token_offsets[at + 1]],
            image_starts=self.starts[first:last],
            images=tuple([self.images[a:b] for a, b in itertools.pairwise(bounds)]),
            loss=self.spans[self.span_offsets[at] : self.span_offsets[at + 1]],
        )


def sources(store_url: str, digests: Sequence[str], cache_bytes: int = CACHE_BYTES) -> Sources:
    """Open the manifests of a run; ConfigError if they are not of training shards of one vocabulary."""
    return Sources(store_url, digests, cache_bytes)


class Sources:
    """The rows of manifests, by source and number.

    digests: as given; row numbers count over them in this order. listing: every source, by name. vocab, model, sha256:
    of the tokenizer that all were packed with: ids, the SentencePiece model's bytes and their hex sha256.
    """

    def __init__(self, store_url: str, digests: Sequence[str], cache_bytes: int = CACHE_BYTES) -> None:
        self.digests = tuple(digests)
        self._ledger = Ledger(store_url)
        self._cache_bytes = cache_bytes
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._opened: OrderedDict[str, _Open] = OrderedDict()
        self._blocks: OrderedDict[tuple[str, int], _Block] = OrderedDict()
        self._latest: dict[str, _Block] = {}  # of each source: rows come in runs
        self._lock = threading.Lock()
        manifests = _manifests(self._ledger, self.digests)
        self.vocab, self.model, self.sha256 = _vocabulary(self._ledger, manifests)
        self._tables = _tables(manifests)
        self.listing = tuple(Source(name=name, rows=self._tables[name].rows) for name in sorted(self._tables))

    def read(self, source: str, row: int) -> Row:
        """Row number `row` of a source; StoreError if its shard is gone or damaged."""
        block = self._latest.get(source)
        if block is None or not block.first <= row < block.last:
            table = self._tables[source]
            if not 0 <= row < table.rows:
                raise IndexError(f"{source} has rows 0-{table.rows - 1}, not {row}")
            with self._lock:
                block = self._latest[source] = self._block_at(source, table, row)
        return block.row(row - block.first)

    def close(self) -> None:
        """Let go of all shards and remove those that were downloaded."""
        with self._lock:
            self._latest.clear()
            self._blocks.clear()
            self._opened.clear()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _block_at(self, source: str, table: _Table, row: int) -> _Block:
        shard = table.shards[bisect.bisect_right(table.firsts, row) - 1]
        opened = self._open(shard)
        number = int(np.searchsorted(opened.ends, row - shard.first, side="right"))
        first = shard.first + (int(opened.ends[number - 1]) if number else 0)
        key = (source, first)
        if key not in self._blocks:
            self._blocks[key] = self._read(shard, opened, number, first)
            if len(self._blocks) > OPEN_BATCHES:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def _read(self, shard: _Shard, opened: _Open, number: int, first: int) -> _Block:
        placed = shard.file.batches[number]
        batch = read_batch(TRAINING, opened.whole.slice(placed.offset, placed.length), shard.file.path)
        block = _block(batch, first)
        if not opened.checked[number]:
            wrong = _wrong(batch, block, self.vocab.size)
            if wrong:
                raise StoreError(
                    f"{shard.file.path}, rows {first - shard.first} and on: {wrong}; pack again with this version and "
                    "train on what `kosmos freeze pack` prints"
                )
            opened.checked[number] = 1
        return block

    # shards -------------------------------------------------------------------------------------------------------
    def _open(self, shard: _Shard) -> _Open:
        file = shard.file
        opened = self._opened.get(file.path)
        if opened is None:
            local = _local(self._ledger, shard)
            path = self._download(shard) if local is None else local
            opened = _checked(path, file, self._ledger.store.url, cached=local is None)
            self._opened[file.path] = opened
        if opened.cached is not None:
            self._opened.move_to_end(file.path)
        return opened

    def _download(self, shard: _Shard) -> Path:
        file = shard.file
        if self._folder is None:
            self._folder = _folder()
        kept = sum(o.whole.size for o in self._opened.values() if o.cached is not None)
        while kept and kept + file.bytes > self._cache_bytes:
            oldest = next(path for path, opened in self._opened.items() if opened.cached is not None)
            gone = self._opened.pop(oldest)
            kept -= gone.whole.size
            if gone.cached is not None:
                gone.cached.unlink(missing_ok=True)
        target = Path(self._folder.name) / file.sha256
        store = self._ledger.store
        try:
            try:
                store.download(file.path, target)
            except Missing:
                store.download(self._ledger.replaced(shard.commit, shard.output)[shard.index].path, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise StoreError(
                f"{file.path} cannot be kept in {self._folder.name}: {error.strerror or error}; free "
                f"{file.bytes >> 20} MiB there, or set TMPDIR to a larger disk"
            ) from None
        return target


# opening ------------------------------------------------------------------------------------------------------------
def _manifests(ledger: Ledger, digests: Sequence[str]) -> list[tuple[str, list[Commit]]]:
    if not digests:
        raise ConfigError("there is no manifest to train on; `kosmos freeze pack` prints one")
    if not ledger.check(create=False):
        raise ConfigError(f"{ledger.store.url} holds nothing; give --store the place where `kosmos run` packed")
    twice = sorted({mark for mark in digests if list(digests).count(mark) > 1})
    if twice:
        raise ConfigError(f"manifest {twice[0]} is given twice; give each digest once")
    found = []
    for mark in digests:
        commits = ledger.manifest(mark)
        if not any(stream in commit.outputs for commit in commits for stream in STREAMS):
            stage = f" (it is of {commits[0].stage})" if commits else ""
            raise ConfigError(
                f"manifest {mark} holds no training rows{stage}; `kosmos freeze pack` prints one that does"
            )
        if any(commit.stage.rpartition("-")[0] == HELDOUT for commit in commits):
            raise ConfigError(f"manifest {mark} is of what is held out; train on what `kosmos freeze pack` prints")
        found.append((mark, commits))
    return found


def _tables(manifests: Sequence[tuple[str, list[Commit]]]) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    seen: set[tuple[str, str]] = set()
    for _, commits in manifests:
        for commit in commits:
            # a manifest may hold what an earlier one holds, and a row has one number
            if (commit.stage, commit.unit) in seen:
                continue
            seen.add((commit.stage, commit.unit))
            for stream in STREAMS:
                if stream in commit.outputs:
                    tables.setdefault(f"{commit.stage}/{stream}", _Table()).add(commit, stream)
    return tables


def _vocabulary(ledger: Ledger, manifests: Sequence[tuple[str, list[Commit]]]) -> tuple[Vocab, bytes, str]:
    """The one vocabulary of all manifests: ids, model, hex sha256."""
    found: dict[str, tuple[str, Vocab, bytes]] = {}  # by sha256: the first manifest that has it
    for mark, commits in manifests:
        num = 0
        for pieces, model in (row for commit in commits for row in _models(ledger, commit)):
            found.setdefault(hashlib.sha256(model).hexdigest(), (mark, Vocab(pieces=pieces), model))
            num += 1
        if not num:
            raise ConfigError(f"manifest {mark} holds no vocabulary; `kosmos freeze pack` prints one that does")
    (sha256, (first, vocab, model)), *others = found.items()
    if others:
        raise ConfigError(
            f"manifests {first} and {others[0][1][0]} were packed with different tokenizers (sha256 {sha256[:12]} and "
            f"{others[0][0][:12]}); train on one of them, or pack both with the same `--set pack.tokenizer=`"
        )
    return vocab, model, sha256


def _models(ledger: Ledger, commit: Commit) -> Iterator[tuple[int, bytes]]:
    """(pieces, model) of each row of a commit's vocabulary."""
    for index, file in enumerate(commit.outputs.get("vocabulary", ())):
        if not file.rows:
            continue
        try:
            body = ledger.store.get(file.path, file.bytes)
        except Missing:
            body = ledger.store.get(ledger.replaced(commit, "vocabulary")[index].path, file.bytes)
        if hashlib.sha256(body).hexdigest() != file.sha256:
            raise _damaged(file, ledger.store.url)
        for row in _file(pa.py_buffer(body), file, VOCABULARY).read_all().to_pylist():
            if hashlib.sha256(row["model"]).digest() != row["sha256"]:
                raise StoreError(f"{file.path} has a model whose sha256 is another; pack again with this version")
            yield row["pieces"], row["model"]


def _local(ledger: Ledger, shard: _Shard) -> Path | None:
    """Where a shard lies on this machine's disk; None for other kinds of stores."""
    folder = ledger.store.folder
    if folder is None:
        return None
    path = folder / shard.file.path
    return path if path.exists() else folder / ledger.replaced(shard.commit, shard.output)[shard.index].path


def _folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="kosmos-shards-")
    except OSError as error:
        raise StoreError(
            f"there is no folder to keep shards in: {error.strerror or error}; set TMPDIR to a folder with room"
        ) from None


def _checked(path: Path, file: File, url: str, *, cached: bool) -> _Open:
    """The shard mapped into memory, once its sum and its schema are right."""
    try:
        with open(path, "rb") as body:
            right = hashlib.file_digest(body, "sha256").hexdigest() == file.sha256
        if not right:
            raise _damaged(file, url)
        with pa.memory_map(str(path)) as mapped:  # the buffer outlives the file object, which would hold a descriptor
            whole = mapped.read_buffer()
    except OSError as error:
        raise StoreError(f"{file.path} cannot be read ({error.strerror or error}); run `kosmos verify`") from None
    _file(whole, file, TRAINING)
    ends = np.cumsum([batch.rows for batch in file.batches], dtype=np.int64)
    return _Open(whole=whole, ends=ends, checked=bytearray(len(ends)), cached=path if cached else None)


def _damaged(file: File, url: str) -> StoreError:
    return StoreError(
        f"{file.path} in {url} is not what was written (its sha256 is another); run `kosmos verify`, which says how "
        "it is made again"
    )


def _file(whole: pa.Buffer, file: File, expected: pa.Schema) -> Any:
    """A reader of an Arrow file; StoreError if it is not one of this schema."""
    try:
        reader = ipc.open_file(pa.BufferReader(whole))
    except pa.ArrowInvalid as error:
        raise StoreError(f"{file.path} is no Arrow file ({error}); run `kosmos verify`") from None
    if not reader.schema.equals(expected, check_metadata=False):
        raise StoreError(f"{file.path} has other columns than this version reads; pack again with this version")
    return reader


# a batch ------------------------------------------------------------------------------------------------------------
def _block(batch: pa.RecordBatch, first: int) -> _Block:
    tokens, starts, images, loss = (batch.column(name) for name in ("tokens", "image_starts", "images", "loss"))
    bodies = images.values
    _, offsets, data = bodies.buffers()
    return _Block(
        first=first,
        last=first + batch.num_rows,
        tokens=tokens.values.to_numpy(),
        token_offsets=tokens.offsets.to_numpy().tolist(),
        starts=starts.values.to_numpy(),
        start_offsets=starts.offsets.to_numpy().tolist(),
        images=np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8),
        image_offsets=np.frombuffer(offsets, np.int64, len(bodies) + 1).tolist() if len(bodies) else [0],
        spans=np.stack([loss.values.field(name).to_numpy() for name in (0, 1)], axis=1),
        span_offsets=loss.offsets.to_numpy().tolist(),
    )


def _wrong(batch: pa.RecordBatch, block: _Block, vocab_size: int) -> str:
    """What is wrong with the rows of a batch, "" if nothing: all that the loader and the model rely on."""
    lengths = np.diff(block.token_offsets)
    if (lengths != batch.column("length").to_numpy()).any() or not (lengths > 0).all():
        return "lengths that are not those of the tokens"
    if block.tokens.min() < 0 or block.tokens.max() >= vocab_size:
        return f"tokens outside 0-{vocab_size - 1}, the vocabulary that was packed with them"
    images = np.diff(block.start_offsets)
    if (images != batch.column("num_images").to_numpy()).any() or (
        block.start_offsets != batch.column("images").offsets.to_numpy()
    ).any():
        return "another number of images than of places for them"
    if not _fits(block.starts, block.starts + IMAGE_SLOTS, images, lengths):
        return "places of images that overlap or lie outside the row"
    spans, start, end = np.diff(block.span_offsets), block.spans[:, 0], block.spans[:, 1]
    if not _fits(start, end, spans, lengths):
        return "loss spans that overlap or lie outside the row"
    counted = np.bincount(np.repeat(np.arange(len(spans)), spans), end - start, len(spans))
    return (
        "" if (counted == batch.column("counted").to_numpy()).all() else "loss spans that hold other numbers than said"
    )


def _fits(start: Ids, end: Ids, nums: Offsets, lengths: Offsets) -> bool:
    """Whether intervals, `nums` of them in each row, ascend without overlap in 1 .. length of their row."""
    row = np.repeat(np.arange(len(nums)), nums)
    inside = (start >= 1) & (start <= end) & (end <= lengths[row])
    ascending = (end[:-1] <= start[1:]) | (row[:-1] != row[1:])
    return bool(inside.all() and ascending.all())
