"""WARC to stream rows in Arrow beside the floors of the same run: pages a CPU second, on pages of 64 KB and more.

    python -m tests.benchmarks.stream_throughput FOLDER [--pattern 'ASSEMBLED*.warc.gz'] [--rounds 3]

Ours: records, gate (charset and guards in), parse, reading-order stream, boilerplate, rows, Arrow IPC in memory;
language, rules, judge and sign apart. Pages of each size are first copied to a WARC of their own. Floors: inflate and
check UTF-8; inflate and parse with lexbor. Peer: inflate and resiliparse's main content, text only. Small pages are
reported beside.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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


def split(files: list[Path], folder: Path) -> dict[str, str]:
    """Responses of LARGE bytes and more, and of fewer, member by member into two WARC files."""
    paths = {title: str(folder / f"{number}.warc.gz") for number, title in enumerate(("64 KB and more", "smaller"))}
    one, other = map(Path, paths.values())
    with one.open("wb") as large, other.open("wb") as small:
        for path in files:
            held = path.read_bytes()
            for record in warc.records(path, lambda offset: True):
                if isinstance(record, warc.Bad) or record.kind != "response" or not record.length:
                    continue
                size = len(record.block) - record.block.find(b"\r\n\r\n") - 4
                (large if size >= LARGE else small).write(held[record.offset : record.offset + record.length])
    return paths


def bodies(name: str) -> Iterator[bytes]:
    """The bodies of the responses, inflated; nothing else is done."""
    for record in ArchiveIterator(name, auto_decode="none", quirks_mode=True):
        yield record.reader.read()


def checked(name: str) -> int:
    """The first floor."""
    num = 0
    for body in bodies(name):
        num += 1
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            continue
    return num


def parsed(name: str) -> int:
    """The second floor."""
    num = 0
    for body in bodies(name):
        LexborHTMLParser(body)
        num += 1
    return num


def peer(name: str) -> int:
    """Resiliparse's text of the main content."""
    num = 0
    for body in bodies(name):
        extract_plain_text(bytes_to_str(body, detect_encoding(body)), main_content=True)
        num += 1
    return num


def ours(name: str) -> int:
    """Stream rows of every page that passes the gate, as Arrow IPC."""
    config = extract.Config()
    none = Language(code="", score=0.0, wanted=0.0)
    scores = np.zeros(len(NAMES))
    num = 0
    gc.freeze()
    gc.disable()  # as the stage does
    rows = Rows(crawl="", file=name)
    for record in warc.records(Path(name), lambda offset: True, config.max_record_bytes):
        num += 1
        gated = () if isinstance(record, warc.Bad) else extract.gate(record, config)
        if isinstance(gated, tuple):
            continue
        address = urls.canonical(record.url)
        found = stream.parse(gated.html, address, config.max_images)
        page = Page(
            record=replace(record, block=b""), host=urls.host(address), lang=none, rights=Rights(), stream=found,
            scores=scores,
        )  # fmt: skip
        rows.add(page, doc_id=bytes(16), url_hash=0)
        if rows.num_pending >= config.chunk_pages or rows.num_chars >= config.chunk_chars:
            _written(rows)
    _written(rows)
    gc.unfreeze()
    gc.enable()
    return num


def _written(rows: Rows) -> None:
    for _, table in rows.tables():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        sink.getvalue()


def _measure(title: str, name: str, rounds: int) -> None:
    rates: dict[str, float] = {}
    ways: tuple[Callable[[str], int], ...] = (checked, parsed, peer, ours)
    best = dict.fromkeys((way.__name__ for way in ways), float("inf"))
    for turn in range(rounds + 1):  # in turns, so that a noisy minute falls on all; the first compiles and warms
        for way in ways:
            started = time.process_time()
            num = way(name)
            if turn:
                best[way.__name__] = min(best[way.__name__], time.process_time() - started)
            rates[way.__name__] = num / best[way.__name__]
    for way_name, rate in rates.items():
        print(f"{title}: {way_name:8} {num:,} pages, {rate:8,.0f} pages/s of CPU", flush=True)
    print(
        f"{title}: ours {rates['ours'] / rates['parsed']:.2f}x of inflate + lexbor parse, "
        f"{rates['ours'] / rates['peer']:.2f}x of resiliparse's text"
    )


def main() -> None:
    """Measure and print a line a way, large pages and small ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--pattern", default="*.warc.gz")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for title, name in split(sorted(Path(arguments.folder).glob(arguments.pattern)), Path(folder)).items():
            _measure(title, name, arguments.rounds)


if __name__ == "__main__":
    main()
