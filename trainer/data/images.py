"""Bytes of an image to the pixels that the tower takes, or None: the shorter side to `size`, bicubic, centre crop.

The one place of the trainer where any exception is caught: whatever is wrong with an image, training goes on without it
and counts it. Resizing is PyTorch's antialiased bicubic on uint8, which follows Pillow, the reference of CLIP; OpenCV's
own bicubic has no antialiasing. OpenCV reads its pixel limit from the environment at import.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "40000000")

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

MOST_PIXELS = 40_000_000  # as many as curated images may have; also bounds what a narrow one becomes on resizing

# The loader decodes an image a thread: threads inside one image would fight over the others' cores.
cv2.setNumThreads(1)
# A bad image is counted, not told in the log.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(
    body: bytes | npt.NDArray[np.uint8], size: int = 224, foreign: bool = False, square: bool = False
) -> torch.Tensor | None:
    """Decode an image to uint8 RGB [3, size, size]; None if it cannot be decoded or passes the limit of pixels.

    foreign: turn it as its EXIF says and put transparency on white, which has been done to images of training shards.
    square: the whole picture, its sides drawn to one length, as KOSMOS-2's evaluation has it: nothing is cropped.
    The sizes in between are those of torchvision's Resize and CenterCrop (longer side rounded down, margin rounded to
    even), which trained CLIP.
    """
    try:
        data = np.frombuffer(body, np.uint8)
        flags = cv2.IMREAD_COLOR if foreign else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        picture = cv2.imdecode(data, flags)
        if picture is None:
            return None
        rows, columns = picture.shape[:2]
        if size * size * max(rows, columns) > MOST_PIXELS * min(rows, columns):
            return None
        if foreign:
            picture = _on_white(data, picture)
        return _crop(_resize(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), size, square), size)
    except Exception:  # whatever the bytes do to the decoder, it is the image's fault and not the run's
        return None


def _on_white(data: npt.NDArray[np.uint8], picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The picture, or what is seen of it on white if the file has an alpha channel of 8 bits."""
    whole = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if whole is None or whole.ndim != 3 or whole.shape[2] != 4 or whole.dtype != np.uint8:
        return picture
    alpha = whole[..., 3:].astype(np.uint16)
    seen: npt.NDArray[Any] = ((whole[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return seen


def _resize(picture: npt.NDArray[np.generic], size: int, square: bool = False) -> torch.Tensor:
    """[height, width, 3] to [3, height', width'] with the shorter side `size`, or both."""
    rows, columns = picture.shape[:2]
    short = min(rows, columns)
    target = (size, size) if square else (size * rows // short, size * columns // short)
    pixels_CHW = torch.from_numpy(picture).permute(2, 0, 1)
    if target == (rows, columns):
        return pixels_CHW
    return functional.interpolate(pixels_CHW[None], size=target, mode="bicubic", antialias=True)[0]


def _crop(pixels_CHW: torch.Tensor, size: int) -> torch.Tensor:
    top, left = (round((side - size) / 2) for side in pixels_CHW.shape[1:])
    return pixels_CHW[:, top : top + size, left : left + size].contiguous()
