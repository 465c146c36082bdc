"""What the loader hands to the loop: the micro-batches of one update, as tensors.

Legend of the shape suffixes of this package: B rows, T positions, D model width, H heads, K head width, F inner width
of the FFN, V vocabulary, N images, P tokens of an image in the tower, C its width, S slots of an image (64), M targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Rows of one stream, right-padded with <pad> to one length.

    tokens_BT: int64. counted_BT: bool over tokens: token j counts as the target of position j - 1; never at 0.
    pixels_NCHW: uint8, RGB, as decoded; a blank image is black. slots_N2: int64, (row, index of the first of its 64
    slots) of each image, ascending. There may be one image more than slots: a blank one, which goes through tower and
    connector at weight 0, so that every rank issues the same collectives. rows: (source, row) of each row for logs and
    tests; None where a row is all pad.
    bad_images: images that could not be decoded: blank, and the loss that would need them is masked.
    """

    stream: str
    tokens_BT: torch.Tensor
    counted_BT: torch.Tensor
    pixels_NCHW: torch.Tensor
    slots_N2: torch.Tensor
    rows: tuple[tuple[str, int] | None, ...]
    bad_images: int = 0

    @property
    def counted(self) -> int:
        """Tokens that count in the loss."""
        return int(self.counted_BT.sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """All micro-batches of one update on one rank, in the order in which they run. number: counted from 1."""

    number: int
    micro_batches: tuple[MicroBatch, ...]

    @property
    def counted(self) -> int:
        """Tokens that count, over all micro-batches of this rank."""
        return sum(batch.counted for batch in self.micro_batches)
