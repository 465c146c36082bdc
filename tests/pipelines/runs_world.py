"""Band rows as the commits of `bands` and of `index` hold them, and batches and fences small enough to meet many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from engine import schema
from engine.spread import with_parts
from engine.stage import Unit
from pipelines import dedupe
from pipelines.dedupe import index, radix, streams
from tests import offline
from tests.offline import OfflineCommit, OfflineWork, collect

Row = tuple[int, int, int]  # key, doc, rank


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Several record batches, pieces and fences for a few rows."""
    patch.setattr(offline, "BATCH_ROWS", 5)
    patch.setattr(streams, "PIECE_ROWS", 3)
    patch.setattr(streams, "AT_ONCE_ROWS", 8)
    patch.setattr(index, "FENCE_ROWS", 2)


def rows(found: Sequence[Row]) -> radix.Rows:
    """The rows as arrays."""
    keys, docs, ranks = zip(*found, strict=True) if found else ((), (), ())
    return radix.Rows(np.array(keys, np.uint64), np.array(docs, np.uint64), np.array(ranks, np.uint32))


def band_commit(found: Sequence[Row], partitions: int) -> OfflineCommit:
    """A commit of `bands`, of pages of one block."""
    made = rows(sorted(found))
    blocks = {doc >> 32 & 0xFFFF for doc in made.docs.tolist()} or {0}
    assert len({doc >> 32 for doc in made.docs.tolist()}) <= 1
    table = pa.table([made.keys, made.docs.astype(np.uint32), made.ranks], names=["key", "page", "rank"])
    keys = with_parts(table, "key", partitions).cast(schema.BAND_KEYS)
    keys = keys.sort_by([(name, "ascending") for name in ("part", "key", "page")])
    return OfflineCommit({"keys": keys}, unit=f"{'b' * 12}-{blocks.pop():06d}")


def key_commit(found: Sequence[tuple[int, int, int, int]], partitions: int, unit: str) -> OfflineCommit:
    """A commit of `spread`, of (key, check, doc, kind)."""
    columns = list(zip(*found, strict=True)) if found else [()] * 4
    arrays = [np.array(c, kind) for c, kind in zip(columns, (np.uint64,) * 3 + (np.uint8,), strict=True)]
    table = pa.table(arrays, schema=schema.INDEX_KEYS)
    table = table.append_column(schema.RANK, pa.array(np.zeros(len(found), np.uint32)))
    keys = with_parts(table, "key", partitions).cast(schema.SPREAD_KEYS)
    keys = keys.sort_by([(name, "ascending") for name in ("part", "key", "check", "doc", "kind")])
    return OfflineCommit({"keys": keys}, unit=unit)


def decided(removed: Sequence[int] = (), stand_ins: Sequence[tuple[int, int]] = ()) -> OfflineCommit:
    """A commit of `decide`: pages that go, and (page, the kept one whose text it has)."""
    names = schema.STAND_INS.names
    found = [dict(zip(names, pair, strict=True)) for pair in sorted(stand_ins)]
    tables = {
        "gone": pa.Table.from_pylist([{"doc": doc} for doc in sorted(removed)], schema=schema.GONE),
        "stand_ins": pa.Table.from_pylist(found, schema=schema.STAND_INS),
    }
    return OfflineCommit(tables)


def run_of(found: Sequence[Row], part: int, partitions: int) -> OfflineCommit:
    """The run of a partition that `index` writes of these rows in a first generation, when all are kept."""
    assert all(doc >> 48 == 1 for _, doc, _ in found)
    blocks = [[row for row in found if row[1] >> 32 == block] for block in sorted({doc >> 32 for _, doc, _ in found})]
    unit = Unit(id=f"{'0' * 12}-{part:06d}", inputs=(str(part),), generation=1)
    frozen = {
        ("bands", 0): [band_commit(rows, partitions) for rows in blocks],
        ("spread", 0): [key_commit([], partitions, "s")],
        ("decide", 0): [decided()],
    }
    generation = SimpleNamespace(number=1, earlier=lambda name: ())
    work = OfflineWork(unit=unit, scratch=Path(), frozen=frozen, generation=generation)
    config = dedupe.Config(partitions=partitions)
    return OfflineCommit(collect(index.process, config, work, index.OUTPUTS), dict(work.counts), unit.id)
