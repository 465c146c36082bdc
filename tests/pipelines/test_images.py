"""The image gate: every format against the picture it was made from, every body gives an image or a reason."""

from __future__ import annotations

import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from pipelines.images import FORMATS, Encode, Gate, Measured, header, judge, kosmos1, obelics
from pipelines.images import decode as images
from pipelines.images.hashes import hamming, phash
from pipelines.reasons import Reason
from tests.pipelines.image_bodies import Pixels, bodies, chunk, cmyk, coded, exif, other, png, scene, stored, with_exif

cv2 = images.cv2  # imported there, after its limits are set
ENCODE = Encode()
ODD = Path(__file__).parents[3] / "shared" / "data" / "odd-images"
LARGEST = 512 * 1024  # KiB


def shown(measured: Measured) -> Pixels:
    assert measured.reason == Reason.KEPT, measured
    picture: Pixels = cv2.imdecode(np.frombuffer(measured.body, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[:2] == (measured.stored_height, measured.stored_width)
    return picture


def distance(measured: Measured, truth: Pixels) -> float:
    """Mean difference from the truth, shrunk to the stored size."""
    picture = shown(measured)
    truth = cv2.resize(truth, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    return float(np.abs(picture.astype(np.int64) - truth).mean())


@pytest.mark.parametrize(
    ("name", "settings", "limit"),
    [
        (".jpg", (), 2.0),
        (".jpg", ("IMWRITE_JPEG_PROGRESSIVE", 1), 2.0),
        (".png", (), 1.5),
        (".gif", (), 8.0),
        (".webp", ("IMWRITE_WEBP_QUALITY", 95), 2.5),
        (".webp", ("IMWRITE_WEBP_QUALITY", 101), 1.5),
        (".bmp", (), 1.5),
        (".avif", ("IMWRITE_AVIF_QUALITY", 95), 2.5),
    ],
)
def test_every_format_shows_its_picture(name: str, settings: tuple[object, ...], limit: float) -> None:
    picture = scene()
    numbers = [getattr(cv2, value) if isinstance(value, str) else value for value in settings]
    measured = images.measure(coded(name, picture, *numbers), ENCODE)
    assert distance(measured, picture) < limit
    assert (measured.width, measured.height) == (400, 300)
    assert (measured.stored_width, measured.stored_height) == (341, 256)
    assert FORMATS[measured.format] == {".jpg": "jpeg"}.get(name, name[1:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("width", [200, 700, 2400])
def test_a_jpeg_is_turned_as_exif_says_at_every_scale(orientation: int, width: int) -> None:
    picture = scene(width, width * 3 // 4)
    body = with_exif(coded(".jpg", stored(picture, orientation)), orientation, "<>"[orientation % 2])
    measured = images.measure(body, ENCODE)
    assert (measured.width, measured.height) == (width, width * 3 // 4)
    assert distance(measured, picture) < 2.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_and_webp_are_turned_too(orientation: int) -> None:
    picture = scene()
    body = coded(".png", stored(picture, orientation))
    body = body[:33] + chunk(b"eXIf", exif(orientation)) + body[33:]
    assert distance(images.measure(body, ENCODE), picture) < 2
    # an extended WebP: VP8X that says there is EXIF, the picture, and EXIF behind it
    inside = stored(picture, orientation)
    plain = coded(".webp", inside, cv2.IMWRITE_WEBP_QUALITY, 95)[12:]
    data = exif(orientation)
    sizes = b"".join((side - 1).to_bytes(3, "little") for side in inside.shape[1::-1])
    chunks = b"VP8X" + struct.pack("<II", 10, 0x08) + sizes + plain + b"EXIF" + struct.pack("<I", len(data)) + data
    body = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks
    assert distance(images.measure(body, ENCODE), picture) < 2.5


def test_avif_turns_are_those_of_exif() -> None:
    """irot turns anticlockwise, then imir mirrors (0: top and bottom, 1: left and right)."""
    picture = scene(8, 6)
    for (turns, mirror), orientation in header._TURNS.items():
        truth = np.rot90(picture, turns)
        truth = truth if mirror is None else truth[::-1] if mirror == 0 else truth[:, ::-1]
        assert np.array_equal(images.turn(picture, orientation), truth), (turns, mirror)


def test_what_exif_says_wrongly_turns_nothing() -> None:
    body = coded(".jpg", scene())
    for orientation in (0, 9, 65535):
        assert images.measure(with_exif(body, orientation), ENCODE).width == 400


def test_16_bits_are_scaled_and_never_all_white() -> None:
    ramp = np.tile(np.linspace(0, 65535, 400).astype(np.uint16), (300, 1))
    truth = np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, 2)
    for picture in (ramp, np.dstack((ramp,) * 3), np.dstack((ramp, ramp, ramp, np.full_like(ramp, 65535)))):
        assert distance(images.measure(coded(".png", picture), ENCODE), truth) < 1.5
    raw = b"".join(b"\0" + np.dstack((row, np.full_like(row, 65535))).astype(">u2").tobytes() for row in ramp)
    assert distance(images.measure(png(400, 300, 16, 4, raw), ENCODE), truth) < 1.5


def test_deep_avif_is_scaled() -> None:
    picture = scene()
    for depth in (10, 12):
        for alpha in (False, True):
            deep = np.dstack((picture, np.full(picture.shape[:2], 255, np.uint8))) if alpha else picture
            deep = (deep.astype(np.uint32) * ((1 << depth) - 1) // 255).astype(np.uint16)
            flags = (cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 95, cv2.IMWRITE_AVIF_SPEED, 10)
            assert distance(images.measure(coded(".avif", deep, *flags), ENCODE), picture) < 3, (depth, alpha)


def test_alpha_stands_on_white() -> None:
    picture = scene()
    share = np.tile(np.linspace(0, 255, 300).astype(np.uint8)[:, None], (1, 400))
    clear = np.dstack((picture, share))
    weight = share[..., None] / 255
    truth = (picture * weight + 255 * (1 - weight)).round().astype(np.uint8)
    assert distance(images.measure(coded(".png", clear), ENCODE), truth) < 1.5
    assert distance(images.measure(coded(".png", clear.astype(np.uint16) * 257), ENCODE), truth) < 1.5
    assert distance(images.measure(coded(".webp", clear, cv2.IMWRITE_WEBP_QUALITY, 101), ENCODE), truth) < 1.5
    flags = (cv2.IMWRITE_AVIF_QUALITY, 95, cv2.IMWRITE_AVIF_SPEED, 10)
    assert distance(images.measure(coded(".avif", clear, *flags), ENCODE), truth) < 3


def test_grey_and_palettes_with_a_see_through_colour() -> None:
    level = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1))
    grey = np.repeat(level[..., None], 3, 2)
    assert distance(images.measure(coded(".png", level), ENCODE), grey) < 1
    assert distance(images.measure(coded(".jpg", level), ENCODE), grey) < 1.5
    # grey and alpha
    share = np.where(np.arange(300)[:, None] < 150, 0, 255).astype(np.uint8) * np.ones((1, 400), np.uint8)
    half = np.where(share[..., None] > 0, grey, 255).astype(np.uint8)
    raw = b"".join(b"\0" + np.dstack((a, b)).tobytes() for a, b in zip(level, share, strict=True))
    assert distance(images.measure(png(400, 300, 8, 4, raw), ENCODE), half) < 1.5
    # a palette of four, the second see-through
    colours = np.array([[10, 20, 200], [0, 0, 0], [30, 180, 40], [220, 90, 10]], np.uint8)
    index = (np.arange(400) // 100).astype(np.uint8)
    raw = (b"\0" + index.tobytes()) * 300
    body = png(400, 300, 8, 3, raw, chunk(b"PLTE", colours.tobytes()), chunk(b"tRNS", b"\xff\x00\xff\xff"))
    on_white = colours.copy()
    on_white[1] = 255
    truth = np.tile(on_white[index][:, ::-1], (300, 1, 1))
    assert distance(images.measure(body, ENCODE), truth) < 3


def test_a_gif_with_a_see_through_colour_and_an_impossible_background() -> None:
    body = bytearray(coded(".gif", scene(96, 72)))
    body[11] = 255
    assert images.measure(bytes(body), ENCODE).reason == Reason.KEPT


@pytest.mark.parametrize("adobe", [True, False])
@pytest.mark.parametrize("side", [64, 1024])
def test_cmyk_is_read_as_browsers_do_with_values_inverted(adobe: bool, side: int) -> None:
    """255 is no ink, with or without Adobe's mark (Chrome and Firefox agree)."""
    for channels, bgr in (((255, 128, 128, 255), (128, 128, 255)), ((0, 255, 255, 255), (255, 255, 0))):
        picture = shown(images.measure(cmyk(channels, side, adobe), ENCODE))
        assert np.abs(picture.astype(np.int64) - bgr).max() <= 6


def test_of_what_moves_the_first_picture_is_shown() -> None:
    first, second = scene(), np.ascontiguousarray(255 - scene())
    moving = cv2.Animation()
    moving.frames = [np.dstack((picture, np.full(picture.shape[:2], 255, np.uint8))) for picture in (first, second)]
    moving.durations = [50, 50]
    for name, limit in ((".gif", 8), (".png", 1.5), (".webp", 8), (".avif", 5)):
        body = cv2.imencodeanimation(name, moving)[1].tobytes()
        assert distance(images.measure(body, ENCODE), first) < limit, name


def test_an_animated_png_of_nonsense_frames_shows_its_still() -> None:
    body = coded(".png", scene())
    body = body[:33] + chunk(b"acTL", struct.pack(">II", 0, 0)) + chunk(b"fcTL", b"\xff" * 26) + body[33:]
    assert distance(images.measure(body, ENCODE), scene()) < 1.5


def test_limits_are_asked_of_the_header() -> None:
    raw = b"\0" * 10
    for (width, height), reason, value in (
        ((7000, 7000), Reason.TOO_MANY_PIXELS, 49.0),
        ((31, 40), Reason.SIDE_SMALL, 31.0),
        ((20_001, 1_500), Reason.SIDE_LARGE, 20_001.0),
        ((2_100, 100), Reason.ASPECT, 21.0),
        ((100, 100), Reason.UNDECODABLE, 0.0),
    ):
        measured = images.measure(png(width, height, 8, 2, raw), ENCODE)
        assert (measured.reason, measured.value) == (reason, value)
        assert (measured.width, measured.height, measured.body) == (width, height, b"")
    assert images.measure(png(0, 5, 8, 2, raw), ENCODE).reason == Reason.UNDECODABLE
    assert images.measure(png(1 << 31, 5, 8, 2, raw), ENCODE) == Measured(Reason.UNDECODABLE, format=header.PNG)
    for nothing in (b"", b"<html>", b"<svg xmlns=", b"\xff\xd8", b"BM" + bytes(40), b"II*\0" + bytes(99)):
        assert images.measure(nothing, ENCODE) == Measured(Reason.NOT_AN_IMAGE)


def test_nothing_is_enlarged_and_the_short_side_is_the_bound() -> None:
    for (width, height), stored_size in (
        ((100, 80), (100, 80)),
        ((256, 300), (256, 300)),
        ((257, 900), (256, 896)),
        ((1000, 4000), (256, 1024)),
        ((600, 599), (256, 256)),
    ):
        measured = images.measure(coded(".jpg", scene(width, height)), ENCODE)
        assert (measured.stored_width, measured.stored_height) == stored_size


def test_a_jpeg_that_ends_early_is_no_picture_but_one_without_its_end_marker_is() -> None:
    for progressive in (0, 1):
        body = coded(".jpg", other(1), cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
        for share in (0.2, 0.5, 0.8):
            cut = body[: int(len(body) * share)]
            assert images.measure(cut, ENCODE).reason == Reason.UNDECODABLE
            if not progressive:
                assert images.measure(cut + b"\xff\xd9", ENCODE).reason == Reason.UNDECODABLE
        kept = images.measure(body[:-2], ENCODE)
        assert kept.reason == (Reason.UNDECODABLE if progressive else Reason.KEPT)
        if not progressive:
            assert kept.body == images.measure(body, ENCODE).body


@pytest.mark.parametrize("name", ["png", "gif", "webp", "webp lossless", "avif", "bmp"])
def test_a_cut_body_is_no_picture(name: str) -> None:
    body = bodies()[name]
    for share in (0.3, 0.6, 0.9):
        assert images.measure(body[: int(len(body) * share)], ENCODE).reason == Reason.UNDECODABLE


def test_a_jpeg_that_claims_more_than_its_bytes_can_hold_is_not_decoded() -> None:
    body = bytearray(coded(".jpg", np.zeros((64, 64, 3), np.uint8)))
    at = body.index(b"\xff\xc0")
    body[at + 5 : at + 9] = struct.pack(">HH", 6000, 6000)
    assert images.measure(bytes(body), ENCODE).reason == Reason.UNDECODABLE


def test_headers_cost_bounded_work() -> None:
    """A walk that took a step a segment would take millions here; it gives up instead."""
    endless = b"\xff\xd8\xff" + b"\xe0\x00\x02\xff" * (1 << 20)
    assert header.size(endless, header.JPEG) is None
    assert header.size(b"\xff\xd8" + b"\xff" * (1 << 20), header.JPEG) is None
    boxes = b"\0\0\0\x14ftypavif" + bytes(8) + b"\0\0\0\x08free" * (1 << 18)
    assert header.size(boxes, header.AVIF) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(FORMATS) - 1))
def test_a_header_of_any_bytes_is_read_without_raising(rest: bytes, kind: int) -> None:
    starts = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF0000WEBP", b"BM", b"\0\0\0\x14ftypavif")
    found = header.size(starts[kind] + rest, kind)
    assert found is None or (0 < found.width < 1 << 31 and 0 < found.height < 1 << 31 and 1 <= found.orientation <= 8)


@pytest.mark.parametrize("name", sorted(bodies()))
def test_a_prefix_gives_the_same_sizes_or_none(name: str) -> None:
    body = bodies()[name]
    kind = header.sniff(body)
    whole = header.size(body, kind)
    assert whole is not None
    for end in range(min(len(body), 2000)):
        found = header.size(body[:end], kind)
        assert found is None or (found.width, found.height) == (whole.width, whole.height)


def check(measured: Measured) -> None:
    """Whatever comes out is an image with its measures, or a reason without an image."""
    if measured.reason != Reason.KEPT:
        assert measured.body == b"" and measured.stored_width == 0
        return
    picture = shown(measured)
    assert min(picture.shape[:2]) <= ENCODE.short_side
    assert 0 < measured.phash < 1 << 64 and 0 <= measured.deviation <= 128
    assert min(measured.width, measured.height) >= ENCODE.min_side


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(bodies())),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
)
def test_mutated_bodies_give_an_image_or_a_reason(name: str, changes: list[tuple[float, int]], early: bool) -> None:
    body = bytearray(bodies()[name])
    reach = min(len(body), 200) if early else len(body)
    for where, value in changes:
        body[int(where * (reach - 1))] = value
    check(images.measure(bytes(body), ENCODE))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_reason(body: bytes) -> None:
    check(images.measure(body, ENCODE))


def test_the_same_bytes_give_the_same_row_in_any_thread() -> None:
    names = sorted(bodies())
    alone = [images.measure(bodies()[name], ENCODE) for name in names]
    assert all(measured.reason == Reason.KEPT for measured in alone)
    with ThreadPoolExecutor(4) as pool:
        for again in range(4):
            assert list(pool.map(lambda name: images.measure(bodies()[name], ENCODE), names)) == alone, again


def test_hashes_survive_coding_and_size_and_tell_pictures_apart() -> None:
    hashes = []
    for seed in range(20):
        picture = other(seed, 900, 700)
        near = [
            coded(".jpg", picture),
            coded(".jpg", picture, cv2.IMWRITE_JPEG_QUALITY, 40),
            coded(".png", cv2.resize(picture, (450, 350), interpolation=cv2.INTER_AREA)),
            coded(".webp", cv2.resize(picture, (1800, 1400)), cv2.IMWRITE_WEBP_QUALITY, 60),
        ]
        found = np.array([images.measure(body, ENCODE).phash for body in near], np.uint64)
        assert hamming(found, found[0]).max() <= 6
        hashes.append(found[0])
    between = hamming(np.array(hashes)[:, None], np.array(hashes)[None])
    assert between[~np.eye(20, dtype=bool)].min() > 12


def test_the_hash_is_the_median_rule_on_a_cosine_transform() -> None:
    grey = cv2.cvtColor(other(3, 32, 32), cv2.COLOR_BGR2GRAY)
    low = cv2.dct(grey.astype(np.float64))[:8, :8].reshape(-1)
    # the transform there is orthonormal, which weighs the first row and column less than the others
    low *= np.outer([2**0.5, *[1] * 7], [2**0.5, *[1] * 7]).reshape(-1)
    bits = low > np.median(low[1:])
    assert phash(grey) == sum(1 << i for i in range(64) if bits[i] or i == 0)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_flat_picture_has_a_hash_and_no_deviation(level: int) -> None:
    assert phash(np.full((32, 32), level, np.uint8)) == 1
    measured = images.measure(coded(".png", np.full((80, 90, 3), level, np.uint8)), ENCODE)
    assert (measured.reason, measured.deviation, measured.phash) == (Reason.KEPT, 0.0, 1)


def test_deviation_is_the_mean_of_the_channels() -> None:
    square = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)
    assert images.deviation(square) == pytest.approx(square.reshape(-1, 3).std(0).mean(), rel=1e-6)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_hamming_counts_bits(left: int, right: int) -> None:
    assert hamming(np.array([left], np.uint64), np.array([right], np.uint64))[0] == (left ^ right).bit_count()


def table(*rows: tuple[int, float, int, int, float]) -> pa.Table:
    names = ("reason", "value", "width", "height", "deviation")
    types = (pa.uint16(), pa.float32(), pa.int32(), pa.int32(), pa.float32())
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(c, t) for name, t, c in zip(names, types, columns, strict=True)})


