"""What the robots.txt of each origin (scheme, host, port) said: asked before anything else of it, once a unit.

Whoever comes while it is being asked waits, and holds no turn. What it said is kept for the unit, the rules of at most
CACHE_BYTES: beyond, those that were used least lately are forgotten, and asked for again should they be needed.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyarrow as pa

from engine import schema
from engine.stage import SIDE
from pipelines.fetch import robots
from pipelines.fetch.network import Answer
from pipelines.reasons import Reason

T = TypeVar("T")

CACHE_BYTES = 64 << 20
TEXT_BYTES = 32 << 20  # of the lines kept as evidence; a file has 16 KiB of them at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What holds for an origin. reason: KEPT where there are rules, or why there are none, or why nothing is asked."""

    reason: Reason
    value: float = 0.0
    rules: robots.Rules = robots.NONE

    def verdict(self, url: str, respect_opt_out: bool) -> tuple[Reason, float]:
        """(reason, value) why an address of the origin may not be asked for; KEPT if it may."""
        if not robots.allowed(self.reason):
            return self.reason, self.value
        if not self.rules.allows(url):
            return Reason.ROBOTS, 0.0
        if respect_opt_out and self.rules.reserved(url):
            return Reason.OPT_OUT_ROBOTS, 0.0
        return Reason.KEPT, 0.0


def origin(url: str) -> str:
    """scheme://host of a canonical address, with the port unless it is the scheme's."""
    return "/".join(url.split("/", 3)[:3])


class Origins(Generic[T]):
    """The origins of a unit; T: what waits for one."""

    def __init__(self, agent: str, cache_bytes: int = CACHE_BYTES) -> None:
        self._agent = agent
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Standing] = OrderedDict()  # used least lately first
        self._num_bytes = 0
        self._text_bytes = 0
        self._waiting: dict[str, list[T]] = {}  # of the origins that are being asked
        self._rows: dict[str, tuple[object, ...]] = {}

    def enter(self, name: str, task: T) -> Standing | bool:
        """What holds for an origin. Where nobody knows, the task waits until `tell`: True if it is for the caller to
        ask, False if somebody does."""
        with self._lock:
            standing = self._known.get(name)
            if standing is not None:
                self._known.move_to_end(name)
                return standing
            self._waiting.setdefault(name, []).append(task)
            return len(self._waiting[name]) == 1

    def known(self, name: str) -> Standing | None:
        """What holds for an origin, if it was asked."""
        with self._lock:
            return self._known.get(name)

    def tell(self, name: str, answer: Answer, reason: Reason | None = None, also: str = "") -> tuple[Standing, list[T]]:
        """Note what the last answer means (reason: says it, where it is no answer); who waited for it. also: the
        origin whose robots.txt it was in the end, by a redirect, which need not be asked for it again."""
        reason = robots.standing(answer.reason, answer.value) if reason is None else reason
        rules = robots.NONE if reason else robots.parse(answer.text, self._agent)
        standing = Standing(reason=reason, value=0.0 if not reason else answer.value, rules=rules)
        with self._lock:
            self._note(name, standing, answer)
            if also and also not in self._known and also not in self._waiting:
                self._note(also, standing, answer)
            return standing, self._waiting.pop(name, [])

    def _note(self, name: str, standing: Standing, answer: Answer) -> None:
        rules = standing.rules
        self._known[name] = standing
        self._num_bytes += rules.num_bytes
        while self._num_bytes > self._cache_bytes and len(self._known) > 1:
            _, old = self._known.popitem(last=False)
            self._num_bytes -= old.rules.num_bytes
        if standing.reason in (Reason.DOMAIN_DOWN, Reason.DEFERRED):
            return  # it was not asked
        self._text_bytes += len(rules.text)
        text = rules.text if self._text_bytes <= TEXT_BYTES else ""
        digest = bytes(32) if standing.reason else hashlib.sha256(answer.text).digest()
        at_ms, size = round(answer.at * 1000), len(answer.text)
        self._rows[name] = (name, int(standing.reason), answer.value, at_ms, digest, size, text, rules.delay)

    def rows(self) -> pa.Table:
        """schema.ROBOTS, a row an origin that was asked, in order."""
        rows = [self._rows[name] for name in sorted(self._rows)]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema.ROBOTS)
        arrays = [pa.array(list(column), f.type) for column, f in zip(columns, schema.ROBOTS, strict=True)]
        return pa.Table.from_arrays(arrays, schema=schema.ROBOTS)

    def counts(self) -> Counter[str]:
        """Origins that were asked: those with a robots.txt, those without, and those of which nothing may be asked."""
        found: Counter[str] = Counter()
        for row in self._rows.values():
            reason = Reason(int(str(row[1])))
            word = "robots" if not reason else "no_robots" if robots.allowed(reason) else "robots_unreachable"
            found[f"origins{SIDE}{word}"] += 1
        return found
