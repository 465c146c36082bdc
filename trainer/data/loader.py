"""The micro-batches of an update: a pure function of its number, whatever was loaded before and by how many ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from engine.errors import ConfigError
from engine.vocab import Vocab
from trainer.batch import Update
from trainer.config import DataConfig
from trainer.data.collate import Collator, check_vocabulary
from trainer.data.order import State, drawn, num_micro_batches, slice_of
from trainer.data.rows import Sources

AHEAD = 2  # updates that are prepared while one runs
AHEAD_BYTES = 1 << 30  # of pixels in them, or one update: 6,144 images of 150 KB on one device are 0.9 GB


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
        check_vocabulary(sources.vocab, vocab)
        _check_rows(sources, state)
        self._sources, self._state, self._config = sources, state, config
        self._rank, self._world = rank, world
        self._collator = Collator(max_length, image_size, threads)

    def update(self, number: int) -> Update:
        """Load update `number`, counted from 1; StoreError if a shard is gone or damaged."""
        piece = self._state.piece(number)
        # all rows first: while the micro-batches of one stream are laid out, images of the next are being decoded
        started = []
        for stream in piece.streams:
            size = self._config.micro_batch.of(stream.name)
            picks = drawn(piece, stream, number, *slice_of(stream.quota, self._rank, self._world))
            missing = num_micro_batches(stream.quota, self._world, size) * size - len(picks)
            rows = [*zip(picks, self._sources.rows(picks), strict=True), *[(None, None)] * missing]
            started += self._collator.start(stream.name, rows, size)
        return Update(number=number, micro_batches=tuple(batch.result() for batch in started))

    def close(self) -> None:
        """End the threads; updates cannot be loaded any more."""
        self._collator.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetch(loader: Loader, first: int, last: int) -> Generator[Update, None, None]:
    """Updates first .. last in order, the next ones loaded by a thread of their own.

    What loading raises is raised here, in place of its update; leaving or closing the iterator ends the thread.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    under_way: deque[Future[Update]] = deque()
    following = iter(range(first, last + 1))
    ahead = 1  # until the size of an update is known
    try:
        while True:
            under_way.extend(pool.submit(loader.update, n) for n in islice(following, ahead - len(under_way)))
            if not under_way:
                return
            update = under_way.popleft().result()
            ahead = max(1, min(AHEAD, AHEAD_BYTES // max(1, _pixel_bytes(update))))
            under_way.extend(pool.submit(loader.update, n) for n in islice(following, ahead - len(under_way)))
            yield update
            del update  # or it would stay while the next one is waited for
    finally:
        pool.shutdown(cancel_futures=True)


def _pixel_bytes(update: Update) -> int:
    return sum(batch.pixels_NCHW.nbytes for batch in update.micro_batches)


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
