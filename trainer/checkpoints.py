"""A training run's folder, at any store address: what the run is, its checkpoints, its metrics.

    <out>/run.json                                      create-only: config, order of the data, vocabulary's sha256
    <out>/tokenizer.model                               the SentencePiece model that made its tokens
    <out>/order/<update>.json                           create-only: the order from that update on, when data was added
    <out>/checkpoints/<update>/model.<attempt>.pt       and optimizer.<attempt>.pt
    <out>/checkpoints/<update>/complete.json            create-only, last: names the two, their sizes and sha256
    <out>/metrics/<update>.jsonl                        the updates since the checkpoint before, a line each
    <out>/failures/<attempt>.txt                        the traceback of a worker that failed

A checkpoint without its complete.json is garbage, never a lie: a crash at any point leaves the one before in force.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import tempfile
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from engine.errors import ConfigError, StoreError
from engine.ledger import code_version
from engine.store import Store
from trainer.config import Config, DataConfig

FORMAT = 1
KEEP = 3  # complete checkpoints that stay; a run of KOSMOS-1 writes 20 GB each
RUN, TOKENIZER, COMPLETE = "run.json", "tokenizer.model", "complete.json"
CHUNK_BYTES = 16 << 20
PARTS = ("model", "optimizer")
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
    """A complete checkpoint: after which update, the mean loss of that update (None if it had none), its files."""

    update: int
    loss: float | None
    parts: dict[str, Part]


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What run.json says: the config with the vocabulary's size filled in, the manifests, the order of the data."""

    config: Config
    digests: tuple[str, ...]
    order: dict[str, Any]
    vocabulary: str


