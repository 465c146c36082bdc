"""fetch: a shard of everything that servers do to crawlers, and what a unit promises whatever they do."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import resource
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import schema
from engine.errors import ConfigError
from engine.stage import SIDE, Stage, Unit, canonical
from pipelines import fetch, ids
from pipelines.fetch import Config, asking, network, shard
from pipelines.images import FORMATS
from pipelines.reasons import PASSING, Reason
from tests.offline import OfflineWork, collect
from tests.pipelines.hostile import Canary, Hostile, head, noisy_picture, picture, says, sends, text
from tests.pipelines.hostile_cases import Case, cases, plays, robots

LIMITS = {"max_bytes": 1 << 20, "connect_s": 1.0, "total_s": 1.5, "low_speed_s": 1.0, "rate": 0.0, "control": "",
          "pause_s": 0.05, "max_pause_s": 2.0}  # fmt: skip
CORPUS = "0" * 64


class Frozen(dict[str, pa.Table]):
    """A commit of `schedule`."""

    unit = "list-0"


def url_id(url: str) -> bytes:
    return hashlib.sha256(url.encode()).digest()


def listing(addresses: list[str], domains: list[str] | None = None, batch: int = 3, tries: int = 0) -> Frozen:
    domains = domains or [address.split("/")[2] for address in addresses]
    rows = sorted((url_id(address), address, domain) for address, domain in zip(addresses, domains, strict=True))
    columns = {
        "batch": [batch] * len(rows),
        "url_id": [row[0] for row in rows],
        "url": [row[1] for row in rows],
        "domain": [row[2] for row in rows],
        "tries": [tries] * len(rows),
    }
    return Frozen(urls=pa.table(columns, schema=schema.FETCH_URLS))


def run(folder: Path, config: Config, commit: Frozen, **more: Any) -> tuple[dict[str, pa.Table], OfflineWork]:
    folder.mkdir(exist_ok=True)
    unit = Unit(id="a" * 24, inputs=("mark", commit.unit, "3"))
    work = OfflineWork(unit=unit, scratch=folder, frozen={("mark", 0): [commit]}, **more)
    return collect(fetch.process, config, work, fetch.OUTPUTS), work


def verdicts(work: OfflineWork) -> dict[str, int]:
    """The counts that are verdicts on addresses."""
    return {word: num for word, num in work.counts.items() if SIDE not in word}


def on_loopback(server: Hostile, folder: Path, **settings: Any) -> Config:
    serving = folder / "serving.json"
    serving.write_text(json.dumps({"port": server.port, "ca_file": server.ca_file, "corpus": CORPUS}))
    return Config(egress="loopback_only", corpus=CORPUS, serving=str(serving), **{**LIMITS, **settings})


def by_address(table: pa.Table, addresses: list[str]) -> dict[str, dict[str, Any]]:
    known = {url_id(address): address for address in addresses}
    return {known[row["url_id"]]: row for row in table.to_pylist()}


@dataclasses.dataclass
class Shard:
    cases: list[Case]
    results: dict[str, pa.Table]
    work: OfflineWork
    server: Hostile
    canary: Canary
    grown: int
    printed: str


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    """Every case in one unit."""
    folder = tmp_path_factory.mktemp("hostile")
    canary = Canary()
    with canary:
        found = cases(canary.port)
        with Hostile(folder, plays(found), robots(found)) as server:
            addresses = [case.address() for case in found]
            domains = [f"{case.name}.test".removeprefix("a.") for case in found]
            config = on_loopback(server, folder, threads=96)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            printed, sys.stdout, sys.stderr = (sys.stdout, sys.stderr), io.StringIO(), io.StringIO()
            try:
                results, work = run(folder / "work", config, listing(addresses, domains))
                told = sys.stdout.getvalue() + sys.stderr.getvalue()
            finally:
                sys.stdout, sys.stderr = printed
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    yield Shard(found, results, work, server, canary, grown, told)


def test_every_case_gets_its_verdict(hostile: Shard) -> None:
    rows = by_address(hostile.results["outcomes"], [case.address() for case in hostile.cases])
    assert len(hostile.cases) >= 100
    wrong = {}
    for case in hostile.cases:
        row = rows[case.address()]
        if Reason(row["reason"]) not in case.reasons or (case.value is not None and row["value"] != case.value):
            wrong[case.name] = (Reason(row["reason"]).word, row["value"], [reason.word for reason in case.reasons])
    assert not wrong


def test_rows_in_are_rows_out_in_order(hostile: Shard) -> None:
    outcomes, images, times = (hostile.results[name] for name in ("outcomes", "images", "times"))
    addresses = sorted(url_id(case.address()) for case in hostile.cases)
    assert outcomes["url_id"].to_pylist() == times["url_id"].to_pylist() == addresses
    assert outcomes["part"].to_pylist() == ids.partitions(ids.ids(outcomes["url_id"]), 256).tolist()
    assert verdicts(hostile.work) == Counter(Reason(reason).word for reason in outcomes["reason"].to_pylist())
    stored = outcomes.filter(pa.array([row >= 0 for row in outcomes["row"].to_pylist()]))
    assert stored["row"].to_pylist() == list(range(images.num_rows))
    assert stored["url_id"].to_pylist() == images["url_id"].to_pylist()
    assert set(stored["reason"].to_pylist()) == {0}
    assert all((row["row"] >= 0) == (row["reason"] == 0) for row in outcomes.to_pylist())
    assert all(row["tries"] == (row["reason"] not in fetch.UNASKED) for row in outcomes.to_pylist())
    moved = outcomes.filter(pc.equal(outcomes["reason"], int(Reason.MOVED)))
    assert hostile.results["moves"]["url_id"].to_pylist() == moved["url_id"].to_pylist()


def test_a_stored_image_is_measured(hostile: Shard) -> None:
    rows = by_address(hostile.results["outcomes"], [case.address() for case in hostile.cases])
    row = rows["http://good.test/image.jpg"]
    assert row["sha256"] == hashlib.sha256(picture()).digest() and row["num_bytes"] == len(picture())
    assert (row["width"], row["height"], FORMATS[row["format"]]) == (120, 90, "jpeg")
    body = hostile.results["images"]["bytes"][row["row"]].as_py()
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[:2] == (row["stored_height"], row["stored_width"])
    assert row["deviation"] > 2 and row["phash"]
    large = rows["http://large.test/image.jpg"]
    assert network.MEMORY_BYTES < large["num_bytes"] == len(noisy_picture()) < LIMITS["max_bytes"]
    assert large["sha256"] == hashlib.sha256(noisy_picture()).digest()
    failed = rows["http://empty.test/image.jpg"]
    assert failed["sha256"] == bytes(32) and not failed["num_bytes"] and not failed["width"]


def test_nobody_else_is_contacted_and_memory_stays(hostile: Shard) -> None:
    assert not hostile.canary.touched
    asked = {address.partition("/")[0] for address in hostile.server.requests}
    assert asked <= {f"{case.name}.test" for case in hostile.cases}
    assert not any(address.startswith(("asked-", "wrong-", "self-", "expired")) for address in hostile.server.requests)
    assert hostile.grown < 512 << 10  # KiB


def test_nothing_is_printed(hostile: Shard) -> None:
    assert hostile.printed == ""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hostile]:
    with Hostile(tmp_path, {f"{name}.test": says() for name in ("a", "b", "c")}) as server:
        yield server


ADDRESSES = [f"http{'s' * (k % 2)}://{'abc'[k % 3]}.test/{k}.jpg" for k in range(24)]


def test_equal_servers_give_equal_rows(server: Hostile, tmp_path: Path) -> None:
    one, _ = run(tmp_path / "one", on_loopback(server, tmp_path), listing(ADDRESSES))
    two, _ = run(tmp_path / "two", on_loopback(server, tmp_path, threads=1, rate=500.0), listing(ADDRESSES))
    assert one["outcomes"].equals(two["outcomes"]) and one["images"].equals(two["images"])
    assert one["images"].num_rows == len(ADDRESSES)


def test_connections_are_kept(server: Hostile, tmp_path: Path) -> None:
    few = [address for address in ADDRESSES if "c.test" not in address]
    run(tmp_path / "work", on_loopback(server, tmp_path, threads=1), listing(few))
    assert sum(server.requests.values()) == len(few) + 4 == 20  # and a robots.txt an origin
    assert server.connections == {"a.test": 2, "b.test": 2}  # one for http and one for https


def test_a_kept_connection_that_was_closed_is_no_failure(tmp_path: Path) -> None:
    served: Counter[socket.socket] = Counter()

    def play(server: Hostile, client: socket.socket, request: bytes) -> bool:
        served[client] += 1
        return served[client] == 1 and bool(says()(server, client, request))

    with Hostile(tmp_path, {"a.test": play}) as server:
        policy = shard.policy(on_loopback(server, tmp_path), tmp_path)
        line = network.Line(policy)
        answers = [network.ask("http://a.test/x.jpg", line, policy.config, policy.config.total_s) for _ in range(3)]
        line.close()
    assert [answer.reason for answer in answers] == [Reason.KEPT] * 3
    assert server.requests["a.test/x.jpg"] == 5  # the second and third had to be repeated


def test_a_kept_connection_that_hangs_is_no_missing_name(tmp_path: Path) -> None:
    served: Counter[socket.socket] = Counter()

    def play(server: Hostile, client: socket.socket, request: bytes) -> bool:
        served[client] += 1
        return bool((says() if served[client] == 1 else sends(then="hang"))(server, client, request))

    with Hostile(tmp_path, {"a.test": play}) as server:
        policy = shard.policy(on_loopback(server, tmp_path, total_s=0.5), tmp_path)
        line = network.Line(policy)
        answers = [network.ask("http://a.test/x.jpg", line, policy.config, policy.config.total_s) for _ in range(2)]
        line.close()
    assert [answer.reason for answer in answers] == [Reason.KEPT, Reason.TIMEOUT]


def test_a_domain_is_asked_by_two_at_most(tmp_path: Path) -> None:
    lock, now, most = threading.Lock(), Counter[str](), Counter[str]()

    def play(server: Hostile, client: socket.socket, request: bytes) -> bool:
        host = request.decode().partition("Host: ")[2].partition("\r")[0]
        with lock:
            now[host] += 1
            most[host] = max(most[host], now[host])
        time.sleep(0.02)
        with lock:
            now[host] -= 1
        return bool(says()(server, client, request))

    addresses = [f"http://{name}.test/{k}.jpg" for name in "ab" for k in range(8)]
    with Hostile(tmp_path, dict.fromkeys(["a.test", "b.test"], play)) as server:
        run(tmp_path / "work", on_loopback(server, tmp_path), listing(addresses))
    assert most == {"a.test": 2, "b.test": 2}


def test_the_request_says_who_asks_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    def play(server: Hostile, client: socket.socket, request: bytes) -> bool:
        heard.append(request)
        return bool(says(200, "Set-Cookie: a=b")(server, client, request))

    with Canary() as proxy, Hostile(tmp_path, {"a.test": play}) as server:
        for name in ("http_proxy", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        config = on_loopback(server, tmp_path, contact="https://example.org/bot", threads=1)
        run(tmp_path / "work", config, listing(["http://a.test/1.jpg", "https://a.test/2.jpg"]))
    assert not proxy.touched and len(heard) == 2 and sum(server.requests.values()) == 4
    for request in heard:
        lines = request.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        assert headers.keys() == {"Host", "User-Agent", "Accept", "Accept-Encoding"}
        assert re.fullmatch(r"kosmosbot/\S+ \(\+https://example\.org/bot\)", headers["User-Agent"])
        assert headers["Accept-Encoding"] == "identity"


def test_opt_outs_may_be_recorded_only(tmp_path: Path) -> None:
    reserve = text("User-agent: *", "Content-Signal: ai-train=no")
    with Hostile(tmp_path, {"a.test": says(200, "X-Robots-Tag: noai")}, {"a.test": reserve}) as server:
        config = on_loopback(server, tmp_path, respect_opt_out=False)
        _, work = run(tmp_path / "work", config, listing(["http://a.test/1.jpg"]))
    assert verdicts(work) == {"kept": 1}


def test_a_body_that_killed_the_worker_is_skipped(server: Hostile, tmp_path: Path) -> None:
    results, work = run(tmp_path / "work", on_loopback(server, tmp_path), listing(ADDRESSES), poisoned=frozenset({5}))
    assert results["outcomes"]["reason"].to_pylist()[5] == Reason.CRASHED
    assert verdicts(work) == {"crashed": 1, "kept": len(ADDRESSES) - 1}


@pytest.mark.parametrize("seam", ["ask", "measure"])
def test_our_own_fault_costs_one_address(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seam: str
) -> None:
    module = shard if seam == "measure" else asking
    real, calls = getattr(module, seam), []

    def faulty(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(module, seam, faulty)
    results, work = run(tmp_path / "work", on_loopback(server, tmp_path), listing(ADDRESSES))
    assert verdicts(work) == {"fetcher": 1, "kept": len(ADDRESSES) - 1}
    assert results["outcomes"].num_rows == len(ADDRESSES)


def test_a_full_disk_fails_the_unit(server: Hostile, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "images").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "work", on_loopback(server, tmp_path), listing(ADDRESSES))


def test_a_lost_row_fails_the_unit(server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """img2dataset prints what its writer raises and goes on."""
    real = shard.Writer.write

    def faulty(self: shard.Writer, image: Any, key: str, caption: Any, meta: Any) -> None:
        if int(key) == 3:
            raise ValueError("no")
        real(self, image, key, caption, meta)

    monkeypatch.setattr(shard.Writer, "write", faulty)
    with pytest.raises(RuntimeError, match="24 addresses went in and 23 outcomes came out"):
        run(tmp_path / "work", on_loopback(server, tmp_path), listing(ADDRESSES))


def test_the_seam_is_given_back() -> None:
    with shard.seams() as downloader:
        module = sys.modules[downloader.__module__]
        assert module.download_image_with_retry is shard._download
    assert module.download_image_with_retry is not shard._download


def test_a_dead_network_fails_the_unit(tmp_path: Path) -> None:
    # libcurl gives names below .onion no address, without asking the network (RFC 7686)
    addresses = [f"http://host{k}.onion/1.jpg" for k in range(fetch.OUTAGE_DOMAINS)]
    settings = {**LIMITS, "contact": "mailto:a@example.org"}
    config = Config(**{**settings, "control": "control.onion"})
    with pytest.raises(RuntimeError, match=r"control\.onion cannot either"):
        run(tmp_path / "one", config, listing(addresses))
    # too few domains to say so, or nobody to ask
    for folder, few, control in (("two", addresses[1:], "control.onion"), ("three", addresses, "")):
        _, work = run(tmp_path / folder, Config(**{**settings, "control": control}), listing(few))
        assert verdicts(work) == {"dns": len(few)}


def test_a_control_that_answers_clears_the_network(server: Hostile, tmp_path: Path) -> None:
    shard.check_control("a.test", shard.policy(on_loopback(server, tmp_path), tmp_path))


def test_a_control_that_cannot_prove_itself_does_not(server: Hostile, tmp_path: Path) -> None:
    """As no server can to a machine whose clock is wrong, or that somebody stands before."""
    policy = dataclasses.replace(shard.policy(on_loopback(server, tmp_path), tmp_path), ca_file=certifi.where())
    with pytest.raises(RuntimeError, match=r"a\.test cannot either: check the network, the resolver and the clock"):
        shard.check_control("a.test", policy)


@pytest.mark.parametrize("change", [{"control": "example.org"}, {"max_unanswered": 3}, {"unit_s": 9.0}])
def test_what_decides_no_answer_is_no_part_of_the_key(change: dict[str, Any]) -> None:
    """Or to change it would ask the whole web again."""
    assert canonical(Config(**change)) == canonical(Config()) != canonical(Config(respect_robots=False))


@given(
    st.integers(1, 40),
    st.lists(
        st.sampled_from([Reason.DNS, Reason.CONNECT, Reason.TLS, Reason.TIMEOUT, Reason.PRIVATE_ADDRESS]), max_size=60
    ),
    st.integers(0, 60),
)
def test_dead_means_most_of_many(num_domains: int, lost: list[Reason], gone: int) -> None:
    reasons = np.array([*lost, *[Reason.HTTP_GONE] * gone], np.uint16)
    domains = [f"d{k % num_domains}" for k in range(len(reasons))]
    assert fetch.dead(domains, reasons) == (len(set(domains)) >= 20 and len(lost) > gone)


def test_an_empty_list_is_no_fault(server: Hostile, tmp_path: Path) -> None:
    results, work = run(tmp_path / "work", on_loopback(server, tmp_path), listing([]))
    assert all(table.num_rows == 0 for table in results.values()) and not verdicts(work)


def test_tries_are_counted(server: Hostile, tmp_path: Path) -> None:
    results, _ = run(tmp_path / "work", on_loopback(server, tmp_path), listing(ADDRESSES, tries=2))
    assert set(results["outcomes"]["tries"].to_pylist()) == {3}


def test_units_are_those_of_the_schedule() -> None:
    rows = {
        "batch": [0, 1],
        "unit": ["aa", "bb"],
        "lane": ["", "example.org"],
        "urls": [7, 8],
        "domains": [3, 1],
        "largest": [4, 8],
    }
    commit = Frozen(units=pa.table(rows, schema=schema.FETCH_UNITS))
    units = fetch.listed(Config(), [commit], lambda commit, name: commit[name], "m")
    assert units == [
        Unit(id="aa", inputs=("m", "list-0", "0"), size=7),
        Unit(id="bb", inputs=("m", "list-0", "1"), lane="example.org", size=8),
    ]


def test_the_key_names_the_network_and_not_its_place() -> None:
    def key(**settings: Any) -> str:
        return Stage(name="fetch", process="x:y", config=Config(**settings), outputs=fetch.OUTPUTS).key

    pace = {"rate": 0.0, "per_domain": 1, "max_delay_s": 1.0, "pause_s": 1.0, "max_pause_s": 1.0, "unit_s": 1.0}
    assert key() == key(serving="/a", threads=3, contact="mailto:a@example.org", **pace)
    changed = {"egress": "loopback_only"}, {"corpus": "1"}, {"max_bytes": 5}, {"respect_opt_out": False}
    assert len({key(), key(respect_robots=False), *(key(**settings) for settings in changed)}) == 6
    assert fetch.binds(Config()) != fetch.binds(Config(egress="loopback_only"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "--set fetch.contact=https://example.org/bot"),
        ({"contact": "me"}, "--set fetch.contact"),
        ({"egress": "loopback_only"}, "--set fetch.corpus=DIGEST"),
        ({"egress": "loopback_only", "corpus": "a"}, "--set fetch.serving=FILE"),
        ({"corpus": "a", "contact": "https://example.org/"}, "loopback_only"),
    ],
)
def test_who_is_not_ready_is_told_what_to_set(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Config(**settings).ready()


def test_ready() -> None:
    Config(contact="https://example.org/bot").ready()
    Config(egress="loopback_only", corpus="a", serving="/b").ready()
    with pytest.raises(ConfigError, match=r"fetch\.egress"):
        Config(egress="all")


@pytest.mark.parametrize("told", ["", "{}", '{"port": 1, "ca_file": "x", "corpus": "other"}'])
def test_another_server_is_refused(told: str, tmp_path: Path) -> None:
    serving = tmp_path / "serving.json"
    serving.write_text(told)
    with pytest.raises(ConfigError, match="serv"):
        fetch.server(Config(egress="loopback_only", corpus=CORPUS, serving=str(serving)))


def test_what_passes_is_what_an_outage_causes() -> None:
    assert {network.status_reason(status) for status in (429, 500, 503)} <= PASSING
    assert not {network.status_reason(status) for status in (204, 206, 304, 400, 403, 404, 410)} & PASSING
    assert head(200).startswith(b"HTTP/1.1 200")
