"""Web addresses: absolute, canonical, and their ids. Total functions: no string makes them raise, save `url_id`.

Two spellings of one address have one canonical form and so one id; the query is kept, only the fragment goes. A string
that is not http or https with a host has the canonical form "". `canonical(canonical(x)) == canonical(x)`, which is why
a "%" that opens no escape becomes "%25".
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from functools import lru_cache

MAX_CHARS = 8192  # longer addresses are data in disguise, and no server takes them

PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?")
REFERENCE = re.compile(r"(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# What most addresses are already; every match must be a fixed point of the long way (tested).
PLAIN = re.compile(
    r"https?://(?=[a-z0-9.\-]{1,253}[/?])(?:[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}"
    r"(?=/)(?:/(?!\.)[A-Za-z0-9_~!$&'()*+,;=:@\-][A-Za-z0-9._~!$&'()*+,;=:@\-]*)*/?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@/?\-]*)?"
)
HOST = re.compile(r"[a-z0-9_\-]+(?:\.[a-z0-9_\-]+)*")
UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")
UNSAFE_PATH = re.compile(rb"[^A-Za-z0-9._~!$&'()*+,;=:@/%\-]")
UNSAFE_QUERY = re.compile(rb"[^A-Za-z0-9._~!$&'()*+,;=:@/?%\-]")
DROPPED = dict.fromkeys(map(ord, "\t\n\r"))
EDGES = "".join(map(chr, range(0x21)))
SURROGATE = re.compile("[\ud800-\udfff]")
DEFAULT_PORT = {"http": "80", "https": "443"}


def canonical(url: str) -> str:
    """The one spelling of an absolute http(s) address; "" for everything else, userinfo included."""
    if len(url) > MAX_CHARS:
        return ""
    if PLAIN.fullmatch(url):
        return url
    match = PARTS.match(_browser(url))
    if match is None:
        return ""
    scheme, authority, path, query = match[1].lower(), match[2], match[3], match[4]
    if scheme not in DEFAULT_PORT or not authority or "@" in authority:
        return ""
    name, port = _split_port(authority)
    name = _host(name)
    if not name or port is None:
        return ""
    port = "" if port in ("", DEFAULT_PORT[scheme]) else f":{port}"
    path = _without_dots(_escape(path, UNSAFE_PATH))
    tail = "" if query is None else "?" + _escape(query, UNSAFE_QUERY)
    result = f"{scheme}://{name}{port}{path}{tail}"
    return result if len(result) <= MAX_CHARS else ""


def absolute(base: str, reference: str) -> str:
    """The canonical form of a reference found in a page whose base address is canonical; "" if it has none."""
    if len(reference) > MAX_CHARS:
        return ""
    if reference.startswith(("http://", "https://")):
        return canonical(reference)
    if reference.startswith("/"):
        near = _origin(base) + reference
        if PLAIN.fullmatch(near) and len(near) <= MAX_CHARS:
            return near
    elif not reference.startswith("?") and not SCHEME.match(reference):
        near = _folder(base) + reference
        if PLAIN.fullmatch(near) and len(near) <= MAX_CHARS and reference:
            return near
    text = _browser(reference)
    scheme = SCHEME.match(text)
    if scheme:
        return canonical(text)
    home = PARTS.match(base)
    if home is None:
        return ""
    match = REFERENCE.match(text)
    if match is None:
        return ""
    authority, path, query = match[1], match[2], match[3]
    if authority is not None:
        return canonical(f"{home[1]}:{text}")
    tail = "" if query is None else "?" + query
    if not path:
        query = home[4] if query is None else query
        return canonical(f"{home[1]}://{home[2]}{home[3]}{'' if query is None else '?' + query}")
    if not path.startswith("/"):
        path = home[3].rpartition("/")[0] + "/" + path
    return canonical(f"{home[1]}://{home[2]}{path}{tail}")


@lru_cache(maxsize=64)  # a page has few bases
def _origin(base: str) -> str:
    """Scheme and host of an address as written."""
    home = PARTS.match(base)
    return f"{home[1]}://{home[2]}" if home else ""


@lru_cache(maxsize=64)
def _folder(base: str) -> str:
    """A canonical address up to the last slash of its path."""
    return base.partition("?")[0].rpartition("/")[0] + "/"


def host(url: str) -> str:
    """The host of a canonical address, without its port; "" if there is none."""
    match = PARTS.match(url)
    return _split_port(match[2])[0] if match and match[2] else ""


def url_id(url: str) -> bytes:
    """sha256 of the canonical address; ValueError if it has none, lest all bad addresses share an id."""
    text = canonical(url)
    if not text:
        raise ValueError(f"{url[:200]!r} is not an absolute http or https address")
    return hashlib.sha256(text.encode("ascii")).digest()


def url_hash(url: str) -> int:
    """First 8 bytes, little-endian, of the id; 0 where the string is no address."""
    text = canonical(url)
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "little") if text else 0


def _browser(url: str) -> str:
    """What browsers do first: trim, drop tabs and line ends, turn backslashes before the query."""
    url = url.strip(EDGES)
    if "\n" in url or "\t" in url or "\r" in url:
        url = url.translate(DROPPED)
    if not url.isascii():
        url = SURROGATE.sub("\ufffd", url)
    if "\\" in url:
        end = re.search(r"[?#]", url)
        cut = end.start() if end else len(url)
        url = url[:cut].replace("\\", "/") + url[cut:]
    return url


def _split_port(authority: str) -> tuple[str, str | None]:
    """Host and port ("" if absent, None if it is no port)."""
    name, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        return authority, ""
    if not port:
        return name, ""
    if not (port.isascii() and port.isdigit()) or len(port) > 9 or int(port) > 65535:
        return name, None
    return name, str(int(port))


def _host(name: str) -> str:
    """Lower-case ASCII host name or number address; "" if it is none."""
    if name.startswith("["):
        return _ipv6(name)
    name = name.lower()
    if not HOST.fullmatch(name):
        raw = PERCENT.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else b"%", name.encode("utf-8"))
        try:
            name = raw.decode("utf-8")
            if len(name) > 253:  # the codec below is quadratic in the length
                return ""
            name = name.encode("idna").decode("ascii").lower()
        except UnicodeError:
            return ""
        name = name.removesuffix(".")
        if not HOST.fullmatch(name):
            return ""
    labels = name.split(".")
    if len(name) > 253 or any(len(label) > 63 for label in labels):
        return ""
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        return _ipv4(labels)
    return name


def _ipv6(name: str) -> str:
    try:
        return f"[{ipaddress.IPv6Address(name.removeprefix('[').removesuffix(']').partition('%')[0]).compressed}]"
    except ValueError:
        return ""


def _ipv4(labels: list[str]) -> str:
    """An IPv4 address from one to four numbers, decimal, octal or hexadecimal, as browsers read it."""
    # int() would also read a sign and underscores
    if len(labels) > 4 or not all(NUMBER.fullmatch(label) for label in labels):
        return ""
    numbers = []
    for label in labels:
        try:
            if label.startswith("0x"):
                numbers.append(int(label[2:] or "0", 16))
            elif label.startswith("0") and len(label) > 1:
                numbers.append(int(label, 8))
            else:
                numbers.append(int(label))
        except ValueError:
            return ""
    last = numbers.pop()
    if any(number > 255 for number in numbers) or last >= 256 ** (4 - len(numbers)):
        return ""
    value = last + sum(number << (8 * (3 - place)) for place, number in enumerate(numbers))
    return str(ipaddress.IPv4Address(value))


def _escape(text: str, unsafe: re.Pattern[bytes]) -> str:
    """Escapes in upper case, only where they are needed."""

    def one(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            return b"%25"
        value = int(match[1], 16)
        return bytes([value]) if value in UNRESERVED else b"%%%02X" % value

    raw = text.encode("utf-8")
    if b"%" in raw:
        raw = PERCENT.sub(one, raw)
    return unsafe.sub(lambda m: b"%%%02X" % m[0][0], raw).decode("ascii")


def _without_dots(path: str) -> str:
    """The path with "." and ".." resolved (RFC 3986, 5.2.4); never empty."""
    if "/." not in path and path.startswith("/"):
        return path
    kept: list[str] = []
    segments = path.split("/")[1:] if path.startswith("/") else path.split("/")
    for place, segment in enumerate(segments):
        last = place == len(segments) - 1
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
            continue
        if last:
            kept.append("")
    return "/" + "/".join(kept)
