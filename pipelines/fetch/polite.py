"""How often one domain is asked: never more than so many requests at a time, never closer than the rate, and no more
once it has not answered so many times in a row.

A domain is never in two units in flight, so what holds inside a unit holds for the whole cluster. Time is pace here
and nothing else: a request waits for its turn however long, and no outcome depends on the wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from pipelines.ids import Ids
from pipelines.reasons import Reason


def interleave(domains: Sequence[str], url_ids: Ids) -> npt.NDArray[np.intp]:
    """An order of the rows in which every domain is spread evenly from the first row to the last.

    The largest domain is then the pace of all others from the start, so threads wait for it only if it is the pace of
    the whole unit anyway; one domain after the other would hold all threads at each large one. Every domain starts at
    its own share of its step, given by its first address: those with one address would all meet in the middle.
    """
    num = len(domains)
    if not num:
        return np.zeros(0, np.intp)
    _, first, inverse, sizes = np.unique(
        np.asarray(domains, object).astype("U"), return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(inverse, kind="stable")
    rank = np.empty(num, np.intp)
    rank[order] = np.arange(num) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # ids are hashes, but their first bits are alike within a partition, so the last eight bytes
    tails = np.ascontiguousarray(url_ids).view(">u8").reshape(-1, 4)[:, 3]
    start = tails[first].astype(np.float64) / 2.0**64
    places = (rank + start[inverse]) / sizes[inverse]
    return np.lexsort((np.arange(num), places))


# What a server says or leaves unsaid when it cannot be asked now.
UNANSWERED = frozenset((Reason.DNS, Reason.CONNECT, Reason.TIMEOUT, Reason.HTTP_BUSY, Reason.HTTP_SERVER))


class Breaker:
    """Which domains are not asked any more: those with `most` requests in a row that were not answered (0: none).

    A dead server would hold a unit for hours, at seconds a request, and a busy one asks to be left alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._in_a_row: dict[str, int] = {}

    def down(self, domain: str) -> bool:
        """Whether the domain is given up, for this unit."""
        with self._lock:
            return bool(self._most) and self._in_a_row.get(domain, 0) >= self._most

    def note(self, domain: str, reason: Reason) -> None:
        """What came of a request."""
        with self._lock:
            self._in_a_row[domain] = self._in_a_row.get(domain, 0) + 1 if reason in UNANSWERED else 0


class Turns:
    """Who may ask a domain now. rate: requests a second and domain, 0 for no spacing; at_once: requests in flight.

    A thread waits at most for the requests of the threads before it, and each of those ends by its own limits.
    """

    def __init__(self, rate: float, at_once: int) -> None:
        self._step = 1.0 / rate if rate else 0.0
        self._at_once = at_once
        self._lock = threading.Lock()
        self._gates: dict[str, threading.Semaphore] = {}
        self._next: dict[str, float] = {}

    @contextmanager
    def turn(self, domain: str) -> Iterator[None]:
        """Wait for a turn and hold it."""
        with self._lock:
            gate = self._gates.setdefault(domain, threading.Semaphore(self._at_once))
        with gate:
            if self._step:
                with self._lock:
                    now = time.monotonic()
                    start = max(now, self._next.get(domain, now))
                    self._next[domain] = start + self._step
                if start > now:
                    time.sleep(start - now)
            yield