class Run:
    """A run's folder. Nothing is written, and no folder made, before `create` or `save`."""

    def __init__(self, url: str) -> None:
        self.store = Store(url)
        self.place = self.store.url.removeprefix("file://")

    def __repr__(self) -> str:
        return f"Run({self.place!r})"

    def describe(self) -> Described | None:
        """What the run is; None where there is nothing yet, ConfigError where there is something else."""
        if self.store.absent:
            return None
        if not self.store.exists(RUN):
            if next(iter(self.store.list("")), None) is not None:
                raise ConfigError(f"{self.place} holds other things and no training run; give --out a new folder")
            return None
        document = _parsed(self.store.get(RUN), RUN, self.place)
        if document.get("format") != FORMAT:
            raise ConfigError(
                f"{self.place} has format {document.get('format')!r}, this version reads {FORMAT}; give --out a new "
                "folder, or install the version that wrote it"
            )
        try:
            return Described(
                config=_built(Config, document["config"]),
                digests=tuple(document["digests"]),
                order=document["order"],
                vocabulary=document["vocabulary"],
            )
        except (KeyError, TypeError) as error:
            raise StoreError(f"{RUN} in {self.place} cannot be read ({error!r}); give --out a new folder") from None

    def create(self, described: Described, tokenizer: bytes) -> None:
        """Make the run, or find it made; ConfigError if it was made with another config, data or vocabulary."""
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

    def tokenizer(self, described: Described) -> bytes:
        """The SentencePiece model, checked against the run's record."""
        body = self.store.get(TOKENIZER)
        if hashlib.sha256(body).hexdigest() != described.vocabulary:
            raise StoreError(f"{TOKENIZER} in {self.place} is damaged; delete it and run `kosmos train` again")
        return body

    def orders(self) -> dict[int, dict[str, Any]]:
        """The orders that `add_order` wrote, by the first update of each, ascending."""
        found = sorted(head.path for head in self.store.list("order/"))
        return {int(Path(path).stem): _parsed(self.store.get(path), path, self.place) for path in found}

    def data(self, described: Described) -> DataConfig:
        """What rows are drawn by since data was last added."""
        newest = list(self.orders().values())[-1:]
        data: DataConfig = _built(DataConfig, newest[0]["data"]) if newest else described.config.data
        return data

    def add_order(self, first: int, order: Mapping[str, Any], data: DataConfig) -> None:
        """Record the order from an update on; StoreError if there is another one from there."""
        path, body = f"order/{first:08d}.json", _json({**order, "data": dataclasses.asdict(data)})
        if not self.store.put_new(path, body) and self.store.get(path) != body:
            raise StoreError(
                f"{self.place} adds other data from update {first} on; give the same --extend as before to resume"
            )

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint; half-written ones do not count."""
        if self.store.absent:
            return None
        for name in reversed(self._numbers()):
            found = self.checkpoint(int(name))
            if found is not None:
                return found
        return None

    def checkpoint(self, update: int) -> Checkpoint | None:
        """The checkpoint of an update; None if there is no complete one."""
        path = f"{_folder(update)}/{COMPLETE}"
        if not self.store.exists(path):
            return None
        document = _parsed(self.store.get(path), path, self.place)
        try:
            parts = {part: Part(**document["parts"][part]) for part in PARTS}
            return Checkpoint(update=document["update"], loss=document["loss"], parts=parts)
        except (KeyError, TypeError) as error:
            raise self._damaged(path, repr(error), update) from None

    def load(self, checkpoint: Checkpoint, part: str) -> dict[str, Any]:
        """A state dict on the CPU: part "model" or "optimizer". StoreError if it is not what was written."""
        recorded = checkpoint.parts[part]
        with tempfile.TemporaryDirectory(prefix="kosmos-") as scratch:
            local = Path(scratch) / f"{part}.pt"
            try:
                size = self.store.download(recorded.path, local, limit=recorded.bytes)
            except OSError as error:
                raise _no_room(scratch, error) from None
            if size != recorded.bytes or _sha256(local) != recorded.sha256:
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
        if lines:
            body = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
            self.store.put(f"metrics/{update:08d}.jsonl", body.encode())
        complete = Checkpoint(update=update, loss=loss, parts=parts)
        path, body_json = f"{_folder(update)}/{COMPLETE}", _json(dataclasses.asdict(complete))
        # a put whose answer was lost finds its own object
        if not self.store.put_new(path, body_json) and self.store.get(path) != body_json:
            raise StoreError(
                f"another process has written update {update} of {self.place}; stop one of the two, then run the same "
                "command again to resume"
            )
        self.prune(update, keep)
        return complete

    def prune(self, update: int, keep: int) -> None:
        """Delete what lies at or below an update and is not of its last `keep` complete checkpoints."""
        numbers = [int(name) for name in self._numbers() if int(name) <= update]
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
        """Delete the metrics of updates that no complete checkpoint covers: resuming runs them again."""
        paths = sorted(head.path for head in self.store.list("metrics/"))
        later = [path for path in paths if int(Path(path).stem) > update]
        if later:
            self.store.delete(later)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The metrics of all updates up to the newest checkpoint, each once, ascending."""
        newest = self.latest()
        for path in sorted(head.path for head in self.store.list("metrics/")):
            if newest is not None and int(Path(path).stem) <= newest.update:
                yield from (json.loads(line) for line in io.BytesIO(self.store.get(path)))

    def keep_failure(self, text: str) -> str:
        """Store a traceback; the path of the file for people."""
        path = f"failures/{uuid.uuid4().hex[:12]}.txt"
        self.store.put(path, text.encode())
        return f"{self.place}/{path}"

    def _numbers(self) -> list[str]:
        return [name for name in self.store.folders("checkpoints/") if name.isdigit()]

    def _put(self, path: str, state: Mapping[str, Any]) -> Part:
        # a local file first: an object store's upload wants a length, and the sum is needed before the commit
        with tempfile.TemporaryDirectory(prefix="kosmos-") as scratch:
            local = Path(scratch) / "part.pt"
            with open(local, "wb") as sink:
                hashing = _Hashing(sink)
                with _torch_faults(scratch):
                    torch.save(dict(state), typing.cast(IO[bytes], hashing))
            self.store.put_file(path, local)
            return Part(path=path, bytes=hashing.size, sha256=hashing.sum.hexdigest())

    def _damaged(self, path: str, reason: str, update: int) -> StoreError:
        return StoreError(
            f"{path} in {self.place} is damaged ({reason}); delete {self.place}/{_folder(update)}/{COMPLETE} to resume "
            "from the checkpoint before it, or give --out a new folder"
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
def _torch_faults(scratch: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError for a full disk
        raise _no_room(scratch, error) from None


def _no_room(scratch: str, error: BaseException) -> StoreError:
    first = str(error).strip().splitlines()[0]
    return StoreError(f"cannot write a checkpoint below {scratch}: {first}; set TMPDIR to a folder with more room")


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


def _built(kind: Callable[..., Any], plain: Mapping[str, Any]) -> Any:
    """A tree of dataclasses from what `dataclasses.asdict` made of it and JSON kept."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in plain.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = _built(typing.cast(Callable[..., Any], hint), value)
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return kind(**values)


def _folder(update: int) -> str:
    return f"checkpoints/{update:08d}"


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parsed(body: bytes, path: str, place: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise StoreError(f"{path} in {place} is damaged; delete it to go on without it, or give --out a new folder")
    return document


def _sha256(local: Path) -> str:
    total = hashlib.sha256()
    with open(local, "rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()
