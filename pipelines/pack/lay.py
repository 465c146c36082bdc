"""Text rows of one partition of document order: whole lines, document after document, until a row is full.

A document goes on in the next row where the last one ended; only a partition's last row is short. Partitions are cut by
a hash of the document and not by files, so the same documents give the same rows however they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.arrow import take
from engine.stage import SIDE, Unit, Work
from engine.vocab import STREAMS
from pipelines.dedupe import one
from pipelines.pack import num_shards, part, rank
from pipelines.pack.layout import Placed, Tokens, packed, samples, text
from pipelines.pack.tokenise import LINES, SAMPLES, TEXT

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (SAMPLES,)
DOCUMENTS = 4096  # taken into order at once: it never shows in the bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What of pack.Config decides the text rows."""

    seed: int = 0
    max_length: int = 2048
    partitions: int = 512
    shard_bytes: int = 256 << 20
    source: str = "commoncrawl"


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition, and a last one for what is held out."""
    return [(str(number),) for number in range(config.partitions + 1)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Lay out one partition."""
    number = int(unit.inputs[0])
    shards = num_shards(work.commits("assemble"), config.shard_bytes)
    lines = work.partition("tokenise", "lines", number)
    keys = [(name, "ascending") for name in LINES.sort_by]
    order = pc.sort_indices(lines.select(LINES.sort_by), sort_keys=keys).to_numpy().astype(np.int64)
    batches = lines.to_batches()
    rest = Lines.none()
    sequence = 0
    for start in range(0, len(order), DOCUMENTS):
        rest = rest.then(Lines.of(take(batches, order[start : start + DOCUMENTS])))
        spans = list(packed(rest.ends, config.max_length))
        if start + DOCUMENTS < len(order):
            spans, last = spans[:-1], spans[-1][0]  # what comes may still fit into the last row
        else:
            last = len(rest.ends)
        placed = []
        for first, end in spans:
            words = (STREAMS[TEXT].encode(), number.to_bytes(4, "little"), sequence.to_bytes(8, "little"))
            where = rank(config.seed, *words)
            shard = shards if number == config.partitions else part(where, shards)
            docs, tokens = rest.between(first, end)
            placed.append(Placed(part=shard, stream=TEXT, rank=where, docs=docs, row=text(tokens)))
            sequence += 1
        yield "samples", samples(placed, pa.array([], pa.large_binary()), config.source)
        rest = rest.behind(last)
    work.count(f"{STREAMS[TEXT]}{SIDE}rows", sequence)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """Lines in order: their tokens one after another, the end of each in them, the document of each in doc_ids."""

    tokens: Tokens
    ends: npt.NDArray[np.int64]
    document: npt.NDArray[np.int64]
    doc_ids: tuple[bytes, ...]

    @staticmethod
    def none() -> Lines:
        """No lines."""
        nothing = np.zeros(0, np.int64)
        return Lines(tokens=np.zeros(0, np.int32), ends=nothing, document=nothing, doc_ids=())

    @staticmethod
    def of(table: pa.Table) -> Lines:
        """All lines of rows of LINES."""
        tokens, ends = one(table["tokens"]), one(table["ends"])
        document = np.repeat(np.arange(len(table)), ends.value_lengths().to_numpy())
        before = np.concatenate([[0], np.cumsum(tokens.value_lengths().to_numpy())]).astype(np.int64)
        return Lines(
            tokens=tokens.flatten().to_numpy(),
            ends=ends.flatten().to_numpy() + before[document],
            document=document,
            doc_ids=tuple(table["doc_id"].to_pylist()),
        )

    def then(self, more: Lines) -> Lines:
        """These and more."""
        return Lines(
            tokens=np.concatenate([self.tokens, more.tokens]),
            ends=np.concatenate([self.ends, more.ends + len(self.tokens)]),
            document=np.concatenate([self.document, more.document + len(self.doc_ids)]),
            doc_ids=self.doc_ids + more.doc_ids,
        )

    def between(self, first: int, last: int) -> tuple[bytes, Tokens]:
        """(ids of the documents, tokens) of lines first .. last - 1."""
        begin = int(self.ends[first - 1]) if first else 0
        docs = self.doc_ids[int(self.document[first]) : int(self.document[last - 1]) + 1]
        return b"".join(docs), self.tokens[begin : int(self.ends[last - 1])]

    def behind(self, first: int) -> Lines:
        """The lines from `first` on."""
        if first == len(self.ends):
            return Lines.none()
        begin, document = int(self.ends[first - 1]) if first else 0, int(self.document[first])
        return Lines(
            tokens=self.tokens[begin:],
            ends=self.ends[first:] - begin,
            document=self.document[first:] - document,
            doc_ids=self.doc_ids[document:],
        )
