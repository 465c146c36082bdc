"""Images that stand in too many documents, by equal bytes or equal perceptual hash, over all generations so far.

An address is counted before the download (`select.frequency`); the same banner under a thousand addresses is only seen
here. What earlier generations published stays: their documents count, their images are not judged again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.errors import ConfigError
from engine.stage import Output, Unit, Work
from pipelines.dedupe import column, within
from pipelines.ids import blocks, first_of_runs
from pipelines.select import Cut

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (
    Output(name="counts", schema=schema.HASH_COUNTS, sort_by=("kind", "key", "check"), batch_rows=1 << 16),
    Output(name="images", schema=schema.REPEATED, partition_by="block", sort_by=("doc", "image")),
)
CARRIES = (("repeats", OUTPUTS),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """cut: the partitions of hashes. max_docs: documents that may show an image."""

    cut: Cut = field(default_factory=Cut)
    max_docs: int = 10  # OB, MI: images that appear more than ten times go

    def __post_init__(self) -> None:
        if self.max_docs < 1:
            raise ConfigError(f"assemble.max_docs is {self.max_docs}; set it to 1 or more")


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition of the hashes."""
    return [(str(part),) for part in range(config.cut.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Count the documents of each hash of one partition."""
    part = int(unit.inputs[0])
    rows = work.partition("match", "hashes", part)
    rows = rows.sort_by([(name, "ascending") for name in ("kind", "key", "check", "doc")])
    kinds, keys, checks, docs = (rows[name].to_numpy() for name in ("kind", "key", "check", "doc"))
    # an image twice in a document is in one document
    first = first_of_runs(kinds, keys, checks)
    group = np.cumsum(first) - 1
    new = first_of_runs(kinds, keys, checks, docs)
    counts = np.bincount(group[new], minlength=int(first.sum())).astype(np.uint32)
    columns = [keys[first], checks[first], kinds[first]]
    total = counts + _before(pa.table(columns, names=["key", "check", "kind"]), part, work)
    yield "counts", pa.table([*columns, total], schema=schema.HASH_COUNTS)

    over = total[group] > config.max_docs
    docs, images, shown = docs[over], rows["image"].to_numpy()[over], total[group][over]
    # an image whose two hashes are of this partition has one row, with the larger number
    order = np.lexsort((-shown.astype(np.int64), images, docs))
    docs, images, shown = docs[order], images[order], shown[order]
    once = first_of_runs(docs, images)
    docs, images, shown = docs[once], images[once], shown[once]
    yield "images", pa.table([blocks(docs), docs, images, shown], schema=schema.REPEATED)


def _before(hashes: pa.Table, part: int, work: Work) -> npt.NDArray[np.uint32]:
    """Documents of earlier generations for each hash (key, check, kind; each once); a later count holds."""
    found = np.zeros(hashes.num_rows, np.uint32)
    wanted = np.sort(column(hashes, "key"))
    place = np.arange(hashes.num_rows)
    for number in work.generation.earlier("repeats"):
        counts = work.partition("repeats", "counts", part, number)
        counts = counts.filter(pa.array(within(column(counts, "key"), wanted)))
        old = np.concatenate([np.ones(counts.num_rows, np.int8), np.zeros(len(place), np.int8)])
        both = [np.concatenate([counts[name].to_numpy(), hashes[name].to_numpy()]) for name in ("kind", "key", "check")]
        number_of = np.concatenate([np.arange(counts.num_rows), place])
        order = np.lexsort((old, both[2], both[1], both[0]))
        both, old, number_of = [values[order] for values in both], old[order], number_of[order]
        # each hash stands once on either side: what equals the row before it is its earlier count
        match = np.flatnonzero(~first_of_runs(*both))
        found[number_of[match - 1]] = counts["docs"].to_numpy()[number_of[match]]
    return found
