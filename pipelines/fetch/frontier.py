"""Who is asked next: of each domain never more than so many requests at a time, never closer than its step, and none
while it has asked to be left alone.

A domain is never in two units in flight, so what holds inside a unit holds for the whole cluster. No thread waits for
one domain while another may be asked: a task that needs a further request (a redirect, a repeat) goes back to its
domain and waits there for a turn. Of the domains that may be asked now the large ones are first, because they are the
pace of the unit; of those of about one size, those that nobody is asking, and then those whose connection is open.

Time is pace here, and decides an outcome only in what is given up: a domain that does not answer, and what would have
no turn before the unit's end or after too many pauses.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipelines.reasons import Reason

T = TypeVar("T")

# What a server says or leaves unsaid when it cannot be asked now.
UNANSWERED = frozenset((Reason.DNS, Reason.CONNECT, Reason.TIMEOUT, Reason.HTTP_BUSY, Reason.HTTP_SERVER))
URGENT = 1 << 20  # the size of a domain that comes in between: others wait for what is asked there


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """step_s: seconds between the starts of two requests to a domain. at_once: its requests in flight. unanswered: in
    a row, after which it is given up (0: never). pause_s: the first pause of a domain that asks for one and does not
    say how long; the next is twice as long. max_pause_s: all pauses of a domain. unit_s: no turn begins later."""

    step_s: float = 0.5
    at_once: int = 2
    unanswered: int = 10
    pause_s: float = 5.0
    max_pause_s: float = 120.0
    unit_s: float = 2400.0


@dataclass(eq=False, slots=True)
class Lane(Generic[T]):
    """One domain: what is left to ask, and when it may be asked. Times are those of the frontier's clock."""

    name: str
    step_s: float
    pause_s: float  # the next, if it does not say how long
    tasks: deque[T] = field(default_factory=deque)
    size: int = 0  # tasks that it began with
    next: float = -math.inf  # no turn begins earlier
    last: float = -math.inf  # the last request began
    in_flight: int = 0
    over: Reason = Reason.KEPT  # why it is not asked any more, in this unit
    in_a_row: int = 0  # not answered
    paused_s: float = 0.0
    rest: tuple[float, float] = (-math.inf, -math.inf)  # begin and end of its last pause
    until: float = -math.inf  # it has asked to be left alone
    stamp: int = 0  # of its valid entry in a heap


@dataclass(eq=False, slots=True)
class Turn(Generic[T]):
    """A task and the right to ask its domain once; over: why it may not be asked any more, KEPT if it may."""

    lane: Lane[T]
    task: T
    over: Reason
    start: float
    before: float  # the lane's next, should this turn not be used
    after: float
    used: bool = False  # a request was made
    ended: bool = False


