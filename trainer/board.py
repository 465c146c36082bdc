"""A run's curves for people: TensorBoard's event files in the run's folder and, where a project is named, W&B.

The record of a run is its metrics in JSON; this is a second look at them, made by the first process alone, and no fault
of it ends a training: it is told once. In a folder an event file grows where it lies, so TensorBoard follows it live;
to an object store each flush brings one new file, so no byte is sent twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboardX import RecordWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from engine.errors import ConfigError, KosmosError, StoreError
from trainer.checkpoints.run import Run
from trainer.metrics import Metrics
from trainer.world import World

FOLDER = "tensorboard"
ID = f"{FOLDER}/wandb.txt"  # W&B's name of the run, so that a resumed one goes on there
LIVE_S = 2.0  # a growing file comes to the disk so often, each time by an fsync
# what W&B is told by, which workers elsewhere are to have; not where this machine keeps its files
SAID = ("API_KEY", "MODE", "BASE_URL", "ENTITY", "RUN_GROUP", "TAGS", "NOTES", "INIT_TIMEOUT", "HTTP_TIMEOUT")
MAILBOX = ("MailboxClosedError", "HandleAbandonedError")  # what W&B's package raises for its process when that is gone
# Beside the losses. x is the update, in all of them.
PLAIN = (
    *("lr", "grad_norm", "tokens_per_s", "images_per_s", "mfu", "padding", "waited_s", "memory_gib"),
    *("recompiles", "bad_images"),
)


def scalars(metrics: Metrics) -> dict[str, float]:
    """The curves' names and what an update adds to them; nothing where it has no finite value."""
    found: dict[str, float | None] = {"train/loss": metrics.loss}
    found |= {f"train/loss_{stream}": loss for stream, loss in metrics.losses.items()}
    found |= {f"heldout/{name}": loss for name, loss in metrics.heldout.items()}
    found |= {name: getattr(metrics, name) for name in PLAIN}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def to_stderr(text: str) -> None:
    """Say a line to whoever watches."""
    print(text, file=sys.stderr, flush=True)


def check(project: str) -> Any:
    """Find W&B's package; ConfigError where it or its key is missing. To be asked before anything is begun,
    where a person asks and in the process that tells W&B."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise ConfigError(
            f"--wandb {project} needs the package wandb, which is not installed; `pip install wandb`, or leave it out"
        ) from None
    if not os.environ.get("WANDB_API_KEY") and os.environ.get("WANDB_MODE") not in ("offline", "disabled"):
        raise ConfigError(
            f"--wandb {project} needs a key; set WANDB_API_KEY in the environment, or WANDB_MODE=offline, or leave it "
            "out"
        )
    return wandb


def environment() -> dict[str, str]:
    """W&B's variables of this process, its key among them: to be handed on, never shown or kept."""
    names = (f"WANDB_{name}" for name in SAID)
    return {name: os.environ[name] for name in names if os.environ.get(name)}


class Board:
    """Curves of a run; on any process but the first of the world it does nothing.

    project: of W&B, whose key comes from WANDB_API_KEY; "" sends nothing anywhere. note: told of what went wrong, once.
    Raises ConfigError where a project is named and wandb or the key is missing.
    """

    def __init__(self, run: Run, world: World, project: str = "", note: Callable[[str], None] = to_stderr) -> None:
        self._files = _Files(run, note) if world.first else None
        self._online = _Online(run, project, note) if world.first and project else None

    def put(self, metrics: Metrics) -> None:
        """Add an update to every curve."""
        values = scalars(metrics)
        for place in (self._files, self._online):
            if place is not None:
                place.put(metrics.update, values)

    def flush(self) -> None:
        """Bring what was put where it can be seen; to be called behind every checkpoint, when the run is written."""
        for place in (self._files, self._online):
            if place is not None:
                place.flush()

    def close(self) -> None:
        """Flush, and let go of files and connections."""
        for place in (self._files, self._online):
            if place is not None:
                place.close()


