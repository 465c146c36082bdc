"""Record batches of training shards, wherever these lie, and none that is damaged.

Local shards are mapped into memory. Of a shard in an object store the batches that are wanted are read by their ranges,
so a run begins after one request; once half of its bytes were read so, it is fetched whole, in the background, into a
folder bounded in bytes, and mapped from there. A batch is checked by its xxh64 when it is first read, and a shard by
its sha256, in the background, once half of it was read: a rank of 64 that reads a 64th of every shard must neither
fetch nor check the rest. Shards whose commits hold no sums of batches are fetched and checked whole first.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import tempfile
import threading
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc

from engine.arrow import Batch, File, checksum
from engine.errors import Missing, StoreError
from engine.ledger import Commit, Ledger
from engine.schema import TRAINING
from engine.store import PIECE_BYTES

CACHE_BYTES = 64 << 30  # of fetched shards; what a run reads again and again should fit, or it is fetched again
READ_BYTES = 4 << 20
VERIFY = "run `kosmos verify`"
REQUESTS = 16  # ranges that are read at once: a batch of captions is a megabyte, and an answer takes 20-100 ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A file of a manifest; `first` is the number of its first row in its source."""

    commit: Commit
    output: str
    index: int
    first: int

    @property
    def file(self) -> File:
        """Its path as frozen, and what should be there."""
        return self.commit.outputs[self.output][self.index]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mapped:
    """A shard as memory. right: of each batch, whether its bytes are known to be. cached: it lies in our folder."""

    path: Path
    whole: pa.Buffer
    right: bytearray
    cached: bool