class Frontier(Generic[T]):
    """The tasks of a unit by domain. `put`, `take`, `end`; any thread may call them."""

    def __init__(self, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self.pace = pace
        self._clock = clock
        self._begin = clock()
        self._lanes: dict[str, Lane[T]] = {}
        self._later: list[tuple[float, int, Lane[T]]] = []  # by time, stamp
        self._ready: list[tuple[tuple[int, int, bool], int, Lane[T]]] = []  # by rank, then by stamp
        self._stamps = itertools.count(1)
        self._out = 0  # turns that have not ended
        self._lock = threading.Lock()
        # one thread waits for a time, and the others for it: woken together they would fight for each turn
        self._first, self._others = threading.Condition(self._lock), threading.Condition(self._lock)
        self._waiting_until: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._begin

    def put(self, domain: str, tasks: Iterable[T], first: bool = False) -> None:
        """Add tasks of a domain behind what it has, or before that, in their order."""
        with self._lock:
            lane = self._lanes.get(domain)
            if lane is None:
                lane = self._lanes[domain] = Lane(domain, self.pace.step_s, self.pace.pause_s)
                # the unit before this one may have asked the domain just now, and may have been killed since
                lane.next = self._begin + self.pace.step_s
            if first:
                lane.size = lane.size or URGENT
                lane.tasks.extendleft(reversed(list(tasks)))
            else:
                lane.tasks.extend(tasks)
                lane.size = len(lane.tasks)
            self._offer(lane)

    def slow(self, domain: str, step_s: float) -> None:
        """Make a domain's step at least so long."""
        with self._lock:
            lane = self._lanes[domain]
            if step_s > lane.step_s:
                # the turn that told so is over, or nearly
                lane.next = max(lane.next, lane.next - lane.step_s + step_s)
                lane.step_s = step_s

    def resume(self, domain: str, rest_s: float, unanswered: int) -> None:
        """Go on with a domain where another unit left it: it rests for so many seconds more, and has not answered so
        many times in a row; one more request may still show that it does. Before anything is taken."""
        with self._lock:
            lane, now = self._lanes[domain], self._clock()
            lane.in_a_row = min(unanswered, max(0, self.pace.unanswered - 1))
            if rest_s > 0:
                lane.until, lane.paused_s = now + rest_s, rest_s
                if rest_s > self.pace.max_pause_s:
                    lane.over = Reason.DEFERRED
                else:
                    lane.next = max(lane.next, lane.until)
            self._offer(lane)

    def left(self, domain: str) -> tuple[float, int]:
        """(seconds that a domain still wants to be left alone, its last requests in a row that were not answered)."""
        with self._lock:
            lane = self._lanes.get(domain)
            return (max(0.0, lane.until - self._clock()), lane.in_a_row) if lane else (0.0, 0)

    def take(self) -> Turn[T] | None:
        """Wait for a turn; None if nothing is left to take and nobody holds what could come back."""
        with self._lock:
            while True:
                found = self._poll()
                if not isinstance(found, float):
                    self._others.notify()  # it may wait for the time now
                    if found is None:
                        self._wake_all()
                    return found
                if self._waiting_until is not None or found == math.inf:
                    self._others.wait()
                    continue
                self._waiting_until = self._clock() + found
                self._first.wait(found)
                self._waiting_until = None

    def poll(self) -> Turn[T] | float | None:
        """A turn, or the seconds until there may be one (inf: not before one ends), or None as in `take`."""
        with self._lock:
            return self._poll()

    def starts(self, turn: Turn[T]) -> float:
        """Note that the request of a turn is made now, which may be later than the turn began: the step counts from
        here. Seconds to wait before, where a turn of the domain that began earlier has only just come as far."""
        with self._lock:
            lane, now = turn.lane, self._clock()
            turn.used, turn.start = True, max(now, lane.last + lane.step_s)
            lane.last = turn.start
            lane.next = turn.after = max(lane.next, turn.start + lane.step_s)
            return turn.start - now

    def end(self, turn: Turn[T], reason: Reason | None = None, busy: bool = False, wish_s: float | None = None) -> None:
        """Give a turn back; what follows from it must have been put before. reason: what came of the request, None if
        none was made. busy: whether the server asked to be left alone for a while, wish_s: how long, if it said so."""
        with self._lock:
            if turn.ended:
                return
            turn.ended = True
            self._out -= 1
            if not turn.over:
                turn.lane.in_flight -= 1
                if reason is not None:
                    self._note(turn, reason, busy, wish_s)
                elif not turn.used and turn.lane.next == turn.after:
                    turn.lane.next = turn.before
            self._offer(turn.lane)
            if not self._out:
                self._wake_all()

    def _note(self, turn: Turn[T], reason: Reason, busy: bool, wish_s: float | None) -> None:
        lane = turn.lane
        lane.in_a_row = lane.in_a_row + 1 if reason in UNANSWERED else 0
        if busy:
            self._pause(turn, wish_s)
        elif not lane.in_a_row:
            lane.pause_s = self.pace.pause_s
        if self.pace.unanswered and lane.in_a_row >= self.pace.unanswered:
            lane.over = lane.over or Reason.DOMAIN_DOWN

    def _pause(self, turn: Turn[T], wish_s: float | None) -> None:
        lane, now = turn.lane, self._clock()
        begin, end = lane.rest
        if wish_s is None and turn.start < begin:
            return  # it was in flight when the last pause began, and says the same
        wait = lane.pause_s if wish_s is None else wish_s
        if wish_s is None:
            lane.pause_s *= 2
        lane.until = max(lane.until, now + wait)
        lane.paused_s += max(0.0, now + wait - max(now, end))
        if lane.paused_s > self.pace.max_pause_s:
            lane.over = lane.over or Reason.DEFERRED
        else:
            lane.rest = now, max(end, now + wait)
            lane.next = max(lane.next, now + wait)

    def _offer(self, lane: Lane[T]) -> None:
        """Let a lane be taken from, if it has anything and may be asked; what stood in a heap of it is void."""
        lane.stamp = next(self._stamps)
        if not lane.tasks or not (lane.over or lane.in_flight < self.pace.at_once):
            return
        at = -math.inf if lane.over else lane.next
        heapq.heappush(self._later, (at, lane.stamp, lane))
        if self._waiting_until is None:
            self._others.notify()
        elif at < self._waiting_until:
            self._first.notify()

    def _poll(self) -> Turn[T] | float | None:
        now = self._clock()
        while True:
            self._ripen(now)
            while self._ready:
                _, stamp, lane = heapq.heappop(self._ready)
                if stamp != lane.stamp:
                    continue
                if lane.over or lane.next <= now:
                    return self._hand(lane, now)
                heapq.heappush(self._later, (lane.next, stamp, lane))  # told to pause meanwhile
            self._ripen(now)
            if self._ready:
                continue
            if not self._later:
                return math.inf if self._out else None
            at, _, lane = self._later[0]
            if at < self._begin + self.pace.unit_s:
                return at - now
            heapq.heappop(self._later)
            return self._hand(lane, at)  # it has no turn in this unit, and the others in this heap have none either

    def _ripen(self, now: float) -> None:
        """Move the lanes whose time has come from one heap to the other."""
        while self._later:
            at, stamp, lane = self._later[0]
            if stamp != lane.stamp:
                heapq.heappop(self._later)
            elif not lane.over and lane.next > at:
                heapq.heapreplace(self._later, (lane.next, stamp, lane))
            elif at <= now:
                heapq.heappop(self._later)
                heapq.heappush(self._ready, (_rank(lane), stamp, lane))
            else:
                return

    def _hand(self, lane: Lane[T], now: float) -> Turn[T]:
        if not lane.over and now >= self._begin + self.pace.unit_s:
            lane.over = Reason.DEFERRED
        turn = Turn(lane, lane.tasks.popleft(), lane.over, now, lane.next, lane.next)
        self._out += 1
        if not lane.over:
            lane.in_flight += 1
            lane.next = turn.after = now + lane.step_s
        self._offer(lane)
        return turn

    def _wake_all(self) -> None:
        self._first.notify_all()
        self._others.notify_all()


def _rank(lane: Lane[T]) -> tuple[int, int, bool]:
    """The smallest is first: by the power of two of the milliseconds that it takes in all, then as the top says."""
    return -int(lane.size * max(1.0, lane.step_s * 1e3)).bit_length(), lane.in_flight, lane.last == -math.inf