class _Files:
    """Event files: one that grows in a folder, one a flush elsewhere."""

    def __init__(self, run: Run, note: Callable[[str], None]) -> None:
        self._run, self._note = run, note
        self._writer: Any = None
        self._local = Path()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._begun = self._broken = False
        self._flushed = -math.inf

    def put(self, update: int, values: dict[str, float]) -> None:
        if self._broken:
            return
        try:
            if self._writer is None:
                self._open()
            if not self._begun:
                # an earlier process may have run this update and later ones: TensorBoard drops its points
                self._write(step=update, session_log=SessionLog(status=SessionLog.START))
                self._begun = True
            curves = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            self._write(step=update, summary=Summary(value=curves))
            if self._scratch is None and time.monotonic() - self._flushed > LIVE_S:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def flush(self) -> None:
        if self._writer is None:
            return
        try:
            self._writer.flush()
            if self._scratch is not None:
                self._writer.close()
                self._writer = None
                self._run.store.put_file(f"{FOLDER}/{self._local.name}", self._local)
                self._local.unlink()
        except (OSError, StoreError) as error:
            self._give_up(str(error))

    def close(self) -> None:
        self.flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _open(self) -> None:
        folder = self._run.store.folder
        if folder is not None:
            folder = folder / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
        else:
            self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="kosmos-board-")
            folder = Path(self._scratch.name)
        # TensorBoard reads the files of a folder in the order of their names
        seconds, rest = divmod(time.time_ns(), 10**9)
        self._local = folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}.{socket.gethostname()}"
        self._writer = RecordWriter(str(self._local))
        self._write(file_version="brain.Event:2")

    def _write(self, **of_event: Any) -> None:
        self._writer.write(Event(wall_time=time.time(), **of_event).SerializeToString())

    def _give_up(self, reason: str) -> None:
        self._broken, self._writer = True, None
        self._note(
            f"warning: TensorBoard's files are not written any more ({reason}); training goes on, and the run's "
            "metrics are kept beside its checkpoints"
        )


class _Online:
    """W&B. A run's id lies in its folder; what was sent before is not sent again."""

    def __init__(self, run: Run, project: str, note: Callable[[str], None]) -> None:
        self._run, self._note = run, note
        self._wandb = check(project)
        self._faults = _faults(self._wandb)
        self._described = False
        self._sent: Any = None
        self._try(lambda: self._begin(project))

    def put(self, update: int, values: dict[str, float]) -> None:
        # W&B's step never goes back: updates that run again after a crash are there already
        if self._sent is not None and update >= self._sent.starting_step:
            self._try(lambda: self._sent.log(values, step=update))

    def flush(self) -> None:
        """Say what the run is, once it is written down; curves are on their way as they are put."""
        if self._sent is None or self._described:
            return
        try:
            described = self._run.describe()
        except KosmosError:
            return
        if described is not None:
            self._described = True
            self._try(lambda: self._sent.config.update(dataclasses.asdict(described.config), allow_val_change=True))

    def close(self) -> None:
        self.flush()
        if self._sent is not None:
            self._try(lambda: self._sent.finish())
        self._sent = None

    def _begin(self, project: str) -> None:
        self._sent = self._wandb.init(
            project=project,
            id=self._id(),
            name=Path(self._run.place).name,
            resume="allow",
            # what was typed holds addresses, and the folder's git a remote: neither is W&B's business
            settings=self._wandb.Settings(
                disable_git=True, save_code=False, x_disable_meta=True, console="off", silent=True
            ),
        )

    def _id(self) -> str:
        new = uuid.uuid4().hex[:16]
        if self._run.store.put_new(ID, new.encode()):
            return new
        return self._run.store.get(ID).decode().strip() or new

    def _try(self, send: Callable[[], Any]) -> None:
        try:
            send()
        except self._faults as error:
            self._sent = None
            self._note(
                f"warning: W&B is not told any more ({' '.join(str(error).split()) or type(error).__name__}); training "
                "goes on"
            )


def _faults(wandb: Any) -> tuple[type[BaseException], ...]:
    """What W&B raises when it, its process or the network is at fault."""
    # UsageError, CommError and the like are below Error; a dead process of W&B's is a broken pipe, or one of mailbox's
    found: list[type[BaseException]] = [wandb.errors.Error, OSError, StoreError]
    with contextlib.suppress(ImportError):
        mailbox = importlib.import_module("wandb.sdk.mailbox")
        found += [getattr(mailbox, name) for name in MAILBOX if hasattr(mailbox, name)]
    return tuple(found)
