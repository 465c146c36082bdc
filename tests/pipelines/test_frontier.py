"""Whose turn it is: a unit under a clock that the test turns."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.fetch.frontier import Frontier, Lane, Pace, Turn
from pipelines.reasons import Reason


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Task:
    name: int
    domain: str
    requests: int  # until it has its answer
    seconds: float  # each takes
    late: float  # from its turn to the request


@dataclass
class World:
    """Threads that take turns: what they did, by domain."""

    frontier: Frontier[Task]
    clock: Clock
    num_threads: int
    starts: dict[str, list[float]] = field(default_factory=dict)
    flying: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    over: dict[int, Reason] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Until nothing is left. A thread is idle only while nothing may be asked."""
        events: list[tuple[float, int, str, Turn[Task]]] = []
        order, free = itertools.count(), self.num_threads
        while True:
            found: Turn[Task] | float | None = math.inf
            while free and isinstance(found := self.frontier.poll(), Turn):
                if found.over:
                    self.over[found.task.name] = found.over
                    self.done.append(found.task.name)
                    self.frontier.end(found)
                    continue
                free -= 1
                heapq.heappush(events, (self.clock.now + found.task.late, next(order), "start", found))
            wake = self.clock.now + found if free and isinstance(found, float) else math.inf
            if not events and wake == math.inf:
                return
            if wake < (events[0][0] if events else math.inf):
                self.clock.now = max(wake, self.clock.now)
                continue
            self.clock.now, _, kind, turn = heapq.heappop(events)
            task, name = turn.task, turn.lane.name
            if kind == "start":
                wait = self.frontier.starts(turn)
                begin = self.clock.now + wait
                self.starts.setdefault(name, []).append(begin)
                self.flying[name] += 1
                self.most[name] = max(self.most[name], self.flying[name])
                heapq.heappush(events, (begin + task.seconds, next(order), "end", turn))
                continue
            self.flying[name] -= 1
            free += 1
            task.requests -= 1
            if task.requests:
                self.frontier.put(task.domain, [task], first=True)
            else:
                self.done.append(task.name)
            self.frontier.end(turn, Reason.KEPT)


def world(tasks: list[Task], pace: Pace, num_threads: int) -> World:
    clock = Clock()
    frontier: Frontier[Task] = Frontier(pace, clock)
    for task in tasks:
        frontier.put(task.domain, [task])
    return World(frontier, clock, num_threads)


TASKS = st.lists(
    st.builds(
        Task,
        name=st.just(0),
        domain=st.sampled_from("abcd"),
        requests=st.integers(1, 3),
        seconds=st.sampled_from([0.0, 0.01, 0.3, 1.0, 20.0]),
        late=st.sampled_from([0.0, 0.0, 0.05, 2.0]),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(TASKS, st.sampled_from([0.0, 0.1, 1.0]), st.integers(1, 3), st.integers(1, 6))
def test_no_domain_is_asked_too_often(tasks: list[Task], step: float, at_once: int, num_threads: int) -> None:
    """Whatever the requests take and however late threads are; every task ends, and each request is made."""
    for name, task in enumerate(tasks):
        task.name = name
    asked = Counter(task.domain for task in tasks for _ in range(task.requests))
    made = world(tasks, Pace(step_s=step, at_once=at_once, unit_s=math.inf), num_threads)
    made.run()
    assert sorted(made.done) == list(range(len(tasks))) and not made.over
    assert {domain: len(starts) for domain, starts in made.starts.items()} == asked
    assert all(most <= at_once for most in made.most.values())
    for starts in made.starts.values():
        # the unit before this one may have asked just before this one began
        assert all(b - a >= step - 1e-6 for a, b in itertools.pairwise([1000.0, *starts]))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 20))
def test_a_slow_domain_holds_up_nobody(num_slow: int, num_threads: int, num_others: int) -> None:
    """One that may be asked once in a minute, and others that may be asked at once."""
    slow = [Task(k, "slow", 1, 0.01, 0.0) for k in range(num_slow)]
    others = [Task(100 + k, f"d{k}", 1, 0.01, 0.0) for k in range(num_others)]
    made = world([*slow, *others], Pace(step_s=60.0, unit_s=math.inf), num_threads)
    made.run()
    ends = [starts[0] for name, starts in made.starts.items() if name != "slow"]
    assert all(end - 1060.0 <= 0.01 * (num_others + 1) / num_threads + 0.02 for end in ends)


def test_large_domains_are_first_and_then_those_at_work() -> None:
    names = "abbbbbccdd"
    made = world([Task(k, names[k], 1, 0.0, 0.0) for k in range(len(names))], Pace(step_s=0.0), 1)
    made.run()
    assert "".join(names[name] for name in made.done) == "bbbbbccdda"
    made = world([Task(k, names[k], 1, 1.0, 0.0) for k in range(len(names))], Pace(step_s=0.0), 3)
    made.run()
    assert made.starts["b"] == [1000.0, 1000.0, 1001.0, 1001.0, 1002.0] and made.starts["c"][0] == 1000.0
    assert made.starts["d"] == [1002.0, 1002.0] and made.starts["a"] == [1003.0]


@given(st.integers(1, 60), st.integers(1, 20))
def test_what_has_no_turn_in_time_is_deferred(num: int, unit: int) -> None:
    made = world([Task(k, "a", 1, 0.0, 0.0) for k in range(num)], Pace(step_s=1.0, unit_s=float(unit)), 2)
    made.run()
    assert len(made.starts.get("a", [])) == min(num, unit - 1)
    assert list(made.over.values()) == [Reason.DEFERRED] * max(0, num - unit + 1)
    assert made.clock.now < 1000.0 + unit  # nobody waits for the end


