"""Rows of training shards by number: the manifests of a run, opened once, and any row of them at once.

A row costs its record batch of 64, of which the last few stay open: those of a local shard are views of the mapped file
and nothing of them is copied. What stands in a batch is looked at when it is first read, and its bytes are checked by
trainer.data.cache, so no row is ever trained on that is damaged or does not fit the model.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.arrow import read_batch
from engine.errors import ConfigError, Missing, StoreError
from engine.ledger import Commit, Ledger
from engine.schema import TRAINING, VOCABULARY
from engine.vocab import HELDOUT, IMAGE_SLOTS, STREAMS, Vocab
from trainer.data.cache import CACHE_BYTES, Shard, Shards, damaged, other_columns, stored
from trainer.data.order import Source

# Batches that stay open. A run of 64 rows in the order "blocks" lies in two, and several sources take turns; in the
# order "rows" each row has another. One of a mapped shard is 12 kB of places, one that came by range all of its bytes.
NEAR_BATCHES, FAR_BATCHES = 1024, 16

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


@dataclass(kw_only=True, slots=True)
class _Table:
    """The shards of a source, by first row."""

    shards: list[Shard] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    rows: int = 0

    def add(self, commit: Commit, output: str) -> None:
        for index, file in enumerate(commit.outputs[output]):
            if file.rows:
                self.shards.append(Shard(commit=commit, output=output, index=index, first=self.rows))
                self.firsts.append(self.rows)
                self.rows += file.rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Rows first .. last - 1 of a source: record batch `number` of a shard. key: (path, number)."""

    source: str
    shard: Shard
    number: int
    first: int
    last: int
    key: tuple[str, int]


Run = tuple[_Place, list[int]]  # a batch, and which of its rows are wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """The rows of a record batch as arrays: their values one after another and where each row's begin."""

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


def sources(
    store_url: str, digests: Sequence[str], cache_bytes: int = CACHE_BYTES, *, heldout: bool = False
) -> Sources:
    """Open the manifests of a run; ConfigError if they are not of training shards of one vocabulary.

    heldout: of what is held out, and of nothing else; without it, of none of that.
    """
    return Sources(store_url, digests, cache_bytes, heldout=heldout)


class Sources:
    """The rows of manifests, by source and number.

    digests: as given; row numbers count over them in this order. listing: every source, by name. vocab, model, sha256:
    of the tokenizer that all were packed with: ids, the SentencePiece model's bytes and their hex sha256.
    """

    def __init__(
        self, store_url: str, digests: Sequence[str], cache_bytes: int = CACHE_BYTES, *, heldout: bool = False
    ) -> None:
        self.digests = tuple(digests)
        self._ledger = Ledger(store_url)
        self._shards = Shards(self._ledger, cache_bytes, self._drop)
        # what came by range or from the folder is copied out: a row must not hold a batch, or the room of a shard
        self._copies = self._ledger.store.folder is None
        self._open_batches = FAR_BATCHES if self._copies else NEAR_BATCHES
        self._blocks: OrderedDict[tuple[str, int], _Block] = OrderedDict()
        self._right: set[tuple[str, int]] = set()  # batches whose rows were looked at
        self._ends: dict[str, list[int]] = {}  # of each shard: row number past each of its batches
        self._lock = threading.Lock()
        manifests = _manifests(self._ledger, self.digests, heldout)
        self.vocab, self.model, self.sha256 = _vocabulary(self._ledger, manifests)
        self._tables = _tables(manifests)
        # shards without sums come whole: one at a time, or those of one call would not fit into the folder
        sums = all(shard.file.sums for table in self._tables.values() for shard in table.shards)
        self._at_once = 1 if self._copies and not sums else self._open_batches
        self.listing = tuple(Source(name=name, rows=self._tables[name].rows) for name in sorted(self._tables))

    def read(self, source: str, row: int) -> Row:
        """Row number `row` of a source; StoreError if its shard is gone or damaged."""
        return self.rows([(source, row)])[0]

    def rows(self, picks: Sequence[tuple[str, int]]) -> list[Row]:
        """The rows by (source, number), in order; the record batches that they lie in are read concurrently."""
        found: list[Row] = []
        with self._lock:
            for chunk in _chunks(self._runs(picks), self._at_once):
                found += self._read(chunk)
        return found

    def close(self) -> None:
        """Let go of all shards and remove those that were fetched."""
        with self._lock:
            self._blocks.clear()
            self._shards.close()

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runs(self, picks: Sequence[tuple[str, int]]) -> list[Run]:
        """The picks in order, those in a row that lie in one batch together."""
        runs: list[Run] = []
        place: _Place | None = None
        for source, row in picks:
            if place is None or not (place.first <= row < place.last and place.source == source):
                place = self._place(source, row)
                runs.append((place, []))
            runs[-1][1].append(row - place.first)
        return runs

    def _place(self, source: str, row: int) -> _Place:
        table = self._tables[source]
        if not 0 <= row < table.rows:
            raise IndexError(f"{source} has rows 0-{table.rows - 1}, not {row}")
        shard = table.shards[bisect.bisect_right(table.firsts, row) - 1]
        path = shard.file.path
        ends = self._ends.get(path)
        if ends is None:
            ends = self._ends[path] = list(itertools.accumulate(batch.rows for batch in shard.file.batches))
        number = bisect.bisect_right(ends, row - shard.first)
        first = shard.first + (ends[number - 1] if number else 0)
        last = shard.first + ends[number]
        return _Place(source=source, shard=shard, number=number, first=first, last=last, key=(path, number))

    def _read(self, chunk: Sequence[Run]) -> list[Row]:
        blocks = self._open([place for place, _ in chunk])
        rows = [blocks[place.key].row(at) for place, mine in chunk for at in mine]
        return [_copy(row) for row in rows] if self._copies else rows

    def _open(self, places: Sequence[_Place]) -> dict[tuple[str, int], _Block]:
        """The blocks of some places; those of the last few stay."""
        wanted = {place.key: place for place in places}
        found = {key: self._blocks[key] for key in wanted if key in self._blocks}
        missing = [place for key, place in wanted.items() if key not in found]
        # also where none is missing: it tells what the background found
        buffers = self._shards.batches([(place.shard, place.number) for place in missing])
        for place, buffer in zip(missing, buffers, strict=True):
            found[place.key] = self._block(place, buffer)
        for key in wanted:
            self._blocks[key] = found[key]
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._open_batches:
            self._blocks.popitem(last=False)
        return found

    def _block(self, place: _Place, buffer: pa.Buffer) -> _Block:
        path = place.shard.file.path
        try:
            batch = read_batch(TRAINING, buffer, path)
            if place.key in self._right:
                return _block(batch)
            batch.validate(full=True)
        except (StoreError, pa.ArrowInvalid):
            # its bytes are those that were written; of a file that is read by range the schema was never seen
            raise other_columns(path) from None
        block = _block(batch)
        wrong = _wrong(batch, block, self.vocab.size)
        if wrong:
            raise StoreError(
                f"{path}, rows {place.first - place.shard.first} and on: {wrong}; pack again with this version and "
                "train on what `kosmos freeze pack` prints"
            )
        self._right.add(place.key)
        return block

    def _drop(self, path: str) -> None:
        """Let go of a shard that left the folder."""
        for key in [key for key in self._blocks if key[0] == path]:
            del self._blocks[key]


