"""Extract from end to end: a verdict for every record, rows that agree with one another, the same bytes each time."""

from __future__ import annotations

import gc
import gzip
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.stage import SIDE, Unit, canonical
from pipelines import extract, stream, urls
from pipelines.reasons import Reason
from tests.offline import OfflineWork, collect

SHARED = Path(__file__).parents[3] / "shared" / "data"
PROSE = (
    "The ferry leaves the harbour at noon and comes back in the evening. Nobody on the island minds that, because "
    "those who live there have learnt to wait, and visitors are told of it by everyone whom they meet on the pier. "
)
PAGE = f"<html lang=en><title>Ferry</title><p>{PROSE}</p>".encode()
HTML = b"Content-Type: text/html\r\n"
CONFIG = extract.Config()


def record(body: bytes, head: bytes = HTML, url: str = "http://a.example/x", kind: str = "response",
           status: bytes = b"HTTP/1.1 200 OK\r\n") -> bytes:  # fmt: skip
    block = status + head + b"\r\n" + body if status else body
    top = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
        f"WARC-Record-ID: <urn:1>\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return top.encode() + block + b"\r\n\r\n"


def run(
    path: Path, records: list[bytes], config: extract.Config = CONFIG, poisoned: frozenset[int] = frozenset()
) -> tuple[dict[str, pa.Table], OfflineWork]:
    if records:
        path.write_bytes(b"".join(gzip.compress(r, mtime=0) for r in records))
    unit = Unit(id="w", inputs=("crawl/w.warc.gz", str(path), "CRAWL"))
    work = OfflineWork(unit=unit, scratch=path.parent, poisoned=poisoned)
    return collect(extract.process, config, work, extract.OUTPUTS), work


def verdict(tmp_path: Path, one: bytes, config: extract.Config = CONFIG) -> tuple[Reason, float]:
    tables, work = run(tmp_path / "w.warc.gz", [one], config)
    row = tables["verdicts"].to_pylist()
    assert len(row) == 1
    reason = Reason(row[0]["reason"])
    assert work.counts[reason.word] == 1
    return reason, row[0]["value"]


@pytest.mark.parametrize(
    ("one", "reason", "value"),
    [
        (record(PAGE), Reason.KEPT, 0),
        (record(PAGE, kind="request"), Reason.NOT_RESPONSE, 0),
        (record(PAGE, url="ftp://a.example/"), Reason.BAD_URL, 0),
        (record(PAGE, status=b""), Reason.HTTP_HEADER, 0),
        (record(PAGE, status=b"HTTP/1.1 404 Not Found\r\n"), Reason.HTTP_STATUS, 404),
        (record(PAGE, b"Content-Type: application/json\r\n"), Reason.NOT_HTML, 0),
        (record(b"%PDF-1.4 " + PAGE), Reason.NOT_HTML, 0),
        (record(PAGE, b""), Reason.KEPT, 0),
        (
            record(b"\n<!-- x -->\n<!DOCTYPE html>" + PAGE, b"Content-Type: application/octet-stream\r\n"),
            Reason.KEPT,
            0,
        ),
        (record(b'{"a": "' + PAGE + b'"}', b""), Reason.NOT_HTML, 0),
        (record(b" \r\n"), Reason.EMPTY, 0),
        (record(PAGE + b" " * (4 << 20)), Reason.TOO_LARGE, len(PAGE) + (4 << 20)),
        (record(b"\x1f\x8b\x08bad", HTML + b"Content-Encoding: gzip\r\n"), Reason.CONTENT_ENCODING, 0),
        (record(gzip.compress(PAGE), HTML + b"Content-Encoding: gzip\r\n"), Reason.KEPT, 0),
        (record(PAGE, HTML + b"X-Crawler-Content-Encoding: gzip\r\n"), Reason.KEPT, 0),
        (record(b"<p>" + b"\0" * 500), Reason.CHARSET, pytest.approx(500 / 503)),
        (record(b"<div>" * 2000 + PAGE), Reason.TOO_DEEP, 513),
        (record(b"<p>" * 400_000), Reason.TOO_MANY_NODES, 400_000),
        (record(b"<p " + b" ".join(b"a%d" % n for n in range(300)) + b">"), Reason.TOO_MANY_ATTRIBUTES, 300),
        (record(PAGE + b"<img src=a.jpg>" * 5000), Reason.TOO_MANY_IMAGES, 5000),
        (record(PAGE, HTML + b"X-Robots-Tag: noai\r\n"), Reason.OPT_OUT_HEADER, 1),
        (
            record(PAGE, HTML + b"X-Robots-Tag: otherbot: noai, *: unavailable_after: 1 Jan 2026 00:00 GMT\r\n"),
            Reason.OPT_OUT_HEADER,
            6,
        ),
        (record(PAGE, HTML + b"X-Robots-Tag: unavailable_after: 2 Jan 2026 00:00 GMT\r\n"), Reason.KEPT, 0),
        (record(PAGE, HTML + b"TDM-Reservation: 1\r\n"), Reason.OPT_OUT_TDM, 0),
        (record(b"<meta name=robots content='noindex'>" + PAGE), Reason.OPT_OUT_META, 3),
        (record(b"<meta name=tdm-reservation content=1>" + PAGE), Reason.OPT_OUT_TDM, 0),
        (record(b"<html><img src=a.jpg><script>x</script>"), Reason.NO_TEXT, 0),
        (record(b"<html lang=en><p>This is the<p>that was for<p>from the harbour<p>of their own"), Reason.NO_TEXT, 0),
    ],
)
def test_verdicts(tmp_path: Path, one: bytes, reason: Reason, value: float) -> None:
    assert verdict(tmp_path, one) == (reason, value)


