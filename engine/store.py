"""Objects by path over file://, s3://, gs://, az:// and memory://, with the verb the protocol needs: create-only put.

A put that the store answered twice (409, a retry after a lost answer) is settled here: `put_new` says False only when
the object is really there.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, from_url

from engine.errors import ConfigError, Missing, StoreError

FILE = "file://"
SCHEMES = ("file", "s3", "gs", "az", "memory", "http", "https")
# object_store backs off with jitter on 429, 5xx and connection errors by itself; these bound it.
RETRY: Any = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=15), "base": 2},
}
PIECE_BYTES = 32 << 20
GAP_BYTES = 1 << 20  # cheaper to read than another request
MAX_DOWNLOAD_BYTES = 16 << 30  # Common Crawl's WARC files are 1 GB
_GONE = (FileNotFoundError, NotADirectoryError)
_FAULTS = (BaseError, OSError)


@dataclass(frozen=True, slots=True)
class Head:
    """Size in bytes, the store's own time of the last write, its entity tag ("" if it gives none)."""

    path: str
    size: int
    modified: datetime
    etag: str = ""


def absolute(url: str) -> str:
    """A store address in full: a bare path becomes file://; ConfigError for an unknown scheme."""
    scheme = urlsplit(url).scheme
    if not scheme:
        # what means something in an address is no part of a file's name there
        return FILE + re.sub("[%#?]", lambda found: quote(found[0]), str(Path(url).expanduser().absolute()))
    if scheme == "file":
        if not url.startswith(FILE + "/"):
            raise ConfigError(f"{url} is not an absolute file address; write file:///path or just the path")
        return url
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{url}: scheme {scheme!r} is not one of {', '.join(SCHEMES[:-2])}; give --store s3://bucket/prefix"
        )
    if "#" in url or "?" in url:
        raise ConfigError(f"{url}: # and ? end a path in an address; give one without them")
    return url.rstrip("/")


def local_path(url: str) -> Path | None:
    """The path that a full file:// address means; None for other kinds."""
    return Path(unquote(url.removeprefix(FILE))) if url.startswith(FILE) else None


