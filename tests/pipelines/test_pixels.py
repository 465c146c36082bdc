"""The pictures of the bundled web: that they show what their words say, fail as they should, and are all different."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pipelines.images import Encode, Gate, Measured, judge
from pipelines.images.decode import measure
from pipelines.images.hashes import hamming
from pipelines.reasons import Reason
from pipelines.smallweb import Bounds, Truth, load, write
from pipelines.smallweb.fates import CLOSED, contents, likeness, picture_fate
from pipelines.smallweb.pictures import COLOURS, SHAPES, Picture
from pipelines.smallweb.pixels import PALETTE, broken, corpus, draw, opencv, sign
from pipelines.smallweb.prose import first, topics, vocabulary

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    directory = tmp_path_factory.mktemp("web")
    write(directory)
    return directory, load(directory)


@pytest.fixture(scope="module")
def drawn(web: tuple[Path, Truth]) -> dict[Picture, bytes]:
    """The file of every picture."""
    return {picture: draw(picture) for picture in web[1].pictures}


@pytest.fixture(scope="module")
def measured(drawn: dict[Picture, bytes]) -> dict[Picture, Measured]:
    """What the image gate finds in every file."""
    return {picture: measure(body, Encode()) for picture, body in drawn.items() if body}


def decode(body: bytes) -> Any:
    cv2 = opencv()
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)


def test_sizes_and_formats_are_those_of_the_specification(drawn: dict[Picture, bytes]) -> None:
    starts = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n"}
    for picture, body in drawn.items():
        if picture.kind == "missing":
            assert body == b""
            continue
        assert body.startswith(starts[picture.format])
        if picture.kind == "corrupt":
            assert decode(body) is None
        else:
            assert decode(body).shape == (picture.height, picture.width, 3)


def test_a_corrupt_file_has_a_header_that_is_sound(measured: dict[Picture, Measured]) -> None:
    corrupt = [(picture, found) for picture, found in measured.items() if picture.kind == "corrupt"]
    assert len(corrupt) >= 10
    for picture, found in corrupt:
        assert (found.reason, found.width, found.height) == (Reason.UNDECODABLE, picture.width, picture.height)


def test_a_file_is_corrupt_whatever_its_noise(drawn: dict[Picture, bytes]) -> None:
    whole = next(body for picture, body in drawn.items() if picture.kind == "photo")
    for seed in range(200):
        assert decode(broken(whole, np.random.Generator(np.random.PCG64(seed)))) is None


def test_the_image_gate_finds_the_planted_faults(measured: dict[Picture, Measured]) -> None:
    columns: dict[str, list[Any]] = {
        name: [getattr(found, name) for found in measured.values()]
        for name in ("reason", "value", "width", "height", "deviation")
    }
    columns["reason"] = [int(reason) for reason in columns["reason"]]
    reasons, _ = judge(pa.table(columns), Gate())
    found = [Reason(int(reason)).word for reason in reasons]
    # what robots.txt closes is a picture like any other
    assert found == ["kept" if p.kind in CLOSED else picture_fate(p, Bounds()) or "kept" for p in measured]
    assert min(Counter(found).values()) >= 20


def test_no_two_pictures_are_alike(drawn: dict[Picture, bytes], measured: dict[Picture, Measured]) -> None:
    """Equal files where the specification is equal but for the address, and else far apart to the eye."""
    files = defaultdict(set)
    for picture, body in drawn.items():
        if body:
            files[contents(picture)].add(hashlib.sha256(body).digest())
    assert all(len(sums) == 1 for sums in files.values())
    assert len(set.union(*files.values())) == len(files) < len(drawn)
    hashes = {likeness(picture): found.phash for picture, found in measured.items() if found.reason == Reason.KEPT}
    values = np.array(list(hashes.values()), np.uint64)
    apart = hamming(values[:, None], values[None, :])
    assert (apart == 0).sum() == len(values), "each is alike to itself only"
    assert apart[~np.eye(len(values), dtype=bool)].min() >= 4


def test_a_smaller_copy_is_another_file_that_looks_alike(
    drawn: dict[Picture, bytes], measured: dict[Picture, Measured]
) -> None:
    copies = [picture for picture in drawn if picture.kind == "smaller"]
    wholes = {likeness(picture): picture for picture in drawn if picture.kind == "photo"}
    for half in copies:
        whole = wholes[likeness(half)]
        assert (half.width, half.height) == (whole.width // 2, whole.height // 2)
        assert len(drawn[half]) < len(drawn[whole])
        assert measured[half].phash == measured[whole].phash
    assert len(copies) == 2


def test_the_same_everywhere_and_always(drawn: dict[Picture, bytes]) -> None:
    some = list(drawn)[::25]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, some)) == [drawn[picture] for picture in some]
    moved = [dataclasses.replace(picture, url="https://elsewhere.example/") for picture in some]
    assert [draw(picture) for picture in moved] == [drawn[picture] for picture in some]


def shades(name: str) -> list[npt.NDArray[np.float64]]:
    """A colour of the palette as it looks in folds and in uneven light."""
    colour = np.array(PALETTE[name], np.float64)
    step = 6 if colour.mean() < 128 else -6
    return [np.clip(colour + step * fold, 0, 255) * light / 128 for fold in range(8) for light in (108, 128, 148)]


def nearest(pixels: npt.NDArray[Any]) -> list[str]:
    """The colour of the palette of which each pixel is most likely a shade."""
    named = [(name, shade) for name in PALETTE for shade in shades(name)]
    table = np.array([shade for _, shade in named])
    distance = np.abs(pixels.reshape(-1, 1, 3).astype(np.float64) - table[None]).sum(axis=2)
    return [named[number][0] for number in distance.argmin(axis=1)]


def test_colours_are_those_of_the_words(drawn: dict[Picture, bytes]) -> None:
    """The palest model sees it: most of the picture is of the ground's colour, most of the rest of the thing's."""
    cv2 = opencv()
    good = [picture for picture in drawn if picture.kind in ("photo", "drawing", "slow")]
    right = 0
    for picture in good[::8]:
        small = cv2.resize(decode(drawn[picture]), (32, 32), interpolation=cv2.INTER_AREA)
        seen = Counter(nearest(small)).most_common(2)
        right += [name for name, _ in seen] == [picture.ground_colour, picture.colour]
    assert right >= 0.97 * len(good[::8])


def shape_of(picture: Picture, shape: str, seed: int) -> Pixels:
    """The shape alone, as black on white, at the size that a model sees."""
    cv2 = opencv()
    drawing = dataclasses.replace(
        picture, kind="drawing", format="png", shape=shape, colour="black", ground_colour="white", seed=seed
    )
    page = decode(draw(dataclasses.replace(drawing, width=256, height=256)))
    mask = (page.max(axis=2) < 90).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, width, height = stats[largest, :4]
    cut: Pixels = cv2.resize((labels[y : y + height, x : x + width] == largest).astype(np.uint8) * 255, (32, 32))
    return cut


def test_shapes_can_be_told_apart(drawn: dict[Picture, bytes]) -> None:
    """The nearest mean of others of its shape is its own shape's, most of the time."""
    picture = next(iter(drawn))
    shapes = [shape for shape in SHAPES if shape not in ("striped", "oval")]  # bars; a round one when cut out
    means = {shape: np.mean([shape_of(picture, shape, seed) for seed in range(20)], axis=0) for shape in shapes}
    right = 0
    for shape in shapes:
        for seed in range(100, 110):
            seen = shape_of(picture, shape, seed)
            right += min(means, key=lambda name: float(((means[name] - seen) ** 2).sum())) == shape
    assert right >= 0.95 * 10 * len(shapes)


