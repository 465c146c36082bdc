"""The runs of the index that together hold every page kept in earlier generations.

A run is what `index` wrote for one partition in one generation: the kept pages of that generation and of those before
it whose runs it merged. How many generations it holds is how many rows its output "generations" has: a frozen commit
carries files and rows and no counts, so it is known without a read. At most LIVE runs are live at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import StoreError

if TYPE_CHECKING:
    from engine.ledger import Commit
    from engine.stage import Work

LIVE = 8  # runs that a reader meets at most


def live(work: Work, part: int) -> list[Commit]:
    """The commits of the runs that together hold all earlier generations of a partition, newest first.

    StoreError if the index lacks the partition or a run says it holds more than there is.
    """
    numbers = list(reversed(work.generation.earlier("index")))
    found = []
    while numbers:
        own = [commit for commit in work.commits("index", numbers[0]) if commit.unit.endswith(f"-{part:06d}")]
        held = own[0].rows("generations") if len(own) == 1 else 0
        if not 1 <= held <= len(numbers):
            raise StoreError(
                f"generation {numbers[0]} of the index has {len(own)} runs of partition {part}, the last of {held} "
                f"generations where 1 to {len(numbers)} would do; run `kosmos verify`"
            )
        found.append(own[0])
        numbers = numbers[held:]
    return found


def merged(rows: list[int], own: int) -> int:
    """How many of the newest live runs, by their rows, a new run of `own` rows takes in.

    Size-tiered: each run that is no more than twice what there is so far, so a row is copied O(log n) times; and as
    many as must be for LIVE runs to remain.
    """
    num = 0
    while num < len(rows) and (rows[num] <= 2 * own or len(rows) - num >= LIVE):
        own += rows[num]
        num += 1
    return num
