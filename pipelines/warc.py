"""WARC files to records: every record once, damage costs the damaged record only, nothing raises.

`records` reads with fastwarc and mends what it gives up on: after an error it goes on at the next gzip member that
starts a WARC record, and a record whose Content-Length reaches into the next member ends with its own (of 3,000 files
with one damaged member of five, every other record comes). In zstd and lz4 damage costs the rest; ARC is refused.
`response` splits the HTTP message; `decoded` undoes transfer and content encodings under limits.
"""

from __future__ import annotations

import io
import mmap
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brotli
from fastwarc.stream_io import ZstdReader
from fastwarc.warc import ArchiveIterator

from pipelines.reasons import Reason

GZIP, ZSTD, LZ4, PLAIN = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"WARC/"
BROKEN = (OSError, ValueError, RuntimeError, EOFError, OverflowError, KeyError, AttributeError)  # what fastwarc raises
PADDING = b"\0\r\n\t "
WINDOW_BYTES = 32 << 20
HEADER_BYTES = 256 << 10  # of HTTP headers; servers stop at 8-64 KiB
# A body can be made of pieces that cost far more than their bytes.
MAX_CODINGS = 8  # of one body: a gzip that unpacks to itself could be unpacked for ever
MAX_CHUNKS = 1 << 17  # 1-byte chunks
MAX_MEMBERS = 1 << 10  # of a gzip body; empty ones take 20 bytes
PIECE_BYTES = 1 << 16
BLANK = re.compile(rb"\r?\n\r?\n")
LENGTH = re.compile(rb"\ncontent-length:\s*(\d+)", re.I)
ZIPPED = ("gzip", "x-gzip", "deflate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record that was read. `block` is empty unless the record is a response within the limit.

    offset: of its compressed member, or a number near it that is unique in the file where one member holds many
    records; then length, the compressed bytes, is 0. size: bytes of the block as declared.
    """

    offset: int
    length: int
    kind: str
    url: str
    date: str
    record_id: str
    size: int
    block: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Bad:
    """A record, or a run of bytes between records, that cannot be read."""

    offset: int
    reason: Reason
    url: str = ""
    value: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """An HTTP response: names in lower case, headers in order and repeated as sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def first(self, name: str) -> str:
        """The first value of a header or ""."""
        return next((value for key, value in self.headers if key == name), "")


def records(path: Path, enter: Callable[[int], bool], max_bytes: int = 16 << 20) -> Iterator[Record | Bad]:
    """Every record of a WARC file (gzip, zstd, lz4 or plain), in file order.

    enter: told the offset before a record is handed out; False makes it Bad(CRASHED). max_bytes: larger blocks are
    not read into memory.
    """
    size = path.stat().st_size
    if size == 0:
        yield Bad(offset=0, reason=Reason.CORRUPT)
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        magic = next((m for m in (GZIP, ZSTD, LZ4, PLAIN) if view[: len(m)] == m), b"")
        if not magic:  # the first record is damaged: what the others are says what the file is
            magic = PLAIN if _next_start(view, GZIP, 0) is None else GZIP
        looked = 0
        for item in _all(path, view, magic, max_bytes):
            if item.offset - looked > WINDOW_BYTES and hasattr(mmap, "MADV_DONTNEED"):
                # a gigabyte that was looked at once would stay in this process's memory until the file is done
                view.madvise(mmap.MADV_DONTNEED)
                looked = item.offset
            if not enter(item.offset):
                yield Bad(offset=item.offset, reason=Reason.CRASHED, url=item.url)
            else:
                yield item


def _all(path: Path, view: mmap.mmap, magic: bytes, max_bytes: int) -> Iterator[Record | Bad]:
    """Runs of readable records, and one Bad for each gap between them."""
    begin = _next_start(view, magic, 0)
    if begin is None:
        yield Bad(offset=0, reason=Reason.CORRUPT)
        return
    last, end = -1, 0
    while begin is not None:
        if _after_padding(view, end) < begin:
            last = max(last + 1, end)
            yield Bad(offset=last, reason=Reason.CORRUPT)
        member, before = begin, last
        for item, own in _run(path, view, magic, begin, last, max_bytes):
            if own and last == before and item.offset > begin:  # fastwarc passed over it without a word
                yield Bad(offset=begin, reason=Reason.CORRUPT)
            last = item.offset
            member = last if own else member
            yield item
        if last == before:  # it looked like a record and was none
            last = max(last + 1, begin)
            yield Bad(offset=last, reason=Reason.CORRUPT)
        closed = _end(view, magic, member)
        begin = _next_start(view, magic, member + 1 if closed is None else closed)
        end = begin or len(view) if closed is None else closed  # what does not close was reported with its record
    if _after_padding(view, end) < len(view):
        yield Bad(offset=max(last + 1, end), reason=Reason.CORRUPT)


def _run(
    path: Path, view: mmap.mmap, magic: bytes, begin: int, last: int, max_bytes: int
) -> Iterator[tuple[Record | Bad, bool]]:
    """Records from a member on until fastwarc stops or misses one; True beside those that start their own member."""
    held: tuple[dict[str, Any], bool] | None = None  # waits for the next offset, which is its end

    def finish(end: int) -> tuple[Record | Bad, bool]:
        assert held is not None
        fields, own = held
        length = end - fields["offset"] if own and end > fields["offset"] else 0
        if fields.pop("cut"):
            return Bad(offset=fields["offset"], reason=Reason.CORRUPT, url=fields["url"]), own
        return Record(length=length, **fields), own

    with path.open("rb") as stream:
        stream.seek(begin)
        try:
            archive = ArchiveIterator(stream, parse_http=False, auto_decode="none", quirks_mode=True)
            for record in archive:
                position = record.stream_pos
                own = position > last and view[position : position + len(magic)] == magic
                offset = position if own else last + 1
                if held is not None:
                    missed = own and held[1] and _missed(view, magic, held[0], position)
                    done = finish(position if own else 0)
                    held = None
                    yield done
                    if missed:
                        return
                last = offset
                fields = _fields(record, offset)
                held = ({**fields, "block": b"", "cut": True}, own)  # stands if reading fails
                declared = (record.headers.get("Content-Length") or "").strip()
                block, cut = b"", not (declared.isdecimal() and len(declared) < 19)
                if not cut and fields["kind"] == "response" and fields["size"] <= max_bytes:
                    block = record.reader.read()
                    cut = len(block) < fields["size"]
                held = ({**fields, "block": block, "cut": cut}, own)
        except BROKEN:
            pass
    if held is not None:
        offset, own = held[0]["offset"], held[1]
        if own:
            _missed(view, magic, held[0], len(view))
        yield finish((_end(view, magic, offset) or len(view)) if own else 0)


def _missed(view: mmap.mmap, magic: bytes, fields: dict[str, Any], following: int) -> bool:
    """Whether there is more than this record before the following one; if it took that for its own, it is cut."""
    start = fields["offset"]
    if magic == PLAIN:
        end = _end(view, magic, start)
        return end is not None and _after_padding(view, end) < following
    if magic != GZIP:
        return False
    between = _next_start(view, magic, start + 1)
    end = _end(view, magic, start) if between is not None and between < following else None
    if between is None or end is None or end > between:  # no other member, or a body that holds one
        return False
    inflate = zlib.decompressobj(31)
    head = inflate.decompress(view[start:end], HEADER_BYTES)
    blank = BLANK.search(head)
    size, rest = len(head), inflate.unconsumed_tail
    while rest:
        size += len(inflate.decompress(rest, 1 << 20))
        rest = inflate.unconsumed_tail
    fields["cut"] |= blank is None or blank.end() + fields["size"] > size
    return True


def _fields(record: Any, offset: int) -> dict[str, Any]:
    headers = record.headers
    return {
        "offset": offset,
        "kind": (headers.get("WARC-Type") or "").strip().lower(),
        "url": (headers.get("WARC-Target-URI") or "").strip().removeprefix("<").removesuffix(">"),
        "date": (headers.get("WARC-Date") or "").strip(),
        "record_id": (headers.get("WARC-Record-ID") or "").strip(),
        "size": max(0, int(record.content_length)),
    }


def _next_start(view: mmap.mmap, magic: bytes, position: int) -> int | None:
    """Where the next record starts, at or after a position."""
    while True:
        position = view.find(magic, position)
        if position < 0:
            return None
        if magic == GZIP:
            try:
                head = zlib.decompressobj(31).decompress(view[position : position + 4096], 64)
            except zlib.error:
                head = b""
            if head.lstrip(PADDING).startswith(PLAIN):
                return position
        elif magic != PLAIN or position == 0 or view[position - 1 : position] == b"\n":
            return position
        position += 1


def _end(view: mmap.mmap, magic: bytes, start: int) -> int | None:
    """Where the member that starts there ends; None if it does not."""
    if magic == PLAIN:
        match = BLANK.search(view, start, start + HEADER_BYTES)
        sizes = LENGTH.findall(view, start, match.end()) if match else []  # of two the last holds
        end = match.end() + int(sizes[-1][:18]) if match and sizes else None
        return end if end is not None and end <= len(view) else None
    if magic != GZIP:
        return len(view)  # fastwarc reads these to the end or fails
    inflate, position = zlib.decompressobj(31), start
    try:
        while not inflate.eof:
            data = inflate.unconsumed_tail
            if not data:
                data = view[position : position + (1 << 16)]
                position += len(data)
            if not data:
                return None
            inflate.decompress(data, 1 << 20)
    except zlib.error:
        return None
    return position - len(inflate.unused_data)


def _after_padding(view: mmap.mmap, start: int) -> int:
    """Where padding ends that starts there; empty gzip members are padding too."""
    while start < len(view):
        chunk = view[start : start + (1 << 12)]
        rest = chunk.lstrip(PADDING)
        start += len(chunk) - len(rest)
        if not rest:
            continue
        if view[start : start + 3] != GZIP:
            break
        inflate = zlib.decompressobj(31)
        chunk = view[start : start + (1 << 12)]
        try:
            if inflate.decompress(chunk, 64) or not inflate.eof:
                break
        except zlib.error:
            break
        start += len(chunk) - len(inflate.unused_data)
    return min(start, len(view))


def response(block: bytes) -> Response | Reason:
    """The HTTP message of a response record; HTTP_HEADER if it does not start like one."""
    if not block.startswith((b"HTTP/", b"http/")):
        return Reason.HTTP_HEADER
    end = BLANK.search(block, 0, HEADER_BYTES)
    if end is None and len(block) > HEADER_BYTES:
        return Reason.HTTP_HEADER
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    lines = head.split(b"\n")
    status = re.match(rb"(?i:http)/\d+(?:\.\d+)?[ \t]+(\d{3})(?!\d)", lines[0])
    if status is None:
        return Reason.HTTP_HEADER
    headers: list[tuple[str, list[str]]] = []
    for line in lines[1:]:
        text = line.decode("utf-8", "replace").rstrip("\r")
        if text[:1] in (" ", "\t") and headers:  # folded line (RFC 9112, 5.2)
            headers[-1][1].append(text.strip())
            continue
        name, colon, value = text.partition(":")
        if colon:
            headers.append((name.strip().lower(), [value.strip()]))
    return Response(status=int(status[1]), headers=tuple((name, " ".join(v)) for name, v in headers), body=body)


def decoded(message: Response, max_bytes: int) -> bytes | Reason:
    """The body without its encodings; TOO_LARGE over the limit, CONTENT_ENCODING where they cannot be undone.

    A body that does not look like what its header says is taken as it is: crawlers decode bodies and leave the header.
    """
    body = message.body
    transfer = [t for value in message.all("transfer-encoding") for t in _tokens(value)]
    codings = [t for value in message.all("content-encoding") for t in _tokens(value)]
    codings += [t for t in transfer if t in (*ZIPPED, "chunked")]  # applied last, so undone first
    codings = [t for t in codings if t not in ("identity", "none", "utf-8")]
    if len(codings) > MAX_CODINGS:
        return Reason.CONTENT_ENCODING
    for coding in reversed(codings):
        if not body:
            break
        undone = _undone(body, coding, max_bytes)
        if isinstance(undone, Reason):
            return undone
        body = undone
    return body if len(body) <= max_bytes else Reason.TOO_LARGE


def _tokens(value: str) -> list[str]:
    return [token for part in value.split(",") if (token := part.strip().lower())]


def _undone(body: bytes, coding: str, max_bytes: int) -> bytes | Reason:
    if coding == "chunked":
        return _unchunked(body)
    if coding in ZIPPED or body[:2] == b"\x1f\x8b":  # gzip says what it is, whatever the header says
        return _inflated(body, coding, max_bytes)
    if body.lstrip(PADDING).startswith((b"<", b"\xef\xbb\xbf")):
        return body
    if coding == "br":
        return _unbrotlied(body, max_bytes)
    return _unzstd(body, max_bytes) if coding == "zstd" else Reason.CONTENT_ENCODING


def _unchunked(body: bytes) -> bytes | Reason:
    """Chunks joined; the body itself if it is not chunked; refused if the chunks break off in nonsense."""
    size_line = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")
    parts: list[bytes] = []
    position = 0
    while position < len(body):
        match = size_line.match(body, position)
        if match is None or len(parts) == MAX_CHUNKS:
            return Reason.CONTENT_ENCODING if parts else body
        size = int(match[1], 16)
        if size == 0:
            break
        parts.append(body[match.end() : match.end() + size])
        position = match.end() + size
        if body[position : position + 2] == b"\r\n":
            position += 2
        elif body[position : position + 1] == b"\n":
            position += 1
    return b"".join(parts)


def _inflated(body: bytes, token: str, max_bytes: int) -> bytes | Reason:
    """gzip (all its members), zlib or raw deflate; what a cut body gives is kept."""
    if token != "deflate" and body[:2] != b"\x1f\x8b":
        return body
    if token == "deflate" and body.lstrip(PADDING).startswith(b"<"):
        return body
    for wbits in (31,) if body[:2] == b"\x1f\x8b" else (15, -15):
        output, position = bytearray(), 0
        try:
            for _ in range(MAX_MEMBERS):
                inflate = zlib.decompressobj(wbits)
                while not inflate.eof and position < len(body):
                    piece = body[position : position + PIECE_BYTES]
                    output += inflate.decompress(piece, max_bytes + 1 - len(output))
                    if len(output) > max_bytes:
                        return Reason.TOO_LARGE
                    position += len(piece) - len(inflate.unused_data)
                if wbits != 31 or body[position : position + 2] != b"\x1f\x8b":
                    return bytes(output)
        except zlib.error:
            continue
    return Reason.CONTENT_ENCODING


def _unbrotlied(body: bytes, max_bytes: int) -> bytes | Reason:
    """brotli; what a cut body gives is kept."""
    output, inflate, rest = bytearray(), brotli.Decompressor(), body
    try:
        while len(output) <= max_bytes:
            part = inflate.process(rest, output_buffer_limit=max_bytes + 1 - len(output))
            output += part
            rest = b""
            if inflate.is_finished() or not part:
                return bytes(output) if output else Reason.CONTENT_ENCODING
    except brotli.error:
        return Reason.CONTENT_ENCODING
    return Reason.TOO_LARGE


def _unzstd(body: bytes, max_bytes: int) -> bytes | Reason:
    """Zstandard (RFC 8878) by fastwarc's own; what a cut body gives is kept."""
    output, stream = bytearray(), ZstdReader(io.BytesIO(body))
    try:
        while len(output) <= max_bytes:
            part = stream.read(PIECE_BYTES)
            if not part:
                return bytes(output) if output else Reason.CONTENT_ENCODING
            output += part
    except BROKEN:
        return bytes(output) if output else Reason.CONTENT_ENCODING
    return Reason.TOO_LARGE
