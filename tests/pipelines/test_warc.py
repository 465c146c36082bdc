"""Reading WARCs: every record once, damage stays where it is, and no file raises or hangs."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

import brotli
import pytest
from fastwarc.stream_io import ZstdWriter
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines import warc
from pipelines.reasons import Reason

SHARED = Path(__file__).parents[3] / "shared" / "data"
ODD = sorted(p for folder in ("odd-warcs", "crawl/genuine") for p in (SHARED / folder).rglob("*") if p.is_file())


def record(url: str = "http://a.example/", body: bytes = b"<p>x", kind: str = "response") -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{len(body)}>\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def read(path: Path, poisoned: frozenset[int] = frozenset()) -> list[warc.Record | warc.Bad]:
    found = list(warc.records(path, lambda offset: offset not in poisoned))
    offsets = [item.offset for item in found]
    assert offsets == sorted(set(offsets))
    return found


def urls_of(found: list[warc.Record | warc.Bad]) -> list[str]:
    return [item.url if isinstance(item, warc.Record) else item.reason.word for item in found]


@pytest.fixture
def members() -> list[bytes]:
    return [gzip.compress(record(f"http://a.example/{n}", b"<p>%d" % n * 500), mtime=0) for n in range(5)]


def test_offset_and_length_cut_out_the_record(tmp_path: Path, members: list[bytes]) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members))
    for n, item in enumerate(read(path)):
        assert isinstance(item, warc.Record)
        raw = path.read_bytes()[item.offset : item.offset + item.length]
        assert raw == members[n]
        assert (item.url, item.kind, item.date) == (f"http://a.example/{n}", "response", "2026-01-02T03:04:05Z")
        assert item.block.endswith(b"<p>%d" % n)


def test_plain_files_and_one_member_for_all(tmp_path: Path) -> None:
    raw = [record(f"http://a.example/{n}") for n in range(4)]
    plain, single = tmp_path / "a.warc", tmp_path / "b.warc.gz"
    plain.write_bytes(b"".join(raw))
    single.write_bytes(gzip.compress(b"".join(raw)))
    expected = [f"http://a.example/{n}" for n in range(4)]
    assert urls_of(read(plain)) == urls_of(read(single)) == expected
    for item, one in zip(read(plain), raw, strict=True):
        assert isinstance(item, warc.Record)
        assert plain.read_bytes()[item.offset :].startswith(one)


@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
def test_a_damaged_member_costs_itself(tmp_path: Path, members: list[bytes], where: float) -> None:
    broken = bytearray(members[2])
    place = int(len(broken) * where)
    broken[place : place + 8] = b"\xff" * 8
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join([*members[:2], bytes(broken), *members[3:]]))
    found = urls_of(read(path))
    assert [url for url in found if url.startswith("http")] == [f"http://a.example/{n}" for n in (0, 1, 3, 4)]
    assert found.count("corrupt") == 1


def test_rubbish_between_members_is_one_loss(tmp_path: Path, members: list[bytes]) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(members[0] + b"rubbish" * 50 + members[1] + gzip.compress(b"") + members[2] + b"\0" * 600)
    assert urls_of(read(path)) == ["http://a.example/0", "corrupt", "http://a.example/1", "http://a.example/2"]


def test_a_cut_file_loses_its_last_record(tmp_path: Path, members: list[bytes]) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members)[:-20])
    assert urls_of(read(path)) == [*(f"http://a.example/{n}" for n in range(4)), "corrupt"]
    path.write_bytes((record() * 3)[:-30])
    assert urls_of(read(path)) == ["http://a.example/", "http://a.example/", "corrupt"]


@pytest.mark.parametrize("content", [b"", b"no WARC at all", gzip.compress(b"nor this"), b"\x1f\x8b\x08", b"\0" * 100])
def test_what_is_no_warc_is_one_bad_record(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert read(path) == [warc.Bad(offset=0, reason=Reason.CORRUPT)]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("cut", [5, 12, 60, 120])
def test_a_file_that_ends_inside_a_header_is_damaged(tmp_path: Path, cut: int, zipped: bool) -> None:
    path = tmp_path / "a.warc"
    pieces = [record("http://a.example/0"), record("http://a.example/1")[:cut]]
    assert b"Content-Length" not in pieces[1]
    path.write_bytes(b"".join(gzip.compress(piece, mtime=0) if zipped else piece for piece in pieces))
    assert urls_of(read(path))[:1] == ["http://a.example/0"]
    assert [item.reason for item in read(path)[1:] if isinstance(item, warc.Bad)] == [Reason.CORRUPT]
    assert len(read(path)) == 2


def test_poisoned_records_are_skipped(tmp_path: Path, members: list[bytes]) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members))
    bad = len(members[0])
    found = read(path, frozenset([bad]))
    assert found[1] == warc.Bad(offset=bad, reason=Reason.CRASHED, url="http://a.example/1")
    assert len(found) == 5


def test_large_records_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(record(body=b"x" * 5000)) + gzip.compress(record()))
    first, second = warc.records(path, lambda _: True, max_bytes=1000)
    assert isinstance(first, warc.Record) and isinstance(second, warc.Record)
    assert first.block == b"" and first.size > 5000
    assert second.block


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_raises_or_repeats(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(b"".join(gzip.compress(record(f"http://a.example/{n}", b"y" * 90), mtime=0) for n in range(3)))
    if data.draw(st.booleans()):
        raw = bytearray(zlib.decompress(raw[:0] or gzip.compress(record() * 3), 31))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path = tmp_path_factory.mktemp("w") / "a"
    path.write_bytes(bytes(raw))
    assert read(path)


HITS = ("flip", "cut", "insert", "zero", "head", "tail")


@given(
    hit=st.integers(0, 4),
    kind=st.sampled_from(HITS),
    where=st.floats(0, 0.999),
    num=st.integers(1, 30),
    noise=st.binary(min_size=30, max_size=30),
    stored=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_damage_in_one_member_costs_no_other(
    tmp_path_factory: pytest.TempPathFactory, hit: int, kind: str, where: float, num: int, noise: bytes, stored: bool
) -> None:
    members = [
        gzip.compress(record(f"http://a.example/{n}", b"<p>%d" % n * 100), 0 if stored else 6, mtime=0)
        for n in range(5)
    ]
    broken = bytearray(members[hit])
    at = int(where * len(broken))
    match kind:
        case "flip":
            broken[at] ^= num
        case "cut":
            del broken[at : at + num]
        case "insert":
            broken[at:at] = noise[:num]
        case "zero":
            broken[at : at + num] = bytes(len(broken[at : at + num]))
        case "head":
            del broken[:num]
        case _:
            del broken[-num:]
    members[hit] = bytes(broken)
    # a stored member without its head is a plain record, and what begins with one is a plain file
    assume(not members[0].startswith(b"WARC/"))
    path = tmp_path_factory.mktemp("w") / "a.warc.gz"
    path.write_bytes(b"".join(members))
    found = urls_of(read(path))
    assert {f"http://a.example/{n}" for n in range(5) if n != hit} <= set(found)
    assert "corrupt" in found or len(found) == 5  # what is lost is counted


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("length", "plain", "gz"),
    [
        (-100, "0 1 corrupt 2 3", "0 1 2 3"),  # cut as it says; what is left over is a loss between records
        (4, "0 1 2 3", "0 1 2 3"),
        (5, "0 1 corrupt 3", "0 corrupt 2 3"),  # in a plain file nothing else tells where a record ends
        (300, "0 1 corrupt 3", "0 corrupt 2 3"),
        (10**6, "0 corrupt 2 3", "0 corrupt 2 3"),
        (10**25, "0 corrupt 2 3", "0 corrupt 2 3"),
    ],
)
def test_a_wrong_content_length(tmp_path: Path, length: int, plain: str, gz: str, zipped: bool) -> None:
    pieces = [record(str(n), b"<p>x" * 50) for n in range(4)]
    size = int(pieces[1].partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    pieces[1] = pieces[1].replace(b"Length: %d" % size, b"Length: %d" % (size + length))
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(gzip.compress(piece, mtime=0) if zipped else piece for piece in pieces))
    assert urls_of(read(path)) == (gz if zipped else plain).split()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"\r\n", b"\n", "0 1 2"),  # every line end of the record
        (b"Content-Length", b"X-Length", "0 corrupt 2"),
        (b"WARC/1.0", b"WARC/9.9", "0 corrupt 2"),
        (b"WARC/1.0", b"WARC/1.0\r\nX: " + b"a" * 1_000_000, "0 corrupt 2"),
        (b"WARC/1.0", b"WARC/1.0" + b"\r\nX: a" * 20_000, "0 corrupt 2"),
        (b"Content-Length", b"Content-Length: 5\r\nContent-Length", "0 1 2"),
        (b"WARC/1.0", b"\r\n\r\nWARC/1.0", "0 1 2"),
    ],
)
def test_odd_headers(tmp_path: Path, old: bytes, new: bytes, expected: str, zipped: bool) -> None:
    pieces = [record(str(n)) for n in range(3)]
    head, blank, block = pieces[1].partition(b"\r\n\r\n")
    pieces[1] = (head + blank).replace(old, new) + block
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(gzip.compress(piece, mtime=0) if zipped else piece for piece in pieces))
    assert urls_of(read(path)) == expected.split()


def test_a_body_that_holds_a_warc_stays_a_body(tmp_path: Path) -> None:
    inner = [record("inner"), gzip.compress(record("inner"), 0, mtime=0)]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(record(str(n), body), 0, mtime=0) for n, body in enumerate([*inner, b"x"])))
    assert urls_of(read(path)) == ["0", "1", "2"]


def test_a_damaged_start_does_not_cost_the_file(tmp_path: Path, members: list[bytes]) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"rubbish" + members[0][5:] + b"".join(members[1:]))
    assert urls_of(read(path)) == ["corrupt", *(f"http://a.example/{n}" for n in range(1, 5))]


def test_arc_files_are_refused(tmp_path: Path) -> None:
    arc = b"filedesc://a.arc 0.0.0.0 20080430204825 text/plain 20\n1 0 InternetArchive\n\nhttp://a.example/ 1.2.3.4 "
    for content in (arc, gzip.compress(arc)):
        path = tmp_path / "a.arc"
        path.write_bytes(content)
        assert read(path) == [warc.Bad(offset=0, reason=Reason.CORRUPT)]


@pytest.mark.skipif(not ODD, reason="shared data is not here")
@pytest.mark.parametrize("path", ODD, ids=lambda p: p.name)
def test_odd_files_are_read_or_refused(path: Path) -> None:
    found = read(path)
    assert found
    for item in found:
        if isinstance(item, warc.Record) and item.kind == "response" and item.block:
            message = warc.response(item.block)
            if isinstance(message, warc.Response):
                assert isinstance(warc.decoded(message, 1 << 20), bytes | Reason)


def message(body: bytes, *headers: tuple[str, str]) -> warc.Response:
    return warc.Response(status=200, headers=headers, body=body)


def test_http_headers() -> None:
    block = b"HTTP/1.1 200 OK\r\nX-Robots-Tag: noai\r\nx-robots-tag: a,\r\n  b\r\nBroken\r\n\r\nbody\r\n\r\nmore"
    found = warc.response(block)
    assert isinstance(found, warc.Response)
    assert (found.status, found.body) == (200, b"body\r\n\r\nmore")
    assert found.all("x-robots-tag") == ["noai", "a, b"]
    assert found.first("none") == ""
    folded = warc.response(b"HTTP/1.1 200 OK\r\nA: b\r\n" + b" c\r\n" * 60_000 + b"\r\n")
    assert isinstance(folded, warc.Response) and folded.first("a") == "b" + " c" * 60_000
    for bad in (
        b"",
        b"<html>",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n" + b"a" * 400_000,
    ):
        assert warc.response(bad) is Reason.HTTP_HEADER


def zstd(text: bytes) -> bytes:
    file = io.BytesIO()
    with ZstdWriter(file) as writer:
        writer.write(text)
    return file.getvalue()


TEXT = b"<p>some text</p>" * 20
RAW = zlib.compressobj(wbits=-15)
DEFLATED = RAW.compress(TEXT) + RAW.flush()
ZIPPED = gzip.compress(TEXT)
ZSTD = zstd(TEXT)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (gzip.compress(TEXT), [("content-encoding", "gzip")], TEXT),
        (gzip.compress(TEXT) * 2, [("content-encoding", "x-gzip")], TEXT * 2),
        (zlib.compress(TEXT), [("content-encoding", "deflate")], TEXT),
        (DEFLATED, [("content-encoding", "deflate")], TEXT),
        (gzip.compress(gzip.compress(TEXT)), [("content-encoding", "gzip, gzip")], TEXT),
        (TEXT, [("content-encoding", "gzip")], TEXT),
        (TEXT, [("content-encoding", "br")], TEXT),
        (TEXT, [("x-crawler-content-encoding", "gzip")], TEXT),
        (brotli.compress(TEXT), [("content-encoding", "br")], TEXT),
        (brotli.compress(gzip.compress(TEXT)), [("content-encoding", "gzip, br")], TEXT),
        (brotli.compress(bytes(1 << 26)), [("content-encoding", "br")], Reason.TOO_LARGE),
        (b"garbage that is no brotli", [("content-encoding", "br")], Reason.CONTENT_ENCODING),
        (b"\x1f\x8b\x08rubbish", [("content-encoding", "gzip")], Reason.CONTENT_ENCODING),
        (gzip.compress(b"a" * 5000), [("content-encoding", "gzip")], Reason.TOO_LARGE),
        (b"a" * 1001, [], Reason.TOO_LARGE),
        (b"4\r\n<p>a\r\n3;x=y\r\nbcd\r\n0\r\n\r\n", [("transfer-encoding", "chunked")], b"<p>abcd"),
        (b"<p>not chunked", [("transfer-encoding", "chunked")], b"<p>not chunked"),
        (b"4\r\n<p>a\r\nnonsense", [("transfer-encoding", "chunked")], Reason.CONTENT_ENCODING),
        (b"1\r\nx\r\n" * (warc.MAX_CHUNKS + 1), [("transfer-encoding", "chunked")], Reason.CONTENT_ENCODING),
        (gzip.compress(b"") * 2000, [("content-encoding", "gzip")], Reason.CONTENT_ENCODING),
        (gzip.compress(TEXT), [("content-encoding", ", ".join(["gzip"] * 9))], Reason.CONTENT_ENCODING),
        (gzip.compress(TEXT), [("content-encoding", "br")], TEXT),
        (gzip.compress(TEXT), [("content-encoding", "deflate")], TEXT),
        (gzip.compress(TEXT)[:-9], [("content-encoding", "gzip")], TEXT),
        (gzip.compress(TEXT) + b"trailing", [("content-encoding", "gzip")], TEXT),
        (ZSTD, [("content-encoding", "zstd")], TEXT),
        (ZSTD[:9], [("content-encoding", "zstd")], Reason.CONTENT_ENCODING),
        (TEXT, [("content-encoding", "zstd")], TEXT),
        (TEXT, [("content-encoding", "unheard-of")], TEXT),
        (b"\0" * 9, [("content-encoding", "unheard-of")], Reason.CONTENT_ENCODING),
        (b"%x\r\n%b\r\n0\r\n\r\n" % (len(ZIPPED), ZIPPED), [("transfer-encoding", "gzip, chunked")], TEXT),
    ],
)
def test_encodings_are_undone_within_the_limit(
    body: bytes, headers: list[tuple[str, str]], expected: bytes | Reason
) -> None:
    assert warc.decoded(message(body, *headers), 1000) == expected
