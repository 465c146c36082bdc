"""A training run's folder, at any store address: what the run is, its checkpoints, its metrics.

    <out>/run.json                                      create-only: config, order of the data, vocabulary's sha256
    <out>/tokenizer.model                               the SentencePiece model that made its tokens
    <out>/start.safetensors, start.safetensors.sha256   create-only: the weights that it began with, if not random ones
    <out>/order/<update>.json                           create-only: the order from that update on, when data was added
    <out>/changes/<update>.json                         the config from then on, where another was accepted: it counts
                                                        with the first complete checkpoint from that update on
    <out>/checkpoints/<update>/<rank>.<attempt>.safetensors    what each process wrote, and index.<attempt>.json
    <out>/checkpoints/<update>/complete.json            create-only, last: names the index, its sha256, the metrics
    <out>/metrics/<first>-<last>.<attempt>-<attempt before>.jsonl     the updates since the checkpoint before
    <out>/failures/<attempt>.txt                        the traceback of a worker that failed
    <out>/tensorboard/..                                curves, for people: nothing here reads them

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
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from engine.errors import ConfigError, Missing, StoreError
from engine.ledger import code_version
from engine.store import Store
from trainer.checkpoints import index as indexes
from trainer.checkpoints import resharded, sharded, state
from trainer.checkpoints.changes import Described, check
from trainer.checkpoints.index import Index, Part
from trainer.checkpoints.lines import LINES, leading_to
from trainer.checkpoints.plain import built
from trainer.config import Config, DataConfig
from trainer.world import World

__all__ = ["RUN", "TOKENIZER", "Checkpoint", "Described", "Run", "check", "folder_of"]

FORMAT = 2
RUN, TOKENIZER, COMPLETE = "run.json", "tokenizer.model", "complete.json"
# what may lie in a folder before its run is made: a failed worker's traceback, the weights to begin with, what
# TensorBoard follows from the first update on
BEFORE = ("failures/", "start.safetensors", "tensorboard/")
# what others put beside ours, a file browser's say, is no file of the run
DATED = re.compile(r"(?:order|changes)/([0-9]{8,})\.json")
INDEX = re.compile(r"index\.([0-9a-f]{12})\.json")
FOLDER = re.compile(r"[0-9]{8,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A complete checkpoint: after which update, the mean loss of that update (None if it had none), its index.

    steps: that the optimizer had made. metrics: the path of the lines of the updates since the checkpoint before, None
    if there were none.
    """

    update: int
    loss: float | None
    steps: int
    index: Part
    metrics: str | None = None