def test_other_languages_go(tmp_path: Path) -> None:
    german = (
        "Die Fähre verlässt den Hafen am Mittag und kehrt am Abend zurück, wenn der Markt geschlossen hat. Auf "
        "der Insel stört das niemanden, denn wer dort lebt, hat das Warten gelernt, und Besuchern sagt man es gleich."
    )
    reason, value = verdict(tmp_path, record(f"<html lang=de><p>{german}".encode()))
    assert reason == Reason.LANGUAGE
    assert value < 0.5
    assert verdict(tmp_path, record(f"<p>{german}".encode()), replace(CONFIG, language="de"))[0] == Reason.KEPT


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (record(PAGE, status=b"HTTP/1.1 404 Not Found\r\n"), "status 404, only 200 is read"),
        (record(PAGE + b" " * (4 << 20)), f"bytes {len(PAGE) + (4 << 20)}, extract.max_page_bytes is 4194304"),
        (record(b"<div>" * 2000 + PAGE), "nested elements 513, extract.guards.depth is 512"),
        (
            record(b"<p " + b" ".join(b"a%d" % n for n in range(300)) + b">"),
            "attributes 300, extract.guards.tag_attributes is 256",
        ),
        (record(PAGE + b"<img src=a.jpg>" * 5000), "images 5000, extract.max_images is 4096"),
        (
            record(PAGE, HTML + b"X-Robots-Tag: noarchive, noimageai\r\n"),
            "the page says noimageai; extract.respect_opt_out is true",
        ),
        (record(PAGE, kind="request"), ""),
    ],
)
def test_a_verdict_can_be_told(tmp_path: Path, one: bytes, told: str) -> None:
    assert extract.describe(CONFIG, *verdict(tmp_path, one)) == told


def test_opt_outs_are_counted_by_directive(tmp_path: Path) -> None:
    records = [
        record(PAGE, HTML + b"X-Robots-Tag: noai\r\n"),
        record(PAGE, HTML + b"X-Robots-Tag: noai, noindex\r\n"),
        record(b"<meta name=robots content='none'>" + PAGE),
    ]
    _, work = run(tmp_path / "w", records)
    classes = {name: num for name, num in work.counts.items() if name.startswith("opt_out")}
    assert classes == {"opt_out_header": 2, "opt_out_meta": 1, "opt_out:noai": 2, "opt_out:none": 1}


def test_opt_outs_can_be_recorded_only(tmp_path: Path) -> None:
    config = replace(CONFIG, respect_opt_out=False)
    tables, _ = run(tmp_path / "w", [record(PAGE, HTML + b"X-Robots-Tag: noai\r\nTDM-Reservation: 1\r\n")], config)
    assert tables["texts"]["rights"].to_pylist() == [{"robots": "noai", "meta": "", "tdm": "1"}]


def test_rows_agree(tmp_path: Path) -> None:
    image = b"<figure><img src=/i.jpg alt=' A boat ' width=300><figcaption>At the pier</figcaption></figure>"
    records = [
        record(PAGE + image + f"<p>{PROSE}</p>".encode(), url="http://A.example:80/one#x"),
        record(b"", kind="request"),
        record(PAGE, url="http://b.example/two"),
        record(PAGE + b"<img src=http://c.example/j.png>", url="https://c.example/three"),
    ]
    tables, work = run(tmp_path / "w.warc.gz", records)
    assert work.counts["kept"] == 3
    one, three = tables["documents"].to_pylist()
    (two,) = tables["texts"].to_pylist()
    assert [one["row"], two["row"], three["row"]] == [0, 1, 2] == tables["scores"]["row"].to_pylist()
    assert (one["url"], one["host"], one["crawl"], one["title"]) == (
        "http://A.example:80/one#x",
        "a.example",
        "CRAWL",
        "Ferry",
    )
    assert one["fetched_at"].isoformat() == "2026-01-02T03:04:05+00:00"
    offset, length = one["warc"]["offset"], one["warc"]["length"]
    raw = (tmp_path / "w.warc.gz").read_bytes()
    assert gzip.decompress(raw[offset : offset + length]) == records[0]
    assert one["doc_id"] == hashlib.sha256(b"crawl/w.warc.gz\n0").digest()[:16]
    assert [item["block"] for item in one["items"]] == ["p", "", "figcaption", "p"]
    assert one["images"] == [
        {
            "url": "http://a.example/i.jpg",
            "alt": "A boat",
            "caption": "At the pier",
            "title": "",
            "width": 300,
            "height": 0,
        }
    ]
    assert one["lang"]["code"] == "en"
    (caption,) = tables["captions"].to_pylist()
    assert (caption["row"], caption["image"], caption["alt"]) == (0, 0, "A boat")
    assert caption["before"] == caption["after"] == PROSE.strip()
    references = tables["references"].to_pylist()
    assert [(r["row"], r["url"]) for r in references] == [(0, "http://a.example/i.jpg"), (2, "http://c.example/j.png")]
    assert references[0]["url_id"] == urls.url_id("http://a.example/i.jpg")
    scores = tables["scores"].to_pylist()
    assert [s["num_images"] for s in scores] == [1, 0, 1]
    assert [s["interspersed"] for s in scores] == [True, False, True]
    assert scores[0]["url_hash"] == urls.url_hash("http://a.example/one")
    hashes = tables["verdicts"]["url_hash"].to_pylist()
    assert len(hashes) == 4 and hashes == sorted(hashes)


