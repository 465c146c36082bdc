"""An image server on loopback that stands for every host of the web: one port for http and https, its own CA.

`python -m pipelines.smallweb.server --web DIR` serves the pictures of the bundled web, `--index TSV` files by the
addresses that a table gives them. Whether a connection is TLS shows in its first byte (0x16), which is read in the
connection's own thread: nobody who connects and says nothing keeps others waiting.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import mimetypes
import shlex
import signal
import socket
import socketserver
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from engine.errors import ConfigError
from pipelines.smallweb import pixels
from pipelines.smallweb.pictures import Picture
from pipelines.smallweb.truth import filled, rows_of
from pipelines.urls import canonical

LOOPBACK = "127.0.0.1"
TLS_HANDSHAKE = b"\x16"
IDLE_S = 30.0  # of a connection, before the server hangs up
SLOW_S = 0.3
DRAWN = 256  # files held in memory
LOGGED = 100_000  # requests
AGAIN_S = 1  # when a busy server wants to be asked again


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """status: HTTP. kind: content type. delay_s: before the first byte. headers: beside type and length."""

    status: int
    kind: str = "text/plain"
    body: bytes = b""
    delay_s: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()


NOT_FOUND = Answer(status=404, body=b"not here\n")
BUSY = Answer(status=429, body=b"later\n", headers=(("Retry-After", str(AGAIN_S)),))


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request that was answered. url: "scheme://host/path?query". began, ended: seconds of time.monotonic, from
    its first line until its answer is sent; so the client has it in flight before and after. status: HTTP."""

    url: str
    began: float
    ended: float
    status: int


class Site(Protocol):
    """What is served. Asked by many threads at once; whatever it does not know is NOT_FOUND, robots.txt too.

    corpus: a digest that names all that is served.
    """

    corpus: str

    def answer(self, url: str) -> Answer:
        """The answer for "host/path?query", host in lower case."""


class Pictures:
    """The pictures of a bundled web, drawn when they are asked for, and the robots.txt of its sites."""

    def __init__(self, directory: Path) -> None:
        for name in ("images.jsonl", "robots.jsonl"):
            if not (directory / name).is_file():
                raise ConfigError(f"{directory} holds no bundled web: {name} is missing; `kosmos demo` writes one")
        self.corpus = pixels.corpus(directory)
        pictures = [Picture(**filled(Picture, row)) for row in rows_of(directory / "images.jsonl")]
        self._shown = {without_scheme(picture.place): picture for picture in pictures}
        self._moved = {without_scheme(picture.url): picture.moved for picture in pictures if picture.moved}
        self._robots = {f"{row['host']}/robots.txt": row["text"] for row in rows_of(directory / "robots.jsonl")}
        self._busy = {without_scheme(picture.place) for picture in pictures if picture.kind == "busy"}
        self._lock = threading.Lock()
        self._draw = lru_cache(DRAWN)(pixels.draw)

    def answer(self, url: str) -> Answer:
        """The picture's file: a slow one after 0.3 s, a busy one from the second time on."""
        if url in self._robots:
            return Answer(status=200, body=self._robots[url].encode())
        if url in self._moved:
            return Answer(status=302, headers=(("Location", self._moved[url]),))
        picture = self._shown.get(url)
        if picture is None or picture.kind == "missing":
            return NOT_FOUND
        with self._lock:
            if url in self._busy:
                self._busy.remove(url)
                return BUSY
        delay_s = SLOW_S if picture.kind == "slow" else 0.0
        return Answer(status=200, kind=f"image/{picture.format}", body=self._draw(picture), delay_s=delay_s)


