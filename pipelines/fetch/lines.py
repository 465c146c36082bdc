"""The lines of a unit: at most as many as its threads, and a domain gets the line that asked it last.

So its connection is open already, whichever thread asks, and no line is made for each domain: a new one costs 4 ms of
CPU for the CA bundle, and its first request the handshakes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from pipelines.fetch.network import CONNECTIONS, Line, Policy


class Lines:
    """The lines of a unit, at most as many as its threads; a domain gets the line that asked it last, if it is free."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lock = Lock()
        self._idle: OrderedDict[int, Line] = OrderedDict()  # by number, longest idle first
        self._last: dict[str, list[int]] = {}
        self._made = 0

    @contextmanager
    def lend(self, domain: str) -> Iterator[Line]:
        """A line for one request."""
        with self._lock:
            known = [number for number in self._last.get(domain, []) if number in self._idle]
            if known:
                number, line = known[-1], self._idle.pop(known[-1])
            elif self._idle:
                number, line = self._idle.popitem(last=False)
            else:
                number, line = self._made, Line(self._policy)
                self._made += 1
        try:
            yield line
        finally:
            with self._lock:
                self._idle[number] = line
                kept = [other for other in self._last.get(domain, []) if other != number]
                self._last[domain] = [*kept, number][-CONNECTIONS:]

    def close(self) -> None:
        """Close all; none may be lent."""
        for line in self._idle.values():
            line.close()
        self._idle.clear()
