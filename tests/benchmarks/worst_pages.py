"""The worst page of each kind: CPU and memory from the bytes of a record to its verdict, a process a page.

    python -m tests.benchmarks.worst_pages [PART_OF_A_NAME ...]

The pages are those of tests/pipelines/hostile_pages.py: 4 MiB, or as much as the guards admit. Each is judged in a fork
of a process whose kernels are compiled; memory is what the fork has at its peak over what it starts with. The bound of
the project is 1 s and 300 MB.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import sys
import time
from pathlib import Path

from engine.stage import Unit
from pipelines import extract, warc
from tests.offline import OfflineWork
from tests.pipelines.hostile_pages import CONFIG, PROSE, TOP, Case, cases

ADDRESS = "http://a.example/x"
WARM = (
    TOP * 50 + b"<img src=/a.jpg>",
    TOP * 50 + "<p>é漢😀 İ, and the ferry is there. ".encode() * 9,
    b"<p>caf\xe9 " * 99,
    TOP + b"<p>x\x07" + PROSE * 99,
    TOP
    + b"<table><tr><td>x</table><pre>x\n</pre><figure><img src=/b.jpg><figcaption>x</figure><svg><g></svg><xmp></xmp>",
)


def judged(page: bytes, head: bytes = b"") -> str:
    """The word of the verdict on a page."""
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + head + b"\r\n" + page
    record = warc.Record(
        offset=0, length=0, kind="response", url=ADDRESS, date="", record_id="", size=len(block), block=block
    )
    gated = extract.gate(record, CONFIG)
    if not isinstance(gated, tuple):
        work = OfflineWork(unit=Unit(id="w", inputs=("a", "b", "c")), scratch=Path("/tmp"))
        page_or_refusal = extract.read(record, gated, ADDRESS, CONFIG, work)
        if not isinstance(page_or_refusal, tuple):
            return "kept"
        gated = page_or_refusal
    return gated[0].word


def measured(case: Case) -> tuple[str, float, float]:
    """(verdict, CPU seconds, megabytes) of a case."""
    page = case.page()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024
        started = time.process_time()
        try:
            verdict = judged(page, case.head)
        except Exception as error:
            verdict = repr(error)
        spent = time.process_time() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writer, pickle.dumps((verdict, spent, memory / 1024)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    found: tuple[str, float, float] = pickle.loads(answer) if answer else ("died", 0.0, 0.0)
    return found


def main() -> None:
    """Print a line a case, and the worst of each measure."""
    for page in WARM:
        judged(page)
    gc.collect()
    gc.freeze()
    rows: list[tuple[str, str, float, float]] = []
    for case in cases():
        if len(sys.argv) == 1 or any(part in case.name for part in sys.argv[1:]):
            rows.append((case.name, *measured(case)))
            name, verdict, spent, memory = rows[-1]
            print(f"{name:44s} {verdict:>20} {1000 * spent:6.0f} ms {max(0, memory):5.0f} MB", flush=True)
    slowest, largest = max(rows, key=lambda row: row[2]), max(rows, key=lambda row: row[3])
    print(f"{len(rows)} pages; at most {1000 * slowest[2]:.0f} ms ({slowest[0]}), {largest[3]:.0f} MB ({largest[0]})")


if __name__ == "__main__":
    main()
