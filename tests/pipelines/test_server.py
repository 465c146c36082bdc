"""The image server on loopback, with sockets of Python's own: what it answers, to whom, and that nobody waits."""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.errors import ConfigError
from pipelines.smallweb import Truth, load, write
from pipelines.smallweb.pictures import Picture
from pipelines.smallweb.pixels import corpus, draw
from pipelines.smallweb.server import Answer, Folder, Pictures, Server, main, settings

Got = tuple[int, dict[str, str], bytes]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    directory = tmp_path_factory.mktemp("web")
    write(directory)
    return directory, load(directory)


@pytest.fixture(scope="module")
def server(web: tuple[Path, Truth]) -> Iterator[Server]:
    site = Pictures(web[0])
    with Server(site) as running:
        yield running


def picture(web: tuple[Path, Truth], kind: str) -> Picture:
    return next(one for one in web[1].pictures if one.kind == kind)


class Client:
    """One connection to the server, plain or TLS, kept open between requests."""

    def __init__(self, server: Server, host: str, tls: bool, ca_file: Path | None = None) -> None:
        self.host = host
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self.connection = http.client.HTTPConnection(host)
        self.connection.sock = plain
        if tls:
            context = ssl.create_default_context(cafile=str(ca_file or server.ca_file))
            self.connection.sock = context.wrap_socket(plain, server_hostname=host)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Got:
        self.connection.request(method, path, headers={"Host": self.host} | headers)
        answer = self.connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def get(server: Server, url: str, method: str = "GET", **headers: str) -> Got:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    with Client(server, host, scheme == "https") as client:
        return client.ask(slash + path, method, **headers)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["photo", "drawing", "banner", "tiny", "single_colour", "slow", "corrupt", "logo"])
def test_pictures_by_either_scheme(web: tuple[Path, Truth], server: Server, scheme: str, kind: str) -> None:
    shown = picture(web, kind)
    status, headers, body = get(server, shown.url.replace("https", scheme))
    assert (status, body) == (200, draw(shown))
    assert headers["content-length"] == str(len(body))
    assert headers["content-type"] == f"image/{shown.format}"


def test_every_picture_has_its_answer(web: tuple[Path, Truth]) -> None:
    site = Pictures(web[0])
    addresses = [one.url for one in web[1].pictures]
    told = {"missing": 404, "busy": 429}
    statuses = {url: site.answer(url.removeprefix("https://")).status for url in addresses[::7]}
    assert statuses == {one.url: 302 if one.moved else told.get(one.kind, 200) for one in web[1].pictures[::7]}


def test_what_moved_lies_where_it_is_said_to_lie(web: tuple[Path, Truth], server: Server) -> None:
    moved = [one for one in web[1].pictures if one.moved]
    for shown in moved:
        status, headers, body = get(server, shown.url)
        assert (status, headers["location"], body) == (302, shown.moved, b"")
        status, _, body = get(server, shown.moved)
        assert (status, body) == ((404, b"not here\n") if shown.kind == "missing" else (200, draw(shown)))
    assert len(moved) == 8


def test_a_busy_server_wants_to_be_asked_again(web: tuple[Path, Truth]) -> None:
    shown = picture(web, "busy")
    with Server(Pictures(web[0])) as server:
        status, headers, _ = get(server, shown.url)
        assert (status, headers["retry-after"]) == (429, "1")
        assert [get(server, shown.url)[::2] for _ in range(2)] == [(200, draw(shown))] * 2


def test_robots_txt_of_those_that_have_one(web: tuple[Path, Truth], server: Server) -> None:
    for site in web[1].robots:
        status, headers, body = get(server, f"https://{site.host}/robots.txt")
        assert (status, headers["content-type"], body.decode()) == (200, "text/plain", site.text)
    assert get(server, "https://www.gardens.example/robots.txt")[0] == 404


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_not_there(web: tuple[Path, Truth], server: Server, scheme: str) -> None:
    shown = picture(web, "photo")
    host = shown.url.split("/")[2]
    for url in (
        picture(web, "missing").url,
        f"https://{host}/robots.txt",
        f"https://{host}/",
        shown.url + "?size=1",
        shown.url.replace(host, "unknown.example"),
        f"https://{host}/../../../../../../etc/passwd",
    ):
        status, headers, body = get(server, url.replace("https", scheme))
        assert (status, headers["content-length"]) == (404, str(len(body)))


def test_a_query_is_part_of_the_address(web: tuple[Path, Truth], server: Server) -> None:
    shown = next(one for one in web[1].pictures if "?size=" in one.url and one.kind == "photo")
    assert get(server, shown.url)[2] == draw(shown)
    assert get(server, shown.url.partition("?")[0])[0] == 404


