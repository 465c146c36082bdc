"""The loader's reads in shuffled order beside sequential ones: python -m tests.benchmarks.loader_throughput [FOLDER]

Caption rows of 17 kB (a JPEG each: of the photographs under FOLDER, or drawn), shards of 256 MB on a local disk. Every
byte of every image is copied out of the same mapped files, in one run: the files by pieces of 1 MiB, then row by row in
the order of the files and in both orders of the loader, all sums checked. Without decoding, but for the last line.
`cold`: the files were put out of the page cache, and the shards are opened anew. `warm`: a run's second pass over its
rows. Also: how long a resumed run takes to its first rows, at update 1 and at update 200,000.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from engine.ledger import Ledger
from tests.trainer import shards
from trainer.config import DataConfig, MicroBatch, Quotas
from trainer.data import order
from trainer.data.loader import Loader, prefetch
from trainer.data.rows import Sources, sources

ROW_BYTES = 17_000
FILE_ROWS = 15_616  # 256 MiB
QUOTA = 6144
SEQUENTIAL = "sequential"


def bodies(folder: str | None, num: int = 512) -> list[bytes]:
    """JPEGs of about ROW_BYTES: crops of photographs, or of drawn pictures, each at the quality that makes the size."""
    pictures = []
    for path in sorted(Path(folder).rglob("*")) if folder else ():
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is not None and min(picture.shape[:2]) >= 256:
                pictures.append(picture)
    random = np.random.default_rng(0)
    if not pictures:
        pictures = [cv2.resize(random.integers(0, 256, (n, n, 3), np.uint8), (800, 600)) for n in (12, 40, 90)]
    found = []
    for number in range(num):
        picture = pictures[number % len(pictures)]
        short = min(picture.shape[:2])
        top, left = (int(random.integers(0, side - short + 1)) for side in picture.shape[:2])
        crop = cv2.resize(picture[top : top + short, left : left + short], (256, 256), interpolation=cv2.INTER_AREA)
        sizes = [cv2.imencode(".jpg", crop, (cv2.IMWRITE_JPEG_QUALITY, quality))[1] for quality in range(50, 99, 4)]
        found.append(min(sizes, key=lambda body: abs(len(body) - ROW_BYTES)).tobytes())
    return found


def packed(url: str, images: list[bytes], num_rows: int) -> str:
    """A manifest of so many captions."""
    samples = [shards.caption(images[i % len(images)], *[4 + i % 90] * 16) for i in range(FILE_ROWS)]
    rows = shards.table(samples)
    files: list[pa.Table] = []
    while (left := num_rows - sum(file.num_rows for file in files)) > 0:
        files.append(rows.slice(0, min(left, FILE_ROWS)))
    return shards.pack(url, [{"caption": files}])


def timed(work: Callable[[], int]) -> tuple[float, float, float]:
    """Bytes a second: of the clock, of the CPU in the thread that reads, and in all threads (sha256 is another's)."""
    clocks = (time.perf_counter, time.thread_time, time.process_time)
    began = [clock() for clock in clocks]
    num_bytes = work()
    first, second, third = (num_bytes / (clock() - start) for clock, start in zip(clocks, began, strict=True))
    return first, second, third


class Bench:
    """One store, and what is read of it."""

    def __init__(self, url: str, mark: str) -> None:
        self.url, self.mark = url, mark
        self.files = [Path(url) / file.path for c in Ledger(url).manifest(mark) for file in c.outputs["caption"]]
        self.scratch = np.empty(1 << 20, np.uint8)

    def forget(self) -> None:
        """Put the files out of the page cache."""
        for path in self.files:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def state(self, opened: Sources, kind: str) -> order.State:
        config = DataConfig(quotas=Quotas(text=0, caption=QUOTA, interleaved=0), order=kind)
        return order.start(opened.listing, opened.digests, config)

    def mapped(self) -> list[np.ndarray[tuple[int], np.dtype[np.uint8]]]:
        found = []
        for path in self.files:
            with pa.memory_map(str(path)) as file:
                found.append(np.frombuffer(file.read_buffer(), np.uint8))
        return found

    def sequential(self, files: list[np.ndarray[tuple[int], np.dtype[np.uint8]]]) -> int:
        for whole in files:
            for start in range(0, len(whole), 1 << 20):
                piece = whole[start : start + (1 << 20)]
                self.scratch[: len(piece)] = piece
        return sum(map(len, files))

    def row_by_row(self, opened: Sources, kind: str) -> int:
        """Read all rows once, an update's at a time."""
        total = 0
        state = self.state(opened, "blocks" if kind == "file" else kind)
        (source,) = state.pieces[0].streams[0].sources
        for update in range(1, -(-source.rows // QUOTA) + 1):
            first = (update - 1) * QUOTA
            picks = [(source.name, row) for row in range(first, min(first + QUOTA, source.rows))]
            if kind != "file":
                picks = order.picks(state, update)["caption"][: len(picks)]
            for row in opened.rows(picks):
                for image in row.images:
                    self.scratch[: len(image)] = image
                    total += len(image)
        return total

    def cold(self, kind: str) -> tuple[float, float, float]:
        self.forget()
        if kind == SEQUENTIAL:
            return timed(lambda: self.sequential(self.mapped()))
        with sources(self.url, [self.mark]) as opened:
            return timed(lambda: self.row_by_row(opened, kind))

    def warm(self, kind: str) -> tuple[float, float, float]:
        if kind == SEQUENTIAL:
            files = self.mapped()
            self.sequential(files)
            return timed(lambda: self.sequential(files))
        with sources(self.url, [self.mark]) as opened:
            self.row_by_row(opened, kind)
            while opened._shards._checks and not opened._shards._checks[-1].done():
                time.sleep(0.01)
            return timed(lambda: self.row_by_row(opened, kind))

    def decoded(self, kind: str, most: int) -> Iterator[int]:
        with sources(self.url, [self.mark]) as opened:
            config = DataConfig(
                quotas=Quotas(text=0, caption=512, interleaved=0), micro_batch=MicroBatch(caption=64), order=kind
            )
            state = order.start(opened.listing, opened.digests, config)
            with Loader(opened, state, config, opened.vocab, 2048) as loader:
                for update in prefetch(loader, 1, -(-most // 512)):
                    yield sum(len(batch.pixels_NCHW) for batch in update.micro_batches)

    def resumed(self, update: int) -> float:
        """Milliseconds from an open manifest to the first 64 rows of an update."""
        with sources(self.url, [self.mark]) as opened:
            state = self.state(opened, "blocks")
            began = time.perf_counter()
            piece = state.piece(update)
            opened.rows(order.drawn(piece, piece.streams[0], update, 0, 64))
            return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    images = bodies(arguments.folder)
    print(f"{arguments.rows:,} rows, {sum(map(len, images)) / len(images):,.0f} bytes an image")
    with tempfile.TemporaryDirectory(prefix="kosmos-bench-") as url:
        bench = Bench(url, packed(url, images, arguments.rows))
        for name, work in (("cold", bench.cold), ("warm", bench.warm)):
            best = dict.fromkeys((SEQUENTIAL, "file", "blocks", "rows"), (0.0, 0.0, 0.0))
            for _ in range(arguments.rounds):
                for kind, (a, b, c) in best.items():
                    x, y, z = work(kind)
                    best[kind] = (max(a, x), max(b, y), max(c, z))
            for kind, speeds in best.items():
                figures = [
                    f"{speed / 1e6:,.0f} MB/s ({speed / whole:.2f} of sequential, {speed / by_row:.2f} of 'file')"
                    for speed, whole, by_row in zip(speeds, best[SEQUENTIAL], best["file"], strict=True)
                ]
                what = kind if kind == SEQUENTIAL else f"rows in order {kind!r}"
                print(
                    f"{name}, {what}: clock {figures[0]}, CPU of the reader {figures[1]}, of all threads {figures[2]}"
                )
        for update in (1, 200_000):
            took = min(bench.resumed(update) for _ in range(5))
            print(f"first 64 rows of update {update:,}: {took:.1f} ms from the open manifest")
        num = 4096
        began, cpu = time.perf_counter(), time.process_time()
        done = sum(bench.decoded("blocks", num))
        print(
            f"decoded by the loader: {done / (time.perf_counter() - began):,.0f} images/s, "
            f"{done / (time.process_time() - cpu):,.0f} a CPU second"
        )


if __name__ == "__main__":
    main()
