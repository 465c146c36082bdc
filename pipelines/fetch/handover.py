"""What a unit of a lane leaves to the next one: how long its domain asks to be left alone, and whether it answers.

Units of a lane run one after the other, wherever they run, so each finds what the last one wrote. Without that a server
that says "in an hour" would be asked again by every unit of its lane.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.stage import Unit, Work

if TYPE_CHECKING:
    from engine.ledger import Commit


@dataclass(frozen=True, slots=True)
class Rest:
    """until: seconds since 1970, when the domain may be asked again. unanswered: its last requests in a row."""

    until: float = 0.0
    unanswered: int = 0

    @property
    def left_s(self) -> float:
        """Seconds from now on."""
        return max(0.0, self.until - time.time())


def found(unit: Unit, listing: Commit, work: Work) -> Rest:
    """What the last committed unit of the lane before this one has left; nothing for a unit without a lane.

    listing: the commit of `schedule` that lists the unit.
    """
    if not unit.lane:
        return Rest()
    units = work.table(listing, "units", ("batch", "unit", "lane"))
    lane = units.filter(pc.equal(units["lane"], unit.lane)).sort_by([("batch", "descending")])
    batch = int(unit.inputs[2])
    for row in lane.filter(pc.less(lane["batch"], batch)).to_pylist():
        commit = work.committed(row["unit"])
        if commit is not None:
            for left in work.table(commit, "rests").to_pylist():
                return Rest(left["until"].timestamp(), left["unanswered"])
            return Rest()
    return Rest()


def table(rest: Rest) -> pa.Table:
    """schema.RESTS, a row if there is anything to tell."""
    told = rest.unanswered > 0 or rest.until > time.time()
    columns = [
        pa.array([round(rest.until * 1000)] if told else [], schema.RESTS.field("until").type),
        pa.array([rest.unanswered] if told else [], schema.RESTS.field("unanswered").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema.RESTS)