def test_every_thing_has_a_sign_of_its_own() -> None:
    things = {first(thing) for topic in topics() for thing in vocabulary()[topic]["things"]}
    assert len({sign(thing, 1).tobytes() for thing in things}) == len(things) > 400
    assert {name for name in PALETTE} == set(COLOURS)


def test_the_sign_is_in_the_picture(drawn: dict[Picture, bytes]) -> None:
    """Found by correlation, at the size of its cells, in a picture of its word and in none of another."""
    cv2 = opencv()
    good = [picture for picture in drawn if picture.kind in ("photo", "drawing")][:40:2]
    for picture, other in pairwise(good):
        page = decode(drawn[picture])
        cell = min(page.shape[:2]) // 32

        def seen(thing: str, page: Any = page, cell: int = cell) -> float:
            plate = np.repeat(sign(thing, cell)[:, :, None], 3, axis=2)
            return float(cv2.matchTemplate(page, plate, cv2.TM_CCOEFF_NORMED).max())

        assert seen(picture.thing) > 0.95
        assert other.thing == picture.thing or seen(other.thing) < 0.85


def test_the_digest_names_the_pictures(web: tuple[Path, Truth], tmp_path: Path) -> None:
    lines = (web[0] / "images.jsonl").read_text().splitlines()
    shutil.copy(web[0] / "robots.jsonl", tmp_path)
    (tmp_path / "images.jsonl").write_text("".join(line + "\n" for line in reversed(lines)))
    assert corpus(tmp_path) == corpus(web[0])
    (tmp_path / "images.jsonl").write_text("".join(line + "\n" for line in lines[1:]))
    assert corpus(tmp_path) != corpus(web[0])
    shutil.copy(web[0] / "images.jsonl", tmp_path)
    (tmp_path / "robots.jsonl").write_text("")
    assert corpus(tmp_path) != corpus(web[0])
