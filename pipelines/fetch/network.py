"""One request by libcurl, as a typed answer: safe against the server, and honest towards it.

Redirects are not followed here: a hop is a request of its own, in a turn of its own (see `asking`), and its port, host
and rights are judged as those of the first. A line (one libcurl handle) is used again: its connections stay open, and
its parsed CA bundle stays in memory, which costs 4 ms of CPU to load.
"""

from __future__ import annotations

import errno
import math
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pycurl

from pipelines import rights
from pipelines.fetch import Config, robots
from pipelines.fetch.egress import Egress
from pipelines.images.header import sniff
from pipelines.reasons import Reason

ACCEPT = "Accept: image/jpeg,image/webp,image/png,image/gif,image/*;q=0.8"
ACCEPT_TEXT = "Accept: text/plain,*/*;q=0.8"
SNIFF_BYTES = 64  # of a body, before we say that it is no image
DRAIN_BYTES = 16 << 10  # of a body that we do not want, read so that its connection can be used again
MEMORY_BYTES = 512 << 10  # of a body, beyond which it lies on the scratch disk: 128 may wait for the decoder
CONNECTIONS = 4  # a line
MOVED = frozenset((301, 302, 303, 307, 308))

# https://curl.se/libcurl/c/libcurl-errors.html
ERRORS = {
    pycurl.E_COULDNT_RESOLVE_HOST: Reason.DNS,
    pycurl.E_COULDNT_CONNECT: Reason.CONNECT,
    pycurl.E_GOT_NOTHING: Reason.CONNECT,
    pycurl.E_SEND_ERROR: Reason.CONNECT,
    pycurl.E_RECV_ERROR: Reason.CONNECT,
    pycurl.E_OPERATION_TIMEDOUT: Reason.TIMEOUT,
    pycurl.E_SSL_CONNECT_ERROR: Reason.TLS,
    pycurl.E_PEER_FAILED_VERIFICATION: Reason.TLS,
    pycurl.E_SSL_CIPHER: Reason.TLS,
    pycurl.E_SSL_INVALIDCERTSTATUS: Reason.TLS,
    pycurl.E_UNSUPPORTED_PROTOCOL: Reason.PROTOCOL,  # an answer without a status line, as HTTP/0.9 had them
    8: Reason.PROTOCOL,  # CURLE_WEIRD_SERVER_REPLY, which pycurl does not name
    100: Reason.PROTOCOL,  # CURLE_TOO_LARGE, likewise: one header line over 100 KB
    pycurl.E_FILESIZE_EXCEEDED: Reason.BODY_TOO_LARGE,
    pycurl.E_WRITE_ERROR: Reason.FETCHER,  # a callback of ours raised
    pycurl.E_OUT_OF_MEMORY: Reason.FETCHER,
    pycurl.E_BAD_CONTENT_ENCODING: Reason.BODY_CUT,  # more encodings than libcurl unwinds
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What a request keeps to. ca_file: PEM. connect_to: host:port that every name maps to, "" for DNS. scratch: where
    large bodies lie."""

    config: Config
    egress: Egress
    agent: str
    ca_file: str
    connect_to: str
    scratch: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """reason: KEPT if there is a body (an image) or text (another file). value: as in schema.MEASURES. at: end of the
    answer, seconds since 1970. location: where REDIRECTS leads, as the server wrote it. retry_after: likewise."""

    reason: Reason
    value: float = 0.0
    body: IO[bytes] | None = None
    text: bytes = b""
    seconds: float = 0.0
    at: float = 0.0
    location: str = ""
    retry_after: str = ""

    @property
    def busy(self) -> bool:
        """Whether the server asks to be left alone for a while."""
        return self.reason in (Reason.HTTP_BUSY, Reason.HTTP_SERVER) and self.value in (429.0, 503.0)


class Line:
    """One libcurl handle with its open connections; one request at a time."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._curl = curl = pycurl.Curl()
        config = policy.config
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.PROXY, "")  # none from the environment: it would see what we judge
        curl.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)  # one request a connection at a time: no gain
        curl.setopt(pycurl.HTTP09_ALLOWED, 0)
        # asks for bodies as they are; what a server encodes all the same is decoded, and counted decoded
        curl.setopt(pycurl.ACCEPT_ENCODING, "identity")
        curl.setopt(pycurl.USERAGENT, policy.agent)
        curl.setopt(pycurl.CAINFO, policy.ca_file)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, _ms(config.connect_s))
        curl.setopt(pycurl.LOW_SPEED_LIMIT, config.low_speed_bytes)
        curl.setopt(pycurl.LOW_SPEED_TIME, math.ceil(config.low_speed_s))
        curl.setopt(pycurl.MAXCONNECTS, CONNECTIONS)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._on_socket)
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_body)
        if policy.connect_to:
            curl.setopt(pycurl.CONNECT_TO, [f"::{policy.connect_to}"])
        self._begin(None)

    def close(self) -> None:
        """Close its connections."""
        self._curl.close()

    def exchange(self, url: str, seconds: float, text_bytes: int = 0) -> int:
        """One request and its answer, without redirects; libcurl's error number, 0 for none. What came is in self.

        text_bytes: take any body, of which so many bytes are read, instead of an image. OSError if the scratch disk is
        full.
        """
        self._begin(text_bytes or None)
        self._curl.setopt(pycurl.HTTPHEADER, [ACCEPT_TEXT if text_bytes else ACCEPT])
        self._curl.setopt(pycurl.MAXFILESIZE_LARGE, 0 if text_bytes else self._policy.config.max_bytes)
        self._curl.setopt(pycurl.URL, url.encode("ascii"))
        self._curl.setopt(pycurl.TIMEOUT_MS, _ms(seconds))
        error = self._perform()
        if self.fault is not None:
            raise self.fault
        return error

    def reaches(self, host: str) -> bool:
        """Whether a name can be resolved and connected to, and proves itself by TLS; the line is of no further use."""
        self._begin(None)
        self._curl.setopt(pycurl.URL, f"https://{host}/".encode("ascii"))
        self._curl.setopt(pycurl.CONNECT_ONLY, 1)
        return not self._perform()

    def failure(self, error: int) -> Reason:
        """The reason behind libcurl's error number."""
        if self.refused and not self.opened:
            return Reason.PRIVATE_ADDRESS
        if self.complete and error not in (pycurl.E_OPERATION_TIMEDOUT, pycurl.E_FILESIZE_EXCEEDED):
            return Reason.BODY_CUT
        # no socket was asked for, and no kept connection was used: the resolver did not answer
        nameless = not self.opened and not self._curl.getinfo(pycurl.PRETRANSFER_TIME)
        if error == pycurl.E_OPERATION_TIMEDOUT and nameless:
            return Reason.DNS
        if error == pycurl.E_SSL_CONNECT_ERROR and self._curl.getinfo(pycurl.OS_ERRNO) == errno.ECONNRESET:
            return Reason.CONNECT
        return ERRORS.get(error, Reason.PROTOCOL)

    def _perform(self) -> int:
        try:
            self._curl.perform()
        except pycurl.error as error:
            return int(error.args[0])
        return 0

    def _begin(self, text_bytes: int | None) -> None:
        self.status = 0
        self.complete = False  # all headers of the answer are here
        self.location = self.retry_after = ""
        self.text = bytearray()
        self.enough = False  # as much text as was asked for
        self._text_bytes = text_bytes
        self.opted_out = False
        self.verdict = Reason.KEPT  # why we ended it ourselves
        self.refused = self.opened = 0  # addresses
        self.body: IO[bytes] | None = None
        self.num_bytes = 0
        self.fault: OSError | None = None
        self._header_bytes = 0
        self._robots: list[str] = []
        self._tdm: list[str] = []
        self._usage: list[str] = []
        self._head = b""

    def _on_socket(self, purpose: int, address: tuple[int, int, int, Any]) -> socket.socket | int:
        family, kind, protocol, place = address
        ip = place[0].decode("ascii", "replace") if isinstance(place[0], bytes) else str(place[0])
        scoped = len(place) == 4 and place[3] != 0
        if family not in (socket.AF_INET, socket.AF_INET6) or scoped or not self._policy.egress.allows(ip, place[1]):
            self.refused += 1
            return int(pycurl.SOCKET_BAD)
        self.opened += 1
        try:
            return socket.socket(family, kind, protocol)
        except OSError:  # no such family here, or no descriptor left: libcurl says that it could not connect
            return int(pycurl.SOCKET_BAD)

    def _on_header(self, line: bytes) -> int | None:
        self._header_bytes += len(line)
        if self._header_bytes > self._policy.config.max_header_bytes:
            self.verdict = Reason.PROTOCOL
            return 0
        if self.complete:
            return None  # a trailer
        if line[:5] == b"HTTP/":
            words = line.split(None, 2)
            self.status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
            self.location = self.retry_after = ""
            self._robots, self._tdm, self._usage = [], [], []
        elif line in (b"\r\n", b"\n"):
            return self._on_headers()
        else:
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.strip().lower(), value.strip()
            if name == "location" and not self.location:
                self.location = _text(value)
            elif name == "retry-after":
                self.retry_after = value
            elif name == "x-robots-tag":
                self._robots.append(value)
            elif name == "tdm-reservation":
                self._tdm.append(value)
            elif name in ("content-usage", "content-signal"):
                self._usage.append(value)
        return None

    def _on_headers(self) -> int | None:
        self.complete = self.status >= 200
        if not self.complete or self._text_bytes:  # of a robots.txt the words in its headers mean nothing
            return None
        names = (self._policy.config.agent.lower(), rights.AGENT)
        self.opted_out = bool(rights.reserved(self._tdm) or rights.usage_reserved(self._usage)) or any(
            rights.opted_out(rights.robots_header(self._robots, name)) for name in names
        )
        wanted = self.status == 200 or self.status in MOVED
        if wanted and self.opted_out and self._policy.config.respect_opt_out:
            self.verdict = Reason.OPT_OUT_IMAGE
            return 0
        return None

    def _on_body(self, piece: bytes) -> int | None:
        self.num_bytes += len(piece)
        if self._text_bytes and 200 <= self.status < 300:
            self.text += piece[: self._text_bytes - len(self.text)]
            self.enough = len(self.text) >= self._text_bytes
            return 0 if self.enough else None
        if self.status != 200:
            return None if self.num_bytes <= DRAIN_BYTES else 0
        if self.num_bytes > self._policy.config.max_bytes:
            self.verdict = Reason.BODY_TOO_LARGE
            return 0
        if len(self._head) < SNIFF_BYTES:
            self._head += piece[:SNIFF_BYTES]
            if len(self._head) >= SNIFF_BYTES and not sniff(self._head):
                self.verdict = Reason.NOT_AN_IMAGE
                return 0
        try:
            if self.body is None:
                self.body = tempfile.SpooledTemporaryFile(MEMORY_BYTES, dir=str(self._policy.scratch))  # noqa: SIM115
            self.body.write(piece)
        except OSError as error:  # raised here it would only be printed
            self.fault = error
            return 0
        return None


