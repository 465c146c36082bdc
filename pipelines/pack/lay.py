"""Text rows of one partition of document order: whole lines, document after document, until a row is full.

A document goes on in the next row where the last one ended; only a partition's last row is short. Partitions are cut by
a hash of the document and not by files, so the same documents give the same rows however they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.arrow import sort
from engine.stage import SIDE, Unit, Work
from engine.vocab import STREAMS
from pipelines.dedupe import one
from pipelines.pack import num_shards, part, rank
from pipelines.pack.layout import Placed, packed, samples, text
from pipelines.pack.tokenise import LINES, SAMPLES, TEXT

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (SAMPLES,)
ROWS = 256  # yielded at once: it never shows in the bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What of pack.Config decides the text rows."""

    seed: int = 0
    max_length: int = 2048
    partitions: int = 256
    shard_bytes: int = 256 << 20
    source: str = "commoncrawl"


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition, and a last one for what is held out."""
    return [(str(number),) for number in range(config.partitions + 1)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Lay out one partition."""
    number = int(unit.inputs[0])
    shards = num_shards(work.commits("assemble"), config.shard_bytes)
    lines = sort(work.partition("tokenise", "lines", number), LINES.sort_by)
    own = one(lines["ends"])
    num_lines = own.value_lengths().to_numpy()
    document = np.repeat(np.arange(len(lines)), num_lines)
    before = np.concatenate([[0], np.cumsum(one(lines["tokens"]).value_lengths().to_numpy())]).astype(np.int64)
    ends = own.flatten().to_numpy() + before[document]
    tokens = one(lines["tokens"]).flatten().to_numpy()
    doc_ids = lines["doc_id"].to_pylist()

    placed: list[Placed] = []
    begin = 0
    for sequence, (first, last) in enumerate(packed(ends, config.max_length)):
        end = int(ends[last - 1])
        words = (STREAMS[TEXT].encode(), number.to_bytes(4, "little"), sequence.to_bytes(8, "little"))
        where = rank(config.seed, *words)
        row = Placed(
            part=shards if number == config.partitions else part(where, shards),
            stream=TEXT,
            rank=where,
            docs=b"".join(doc_ids[int(document[first]) : int(document[last - 1]) + 1]),
            row=text(tokens[begin:end]),
        )
        placed.append(row)
        begin = end
        work.count(f"{STREAMS[TEXT]}{SIDE}rows")
        if len(placed) == ROWS:
            yield "samples", _samples(placed, config.source)
            placed = []
    yield "samples", _samples(placed, config.source)


def _samples(placed: list[Placed], source: str) -> pa.Table:
    return samples(placed, pa.array([], pa.large_binary()), source)