def frontier(num: int = 20, **pace: float) -> tuple[Frontier[int], Clock]:
    clock = Clock()
    found: Frontier[int] = Frontier(Pace(step_s=0.0, at_once=1, **pace), clock)  # type: ignore[arg-type]
    found.put("a", range(num))
    return found, clock


def taken(found: Frontier[int]) -> Turn[int]:
    turn = found.poll()
    assert isinstance(turn, Turn), turn
    return turn


def asked(found: Frontier[int], reason: Reason, busy: bool = False, wish_s: float | None = None) -> Lane[int]:
    turn = taken(found)
    found.starts(turn)
    found.end(turn, reason, busy, wish_s)
    return turn.lane


@pytest.mark.parametrize("reason", [Reason.TIMEOUT, Reason.DNS, Reason.CONNECT, Reason.HTTP_SERVER, Reason.HTTP_BUSY])
def test_a_domain_that_does_not_answer_is_given_up(reason: Reason) -> None:
    found, _ = frontier(unanswered=3)
    for answer in (reason, reason, Reason.HTTP_GONE, reason, reason):
        assert not asked(found, answer).over
    assert asked(found, reason).over == Reason.DOMAIN_DOWN
    left = [taken(found) for _ in range(14)]  # at once, whatever is in flight
    assert {turn.over for turn in left} == {Reason.DOMAIN_DOWN}
    assert found.poll() == math.inf
    for turn in left:
        found.end(turn)
    assert found.poll() is None


def test_pauses_grow_until_the_domain_is_left_alone() -> None:
    found, clock = frontier(unanswered=0, pause_s=5.0, max_pause_s=40.0)
    waits = []
    for _ in range(3):
        assert not asked(found, Reason.HTTP_BUSY, busy=True).over
        wait = found.poll()
        assert isinstance(wait, float)
        waits.append(wait)
        clock.now += wait
    assert waits == [5.0, 10.0, 20.0]
    assert asked(found, Reason.HTTP_BUSY, busy=True).over == Reason.DEFERRED
    assert taken(found).over == Reason.DEFERRED


def test_an_answer_ends_the_doubling_and_not_the_sum() -> None:
    found, clock = frontier(num=99, unanswered=0, pause_s=5.0, max_pause_s=40.0)
    for _ in range(8):
        asked(found, Reason.HTTP_SERVER, busy=True)
        assert found.poll() == 5.0
        clock.now += 5.0
        asked(found, Reason.KEPT)
    assert asked(found, Reason.HTTP_SERVER, busy=True).over == Reason.DEFERRED


def test_a_wish_is_kept_to() -> None:
    found, clock = frontier(max_pause_s=100.0)
    asked(found, Reason.HTTP_BUSY, busy=True, wish_s=60.0)
    assert found.poll() == 60.0
    clock.now += 60.0
    assert not asked(found, Reason.HTTP_BUSY, busy=True, wish_s=0.0).over
    assert asked(found, Reason.HTTP_BUSY, busy=True, wish_s=41.0).over == Reason.DEFERRED


def test_what_comes_in_between_is_first() -> None:
    """A robots.txt that lies elsewhere holds up all who wait for it."""
    found, _ = frontier(num=999)
    found.put("elsewhere", [1], first=True)
    assert taken(found).lane.name == "elsewhere" and taken(found).lane.name == "a"


def test_one_storm_is_one_pause() -> None:
    clock = Clock()
    found: Frontier[int] = Frontier(Pace(step_s=1.0, at_once=3), clock)
    found.put("a", range(9))
    clock.now += 1.0  # the first turn of a unit
    turns = []
    for _ in range(3):
        turns.append(taken(found))
        found.starts(turns[-1])
        clock.now += 1.0
    for turn in turns:
        found.end(turn, Reason.HTTP_BUSY, busy=True)
        clock.now += 0.5
    assert turns[0].lane.paused_s == 5.0 and found.poll() == 3.5


def test_an_unused_turn_is_given_back() -> None:
    found, clock = frontier(num=3)
    found.slow("a", 10.0)
    clock.now += 10.0
    turn = taken(found)
    assert found.poll() == math.inf
    found.end(turn)
    turn = taken(found)
    clock.now += 4.0  # the request comes late
    assert found.starts(turn) == 0.0
    found.end(turn, Reason.KEPT)
    assert found.poll() == 10.0


def test_all_who_wait_are_woken() -> None:
    """Five domains whose time comes at once, five threads: each holds a turn before one ends."""
    found: Frontier[int] = Frontier(Pace(step_s=0.05, at_once=2))
    for domain in "abcde":
        found.put(domain, [0, 1])
    together = threading.Barrier(5)

    def work() -> None:
        assert found.take() is not None
        together.wait(20)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together.broken


def test_threads_wait_and_all_come_home() -> None:
    found: Frontier[int] = Frontier(Pace(step_s=0.002, at_once=2))
    for domain in range(7):
        found.put(f"d{domain}", [1] * (domain * 3 + 1))
    done, lock = [], threading.Lock()

    def work() -> None:
        while (turn := found.take()) is not None:
            time.sleep(max(0.0, found.starts(turn)))
            if turn.task:
                found.put(turn.lane.name, [turn.task - 1])
            else:
                with lock:
                    done.append(turn.lane.name)
            found.end(turn, Reason.KEPT)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == sum(domain * 3 + 1 for domain in range(7)) and not any(map(threading.Thread.is_alive, threads))