class Shards:
    """The batches of one run's shards, for one thread at a time.

    cache_bytes: bound of what lies in the folder, what is being fetched and what is still mapped included. dropped:
    told the path of a shard that left the folder, so that nobody holds its bytes.
    """

    def __init__(self, ledger: Ledger, cache_bytes: int, dropped: Callable[[str], None]) -> None:
        self._ledger, self._cache_bytes, self._dropped = ledger, cache_bytes, dropped
        self._mapped: OrderedDict[str, _Mapped] = OrderedDict()
        self._alive: list[tuple[weakref.ref[memoryview], int]] = []  # mappings of cached files, and their bytes
        self._read: Counter[str] = Counter()  # bytes of each shard, by range or for the first time
        self._whole: set[str] = set()  # local shards that the background checks or has checked
        self._moved: dict[str, str] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._names = itertools.count()  # two shards may have the same bytes, and never the same file
        self._fetching: tuple[Shard, Future[Path]] | None = None
        self._due: dict[str, Shard] = {}  # to be fetched, in the order in which half of them was read
        self._checks: deque[Future[None]] = deque()
        self._closed = threading.Event()
        self._requests = ThreadPoolExecutor(REQUESTS, thread_name_prefix="range")
        self._background = ThreadPoolExecutor(1, thread_name_prefix="shards")

    def batches(self, wanted: Sequence[tuple[Shard, int]]) -> list[pa.Buffer]:
        """The bytes of each (shard, number of the record batch); StoreError if a shard is gone or damaged.

        Also where the background found another shard of the run to be so.
        """
        self._look()
        opened = [self._open(shard) for shard, _ in wanted]
        _read_ahead(
            (mapped.path, shard.file.batches[n]) for mapped, (shard, n) in zip(opened, wanted, strict=True) if mapped
        )
        found: list[pa.Buffer | Future[pa.Buffer]] = []
        for mapped, (shard, number) in zip(opened, wanted, strict=True):
            if mapped is None:
                if self._count(shard, number):
                    self._due.setdefault(shard.file.path, shard)
                found.append(self._requests.submit(self._range, shard, number))
            else:
                found.append(self._slice(shard, mapped, number))
        return [buffer.result() if isinstance(buffer, Future) else buffer for buffer in found]

    def close(self) -> None:
        """End the threads, let go of all shards and remove those that were fetched."""
        self._closed.set()
        for pool in (self._requests, self._background):
            pool.shutdown(cancel_futures=True)
        self._mapped.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # what is here -------------------------------------------------------------------------------------------------
    def _open(self, shard: Shard) -> _Mapped | None:
        """The shard as memory; None where its batches are to be read by range."""
        file, folder = shard.file, self._ledger.store.folder
        if file.path in self._mapped:
            self._mapped.move_to_end(file.path)
        elif folder is not None:
            path = folder / file.path
            path = path if path.exists() else folder / self._replaced(shard)
            if not file.sums:
                self._check_whole(path, file)
            self._mapped[file.path] = self._map(path, file, cached=False)
        elif not file.sums:
            self._fetch_now(shard)
        return self._mapped.get(file.path)

    def _slice(self, shard: Shard, mapped: _Mapped, number: int) -> pa.Buffer:
        placed = shard.file.batches[number]
        buffer = mapped.whole.slice(placed.offset, placed.length)
        if not mapped.right[number]:
            self._check_batch(shard.file, number, buffer)
            mapped.right[number] = 1
            if self._count(shard, number) and shard.file.path not in self._whole:
                self._whole.add(shard.file.path)
                self._checks.append(self._background.submit(self._check_whole, mapped.path, shard.file))
        return buffer

    def _map(self, path: Path, file: File, *, cached: bool) -> _Mapped:
        try:
            with pa.memory_map(str(path)) as mapped:  # the buffer outlives the file object, which holds a descriptor
                whole = mapped.read_buffer()
        except OSError as error:
            raise StoreError(f"{file.path} cannot be read ({error.strerror or error}); {VERIFY}") from None
        if whole.size != file.bytes:
            raise damaged(file, self._ledger.store.url, "its size")
        if cached:
            # a file that is removed keeps its place on the disk until nothing refers to it: a view tells when
            view = memoryview(whole)
            self._alive.append((weakref.ref(view), file.bytes))
            whole = pa.py_buffer(view)
        stored(whole, file, TRAINING)
        known = cached or not file.sums
        return _Mapped(path=path, whole=whole, right=bytearray([known] * len(file.batches)), cached=cached)

    def _check_batch(self, file: File, number: int, buffer: pa.Buffer) -> None:
        if buffer.size != file.batches[number].length:
            raise StoreError(f"{file.path} in {self._ledger.store.url} is shorter than its commit says; {VERIFY}")
        if checksum(buffer) != file.sums[number]:
            raise damaged(file, self._ledger.store.url, f"the xxh64 of record batch {number}")

    def _check_whole(self, path: Path, file: File) -> None:
        """StoreError unless the file's sha256 is right; gives up, silent, once this is closed."""
        sha256 = hashlib.sha256()
        try:
            with open(path, "rb") as body:
                while piece := body.read(READ_BYTES):
                    if self._closed.is_set():
                        return
                    sha256.update(piece)
        except OSError as error:
            raise StoreError(f"{file.path} cannot be read ({error.strerror or error}); {VERIFY}") from None
        if sha256.hexdigest() != file.sha256:
            raise damaged(file, self._ledger.store.url)

    def _count(self, shard: Shard, number: int) -> bool:
        """Note that a batch is read; whether half of the shard is."""
        file = shard.file
        self._read[file.path] += file.batches[number].length
        return 2 * self._read[file.path] >= file.bytes

    def _look(self) -> None:
        """Take what the background has done; raises what it found, and again at the next call."""
        while self._checks and self._checks[0].done():
            self._checks[0].result()
            self._checks.popleft()
        if self._fetching is not None and self._fetching[1].done():
            self._take()
        # before anything of this call is open: what is open could not make room
        if self._due and self._fetching is None:
            self._fetch_soon(next(iter(self._due.values())))

    # what is elsewhere --------------------------------------------------------------------------------------------
    def _range(self, shard: Shard, number: int) -> pa.Buffer:
        placed = shard.file.batches[number]
        buffer = pa.py_buffer(self._get(shard, placed.offset, placed.length))
        self._check_batch(shard.file, number, buffer)
        return buffer

    def _get(self, shard: Shard, start: int, length: int) -> bytes:
        store, path = self._ledger.store, shard.file.path
        try:
            return store.get_range(self._moved.get(path, path), start, length)
        except Missing:
            return store.get_range(self._replaced(shard), start, length)

    def _replaced(self, shard: Shard) -> str:
        """The path of a shard that was lost and made again; Missing if it was not."""
        path = self._ledger.replaced(shard.commit, shard.output)[shard.index].path
        self._moved[shard.file.path] = path
        return path

    def _fetch_soon(self, shard: Shard) -> None:
        """Begin to fetch a shard in the background, once there is room; never one that is larger than the folder."""
        path, num_bytes = shard.file.path, shard.file.bytes
        if num_bytes > self._cache_bytes:
            del self._due[path]
        elif self._make_room(num_bytes):
            del self._due[path]
            self._fetching = (shard, self._background.submit(self._fetch, shard, self._place()))

    def _fetch_now(self, shard: Shard) -> None:
        """Have a whole shard, however large: its batches have no sums by which they could be checked."""
        if self._fetching is not None:
            self._take()
        self._make_room(shard.file.bytes)
        self._fetching = (shard, self._background.submit(self._fetch, shard, self._place()))
        self._take()

    def _take(self) -> None:
        """Wait for the shard that is being fetched and map it."""
        assert self._fetching is not None
        shard, under_way = self._fetching
        path = under_way.result()
        self._fetching = None
        self._due.pop(shard.file.path, None)  # batches were read by range until now
        self._mapped[shard.file.path] = self._map(path, shard.file, cached=True)

    def _fetch(self, shard: Shard, folder: Path) -> Path:
        """Copy a shard into the folder, its sha256 checked on the way; gives up, silent, once this is closed."""
        file, target, sha256 = shard.file, folder / f"{next(self._names)}.arrow", hashlib.sha256()
        try:
            with open(target, "wb") as sink:
                for start in range(0, file.bytes, PIECE_BYTES):
                    if self._closed.is_set():
                        return target
                    piece = self._get(shard, start, min(PIECE_BYTES, file.bytes - start))
                    sha256.update(piece)
                    sink.write(piece)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise StoreError(
                f"{file.path} cannot be kept in {folder}: {error.strerror or error}; free {file.bytes >> 20} MiB "
                "there, or set TMPDIR to a larger disk"
            ) from None
        if sha256.hexdigest() != file.sha256:
            raise damaged(file, self._ledger.store.url)
        return target

    # the folder ---------------------------------------------------------------------------------------------------
    def _place(self) -> Path:
        if self._folder is None:
            try:
                self._folder = tempfile.TemporaryDirectory(prefix="kosmos-shards-")
            except OSError as error:
                raise StoreError(
                    f"there is no folder to keep shards in: {error.strerror or error}; set TMPDIR to a folder with room"
                ) from None
        return Path(self._folder.name)

    def _make_room(self, num_bytes: int) -> bool:
        """Let go of the shards that were not used for longest until there is room for so many bytes; whether there is.

        What somebody still reads keeps its room until it is done with.
        """
        cached = [path for path, mapped in self._mapped.items() if mapped.cached]
        while cached and self._kept() + num_bytes > self._cache_bytes:
            path = cached.pop(0)
            self._mapped.pop(path).path.unlink(missing_ok=True)
            del self._read[path]
            self._dropped(path)
        return self._kept() + num_bytes <= self._cache_bytes

    def _kept(self) -> int:
        self._alive = [(view, num_bytes) for view, num_bytes in self._alive if view() is not None]
        return sum(num_bytes for _, num_bytes in self._alive)


