"""A key for every text item of the pages that dedupe kept: equal keys are equal paragraphs of one site.

Both kinds of page count, those without images too. Text goes from Arrow's buffer to keys without a Python object an
item, a few megabytes at a time over the table of one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from engine import schema
from engine.errors import ConfigError
from engine.spread import check_partitions, with_parts
from engine.stage import SIDE, Output, Unit, Work
from pipelines import normalise, paragraphs
from pipelines.dedupe import Docs, block_parts, pack
from pipelines.dedupe.kept import kept
from pipelines.kernel import compiled
from pipelines.paragraphs.site import site, version
from pipelines.sketch import SHIFT, mix

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes: the counts of earlier generations are of the same keys
OUTPUTS = (
    Output(
        name="paragraphs",
        schema=schema.PARAGRAPHS,
        partition_by="part",
        sort_by=("key", "doc", "item"),
        batch_rows=1 << 16,
    ),
)
COLUMNS = ("row", "host", "items")
BATCH_ROWS = 1024  # pages: some megabytes of text at a time

# All of these are typed: int64 mixed with uint64 would turn to float64 without a word.
STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no byte is forgotten: 2^64 / golden ratio

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What decides the keys, as in `paragraphs.Config`.

    table, suffixes: the Unicode table and the public suffix list; they name what is installed and cannot be chosen.
    """

    min_words: int = 8
    exempt: tuple[str, ...] = ("figcaption",)
    partitions: int = 256
    table: str = normalise.TABLE_DIGEST
    suffixes: str = field(default_factory=version)

    def __post_init__(self) -> None:
        check_partitions(self.partitions)
        paragraphs.check_items(self.min_words, self.exempt)
        if (self.table, self.suffixes) != (normalise.TABLE_DIGEST, version()):
            raise ConfigError("paragraphs.table and paragraphs.suffixes name what is installed; leave them out")


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """(first ordinal, number of ordinals) of each block of this generation's units: those of dedupe.spread."""
    return block_parts(len(commits("extract")))


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Collect the paragraphs of one block of units, a unit at a time."""
    first, num = (int(text) for text in unit.inputs)
    for ordinal, commit, _, signed in kept(work, first, num):
        for name in ("documents", "texts"):
            pages = work.table(commit, name, COLUMNS)
            own = pages.filter(pc.is_in(pages["row"], signed["row"].combine_chunks()))
            for batch in own.to_batches(max_chunksize=BATCH_ROWS):
                owners = pack(work.generation.number, ordinal, batch["row"].to_numpy())
                table = collected(batch, owners, config)
                work.count(f"paragraph{SIDE}seen", table.num_rows)
                yield "paragraphs", with_parts(table, "key", config.partitions).cast(schema.PARAGRAPHS)


def collected(pages: pa.RecordBatch, docs: Docs, config: Config) -> pa.Table:
    """PARAGRAPHS without its partition: items of pages with COLUMNS that are looked at, in order; docs: of the pages.

    A text that a page has twice has two rows.
    """
    flat = pages["items"].flatten()
    lengths = pc.list_value_length(pages["items"]).to_numpy(zero_copy_only=False).astype(np.int64)
    exempt = pc.is_in(flat.field("block"), pa.array(config.exempt, schema.TEXT))
    wanted = pc.and_(pc.equal(flat.field("kind"), "text"), pc.invert(exempt))
    at = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
    text = normalise.normalise(flat.field("text").filter(wanted))
    hosts = pages["host"].dictionary_encode()
    seeds = np.array([_seed(host) for host in hosts.dictionary.to_pylist()], np.uint64)
    page = np.repeat(np.arange(len(lengths)), lengths)[at]
    keys = keyed(text, seeds[hosts.indices.to_numpy()][page])
    item = at - (np.cumsum(lengths) - lengths)[page]
    long = text.words >= config.min_words
    columns = [keys[long], docs[page[long]], item[long].astype(np.uint32)]
    return pa.table(columns, schema=schema.PARAGRAPHS.remove(0))


def keyed(text: normalise.Normalised, seeds: Docs) -> Docs:
    """A 64-bit hash of each text with its seed."""
    keys = np.zeros(len(seeds), np.uint64)
    _keyed(text.data, text.offsets, seeds, keys)
    return keys


def _seed(host: str) -> int:
    return xxhash.xxh3_64_intdigest(site(host).encode())


@compiled
def _keyed(data: npt.NDArray[np.uint8], offsets: Places, seeds: Docs, keys: Docs) -> None:
    # Eight bytes at a time, the last ones with zeros after them; the length tells those from bytes that are zero.
    for d in range(len(keys)):
        value = seeds[d]
        place, stop = offsets[d], offsets[d + 1]
        length = np.uint64(stop - place)
        while place < stop:
            word = np.uint64(0)
            for i in range(min(8, stop - place)):
                word |= np.uint64(data[place + i]) << np.uint64(8 * i)
            value = (value ^ word) * STEP
            value ^= value >> SHIFT
            place += 8
        keys[d] = mix(value ^ length)
