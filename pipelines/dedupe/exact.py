"""Pages with one address or one text, of this generation and of what was kept before: classes of equals.

A class is all rows of one (kind, key, check), so a million copies of a page cost a million rows and not 10^12 pairs.
Of the pages of one text one alone goes on to be compared with others: what is equal to it is as near as it is. It is
the best of them by rank, so that it leads a large bucket where the page that is kept would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.stage import Output, Unit, Work
from pipelines import dedupe
from pipelines.dedupe import TEXT, Config, Docs, blocks, column, generations, index, runs, within
from pipelines.dedupe.rank import Ranks

if TYPE_CHECKING:
    from engine.ledger import Commit

Places = npt.NDArray[np.intp]
VERSION = dedupe.VERSION
OUTPUTS = (
    Output(name="classes", schema=schema.CLASSES, sort_by=("kind", "key", "check", "doc"), batch_rows=1 << 16),
    Output(name="twins", schema=schema.TWINS, partition_by="block", sort_by=("doc",)),
)
CARRIES = (("index", index.OUTPUTS),)


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition."""
    return [(str(part),) for part in range(config.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Class the rows of one partition: this generation's, and the kept pages' of before that have such a key."""
    part = int(unit.inputs[0])
    tables = [work.partition("spread", "keys", part).select([*schema.INDEX_KEYS.names, "rank"])]
    keys = np.sort(column(tables[0], "key"))
    if not len(keys):
        return
    for commit in runs.live(work, part):
        rows = work.table(commit, "exact")
        rows = rows.filter(pa.array(within(column(rows, "key"), keys)))
        tables.append(rows.append_column(schema.RANK, pa.array(np.zeros(rows.num_rows, np.uint32))))
    rows = pa.concat_tables([table.cast(pa.schema([*schema.INDEX_KEYS, schema.RANK])) for table in tables])
    classes = _equals(rows, work.generation.number)
    yield "classes", classes
    texts = (classes["kind"].to_numpy() == TEXT) & ~classes["stands"].to_numpy(zero_copy_only=False)
    docs = column(classes, "doc")[texts]
    twins = docs[generations(docs) == np.uint64(work.generation.number)]
    yield "twins", pa.table([blocks(twins), twins], schema=schema.TWINS)


def _equals(rows: pa.Table, generation: int) -> pa.Table:
    """The rows (INDEX_KEYS and RANK) whose (kind, key, check) two pages have, one of this generation: CLASSES."""
    keys = column(rows, "key")
    ordered = np.sort(keys)
    # most keys stand alone, so few rows are left to be sorted by all columns
    some = rows.filter(pa.array(within(keys, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))))
    kinds: npt.NDArray[np.uint8] = some["kind"].to_numpy()
    keys, checks, docs = (column(some, name) for name in ("key", "check", "doc"))
    order = np.lexsort((docs, checks, keys, kinds))
    kinds, keys, checks, docs = kinds[order], keys[order], checks[order], docs[order]
    ranks = some["rank"].to_numpy()[order]
    starts = _starts(kinds, keys, checks)
    sizes = np.diff(np.append(starts, len(docs)))
    # docs of a class ascend, so its last one is of the latest generation
    wanted = (sizes > 1) & (generations(docs[starts + sizes - 1]) == np.uint64(generation))
    chosen = np.repeat(wanted, sizes)
    stands = _stands(ranks, docs, starts, sizes, generation) & (kinds == TEXT)
    return pa.table([values[chosen] for values in (keys, checks, docs, kinds, stands)], schema=schema.CLASSES)


def _stands(ranks: Ranks, docs: Docs, starts: Places, sizes: Places, generation: int) -> npt.NDArray[np.bool_]:
    """Whether a page is the first by (rank, doc) of its class, and no page of before is in it."""
    number = np.repeat(np.arange(len(starts)), sizes)
    best = np.lexsort((docs, ranks, number))[starts]
    # docs of a class ascend: were one of before in it, it would be the first
    best = best[generations(docs[starts]) == np.uint64(generation)]
    stands = np.zeros(len(docs), np.bool_)
    stands[best] = True
    return stands


def _starts(kinds: npt.NDArray[np.uint8], keys: Docs, checks: Docs) -> Places:
    """Where the classes start in rows that are sorted by them."""
    first = np.ones(len(keys), np.bool_)
    first[1:] = (kinds[1:] != kinds[:-1]) | (keys[1:] != keys[:-1]) | (checks[1:] != checks[:-1])
    return np.flatnonzero(first)
