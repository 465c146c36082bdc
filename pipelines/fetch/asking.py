"""The course of each address of a unit: robots.txt, request, redirects, repeats, each request in a turn of its own.

What a redirect leads to is judged before it is asked: its port and address, then whose it is. An address of another
domain is not asked here, where that domain's turns are not ours to take: it is MOVED, for a unit of its own.

One exception, as RFC 9309 wants it: a robots.txt may be redirected to any host. In this unit it is asked in that
domain's turns, even if the domain is none of the unit's; another unit may be asking the domain at the same time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pycurl

from pipelines import urls
from pipelines.fetch import pause
from pipelines.fetch.egress import refusal
from pipelines.fetch.frontier import Frontier, Pace, Turn
from pipelines.fetch.handover import Rest
from pipelines.fetch.lines import Lines
from pipelines.fetch.network import Answer, Policy, ask, ask_text
from pipelines.fetch.origins import Origins, Standing, origin
from pipelines.reasons import Reason
from pipelines.select import domains

T = TypeVar("T")

ROBOTS_HOPS = 5  # RFC 9309 2.3.1.2
PASSES = frozenset((Reason.DNS, Reason.CONNECT, Reason.TIMEOUT))


@dataclass(eq=False, slots=True)
class Address:
    """One address on its course. spent_s: of its requests so far. last: the server was busy, so it is asked again.
    judged: an address, and what its robots.txt says of it."""

    place: int
    domain: str
    url: str
    hop: int = 0
    spent_s: float = 0.0
    last: Answer | None = None
    judged: tuple[str, Reason, float] = ("", Reason.KEPT, 0.0)


@dataclass(eq=False, slots=True)
class File:
    """A robots.txt on its course. about: its origin, whatever it is redirected to."""

    about: str
    domain: str
    url: str
    hop: int = 0
    spent_s: float = 0.0
    last: Answer | None = None


Task = Address | File


class Asking:
    """All addresses of a unit; `next` is called once for each, from any thread."""

    def __init__(self, addresses: Sequence[str], keys: Sequence[str], policy: Policy) -> None:
        config = policy.config
        self.policy = policy
        self.fault: OSError | None = None  # of our disk, not of a server
        self.origins: Origins[Address] = Origins(config.agent)
        self._lines = Lines(policy)
        self._frontier: Frontier[Task] = Frontier(
            Pace(
                step_s=1.0 / config.rate if config.rate else 0.0,
                at_once=config.per_domain,
                unanswered=config.max_unanswered,
                pause_s=config.pause_s,
                max_pause_s=config.max_pause_s,
                unit_s=config.unit_s,
            )
        )
        self._shares = Counter(map(origin, addresses))
        lanes: dict[str, list[Task]] = {}
        for place, (url, key) in enumerate(zip(addresses, keys, strict=True)):
            lanes.setdefault(key, []).append(Address(place, key, url))
        for key, tasks in lanes.items():
            self._frontier.put(key, tasks)

    def resume(self, domain: str, rest: Rest) -> None:
        """Go on with a domain where the unit before this one left it."""
        self._frontier.resume(domain, rest.left_s, rest.unanswered)

    def rest(self, domain: str) -> Rest:
        """Where this unit leaves a domain."""
        left_s, unanswered = self._frontier.left(domain)
        return Rest(time.time() + left_s, unanswered)

    def next(self) -> tuple[int, Answer]:
        """(place, its answer) of the next address that has one. LookupError if all had theirs."""
        while True:
            turn = self._frontier.take()
            if turn is None:
                raise LookupError("every address has its answer")
            found = caught(self._step, turn)
            if isinstance(found, Exception):
                found = self._broken(turn.task, found)
            self._frontier.end(turn)  # unless it has ended
            if found is not None:
                return found

    def close(self) -> None:
        """Close all connections."""
        self._lines.close()

    def _step(self, turn: Turn[Task]) -> tuple[int, Answer] | None:
        """What one turn is used for; an answer, or None if the address waits for another turn."""
        task = turn.task
        if isinstance(task, File):
            self._read(turn, task)
            return None
        reason, value = Reason.KEPT if task.hop else refusal(task.url), 0.0
        if not reason and self.policy.config.respect_robots:
            about = origin(task.url)
            if task.judged[0] != task.url:
                # a domain that is given up is not asked for its robots.txt, but what it has said holds
                standing = self.origins.known(about) if turn.over else self.origins.enter(about, task)
                if standing is True:
                    self._read(turn, File(about, task.domain, f"{about}/robots.txt"))
                if isinstance(standing, bool):
                    return None
                if standing is not None:
                    self._judge(task, standing)
            if task.judged[0] == task.url:
                _, reason, value = task.judged
        if reason:
            return task.place, _unasked(reason, value)
        if turn.over:
            return task.place, task.last or self._given_up(turn.over)
        return self._request(turn, task)

    def _judge(self, task: Address, standing: Standing) -> None:
        found = caught(standing.verdict, task.url, self.policy.config.respect_opt_out)
        if isinstance(found, Exception):
            self._note_fault(found)
            found = Reason.FETCHER, 0.0
        task.judged = task.url, *found

    def _request(self, turn: Turn[Task], task: Address) -> tuple[int, Answer] | None:
        config = self.policy.config
        with self._lines.lend(turn.lane.name) as line:
            self._wait(turn)
            answer = ask(task.url, line, config, config.total_s - task.spent_s)
        task.spent_s += answer.seconds
        if answer.busy and task.last is None:
            task.last = answer
            self._again(turn, task, answer)
            return None
        if answer.reason == Reason.REDIRECTS:
            url = urls.absolute(task.url, answer.location)
            stop = self._hop(task, url, config.max_redirects)
            if stop is None:
                task.url, task.hop = url, task.hop + 1
                self._again(turn, task, answer)
                return None
            answer = stop
        self._end(turn, answer)
        return task.place, _timed(answer, task.spent_s)

    def _hop(self, task: Task, url: str, most: int) -> Answer | None:
        """Why the next hop of a task is not asked; None if it is."""
        if task.hop >= most:
            return _unasked(Reason.REDIRECTS, float(most))
        reason = refusal(url)
        if reason:
            # what a redirect leads to is no BAD_URL of ours
            reason = Reason.REDIRECTS if reason == Reason.BAD_URL else reason
            return _unasked(reason, float(task.hop + 1))
        if isinstance(task, Address) and domains.key(urls.host(url)) != task.domain:
            return _unasked(Reason.MOVED, float(task.hop + 1), url)
        if task.spent_s >= self.policy.config.total_s:
            return _unasked(Reason.TIMEOUT, float(pycurl.E_OPERATION_TIMEDOUT))
        return None

    def _read(self, turn: Turn[Task], file: File) -> None:
        """Use a turn for a robots.txt: those who wait for it always hear of it, and go before the others."""
        answer = caught(self._read_once, turn, file)
        reason = None
        if isinstance(answer, Exception):
            self._note_fault(answer)
            answer, reason = _unasked(Reason.FETCHER), Reason.FETCHER
        elif turn.over and file.last is None:
            reason = turn.over
        if answer is None:
            return
        home = _home(file, answer)
        told = caught(self.origins.tell, file.about, answer, reason, home)
        if isinstance(told, Exception):
            self._note_fault(told)
            told = self.origins.tell(file.about, _unasked(Reason.FETCHER), Reason.FETCHER)
        standing, waiting = told
        for task in waiting:
            # by its next turn the rules may be forgotten for those of others, and asked for again without end
            self._judge(task, standing)
        waited = {task.domain for task in waiting}  # one, unless somebody made up the list
        for domain in waited | ({file.domain} if home else set()):
            self._frontier.slow(domain, min(standing.rules.delay, self.policy.config.max_delay_s))
        for domain in waited:
            self._frontier.put(domain, [task for task in waiting if task.domain == domain], first=True)
        if turn.used:
            self._end(turn, answer)

    def _read_once(self, turn: Turn[Task], file: File) -> Answer | None:
        """The answer that stands for a robots.txt; None if it is asked for again, or elsewhere."""
        if turn.over:
            return file.last or self._given_up(turn.over)
        with self._lines.lend(turn.lane.name) as line:
            self._wait(turn)
            answer = ask_text(file.url, line, self.policy.config.total_s - file.spent_s)
        file.spent_s += answer.seconds
        # one lost connection must not cost all addresses of a site
        passes = answer.reason in PASSES and self._shares[file.about] > 1
        if (answer.busy or passes) and file.last is None:
            file.last, file.spent_s = answer, 0.0
            self._again(turn, file, answer)
            return None
        if answer.reason != Reason.REDIRECTS:
            return answer
        url = urls.absolute(file.url, answer.location)
        stop = self._hop(file, url, ROBOTS_HOPS)
        if stop is not None:
            return stop
        file.url, file.hop = url, file.hop + 1
        file.domain = domains.key(urls.host(url))
        self._again(turn, file, answer)
        return None

    def _again(self, turn: Turn[Task], task: Task, answer: Answer) -> None:
        """A task needs another turn, of whichever domain is next."""
        self._frontier.put(task.domain, [task], first=True)
        self._end(turn, answer)

    def _wait(self, turn: Turn[Task]) -> None:
        wait = self._frontier.starts(turn)
        if wait > 0:
            time.sleep(wait)

    def _end(self, turn: Turn[Task], answer: Answer) -> None:
        wish = pause.seconds(answer.retry_after, answer.at) if answer.busy else None
        self._frontier.end(turn, answer.reason, answer.busy, wish)

    def _given_up(self, reason: Reason) -> Answer:
        return _unasked(reason, round(self._frontier.elapsed_s, 1) if reason == Reason.DEFERRED else 0.0)

    def _broken(self, task: Task, error: Exception) -> tuple[int, Answer] | None:
        self._note_fault(error)
        return (task.place, _unasked(Reason.FETCHER)) if isinstance(task, Address) else None

    def _note_fault(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self.fault = error


def caught(call: Callable[..., T], *arguments: Any) -> T | Exception:
    """What a call returns or raises: no exception may leave a seam of the loop, MemoryError included."""
    try:
        return call(*arguments)
    except Exception as error:
        return error


def _home(file: File, answer: Answer) -> str:
    """The other origin whose robots.txt this is after redirects, or "": http mostly leads to https, where the images
    lead too, so that one request serves both."""
    own = origin(file.url)
    holds = answer.reason in (Reason.KEPT, Reason.HTTP_GONE, Reason.HTTP_CLIENT)
    return own if holds and file.hop and file.url == f"{own}/robots.txt" else ""


def _unasked(reason: Reason, value: float = 0.0, location: str = "") -> Answer:
    return Answer(reason=reason, value=value, at=time.time(), location=location)


def _timed(answer: Answer, seconds: float) -> Answer:
    """An answer with the time of all requests that led to it."""
    return Answer(
        reason=answer.reason,
        value=answer.value,
        body=answer.body,
        seconds=seconds,
        at=answer.at,
        location=answer.location,
    )
