"""Signatures to keyed rows, sorted by partition: one row for the address and one for the text of a page.

A page without an address key or without text has no row of that kind: all empty pages are not one page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.spread import with_parts
from engine.stage import Output, Unit, Work
from pipelines import dedupe
from pipelines.dedupe import TEXT, URL, Config, Docs, block_parts, one, pack
from pipelines.dedupe.rank import Ranks, ranks

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = dedupe.VERSION
COLUMNS = ("row", "doc_id", "url_key", "text_key", "words", "quality")

OUTPUTS = (
    Output(
        name="keys",
        schema=schema.SPREAD_KEYS,
        partition_by="part",
        sort_by=("key", "check", "doc", "kind"),
    ),
    Output(name="priorities", schema=schema.PRIORITIES, sort_by=("doc",), batch_rows=1 << 16),
)


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """(first ordinal, number of ordinals) of each block of this generation's signed units."""
    return block_parts(len(commits("sign")))


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Spread the rows of one block of signed units."""
    first, num = (int(text) for text in unit.inputs)
    for ordinal, commit in enumerate(work.commits("sign")[first : first + num], first):
        signatures = work.table(commit, "signatures", COLUMNS).combine_chunks()
        docs = pack(work.generation.number, ordinal, signatures["row"].to_numpy())
        priorities: list[Any] = [docs, signatures["quality"], signatures["words"], signatures["doc_id"]]
        yield "priorities", pa.table(priorities, schema=schema.PRIORITIES)
        ids = halves(signatures["doc_id"], ">u8")[:, 0]
        rank = ranks(signatures["quality"].to_numpy(), signatures["words"].to_numpy(), ids)
        keys = with_parts(keyed(signatures, docs, rank), "key", config.partitions)
        yield "keys", keys.cast(schema.SPREAD_KEYS)


def keyed(signatures: pa.Table, docs: Docs, ranked: Ranks) -> pa.Table:
    """All rows of SPREAD_KEYS of the signatures without their part, in no particular order."""
    keys, checks, owners, kinds, rows = [], [], [], [], []
    for kind, name in ((URL, "url_key"), (TEXT, "text_key")):
        values = halves(signatures[name], "<u8")
        present = values.any(axis=1)
        keys.append(values[present, 0])
        checks.append(values[present, 1])
        owners.append(docs[present])
        kinds.append(np.full(len(keys[-1]), kind, np.uint8))
        rows.append(ranked[present])
    columns = [np.concatenate(pieces) for pieces in (keys, checks, owners, kinds, rows)]
    return pa.table(columns, names=schema.SPREAD_KEYS.names[1:])


def halves(column: pa.ChunkedArray, order: str) -> npt.NDArray[np.uint64]:
    """(n, 2): 16-byte values as two numbers each, of byte order "<u8" or ">u8" (in which they compare as bytes do)."""
    array = one(column)
    first = array.offset * 16
    body = np.frombuffer(array.buffers()[1], np.uint8)[first : first + 16 * len(array)]
    return body.view(order).reshape(-1, 2).astype(np.uint64, copy=False)
