"""The loss on rows that no model is trained on, of each stream, and of captions that see another row's image.

A pure function of the rows and the weights: the same on any number of ranks but for the rounding of float32. What
`caption_permuted` has above `caption` is what the model gains from looking.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from engine.vocab import STREAMS, Vocab
from trainer.config import Config
from trainer.data.collate import Collator, Drawn, check_vocabulary
from trainer.data.order import Pick, num_micro_batches, slice_of
from trainer.data.rows import Row, Sources
from trainer.world import World

CAPTION = "caption"
PERMUTED = "caption_permuted"


class Heldout:
    """The first `config.heldout.rows` held-out rows of each stream that is trained on, split over the ranks.

    sources: opened with heldout=True. vocab: of the model.
    """

    def __init__(self, sources: Sources, config: Config, world: World, vocab: Vocab) -> None:
        check_vocabulary(sources.vocab, vocab)
        self._sources, self._config, self._world = sources, config, world
        self._collator = Collator(config.model.max_length, config.model.tower.image_size)
        streams = [stream for stream in STREAMS if config.data.quota(stream)]
        picks = {stream: _first(sources, stream, config.heldout.rows) for stream in streams}
        self._picks = {stream: mine for stream, mine in picks.items() if mine}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean NLL of the counted tokens, in nats, over all ranks, by stream, and of PERMUTED where two captions are.

        model: its call gives the sum of the NLL over a micro-batch's counted tokens. Every rank must call it.
        """
        names = [*self._picks, *([PERMUTED] if len(self._picks.get(CAPTION, ())) > 1 else [])]
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                sums = [value for name in names for value in self._sum(model, name)]
        finally:
            model.train(training)
        totals = self._world.sum_floats(sums)
        pairs = zip(names, totals[::2], totals[1::2], strict=True)
        return {name: nll_sum / counted for name, nll_sum, counted in pairs if counted}

    def close(self) -> None:
        """End the threads that decode; the sources stay open."""
        self._collator.close()

    def __enter__(self) -> Heldout:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sum(self, model: nn.Module, name: str) -> tuple[float, float]:
        """This rank's (sum of the NLL, counted tokens) of a stream or PERMUTED."""
        stream = CAPTION if name == PERMUTED else name
        device = self._world.device
        # in float64 on the device: a float of each micro-batch would wait for it
        nll_sum = torch.zeros((), dtype=torch.float64, device=device)
        counted = 0
        size = self._config.data.micro_batch.of(stream)
        for batch in self._collator.batches(stream, self._share(name, stream, size), size):
            tensors = (batch.tokens_BT, batch.counted_BT, batch.pixels_NCHW, batch.slots_N2)
            nll_sum += model(*(tensor.to(device, non_blocking=True) for tensor in tensors)).double()
            counted += batch.counted
        return float(nll_sum), float(counted)

    def _share(self, name: str, stream: str, size: int) -> list[Drawn]:
        """This rank's rows, and padding so that every rank has as many micro-batches."""
        picks = self._picks[stream]
        first, last = slice_of(len(picks), self._world.rank, self._world.size)
        rows = self._sources.rows(picks[first:last])
        if name == PERMUTED:
            others = self._sources.rows([picks[(index + 1) % len(picks)] for index in range(first, last)])
            rows = [_seeing(row, other) for row, other in zip(rows, others, strict=True)]
        missing = num_micro_batches(len(picks), self._world.size, size) * size - len(rows)
        return [*zip(picks[first:last], rows, strict=True), *[(None, None)] * missing]


def notes(sources: Sources, config: Config) -> tuple[str, ...]:
    """What is left out, for whoever starts the run."""
    trained = [stream for stream in STREAMS if config.data.quota(stream)]
    held = {source.stream for source in sources.listing if source.rows}
    without = ", ".join(stream for stream in trained if stream not in held)
    return (f"nothing is held out of: {without}; a larger pack.heldout holds out more",) if without else ()


def _first(sources: Sources, stream: str, num: int) -> list[Pick]:
    """The first rows of a stream, its sources by name."""
    rows = ((source.name, row) for source in sources.listing if source.stream == stream for row in range(source.rows))
    return list(islice(rows, num))


def _seeing(row: Row, other: Row) -> Row:
    """The row with the other's images in place of its own."""
    if not other.images:
        return row
    return replace(row, images=tuple(other.images[place % len(other.images)] for place in range(len(row.images))))
