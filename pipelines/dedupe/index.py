"""The keyed rows of the pages that stay: what later generations are compared with. One sorted run a partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.stage import Output, Unit, Work
from pipelines.dedupe import Config, column, within

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (Output(name="keys", schema=schema.INDEX_KEYS, sort_by=("key", "check", "doc", "kind"), batch_rows=1 << 16),)


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition."""
    return [(str(part),) for part in range(config.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Keep the rows of one partition whose pages were not removed."""
    removed = [np.zeros(0, np.uint64)]
    for commit in work.commits("decide"):
        verdicts = work.table(commit, "verdicts", ("doc", "reason"))
        removed.append(column(verdicts.filter(pc.not_equal(verdicts["reason"], pa.scalar(0, pa.uint16()))), "doc"))
    rows = work.partition("spread", "keys", int(unit.inputs[0])).select(schema.INDEX_KEYS.names)
    gone = within(column(rows, "doc"), np.sort(np.concatenate(removed)))
    yield "keys", rows.filter(pa.array(~gone)).cast(schema.INDEX_KEYS)
