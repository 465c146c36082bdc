"""Text to band keys, documents a CPU second of one core: python -m tests.benchmarks.sign_throughput TEXTS.jsonl.gz...

Each line of the files is a JSON object with a "text". Normalising, shingles, sketch and band keys; kernels are compiled
before the clock starts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time

import pyarrow as pa

from pipelines import normalise, sketch


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    texts: list[str] = []
    for name in arguments.files:
        with gzip.open(name, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    array = pa.array(texts, pa.large_string())
    num_bytes = sum(len(text.encode()) for text in texts)
    best = float("inf")
    for _ in range(arguments.rounds + 1):
        started = time.process_time()
        text = normalise.normalise(array)
        sketch.band_keys(sketch.sketch(text.data, text.offsets))
        best = min(best, time.process_time() - started)
    print(
        f"{len(texts):,} texts of {num_bytes / len(texts):,.0f} bytes: {len(texts) / best:,.0f} documents/s, "
        f"{num_bytes / best / 1e6:,.0f} MB/s of CPU, best of {arguments.rounds} rounds"
    )


if __name__ == "__main__":
    main()
