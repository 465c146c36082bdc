"""Band keys of the pages that stand for their text, by partition: what is looked at for near duplicates.

A page without text has no band. 18 bands a page are the largest table of the chain: 18 bytes a row before compression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.spread import with_parts
from engine.stage import Output, Unit, Work
from pipelines import dedupe
from pipelines.dedupe import BLOCK, Config, block_parts, column, one, pack, within

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = dedupe.VERSION
COLUMNS = ("row", "words", "quality", "bands")
OUTPUTS = (Output(name="keys", schema=schema.BAND_KEYS, partition_by="part", sort_by=("key", "doc")),)


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """(first ordinal, number of ordinals) of each block of this generation's signed units."""
    return block_parts(len(commits("sign")))


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Spread the band keys of one block of signed units, twins left out."""
    first, num = (int(text) for text in unit.inputs)
    twins = np.sort(column(work.partition("exact", "twins", first // BLOCK), "doc"))
    for ordinal, commit in enumerate(work.commits("sign")[first : first + num], first):
        signatures = work.table(commit, "signatures", COLUMNS).combine_chunks()
        docs = pack(work.generation.number, ordinal, signatures["row"].to_numpy())
        bands = one(signatures["bands"]).flatten().to_numpy().reshape(-1, schema.BANDS)
        present = (bands != 0) & ~within(docs, twins)[:, None]
        each = present.sum(axis=1)
        ranks = rank(signatures["quality"].to_numpy(), signatures["words"].to_numpy())
        rows = pa.table([bands[present], np.repeat(docs, each), np.repeat(ranks, each)], schema=schema.INDEX_BANDS)
        yield "keys", with_parts(rows, "key", config.partitions).cast(schema.BAND_KEYS)


def rank(quality: npt.NDArray[np.uint16], words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    """Priority in 16 bits, smaller is better: 255 - quality, then 255 - the eighths of an octave of words; 0 over 255.

    Of two pages the one that goes first by (-quality, -words) never has the larger rank.
    """
    # the exponent and the top 3 bits of a double's mantissa: a logarithm that every machine rounds alike
    octaves = ((words.astype(np.float64) + 1).view(np.uint64) >> np.uint64(49)) - np.uint64(1023 << 3)
    best = np.uint16(255)
    short = best - np.minimum(octaves, np.uint64(255)).astype(np.uint16)
    short[quality > best] = 0
    ranks: npt.NDArray[np.uint16] = (best - np.minimum(quality, best)) << np.uint16(8) | short
    return ranks
