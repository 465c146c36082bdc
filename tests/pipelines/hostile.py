"""A server that does what servers do to crawlers, on loopback: one port for http and https, a case a host name.

Connections are served by threads of their own, so a case that hangs holds up nobody; `Canary` is a second listener
that no request may ever reach. The cases are in hostile_cases.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import trustme

KEEP = True  # a case that returns this leaves the connection open
Play = Callable[["Hostile", socket.socket, bytes], bool | None]
NAMES = {301: "Moved", 302: "Found", 200: "OK"}


@cache
def picture(width: int = 120, height: int = 90, seed: int = 0) -> bytes:
    """A JPEG that passes every gate."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 10, width // 10, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", cv2.resize(noise, (width, height)))[1])


@cache
def large_picture() -> bytes:
    return picture(1200, 900, 7)


@cache
def noisy_picture() -> bytes:
    """A JPEG over 512 KiB and under 1 MiB: it waits for the decoder on disk."""
    noise = np.random.default_rng(1).integers(0, 255, (600, 900, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", noise)[1])


@cache
def png_bomb(side: int = 30_000) -> bytes:
    """Under a megabyte that would decode to 2.7 GB."""
    row = zlib.compressobj(9)
    data = b"".join([*(row.compress(bytes(1 + 3 * side)) for _ in range(side // 30)), row.flush()])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@cache
def gzip_bomb() -> bytes:
    """A hundred megabytes that begin like a JPEG, in 100 KB."""
    return gzip.compress(picture() + bytes(100 << 20), 9)


def head(status: int | str = 200, *lines: str, length: int | None = None) -> bytes:
    size = [] if length is None else [f"Content-Length: {length}"]
    text = "\r\n".join([f"HTTP/1.1 {status} {NAMES.get(status, 'Said')}", *lines, *size])  # type: ignore[call-overload]
    return text.encode("latin-1") + b"\r\n\r\n"


def says(status: int = 200, *lines: str, body: bytes | None = None) -> Play:
    """An honest answer."""

    def play(server: Hostile, client: socket.socket, request: bytes) -> bool:
        content = picture() if body is None else body
        if status in (204, 304):
            client.sendall(head(status, *lines))
        else:
            client.sendall(head(status, "Content-Type: image/jpeg", *lines, length=len(content)) + content)
        return KEEP

    return play


def sends(*pieces: bytes | float, then: str = "close") -> Play:
    """Bytes as they are, with waits between them; then close, reset or hang."""

    def play(server: Hostile, client: socket.socket, request: bytes) -> None:
        for piece in pieces:
            if isinstance(piece, float):
                server.stopped.wait(piece)
            else:
                client.sendall(piece)
        if then == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif then == "hang":
            server.stopped.wait(30)

    return play


def repeats(first: bytes, piece: bytes, wait_s: float = 0.0, times: int = 1 << 30) -> Play:
    """The same bytes until the client goes."""

    def play(server: Hostile, client: socket.socket, request: bytes) -> None:
        client.sendall(first)
        for _ in range(times):
            if server.stopped.wait(wait_s) if wait_s else server.stopped.is_set():
                return
            client.sendall(piece)

    return play


def moves(location: str, status: int = 302) -> Play:
    return says(status, f"Location: {location}", body=b"")


def in_turn(*plays: Play) -> Play:
    """One after the other, the last for ever."""
    left, lock = list(plays), threading.Lock()

    def play(server: Hostile, client: socket.socket, request: bytes) -> bool | None:
        with lock:
            chosen = left.pop(0) if len(left) > 1 else left[0]
        return chosen(server, client, request)

    return play


def text(*lines: str) -> Play:
    """A robots.txt."""
    return says(200, body="\n".join(lines).encode())


def hops(server: Hostile, client: socket.socket, request: bytes) -> bool | None:
    """/N leads to /N-1, and /0 is the image."""
    left = int(request.split()[1].strip(b"/").split(b".")[0])
    play = moves(f"/{left - 1}.jpg") if left else says()
    return play(server, client, request)


def relative(server: Hostile, client: socket.socket, request: bytes) -> bool | None:
    path = request.split()[1]
    play = moves("../b/./c.jpg?x=1 2") if path == b"/a/image.jpg" else says(200 if path == b"/b/c.jpg?x=1%202" else 404)
    return play(server, client, request)


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


class Hostile:
    """The server; a context manager. `requests` counts (host, path); `log` has (host, path, begin, end) of each, in
    seconds; `ca_file` is the authority that it names. robots: what it does about robots.txt, by host; else 404."""

    def __init__(self, folder: Path, cases: dict[str, Play], robots: dict[str, Play] | None = None) -> None:
        self.cases = cases
        self.robots = robots or {}
        self.requests: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()
        self.log: list[tuple[str, str, float, float]] = []
        self.stopped = threading.Event()
        self.ca_file = str(folder / "ca.pem")
        self._ca, self._other = trustme.CA(), trustme.CA()
        self._ca.cert_pem.write_to_path(self.ca_file)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()
        self._folder = folder
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Hostile:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        # closing a listener does not wake its accept
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if client.recv(1, socket.MSG_PEEK) == b"\x16":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.sni_callback = self._choose
                self._certify(context, "unnamed.test")
                client = context.wrap_socket(client, server_side=True)
            with client:
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        first = True
        while True:
            request = b""
            while b"\r\n\r\n" not in request:
                piece = client.recv(65536)
                if not piece:
                    return
                request += piece
            lines = request.decode("latin-1").split("\r\n")
            host = next(line[5:].strip() for line in lines if line.lower().startswith("host:")).partition(":")[0]
            with self._lock:
                self.requests[f"{host}{lines[0].split()[1]}"] += 1
                self.connections[host] += first
            first = False
            begin, path = time.monotonic(), lines[0].split()[1]
            asked = self.robots if path == "/robots.txt" else self.cases
            play = asked.get(host, says(404))
            stays = play(self, client, request)
            self.log.append((host, path, begin, time.monotonic()))
            if not stays:
                return

    def _choose(self, client: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        name = name or "unnamed.test"
        with self._lock:
            if name not in self._contexts:
                self._contexts[name] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self._certify(context, name)
            client.context = self._contexts[name]

    def _certify(self, context: ssl.SSLContext, name: str) -> None:
        if name == "self-signed.test":
            pair = self._folder / "self.pem"
            pair.write_bytes(self._other.private_key_pem.bytes() + self._other.cert_pem.bytes())
            context.load_cert_chain(pair)
            return
        authority = self._other if name == "wrong-ca.test" else self._ca
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
        until = {"not_after": past} if name == "expired.test" else {}
        authority.issue_cert("elsewhere.test" if name == "wrong-host.test" else name, **until).configure_cert(context)


class Canary:
    """A listener on loopback that must stay unheard: `touched` counts connections."""

    def __init__(self) -> None:
        self.touched = 0
        self._listeners = [socket.create_server(("127.0.0.1", 0))]
        self.port: int = self._listeners[0].getsockname()[1]
        if socket.has_ipv6:
            with contextlib.suppress(OSError):
                self._listeners.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))

    def __enter__(self) -> Canary:
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
                    self.touched += 1
            listener.close()
