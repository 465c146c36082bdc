"""asking: what is asked of a site, in which order and how often, by the log of the server that was asked."""

from __future__ import annotations

import functools
import itertools
import random
import socket
import ssl
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine import schema
from pipelines import ids
from pipelines.fetch import asking, origins, pause, robots
from pipelines.fetch.network import Answer
from pipelines.reasons import PASSING, Reason
from pipelines.select import domains
from tests.pipelines.hostile import Hostile, Play, in_turn, moves, says, sends, text
from tests.pipelines.test_fetch import Frozen, by_address, listing, on_loopback, run, url_id, verdicts

NEVER = text("User-agent: *", "Disallow: /")


def addresses(*names: str, num: int = 6) -> list[str]:
    return [f"http://{name}.test/{k}.jpg" for name in names for k in range(num)]


def words(results: dict[str, Any], asked: list[str]) -> dict[str, str]:
    return {url: Reason(row["reason"]).word for url, row in by_address(results["outcomes"], asked).items()}


def slow(play: Play, seconds: float) -> Play:
    def later(server: Hostile, client: socket.socket, request: bytes) -> bool | None:
        server.stopped.wait(seconds)
        return play(server, client, request)

    return later


def test_robots_is_asked_once_and_first(tmp_path: Path) -> None:
    """Nothing else is asked of an origin meanwhile, though threads are free; http and https are two origins."""
    asked = [url.replace("http", "https") if k % 2 else url for k, url in enumerate(addresses("a", "b", num=10))]
    with Hostile(tmp_path, {"a.test": says(), "b.test": says()}, {"a.test": slow(NEVER, 0.1)}) as server:
        results, work = run(tmp_path / "work", on_loopback(server, tmp_path, threads=8), listing(asked))
    assert verdicts(work) == {"robots": 10, "kept": 10}
    assert work.counts["origins:robots"] == work.counts["origins:no_robots"] == 2
    assert server.requests["a.test/robots.txt"] == server.requests["b.test/robots.txt"] == 2
    assert {host for host, path, _, _ in server.log if path != "/robots.txt"} == {"b.test"}
    rows = {row["origin"]: row for row in results["robots"].to_pylist()}
    assert list(rows) == ["http://a.test", "http://b.test", "https://a.test", "https://b.test"]
    assert (rows["http://a.test"]["reason"], rows["http://b.test"]["reason"]) == (0, Reason.HTTP_GONE)
    assert rows["http://b.test"]["value"] == 404 and rows["http://a.test"]["num_bytes"] == 25
    assert "isallow: /" in rows["http://a.test"]["rules"]


def test_addresses_that_moved_to_one_are_asked_as_one(tmp_path: Path) -> None:
    """Each has the answer, and its own row and picture; of three that moved on, each knows where to."""
    found, gone = "http://a.test/same.jpg", "http://b.test/away.jpg"
    rows = sorted((url_id(f"x{k}"), found if k % 2 else gone) for k in range(7))
    columns = {
        "batch": [3] * 7,
        "url_id": [row[0] for row in rows],
        "url": [row[1] for row in rows],
        "domain": [row[1].split("/")[2] for row in rows],
        "tries": [1] * 7,
    }
    commit = Frozen(urls=pa.table(columns, schema=schema.FETCH_URLS))
    with Hostile(tmp_path, {"a.test": says(), "b.test": moves("http://c.example/")}) as server:
        results, _ = run(tmp_path / "work", on_loopback(server, tmp_path), commit)
    assert server.requests["a.test/same.jpg"] == server.requests["b.test/away.jpg"] == 1
    reasons = {row["url_id"]: (row["reason"], row["tries"]) for row in results["outcomes"].to_pylist()}
    assert reasons == {name: (Reason.KEPT if url == found else Reason.MOVED, 2) for name, url in rows}
    kept = [name for name, url in rows if url == found]
    assert results["images"]["url_id"].to_pylist() == kept
    assert len(set(results["images"]["bytes"].to_pylist())) == 1
    assert [row["row"] for row in results["outcomes"].to_pylist() if not row["reason"]] == [0, 1, 2]
    assert [(row["url_id"], row["url"]) for row in results["moves"].to_pylist()] == [
        (name, "http://c.example/") for name, url in rows if url == gone
    ]