def ask(url: str, line: Line, config: Config, seconds: float) -> Answer:
    """Ask for one canonical address, without following it: REDIRECTS with a location if it leads elsewhere. OSError if
    the scratch disk is full.

    (libcurl itself repeats a request once when a connection that it had kept open was closed before the first byte of
    an answer.)
    """
    started = time.monotonic()
    reason, value = _judge(line, line.exchange(url, seconds), config)
    body, line.body = line.body, None
    if reason and body is not None:
        body.close()
        body = None
    return _answer(line, reason, value, started, body=body)


def ask_text(url: str, line: Line, seconds: float) -> Answer:
    """Likewise for a robots.txt: whatever it is, up to the bytes that are read of one."""
    started = time.monotonic()
    error = line.exchange(url, seconds, robots.MAX_BYTES)
    reason, value = _judge_text(line, error)
    return _answer(line, reason, value, started, text=b"" if reason else bytes(line.text))


def _answer(line: Line, reason: Reason, value: float, started: float, **more: Any) -> Answer:
    return Answer(
        reason=reason,
        value=value,
        seconds=time.monotonic() - started,
        at=time.time(),
        location=line.location,
        retry_after=line.retry_after,
        **more,
    )


def _judge(line: Line, error: int, config: Config) -> tuple[Reason, float]:
    """What one exchange came to."""
    if line.verdict:
        return line.verdict, float(config.max_bytes) if line.verdict == Reason.BODY_TOO_LARGE else 0.0
    if line.complete and line.status != 200:
        return _said(line)  # whatever became of its body
    if error:
        reason = line.failure(error)
        return reason, float(config.max_bytes if reason == Reason.BODY_TOO_LARGE else error)
    if not line.num_bytes:
        return Reason.BODY_EMPTY, 0.0
    return Reason.KEPT, 0.0


def _judge_text(line: Line, error: int) -> tuple[Reason, float]:
    """Likewise of a text, which may be empty, or cut where enough of it was read."""
    if line.verdict:
        return line.verdict, 0.0
    if line.complete and not 200 <= line.status < 300:
        return _said(line)
    if error and not line.enough:
        return line.failure(error), float(error)
    return Reason.KEPT, float(line.status)


def _said(line: Line) -> tuple[Reason, float]:
    moved = line.status in MOVED and line.location
    return (Reason.REDIRECTS if moved else status_reason(line.status)), float(line.status)


def status_reason(status: int) -> Reason:
    """The reason behind an HTTP status other than 200."""
    if status in (404, 410):
        return Reason.HTTP_GONE
    if status == 429:
        return Reason.HTTP_BUSY
    if 400 <= status < 500:
        return Reason.HTTP_CLIENT
    return Reason.HTTP_SERVER if 500 <= status < 600 else Reason.HTTP_OTHER


def _text(value: str) -> str:
    """A Location as servers mean it: UTF-8 where it is that."""
    with suppress(UnicodeDecodeError):
        return value.encode("latin-1").decode("utf-8")
    return value


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))  # 0 would be no limit