def _read_ahead(wanted: Iterable[tuple[Path, Batch]]) -> None:
    """Have the disk read all these batches at once: touched one after the other they would come 128 KiB at a time."""
    if not hasattr(os, "posix_fadvise"):
        return
    by_path: dict[Path, list[Batch]] = {}
    for path, batch in wanted:
        by_path.setdefault(path, []).append(batch)
    for path, batches in by_path.items():
        with contextlib.suppress(OSError), open(path, "rb") as file:  # whoever reads finds out what is wrong
            for batch in batches:
                os.posix_fadvise(file.fileno(), batch.offset, batch.length, os.POSIX_FADV_WILLNEED)


def stored(whole: pa.Buffer, file: File, expected: pa.Schema) -> ipc.RecordBatchFileReader:
    """The Arrow file in memory; StoreError if it is none or has other columns than expected."""
    try:
        reader = ipc.open_file(pa.BufferReader(whole))
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{file.path} cannot be read ({error}); {VERIFY}") from None
    if not reader.schema.equals(expected, check_metadata=False):
        raise other_columns(file.path)
    return reader


def other_columns(path: str) -> StoreError:
    """The sentence for a file of another schema."""
    return StoreError(f"{path} has other columns than this version reads; pack again with this version")


def damaged(file: File, url: str, what: str = "its sha256") -> StoreError:
    """The sentence for bytes that are not those that the commit has a sum of."""
    return StoreError(
        f"{file.path} in {url} is not what was written ({what} is another); {VERIFY}, which says how it is made again"
    )
