"""What the pictures of the bundled web look like: the file that a server would send for a specification.

A shape of one colour on a ground of another, both as the words say, and in a corner the sign of the thing: 5 x 5 cells
that only this word has. All arithmetic is on integers, so that a file has the same bytes on every machine that runs the
same OpenCV. About 4 ms a picture.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.smallweb.pictures import Picture

VERSION = 1  # of the drawing: whoever changes a pixel counts on
Pixels = npt.NDArray[np.uint8]
Contours = list[npt.NDArray[np.float64]]

# blue, green, red; far enough apart that no shade of one is nearer to another
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (36, 30, 208),
    "orange": (20, 134, 246),
    "yellow": (50, 224, 250),
    "green": (56, 142, 36),
    "blue": (214, 74, 34),
    "purple": (158, 30, 118),
    "pink": (196, 150, 252),
    "brown": (28, 62, 104),
    "black": (22, 20, 20),
    "white": (246, 247, 248),
    "grey": (134, 132, 130),
    "turquoise": (196, 206, 44),
}
SUBPIXEL_BITS = 4
CELLS = 5  # of a thing's sign, each way: 2^25 signs
NOISE = 160  # side of the tile of sensor noise
JPEG_QUALITY = 90
WORSE_QUALITY = 75  # of a smaller copy
PNG_LEVEL = 1


def circle(radius: float = 1.0, points: int = 64, squeeze: float = 1.0) -> npt.NDArray[np.float64]:
    """An ellipse round the origin."""
    turn = np.arange(points) * (2 * math.pi / points)
    return np.stack((radius * np.cos(turn), radius * squeeze * np.sin(turn)), axis=1)


def polygon(*corners: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Corners as they are."""
    return np.array(corners, np.float64)


def star() -> Contours:
    """Five points."""
    radii = [1.0 if corner % 2 == 0 else 0.42 for corner in range(10)]
    turns = [math.pi * corner / 5 - math.pi / 2 for corner in range(10)]
    return [polygon(*[(r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, turns, strict=True)])]


def stripes() -> Contours:
    """Four bars, one over the other."""
    tops = [-0.8 + 0.44 * bar for bar in range(4)]
    return [polygon((-0.85, y), (0.85, y), (0.85, y + 0.26), (-0.85, y + 0.26)) for y in tops]


def crescent() -> Contours:
    """A disc without what a second one covers."""
    tip, shift = math.pi / 4, 0.35
    x, y = math.cos(tip) - shift, math.sin(tip)
    outer = np.linspace(tip, 2 * math.pi - tip, 48)
    inner = np.linspace(2 * math.pi - math.atan2(y, x), math.atan2(y, x), 48)
    bite = np.stack((np.cos(inner), np.sin(inner)), axis=1) * math.hypot(x, y) + (shift, 0)
    return [np.concatenate((np.stack((np.cos(outer), np.sin(outer)), axis=1), bite))]


# shape -> its contours within the unit circle, and how far it may be turned, in degrees
SHAPES: dict[str, tuple[Callable[[], Contours], int]] = {
    "round": (lambda: [circle()], 0),
    "square": (lambda: [polygon((-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75))], 12),
    "triangular": (lambda: [polygon((0, -1), (0.87, 0.6), (-0.87, 0.6))], 15),
    "oval": (lambda: [circle(squeeze=0.55)], 20),
    "star-shaped": (star, 30),
    "ring-shaped": (lambda: [circle(), circle(0.55)], 0),
    "striped": (stripes, 12),
    "diamond-shaped": (lambda: [polygon((0, -1), (0.6, 0), (0, 1), (-0.6, 0))], 10),
    "crescent": (crescent, 30),
}


def opencv() -> Any:
    """OpenCV, with the limits of the image gate: they hold only if they are set before the process first loads it."""
    import_module("pipelines.images.decode")
    return import_module("cv2")


def draw(picture: Picture) -> bytes:
    """The file that a server sends for the picture; b"" if it is missing. The address plays no part in it."""
    if picture.kind == "missing":
        return b""
    rng = np.random.Generator(np.random.PCG64(picture.seed))
    if picture.kind == "smaller":
        return halved(replace(picture, kind="photo", width=2 * picture.width, height=2 * picture.height))
    if picture.kind == "single_colour":
        canvas = plain(picture, rng)
    else:
        canvas = ground(picture, rng)
        figure(canvas, picture, rng)
        if picture.format == "jpeg":
            canvas = camera(canvas, rng)
    body = encode(canvas, picture.format)
    return broken(body, rng) if picture.kind == "corrupt" else body


