"""Candidates whose address moved to another operator: asked there in a second round, in that operator's turns.

What comes of it stands under the address that the page gave, so whoever looks for that finds both answers in one
partition: fetch's, that it moved, and follow's. Whose the new place is is asked anew: a record may be older than the
list of suffixes that all of today's requests are paced by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.errors import StoreError
from engine.stage import SIDE, Output, Unit, Work
from pipelines import urls
from pipelines.ids import Ids, ids
from pipelines.reasons import PASSING, Reason
from pipelines.select import domains
from pipelines.select.frequency import among
from pipelines.select.recall import Config, candidates, domain_parts, on_record

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (Output(name="urls", schema=schema.WANTED, partition_by="part", sort_by=("domain", "url_id")),)


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition of the addresses."""
    return [(str(part),) for part in range(config.cut.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """The moved addresses of one partition that have to be asked for at their new place."""
    part = int(unit.inputs[0])
    chosen = candidates(part, work)
    gone, targets = targets_of(ids(chosen["url_id"]), part, work)
    chosen = chosen.take(pa.array(gone))
    tries, outcomes = on_record(ids(chosen["url_id"]), part, work, "follow")
    new = tries < config.max_tries
    work.count(f"image{SIDE}moved", len(gone))
    work.count(f"image{SIDE}known", int((~new).sum()))
    work.count(f"image{SIDE}wanted_again", int((new & (tries > 0)).sum()))
    mask = pa.array(new)
    wanted, targets = chosen.filter(mask), targets.filter(mask)
    names = pa.array([domains.key(urls.host(url)) for url in targets["url"].to_pylist()], pa.large_string())
    columns: list[Any] = [domain_parts(names, config.cut.domains), names, wanted["url_id"], targets["url"]]
    yield "urls", pa.table([*columns, tries[new], outcomes[new]], schema=schema.WANTED)


def targets_of(unique: Ids, part: int, work: Work) -> tuple[npt.NDArray[np.int64], pa.Table]:
    """(which of the ascending addresses moved and have no other answer that holds, where to: their url).

    Where an address moved twice, the later one counts. StoreError for a move without a target.
    """
    passing = np.array(sorted(PASSING), np.uint16)
    answered = np.zeros(len(unique), np.bool_)
    target = np.full(len(unique), -1, np.int64)  # row of all moves
    moves = [pa.schema([schema.MOVES.field("url")]).empty_table()]
    before = 0
    for number in work.generation.earlier("fetch") if len(unique) else ():
        outcomes = work.partition("fetch", "outcomes", part, number)
        rows, places = among(ids(outcomes["url_id"]), unique)
        reasons = outcomes["reason"].to_numpy()[rows]
        moved = reasons == int(Reason.MOVED)
        answered[places[~moved & ~np.isin(reasons, passing)]] = True
        if not moved.any():
            continue
        found = work.partition("fetch", "moves", part, number)
        rows, where = among(ids(found["url_id"]), unique)
        if not np.isin(places[moved], where).all():
            raise StoreError(f"fetch generation {number} says that addresses moved, and not where; run `kosmos verify`")
        target[where] = before + rows
        moves.append(found.select(["url"]).cast(moves[0].schema))
        before += found.num_rows
    gone = np.flatnonzero((target >= 0) & ~answered)
    return gone, pa.concat_tables(moves).take(pa.array(target[gone]))
