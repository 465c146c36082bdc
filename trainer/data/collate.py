"""Rows of one stream to micro-batches: sorted by length, padded to few lengths, their images decoded by threads.

An image that cannot be decoded never shifts anything: it is black, and no token that would need it counts. A decoder
lets go of the interpreter, so threads use all cores; each writes into the tensor that goes to the device.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from engine.errors import ConfigError
from engine.vocab import PAD, Vocab
from trainer.batch import MicroBatch
from trainer.data.images import decode
from trainer.data.order import Pick
from trainer.data.rows import Row

# Positions of a micro-batch: the first that its longest row fits, so that a compiled model meets these shapes alone.
# Captions have 67 positions beside their text and are 81-85 long on average (KOSMOS-1, table 18); packed text is full.
LENGTHS = {"text": (2048,), "caption": (96, 128, 192, 256, 384, 512), "interleaved": (512, 1024, 2048)}
WITHOUT_IMAGES = ("text",)  # streams whose micro-batches send nothing through the tower
MOST_THREADS = 16  # decoding 6,000 images an update takes fewer

Drawn = tuple[Pick | None, Row | None]  # None where all is padding


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A micro-batch whose images are under way. seen: of each image, whether it could be decoded."""

    stream: str
    rows: tuple[Drawn, ...]
    length: int
    pixels_NCHW: torch.Tensor
    seen: tuple[Future[bool], ...]

    def result(self) -> MicroBatch:
        """Wait for the images and lay out the rows."""
        tokens_BT = np.full((len(self.rows), self.length), PAD, np.int64)
        counted_BT = np.zeros((len(self.rows), self.length), np.bool_)
        slots: list[tuple[int, int]] = []
        bad = 0
        for index, (_, row) in enumerate(self.rows):
            if row is None:
                continue
            tokens_BT[index, : len(row.tokens)] = row.tokens
            for start, end in row.loss.tolist():
                counted_BT[index, start:end] = True
            starts = row.image_starts.tolist()
            for start, end in zip(starts, [*starts, self.length][1:], strict=True):
                if not self.seen[len(slots)].result():
                    bad += 1
                    counted_BT[index, start:end] = False  # text up to the next image may tell of it
                slots.append((index, start))
        return MicroBatch(
            stream=self.stream,
            tokens_BT=torch.from_numpy(tokens_BT),
            counted_BT=torch.from_numpy(counted_BT),
            pixels_NCHW=self.pixels_NCHW,
            slots_N2=torch.tensor(slots, dtype=torch.int64).reshape(-1, 2),
            rows=tuple(pick for pick, _ in self.rows),
            bad_images=bad,
        )


class Collator:
    """Lays out rows. max_length: of the model. image_size: pixels. threads: that decode images; 0 means one a core."""

    def __init__(self, max_length: int, image_size: int = 224, threads: int = 0) -> None:
        self._max_length, self._image_size = max_length, image_size
        self._pinned = torch.cuda.is_available()  # so that the copy to the device waits for nobody
        threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def start(self, stream: str, rows: Sequence[Drawn], size: int) -> list[Started]:
        """Begin all micro-batches of these rows, each of `size` but for the last; they decode while others compute."""
        return [self._start(stream, chunk) for chunk in self._chunks(rows, size)]

    def batches(self, stream: str, rows: Sequence[Drawn], size: int) -> Iterator[MicroBatch]:
        """The same micro-batches, finished, one by one: only the next one is under way while one is used."""
        started: deque[Started] = deque()
        for chunk in self._chunks(rows, size):
            started.append(self._start(stream, chunk))
            if len(started) > 1:
                yield started.popleft().result()
        if started:
            yield started.popleft().result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _chunks(self, rows: Sequence[Drawn], size: int) -> list[tuple[Drawn, ...]]:
        """Shortest first (equal ones in order), what is all padding last."""
        for pick, row in rows:
            if row is not None and len(row.tokens) > self._max_length:
                raise ConfigError(
                    f"row {pick} has {len(row.tokens)} tokens and model.max_length is {self._max_length}; raise it, or "
                    f"pack again with pack.max_length={self._max_length}"
                )
        by_length = sorted(rows, key=lambda drawn: self._max_length + 1 if drawn[1] is None else len(drawn[1].tokens))
        return [tuple(by_length[first : first + size]) for first in range(0, len(rows), size)]

    def _start(self, stream: str, rows: tuple[Drawn, ...]) -> Started:
        bodies = [body for _, row in rows if row is not None for body in row.images]
        blank = not bodies and stream not in WITHOUT_IMAGES
        shape = (len(bodies) + blank, 3, self._image_size, self._image_size)
        pixels_NCHW = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned and shape[0] > 0)
        if blank:
            pixels_NCHW.zero_()
        longest = max(0 if row is None else len(row.tokens) for _, row in rows)
        return Started(
            stream=stream,
            rows=rows,
            length=_length(stream, longest, self._max_length),
            pixels_NCHW=pixels_NCHW,
            seen=tuple(self._pool.submit(_put, out, body) for out, body in zip(pixels_NCHW, bodies, strict=False)),
        )


def check_vocabulary(packed: Vocab, vocab: Vocab) -> None:
    """ConfigError unless rows were packed with the model's vocabulary."""
    if packed != vocab:
        raise ConfigError(
            f"the rows were packed with a vocabulary of {packed.size} and the model has {vocab.size}; set "
            f"model.vocab_size={packed.size}, or pack again with the model's tokenizer"
        )


def _put(out_CHW: torch.Tensor, body: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bool:
    """Decode an image to where it belongs; False, and black, if it cannot be decoded."""
    pixels_CHW = decode(body, out_CHW.shape[-1])
    if pixels_CHW is None:
        out_CHW.zero_()
        return False
    out_CHW.copy_(pixels_CHW)
    return True


def _length(stream: str, longest: int, max_length: int) -> int:
    """Positions of a micro-batch whose longest row has `longest` tokens, at most max_length."""
    return next((length for length in LENGTHS[stream] if longest <= length <= max_length), max_length)