@pytest.mark.parametrize("tls", [False, True])
def test_one_connection_many_requests(web: tuple[Path, Truth], server: Server, tls: bool) -> None:
    shown = picture(web, "photo")
    host, path = shown.url.split("/")[2], "/" + shown.url.split("/", 3)[3]
    with Client(server, host, tls) as client:
        first = client.connection.sock.getsockname()
        head = client.ask(path, "HEAD")
        assert head[0] == 200 and head[2] == b""
        for _ in range(3):
            status, headers, body = client.ask(path)
            assert (status, body) == (200, draw(shown))
            assert headers["content-length"] == head[1]["content-length"]
            assert client.ask("/nothing")[0] == 404
        assert client.connection.sock.getsockname() == first
        assert client.ask(path, Connection="close")[1]["connection"] == "close"
        assert client.connection.sock is None


def test_hosts_are_told_apart_on_one_connection(web: tuple[Path, Truth], server: Server) -> None:
    one, other = (shown for shown in web[1].pictures[:200:199])
    with Client(server, one.url.split("/")[2], tls=False) as client:
        for shown in (one, other, one):
            _, _, host, path = shown.url.split("/", 3)
            for spelt in (host, host.upper(), f"{host}:80", f"{host}:{server.port}"):
                assert client.ask(f"/{path}", Host=spelt)[2] == draw(shown)


def test_each_host_has_a_certificate_of_the_ca(server: Server, tmp_path: Path) -> None:
    for host in ("a.example", "b.example", "www.a.example", "localhost"):
        with Client(server, host, tls=True) as client:
            assert client.ask("/")[0] == 404
    with Client(server, "127.0.0.1", tls=True) as client:
        assert client.ask("/")[0] == 404
    with Server(NoSite()) as stranger, pytest.raises(ssl.SSLCertVerificationError):
        Client(server, "a.example", tls=True, ca_file=stranger.ca_file)


class NoSite:
    """Knows nothing."""

    corpus = "none"

    def answer(self, url: str) -> Answer:
        return Answer(status=404, headers=(("X-Url", url),))