def test_where_robots_answers_later_no_address_was_tried(tmp_path: Path) -> None:
    asked = addresses("a", num=3)
    with Hostile(tmp_path, {"a.test": says()}, {"a.test": says(500)}) as server:
        results, work = run(tmp_path / "work", on_loopback(server, tmp_path), listing(asked, tries=1))
    assert verdicts(work) == {"robots_unreachable": 3}
    assert results["outcomes"]["tries"].to_pylist() == [1, 1, 1]


def test_robots_may_be_left_unasked(tmp_path: Path) -> None:
    with Hostile(tmp_path, {"a.test": says()}, {"a.test": NEVER}) as server:
        config = on_loopback(server, tmp_path, respect_robots=False)
        results, work = run(tmp_path / "work", config, listing(addresses("a")))
    assert verdicts(work) == {"kept": 6} and not server.requests["a.test/robots.txt"]
    assert not results["robots"].num_rows


def test_one_robots_serves_http_and_https(tmp_path: Path) -> None:
    """A site that leads everything to https: two requests for its robots.txt, and two for each image."""

    def play(server: Hostile, client: socket.socket, request: bytes) -> bool | None:
        path = request.split()[1].decode()
        secure = isinstance(client, ssl.SSLSocket)
        well = text("User-agent: *", "Disallow: /0.jpg") if path == "/robots.txt" else says()
        return (well if secure else moves(f"https://a.test{path}"))(server, client, request)

    with Hostile(tmp_path, {"a.test": play}, {"a.test": play}) as server:
        results, work = run(tmp_path / "work", on_loopback(server, tmp_path), listing(addresses("a", num=3)))
    assert verdicts(work) == {"robots": 1, "kept": 2}
    assert server.requests == {"a.test/robots.txt": 2, "a.test/1.jpg": 2, "a.test/2.jpg": 2}
    assert results["robots"]["origin"].to_pylist() == ["http://a.test", "https://a.test"]


@pytest.mark.parametrize(
    ("play", "reason", "requests"),
    [
        (sends(), Reason.CONNECT, 2),
        (in_turn(sends(), NEVER), Reason.ROBOTS, 2),
        (says(500), Reason.ROBOTS_UNREACHABLE, 1),
        (says(503, "Retry-After: 0"), Reason.ROBOTS_UNREACHABLE, 2),
    ],
)
def test_a_lost_robots_is_asked_for_twice(tmp_path: Path, play: Play, reason: Reason, requests: int) -> None:
    """One lost connection must not cost all images of a site; two cost one request each and no more."""
    with Hostile(tmp_path, {"a.test": says()}, {"a.test": play}) as server:
        _, work = run(tmp_path / "work", on_loopback(server, tmp_path), listing(addresses("a")))
    assert verdicts(work) == {reason.word: 6}
    assert server.requests == {"a.test/robots.txt": requests}


def most_at_once(log: list[tuple[str, str, float, float]]) -> Counter[str]:
    """The most requests in flight, by politeness key."""
    now, most = Counter[str](), Counter[str]()
    events = [(at, change, domains.key(host)) for host, _, begin, end in log for at, change in ((begin, 1), (end, -1))]
    for _, change, key in sorted(events):
        now[key] += change
        most[key] = max(most[key], now[key])
    return most


