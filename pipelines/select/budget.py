"""What the budgets of domains leave out of a generation, in both rounds.

A domain with more wanted addresses than its budget has the first of them asked, by id: a hash, which favours no one.
The schedules leave out the same by the same rule. Their own keys hold the pace as well, on which no verdict may depend,
or a slower pace would judge every document anew: so those who tell why an address was not asked for read this stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.stage import SIDE, Output, Unit, Work
from pipelines.ids import arrow, first_of_runs, ids, partitions
from pipelines.reasons import Reason
from pipelines.select import Cut

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (Output(name="left", schema=schema.LEFT_OUT, partition_by="part", sort_by=("url_id",)),)
ROUNDS = ("recall", "moved")  # who says what is wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How addresses and domains are partitioned; domain_budget: addresses of one domain in one round of a generation
    (0: no bound)."""

    cut: Cut = field(default_factory=Cut)
    domain_budget: int = 0


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition of the domains."""
    return [(str(part),) for part in range(config.cut.domains)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """The addresses of one partition of the domains that are not asked for; a domain is whole in one partition."""
    for source in ROUNDS if config.domain_budget else ():
        wanted = work.partition(source, "urls", int(unit.inputs[0]))
        names = wanted["domain"].combine_chunks().dictionary_encode()
        domain, addresses = names.indices.to_numpy().astype(np.int64), ids(wanted["url_id"])
        order = np.lexsort((addresses, domain))
        order = order[first_of_runs(addresses[order])]
        over = order[beyond(domain[order], config.domain_budget)]
        work.count(f"addresses{SIDE}over_budget", len(over))
        work.count(f"domains{SIDE}over_budget", len(np.unique(domain[over])))
        columns: list[Any] = [
            partitions(addresses[over], config.cut.partitions),
            arrow(addresses[over]),
            np.full(len(over), Reason.DOMAIN_BUDGET, np.uint16),
            np.full(len(over), config.domain_budget, np.float32),
        ]
        yield "left", pa.table(columns, schema=schema.LEFT_OUT)


def beyond(domain: npt.NDArray[np.int64], budget: int) -> npt.NDArray[np.bool_]:
    """Which rows come after the first `budget` of their domain (0: no bound); domain: ascending numbers."""
    if not budget:
        return np.zeros(len(domain), np.bool_)
    place: npt.NDArray[np.int64] = np.arange(len(domain)) - np.searchsorted(domain, domain)
    return place >= budget
