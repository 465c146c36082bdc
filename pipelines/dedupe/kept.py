"""The pages of a block that deduplication kept, a unit at a time: what the stages after it work on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.stage import Work
from pipelines.dedupe import BLOCK, Docs, column, pack, within

if TYPE_CHECKING:
    from engine.ledger import Commit


def kept(work: Work, first: int, num: int) -> Iterator[tuple[int, Commit, Docs, pa.Table]]:
    """(ordinal, commit of extract, docs of its kept pages ascending, their rows of signatures: row, doc_id) of each of
    `num` units from `first` on, which starts a block. The stage reads extract, sign and decide."""
    extracted = work.commits("extract")
    verdicts = work.partition("decide", "verdicts", first // BLOCK)
    removed = np.sort(column(verdicts, "doc")[verdicts["reason"].to_numpy() != 0])
    for ordinal, commit in enumerate(work.commits("sign")[first : first + num], first):
        signed = work.table(commit, "signatures", ("row", "doc_id"))
        docs = pack(work.generation.number, ordinal, signed["row"].to_numpy())
        stays = ~within(docs, removed)
        yield ordinal, extracted[ordinal], docs[stays], signed.filter(pa.array(stays))
