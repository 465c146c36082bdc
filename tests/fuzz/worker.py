"""One process of the fuzzer: tries inputs on one target, shrinks and keeps what fails."""

from __future__ import annotations

import hashlib
import mmap
import random
import signal
import time
import traceback
from pathlib import Path

from tests.fuzz import mutate
from tests.fuzz.targets import TARGETS

KEPT = 20  # findings of one target
TRY_S = 20  # of processor time before an input counts as one that hangs


def fails(name: str, data: bytes) -> str:
    """What is wrong with the answer to an input: the error and where it was raised, "" if nothing is."""
    try:
        TARGETS[name].run(data)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {error} ({Path(place.filename).name}:{place.lineno})"[:300]
    return ""


def shrunk(name: str, data: bytes) -> bytes:
    """A shorter input that fails in the same way."""
    wrong, size = fails(name, data), len(data) // 2
    while size:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + size :]
            if fails(name, shorter) == wrong:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def work(name: str, seed: int, seconds: float, current: Path, folder: Path) -> None:
    """Try inputs until the time is up; `current` holds the count of tries and the input that is tried now."""
    rng, corpus, known, tries = random.Random(f"{name} {seed}"), [b""], set[str](), 0
    with current.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        TARGETS[name].run(b"")  # kernels are compiled
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            data = mutate.made(TARGETS[name].tokens, rng, corpus)
            tries += 1
            view[: 16 + len(data)] = tries.to_bytes(8, "little") + len(data).to_bytes(8, "little") + data
            signal.setitimer(signal.ITIMER_VIRTUAL, TRY_S)  # the default action of its signal ends the process
            wrong = fails(name, data)
            if wrong and wrong not in known and len(known) < KEPT:
                known.add(wrong)
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                save(folder, name, shrunk(name, data), wrong)


def save(folder: Path, name: str, data: bytes, wrong: str) -> None:
    """Keep a finding, and say so."""
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    print(f"{name}: {wrong}\n  {path} ({len(data)} bytes) {data[:200]!r}", flush=True)
