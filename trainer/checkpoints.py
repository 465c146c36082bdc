"""A training run's folder, at any store address: what the run is, its checkpoints, its metrics.

    <out>/run.json                                      create-only: config, order of the data, vocabulary's sha256
    <out>/tokenizer.model                               the SentencePiece model that made its tokens
    <out>/order/<update>.json                           create-only: the order from that update on, when data was added
    <out>/checkpoints/<update>/model.<attempt>.pt       and optimizer.<attempt>.pt
    <out>/checkpoints/<update>/complete.json            create-only, last: names the two, their sizes, sha256, metrics
    <out>/metrics/<first>-<last>.<attempt>-<attempt before>.jsonl     the updates since the checkpoint before
    <out>/failures/<attempt>.txt                        the traceback of a worker that failed

A checkpoint without its complete.json is garbage, never a lie: a crash at any point leaves the one before in force.
Metrics count when a checkpoint leads to them, so two processes in one folder never give an update two lines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import tempfile
import typing
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from engine.errors import ConfigError, Missing, StoreError
from engine.ledger import code_version
from engine.store import Store
from trainer.config import Config, DataConfig
from trainer.plain import built

FORMAT = 1
KEEP = 3  # complete checkpoints that stay; a run of KOSMOS-1 writes 20 GB each
RUN, TOKENIZER, COMPLETE = "run.json", "tokenizer.model", "complete.json"
CHUNK_BYTES = 16 << 20
PARTS = ("model", "optimizer")
# what others put beside ours, a file browser's say, is no file of the run
LINES = re.compile(r"metrics/([0-9]{8,})-([0-9]{8,})\.([0-9a-f]{12})(?:-([0-9a-f]{12}))?\.jsonl")
ORDER = re.compile(r"order/([0-9]{8,})\.json")
FOLDER = re.compile(r"[0-9]{8,}")
# What does not change what an update is, and how far the run goes: a longer schedule goes on from where it is.
FREE = ("name", "checkpoint_every", "data.micro_batch.", "optim.total_updates")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One file of a checkpoint: its path below the run, its size, its sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A complete checkpoint: after which update, the mean loss of that update (None if it had none), its files.

    metrics: the path of the lines of the updates since the checkpoint before, None if there were none.
    """

    update: int
    loss: float | None
    parts: dict[str, Part]
    metrics: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What run.json says: the config with the vocabulary's size filled in, the manifests, the order of the data."""

    config: Config
    digests: tuple[str, ...]
    order: dict[str, Any]
    vocabulary: str