class Folder:
    """Files under the addresses that a table gives them: url, file (relative to the table), and if known sha1, mime."""

    def __init__(self, index: Path) -> None:
        self._root = index.resolve().parent
        self._files: dict[str, tuple[str, str]] = {}
        lines = []
        with index.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not {"url", "file"} <= set(rows.fieldnames or ()):
                raise ConfigError(f"{index} has no columns named url and file; its first line must name them")
            for row in rows:
                kind = row.get("mime") or mimetypes.guess_type(row["file"], strict=False)[0]
                named = without_scheme(canonical(row["url"]))
                self._files.setdefault(named, (row["file"], kind or "application/octet-stream"))
                sha1 = row.get("sha1") or hashlib.sha1(self._read(row["file"]) or b"").hexdigest()
                lines.append(f"{row['url']}\t{sha1}")
        self.corpus = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    def answer(self, url: str) -> Answer:
        """The file's bytes; 404 if it is gone or lies outside the folder."""
        file, kind = self._files.get(url, ("", ""))
        body = self._read(file) if file else None
        return NOT_FOUND if body is None else Answer(status=200, kind=kind, body=body)

    def _read(self, file: str) -> bytes | None:
        path = (self._root / file).resolve()  # through links too
        return path.read_bytes() if path.is_relative_to(self._root) and path.is_file() else None


def without_scheme(url: str) -> str:
    """ "host/path?query" of an address."""
    return url.partition("://")[2]


class Server:
    """Serves a site while it is entered, to http and https clients on one port of 127.0.0.1.

    corpus: digest of what is served, the site's own unless given. serving: where to write {"port", "ca_file",
    "corpus"}, which is what the fetch stage's setting of that name points at; a temporary file unless given. It goes
    when the server does.
    """

    port: int
    ca_file: Path
    serving: Path

    def __init__(self, site: Site, corpus: str = "", *, serving: Path | None = None) -> None:
        self.site, self.corpus = site, corpus or site.corpus
        self._wanted = serving
        self._counted: Counter[str] = Counter()
        self._log: deque[Request] = deque(maxlen=LOGGED)
        self._counting = threading.Lock()

    @property
    def requests(self) -> Counter[str]:
        """How often each address was asked for so far, by "scheme://host/path?query": a copy, for any thread."""
        with self._counting:
            return Counter(self._counted)

    @property
    def log(self) -> list[Request]:
        """The last hundred thousand requests that were answered, in the order of their ends: a copy, for any thread."""
        with self._counting:
            return list(self._log)

    def count(self, url: str) -> None:
        """Note that a request has begun."""
        with self._counting:
            self._counted[url] += 1

    def note(self, request: Request) -> None:
        """Note that it has been answered."""
        with self._counting:
            self._log.append(request)

    def __enter__(self) -> Server:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kosmos-server-")))
            self.ca_file = folder / "ca.pem"
            self._listener = stack.enter_context(Listener(self, self.ca_file))
            self.port = self._listener.server_address[1]
            self.serving = (self._wanted or folder / "serving.json").absolute()
            told = {"port": self.port, "ca_file": str(self.ca_file), "corpus": self.corpus}
            written = self.serving.with_name(self.serving.name + ".part")
            written.write_text(json.dumps(told) + "\n", encoding="utf-8")
            written.replace(self.serving)
            stack.callback(self.serving.unlink, missing_ok=True)
            accepting = threading.Thread(target=self._listener.serve_forever, args=(0.05,), name="image server")
            accepting.start()
            stack.callback(accepting.join)
            stack.callback(self._listener.hang_up)
            stack.callback(self._listener.shutdown)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()


