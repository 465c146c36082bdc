"""Runs one unit: limits, spill, sort, write, then commit or record the failure. Knows no Ray.

After a worker died at a unit, the next attempt is careful: a child process does the work and notes each record in
shared memory, so the parent sees which record killed it. The second death at the same record skips that record.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import faulthandler
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from engine.arrow import File
from engine.errors import StoreError
from engine.ledger import Commit, Ledger, code_version
from engine.stage import OFFSETS, Outcome, Stage, Unit
from engine.work import LedgerWork, Note
from engine.writer import OutputWriter

CRASHES = 2  # deaths at one record before it is skipped as `crashed`
MAX_POISON = 32  # records skipped so in one unit before the unit fails instead
MAX_STRAY = 8  # records at which it died once: then it is the machine, not a record, and would go on without end


def attempt(
    url: str, stage: Stage, unit: Unit, scratch: str = "", careful: bool = False, timeout_s: float = 0.0
) -> Outcome:
    """Compute one unit and commit it, unless it has a commit. Never raises for the unit's own faults.

    scratch: a folder on a local disk (default: the system's). careful: guard against records that kill the process.
    timeout_s: a watchdog that ends THIS PROCESS (0: none); it fails the unit, it never shortens its output.
    """
    try:
        ledger = Ledger(url)
        if ledger.is_committed(stage.key, unit.id):
            return Outcome(unit=unit.id, state="skipped")
        tag = uuid.uuid4().hex[:8]
        try:
            if careful:
                sweep(scratch)  # the worker that died left its folder, maybe on this machine
            with scratch_folder(scratch, f"{stage.name}-{unit.id}.{tag}") as folder:
                if careful:
                    return _guarded(ledger, stage, unit, tag, folder, timeout_s)
                return _compute(ledger, stage, unit, tag, folder, timeout_s=timeout_s)
        except OSError as error:
            # this machine's disk, not the store: another machine may do the unit
            fault = f"the scratch disk at {_root(scratch)} cannot be used ({error}); give --scratch another folder"
            return _failed(ledger, stage, unit, tag, fault, 0.0)
    except StoreError as error:
        return Outcome(unit=unit.id, state="store", error=str(error))


@contextlib.contextmanager
def scratch_folder(scratch: str, name: str) -> Iterator[Path]:
    """A folder of this process's own on the scratch disk, removed afterwards."""
    root = _root(scratch)
    folder = root / f"{name}.{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _root(scratch: str) -> Path:
    return Path(scratch) if scratch else Path(tempfile.gettempdir()) / f"kosmos-{os.getuid()}"


def sweep(scratch: str) -> None:
    """Remove scratch folders of processes that are gone (killed workers leave theirs)."""
    for folder in _root(scratch).glob("*.*.*"):
        pid = folder.name.rsplit(".", 1)[-1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def produce(stage: Stage, unit: Unit, work: LedgerWork, folder: Path) -> tuple[dict[str, list[File]], str]:
    """Run `process` and write its rows below a local folder: (files by output, "") or ({}, what went wrong).

    Any exception but a StoreError is the unit's fault and becomes the sentence.
    """
    writers = {output.name: OutputWriter(output, folder) for output in stage.outputs}
    try:
        for name, table in stage.resolve()(unit, stage.config, work):
            writers[name].add(table)
        files = {name: writer.finish() for name, writer in writers.items()}
        return files | {
            name + OFFSETS: writer.sidecar() for name, writer in writers.items() if writer.output.located
        }, ""
    except StoreError:
        raise
    except Exception as error:
        work.trace = traceback.format_exc()
        return {}, _sentence(error, folder)
    finally:
        for writer in writers.values():
            writer.close()


def _compute(
    ledger: Ledger,
    stage: Stage,
    unit: Unit,
    tag: str,
    folder: Path,
    note: Note | None = None,
    poisoned: frozenset[int] = frozenset(),
    timeout_s: float = 0.0,
) -> Outcome:
    started, cpu = time.monotonic(), time.process_time()
    _reset_peak()
    work = LedgerWork(ledger, stage, unit, folder, note, poisoned)
    with _watchdog(timeout_s):
        local, fault = produce(stage, unit, work, folder)
    if fault:
        return _failed(ledger, stage, unit, tag, fault, time.monotonic() - started, work.trace)
    outputs: dict[str, tuple[File, ...]] = {}
    for name, files in local.items():
        placed = []
        for index, file in enumerate(files):
            path = f"{stage.key}/data/{unit.id}.{tag}.{name}.{index}.arrow"
            ledger.store.put_file(path, Path(file.path))
            placed.append(dataclasses.replace(file, path=path))
        outputs[name] = tuple(placed)
    seconds = time.monotonic() - started
    commit = Commit(
        stage=stage.key,
        unit=unit.id,
        attempt=tag,
        outputs=outputs,
        inputs=unit.inputs,
        generation=unit.generation,
        counts=dict(sorted(work.counts.items())),
        crashed=tuple(work.skipped),
        seconds=round(seconds, 3),
        cpu_seconds=round(time.process_time() - cpu, 3),
        peak_bytes=_peak(),
        host=os.uname().nodename,
        code=code_version(),
    )
    state = "committed" if ledger.put_commit(commit) else "lost"
    rows = sum(file.rows for files in outputs.values() for file in files)
    return Outcome(unit=unit.id, state=state, rows=rows, num_bytes=commit.num_bytes, seconds=seconds)


@contextlib.contextmanager
def _watchdog(timeout_s: float) -> Iterator[None]:
    # a C-level thread: it ends the process also when a library hangs with the interpreter's lock. The driver then
    # sees a dead worker and makes the next attempt a careful one, which names the record
    if timeout_s <= 0:
        yield
        return
    faulthandler.dump_traceback_later(timeout_s, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _failed(ledger: Ledger, stage: Stage, unit: Unit, tag: str, error: str, seconds: float, trace: str = "") -> Outcome:
    ledger.put_failure(stage.key, unit, tag, error, trace=trace, host=os.uname().nodename)
    return Outcome(unit=unit.id, state="failed", seconds=seconds, error=error[:300])


def _sentence(error: BaseException, folder: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the scratch disk at {folder.parent} is full; free it or give --scratch another folder"
    return f"{type(error).__name__}: {error}"


def _guarded(ledger: Ledger, stage: Stage, unit: Unit, tag: str, folder: Path, timeout_s: float) -> Outcome:
    deaths: Counter[int] = Counter()
    poisoned: frozenset[int] = frozenset()
    started = time.monotonic()
    while True:
        note = Note(folder / "note")
        note.write(-1)
        (folder / "task").write_bytes(pickle.dumps((ledger, stage, unit, tag, poisoned)))
        # the answer comes by a pipe, which a full disk cannot hold up; an Outcome is far below the pipe's 64 KiB
        answer, mouth = os.pipe()
        child = subprocess.Popen(
            [sys.executable, "-m", "engine.attempt", str(folder), str(mouth)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.DEVNULL,
            pass_fds=(mouth,),
            start_new_session=True,  # Ctrl-C in a terminal is for the driver: here it would read as a poison record
        )
        os.close(mouth)
        try:
            code = child.wait(timeout_s or None)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return _failed(
                ledger, stage, unit, tag, f"no end after {timeout_s:.0f} s, at record offset {note.read()}", timeout_s
            )
        finally:
            with open(answer, "rb") as ear:
                body = b"" if child.poll() is None else ear.read()
        # the answer is the last thing that it says: how the interpreter ended after it is no matter
        if body:
            outcome: Outcome = pickle.loads(body)
            return outcome
        at = note.read()
        deaths[at] += 1
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if at < 0 and deaths[at] >= CRASHES:
            error = f"the process died ({how}) before its first record, {deaths[at]} times"
            return _failed(ledger, stage, unit, tag, error, time.monotonic() - started)
        if deaths[at] >= CRASHES:
            poisoned |= {at}
        if len(deaths) - len(poisoned) > MAX_STRAY:
            error = f"the process died ({how}) at {len(deaths)} records; is the machine short of memory?"
            return _failed(ledger, stage, unit, tag, error, time.monotonic() - started)
        if len(poisoned) > MAX_POISON:
            error = f"more than {MAX_POISON} records kill the process ({how}), the last at offset {at}"
            return _failed(ledger, stage, unit, tag, error, time.monotonic() - started)


def _child(folder: Path, mouth: int) -> None:
    # die with the parent: PR_SET_PDEATHSIG = 1 (linux/prctl.h); elsewhere an orphan ends by itself, its commit counts
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # written by our parent a moment ago, in a folder of our own: not an untrusted pickle
    ledger, stage, unit, tag, poisoned = pickle.loads((folder / "task").read_bytes())
    try:
        outcome = _compute(ledger, stage, unit, tag, folder, Note(folder / "note"), poisoned)
    except StoreError as error:
        outcome = Outcome(unit=unit.id, state="store", error=str(error))
    with open(mouth, "wb") as pipe:
        pipe.write(pickle.dumps(outcome))


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    _child(Path(sys.argv[1]), int(sys.argv[2]))
