"""The gate beside img2dataset's own resizer, images a CPU second: python -m tests.benchmarks.decode_throughput FOLDER

One process, one thread each, turn by turn in one run, on JPEGs of 800 to 1,920 pixels: made from the photographs under
FOLDER, or drawn if there is none. The gate also measures and hashes, which the peer does not.
"""

from __future__ import annotations

import argparse
import io
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from pipelines.images import Encode
from pipelines.images.decode import cv2, measure
from pipelines.reasons import Reason

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from img2dataset.resizer import Resizer

SIZES = (800, 1024, 1280, 1600, 1920)


def bodies(folder: str | None, most: int) -> list[bytes]:
    """JPEGs of quality 85, whose long sides are the SIZES in turn; pictures that are smaller are left out."""
    sources = []
    for path in sorted(Path(folder).rglob("*")) if folder else ():
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is not None and 640 <= max(picture.shape[:2]) <= 3 * min(picture.shape[:2]):
                sources.append(picture)
    if not sources:
        random = np.random.default_rng(0)
        for cells in (6, 20, 60, 180):
            sources.append(cv2.resize(random.integers(0, 256, (cells, cells * 4 // 3, 3), np.uint8), (1920, 1440)))
    made = []
    for number in range(most):
        picture = sources[number % len(sources)]
        scale = SIZES[number % len(SIZES)] / max(picture.shape[:2])
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        made.append(cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 85))[1].tobytes())
    return made


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    jpegs = bodies(arguments.folder, arguments.images)
    encode = Encode()
    stock = Resizer(256, "keep_ratio", True, encode_quality=95)

    def ours() -> None:
        for body in jpegs:
            assert measure(body, encode).reason == Reason.KEPT

    def theirs() -> None:
        for body in jpegs:
            assert stock(io.BytesIO(body))[-1] is None

    best: dict[Callable[[], None], float] = {ours: float("inf"), theirs: float("inf")}
    for _ in range(arguments.rounds + 1):
        for run in best:
            started = time.process_time()
            run()
            best[run] = min(best[run], time.process_time() - started)
    mine, other = (len(jpegs) / best[run] for run in (ours, theirs))
    print(
        f"{len(jpegs)} JPEGs of {min(SIZES):,}-{max(SIZES):,} pixels, {sum(map(len, jpegs)) / len(jpegs):,.0f} bytes: "
        f"{mine:,.0f} images/s of CPU, img2dataset's resizer {other:,.0f}, ratio {mine / other:.2f}, "
        f"best of {arguments.rounds} rounds"
    )


if __name__ == "__main__":
    main()