class Listener(socketserver.ThreadingTCPServer):
    """The listening socket, and a thread for each connection."""

    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, server: Server, ca_file: Path) -> None:
        import trustme

        self.server = server
        self._authority = trustme.CA(organization_name="kosmos-engine image server on loopback")
        self._authority.cert_pem.write_to_path(ca_file)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._ended = False
        self._default = self._context("localhost", LOOPBACK)  # for clients that name no host
        self._default.sni_callback = self._switch
        super().__init__((LOOPBACK, 0), Conversation)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in its own thread."""
        request.settimeout(IDLE_S)
        self._enter(request)
        try:
            first = request.recv(1, socket.MSG_PEEK)
            if first == TLS_HANDSHAKE:
                with self._default.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secure:
                    self._leave(request)
                    request = secure
                    self._enter(secure)
                    secure.do_handshake()
                    Conversation(secure, client_address, self)
            elif first:
                Conversation(request, client_address, self)
        except OSError:
            pass  # whoever hangs up, stalls or distrusts us has had his answer
        finally:
            self._leave(request)

    def hang_up(self) -> None:
        """End every connection, so that their threads end."""
        with self._lock:
            self._ended = True
            for connection in self._open:
                self._end(connection)

    def _enter(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
            if self._ended:
                self._end(connection)

    def _leave(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    @staticmethod
    def _end(connection: socket.socket) -> None:
        with suppress(OSError):  # it may have ended by itself
            # the plain call: that of an SSLSocket takes away what its thread is using
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _switch(self, connection: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        """Show the certificate of the host that the client names."""
        if name:
            try:
                connection.context = self._context(name)
            except ValueError:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    def _context(self, *names: str) -> ssl.SSLContext:
        """A TLS context with a certificate for the names, made when the first of them is first asked for."""
        with self._lock:
            context = self._contexts.get(names[0])
            if context is None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self._authority.issue_cert(*names).configure_cert(context)
                self._contexts[names[0]] = context
            return context


class Conversation(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def parse_request(self) -> bool:
        """As it was; the first line is here."""
        self._began = time.monotonic()
        return super().parse_request()

    def do_GET(self) -> None:
        """Answer what is asked, and note it."""
        url = self._url()
        if not url:
            self._send(Answer(status=400, body=b"no host\n"))
            return
        server = self.server.server
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        named = f"{scheme}://{url}"
        server.count(named)
        answer = server.site.answer(url)
        if answer.delay_s:
            time.sleep(answer.delay_s)
        # before the client can have the answer, and its next request can be under way
        server.note(Request(url=named, began=self._began, ended=time.monotonic(), status=answer.status))
        self._send(answer)

    do_HEAD = do_GET

    def _send(self, answer: Answer) -> None:
        """Headers and body in one write."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body that nobody reads would pass for the next request
        headers = [("Content-Type", answer.kind), ("Content-Length", str(len(answer.body))), *answer.headers]
        if self.close_connection:
            headers.append(("Connection", "close"))
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self.wfile.write(head if self.command == "HEAD" else head + answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `Server.requests` knows."""

    def _url(self) -> str:
        """ "host/path?query" as asked for, default ports and our own left out; "" without a host."""
        target = self.requestline.split()[1]
        host = self.headers.get("Host", "")
        if target.lower().startswith(("http://", "https://")):
            host, slash, rest = without_scheme(target).partition("/")
            target = slash + rest or "/"
        name, _, port = host.strip().lower().rpartition(":")
        if name and port in ("80", "443", str(self.server.server.port)):
            host = name
        return f"{host.strip().lower()}{target}" if host.strip() else ""


def main(arguments: list[str]) -> int:
    """Serve until Ctrl-C or SIGTERM; print the settings that point a run at the server."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.smallweb.server", description=(__doc__ or "").strip())
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--web", type=Path, metavar="DIR", help="a bundled web, as `kosmos demo` writes it")
    what.add_argument("--index", type=Path, metavar="TSV", help="a table with columns url, file [, sha1, mime]")
    parser.add_argument("--serving", type=Path, metavar="FILE", help="where to say how to reach the server")
    given = parser.parse_args(arguments)
    try:
        site = Pictures(given.web) if given.web else Folder(given.index)
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Server(site, serving=given.serving) as server:
            print(shlex.join(word for setting in settings(server) for word in ("--set", setting)), flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    return 0


def settings(server: Server) -> tuple[str, ...]:
    """The settings that send a run's requests to the server, each for a --set."""
    return (
        "fetch.egress=loopback_only",
        f"fetch.corpus={server.corpus}",
        f"fetch.serving={server.serving}",
        "fetch.rate=0",
        "select.schedule.rate=0",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
