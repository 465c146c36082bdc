"""A server that does what servers do to crawlers, on loopback: one port for http and https, a case a host name.

Every case knows what a safe client must say of it. Connections are served by threads of their own, so a case that
hangs holds up nobody; `canary` is a second listener that no request may ever reach.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import socket
import ssl
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import trustme

from pipelines.reasons import Reason

KEEP = True  # a case that returns this leaves the connection open
Play = Callable[["Hostile", socket.socket, bytes], bool | None]
NAMES = {301: "Moved", 302: "Found", 200: "OK"}


@dataclass(frozen=True)
class Case:
    """An address, what the server does about it, and the verdicts that are right (most have one)."""

    name: str
    play: Play | None
    reasons: tuple[Reason, ...]
    url: str = ""
    value: float | None = None

    def address(self) -> str:
        return self.url or f"http://{self.name}.test/image.jpg"


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
    """The server; a context manager. `requests` counts (host, path); `ca_file` is the authority that it names."""

    def __init__(self, folder: Path, cases: dict[str, Play]) -> None:
        self.cases = cases
        self.requests: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()
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
            play = self.cases.get(host, says(404))
            if not play(self, client, request):
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


def cases(port: int) -> list[Case]:
    """All cases; port: of a canary."""
    R = Reason
    cut = large_picture()
    kept, private, moved = (R.KEPT,), (R.PRIVATE_ADDRESS,), (R.REDIRECTS,)
    optout, protocol, too_large = (R.OPT_OUT_IMAGE,), (R.PROTOCOL,), (R.BODY_TOO_LARGE,)
    harmless = (*moved, R.PROTOCOL, R.KEPT)
    chunks = head(200, "Transfer-Encoding: chunked")
    canary = f"http://127.0.0.1:{port}/"
    found: list[Case] = []

    def case(
        name: str, play: Play | None, reasons: tuple[Reason, ...], url: str = "", value: float | None = None
    ) -> None:
        found.append(Case(name, play, reasons, url, value))

    case("good", says(), kept)
    case("good-tls", says(), kept, "https://good-tls.test/image.jpg")
    case("other-port", says(), kept, "https://other-port.test:8443/image.jpg")
    case("large", says(body=noisy_picture()), kept)
    case("query", says(), kept, "http://query.test/i?u=http://127.0.0.1/&x=%20")
    # where redirects lead
    for name, target in {
        "loopback-port": f"http://127.0.0.1:{port}/", "loopback": "http://127.0.0.1/", "loopback-six": "http://[::1]/",
        "loopback-six-port": f"http://[::1]:{port}/", "metadata": "http://169.254.169.254/latest/meta-data/",
        "metadata-six": "http://[fd00:ec2::254]/", "decimal": "http://2130706433/", "octal": "http://0177.0.0.1/",
        "hex": "http://0x7f000001/", "short": "http://127.1/", "zero": "http://0.0.0.0/", "ten": "http://10.0.0.1/",
        "mapped": "http://[::ffff:127.0.0.1]/", "mapped-hex": "http://[::ffff:7f00:1]/", "nat64": "http://[64:ff9b::7f00:1]/",
        "six-to-four": "http://[2002:7f00:1::]/", "port-22": "http://good.test:22/", "port-canary": f"http://good.test:{port}/",
        "schemeless": f"//127.0.0.1:{port}/x", "backslash": f"http:\\\\127.0.0.1:{port}\\", "wide": "http://１２７.０.０.１/",
        "tls-ssh": "https://good.test:22/",
    }.items():  # fmt: skip
        case(f"to-{name}", moves(target.encode().decode("latin-1")), private)
    for name, target in {
        "file": "file:///etc/passwd", "ftp": "ftp://good.test/image.jpg", "gopher": "gopher://127.0.0.1:70/_x",
        "data": "data:image/png;base64,AAAA", "javascript": "javascript:alert(1)", "dict": "dict://127.0.0.1:11211/stat",
        "userinfo": "http://user:pass@good.test/", "userinfo-trick": "http://good.test@127.0.0.1/", "nothing": "http://",
        "bad-port": "http://good.test:99999/", "blank": "http://good.te st/",
    }.items():  # fmt: skip
        case(f"to-{name}", moves(target), moved)
    case(
        "to-newline",
        sends(head(302, f"Location: http://good.test/\r {canary}")),
        harmless,
    )
    case(
        "to-folded",
        sends(head(302, f"Location: http://good.test/a\r\n b: {canary}", length=0)),
        harmless,
    )
    case("to-crlf", moves(f"http://good.test/%0d%0aHost:%20127.0.0.1:{port}"), kept)
    case("to-nowhere", says(302, body=b""), (R.HTTP_OTHER,), value=302)
    case("to-empty", moves(""), (R.HTTP_OTHER,), value=302)
    case("to-good", moves("https://good-tls.test/image.jpg", 301), kept)
    case(
        "to-opted-out",
        says(302, "Location: http://good.test/image.jpg", "X-Robots-Tag: noai", body=b""),
        optout,
    )
    case("to-with-body", repeats(head(302, "Location: http://good.test/image.jpg"), bytes(4096)), kept)
    case("loop", moves("http://loop.test/image.jpg"), moved, value=5)
    case("five", hops, kept, "http://five.test/5.jpg")
    case("six", hops, moved, "http://six.test/6.jpg", value=5)
    case("relative", relative, kept, "http://relative.test/a/image.jpg")
    # addresses that must not be asked for at all
    case("asked-port", None, private, "http://good.test:22/")
    case("asked-literal", None, private, "http://192.168.1.1/image.jpg")
    case("asked-userinfo", None, (R.BAD_URL,), "http://a:b@good.test/")
    case("asked-file", None, (R.BAD_URL,), "file:///etc/passwd")
    # headers
    line = b"X-A: " + b"a" * 1000 + b"\r\n"
    case("header-flood", repeats(b"HTTP/1.1 200 OK\r\n", line, times=1000), protocol)
    case("header-endless", repeats(b"HTTP/1.1 200 OK\r\n", line), protocol)
    case("header-line-endless", repeats(b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 4096), protocol)
    case("header-huge", sends(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 90_000 + b"\r\n\r\n"), protocol)
    case("header-drip", repeats(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.1), (R.TIMEOUT,))
    case("continue-endless", repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), protocol)
    case("continue-once", sends(b"HTTP/1.1 100 Continue\r\n\r\n", head(length=len(picture())), picture()), kept)
    case(
        "switching",
        sends(head(101, "Upgrade: x", "Connection: Upgrade"), then="hang"),
        (R.PROTOCOL, R.TIMEOUT, R.HTTP_OTHER),
    )
    case("no-headers", sends(b"HTTP/1.0 200 OK\r\n\r\n", picture()), kept)
    case("old", sends(picture()), protocol)
    case("garbage", sends(bytes(range(256)) * 40), protocol)
    case("status-garbage", sends(b"HTTP/1.1 abc OK\r\n\r\n", picture()), protocol)
    case("zero-byte", sends(b"HTTP/1.1 200 OK\r\nX-A: \0\r\n\r\n", picture()), protocol)
    case(
        "two-lengths",
        sends(head(200, "Content-Length: 7", length=9), picture()),
        (R.PROTOCOL, R.NOT_AN_IMAGE, R.UNDECODABLE),
    )
    case("bad-length", sends(head(200, "Content-Length: -5"), picture()), (R.PROTOCOL, R.KEPT))
    case("cookies", says(200, "Set-Cookie: a=b; Domain=good.test"), kept)
    # bodies
    case("cut", sends(head(length=len(cut)), cut[: len(cut) // 2]), (R.BODY_CUT,))
    case("cut-reset", sends(head(length=len(cut)), cut[: len(cut) // 2], 0.2, then="reset"), (R.BODY_CUT,))
    case("longer", sends(head(length=2000), cut), (R.UNDECODABLE, R.KEPT))
    case("truncated", says(body=cut[: len(cut) // 2]), (R.UNDECODABLE,))
    case("chunked", sends(chunks, chunked(cut[:999], cut[999:], b"")), kept)
    case(
        "chunked-endless",
        repeats(chunks + chunked(cut), chunked(bytes(65536))),
        too_large,
    )
    case(
        "chunked-bad",
        sends(chunks, chunked(cut[:999]), b"zzz\r\n" + cut),
        (R.BODY_CUT,),
    )
    case("chunked-cut", sends(chunks, chunked(cut[:999])), (R.BODY_CUT,))
    case("chunk-huge", sends(chunks, b"ffffffffffffffffff\r\n" + cut), (R.BODY_CUT,))
    case("endless", repeats(head() + cut, bytes(65536)), too_large)
    case("too-large", sends(head(length=1 << 40), cut, then="hang"), too_large)
    case("gzip", says(200, "Content-Encoding: gzip", body=gzip.compress(picture())), kept)
    case("gzip-bomb", says(200, "Content-Encoding: gzip", body=gzip_bomb()), too_large)
    case("gzip-lie", says(200, "Content-Encoding: gzip"), (R.BODY_CUT,))
    case("encoding-unknown", says(200, "Content-Encoding: rot13"), (R.BODY_CUT,))
    case("encoding-stack", says(200, "Content-Encoding: " + ", ".join(["gzip"] * 50)), (R.BODY_CUT,))
    case("drip", repeats(head(length=len(cut)) + cut[:1000], b"a", 0.1), (R.TIMEOUT,))
    case("body-hang", sends(head(length=len(cut)), cut[:1000], then="hang"), (R.TIMEOUT,))
    case("hang", sends(then="hang"), (R.TIMEOUT,))
    case("hang-tls", sends(then="hang"), (R.TIMEOUT,), "https://hang-tls.test/image.jpg")
    case("closed", sends(), (R.CONNECT,))
    case("reset", sends(then="reset"), (R.CONNECT,))
    case("empty", says(body=b""), (R.BODY_EMPTY,))
    case("page", says(body=b"<!doctype html><html><body>Not found</body></html>" * 9), (R.NOT_AN_IMAGE,))
    case("text", says(body=b"hello"), (R.NOT_AN_IMAGE,))
    case("svg", says(body=b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 9), (R.NOT_AN_IMAGE,))
    case("page-endless", repeats(head(), b"<html>" * 1000), (R.NOT_AN_IMAGE,))
    case("png-bomb", says(body=png_bomb()), (R.TOO_MANY_PIXELS,))
    # statuses
    for status, reason in {
        204: R.HTTP_OTHER, 206: R.HTTP_OTHER, 300: R.HTTP_OTHER, 304: R.HTTP_OTHER, 400: R.HTTP_CLIENT,
        401: R.HTTP_CLIENT, 403: R.HTTP_CLIENT, 404: R.HTTP_GONE, 410: R.HTTP_GONE, 418: R.HTTP_CLIENT,
        451: R.HTTP_CLIENT, 500: R.HTTP_SERVER, 502: R.HTTP_SERVER, 503: R.HTTP_SERVER, 599: R.HTTP_SERVER,
        600: R.HTTP_OTHER,
    }.items():  # fmt: skip
        case(f"status-{status}", says(status), (reason,), value=status)
    case("busy", says(429, "Retry-After: 86400"), (R.HTTP_BUSY,), value=429)
    case("gone-endless", repeats(head(404), bytes(65536)), (R.HTTP_GONE,), value=404)
    case("gone-drip", repeats(head(410, length=1000), b"a", 0.1), (R.HTTP_GONE,), value=410)
    # certificates
    for name in ("wrong-ca", "wrong-host", "self-signed", "expired"):
        case(name, says(), (R.TLS,), f"https://{name}.test/image.jpg")
    case("tls-garbage", None, (R.HTTP_GONE,), "https://tls-garbage.test/")
    # rights
    for number, (tag, out) in enumerate({
        "noai": True, "noimageai": True, "noindex": True, "noimageindex": True, "none": True, "NOAI": True,
        "KosmosBot: noai": True, "kosmosbot: noai": True, "otherbot: noai": False, "*: noai": True,
        "googlebot: noindex, otherbot: noai": False, "otherbot: index, kosmosbot: noindex": True,
        "unavailable_after: 25 Jun 2010 15:00:00 PST": False, "unavailable_after: 25 Jun 2010 15:00:00 PST, noai": True,
        "max-image-preview:large": False, "noai, max-image-preview:large": True, "max-image-preview:large, noai": True,
        "index, follow": False, "noarchive": False, "": False, "all": False,
    }.items()):  # fmt: skip
        case(f"robots-{number}", says(200, f"X-Robots-Tag: {tag}"), optout if out else kept)
    case("robots-second", says(200, "X-Robots-Tag: all", "x-robots-tag: noai"), optout)
    case("tdm", says(200, "TDM-Reservation: 1"), optout)
    case("tdm-zero", says(200, "TDM-Reservation: 0"), kept)
    return found


def plays(found: list[Case]) -> dict[str, Play]:
    """By host name."""
    return {f"{case.name}.test": case.play for case in found if case.play is not None}
