"""Text rules, documents a CPU second of one core: block rules, all scores of the page, and judge's thresholds.

    python -m tests.benchmarks.rules_throughput FOLDER [--pattern 'ASSEMBLED*.warc.gz'] [--peer .peers/bin/python]

The streams of all pages of a folder that extract would keep are made before the clock starts. The peer has datatrove's
Gopher quality, Gopher repetition and FineWeb filters on every text; make its environment as extract_throughput says,
and install spacy there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines import extract, judge, language, stream, urls, warc
from pipelines.entries import Stream
from pipelines.tally import NAMES

PEER = Path(__file__).with_name("peer_rules.py")
FEWEST = 10  # documents that the peer is given, one in this many


class Counts:
    """Takes what a stage counts."""

    def count(self, name: str, num: int = 1) -> None:
        """Forget it."""


def streams(files: list[Path], config: extract.Config) -> list[Stream]:
    """The streams of the pages in the wanted language."""
    found: list[Stream] = []
    for path in files:
        for record in warc.records(path, lambda offset: True, config.max_record_bytes):
            if isinstance(record, warc.Bad) or record.kind != "response":
                continue
            gated = extract.gate(record, config)
            if isinstance(gated, tuple):
                continue
            one = stream.parse(gated.html, urls.canonical(record.url), config.max_images)
            lang = language.identify(one.lines(language.CLD_CHARS), one.lang, config.language)
            if lang.wanted >= config.min_language_score:
                found.append(one)
    return found


def seconds(pages: list[Stream], config: extract.Config, bounds: judge.Config) -> float:
    """CPU seconds of the rules on all pages, once."""
    started = time.process_time()
    scores = []
    for page in pages:
        kept = extract.drop_blocks(page, config, Counts())  # type: ignore[arg-type]
        if kept is not None:
            scores.append(kept[1])
    columns = {name: pa.array(column) for name, column in zip(NAMES, np.stack(scores).T, strict=True)}
    columns["lang_score"] = pa.array(np.ones(len(scores)))
    judge.verdicts(pa.table(columns), bounds)
    return time.process_time() - started


def main() -> None:
    """Measure and print a line a preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--pattern", default="*.warc.gz")
    parser.add_argument("--peer", default="")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    pages = streams(sorted(Path(arguments.folder).glob(arguments.pattern)), extract.Config())
    size = sum(len(page.text) for page in pages)
    print(f"{len(pages):,} documents of {size / len(pages):,.0f} bytes of text")
    best = 0.0
    for name, config, bounds in (
        ("kosmos1", extract.Config(), judge.kosmos1()),
        ("obelics", extract.obelics(), judge.obelics()),
    ):
        spent = min(seconds(pages, config, bounds) for _ in range(arguments.rounds + 1))
        best = len(pages) / spent
        print(f"{name}: {best:,.0f} documents/s of CPU, {size / spent / 1e6:,.1f} MB/s")
    if arguments.peer:
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
            for page in pages[::FEWEST]:
                file.write(json.dumps({"text": page.lines(1 << 30)}) + "\n")
            file.flush()
            done = subprocess.run([arguments.peer, str(PEER), file.name], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        rate = found["documents"] / found["cpu_s"]
        print(f"datatrove: {found['documents']} documents, {rate:,.0f} documents/s of CPU; ours {best / rate:.1f}x")


if __name__ == "__main__":
    main()
