"""The image gate: what a body is, what it measures, and whether its picture is good enough.

    header  first bytes  -> format and sizes, before anything is decoded
    decode  a body       -> a JPEG with a short side of at most 256 pixels, and measures; or a reason
    hashes  32 x 32 grey -> 64-bit perceptual hash

Decoding happens once, in fetch, under the loose limits of `Encode`; the thresholds of `Gate` are asked later, of the
stored measures, so that moving one never fetches an image again. This module imports no OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import ConfigError
from pipelines.reasons import Reason

# Stored as an index, for ever: only ever appended to. Formats that browsers do not show (TIFF, JPEG 2000) are absent.
FORMATS: tuple[str, ...] = ("", "jpeg", "png", "gif", "webp", "bmp", "avif")
# OpenCV reads its own limit from the environment, once: no configuration goes beyond it.
MOST_PIXELS = 40_000_000


def _libraries() -> str:
    return f"opencv {metadata.version('opencv-python-headless')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Encode:
    """What decides the bytes of a stored image; fetch is keyed on it. short_side: of the stored JPEG, in pixels.

    min_side, max_side, max_aspect: loose limits, asked of the header; beyond them nothing is decoded.
    """

    short_side: int = 256
    quality: int = 95
    max_pixels: int = MOST_PIXELS
    min_side: int = 32
    max_side: int = 20_000
    max_aspect: float = 20.0
    libraries: str = field(default_factory=_libraries)

    def __post_init__(self) -> None:
        if self.short_side < 8 or not 1 <= self.quality <= 100:
            raise ConfigError("fetch.encode: short_side is 8 or more, quality 1-100")
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ConfigError(f"fetch.encode.max_pixels is {self.max_pixels}; set it to 1-{MOST_PIXELS}")
        if not 1 <= self.min_side <= self.max_side or self.max_aspect < 1:
            raise ConfigError("fetch.encode: 1 <= min_side <= max_side, max_aspect 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """Thresholds on the stored measures; a value on the bound passes. The defaults are the preset kosmos1."""

    min_side: int = 64  # K
    max_side: int = 20_000  # OB
    max_aspect: float = 3.0  # K
    min_deviation: float = 2.0  # K: single-coloured images go; the measure, on 32 x 32, is ours

    def __post_init__(self) -> None:
        if self.min_side > self.max_side or self.max_aspect < 1:
            raise ConfigError("images: min_side <= max_side, max_aspect 1 or more")


def kosmos1() -> Gate:
    """Sides of 64 pixels and more, aspect up to 3."""
    return Gate()


def obelics() -> Gate:
    """Sides of 150 pixels and more, aspect up to 2."""
    return Gate(min_side=150, max_aspect=2.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """One body through the gate. reason KEPT: body is a JPEG and all is set; else body is b"" and what is unknown 0.

    width, height: as shown (turned as its metadata says), before resizing. format: index into FORMATS.
    """

    reason: Reason
    value: float = 0.0
    width: int = 0
    height: int = 0
    stored_width: int = 0
    stored_height: int = 0
    deviation: float = 0.0
    phash: int = 0
    format: int = 0
    body: bytes = b""


def judge(table: pa.Table, gate: Gate) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """Judge images by their measures: reasons and values of every row, in order.

    table: columns reason, value, width, height, deviation. A reason that stands already stays, with its value.
    """
    reasons = table["reason"].to_numpy().astype(np.uint16)
    values = table["value"].to_numpy().astype(np.float32)
    width, height = (table[name].to_numpy().astype(np.int64) for name in ("width", "height"))
    deviation = table["deviation"].to_numpy().astype(np.float32)
    short, long = np.minimum(width, height), np.maximum(width, height)
    aspect = long / np.maximum(short, 1)
    for reason, failed, measure in (
        (Reason.SIDE_SMALL, short < gate.min_side, short),
        (Reason.SIDE_LARGE, long > gate.max_side, long),
        (Reason.ASPECT, aspect > gate.max_aspect, aspect),
        (Reason.SINGLE_COLOUR, deviation < np.float32(gate.min_deviation), deviation),
    ):
        rows = (reasons == Reason.KEPT) & failed
        reasons[rows] = reason
        values[rows] = measure[rows]
    return reasons, values