def test_judge_keeps_what_stands_and_asks_in_order() -> None:
    rows = table(
        (0, 0, 640, 480, 50),
        (Reason.TIMEOUT, 28, 0, 0, 0),
        (0, 0, 63, 400, 0),
        (0, 0, 64, 192, 2),
        (0, 0, 64, 193, 50),
        (0, 0, 200, 20_001, 0),
        (0, 0, 640, 480, 1.99),
        (0, 0, 149, 149, 50),
    )
    reasons, values = judge(rows, kosmos1())
    assert (reasons.dtype, values.dtype) == (np.uint16, np.float32)
    small, large, aspect, single = Reason.SIDE_SMALL, Reason.SIDE_LARGE, Reason.ASPECT, Reason.SINGLE_COLOUR
    assert reasons.tolist() == [0, Reason.TIMEOUT, small, 0, aspect, large, single, 0]
    assert values.tolist() == pytest.approx([0, 28, 63, 0, 193 / 64, 20_001, 1.99, 0], rel=1e-6)
    assert judge(rows, obelics())[0].tolist() == [0, Reason.TIMEOUT, small, small, small, large, single, small]
    assert judge(rows.slice(0, 0), kosmos1())[0].tolist() == []


def test_configurations_that_mean_nothing_are_refused() -> None:
    for wrong in (
        {"short_side": 0},
        {"quality": 101},
        {"max_pixels": 40_000_001},
        {"min_side": 0},
        {"max_aspect": 0.5},
    ):
        with pytest.raises(ConfigError):
            Encode(**wrong)
    with pytest.raises(ConfigError):
        Gate(max_aspect=0)
    assert cv2.__version__.split("-")[0] in ENCODE.libraries


