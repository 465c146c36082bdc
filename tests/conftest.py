"""What tests share: one Ray, one S3 on loopback behind a proxy that can misbehave, stores in memory.

AWS_ENDPOINT_URL is set once, to the proxy, before Ray starts: workers inherit it and every test may use S3.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from engine.config import override
from engine.recipe import Recipe
from pipelines.kosmos import interleaved, small
from pipelines.smallweb import Truth, write
from pipelines.smallweb.server import Pictures, Server, settings

# the first call of a kernel compiles it, and no test asserts a time
hypothesis.settings.register_profile("kosmos", deadline=None)
hypothesis.settings.load_profile("kosmos")

_numbers = itertools.count()
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
CONFLICT = (
    b"<Error><Code>ConditionalRequestConflict</Code>"
    b"<Message>The conditional request cannot succeed due to a conflicting operation.</Message></Error>"
)


@dataclass
class Fault:
    """One kind of misbehaviour: the first `times` requests whose "METHOD path" matches are answered so."""

    pattern: str
    kind: str  # busy: 503 | conflict: 409 | lost: done, but nobody hears of it
    times: int


@dataclass
class Proxy:
    """Between a client and moto; `plan` is worked off from its front. `done` counts what was played."""

    port: int
    plan: list[Fault] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    moto_port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def misbehave(self, pattern: str, kind: str, times: int = 1) -> None:
        """Answer the next `times` requests that match so."""
        with self.lock:
            self.plan.append(Fault(pattern, kind, times))

    def next_fault(self, line: str) -> str:
        """What to do with this request, "" for nothing."""
        with self.lock:
            for fault in self.plan:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    self.done.append(f"{fault.kind} {line}")
                    return fault.kind
        return ""


def _serve(proxy: Proxy) -> ThreadingHTTPServer:
    class Pass(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # headers and body in one packet: two would wait 40 ms for each other (Nagle and the delayed ACK)
        wbufsize = -1
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            """Silence."""

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.next_fault(f"{self.command} {self.path}")
            if fault in ("busy", "conflict"):
                self._answer(503 if fault == "busy" else 409, {"Content-Type": "application/xml"}, _ERRORS[fault])
                return
            connection = http.client.HTTPConnection("127.0.0.1", proxy.moto_port, timeout=30)
            try:
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                response = connection.getresponse()
                answer = response.read()
            finally:
                connection.close()
            if fault == "lost":
                self.close_connection = True
                self.connection.close()
                return
            dropped = ("transfer-encoding", "connection", "content-length", "server", "date")
            headers = {k: v for k, v in response.getheaders() if k.lower() not in dropped}
            if self.command == "HEAD":
                headers["Content-Length"] = response.getheader("Content-Length") or "0"
            self._answer(response.status, headers, answer)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                self.wfile.flush()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pass)
    server.daemon_threads = True
    return server


_ERRORS = {"busy": BUSY, "conflict": CONFLICT}


@pytest.fixture(scope="session", autouse=True)
def endpoint() -> Iterator[Proxy]:
    """The proxy, started before anything could read the environment."""
    proxy = Proxy(port=0)
    server = _serve(proxy)
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="proxy", daemon=True)
    thread.start()
    here = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH", "")) if p)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
        "PYTHONPATH": path,
        "RAY_AUTH_MODE": "disabled",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for name in ("RAY_ADDRESS", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        yield proxy
    server.shutdown()
    server.server_close()
    thread.join(10)


@dataclass(frozen=True, kw_only=True)
class SmallWeb:
    """The bundled web on disk, its truth, and its image server, which runs."""

    folder: Path
    truth: Truth
    server: Server
    settings: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The options of a command for it."""
        return ["--small", *(word for setting in self.settings for word in ("--set", setting))]

    def recipe(self, *settings: str) -> Recipe:
        """The recipe for it, with more settings."""
        return interleaved(override(small(), [*self.settings, *settings]))


@pytest.fixture(scope="session")
def small_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWeb]:
    """The bundled web and its server, for the whole session: nobody may write into it."""
    folder = tmp_path_factory.mktemp("small-web")
    truth = write(folder)
    site = Pictures(folder)
    with Server(site, site.corpus, serving=folder.with_name("serving.json")) as server:
        yield SmallWeb(folder=folder, truth=truth, server=server, settings=settings(server))


@pytest.fixture(scope="session")
def moto(endpoint: Proxy) -> Iterator[Proxy]:
    """An S3 behind the proxy."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint.moto_port = server.get_host_and_port()[1]
    yield endpoint
    server.stop()


@pytest.fixture
def s3(moto: Proxy) -> str:
    """The address of a new, empty bucket."""
    name = f"bucket{next(_numbers)}"
    request = urllib.request.Request(f"http://127.0.0.1:{moto.moto_port}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    return f"s3://{name}/store"


@pytest.fixture
def flaky(moto: Proxy) -> Iterator[Proxy]:
    """The proxy, with a clean plan before and after."""
    moto.plan.clear()
    moto.done.clear()
    yield moto
    moto.plan.clear()


@pytest.fixture
def memory() -> str:
    """The address of a new store in memory."""
    return f"memory:///m{next(_numbers)}"


@pytest.fixture(scope="session")
def ray_session(endpoint: Proxy) -> Iterator[Any]:
    """One embedded Ray of two CPUs for the whole session."""
    from engine.cluster import connect

    with connect(num_cpus=2) as ray:
        yield ray


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte; skips where a test may not mount one."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "false", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, timeout=20).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True, timeout=20)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait until a call gives something true; fails after a minute."""
    import time

    def wait(ask: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        until = time.monotonic() + timeout_s
        while True:
            found = ask()
            if found:
                return found
            assert time.monotonic() < until, "it never came true"
            time.sleep(0.05)

    return wait