def test_every_request_has_a_turn_of_its_own(tmp_path: Path) -> None:
    """Hosts of few domains, with robots.txt, redirects, repeats and other domains' robots.txt: all of them count."""
    chance = random.Random(7)
    cases: dict[str, Play] = {}
    files: dict[str, Play] = {}
    hosts = [f"{host}.{domain}.test" for domain in "pqr" for host in "abcde"]
    for k, host in enumerate(hosts):
        sister = f"{chance.choice('abcde')}.{host.split('.')[1]}.test"
        leads = in_turn(moves(f"http://{sister}/end.jpg"), says(), says(429, "Retry-After: 0"), says())
        cases[host] = slow(leads, 0.01)
        other = f"http://{chance.choice(hosts)}/robots.txt"
        files[host] = slow([says(404), moves(other), text("User-agent: *")][k % 3], 0.01)
    asked = [f"http://{host}/{k}.jpg" for host in hosts for k in range(2)]
    with Hostile(tmp_path, cases, files) as server:
        config = on_loopback(server, tmp_path, rate=50.0, threads=16, unit_s=60.0)
        keys = [domains.key(url.split("/")[2]) for url in asked]
        _, work = run(tmp_path / "work", config, listing(asked, keys))
    assert sum(verdicts(work).values()) == len(asked) and work.counts["kept"] > len(asked) // 2
    assert max(most_at_once(server.log).values()) <= 2
    for key in ("p.test", "q.test", "r.test"):
        begins = sorted(begin for host, _, begin, _ in server.log if domains.key(host) == key)
        # seven requests are six steps; what the machine does between us and the server is no pace
        assert len(begins) > 14 and all(b - a >= 6 / 50 - 0.05 for a, b in zip(begins, begins[6:], strict=False))


def test_a_crawl_delay_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    rules = {"a.test": text("User-agent: *", "Crawl-delay: 0.1"), "b.test": text("User-agent: *", "Crawl-delay: 9999")}
    with Hostile(tmp_path, dict.fromkeys(rules, says()), rules) as server:
        config = on_loopback(server, tmp_path, max_delay_s=0.2)
        results, _ = run(tmp_path / "work", config, listing(addresses("a", "b", num=3)))
    assert [row["delay"] >= 0.1 for row in results["robots"].to_pylist()] == [True, True]
    for host, delay in (("a.test", 0.1), ("b.test", 0.2)):
        begins = [begin for name, _, begin, _ in server.log if name == host]
        assert len(begins) == 4 and all(b - a > delay - 0.05 for a, b in itertools.pairwise(begins))


def test_a_slow_domain_holds_no_threads(tmp_path: Path) -> None:
    """Three threads, a domain that may be asked once in 0.3 s, and others that come between."""
    rules = {"slow.test": text("User-agent: *", "Crawl-delay: 0.3")}
    names = ["slow", *(f"o{k}" for k in range(12))]
    with Hostile(tmp_path, {f"{name}.test": says() for name in names}, rules) as server:
        asked = [*addresses("slow", num=4), *addresses(*names[1:], num=2)]
        run(tmp_path / "work", on_loopback(server, tmp_path, threads=3), listing(asked))
    last = sorted(server.log, key=lambda entry: entry[2])[-2:]
    assert [host for host, _, _, _ in last] == ["slow.test", "slow.test"]


def test_a_domain_that_says_later_is_deferred(tmp_path: Path) -> None:
    """429 for longer than a unit waits: what was asked stands, what was not is no try."""
    asked = addresses("busy", "well", num=20)
    with Hostile(tmp_path, {"busy.test": says(429, "Retry-After: 9999"), "well.test": says()}) as server:
        config = on_loopback(server, tmp_path, per_domain=1)
        results, work = run(tmp_path / "work", config, listing(asked, tries=1))
    assert verdicts(work) == {"kept": 20, "http_busy": 1, "deferred": 19}
    assert sum(num for path, num in server.requests.items() if path.startswith("busy")) == 2
    rows = by_address(results["outcomes"], asked)
    assert Counter((row["reason"], row["tries"]) for row in rows.values()) == {
        (0, 2): 20, (Reason.HTTP_BUSY, 2): 1, (Reason.DEFERRED, 1): 19,
    }  # fmt: skip
    assert {Reason.DEFERRED, Reason.DOMAIN_DOWN} <= PASSING


