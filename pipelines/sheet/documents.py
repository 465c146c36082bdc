"""A uniform sample of curated documents, each read by ranges: of a record batch of 64 documents with some megabytes of
images only the bytes of the one that is wanted."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np

from engine import schema
from engine.arrow import Batch, read_batch
from engine.ledger import Commit
from engine.stage import Place, Work
from pipelines.sheet.frozen import Frozen

CURATED = "curated"
Row = dict[str, Any]  # of schema.CURATED, as Python values


def sample(found: Frozen, num: int, seed: int) -> list[Row]:
    """`num` documents, or all if there are fewer, in the order of the shards."""
    ends = list(itertools.accumulate((block.commit.rows(CURATED) for block in found.blocks), initial=0))
    rows = []
    for wanted in sorted(random.Random(f"sheet {seed}").sample(range(ends[-1]), min(num, ends[-1]))):
        number = next(i for i, end in enumerate(ends[1:]) if wanted < end)
        block = found.blocks[number]
        rows.append(row(found.works[block.generation], block.commit, wanted - ends[number]))
    return rows


def row(work: Work, commit: Commit, wanted: int) -> Row:
    """Row `wanted` of the curated documents of a commit, counted over its files."""
    before = 0
    for number, file in enumerate(commit.outputs[CURATED]):
        for batch in file.batches:
            if wanted < before + batch.rows:
                message = _holed(work, commit, number, batch, before, wanted)
                table = read_batch(schema.CURATED, message, file.path)
                found: Row = table.slice(wanted - before, 1).to_pylist()[0]
                return found
            before += batch.rows
    raise IndexError(wanted)


def _holed(work: Work, commit: Commit, file: int, batch: Batch, first: int, wanted: int) -> bytes:
    """The message of a record batch, with zeros in the place of the images of all rows but one."""
    (places,) = work.offsets(CURATED, [(commit, first, batch.rows)])
    starts = places["offset"].to_numpy().astype(np.int64)
    ends = starts + places["length"].to_numpy().astype(np.int64)
    start, end = int(starts.min()), int(ends.max())
    own = wanted - first
    ranges = [
        (batch.offset, start),
        (int(starts[own]), int(ends[own])),
        (end, batch.offset + batch.length),
    ]
    message = bytearray(batch.length)
    wants = [Place(commit, CURATED, file, low, high - low) for low, high in ranges]
    for (low, high), piece in zip(ranges, work.pieces(wants), strict=True):
        message[low - batch.offset : high - batch.offset] = piece
    return bytes(message)
