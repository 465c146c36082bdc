"""Deduplication, greedy by priority and incremental: spread, group, decide, index.

A page goes if and only if it shares a key with a page of higher priority that is kept. Priority is (earlier generation,
higher quality, more words, smaller doc_id), so what is published is never judged again, and generations that come one
by one give the verdicts of a single run with the same priorities, however rows were partitioned or ordered.

    spread  a block of signed units   -> keyed rows by partition; the priority of every page
    group   a partition               -> pairs and large buckets of pages that share a key, with the kept of before
    decide  all                       -> a verdict for every page that shares a key
    index   a partition               -> the keyed rows of the kept pages, which the next generation meets
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import ConfigError
from engine.spread import check_partitions

Docs = npt.NDArray[np.uint64]

# What two pages share: kinds of keys, in the order in which they name a reason.
KINDS = (0, 1, 2)
URL, TEXT, BAND = KINDS

# doc = generation 16 bits | ordinal of the signed unit in that generation 24 | row of the page in its unit 24.
GENERATION_SHIFT = np.uint64(48)
ORDINAL_SHIFT = np.uint64(24)
MAX_ORDINAL = MAX_ROW = 1 << 24
MAX_GENERATION = 1 << 16
BLOCK = 256  # consecutive ordinals: what one spread unit reads


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """partitions: of the key space, a power of two: one group and one index unit each. max_pairs_bucket: a bucket of
    more pages is passed on whole instead of as pairs; it moves cost, never a verdict."""

    partitions: int = 256
    max_pairs_bucket: int = 64

    def __post_init__(self) -> None:
        check_partitions(self.partitions)
        if not 2 <= self.max_pairs_bucket <= 4096:
            raise ConfigError(f"dedupe.max_pairs_bucket is {self.max_pairs_bucket}; set it to 2-4096")


def pack(generation: int, ordinal: int, rows: npt.NDArray[np.uint32]) -> Docs:
    """The doc numbers of rows of one unit; ConfigError where a number outgrows its bits."""
    if not 0 < generation < MAX_GENERATION or not 0 <= ordinal < MAX_ORDINAL:
        raise ConfigError(f"generation {generation}, unit {ordinal}: over 65,535 or 16,777,215; start a new store")
    if len(rows) and int(rows.max()) >= MAX_ROW:
        raise ConfigError(f"a unit of {int(rows.max())} pages: cut its input into files of fewer than {MAX_ROW} pages")
    return np.uint64(generation << 48 | ordinal << 24) | rows.astype(np.uint64)


def generations(docs: Docs) -> Docs:
    """The generation of each page."""
    return docs >> GENERATION_SHIFT


def blocks(docs: Docs) -> npt.NDArray[np.uint16]:
    """The block of each page: 256 consecutive ordinals of the units of its generation."""
    ordinals = (docs >> ORDINAL_SHIFT) & np.uint64(MAX_ORDINAL - 1)
    return (ordinals // np.uint64(BLOCK)).astype(np.uint16)


def block_parts(num_units: int) -> list[tuple[str, ...]]:
    """(first ordinal, number of ordinals) of each block of a generation's units: the inputs of a unit a block."""
    return [(str(first), str(min(BLOCK, num_units - first))) for first in range(0, num_units, BLOCK)]


def one(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays([*column.chunks, pa.array([], column.type)])


def column(table: pa.Table, name: str) -> npt.NDArray[np.uint64]:
    """A uint64 column as one array."""
    values: npt.NDArray[np.uint64] = table[name].to_numpy()
    return values


def within(values: Docs, ordered: Docs) -> npt.NDArray[np.bool_]:
    """Which values stand in an ascending array (numpy's isin would sort both)."""
    if not len(ordered):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[places] == values
    return found