@pytest.mark.parametrize("play", [says(500), sends(then="close")])
def test_a_domain_that_does_not_answer_is_left_alone(tmp_path: Path, play: Play) -> None:
    """Five in a row and no more; the others go on, and what was not asked is no try."""
    asked = addresses("down", "up", num=20)
    with Hostile(tmp_path, {"down.test": play, "up.test": says()}) as server:
        config = on_loopback(server, tmp_path, max_unanswered=5, per_domain=1)
        results, work = run(tmp_path / "work", config, listing(asked, tries=1))
        _, patient = run(tmp_path / "patient", on_loopback(server, tmp_path, max_unanswered=0), listing(asked))
    rows = by_address(results["outcomes"], asked)
    skipped = [row for row in rows.values() if row["reason"] == Reason.DOMAIN_DOWN]
    assert work.counts["domain_down"] == len(skipped) == 15 and work.counts["kept"] == 20
    assert {row["tries"] for row in skipped} == {1} and {row["tries"] for row in rows.values()} == {1, 2}
    assert "domain_down" not in patient.counts and patient.counts["kept"] == 20


def test_what_has_no_turn_in_the_unit_is_deferred(tmp_path: Path) -> None:
    asked = addresses("a", num=9)
    with Hostile(tmp_path, {"a.test": says()}) as server:
        config = on_loopback(server, tmp_path, rate=10.0, unit_s=0.25)
        results, work = run(tmp_path / "work", config, listing(asked))
    assert work.counts["deferred"] >= 7  # robots.txt had one of three turns
    assert 0 < sum(server.requests.values()) <= 3
    assert all(row["value"] < 1 for row in results["outcomes"].to_pylist())


def test_what_moves_to_another_domain_is_left_to_it(tmp_path: Path) -> None:
    """The new address stands beside the outcome, and is asked under the id of the old one."""
    plays = {"a.test": moves("https://x.b.test/new.jpg?1"), "x.b.test": says(), "b.test": moves("http://a.test/")}
    old = "http://a.test/old.jpg"
    with Hostile(tmp_path, plays) as server:
        config = on_loopback(server, tmp_path)
        results, _ = run(tmp_path / "one", config, listing([old]))
        assert not any(path.startswith("x.b.test") for path in server.requests)
        part = int(ids.partitions(ids.ids(results["outcomes"]["url_id"]), config.partitions)[0])
        [row] = results["moves"].to_pylist()
        new = {"part": part, "url_id": url_id(old), "url": "https://x.b.test/new.jpg?1", "domain": "b.test"}
        assert row == new and results["moves"].schema == schema.MOVES
        assert words(results, [old]) == {old: "moved"}
        rows = listing([row["url"]], [row["domain"]])
        named = rows["urls"].to_pylist()[0] | {"url_id": row["url_id"]}
        rows["urls"] = pa.Table.from_pylist([named], schema=schema.FETCH_URLS)
        results, _ = run(tmp_path / "two", config, rows)
    assert words(results, [old]) == {old: "kept"} and not results["moves"].num_rows
    assert results["images"]["url_id"].to_pylist() == [url_id(old)]


def test_all_time_of_an_address_counts(tmp_path: Path) -> None:
    """Two hops that each take less than the limit, and more together."""
    with Hostile(tmp_path, {"a.test": slow(in_turn(moves("/again"), says()), 0.4)}) as server:
        config = on_loopback(server, tmp_path, total_s=0.6)
        results, work = run(tmp_path / "work", config, listing(addresses("a", num=1)))
    assert verdicts(work) == {"timeout": 1} and results["times"]["seconds"][0].as_py() > 0.4


