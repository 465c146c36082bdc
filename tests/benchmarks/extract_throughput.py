"""Extract against datatrove + trafilatura: pages a CPU second on the same WARC files, in one run.

    python -m tests.benchmarks.extract_throughput FOLDER --peer .peers/bin/python [--pattern 'ASSEMBLED*.warc.gz']

Ours reads, parses, streams, identifies the language, judges rights, scores and writes Arrow files with sums; the peer
reads WARC records and extracts text. One process each, CPU time with its children, imports and first-use costs left out
on both sides by a warm-up. Make the peer's environment with:

    python -m venv .peers && .peers/bin/pip install 'datatrove[io,processing]' trafilatura lxml_html_clean
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import tempfile
from pathlib import Path

from engine.attempt import attempt
from engine.ledger import Ledger
from engine.stage import SIDE
from pipelines.kosmos import interleaved
from pipelines.reasons import Reason
from pipelines.snapshot import Inputs, listing

PEER = Path(__file__).with_name("peer_datatrove.py")


def cpu_s() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def ours(files: list[str], store: str) -> tuple[int, int, float]:
    """(pages with status 200 and HTML, pages kept, CPU seconds) of the extract stage over the files."""
    stage = interleaved().stage("extract")
    ledger = Ledger(store)
    ledger.check(create=True)
    units = [warc.unit for warc in listing(Inputs(files=tuple(files)))]
    warm = Ledger("memory:///warm")
    warm.check(create=True)
    assert attempt(warm.store.url, stage, units[0]).state == "committed"
    started = cpu_s()
    for unit in units:
        outcome = attempt(store, stage, unit)
        assert outcome.state == "committed", outcome
    spent = cpu_s() - started
    counts: dict[str, int] = {}
    for commit in ledger.commits(stage.key):
        for reason, num in commit.counts.items():
            counts[reason] = counts.get(reason, 0) + num
    gate = (Reason.NOT_RESPONSE, Reason.HTTP_STATUS, Reason.NOT_HTML, Reason.CORRUPT)
    verdicts = {reason: num for reason, num in counts.items() if SIDE not in reason}
    return sum(verdicts.values()) - sum(verdicts.get(r.word, 0) for r in gate), verdicts["kept"], spent


def peer(python: str, folder: str, pattern: str) -> dict[str, float]:
    """The peer's pages, texts and CPU seconds."""
    done = subprocess.run([python, str(PEER), folder, pattern], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure and print a table row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--pattern", default="*.warc.gz")
    parser.add_argument("--peer", default=".peers/bin/python")
    arguments = parser.parse_args()
    files = sorted(str(path) for path in Path(arguments.folder).glob(arguments.pattern))
    with tempfile.TemporaryDirectory() as store:
        pages, kept, spent = ours(files, store)
    other = peer(arguments.peer, arguments.folder, arguments.pattern)
    mine, theirs = pages / spent, other["pages"] / other["cpu_s"]
    print(f"ours: {pages} pages, {kept} kept, {spent:.2f} CPU s, {mine:.0f} pages/s")
    print(f"peer: {other['pages']} pages, {other['texts']} with text, {other['cpu_s']:.2f} CPU s, {theirs:.0f} pages/s")
    print(f"ratio {mine / theirs:.1f}")


if __name__ == "__main__":
    main()
