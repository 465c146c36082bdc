"""Pages with one address or one text, of this generation and of what was kept before: classes of equals.

A class is all rows of one (kind, key, check), so a million copies of a page cost a million rows and not 10^12 pairs.
Of the pages of one text one alone goes on to be compared with others: what is equal to it is as near as it is.
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

if TYPE_CHECKING:
    from engine.ledger import Commit

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
    tables = [work.partition("spread", "keys", part).select(schema.INDEX_KEYS.names)]
    keys = np.sort(column(tables[0], "key"))
    if not len(keys):
        return
    for commit in runs.live(work, part):
        rows = work.table(commit, "exact")
        tables.append(rows.filter(pa.array(within(column(rows, "key"), keys))))
    classes = _equals(pa.concat_tables([table.cast(schema.CLASSES) for table in tables]), work.generation.number)
    yield "classes", classes
    yield "twins", _twins(classes, work.generation.number)


def _equals(rows: pa.Table, generation: int) -> pa.Table:
    """The rows whose (kind, key, check) two pages have, one of this generation, in order of CLASSES."""
    keys = column(rows, "key")
    ordered = np.sort(keys)
    # most keys stand alone, so few rows are left to be sorted by all columns
    some = rows.filter(pa.array(within(keys, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))))
    kinds: npt.NDArray[np.uint8] = some["kind"].to_numpy()
    keys, checks, docs = (column(some, name) for name in ("key", "check", "doc"))
    order = np.lexsort((docs, checks, keys, kinds))
    kinds, keys, checks, docs = kinds[order], keys[order], checks[order], docs[order]
    starts = _starts(kinds, keys, checks)
    sizes = np.diff(np.append(starts, len(docs)))
    # docs of a class ascend, so its last one is of the latest generation
    wanted = (sizes > 1) & (generations(docs[starts + sizes - 1]) == np.uint64(generation))
    chosen = np.repeat(wanted, sizes)
    return pa.table([values[chosen] for values in (keys, checks, docs, kinds)], schema=schema.CLASSES)


def _twins(classes: pa.Table, generation: int) -> pa.Table:
    """The pages of this generation that are not the first of their text (kept ones of before come before them)."""
    texts = classes.filter(pa.array(classes["kind"].to_numpy() == TEXT))
    docs = column(texts, "doc")
    later = np.ones(len(docs), np.bool_)
    later[_starts(texts["kind"].to_numpy(), column(texts, "key"), column(texts, "check"))] = False
    twins = docs[later & (generations(docs) == np.uint64(generation))]
    return pa.table([blocks(twins), twins], schema=schema.TWINS)


def _starts(kinds: npt.NDArray[np.uint8], keys: Docs, checks: Docs) -> npt.NDArray[np.intp]:
    """Where the classes start in rows that are sorted by them."""
    first = np.ones(len(keys), np.bool_)
    first[1:] = (kinds[1:] != kinds[:-1]) | (keys[1:] != keys[:-1]) | (checks[1:] != checks[:-1])
    return np.flatnonzero(first)