def test_a_robots_elsewhere_is_asked_in_turns_too(tmp_path: Path) -> None:
    """Of a domain that is none of the unit's, and to which many sites lead."""
    hosts = [f"d{k}.test" for k in range(12)]
    files = {**dict.fromkeys(hosts, moves("http://parked.other.test/all.txt")), "parked.other.test": NEVER}
    cases = {**dict.fromkeys(hosts, says()), "parked.other.test": slow(NEVER, 0.03)}
    with Hostile(tmp_path, cases, files) as server:
        config = on_loopback(server, tmp_path, threads=24)
        _, work = run(tmp_path / "work", config, listing([f"http://{host}/" for host in hosts]))
    assert verdicts(work) == {"robots": 12} and server.requests["parked.other.test/all.txt"] == 12
    assert most_at_once(server.log)["other.test"] == 2


def test_origins_forget_what_was_used_least_lately() -> None:
    body = b"User-agent: *\n" + b"".join(b"Disallow: /%d\n" % k for k in range(50))
    size = robots.parse(body, "kosmosbot").num_bytes
    known: origins.Origins[int] = origins.Origins("kosmosbot", cache_bytes=3 * size)
    answer = Answer(reason=Reason.KEPT, text=body, at=1.0)
    for k in range(5):
        assert known.enter(f"http://{k}.test", k) is True and known.enter(f"http://{k}.test", 10 + k) is False
        standing, waiting = known.tell(f"http://{k}.test", answer)
        assert waiting == [k, 10 + k] and standing.verdict(f"http://{k}.test/49", True)[0] == Reason.ROBOTS
        assert isinstance(known.enter("http://0.test", 0), origins.Standing)  # used each time
    assert [known.known(f"http://{k}.test") is not None for k in range(5)] == [True, False, False, True, True]
    assert known.rows()["origin"].to_pylist() == [f"http://{k}.test" for k in range(5)]
    assert known.counts() == {"origins:robots": 5}


def test_rules_that_are_forgotten_are_not_asked_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files so large that none is kept until the next turn of its domain: each still lets an address go its way."""
    monkeypatch.setattr(asking, "Origins", functools.partial(origins.Origins, cache_bytes=1))
    hosts = [f"{name}.test" for name in "abcdef"]
    asked = addresses("a", "b", "c", "d", "e", "f", num=3)
    rules = dict.fromkeys(hosts, text("User-agent: *", "Disallow: /0.jpg"))
    with Hostile(tmp_path, dict.fromkeys(hosts, says()), rules) as server:
        _, work = run(tmp_path / "work", on_loopback(server, tmp_path, rate=10.0, unit_s=10.0), listing(asked))
    assert verdicts(work) == {"robots": 6, "kept": 12}
    assert sum(num for path, num in server.requests.items() if path.endswith("robots.txt")) <= len(asked)


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origins.origin("http://a.test/x/y?z=/") == "http://a.test"
    assert origins.origin("https://a.test:8443/") == "https://a.test:8443"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7), (" 7 ", 7), ("0", 0), ("-5", None), ("", None), ("soon", None), ("1.5", None), ("٣", None),
        ("9" * 400, pause.MAX_S), ("Thu, 01 Jan 1970 00:20:00 GMT", 200), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:20:00", 200), ("Fri, 31 Dec 9999 23:59:59 GMT", pause.MAX_S), ("0, 0", None),
        ("Fri, 99 Foo 9999 99:99:99 GMT", None), ("\0", None),
    ],
)  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    assert pause.seconds(value, 1000.0) == seconds


def test_a_fault_of_ours_in_robots_costs_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lock, calls = robots.parse, threading.Lock(), []

    def faulty(body: bytes, agent: str) -> robots.Rules:
        with lock:
            calls.append(1)
            if len(calls) == 1:
                raise MemoryError
        return real(body, agent)

    monkeypatch.setattr(robots, "parse", faulty)
    files = dict.fromkeys(["a.test", "b.test"], text("User-agent: *"))
    with Hostile(tmp_path, dict.fromkeys(files, says()), files) as server:
        _, work = run(tmp_path / "work", on_loopback(server, tmp_path), listing(addresses("a", "b")))
    assert verdicts(work) == {"fetcher": 6, "kept": 6}