def halved(whole: Picture) -> bytes:
    """The picture once more, at half its size and of worse quality."""
    cv2 = opencv()

    canvas = cv2.imdecode(np.frombuffer(draw(whole), np.uint8), cv2.IMREAD_COLOR)
    half = cv2.resize(canvas, (whole.width // 2, whole.height // 2), interpolation=cv2.INTER_AREA)
    return encode(half, whole.format, WORSE_QUALITY)


def corpus(directory: Path) -> str:
    """A digest that names what a server of this folder's pictures sends: specifications, robots.txt, drawing."""
    files = ("images.jsonl", "robots.jsonl")
    lines = sorted(line for name in files for line in (directory / name).read_text(encoding="utf-8").splitlines())
    return hashlib.sha256("\n".join((f"pixels {VERSION}", *lines)).encode()).hexdigest()


def plain(picture: Picture, rng: np.random.Generator) -> Pixels:
    """The ground's colour everywhere, but for one level up or down: no two are equal, and there is nothing to see."""
    cv2 = opencv()

    rough = rng.integers(0, 3, (8, 8), np.uint8)
    drift = cv2.resize(rough, (picture.width, picture.height), interpolation=cv2.INTER_NEAREST_EXACT)
    colour = np.clip(np.array(PALETTE[picture.ground_colour]) + rng.integers(-6, 7, 3), 1, 254)
    canvas: Pixels = (colour + (drift[:, :, None].astype(np.int16) - 1)).astype(np.uint8)
    return canvas


def ground(picture: Picture, rng: np.random.Generator) -> Pixels:
    """The ground's colour with a faint weave that its word decides, and a fold or two across it."""
    colour = np.array(PALETTE[picture.ground_colour], np.int16)
    direction_x, direction_y, period = hashlib.sha256(f"ground {picture.ground}".encode()).digest()[:3]
    step = max(4, picture.height // (12 + period % 8))
    rows = (np.arange(picture.height) + rng.integers(step)) * (direction_y % 3)
    columns = (np.arange(picture.width) + rng.integers(step)) * (1 + direction_x % 2)
    shade = ((rows[:, None] + columns[None, :]) // step % 2).astype(np.uint8)
    for _ in range(3):
        slope = int(rng.integers(-90, 91))
        edge = int(rng.integers(picture.height)) - slope * picture.width // 200
        below = (np.arange(picture.height)[:, None] - edge) * 100 > slope * np.arange(picture.width)[None, :]
        shade += 2 * (below if rng.integers(2) else ~below).astype(np.uint8)
    # dark grounds are shaded with light, light ones with dark
    step_of_shade = 6 if colour.mean() < 128 else -6
    shades = colour + step_of_shade * np.arange(8, dtype=np.int16)[:, None]
    return np.ascontiguousarray(np.clip(shades, 0, 255).astype(np.uint8)[shade])


def figure(canvas: Pixels, picture: Picture, rng: np.random.Generator) -> None:
    """Draw the shape and, in the corner that it leaves free, the sign of the thing, within the middle square."""
    cv2 = opencv()

    height, width = canvas.shape[:2]
    side = min(height, width)
    radius = side * int(rng.integers(250, 360)) / 1000
    reach = max(0.0, side / 2 - radius)
    offset_x, offset_y = (reach * int(rng.integers(-900, 901)) / 1000 for _ in range(2))
    make, most = SHAPES[picture.shape]
    turn = math.radians(int(rng.integers(-most * 10, most * 10 + 1)) / 10)
    turned = np.array(((math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))))
    centre = np.array((width / 2 + offset_x, height / 2 + offset_y))
    corners = [np.rint((contour @ turned * radius + centre) * (1 << SUBPIXEL_BITS)) for contour in make()]
    contours = [contour.astype(np.int32) for contour in corners]
    cv2.fillPoly(canvas, contours, PALETTE[picture.colour], cv2.LINE_AA, SUBPIXEL_BITS)
    mark = sign(picture.thing, max(1, side // 32))
    size = min(mark.shape[0], side)
    left, right = (width - side) // 2, (width + side) // 2 - size
    top, bottom = (height - side) // 2, (height + side) // 2 - size
    x, y = right if offset_x < 0 else left, bottom if offset_y < 0 else top
    canvas[y : y + size, x : x + size] = mark[:size, :size, None]


def sign(thing: str, cell: int) -> Pixels:
    """The sign of a word: black cells on a white plate with a black rim."""
    bits = np.unpackbits(np.frombuffer(hashlib.sha256(f"thing {thing}".encode()).digest()[:4], np.uint8))
    cells = np.where(bits[: CELLS * CELLS].reshape(CELLS, CELLS), 16, 240).astype(np.uint8)
    framed = np.pad(cells, 1, constant_values=240)
    return np.pad(np.kron(framed, np.ones((cell, cell), np.uint8)), 1, constant_values=16)


def camera(canvas: Pixels, rng: np.random.Generator) -> Pixels:
    """The scene in uneven light, with the noise of a sensor."""
    cv2 = opencv()

    height, width = canvas.shape[:2]
    light = cv2.resize(rng.integers(104, 153, (7, 7), np.uint8), (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    tile = rng.integers(-5, 6, (NOISE, NOISE), np.int16) + rng.integers(-5, 6, (NOISE, NOISE), np.int16)
    noise = np.tile(tile, (-(-height // NOISE), -(-width // NOISE)))[:height, :width]
    lit = (canvas.astype(np.uint16) * light[:, :, None]) >> 7
    seen: Pixels = np.clip(lit.view(np.int16) + noise[:, :, None], 0, 255).astype(np.uint8)
    return seen


def encode(canvas: Pixels, form: str, quality: int = JPEG_QUALITY) -> bytes:
    """A JPEG or PNG; quality: of a JPEG."""
    cv2 = opencv()

    settings = [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL] if form == "png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, body = cv2.imencode(f".{form}", canvas, settings)
    if not done:
        raise ValueError(f"OpenCV encodes no {form} of {canvas.shape}")
    data: Any = body
    return bytes(data)


def broken(body: bytes, rng: np.random.Generator) -> bytes:
    """A JPEG up to its size, then tables that no decoder takes, then the start of its data, then nothing."""
    tables = body.index(b"\xff\xc4")
    data = body.index(b"\xff\xda")
    wrong = bytes(rng.integers(200, 255, data - tables - 4, np.uint8))  # more codes than a table holds
    return body[: tables + 4] + wrong + body[data : data + (len(body) - data) // 3]
