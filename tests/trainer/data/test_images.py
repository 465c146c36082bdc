"""Pixels of an image: the geometry and the filter of CLIP's transform, and None for whatever cannot be decoded."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.images import MOST_PIXELS, decode


def encoded(picture: np.ndarray, kind: str = ".png") -> bytes:
    done, coded = cv2.imencode(kind, picture[..., ::-1] if picture.ndim == 3 else picture)
    assert done
    return coded.tobytes()


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), np.uint8)


def cubic(at: float) -> float:
    """Keys' cubic with a = -0.5, as Pillow's BICUBIC."""
    at = abs(at)
    if at < 1:
        return (1.5 * at - 2.5) * at * at + 1
    return ((-0.5 * at + 2.5) * at - 4) * at + 2 if at < 2 else 0.0


def weights(before: int, after: int) -> np.ndarray:
    """[after, before]: the filter of Pillow's resize, widened where it shrinks."""
    scale = before / after
    wide = max(scale, 1.0)
    table = np.zeros((after, before))
    for to in range(after):
        centre = (to + 0.5) * scale
        first, last = max(0, int(centre - 2 * wide + 0.5)), min(before, int(centre + 2 * wide + 0.5))
        row = [cubic((at + 0.5 - centre) / wide) for at in range(first, last)]
        table[to, first:last] = np.array(row) / sum(row)
    return table


def reference(picture: np.ndarray, size: int) -> np.ndarray:
    """Pillow's BICUBIC and torchvision's sizes, in float64: [3, size, size]."""
    rows, columns = picture.shape[:2]
    short = min(rows, columns)
    target = (int(size * rows / short), int(size * columns / short))
    wide = np.clip(np.rint(np.einsum("to,roc->rtc", weights(columns, target[1]), picture.astype(float))), 0, 255)
    done = np.clip(np.rint(np.einsum("to,oxc->txc", weights(rows, target[0]), wide)), 0, 255)
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    return done[top : top + size, left : left + size].transpose(2, 0, 1)


@pytest.mark.parametrize(("rows", "columns"), [(256, 256), (256, 384), (400, 300), (97, 41), (30, 500), (224, 333)])
def test_resizing_is_pillow_s_to_one_step(rows: int, columns: int) -> None:
    picture = noise(rows, columns)
    found = decode(encoded(picture), 64)
    assert found is not None
    difference = np.abs(found.numpy().astype(float) - reference(picture, 64))
    assert difference.mean() <= 0.1 and difference.max() <= 2


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 90), columns=st.integers(1, 90), size=st.sampled_from([1, 14, 31, 64]))
def test_any_size_becomes_a_square_of_bytes(rows: int, columns: int, size: int) -> None:
    found = decode(encoded(noise(rows, columns)), size)
    assert found is not None
    assert found.shape == (3, size, size) and found.dtype == torch.uint8 and found.is_contiguous()


def test_a_picture_of_the_size_stays_as_it_is() -> None:
    picture = noise(32, 32)
    found = decode(encoded(picture), 32)
    assert found is not None and (found.numpy() == picture.transpose(2, 0, 1)).all()


def test_the_middle_is_kept() -> None:
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = (250, 100, 0)
    found = decode(encoded(picture), 20)
    assert found is not None and (found.permute(1, 2, 0).numpy() == (250, 100, 0)).all()


def test_channels_are_red_green_blue_and_grey_is_three_of_them() -> None:
    picture = np.broadcast_to(np.array([200, 90, 30], np.uint8), (40, 40, 3)).copy()
    found = decode(encoded(picture, ".jpg"), 16)
    assert found is not None
    means = found.float().mean((1, 2))
    assert torch.allclose(means, torch.tensor([200.0, 90.0, 30.0]), atol=3)
    grey = decode(encoded(np.full((40, 40), 77, np.uint8), ".jpg"), 16)
    assert grey is not None and (grey == 77).all()


def test_views_are_decoded_as_bytes_are() -> None:
    body = encoded(noise(50, 60), ".jpg")
    view = np.frombuffer(b"shard" + body, np.uint8)[5:]
    one, other = decode(body), decode(view)
    assert one is not None and other is not None and torch.equal(one, other)
    assert one.shape == (3, 224, 224)


@pytest.mark.parametrize("body", [b"", b"\xff\xd8\xff", b"no image at all", encoded(noise(40, 40), ".jpg")[:60]])
def test_what_is_no_image_is_none(body: bytes) -> None:
    assert decode(body) is None


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise(body: bytes) -> None:
    found = decode(b"\xff\xd8" + body, 8)
    assert found is None or found.shape == (3, 8, 8)


def test_claims_beyond_the_limit_are_refused_before_they_are_decoded() -> None:
    body = bytearray(encoded(noise(16, 16), ".jpg"))
    frame = body.index(b"\xff\xc0")
    body[frame + 5 : frame + 9] = (60_000).to_bytes(2, "big") * 2
    assert decode(bytes(body)) is None


def test_a_line_is_refused_before_it_is_blown_up() -> None:
    columns = math.ceil(MOST_PIXELS / 224**2) + 1
    assert decode(encoded(noise(1, columns))) is None
    assert decode(encoded(noise(1, columns)), 8) is not None


def test_a_photo_is_turned_as_its_exif_says_only_when_asked() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16] = 255  # white above black
    done, coded = cv2.imencode(".jpg", picture)
    assert done
    # one entry: tag 0x0112 (orientation), a short, 6: to be turned clockwise, so that the top comes to the right
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    body = coded.tobytes()
    body = body[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + body[2:]
    plain, turned = decode(body, 32), decode(body, 32, foreign=True)
    assert plain is not None and turned is not None
    assert plain[0, :12].min() > 200 > 50 > plain[0, 20:].max()
    assert turned[0, :, 20:].min() > 200 > 50 > turned[0, :, :12].max()


def test_transparency_is_put_on_white_only_when_asked() -> None:
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[:16, :, 2:] = 255  # red above nothing
    done, coded = cv2.imencode(".png", picture)
    assert done
    seen, plain = decode(coded.tobytes(), 32, foreign=True), decode(coded.tobytes(), 32)
    assert seen is not None and plain is not None
    assert seen[:, 4, 4].tolist() == [255, 0, 0] and seen[:, 24, 4].tolist() == [255, 255, 255]
    assert plain[:, 24, 4].tolist() == [0, 0, 0]
