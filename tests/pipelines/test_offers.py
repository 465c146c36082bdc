"""What a mirror offers: newest first, wherever it says so; and one sentence where it says nothing usable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from engine.errors import ConfigError, StoreError
from engine.ledger import Commit, Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.stage import Unit
from engine.store import Store
from engine.window import run
from pipelines import offers
from pipelines.offers import Offer, crawls, latest, offered
from tests import stages

NAMES = ["CC-MAIN-2009-2010", "CC-MAIN-2024-10", "CC-MAIN-2024-22", "CC-MAIN-2024-9", "SMALL-2025-01"]
NEWEST = ["SMALL-2025-01", "CC-MAIN-2024-22", "CC-MAIN-2024-10", "CC-MAIN-2024-9", "CC-MAIN-2009-2010"]


def collinfo(*names: str) -> bytes:
    return json.dumps([{"id": name, "name": f"Index of {name}", "cdx-api": "https://..."} for name in names]).encode()


@dataclass
class Web:
    """What a server on loopback answers: a list of statuses first, then the body."""

    body: bytes = b""
    statuses: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    address: str = ""


@contextmanager
def serve(web: Web) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Silence."""

        def do_GET(self) -> None:
            web.asked.append(self.path)
            status = web.statuses.pop(0) if web.statuses else 200
            self.send_response(status)
            # without a length, as a server does that writes its answer as it makes it
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            body = web.body if status == 200 else b"<html>"
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "PAUSES_S", (0.0, 0.0))


def folders(store: Store, names: list[str]) -> None:
    for name in names:
        store.put(f"crawl-data/{name}/warc.paths.gz", b"")


def test_folders_that_hold_a_listing_are_offered_newest_first(tmp_path: Path, memory: str) -> None:
    for address in (str(tmp_path), memory):
        store = Store(address)
        folders(store, NAMES)
        store.put("crawl-data/CC-NEWS/2025/01/warc.paths.gz", b"")
        assert [offer.name for offer in offered(address)] == NEWEST
        assert latest(address) == NEWEST[0]


def test_a_list_of_crawls_stands_above_folders(memory: str) -> None:
    store = Store(memory)
    folders(store, ["CC-MAIN-2030-01"])
    store.put("collinfo.json", collinfo(*NAMES, NAMES[0]))
    assert [offer.name for offer in offered(memory)] == NEWEST


def test_titles_cannot_command_a_terminal(memory: str) -> None:
    Store(memory).put("collinfo.json", json.dumps([{"id": "A-1", "name": "May\x1b[2J 2024 " + "x" * 999}]).encode())
    (offer,) = offered(memory)
    assert offer.title.startswith("May[2J 2024 x") and len(offer.title) < 100


def test_a_web_server_needs_no_length_and_may_be_busy_twice() -> None:
    web = Web(collinfo("CC-MAIN-2024-22"), [503, 429])
    with serve(web) as address:
        assert offered(address) == [Offer("CC-MAIN-2024-22", "Index of CC-MAIN-2024-22")]
    assert web.asked == ["/collinfo.json"] * 3


def test_the_crawls_of_common_crawl_are_listed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web(collinfo("CC-MAIN-2024-22"))
    with serve(web) as address:
        monkeypatch.setattr(offers, "COLLECTIONS", address)
        assert latest(f"{offers.MIRROR}/") == "CC-MAIN-2024-22"


def test_a_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    for statuses, asked in (([503] * 3, 3), ([403], 1)):
        web = Web(statuses=list(statuses))
        with serve(web) as address, pytest.raises(StoreError, match=rf"HTTP status {statuses[0]}; try again later"):
            offered(address)
        assert len(web.asked) == asked
    with pytest.raises(StoreError, match="refused; try again later"):
        offered(address)
    with serve(Web(statuses=[404])) as address, pytest.raises(ConfigError, match="name the crawl, as --crawl CC-MAIN"):
        offered(address)
    with pytest.raises(ConfigError, match="is not a folder; give --mirror"):
        offered(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="offers no crawl; give --mirror"):
        latest(str(tmp_path))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>busy</html>", "is no list of crawls"),
        (collinfo("CC-MAIN-2024-22")[:-9], "is no list of crawls"),
        (b"\xff\xfe[]", "is no list of crawls"),
        (b'{"id": "CC-MAIN-2024-22"}', "is no list of crawls"),
        (b'[{"name": "CC-MAIN-2024-22"}]', "is no list of crawls"),
        (b'[{"id": 7}]', "is no list of crawls"),
        (b'[{"id": "A-1", "name": null}]', "is no list of crawls"),
        (b"7", "is no list of crawls"),
        (b"[" * 200_000, "is no list of crawls"),
        (collinfo("CC-MAIN-2024-22", "../../etc"), "which is no name of a crawl"),
        (collinfo(""), "which is no name of a crawl"),
        (collinfo(*(f"A-{n}" for n in range(offers.MAX_CRAWLS + 1))), "over the limit of 4,096"),
        (b"[" + b" " * offers.MAX_COLLINFO_BYTES + b"]", "more than 4 MiB"),
    ],
)
def test_a_list_that_is_none_is_one_sentence(body: bytes, says: str, memory: str) -> None:
    Store(memory).put("collinfo.json", body)
    with pytest.raises(ConfigError, match=says) as one:
        offered(memory)
    with serve(Web(body)) as address, pytest.raises(ConfigError, match=says) as other:
        offered(address)
    for told in (one, other):
        assert "check --mirror" in str(told.value) and "\n" not in str(told.value)


def test_what_is_offered_stands_beside_what_is_held(memory: str) -> None:
    mirror = f"{memory}-mirror"
    folders(Store(mirror), ["CC-MAIN-2024-22", "CC-MAIN-2024-26"])
    recipe, ledger = stages.recipe(), Ledger(memory)
    nothing = crawls(recipe, ledger, mirror)
    assert [(c.name, c.offered, c.held.committed) for c in nothing] == [
        ("CC-MAIN-2024-26", True, 0),
        ("CC-MAIN-2024-22", True, 0),
    ]
    names = ("CC-MAIN-2024-22", "CC-MAIN-2014-10", "")
    units = [Unit(id=f"u{i}", inputs=(str(i * 9), "9", name)) for i, name in enumerate(names)]
    run(recipe, ledger, units, InlinePool(memory), Quiet())
    counts = {f"warcs:{name}": 40 for name in names}
    ledger.put_commit(Commit(stage="snapshot-0", unit="a", attempt="0", outputs={}, counts=counts))
    found = [(c.name, c.offered, c.held.committed, c.held.listed) for c in crawls(recipe, ledger, mirror)]
    assert found == [
        ("CC-MAIN-2024-26", True, 0, 0),
        ("CC-MAIN-2024-22", True, 1, 40),
        ("CC-MAIN-2014-10", False, 1, 40),
        ("", False, 1, 0),
    ]