class Run:
    """A run's folder. Nothing is written, and no folder made, before `create` or `save`.

    elsewhere: what a person is told to type where this folder will not do.
    """

    def __init__(self, url: str, elsewhere: str = "give --out a new folder") -> None:
        self.store = Store(url)
        self.place = self.store.place
        self.elsewhere = elsewhere

    def __repr__(self) -> str:
        return f"Run({self.place!r})"

    def describe(self) -> Described | None:
        """What the run is; None where there is nothing yet, ConfigError where there is something else."""
        if self.store.absent:
            return None
        if not self.store.exists(RUN):
            # a worker that fails before the run is made leaves its traceback
            if any(not head.path.startswith("failures/") for head in self.store.list("")):
                raise ConfigError(f"{self.place} holds other things and no training run; {self.elsewhere}")
            return None
        document = self._parsed(RUN)
        if document.get("format") != FORMAT:
            raise ConfigError(
                f"{self.place} has format {document.get('format')!r}, this version reads {FORMAT}; {self.elsewhere}, "
                "or install the version that wrote it"
            )
        try:
            described: Described = built(Described, {name: document[name] for name in _names(Described)})
            return described
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise StoreError(f"{RUN} in {self.place} cannot be read ({error!r}); {self.elsewhere}") from None

    def create(self, described: Described, tokenizer: bytes) -> None:
        """Make the run, or find it made; ConfigError if it was made with another config, data or vocabulary.

        StoreError if its tokenizer is not the one that it was made with.
        """
        new = self.describe() is None
        if new:
            document = {"format": FORMAT, "code": code_version(), **dataclasses.asdict(described)}
            self.store.put_new(RUN, _json(document))
        found = self.describe()
        assert found is not None
        # another process may have made it between our look and our put
        check(described, found, self.place, found.config.data if new else None)
        if not self.store.exists(TOKENIZER):
            self.store.put_new(TOKENIZER, tokenizer)
        self.tokenizer(found)

    def tokenizer(self, described: Described) -> bytes:
        """The SentencePiece model, checked against the run's record."""
        try:
            body = self.store.get(TOKENIZER)
        except Missing:
            raise StoreError(
                f"{TOKENIZER} is not in {self.place}; `kosmos train` with the same words writes it again"
            ) from None
        if hashlib.sha256(body).hexdigest() != described.vocabulary:
            raise StoreError(
                f"{TOKENIZER} in {self.place} is damaged; delete it, then `kosmos train` with the same "
                "words writes it again"
            )
        return body

    def orders(self) -> dict[int, dict[str, Any]]:
        """The orders that `add_order` wrote, by the first update of each, ascending."""
        paths = (head.path for head in self.store.list("order/"))
        found = {int(name[1]): name[0] for path in paths if (name := ORDER.fullmatch(path))}
        return {first: self._parsed(found[first]) for first in sorted(found)}

    def data(self, described: Described) -> DataConfig:
        """What rows are drawn by since data was last added."""
        orders = self.orders()
        if not orders:
            return described.config.data
        first = max(orders)
        try:
            data: DataConfig = built(DataConfig, orders[first]["data"])
            return data
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise StoreError(f"{_order(first)} in {self.place} cannot be read ({error!r}); {self.elsewhere}") from None

    def add_order(self, first: int, order: Mapping[str, Any], data: DataConfig) -> None:
        """Record the order from an update on; StoreError if there is another one from there."""
        path, body = _order(first), _json({**order, "data": dataclasses.asdict(data)})
        if not self.store.put_new(path, body) and self.store.get(path) != body:
            raise StoreError(
                f"{self.place} adds other data from update {first} on; give the same --extend as before to resume"
            )

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint; half-written ones do not count."""
        if self.store.absent:
            return None
        return next(self._complete(reversed(self._numbers())), None)

    def checkpoint(self, update: int) -> Checkpoint | None:
        """The checkpoint of an update; None if there is no complete one."""
        path = f"{_folder(update)}/{COMPLETE}"
        if not self.store.exists(path):
            return None
        try:
            document = json.loads(self.store.get(path))
            found: Checkpoint = built(Checkpoint, document)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(path, repr(error), update) from None
        if found.update != update or set(found.parts) != set(PARTS):
            raise self._damaged(path, f"it names {', '.join(sorted(found.parts))} of update {found.update}", update)
        return found

    def load(self, checkpoint: Checkpoint, part: str) -> dict[str, Any]:
        """A state dict on the CPU: part "model" or "optimizer". StoreError if it is not what was written."""
        recorded = checkpoint.parts[part]
        head = self.store.head(recorded.path)
        if head is None or head.size != recorded.bytes:
            reason = f"it has {head.size} bytes of {recorded.bytes}" if head else "it is gone"
            raise self._damaged(recorded.path, reason, checkpoint.update)
        with _scratch("read a checkpoint into") as scratch:
            local = scratch / f"{part}.pt"
            self.store.download(recorded.path, local, limit=recorded.bytes)
            if _sha256(local) != recorded.sha256:
                raise self._damaged(recorded.path, "its sha256 is not the recorded one", checkpoint.update)
            state: dict[str, Any] = torch.load(local, map_location="cpu", weights_only=True)
            return state

    def save(
        self,
        update: int,
        loss: float | None,
        states: Mapping[str, Mapping[str, Any]],
        lines: Sequence[Mapping[str, Any]] = (),
        keep: int = KEEP,
    ) -> Checkpoint:
        """Write a checkpoint of both PARTS with the metrics since the one before, then delete all but the last `keep`.

        StoreError where the store or the local disk gives out: the checkpoint before stays the newest.
        """
        attempt = uuid.uuid4().hex[:12]
        parts = {part: self._put(f"{_folder(update)}/{part}.{attempt}.pt", states[part]) for part in PARTS}
        metrics = self._put_lines(update, attempt, lines) if lines else None
        complete = Checkpoint(update=update, loss=loss, parts=parts, metrics=metrics)
        path, body_json = f"{_folder(update)}/{COMPLETE}", _json(dataclasses.asdict(complete))
        # a put whose answer was lost finds its own object
        if not self.store.put_new(path, body_json) and self.store.get(path) != body_json:
            if metrics:
                self.store.delete([metrics])
            raise StoreError(
                f"another process has written update {update} of {self.place}; stop one of the two, then run the same "
                "command again to resume"
            )
        self.prune(update, keep)
        return complete

    def prune(self, update: int, keep: int) -> None:
        """Delete what lies at or below an update and is not of its last `keep` complete checkpoints."""
        numbers = [number for number in self._numbers() if number <= update]
        kept: set[str] = set()
        for number in reversed(numbers):
            found = self.checkpoint(number) if len(kept) < keep * (1 + len(PARTS)) else None
            if found is not None:
                kept |= {f"{_folder(number)}/{COMPLETE}", *(part.path for part in found.parts.values())}
        paths = sorted(head.path for number in numbers for head in self.store.list(f"{_folder(number)}/"))
        gone = [path for path in paths if path not in kept]
        # complete.json first: what it named must never be gone while it stands
        for doomed in ([path for path in gone if path.endswith(COMPLETE)], gone):
            if doomed:
                self.store.delete(doomed)

    def forget_after(self, update: int) -> None:
        """Delete the metrics of later updates that no complete checkpoint leads to: resuming runs them again."""
        names = self._lines()
        kept = {name[0] for found in self._complete(self._numbers()) for name in _chain(found, names)}
        later = sorted(name[0] for name in names if int(name[2]) > update and name[0] not in kept)
        if later:
            self.store.delete(later)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The metrics of all updates up to the newest checkpoint, each once, ascending; cut lines are left out."""
        newest = self.latest()
        for name in _chain(newest, self._lines()) if newest is not None else ():
            for line in io.BytesIO(self.store.get(name[0])):
                with contextlib.suppress(ValueError):
                    values = json.loads(line)
                    if isinstance(values, dict):
                        yield values

    def keep_failure(self, text: str) -> str:
        """Store a traceback; the path of the file for people."""
        path = f"failures/{uuid.uuid4().hex[:12]}.txt"
        self.store.put(path, text.encode())
        return f"{self.place}/{path}"

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in self.store.folders("checkpoints/") if FOLDER.fullmatch(name))

    def _complete(self, updates: Iterable[int]) -> Iterator[Checkpoint]:
        return (found for update in updates if (found := self.checkpoint(update)) is not None)

    def _lines(self) -> list[re.Match[str]]:
        paths = sorted(head.path for head in self.store.list("metrics/"))
        return [name for path in paths if (name := LINES.fullmatch(path)) and int(name[1]) <= int(name[2])]

    def _put_lines(self, update: int, attempt: str, lines: Sequence[Mapping[str, Any]]) -> str:
        """Store metrics under a name that leads to those of the checkpoint before; the path."""
        first = lines[0]["update"]
        before = self.checkpoint(first - 1)
        named = LINES.fullmatch(before.metrics or "") if before is not None else None
        path = f"metrics/{first:08d}-{update:08d}.{attempt}{'-' + named[3] if named else ''}.jsonl"
        self.store.put(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())
        return path

    def _put(self, path: str, state: Mapping[str, Any]) -> Part:
        # a local file first: an object store's upload wants a length, and the sum is needed before the commit
        with _scratch("write a checkpoint below") as scratch:
            local = scratch / "part.pt"
            with open(local, "wb") as sink:
                hashing = _Hashing(sink)
                with _torch_faults():
                    torch.save(dict(state), typing.cast(IO[bytes], hashing))
            self.store.put_file(path, local)
            return Part(path=path, bytes=hashing.size, sha256=hashing.sum.hexdigest())

    def _parsed(self, path: str) -> dict[str, Any]:
        try:
            document = json.loads(self.store.get(path))
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise StoreError(f"{path} in {self.place} is damaged; {self.elsewhere}")
        return document

    def _damaged(self, path: str, reason: str, update: int) -> StoreError:
        return StoreError(
            f"{path} in {self.place} is damaged ({reason}); delete {self.place}/{_folder(update)}/{COMPLETE} to go "
            f"back to the checkpoint before it, or {self.elsewhere}"
        )


