"""Band keys of the pages that stand for their text, by partition: what is looked at for near duplicates.

A page without text has no band. 18 bands a page are the largest table of the chain, 288 bytes a page: a file holds the
rows of one block, so 32 bits tell its pages. It is not compressed, for then a range of rows is a range of bytes, and
half of it are hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.errors import StoreError
from engine.spread import with_parts
from engine.stage import Output, Unit, Work
from pipelines import dedupe
from pipelines.dedupe import BLOCK, MAX_ORDINAL, Config, Docs, block_parts, column, one, pack, within
from pipelines.dedupe.rank import ranks
from pipelines.dedupe.spread import halves
from pipelines.dedupe.streams import Streams

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = dedupe.VERSION
COLUMNS = ("row", "doc_id", "words", "quality", "bands")
KEYS = Output(name="keys", schema=schema.BAND_KEYS, partition_by="part", sort_by=("key", "page"), compression=None)
OUTPUTS = (KEYS,)


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
        ids = halves(signatures["doc_id"], ">u8")[:, 0]
        ranked = ranks(signatures["quality"].to_numpy(), signatures["words"].to_numpy(), ids)
        columns = [bands[present], np.repeat(pages(docs), each), np.repeat(ranked, each)]
        table = pa.table(columns, names=["key", "page", "rank"])
        yield "keys", with_parts(table, "key", config.partitions).cast(schema.BAND_KEYS)


def pages(docs: Docs) -> npt.NDArray[np.uint32]:
    """What tells a page from the others of its block: the low 8 bits of its unit's ordinal, and its row."""
    return docs.astype(np.uint32)


def rows(work: Work, part: int, least: int) -> Streams:
    """This generation's rows of a partition as INDEX_BANDS; StoreError if a commit is of no block."""
    commits = work.commits("bands")
    return Streams(work, KEYS, commits, part, least, [_first(work.generation.number, commit) for commit in commits])


def _first(generation: int, commit: Commit) -> int:
    """The doc of page 0 of a commit: of a frozen one the unit's id is all that tells its block."""
    number = commit.unit.rpartition("-")[2]
    if not number.isdecimal() or int(number) >= MAX_ORDINAL // BLOCK:
        raise StoreError(f"{commit.unit} of bands is no unit of a block; run `kosmos verify`")
    return generation << 48 | int(number) * BLOCK << 24
