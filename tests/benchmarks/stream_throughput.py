"""WARC to stream rows in Arrow beside the floors of the same run: pages a CPU second, on pages of 64 KB and more.

    python -m tests.benchmarks.stream_throughput FOLDER [--pattern 'ASSEMBLED*.warc.gz'] [--rounds 3]

Ours: records, gate (charset and guards in), parse, reading-order stream, boilerplate, rows, Arrow IPC in memory;
language, rules, judge and sign apart. Floors: inflate and check UTF-8; inflate and parse with lexbor. Peer: inflate
and resiliparse's main content, text only. Small pages are reported beside.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from fastwarc.warc import ArchiveIterator
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from selectolax.lexbor import LexborHTMLParser

from pipelines import extract, stream, urls, warc
from pipelines.language import Language
from pipelines.rights import Rights
from pipelines.rows import Page, Rows
from pipelines.tally import NAMES

LARGE = 64 << 10
Wanted = Callable[[int], bool]


def bodies(files: list[str], wanted: Wanted) -> Iterator[bytes]:
    """The bodies of the responses, inflated; nothing else is done."""
    for name in files:
        for record in ArchiveIterator(name, auto_decode="none", quirks_mode=True):
            if not record.is_http or record.headers.get("WARC-Type") != "response":
                continue
            body = record.reader.read()
            if wanted(len(body)):
                yield body


def checked(files: list[str], wanted: Wanted) -> int:
    """The first floor."""
    num = 0
    for body in bodies(files, wanted):
        num += 1
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            continue
    return num


def parsed(files: list[str], wanted: Wanted) -> int:
    """The second floor."""
    num = 0
    for body in bodies(files, wanted):
        LexborHTMLParser(body)
        num += 1
    return num


def peer(files: list[str], wanted: Wanted) -> int:
    """Resiliparse's text of the main content."""
    num = 0
    for body in bodies(files, wanted):
        extract_plain_text(bytes_to_str(body, detect_encoding(body)), main_content=True)
        num += 1
    return num


def ours(files: list[str], wanted: Wanted) -> int:
    """Stream rows of every page that passes the gate, as Arrow IPC."""
    config = extract.Config()
    none = Language(code="", score=0.0, wanted=0.0)
    scores = np.zeros(len(NAMES))
    num = 0
    gc.freeze()
    gc.disable()  # as the stage does
    for name in files:
        rows = Rows(crawl="", file=name)
        for record in warc.records(Path(name), lambda offset: True, config.max_record_bytes):
            if isinstance(record, warc.Bad) or record.kind != "response" or not wanted(_body_bytes(record)):
                continue
            num += 1
            gated = extract.gate(record, config)
            if isinstance(gated, tuple):
                continue
            address = urls.canonical(record.url)
            found = stream.parse(gated.html, address, config.max_images)
            page = Page(
                record=record,
                host=urls.host(address),
                lang=none,
                rights=Rights(),
                stream=found,
                scores=scores,
            )
            rows.add(page, doc_id=bytes(16), url_hash=0)
            if rows.num_pending >= config.chunk_pages or rows.num_chars >= config.chunk_chars:
                _written(rows)
        _written(rows)
    gc.unfreeze()
    gc.enable()
    return num


def _body_bytes(record: warc.Record) -> int:
    return len(record.block) - record.block.find(b"\r\n\r\n") - 4


def _written(rows: Rows) -> None:
    for _, table in rows.tables():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        sink.getvalue()


def main() -> None:
    """Measure and print a line a way, large pages and small ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--pattern", default="*.warc.gz")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = sorted(str(path) for path in Path(arguments.folder).glob(arguments.pattern))
    for title, wanted in (("64 KB and more", lambda size: size >= LARGE), ("smaller", lambda size: 0 < size < LARGE)):
        rates: dict[str, float] = {}
        for way in (checked, parsed, peer, ours):
            best = float("inf")
            num = way(files[:1], wanted)  # compiled and warm
            for _ in range(arguments.rounds):
                started = time.process_time()
                num = way(files, wanted)
                best = min(best, time.process_time() - started)
            rates[way.__name__] = num / best
            print(f"{title}: {way.__name__:8} {num:,} pages, {num / best:8,.0f} pages/s of CPU", flush=True)
        print(f"{title}: ours {rates['ours'] / rates['parsed']:.2f}x of inflate + lexbor parse, "
              f"{rates['ours'] / rates['peer']:.2f}x of resiliparse's text")  # fmt: skip


if __name__ == "__main__":
    main()