class _Hashing:
    """A sink that sums what goes through it: a checkpoint of 13 GB is not read again."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink, self.sum, self.size = sink, hashlib.sha256(), 0

    def write(self, body: bytes) -> int:
        self.sum.update(body)
        self.size += len(body)
        return self._sink.write(body)

    def flush(self) -> None:
        self._sink.flush()


@contextlib.contextmanager
def _scratch(doing: str) -> Iterator[Path]:
    """A local folder for a part on its way; StoreError where the disk gives out (the store's faults are its own)."""
    try:
        with tempfile.TemporaryDirectory(prefix="kosmos-") as folder:
            yield Path(folder)
    except OSError as error:
        raise StoreError(
            f"cannot {doing} {tempfile.tempdir or 'a temporary folder'}: {error.strerror or error}; set TMPDIR to a "
            "folder with more room"
        ) from None


@contextlib.contextmanager
def _torch_faults() -> Iterator[None]:
    """Raise what was behind a RuntimeError of torch's writer: a full disk, a second Ctrl-C."""
    try:
        yield
    except RuntimeError as error:
        behind: BaseException | None = error
        while behind is not None:
            if isinstance(behind, OSError | KeyboardInterrupt):
                raise behind from None
            behind = behind.__cause__ or behind.__context__
        raise


def _chain(newest: Checkpoint, names: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The files of metrics that a checkpoint leads to, each going on where the one before ends, ascending.

    Of several that end at one update, the one that is named counts. Where that is gone: the nearest below.
    """
    by_last: dict[int, dict[str, re.Match[str]]] = {}
    for name in names:
        by_last.setdefault(int(name[2]), {})[name[3]] = name
    found: list[re.Match[str]] = []
    named = LINES.fullmatch(newest.metrics or "")
    reach, attempt = newest.update, named[3] if named else None
    for last in sorted(by_last, reverse=True):
        if last <= reach:
            name = by_last[last].get(attempt or "") or next(iter(by_last[last].values()))
            found.append(name)
            reach, attempt = int(name[1]) - 1, name[4]
    return found[::-1]


def check(given: Described, found: Described, place: str, data: DataConfig | None) -> None:
    """ConfigError that names the first difference between what is asked for and what the run is.

    data: what its rows are drawn by now, None where that is about to change. What may differ at every start: FREE.
    """
    theirs = dict(_fields(found.config)) | (dict(_fields(data, "data.")) if data is not None else {})
    for name, mine in _fields(given.config):
        if mine == theirs[name] or name.startswith(FREE) or (data is None and name.startswith("data.")):
            continue
        raise ConfigError(
            f"{name} is {mine} here and {theirs[name]} in the run {place}; give --out a new folder, or "
            f"--set {name}={theirs[name]}"
        )
    if given.vocabulary != found.vocabulary:
        raise ConfigError(
            f"the run {place} was begun with another vocabulary than these manifests have; give --out a new folder"
        )
    if given.digests != found.digests:
        raise ConfigError(
            f"the run {place} was begun on {' '.join(found.digests)}; give these, or new ones after --extend, or "
            "--out a new folder"
        )


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, ",".join(map(str, value)) if isinstance(value, tuple) else value


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _order(first: int) -> str:
    return f"order/{first:08d}.json"


def _folder(update: int) -> str:
    return f"checkpoints/{update:08d}"


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _sha256(local: Path) -> str:
    total = hashlib.sha256()
    with open(local, "rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()
