"""Text to band keys, documents a CPU second of one core, beside the peers that come nearest.

    python -m tests.benchmarks.sign_throughput TEXTS.jsonl.gz... [--peer .peers/dedupe/bin/python]

Each line of the files is a JSON object with a "text", cut into documents of --words words (900 are about 5.5 KB of
prose, as pages are). Ours is normalising, shingles, sketch and 18 x 7 band keys; kernels are compiled before the clock
starts. Ours and each peer run by turns on one core, the best round of each counts. What a peer includes stands in
peer_dedupe.py; those that an environment lacks are passed over, and --peer may be given for each of several (datatrove
wants spaCy). A slow peer gets fewer documents, a sample spread over all.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from pipelines import normalise, sketch

PEER = Path(__file__).with_name("peer_dedupe.py")
WORD = re.compile(r"\S+\s*")
FEWEST = 20  # documents that the slowest peer is given
# one in so many documents: about a second or two of each
PEERS = {
    "daft": 1,
    "daft-xxhash": 1,
    "daft-raw": 1,
    "gaoya": 1,
    "datasketch": 8,
    "rensa": 4,
    "text-dedup": 16,
    "datatrove-split": 16,
    "datatrove": 50,
}


def documents(files: list[str], words: int) -> Iterator[str]:
    """The texts of JSON Lines files, cut into documents of so many words; a rest of fewer than a tenth is dropped."""
    for name in files:
        with gzip.open(name, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield from cut(json.loads(line)["text"], words)


def cut(text: str, words: int) -> Iterator[str]:
    """Pieces of so many words of a text, with the white space between them."""
    ends = [found.end() for found in WORD.finditer(text)]
    for first in range(0, len(ends), words):
        last = min(first + words, len(ends)) - 1
        if last - first >= words // 10:
            yield text[ends[first - 1] if first else 0 : ends[last]]


def best_of(rounds: int, run: Callable[[], object]) -> float:
    """CPU seconds of the best round."""
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best


def peer_rate(pythons: list[str], name: str, texts: list[str], rounds: int) -> float | None:
    """Bytes of text a CPU second of a peer, by the first environment that has it; None if none has."""
    complaints = []
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        file.flush()
        for python in pythons:
            done = subprocess.run([python, str(PEER), name, file.name, str(rounds)], capture_output=True, text=True)
            if done.returncode == 0:
                return utf8(texts) / float(json.loads(done.stdout.strip().splitlines()[-1])["cpu_s"])
            complaints.append((done.stderr.strip().splitlines() or ["died without a word"])[-1][:120])
    print(f"{name}: not run; {'; '.join(complaints)}")
    return None


def utf8(texts: list[str]) -> int:
    """Bytes of all texts."""
    return sum(len(text.encode()) for text in texts)


def main() -> None:
    """Measure and print a line for ours and each peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--peer", action="append", default=[], help="Python of an environment with peers")
    parser.add_argument("--only", default=",".join(PEERS), help="names of peers, with commas")
    parser.add_argument("--words", type=int, default=900)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    texts = list(documents(arguments.files, arguments.words))
    array = pa.array(texts, pa.large_string())
    num_bytes = utf8(texts)

    def ours() -> None:
        text = normalise.normalise(array)
        sketch.band_keys(sketch.sketch(text.data, text.offsets))

    ours()
    own = num_bytes / best_of(arguments.rounds, ours)
    rates: dict[str, float] = {}
    for name in arguments.only.split(",") if arguments.peer else ():
        sample = texts[:: min(PEERS[name], max(1, len(texts) // FEWEST))]
        rate = peer_rate(arguments.peer, name, sample, arguments.rounds)
        if rate:
            rates[name] = rate
        own = max(own, num_bytes / best_of(2, ours))
    size = num_bytes / len(texts)
    print(f"{len(texts):,} documents of {size:,.0f} bytes, best of {arguments.rounds} rounds and more, one core")
    print(f"ours: {own / size:,.0f} documents/s of CPU, {own / 1e6:,.0f} MB/s")
    for name, rate in rates.items():
        print(f"{name}: {rate / size:,.0f} documents/s of CPU, {rate / 1e6:,.1f} MB/s; ours {own / rate:,.1f}x")


if __name__ == "__main__":
    main()
