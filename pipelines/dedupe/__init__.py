"""Deduplication: exact, then near and verified, greedy by priority, incremental.

A page goes if and only if a page of higher priority that is kept has its address, its text, or a text at a Jaccard
similarity of 5-grams of `threshold` or more, as far as their sketches meet (at .8 with probability .985). Priority is
(earlier generation, higher quality, more words, smaller doc_id), so what is published is never judged again, and
generations that come one by one give the verdicts of a single run with the same priorities, however rows were
partitioned or ordered.

    spread  a block of signed units   -> rows by address and by text; the priority of every page
    exact   a partition of them       -> classes of pages with one address or one text; who stands for its text
    bands   a block                   -> band keys of the pages that stand for their text, by partition
    group   a partition               -> pairs that share a band, among them and with the kept of before
    verify  a block                   -> those that are alike enough: by sketch, near the threshold by counting
    decide  all                       -> a verdict for every page that is linked to another
    index   a partition               -> the keys of the kept pages, which the next generation meets
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import ConfigError
from engine.schema import SLOTS
from engine.spread import check_partitions

Docs = npt.NDArray[np.uint64]

VERSION = 2  # of the code of all these stages: group reads what index made of decide in an earlier generation

# What links two pages, in the order in which it names a reason.
URL, TEXT, NEAR = KINDS = (0, 1, 2)

# doc = generation 16 bits | ordinal of the signed unit in that generation 24 | row of the page in its unit 24.
GENERATION_SHIFT = np.uint64(48)
ORDINAL_SHIFT = np.uint64(24)
MAX_ORDINAL = MAX_ROW = 1 << 24
MAX_GENERATION = 1 << 16
BLOCK = 256  # consecutive ordinals: what one spread unit reads


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One for all stages of this folder: what decides a verdict decides what later generations meet.

    threshold: Jaccard similarity of word 5-grams from which two pages are near duplicates. margin: an estimate further
    than this from the threshold is believed, else 5-grams are counted. verify: off, every pair that shares a band is
    one. components: on, of all pages that are connected one stays (of what was published, all), which removes pages
    that no kept page is like. partitions: of the key space, a power of two: one unit each of exact, group and index.
    max_pairs_bucket: all pages of a bucket up to this size are compared with each other; in a larger one all with its
    first `leaders` of before and of this generation by priority, which is counted as overflow: only there a verdict may
    depend on what came when. num_slots: of the sketches, sign's bands x rows.
    """

    threshold: float = 0.8
    margin: float = 0.08
    verify: bool = True
    components: bool = False
    partitions: int = 256
    max_pairs_bucket: int = 64
    leaders: int = 64
    num_slots: int = 126

    def __post_init__(self) -> None:
        check_partitions(self.partitions)
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"dedupe.threshold is {self.threshold}; set it to more than 0 and up to 1")
        if not 0 <= self.margin <= 1:
            raise ConfigError(f"dedupe.margin is {self.margin}; set it to 0-1")
        if not 2 <= self.max_pairs_bucket <= 4096:
            raise ConfigError(f"dedupe.max_pairs_bucket is {self.max_pairs_bucket}; set it to 2-4096")
        if not 1 <= self.num_slots <= SLOTS:
            raise ConfigError(f"dedupe.num_slots is {self.num_slots}; set it to sign.bands x sign.rows, 1-{SLOTS}")
        if not 1 <= self.leaders <= 4096:
            raise ConfigError(f"dedupe.leaders is {self.leaders}; set it to 1-4096")


def fineweb() -> Config:
    """FineWeb's: one page of each connected component of unverified band collisions; wants sign's bands at 14 x 8."""
    return Config(verify=False, components=True, num_slots=112)


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
