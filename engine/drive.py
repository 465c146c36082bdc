"""A run as a person starts it: Ray, progress, Ctrl-C around `engine.window.run`."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence

from engine import progress
from engine.attempt import sweep
from engine.cluster import connect, connected, where
from engine.ledger import Ledger
from engine.pool import InlinePool, Pool, RayPool
from engine.recipe import Recipe
from engine.stage import Unit
from engine.window import Drain, Options, StageReport, check, run


def drive(
    recipe: Recipe,
    ledger: Ledger,
    units: Sequence[Unit],
    options: Options | None = None,
    workers: int = 0,
    as_json: bool = False,
) -> list[StageReport]:
    """Run a recipe with a pool of Ray tasks; a memory:// store, which no other process sees, runs in this one."""
    options = options or Options()
    check(recipe, ledger, options.only)
    sweep(options.scratch)
    shown = progress.choose(as_json)
    drain = Drain()
    try:
        with contextlib.ExitStack() as stack:
            pool: Pool
            if ledger.store.url.startswith("memory:"):
                pool = InlinePool(ledger.store.url, options.scratch)
            else:
                if not connected():
                    shown.note(f"starting Ray {where(workers)}; this takes some seconds")
                ray = stack.enter_context(connect(workers or None, options.scratch))
                pool = RayPool(ray, ledger.store.url, options.scratch, options.timeout_s)
            stack.enter_context(_interrupts(drain))
            return run(recipe, ledger, units, pool, shown, options, drain)
    finally:
        shown.close()


@contextlib.contextmanager
def _interrupts(drain: Drain) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
