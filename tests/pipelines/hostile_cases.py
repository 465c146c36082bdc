"""The cases of the hostile server: each knows what a safe client must say of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.reasons import Reason
from tests.pipelines.hostile import (
    Play,
    chunked,
    gzip_bomb,
    head,
    hops,
    in_turn,
    large_picture,
    moves,
    noisy_picture,
    picture,
    png_bomb,
    relative,
    repeats,
    says,
    sends,
    text,
)


@dataclass(frozen=True)
class Case:
    """An address, what the server does about it, and the verdicts that are right (most have one). robots: what it does
    about its robots.txt, which is not there otherwise."""

    name: str
    play: Play | None
    reasons: tuple[Reason, ...]
    url: str = ""
    value: float | None = None
    robots: Play | None = None

    def address(self) -> str:
        return self.url or f"http://{self.name}.test/image.jpg"


def cases(port: int) -> list[Case]:
    """All cases; port: of a canary."""
    R = Reason
    cut = large_picture()
    kept, private, moved = (R.KEPT,), (R.PRIVATE_ADDRESS,), (R.REDIRECTS,)
    optout, protocol, too_large = (R.OPT_OUT_IMAGE,), (R.PROTOCOL,), (R.BODY_TOO_LARGE,)
    gone = (R.MOVED,)  # to another domain
    harmless = (*moved, R.PROTOCOL, R.KEPT, R.MOVED)
    chunks = head(200, "Transfer-Encoding: chunked")
    canary = f"http://127.0.0.1:{port}/"
    found: list[Case] = []

    def case(
        name: str,
        play: Play | None,
        reasons: tuple[Reason, ...],
        url: str = "",
        value: float | None = None,
        robots: Play | None = None,
    ) -> None:
        found.append(Case(name, play, reasons, url, value, robots))

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
    case("to-crlf", moves(f"http://to-crlf.test/%0d%0aHost:%20127.0.0.1:{port}"), moved, value=5)
    case("to-nowhere", says(302, body=b""), (R.HTTP_OTHER,), value=302)
    case("to-empty", moves(""), (R.HTTP_OTHER,), value=302)
    case("to-good", moves("https://good-tls.test/image.jpg", 301), gone, value=1)
    case("to-good-late", in_turn(moves("/b"), moves("https://good-tls.test/image.jpg", 301)), gone, value=2)
    case("to-tls", in_turn(moves("https://to-tls.test/image.jpg"), says()), kept)
    case("to-sister", moves("//a.to-sister.test/image.jpg"), kept)
    found.append(Case("a.to-sister", says(), kept))
    case(
        "to-opted-out",
        says(302, "Location: http://good.test/image.jpg", "X-Robots-Tag: noai", body=b""),
        optout,
    )
    case("to-with-body", repeats(head(302, "Location: http://good.test/image.jpg"), bytes(4096)), gone)
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
    case("usage", says(200, "Content-Usage: train-ai=n"), optout)
    case("usage-yes", says(200, "Content-Usage: train-ai=y"), kept)
    _robots(case, port)
    _busy(case)
    return found


def _robots(case: Callable[..., None], port: int) -> None:
    """What a robots.txt may be; the image behind it is well."""
    R = Reason
    kept, forbidden, unreachable = (R.KEPT,), (R.ROBOTS,), (R.ROBOTS_UNREACHABLE,)
    none = text("User-agent: *", "Disallow: /")
    page = b"<!doctype html><html><body>Disallow: /image</body></html>" * 9
    for name, play, reasons, value in (
        ("all", none, forbidden, None),
        ("ours", text("User-agent: KosmosBot", "Disallow: /image"), forbidden, None),
        ("others", text("User-agent: otherbot", "Disallow: /"), kept, None),
        ("pattern", text("User-agent: *", "Disallow: /*.jpg$"), forbidden, None),
        ("pattern-else", text("User-agent: *", "Disallow: /*.jpg/$", "Disallow: /*.png"), kept, None),
        ("longer", text("User-agent: *", "Disallow: /", "Allow: /image"), kept, None),
        ("signal", text("User-agent: *", "Content-Signal: ai-train=no", "Allow: /"), (R.OPT_OUT_ROBOTS,), None),
        ("opt-out-header", says(200, "X-Robots-Tag: noai", body=b""), kept, None),
        ("empty", says(body=b""), kept, None),
        ("page", says(body=page), kept, None),
        ("picture", says(), kept, None),
        ("binary", says(body=bytes(range(256)) * 400), kept, None),
        ("wide", says(body="User-agent: *\nDisallow: /".encode("utf-16")), forbidden, None),
        ("endless", repeats(head() + b"User-agent: *\nDisallow: /\n", b"# and so on\n" * 5000), forbidden, None),
        ("large", says(body=b"User-agent: *\nDisallow: /\n" + b"#" * (3 << 20)), forbidden, None),
        ("gzip-bomb", says(200, "Content-Encoding: gzip", body=gzip_bomb()), kept, None),
        ("drip", repeats(head() + b"User-agent: *\n", b"#", 0.1), (R.TIMEOUT,), None),
        ("hang", sends(then="hang"), (R.TIMEOUT,), None),
        ("closed", sends(), (R.CONNECT,), None),
        ("cut", sends(head(length=2000), b"User-agent: *\n"), unreachable, None),
        ("garbage", sends(bytes(range(256)) * 40), unreachable, None),
        ("header-endless", repeats(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 99), unreachable, None),
        ("401", says(401), kept, None),
        ("403", says(403), kept, None),
        ("410", says(410), kept, None),
        ("429", says(429), unreachable, 429),
        ("429-once", in_turn(says(429, "Retry-After: 0"), none), forbidden, None),
        ("500", says(500), unreachable, 500),
        ("503", says(503), unreachable, 503),
        ("503-long", says(503, "Retry-After: 86400"), unreachable, 503),
        ("loop", moves("/robots.txt"), kept, None),
        ("loopback", moves(f"http://127.0.0.1:{port}/robots.txt"), (R.PRIVATE_ADDRESS,), None),
        ("metadata", moves("http://169.254.169.254/robots.txt"), (R.PRIVATE_ADDRESS,), None),
        ("file", moves("file:///etc/passwd"), kept, None),
        ("moved", in_turn(moves("/robots.txt", 301), none), forbidden, None),
        ("elsewhere", moves("http://robots-all.test/robots.txt"), forbidden, None),
    ):
        case(f"robots-{name}", says(), reasons, value=value, robots=play)
    for name in ("wrong-ca", "expired"):  # http is open to all, and leads to https that is not
        url = f"https://{name}.test/robots.txt"
        case(f"robots-{name}", says(), (R.TLS,), robots=moves(url))
    case("robots-hop", moves("//a.robots-hop.test/image.jpg"), forbidden)
    case("a.robots-hop", says(), forbidden, robots=none)


def _busy(case: Callable[..., None]) -> None:
    """Servers that ask to come again later."""
    R = Reason
    for name, value, reason in (
        ("none", None, R.KEPT), ("zero", "0", R.KEPT), ("garbage", "soon", R.KEPT), ("negative", "-5", R.KEPT),
        ("past", "Fri, 31 Dec 1999 23:59:59 GMT", R.KEPT), ("second", "1", R.KEPT),
        ("never", "Fri, 31 Dec 9999 23:59:59 GMT", R.HTTP_BUSY), ("huge", "9" * 400, R.HTTP_BUSY),
        ("date-garbage", "Fri, 99 Foo 9999 99:99:99 GMT", R.KEPT), ("blank", " ", R.KEPT),
    ):  # fmt: skip
        lines = [] if value is None else [f"Retry-After: {value}"]
        case(f"later-{name}", in_turn(says(429, *lines), says()), (reason,))
    case("later-503", in_turn(says(503, "Retry-After: 0"), says()), (R.KEPT,))
    case("later-both", in_turn(says(503), says(429), says()), (R.HTTP_BUSY,), value=429)
    case("later-500", in_turn(says(500, "Retry-After: 0"), says()), (R.HTTP_SERVER,), value=500)
    case("later-gone", in_turn(says(429), says(404)), (R.HTTP_GONE,))
    case("later-loop", says(301, "Location: /image.jpg", "Retry-After: 86400", body=b""), (R.REDIRECTS,))


def plays(found: list[Case]) -> dict[str, Play]:
    """By host name."""
    return {f"{case.name}.test": case.play for case in found if case.play is not None}


def robots(found: list[Case]) -> dict[str, Play]:
    """What is done about robots.txt, by host name."""
    return {f"{case.name}.test": case.robots for case in found if case.robots is not None}
