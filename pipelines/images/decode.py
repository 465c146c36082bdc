"""A body to a small JPEG and its measures, or to a reason: sizes first, then shrink-on-load, resize, encode.

The only module that imports OpenCV, which reads its pixel limit from the environment at import. Nothing raises on any
bytes, and a body costs less than 512 MB of memory whatever it claims.
"""

from __future__ import annotations

import os
from typing import cast

from pipelines.images import MOST_PIXELS, Encode, Measured, header
from pipelines.images.hashes import SIDE, phash
from pipelines.reasons import Reason

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint8 | np.uint16]

# The caller runs a unit a core: threads inside one image would fight over the others' cores.
cv2.setNumThreads(1)
# A bad image is a row with a reason, not a line in a log.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# 4:2:0 with two bits a block of 64 samples gives 455 pixels a byte for the widest sampling there is, 4 x 4: what claims
# four times more cannot be a whole picture.
MAX_JPEG_PIXELS_A_BYTE = 2000
REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
BAND_PIXELS = 1 << 18
# What decoding may take beside the process, and bytes a pixel that it takes at most, measured on 40 million flat and
# noisy pixels with OpenCV 4.14: JPEG 6 (progressive, 4:4:4), WebP and PNG 8, GIF 12, PNG of 16 bits with alpha 15,
# AVIF 19, with alpha 37.
MEMORY_BYTES = 400_000_000
COST_BYTES = {header.GIF: 13, header.AVIF: 20}
COST_ALPHA_BYTES = {header.GIF: 13, header.AVIF: 38}
COST_DEEP_ALPHA_BYTES = {header.PNG: 16, header.AVIF: 38}


def measure(body: bytes, encode: Encode) -> Measured:
    """Decode, turn, shrink, encode and measure one image; what cannot be an image under `encode` has a reason."""
    kind = header.sniff(body)
    if not kind:
        return Measured(Reason.NOT_AN_IMAGE)
    found = header.size(body, kind)
    if found is None:
        return Measured(Reason.UNDECODABLE, format=kind)
    width, height = found.width, found.height
    if found.orientation >= 5:
        width, height = height, width
    reason, value = _limits(found, kind, encode)
    if reason:
        return Measured(reason, value, width, height, format=kind)
    try:
        picture = _shrink(_decode(body, kind, found, encode.short_side), found, encode.short_side)
        picture = turn(picture, found.orientation)
        done, coded = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, encode.quality))
        if not done:
            raise _Undecodable
        # through a square of 32 x 32 by area: the mean of what each cell covers, whatever the size
        square = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(square, cv2.COLOR_BGR2GRAY)
    except (cv2.error, MemoryError, _Undecodable):
        return Measured(Reason.UNDECODABLE, 0.0, width, height, format=kind)
    return Measured(
        Reason.KEPT,
        width=width,
        height=height,
        stored_width=picture.shape[1],
        stored_height=picture.shape[0],
        deviation=deviation(cast(Pixels, square)),
        phash=phash(cast(Pixels, grey)),
        format=kind,
        body=coded.tobytes(),
    )


class _Undecodable(Exception):
    """OpenCV gave nothing, or less than the header says."""


def _limits(found: header.Header, kind: int, encode: Encode) -> tuple[Reason, float]:
    short, long = min(found.width, found.height), max(found.width, found.height)
    costs = COST_BYTES if not found.alpha else COST_ALPHA_BYTES if found.depth <= 8 else COST_DEEP_ALPHA_BYTES
    if found.width * found.height > min(encode.max_pixels, MEMORY_BYTES // costs.get(kind, 10)):
        return Reason.TOO_MANY_PIXELS, found.width * found.height / 1e6
    if short < encode.min_side:
        return Reason.SIDE_SMALL, short
    if long > encode.max_side:
        return Reason.SIDE_LARGE, long
    if long > encode.max_aspect * short:
        return Reason.ASPECT, long / short
    return Reason.KEPT, 0.0


def _decode(body: bytes, kind: int, found: header.Header, short_side: int) -> Pixels:
    """The first picture, as stored (not turned), on white, 8-bit BGR [height, width, 3]; a JPEG may come reduced."""
    if kind == header.JPEG:
        return _decode_jpeg(body, found, short_side)
    if kind == header.PNG and found.animated:
        body = header.still(body)
    if kind == header.GIF and len(body) > 11:
        # the background, which no browser shows, may be a colour that the palette lacks: OpenCV would refuse it
        body = header.first(body[:11] + b"\0" + body[12:])
    if kind == header.AVIF:
        # of a sequence the decoder would read the track, whose sizes nobody has checked, and not the still
        body = body[:8] + b"avif" + body[12:]
    flags = cv2.IMREAD_UNCHANGED if found.alpha else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    picture = _read(body, flags)
    if picture.shape[:2] != (found.height, found.width):
        raise _Undecodable
    return on_white(picture, found.depth if kind == header.AVIF else 16)


def _read(body: bytes, flags: int) -> Words:
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), flags)
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise _Undecodable
    return cast(Words, picture)


