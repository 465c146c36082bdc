"""The micro-batches of an update: a pure function of its number, whatever was loaded before and by how many ranks.

Rows are sorted by length within the rank's share, so that few shapes occur and little is padding. An image that cannot
be decoded never shifts the order: it is black, and no token that would need it counts.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from engine.errors import ConfigError
from engine.vocab import PAD, Vocab
from trainer.batch import MicroBatch, Update
from trainer.config import DataConfig
from trainer.images import decode
from trainer.order import Pick, State, drawn, num_micro_batches, slice_of
from trainer.rows import Row, Sources

# Positions of a micro-batch: the first that its longest row fits, so that a compiled model meets these shapes alone.
# Captions have 67 positions beside their text and are 81-85 long on average (KOSMOS-1, table 18); packed text is full.
LENGTHS = {"text": (2048,), "caption": (96, 128, 192, 512), "interleaved": (512, 1024, 2048)}
AHEAD = 2  # updates that are prepared while one runs
MOST_THREADS = 16  # decoding 6,000 images an update takes fewer

Images = list[Future[torch.Tensor | None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """A row of a share and its images under way; row is None where all is padding."""

    pick: Pick | None
    row: Row | None
    images: Images

    @property
    def length(self) -> int:
        return 0 if self.row is None else len(self.row.tokens)


class Loader:
    """Updates of a rank, by number.

    sources: opened from the digests of `state`. config: its micro_batch is what counts here; quotas, seed and order
    stand in `state`. vocab, max_length: of the model. threads: that decode images; 0 means one a core.
    """

    def __init__(
        self,
        sources: Sources,
        state: State,
        config: DataConfig,
        vocab: Vocab,
        max_length: int,
        rank: int = 0,
        world: int = 1,
        image_size: int = 224,
        threads: int = 0,
    ) -> None:
        if sources.vocab != vocab:
            raise ConfigError(
                f"the rows were packed with a vocabulary of {sources.vocab.size} and the model has {vocab.size}; set "
                f"model.vocab_size={sources.vocab.size}, or pack again with the model's tokenizer"
            )
        _check_rows(sources, state)
        self._sources, self._state, self._config = sources, state, config
        self._max_length, self._image_size = max_length, image_size
        self._rank, self._world = rank, world
        threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def update(self, number: int) -> Update:
        """Load update `number`, counted from 1; StoreError if a shard is gone or damaged."""
        piece = self._state.piece(number)
        # all rows first: while the micro-batches of one stream are laid out, images of the next are being decoded
        shares = []
        for stream in piece.streams:
            rows = self._config.micro_batch.of(stream.name)
            picks = drawn(piece, stream, number, *slice_of(stream.quota, self._rank, self._world))
            missing = num_micro_batches(stream.quota, self._world, rows) * rows - len(picks)
            shares.append((stream.name, rows, self._read([*picks, *[None] * missing])))
        batches = [
            self._collate(name, reads[i : i + rows]) for name, rows, reads in shares for i in range(0, len(reads), rows)
        ]
        return Update(number=number, micro_batches=tuple(batches))

    def close(self) -> None:
        """End the threads; updates cannot be loaded any more."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, picks: Sequence[Pick | None]) -> list[_Read]:
        """The rows of a share, shortest first (equal ones in order), what is all padding last."""
        rows = [(pick, None if pick is None else self._sources.read(*pick)) for pick in picks]
        rows.sort(key=lambda read: self._max_length + 1 if read[1] is None else len(read[1].tokens))
        reads = []
        for pick, row in rows:
            if row is not None and len(row.tokens) > self._max_length:
                raise ConfigError(
                    f"row {pick} has {len(row.tokens)} tokens and model.max_length is {self._max_length}; raise it, or "
                    f"pack again with pack.max_length={self._max_length}"
                )
            bodies = () if row is None else row.images
            reads.append(
                _Read(pick=pick, row=row, images=[self._pool.submit(decode, b, self._image_size) for b in bodies])
            )
        return reads

    def _collate(self, stream: str, reads: Sequence[_Read]) -> MicroBatch:
        length = _length(stream, max(read.length for read in reads), self._max_length)
        tokens_BT = np.full((len(reads), length), PAD, np.int64)
        counted_BT = np.zeros((len(reads), length), np.bool_)
        num_images = sum(len(read.images) for read in reads)
        pixels_NCHW = torch.zeros((num_images, 3, self._image_size, self._image_size), dtype=torch.uint8)
        slots: list[tuple[int, int]] = []
        bad = 0
        for index, read in enumerate(reads):
            if read.row is None:
                continue
            tokens_BT[index, : read.length] = read.row.tokens
            for start, end in read.row.loss.tolist():
                counted_BT[index, start:end] = True
            starts = read.row.image_starts.tolist()
            for start, end, image in zip(starts, [*starts, length][1:], read.images, strict=True):
                pixels_CHW = image.result()
                if pixels_CHW is None:
                    bad += 1
                    counted_BT[index, start:end] = False  # text up to the next image may tell of it
                else:
                    pixels_NCHW[len(slots)] = pixels_CHW
                slots.append((index, start))
        return MicroBatch(
            stream=stream,
            tokens_BT=torch.from_numpy(tokens_BT),
            counted_BT=torch.from_numpy(counted_BT),
            pixels_NCHW=pixels_NCHW,
            slots_N2=torch.tensor(slots, dtype=torch.int64).reshape(-1, 2),
            rows=tuple(read.pick for read in reads),
            bad_images=bad,
        )


def prefetch(loader: Loader, first: int, last: int) -> Generator[Update, None, None]:
    """Updates first .. last in order, the next ones loaded by a thread of their own.

    What loading raises is raised here, in place of its update; leaving or closing the iterator ends the thread.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        under_way: deque[Future[Update]] = deque()
        for number in range(first, last + AHEAD + 1):
            if number <= last:
                under_way.append(pool.submit(loader.update, number))
            if number >= first + AHEAD and under_way:
                yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _length(stream: str, longest: int, max_length: int) -> int:
    """Positions of a micro-batch whose longest row has `longest` tokens, at most max_length."""
    return next((length for length in LENGTHS[stream] if longest <= length <= max_length), max_length)


def _check_rows(sources: Sources, state: State) -> None:
    """ConfigError if the manifests are not those that the state counts rows over."""
    if sources.digests != state.digests:
        raise ConfigError(
            f"the run reads manifests {', '.join(state.digests)} and was given {', '.join(sources.digests)}; add new "
            "ones with --extend, or start a new run with --out"
        )
    rows = {source.name: source.rows for source in sources.listing}
    for piece in state.pieces:
        for source in (source for stream in piece.streams for source in stream.sources):
            if source.first + source.rows > rows.get(source.name, 0):
                raise ConfigError(
                    f"the run draws rows of {source.name} that its manifests do not hold; start a new run with --out"
                )