@cache  # a memory:// store lives here
def _connect(url: str) -> Any:
    scheme = urlsplit(url).scheme
    options: dict[str, Any] = {}
    place = local_path(url)
    if place is not None:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{url} cannot be made: {error.strerror or error}; give --store (in training --out) a place that you "
                "can write"
            ) from None
        return LocalStore(place)
    if scheme != "memory":
        options["retry_config"] = RETRY
        # moto, MinIO and other stores on loopback speak plain http; AWS_ENDPOINT_URL decides, as everywhere
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://") or scheme == "http":
            options["client_options"] = {"allow_http": True}
    try:
        return from_url(url, **options)
    except _FAULTS as error:
        raise StoreError(
            f"{url} cannot be opened: {_first_line(error)}; check the address and your credentials"
        ) from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class Store:
    """One root address; paths are relative to it. Picklable: a worker opens its own connection.

    url: in full. folder: on this machine, None for other kinds.
    """

    def __init__(self, url: str) -> None:
        self.url = absolute(url)
        self.folder = local_path(self.url)

    @property
    def _store(self) -> Any:
        # at first use: naming a store must not make its folder
        return _connect(self.url)

    @property
    def absent(self) -> bool:
        """Whether this is a folder that does not exist; False for other kinds, which have no folders."""
        return self.folder is not None and not self.folder.exists()

    @property
    def place(self) -> str:
        """Where it is, as a person types it."""
        return self.url if self.folder is None else str(self.folder)

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.url,)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def _fault(self, verb: str, path: str, error: BaseException) -> StoreError:
        if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
            return StoreError(f"{self.url} refused to {verb} {path}: {_first_line(error)}; check your credentials")
        if any(code in str(error) for code in ("NoSuchBucket", "ContainerNotFound")):
            return StoreError(f"{self.url}: there is no such bucket; make it, or check the address")
        if verb == "read" and "range" in str(error).lower() and "invalid" in str(error).lower():
            return StoreError(f"{path} in {self.url} is shorter than its commit says; run `kosmos verify`")
        what = f"{verb} {path} in" if path else verb
        return StoreError(f"cannot {what} {self.url}: {_first_line(error)}; run the same command again to resume")

    def put_new(self, path: str, body: bytes) -> bool:
        """Create the object; False if it was there already. Raises StoreError after the store's retries.

        S3 answers 409 while another create of the same name is under way, and a lost answer to our own put reads as
        "exists": so an "exists" is believed only once the object can be seen.
        """
        for pause_s in (0.05, 0.2, 0.8, 2.0, 5.0, 0.0):
            try:
                obstore.put(self._store, path, body, mode="create", use_multipart=False)
                return True
            except (AlreadyExistsError, PreconditionError):
                if self.exists(path):
                    return False
                time.sleep(pause_s)
            except _FAULTS as error:
                raise self._fault("create", path, error) from None
        raise StoreError(f"{self.url} says that {path} exists and cannot show it; run the same command again to resume")

    def put(self, path: str, body: bytes) -> None:
        """Write the object, over an old one if there is one: leases, heartbeats, a training run's metrics."""
        try:
            obstore.put(self._store, path, body)
        except _FAULTS as error:
            raise self._fault("write", path, error) from None

    def put_file(self, path: str, source: Path) -> None:
        """Upload a local file under a name that is this attempt's alone; on file:// it is on disk when this returns."""
        try:
            obstore.put(self._store, path, source)
            if self.folder is not None:
                # a commit must never outlive its data: a power cut between the two would leave a lie
                with open(self.folder / path, "rb") as written:
                    os.fsync(written.fileno())
        except _FAULTS as error:
            raise self._fault("write", path, error) from None

    def get(self, path: str, size: int = 0) -> bytes:
        """The whole object; Missing if there is none. size: its bytes if they are known, so that a large one comes in
        pieces, each with the client's own time limit and retries."""
        if size > PIECE_BYTES:
            return b"".join(self.get_range(path, start, PIECE_BYTES) for start in range(0, size, PIECE_BYTES))
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except _GONE:
            raise Missing(f"{path} is not in {self.url}; run `kosmos verify` to see what else is gone") from None
        except _FAULTS as error:
            raise self._fault("read", path, error) from None

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end of the object; Missing if there is none."""
        if length <= 0:
            return b""
        try:
            return bytes(obstore.get_range(self._store, path, start=start, length=length))
        except _GONE:
            raise Missing(f"{path} is not in {self.url}; run `kosmos verify` to see what else is gone") from None
        except _FAULTS as error:
            raise self._fault("read", path, error) from None

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]], gap: int = GAP_BYTES) -> list[bytes]:
        """Several (start, length) ranges of one object; those no more than `gap` bytes apart are one request."""
        wanted = [(start, length) for start, length in ranges if length]  # the client refuses empty ones
        if not wanted:
            return [b""] * len(ranges)
        try:
            starts, lengths = [r[0] for r in wanted], [r[1] for r in wanted]
            parts = iter(obstore.get_ranges(self._store, path, starts=starts, lengths=lengths, coalesce=gap))
            return [bytes(next(parts)) if length else b"" for _, length in ranges]
        except _GONE:
            raise Missing(f"{path} is not in {self.url}; run `kosmos verify` to see what else is gone") from None
        except _FAULTS as error:
            raise self._fault("read", path, error) from None
        except BaseException as error:
            # the client cuts what it merged without a look at how much came, and a panic of Rust is no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise StoreError(f"{path} in {self.url} is shorter than its commit says; run `kosmos verify`") from None

    def download(self, path: str, target: Path, limit: int = MAX_DOWNLOAD_BYTES) -> int:
        """Copy the object to a local file; its size in bytes. Missing if there is none, StoreError above `limit`.

        In pieces, each with the client's own time limit and retries: one request for a gigabyte would have neither.
        """
        head = self.head(path)
        if head is None:
            raise Missing(f"{path} is not in {self.url}")
        if head.size > limit:
            raise StoreError(f"{path} in {self.url} has {head.size} bytes, over the limit of {limit}")
        starts = range(0, head.size, PIECE_BYTES) if head.size > PIECE_BYTES else ()
        try:
            with open(target, "wb") as sink:
                for start in starts:
                    length = min(PIECE_BYTES, head.size - start)
                    sink.write(obstore.get_range(self._store, path, start=start, length=length))
                if not starts:
                    sink.write(obstore.get(self._store, path).bytes())
                size = sink.tell()
        except _GONE:
            raise Missing(f"{path} is not in {self.url}") from None
        except NotSupportedError:
            raise StoreError(f"{self.url} serves no ranges, which files over {PIECE_BYTES >> 20} MiB need") from None
        except BaseError as error:
            raise self._fault("read", path, error) from None
        if size != head.size:
            raise StoreError(f"{path} in {self.url} gave {size} bytes of the {head.size} that it said it has")
        return size

    def head(self, path: str) -> Head | None:
        """Size and time of the object, None if there is none."""
        try:
            meta = obstore.head(self._store, path)
        except _GONE:
            return None
        except _FAULTS as error:
            raise self._fault("look at", path, error) from None
        return Head(path, meta["size"], meta["last_modified"], meta["e_tag"] or "")

    def exists(self, path: str) -> bool:
        """Whether the object can be seen."""
        return self.head(path) is not None

    def list(self, prefix: str) -> Iterator[Head]:
        """Objects below a prefix that ends at a '/', in no order."""
        try:
            for page in obstore.list(self._store, prefix, chunk_size=1000):
                for meta in page:
                    yield Head(meta["path"], meta["size"], meta["last_modified"])
        except _GONE:
            return
        except _FAULTS as error:
            raise self._fault("list", prefix, error) from None

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Names directly below a prefix, sorted."""
        try:
            result = obstore.list_with_delimiter(self._store, prefix or None)
        except _GONE:
            return []
        except _FAULTS as error:
            raise self._fault("list", prefix, error) from None
        return sorted(str(p).rstrip("/").rsplit("/", 1)[-1] for p in result["common_prefixes"])

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; those that are gone already do not matter. `gc` does, and old checkpoints go."""
        try:
            try:
                obstore.delete(self._store, list(paths))
            except _GONE:
                # on file:// the client stops at one that is gone: the others one by one
                for path in paths:
                    with contextlib.suppress(*_GONE):
                        obstore.delete(self._store, path)
        except _FAULTS as error:
            raise self._fault("delete", paths[0], error) from None

    def now(self) -> datetime:
        """The store's own clock: the time it gives to an object written now. Lease expiry never asks ours."""
        path = f"clock/{os.uname().nodename}-{os.getpid()}"
        self.put(path, b"")
        head = self.head(path)
        if head is None:
            raise StoreError(f"{self.url} does not show an object just written; it cannot carry leases")
        return head.modified