def test_requests_are_counted(web: tuple[Path, Truth]) -> None:
    with Server(NoSite()) as server:
        asked = ["http://a.example/x?y=1", "https://a.example/x?y=1", "https://b.example/robots.txt"]

        def ask(url: str) -> None:
            for _ in range(5):
                get(server, url)

        threads = [threading.Thread(target=ask, args=(url,)) for url in asked * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.requests == dict.fromkeys(asked, 15)
        server.requests.clear()
        get(server, asked[0], "HEAD")
        assert server.requests[asked[0]] == 16, "what is handed out is a copy"


class SlowSite(NoSite):
    """Takes its time."""

    def answer(self, url: str) -> Answer:
        return Answer(status=200, delay_s=0.05)


def test_the_log_tells_when_what_was_asked() -> None:
    with Server(SlowSite()) as server:
        before = time.monotonic()
        for url in ("http://a.example/x?y=1", "https://b.example/"):
            get(server, url)
        after = time.monotonic()
        first, second = server.log
        assert [(one.url, one.status) for one in (first, second)] == [
            ("http://a.example/x?y=1", 200),
            ("https://b.example/", 200),
        ]
        assert before <= first.began <= first.ended - 0.05 < first.ended <= second.began < second.ended <= after
        server.log.clear()
        assert len(server.log) == 2, "what is handed out is a copy"


def test_headers_of_an_answer_and_absolute_targets() -> None:
    with Server(NoSite()) as server, Client(server, "a.example", tls=False) as client:
        assert client.ask("//x//y?z")[1]["x-url"] == "a.example//x//y?z"
        assert client.ask("http://c.example/q")[1]["x-url"] == "c.example/q"
        assert client.ask("/", Host="")[0] == 400


def test_who_says_nothing_keeps_nobody_waiting(web: tuple[Path, Truth], server: Server) -> None:
    shown = picture(web, "photo")
    with ExitStack() as stack:
        for said in (b"", b"\x16", b"\x16\x03\x01", b"GET / HT", b"\x00\xff"):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            silent.sendall(said)
        assert get(server, shown.url)[0] == 200
        assert get(server, shown.url.replace("https", "http"))[0] == 200


def test_closing_ends_open_connections() -> None:
    with ExitStack() as stack:
        with Server(NoSite()) as server:
            clients = [stack.enter_context(Client(server, "a.example", tls)) for tls in (False, True)]
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            silent.sendall(b"\x16\x03")
            for client in clients:
                client.ask("/")
            before = threading.active_count()
            told, ca_file = server.serving, server.ca_file
            assert told.exists()
        assert threading.active_count() < before
        assert not told.exists() and not ca_file.exists()
        with pytest.raises((OSError, http.client.HTTPException)):
            clients[0].ask("/")


def test_serving_tells_how_to_reach_it(web: tuple[Path, Truth], tmp_path: Path) -> None:
    site = Pictures(web[0])
    with Server(site, serving=tmp_path / "serving.json") as server:
        told = json.loads((tmp_path / "serving.json").read_text())
        assert told == {"port": server.port, "ca_file": str(server.ca_file), "corpus": corpus(web[0])}
        told_run = dict(setting.split("=", 1) for setting in settings(server))
        assert told_run["fetch.serving"] == str(tmp_path / "serving.json")
        assert told_run["fetch.corpus"] == corpus(web[0])
    assert list(tmp_path.iterdir()) == []
    with Server(site, "another") as server:
        assert json.loads(server.serving.read_text())["corpus"] == "another"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of files, some of which lie outside its folder."""
    inside = tmp_path / "inside"
    (inside / "files").mkdir(parents=True)
    (inside / "files" / "one.png").write_bytes(b"one")
    (inside / "files" / "two").write_bytes(b"two")
    (tmp_path / "secret").write_bytes(b"secret")
    (inside / "link").symlink_to(tmp_path / "secret")
    rows = [
        ("url", "file", "mime"),
        ("https://a.example/one.png", "files/one.png", ""),
        ("http://B.example:80/two?a=b", "files/../files/two", "image/x-two"),
        ("https://a.example/up", "../secret", "text/plain"),
        ("https://a.example/root", str(tmp_path / "secret"), "text/plain"),
        ("https://a.example/link", "link", "text/plain"),
        ("https://a.example/gone", "files/gone.jpg", ""),
        ("https://a.example/folder", "files", ""),
    ]
    (inside / "index.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return inside / "index.tsv"


def test_a_folder_serves_what_its_table_names(folder: Path) -> None:
    site = Folder(folder)
    with Server(site) as server:
        assert get(server, "https://a.example/one.png")[1:] == (
            {"content-type": "image/png", "content-length": "3"},
            b"one",
        )
        assert get(server, "http://b.example/two?a=b")[1]["content-type"] == "image/x-two"
        for name in ("up", "root", "link", "gone", "folder", "files/two", "robots.txt"):
            assert get(server, f"https://a.example/{name}")[0] == 404, name


def test_the_digest_of_a_folder_is_that_of_its_files(folder: Path) -> None:
    lines = folder.read_text().splitlines()
    before = Folder(folder).corpus
    folder.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    assert Folder(folder).corpus == before
    (folder.parent / "files" / "one.png").write_bytes(b"another")
    assert Folder(folder).corpus != before
    sums = [hashlib.sha1(text).hexdigest() for text in (b"x", b"y")]
    named = [f"https://a.example/{number}\t{sha1}" for number, sha1 in enumerate(sums)]
    table = [f"{line.split(chr(9))[0]}\tnowhere\t{line.split(chr(9))[1]}\n" for line in named]
    folder.write_text("url\tfile\tsha1\n" + "".join(table))
    assert Folder(folder).corpus == hashlib.sha256("\n".join(named).encode()).hexdigest()


def test_what_cannot_be_served_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "index.tsv").write_text("address\tpath\n")
    with pytest.raises(ConfigError, match="url and file"):
        Folder(tmp_path / "index.tsv")
    with pytest.raises(ConfigError, match=r"images\.jsonl"):
        Pictures(tmp_path)
    (tmp_path / "images.jsonl").touch()
    with pytest.raises(ConfigError, match=r"robots\.jsonl"):
        Pictures(tmp_path)
    (tmp_path / "images.jsonl").unlink()
    with pytest.raises(SystemExit):
        main(["--web", str(tmp_path)])
    assert "images.jsonl is missing" in capsys.readouterr().err


def test_the_command_serves_until_it_is_told_to_end(web: tuple[Path, Truth], tmp_path: Path) -> None:
    told = tmp_path / "serving.json"
    command = [sys.executable, "-m", "pipelines.smallweb.server", "--web", str(web[0]), "--serving", str(told)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.readline()
        found = json.loads(told.read_text())
        assert f"--set fetch.corpus={found['corpus']} --set fetch.serving={told}" in printed
        with socket.create_connection(("127.0.0.1", found["port"])) as client:
            client.sendall(b"GET /robots.txt HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 404")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not told.exists()