def test_chunks_do_not_change_the_rows(tmp_path: Path) -> None:
    records = [record(PAGE + b"<img src=%d.jpg>" % n * (n % 2), url=f"http://a.example/{n}") for n in range(7)]
    many, _ = run(tmp_path / "w", records)
    few, _ = run(tmp_path / "w", records, replace(CONFIG, chunk_pages=2))
    again, _ = run(tmp_path / "w", records)
    for name, table in many.items():
        assert table.equals(few[name].combine_chunks()) and table.equals(again[name])


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(tmp_path: Path, enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        run(tmp_path / "w.warc.gz", [record(PAGE)])
        assert gc.isenabled() is enabled and gc.get_freeze_count() == 0
    finally:
        (gc.enable if before else gc.disable)()


def test_block_rules_drop_and_count(tmp_path: Path) -> None:
    tables, work = run(
        tmp_path / "w", [record(PAGE + b"<p>Read more</p><h2>Title</h2><p>Read more</p><img src=a.jpg>")]
    )
    texts = [item["text"] for item in tables["documents"]["items"].to_pylist()[0]]
    assert texts == [PROSE.strip(), "Title", "Read more", ""]
    assert work.counts["block:words"] == 1


def test_a_record_that_crashed_is_skipped(tmp_path: Path) -> None:
    tables, work = run(tmp_path / "w", [record(PAGE)], poisoned=frozenset([0]))
    assert tables["verdicts"]["reason"].to_pylist() == [int(Reason.CRASHED)]
    assert work.counts == {"crashed": 1}


def test_a_page_that_breaks_our_code_is_a_counted_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(stream, "parse", breaks)
    _, work = run(tmp_path / "w", [record(PAGE), record(PAGE, kind="request")])
    assert work.counts == {"parser": 1, "not_response": 1}


def test_running_out_of_memory_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(stream, "parse", breaks)
    with pytest.raises(MemoryError):
        run(tmp_path / "w", [record(PAGE)])


def test_config_enters_the_key() -> None:
    assert "lid.176.ftz" in canonical(CONFIG)
    assert canonical(CONFIG) != canonical(extract.obelics())


@given(body=st.binary(max_size=300), head=st.binary(max_size=80))
@settings(deadline=None, max_examples=60)
def test_no_bytes_raise(tmp_path_factory: pytest.TempPathFactory, body: bytes, head: bytes) -> None:
    tables, work = run(tmp_path_factory.mktemp("w") / "w", [record(PAGE + body), record(PAGE, head), record(body)])
    assert tables["verdicts"].num_rows == 3
    assert work.counts["parser"] == 0


@pytest.mark.skipif(not (SHARED / "odd-warcs").exists(), reason="shared data is not here")
def test_odd_files_lose_no_record_to_our_own_code() -> None:
    for path in sorted(p for p in (SHARED / "odd-warcs").rglob("*") if p.is_file()):
        tables, work = run(path, [])
        assert work.counts["parser"] == 0, path
        kept = tables["documents"].num_rows + tables["texts"].num_rows
        assert kept == tables["scores"].num_rows == work.counts["kept"]
        assert tables["verdicts"].num_rows == sum(n for word, n in work.counts.items() if SIDE not in word)


@pytest.mark.skipif(not (SHARED / "crawl").exists(), reason="shared data is not here")
def test_a_real_file() -> None:
    path = sorted((SHARED / "crawl").glob("*.warc.gz"))[0]
    tables, work = run(path, [])
    assert work.counts["parser"] == 0
    assert work.counts["kept"] > 100
    assert tables["references"].num_rows == sum(len(i) for i in tables["documents"]["images"].to_pylist())
    for table in tables.values():
        table.validate(full=True)
