"""The processes that torchrun started, as one: they train together, and one of them speaks for all."""

from __future__ import annotations

import contextlib
import functools
import os
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta

from torch import distributed

from engine.errors import KosmosError
from trainer.checkpoints.run import Run
from trainer.checkpoints.sharded import Gone
from trainer.job import Job
from trainer.news import first_line, keep_failure
from trainer.world import World, opened

CRASHES = (RuntimeError, OSError, MemoryError)  # what CUDA, NCCL and gloo raise, disks, and allocators
AFTER_S = 1.0  # who was only left by another lets that one speak first


@contextlib.contextmanager
def together(job: Job) -> Iterator[World]:
    """The world of the processes that torchrun started. Of those that fail, the first tells why; the others end with
    an exit code alone, for what they would say is the same, or that a process has left them.
    """
    tells = functools.cache(_first_to_tell)
    try:
        with opened(job.config.system.precision) as world:
            try:
                yield world
            except (KosmosError, *CRASHES) as error:
                if isinstance(error, Gone):
                    time.sleep(AFTER_S)
                tells()  # settled before the group ends, which makes the others fail
                raise
    except KosmosError as error:
        if not tells():
            raise SystemExit(error.exit_code) from None
        raise
    except CRASHES as error:
        if not tells():
            raise SystemExit(KosmosError.exit_code) from None
        path = keep_failure(Run(job.out), traceback.format_exc())
        raise KosmosError(
            f"process {os.environ.get('RANK', '0')} failed ({first_line(error)}); the whole of it is in {path}; the "
            "same command resumes"
        ) from None


def _first_to_tell() -> bool:
    """Whether no other of torchrun's processes has failed before this one; true where they cannot be asked."""
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdecimal():
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        common = distributed.TCPStore(  # type: ignore[attr-defined]
            address, int(port), is_master=False, timeout=timedelta(seconds=5), wait_for_workers=False
        )
        return bool(common.add(f"kosmos/told/{attempt}", 1) == 1)
    except RuntimeError:
        return True