def _decode_jpeg(body: bytes, found: header.Header, short_side: int) -> Pixels:
    """Decode at the smallest of 1, 1/2, 1/4, 1/8 whose short side is still at least short_side.

    Against Lanczos from full size this is 32 dB where area averaging from full size is 36 (median of 40 photos and
    screenshots), and twice as fast. OpenCV refuses what ends early; a body that lacks nothing but its end marker, as
    some servers send it, is read all the same.
    """
    if found.width * found.height > MAX_JPEG_PIXELS_A_BYTE * len(body):
        raise _Undecodable
    short = min(found.width, found.height)
    scale, flags = next(
        ((scale, flag) for scale, flag in REDUCED if -(-short // scale) >= short_side), (1, cv2.IMREAD_COLOR)
    )
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = _read(body, flags)
    except _Undecodable:
        if not found.sequential:
            raise
        picture = _read(body + b"\xff\xd9", flags)
        if _is_fill(picture[-1:, -1:]):
            raise
    if picture.shape[:2] != (-(-found.height // scale), -(-found.width // scale)):
        raise _Undecodable
    # a file that was cut and closed with an end marker: an eighth and more of exactly the fill is no photograph
    if _is_fill(picture[-max(picture.shape[0] // 8, 1) :]):
        raise _Undecodable
    return cast(Pixels, picture)


def _is_fill(picture: npt.NDArray[np.generic]) -> bool:
    """Whether this is what libjpeg gives for blocks that never came: zero coefficients, the grey 128."""
    return bool((picture[-1] == 128).all() and (picture == 128).all())


def on_white(picture: Words, depth: int) -> Pixels:
    """Pixels of 1, 3 or 4 channels and `depth` bits (where they are 16-bit words) as 8-bit BGR over white.

    In bands of rows, so that the temporaries stay small beside the picture.
    """
    if picture.ndim == 2:
        picture = picture[..., None]
    height, width, channels = picture.shape
    if channels not in (1, 3, 4):
        raise _Undecodable
    if picture.dtype == np.uint8 and channels == 3:
        return cast(Pixels, picture)
    flat = np.empty((height, width, 3), np.uint8)
    rows = max(BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        band = picture[top : top + rows]
        if band.dtype != np.uint8:
            scaled = cv2.convertScaleAbs(band, alpha=255 / ((1 << depth) - 1))
            band = cast(Pixels, scaled).reshape(band.shape)
        if channels == 4:
            # 255 - (255 - colour) * alpha / 255: exact for alpha 0 and 255
            inverted = cv2.bitwise_not(cv2.cvtColor(band, cv2.COLOR_BGRA2BGR))
            alpha = cv2.cvtColor(band[..., 3], cv2.COLOR_GRAY2BGR)
            flat[top : top + rows] = cv2.bitwise_not(cv2.multiply(inverted, alpha, scale=1 / 255))
        else:
            flat[top : top + rows] = band
    return flat


def _shrink(picture: Pixels, found: header.Header, short_side: int) -> Pixels:
    """The short side at most short_side, the other in proportion to the header's sizes, rounded; never up."""
    short, long = min(found.width, found.height), max(found.width, found.height)
    if short <= short_side:
        return picture
    longer = (2 * long * short_side + short) // (2 * short)
    target = (short_side, longer) if found.width <= found.height else (longer, short_side)
    if picture.shape[1::-1] == target:
        return picture
    return cast(Pixels, cv2.resize(picture, target, interpolation=cv2.INTER_AREA))


def turn(picture: Pixels, orientation: int) -> Pixels:
    """A picture as EXIF's orientation 1-8 says it is shown."""
    if orientation >= 5:
        picture = picture.transpose(1, 0, 2)
    # what is left of the transposed 5-8 is 1, 2, 4, 3 of the upright
    left = {5: 1, 6: 2, 7: 3, 8: 4}.get(orientation, orientation)
    if left in (2, 3):
        picture = picture[:, ::-1]
    if left in (3, 4):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def deviation(square: Pixels) -> float:
    """Standard deviation of each channel, their mean; from integer sums, so that it is the same on every machine."""
    values = np.ascontiguousarray(square.reshape(-1, 3).T, np.int32)
    count = values.shape[1]
    variance = count * (values * values).sum(1, np.int64) - values.sum(1, np.int64) ** 2
    return float(np.float32((np.sqrt(variance.astype(np.float64)) / count).mean()))