def _chunks(runs: Sequence[Run], most: int) -> Iterator[list[Run]]:
    """The runs in order, cut so that each cut lies in `most` batches at most."""
    chunk: list[Run] = []
    keys: set[tuple[str, int]] = set()
    for run in runs:
        if run[0].key not in keys and len(keys) == most:
            yield chunk
            chunk, keys = [], set()
        keys.add(run[0].key)
        chunk.append(run)
    if chunk:
        yield chunk


def _copy(row: Row) -> Row:
    images = tuple([image.copy() for image in row.images])
    return Row(tokens=row.tokens.copy(), image_starts=row.image_starts.copy(), images=images, loss=row.loss.copy())


# opening ------------------------------------------------------------------------------------------------------------
def _manifests(ledger: Ledger, digests: Sequence[str], heldout: bool) -> list[tuple[str, list[Commit]]]:
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
        apart = [commit.stage.rpartition("-")[0] == HELDOUT for commit in commits]
        if any(apart) and not heldout:
            raise ConfigError(f"manifest {mark} is of what is held out; train on what `kosmos freeze pack` prints")
        if heldout and not all(apart):
            raise ConfigError(
                f"manifest {mark} holds rows to train on; what is held out is what `kosmos freeze {HELDOUT}` prints"
            )
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
            raise damaged(file, ledger.store.url)
        for row in stored(pa.py_buffer(body), file, VOCABULARY).read_all().to_pylist():
            if hashlib.sha256(row["model"]).digest() != row["sha256"]:
                raise StoreError(f"{file.path} has a model whose sha256 is another; pack again with this version")
            yield row["pieces"], row["model"]


# a batch ------------------------------------------------------------------------------------------------------------
def _block(batch: pa.RecordBatch) -> _Block:
    tokens, starts, images, loss = (batch.column(name) for name in ("tokens", "image_starts", "images", "loss"))
    bodies, pairs = images.values, loss.values
    _, offsets, data = bodies.buffers()
    spans = np.empty((len(pairs), 2), np.int32)
    spans[:, 0], spans[:, 1] = pairs.field(0).to_numpy(), pairs.field(1).to_numpy()
    return _Block(
        tokens=tokens.values.to_numpy(),
        token_offsets=tokens.offsets.to_numpy().tolist(),
        starts=starts.values.to_numpy(),
        start_offsets=starts.offsets.to_numpy().tolist(),
        images=np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8),
        image_offsets=np.frombuffer(offsets, np.int64, len(bodies) + 1).tolist() if len(bodies) else [0],
        spans=spans,
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
