"""The image gate against Pillow, on odd files of many encoders: the same first picture, turned, on white, in 8 bits.

Needs the files, and Pillow, which the project itself does not.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest

from pipelines.images import Encode, Measured, decode
from pipelines.reasons import Reason
from tests.pipelines.image_bodies import Pixels

Image = pytest.importorskip("PIL.Image", reason="Pillow is not here")
from PIL import ImageOps  # noqa: E402

cv2 = decode.cv2
ODD = Path(__file__).parents[3] / "shared" / "data" / "odd-images"
LIMIT = 2.0  # mean difference of levels
ENCODE = Encode(min_side=1, max_aspect=20_000)


def truth(body: bytes) -> Pixels:
    """What Pillow shows, as BGR."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
        if picture.mode.startswith("I"):
            picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        if "transparency" in picture.info or picture.mode in ("PA", "LA", "P", "La", "RGBa", "RGBA"):
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            white.alpha_composite(picture)
            picture = white
        return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])


def coded(picture: Pixels, measured: Measured) -> Pixels:
    """As the gate stores it: shrunk, and with JPEG's loss, which of a few pixels in strong colours is large."""
    size = (measured.stored_width, measured.stored_height)
    if picture.shape[1::-1] != size:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return shown(cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, ENCODE.quality))[1].tobytes())


def shown(body: bytes) -> Pixels:
    picture: Pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    return picture


def distance(measured: Measured, expected: Pixels) -> float:
    """Mean difference of levels; infinite if the sizes differ."""
    if expected.shape[:2] != (measured.height, measured.width):
        return float("inf")
    return float(np.abs(shown(measured.body).astype(np.int64) - coded(expected, measured)).mean())


# Where Pillow's picture is another, and why ours stands.
OTHER = {
    "xmp_tags_orientation_exiftool.png": "Pillow turns as XMP says; browsers do not",
    "xmp_tags_orientation.avif": "likewise",
    "mmap_error.bmp": "its header places the pixels in the palette; Pillow starts behind it",
    "rgb16.bmp": "five bits to eight: OpenCV shifts, Pillow scales",
    "rgb16-565.bmp": "likewise",
    "rgb16-565pal.bmp": "likewise",
} | {f"Portrait_{number}.jpg": "fine twigs: decoded at half size, 2.2 instead of 2.0" for number in range(9)}
# What Pillow reads and OpenCV refuses: bit masks and run lengths of BMP that the web does not have.
REFUSED = {
    "badrle.bmp", "rgb32bf-xbgr.bmp", "rgb32h52.bmp", "rgba32.bmp", "rgba32h56.bmp", "hopper_rle8_row_overflow.bmp",
    "rgb32bf-abgr.bmp", "rgb32bf-rgba.bmp",
}  # fmt: skip


@pytest.mark.skipif(not ODD.exists(), reason="the odd images are not here")
def test_what_is_kept_looks_as_pillow_shows_it() -> None:
    alike, other, refused = 0, set(), set()
    for path in sorted(path for path in ODD.rglob("*") if path.is_file()):
        body = path.read_bytes()
        measured = decode.measure(body, ENCODE)
        if measured.reason == Reason.NOT_AN_IMAGE:
            continue
        try:
            expected = truth(body)
        except Exception:  # Pillow has many
            continue
        if measured.reason != Reason.KEPT:
            refused.add(path.name)
        elif distance(measured, expected) > LIMIT:
            other.add(path.name)
        else:
            alike += 1
    assert refused == REFUSED
    assert other == set(OTHER)
    assert alike > 550