PEAK = """
import re, sys
from pipelines.images import Encode
from pipelines.images.decode import measure
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        print(measure(file.read(), Encode()).reason.name)
with open("/proc/self/status") as status:  # getrusage would count the parent, before exec
    print(re.search("VmHWM: *\t* *([0-9]+) kB", status.read())[1])
"""


def peak(*names: str) -> tuple[list[str], int]:
    """Reasons, and the most memory (KiB) of a process that measured these files and nothing else."""
    done = subprocess.run([sys.executable, "-c", PEAK, *names], capture_output=True, text=True, timeout=100, check=True)
    *reasons, memory = done.stdout.split()
    return reasons, int(memory)


def test_bombs_take_bounded_memory(tmp_path: Path) -> None:
    """The largest picture that each limit lets through, of next to no bytes."""
    deep = bytes(8 * 6000 + 1)
    flat = np.zeros((4400, 4500, 3), np.uint8)
    lie = coded(".avif", np.zeros((7000, 14000, 3), np.uint8), cv2.IMWRITE_AVIF_SPEED, 10)
    at = lie.index(b"ispe") + 8
    made = {
        "deep.png": png(6000, 4160, 16, 6, deep * 4160),
        "plain.png": png(8000, 5000, 8, 6, bytes(4 * 8000 + 1) * 5000),
        "over.png": png(6000, 6000, 16, 6, deep),
        "flat.avif": coded(".avif", flat, cv2.IMWRITE_AVIF_SPEED, 10),
        "lie.avif": lie[:at] + struct.pack(">II", 100, 100) + lie[at + 8 :],
        "flat.gif": coded(".gif", np.zeros((5000, 6100, 3), np.uint8)),
    }
    for name, body in made.items():
        (tmp_path / name).write_bytes(body)
    reasons, memory = peak(*(str(tmp_path / name) for name in made))
    assert reasons == ["KEPT", "KEPT", "TOO_MANY_PIXELS", "KEPT", "UNDECODABLE", "KEPT"]
    assert memory < LARGEST


@pytest.mark.skipif(not ODD.exists(), reason="the odd images are not here")
def test_odd_images_give_an_image_or_a_reason() -> None:
    names = sorted(str(path) for path in ODD.rglob("*") if path.is_file())
    reasons, memory = peak(*names)
    assert len(reasons) == len(names) and memory < LARGEST
    assert reasons.count("KEPT") > 500
    for name in names[::7]:
        check(images.measure(Path(name).read_bytes(), ENCODE))