class Run:
    """A run's folder. Nothing is written, and no folder made, before `create`, `add_order` or a `Saver`.

    elsewhere: what a person is told to type where this folder will not do.
    """

    def __init__(self, url: str, elsewhere: str = "give --out a new folder") -> None:
        self.store = Store(url)
        self.place = self.store.place
        self.elsewhere = elsewhere

    def __repr__(self) -> str:
        return f"Run({self.place!r})"

    def describe(self) -> Described | None:
        """What the run is, with the config of its newest checkpoint; None where there is nothing yet.

        ConfigError where there is something else, StoreError where it cannot be read.
        """
        if self.store.absent:
            return None
        if not self.store.exists(RUN):
            if any(not head.path.startswith(BEFORE) for head in self.store.list("")):
                raise ConfigError(f"{self.place} holds other things and no training run; {self.elsewhere}")
            return None
        document = self._parsed(RUN)
        if document.get("format") != FORMAT:
            raise ConfigError(
                f"{self.place} has format {document.get('format')!r:.100}, this version reads {FORMAT}; "
                f"{self.elsewhere}, or install the version that wrote it"
            )
        path = RUN
        try:
            described: Described = built(Described, {name: document[name] for name in _names(Described)})
            changes = self._dated("changes/")
            done = self._done() if changes else 0
            first = max((number for number in changes if number <= done), default=None)
            if first is not None:
                path = changes[first]
                described = dataclasses.replace(described, config=built(Config, self._parsed(path)["config"]))
            return described
        except (KeyError, TypeError, ValueError, RecursionError, ConfigError) as error:
            raise StoreError(f"{path} in {self.place} cannot be read ({error!r:.300}); {self.elsewhere}") from None

    def create(self, described: Described, tokenizer: bytes, accept: bool = False) -> None:
        """Make the run, or find it made; ConfigError if it was made with another config, data or vocabulary.

        accept: another config that a run can go on with is none. StoreError if the tokenizer in the run's folder is not
        the one that it was made with.
        """
        new = self.describe() is None
        if new:
            document = {"format": FORMAT, "code": code_version(), **dataclasses.asdict(described)}
            self.store.put_new(RUN, _json(document))
        found = self.describe()
        assert found is not None
        # another process may have made it between our look and our put
        check(described, found, self.place, found.config.data if new else None, accept)
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
        return {first: self._parsed(path) for first, path in sorted(self._dated("order/").items())}

    def data(self, described: Described) -> DataConfig:
        """What rows are drawn by since data was last added."""
        orders = self.orders()
        if not orders:
            return described.config.data
        first = max(orders)
        try:
            data: DataConfig = built(DataConfig, orders[first]["data"])
            return data
        except (KeyError, TypeError, ValueError, RecursionError, ConfigError) as error:
            raise StoreError(
                f"{_order(first)} in {self.place} cannot be read ({error!r:.300}); {self.elsewhere}"
            ) from None

    def add_order(self, first: int, order: Mapping[str, Any], data: DataConfig) -> None:
        """Record the order from an update on; StoreError if there is another one from there."""
        path, body = _order(first), _json({**order, "data": dataclasses.asdict(data)})
        if not self.store.put_new(path, body) and self.store.get(path) != body:
            raise StoreError(
                f"{self.place} adds other data from update {first} on; give the same --extend as before to resume"
            )

    def set_change(self, first: int, config: Config | None) -> None:
        """Record the config from an update on (None: the one before goes on), right before a checkpoint counts.

        What was recorded beyond the newest complete checkpoint led to none, and goes. StoreError if one that counts is
        another.
        """
        changes = self._dated("changes/")
        if config is None and not changes:
            return
        done, path = self._done(), f"changes/{first:08d}.json"
        if config is not None:
            body = _json({"config": dataclasses.asdict(config)})
            if first > done:
                sharded.put_kept(self.store, path, body)
            elif first not in changes or self.store.get(path) != body:
                raise StoreError(
                    f"another process has gone on with another config from update {first} of {self.place} on; stop one "
                    "of the two, then run the same command again to resume"
                )
        stale = [path for number, path in changes.items() if number > done and (number != first or config is None)]
        if stale:
            self.store.delete(sorted(stale))

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint; half-written ones do not count."""
        if self.store.absent:
            return None
        return next(self._complete(reversed(self._numbers())), None)

    def checkpoint(self, update: int) -> Checkpoint | None:
        """The checkpoint of an update; None if there is no complete one."""
        path = f"{folder_of(update)}/{COMPLETE}"
        if not self.store.exists(path):
            return None
        try:
            document = json.loads(self.store.get(path))
            found: Checkpoint = built(Checkpoint, document)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise self._damaged(path, f"{error!r:.300}", update) from None
        if found.update != update or not _named(found):
            raise self._damaged(path, f"it names {found.index.path} of update {found.update}", update)
        return found

    def restore(self, checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
        """Load a checkpoint in place, in all processes of a world of any size, however the model lies in them.

        Raises ConfigError for a model with other parameters, StoreError if a file is not what was written; in all
        processes, if in one.
        """

        def read() -> None:
            index = self._index(checkpoint)
            tensors = state.held(model, optimizer)
            self._check_names(checkpoint, index, tensors)
            with self._telling(checkpoint):
                resharded.read(self.store, folder_of(checkpoint.update), index, tensors)

        sharded.together(dist.group.WORLD if world.size > 1 else None, read)
        state.set_steps(optimizer, checkpoint.steps)

    def tensors(self, checkpoint: Checkpoint, prefix: str = "model.") -> dict[str, torch.Tensor]:
        """The tensors whose names begin so, by the rest of their names: whole, on the CPU, without a process group.

        "model." gives the weights that train, "exp_avg." and "exp_avg_sq." their moments, "" all, by their full names.
        """
        index = self._index(checkpoint)
        with self._telling(checkpoint):
            resharded.check_sizes(self.store, folder_of(checkpoint.update), index)  # before any memory is taken for it
            found = {
                name: torch.empty(entry.shape, dtype=indexes.DTYPES[entry.dtype])
                for name, entry in index.tensors.items()
                if name.startswith(prefix)
            }
            resharded.read(self.store, folder_of(checkpoint.update), index, found)
        return {name.removeprefix(prefix): tensor for name, tensor in found.items()}

    def commit(
        self,
        update: int,
        loss: float | None,
        steps: int,
        index: Part,
        lines: Sequence[Mapping[str, Any]],
        keep: int,
    ) -> Checkpoint:
        """Make what was written count, with the metrics since the one before, and delete all but the last `keep`.

        StoreError if another process has written this update.
        """
        named = INDEX.fullmatch(index.path.rsplit("/", 1)[-1])
        metrics = self._put_lines(update, named[1] if named else uuid.uuid4().hex[:12], lines) if lines else None
        complete = Checkpoint(update=update, loss=loss, steps=steps, index=index, metrics=metrics)
        path, body = f"{folder_of(update)}/{COMPLETE}", _json(dataclasses.asdict(complete))
        # a put whose answer was lost finds its own object
        if not self.store.put_new(path, body) and self.store.get(path) != body:
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
        kept: list[re.Pattern[str]] = []
        for number in numbers[::-1]:
            if len(kept) == keep:
                break
            try:
                found = self.checkpoint(number)
            except StoreError:  # a damaged one among them is for a person, who may have it elsewhere
                numbers.remove(number)
                continue
            if found is not None:
                kept.append(_files(found))
        paths = sorted(head.path for number in numbers for head in self.store.list(f"{folder_of(number)}/"))
        gone = [path for path in paths if not any(names.fullmatch(path) for names in kept)]
        # complete.json first: what it named must never be gone while it stands
        for doomed in ([path for path in gone if path.endswith(COMPLETE)], gone):
            if doomed:
                self.store.delete(doomed)

    def forget_after(self, update: int) -> None:
        """Delete the metrics of later updates that no complete checkpoint leads to: resuming runs them again."""
        names = self._lines()
        complete = self._complete(self._numbers())
        kept = {name[0] for found in complete for name in leading_to(found.update, found.metrics, names)}
        later = sorted(name[0] for name in names if int(name[2]) > update and name[0] not in kept)
        if later:
            self.store.delete(later)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The metrics of all updates up to the newest checkpoint, each once, ascending; cut lines are left out."""
        newest = self.latest()
        for name in leading_to(newest.update, newest.metrics, self._lines()) if newest is not None else ():
            for line in io.BytesIO(self.store.get(name[0])):
                with contextlib.suppress(ValueError, RecursionError):
                    values = json.loads(line)
                    if isinstance(values, dict):
                        yield values

    def keep_failure(self, text: str) -> str:
        """Store a traceback; the path of the file for people."""
        path = f"failures/{uuid.uuid4().hex[:12]}.txt"
        self.store.put(path, text.encode())
        return f"{self.place}/{path}"

    def _dated(self, prefix: str) -> dict[int, str]:
        names = (DATED.fullmatch(head.path) for head in self.store.list(prefix))
        return {int(name[1]): name[0] for name in names if name}

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in self.store.folders("checkpoints/") if FOLDER.fullmatch(name))

    def _done(self) -> int:
        """The update of the newest complete checkpoint, which may be damaged; 0 if there is none."""
        found = (number for number in reversed(self._numbers()) if self.store.exists(f"{folder_of(number)}/{COMPLETE}"))
        return next(found, 0)

    def _complete(self, updates: Iterable[int]) -> Iterator[Checkpoint]:
        return (found for update in updates if (found := self.checkpoint(update)) is not None)

    def _lines(self) -> list[re.Match[str]]:
        paths = sorted(head.path for head in self.store.list("metrics/"))
        return [name for path in paths if (name := LINES.fullmatch(path)) and int(name[1]) <= int(name[2])]

    def _put_lines(self, update: int, attempt: str, lines: Sequence[Mapping[str, Any]]) -> str:
        """Store metrics under a name that leads to those of the checkpoint before; the path."""
        first = lines[0]["update"]
        before = None
        with contextlib.suppress(StoreError):  # the lines of one that is damaged are found without it
            before = self.checkpoint(first - 1)
        named = LINES.fullmatch(before.metrics or "") if before is not None else None
        path = f"metrics/{first:08d}-{update:08d}.{attempt}{'-' + named[3] if named else ''}.jsonl"
        body = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        sharded.put_kept(self.store, path, body)
        return path

    def _index(self, checkpoint: Checkpoint) -> Index:
        part = checkpoint.index
        try:
            body = self.store.get(part.path, part.bytes)
        except Missing:
            raise self._damaged(part.path, "it is gone", checkpoint.update) from None
        if hashlib.sha256(body).hexdigest() != part.sha256:
            raise self._damaged(part.path, "its sha256 is not the recorded one", checkpoint.update)
        try:
            return indexes.parsed(body)
        except ValueError as error:
            raise self._damaged(part.path, str(error), checkpoint.update) from None

    @contextlib.contextmanager
    def _telling(self, checkpoint: Checkpoint) -> Iterator[None]:
        try:
            yield
        except resharded.Damaged as error:
            raise self._damaged(error.path, error.reason, checkpoint.update) from None

    def _check_names(self, checkpoint: Checkpoint, index: Index, tensors: Mapping[str, torch.Tensor]) -> None:
        """ConfigError that names the first difference between what a model has and what a checkpoint holds."""
        for name in sorted({*tensors, *index.tensors}):
            ours = _outline(tensors[name].shape, tensors[name].dtype) if name in tensors else "not there"
            entry = index.tensors.get(name)
            theirs = _outline(entry.shape, indexes.DTYPES[entry.dtype]) if entry else "not there"
            if ours != theirs:
                raise ConfigError(
                    f"{name} is {ours} in this model and {theirs} in the checkpoint of update {checkpoint.update} in "
                    f"{self.place}; train with the config that the run was made with, or {self.elsewhere}"
                )

    def _parsed(self, path: str) -> dict[str, Any]:
        try:
            document = json.loads(self.store.get(path))
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise StoreError(f"{path} in {self.place} is damaged; {self.elsewhere}")
        return document

    def _damaged(self, path: str, reason: str, update: int) -> StoreError:
        return StoreError(
            f"{path} in {self.place} is damaged ({reason}); delete {self.place}/{folder_of(update)}/{COMPLETE} to go "
            f"back to the checkpoint before it, or {self.elsewhere}"
        )


def folder_of(update: int) -> str:
    """Where the files of a checkpoint lie, below the run."""
    return f"checkpoints/{update:08d}"


def _files(checkpoint: Checkpoint) -> re.Pattern[str]:
    """The files that belong to a complete checkpoint, whatever else lies in its folder."""
    named = _named(checkpoint)
    attempt = named[1] if named else ""
    return re.compile(
        rf"{folder_of(checkpoint.update)}/({COMPLETE}|index\.{attempt}\.json|[0-9]+\.{attempt}\.safetensors)"
    )


def _named(checkpoint: Checkpoint) -> re.Match[str] | None:
    folder, _, name = checkpoint.index.path.rpartition("/")
    return INDEX.fullmatch(name) if folder == folder_of(checkpoint.update) else None


def _outline(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{'x'.join(map(str, shape)) or 'one number'} of {str(dtype).removeprefix('torch.')}"


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _order(first: int) -> str:
    return f"order/{first:08d}.json"


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
