"""Bodies of images for the tests of the gate: drawn, coded by OpenCV, or put together by hand where it cannot."""

from __future__ import annotations

import struct
import zlib
from functools import cache

import numpy as np
import numpy.typing as npt

from pipelines.images.decode import cv2

Pixels = npt.NDArray[np.uint8]


def scene(width: int = 400, height: int = 300) -> Pixels:
    """Smooth, coloured, and different in each corner: BGR."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = x / width, y / height
    channels = (40 + 180 * x, 30 + 190 * y * (1 - x), 200 - 150 * y * y)
    return np.dstack(channels).round().astype(np.uint8)


def other(seed: int, width: int = 400, height: int = 300) -> Pixels:
    """A picture of coarse random patches."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)


def coded(name: str, picture: npt.NDArray[np.generic], *settings: int) -> bytes:
    done, body = cv2.imencode(name, picture, settings)
    assert done
    return body.tobytes()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, kind: int, raw: bytes, *before: bytes) -> bytes:
    """A PNG by hand: raw holds the rows, each behind its filter byte."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def with_exif(jpeg: bytes, orientation: int, order: str = "<") -> bytes:
    data = b"Exif\0\0" + exif(orientation, order)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


def stored(picture: Pixels, orientation: int) -> Pixels:
    """What has to be in the file, so that a viewer that obeys `orientation` shows the picture (the EXIF standard)."""
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda p: np.rot90(p, -1),
    }[orientation]
    return np.ascontiguousarray(undo(picture))


@cache
def bodies() -> dict[str, bytes]:
    """A body of every format and of most kinds; small, so that mutations are quick."""
    picture = scene(96, 72)
    clear = np.dstack((picture, np.full(picture.shape[:2], 128, np.uint8)))
    moving = cv2.Animation()
    moving.frames = [clear, np.ascontiguousarray(255 - clear)]
    moving.durations = [100, 100]
    return {
        "jpeg": coded(".jpg", picture),
        "progressive": coded(".jpg", picture, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "turned": with_exif(coded(".jpg", picture), 6),
        "png": coded(".png", picture),
        "png alpha": coded(".png", clear),
        "png 16": coded(".png", clear.astype(np.uint16) * 257),
        "apng": cv2.imencodeanimation(".png", moving)[1].tobytes(),
        "gif": coded(".gif", picture),
        "gif moving": cv2.imencodeanimation(".gif", moving)[1].tobytes(),
        "webp": coded(".webp", picture, cv2.IMWRITE_WEBP_QUALITY, 90),
        "webp lossless": coded(".webp", clear, cv2.IMWRITE_WEBP_QUALITY, 101),
        "webp moving": cv2.imencodeanimation(".webp", moving)[1].tobytes(),
        "bmp": coded(".bmp", picture),
        "avif": coded(".avif", picture, cv2.IMWRITE_AVIF_SPEED, 10),
        "avif alpha": coded(".avif", clear, cv2.IMWRITE_AVIF_SPEED, 10),
    }


def cmyk(channels: tuple[int, int, int, int], side: int = 64, adobe: bool = True) -> bytes:
    """A baseline CMYK JPEG of one colour, by hand: DC coefficients only, quantised by 8, no subsampling."""
    blocks = (side // 8) ** 2
    bits = ""
    for block in range(blocks):
        for value in channels:
            # the DC of a flat block is 8 (value - 128), quantised by 8; later blocks differ by 0
            difference = value - 128 if block == 0 else 0
            size = abs(difference).bit_length()
            bits += format(size, "04b")
            if size:
                bits += format(difference if difference > 0 else difference + (1 << size) - 1, f"0{size}b")
            bits += "0"
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")

    def segment(marker: int, payload: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload

    app14 = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") if adobe else b""
    tables = segment(0xDB, b"\0" + bytes([8] * 64))
    frame = struct.pack(">BHHB", 8, side, side, 4) + b"".join(bytes((i, 0x11, 0)) for i in range(1, 5))
    dc = b"\0" + bytes([0, 0, 0, 12, *[0] * 12]) + bytes(range(12))
    ac = b"\x10" + bytes([1, *[0] * 15]) + b"\0"
    scan = b"\x04" + b"".join(bytes((i, 0)) for i in range(1, 5)) + b"\0\x3f\0"
    parts = (app14, tables, segment(0xC0, frame), segment(0xC4, dc), segment(0xC4, ac), segment(0xDA, scan))
    return b"\xff\xd8" + b"".join(parts) + data + b"\xff\xd9"
