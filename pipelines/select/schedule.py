"""The units of the fetch stage: each wanted address once, and a domain never in two units that run at once.

A domain with more addresses than a unit may take has units of its own, in a lane named by it, one after the other. All
others share units; they need no lane, since a domain is whole in one unit and a unit runs once. So the unit that asks a
domain can pace it alone, without a word to any other unit. A unit is named by its addresses and by how often each was
asked for before: a change upstream that ends in the same list finds it answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.stage import SIDE, Output, Unit, Work
from pipelines import select
from pipelines.ids import ID_BYTES, Ids, first_of_runs, ids
from pipelines.select import Cut

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 1  # of the code that decides the bytes
OUTPUTS = (
    Output(name="urls", schema=schema.FETCH_URLS, partition_by="batch", sort_by=("url_id",)),
    Output(name="units", schema=schema.FETCH_UNITS, sort_by=("batch",)),
)
ID_DIGITS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How the domains are partitioned, and what a unit may take."""

    cut: Cut = field(default_factory=Cut)
    schedule: select.Schedule = field(default_factory=select.Schedule)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A unit: consecutive rows of the addresses, those of large domains first, then by (domain, id)."""

    start: int
    end: int
    lane: str
    domains: int


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition of the domains."""
    return [(str(part),) for part in range(config.cut.domains)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Cut the wanted addresses of one partition of the domains into fetch units."""
    wanted = work.partition("recall", "urls", int(unit.inputs[0]))
    if not wanted.num_rows:
        return
    names = wanted["domain"].combine_chunks().dictionary_encode()
    by_name = pc.sort_indices(names.dictionary)
    domains = names.dictionary.take(by_name).to_pylist()
    domain = np.argsort(by_name)[names.indices.to_numpy()]
    addresses = ids(wanted["url_id"])
    order = np.lexsort((addresses, domain))
    order = order[first_of_runs(addresses[order])]
    sizes = np.bincount(domain[order], minlength=len(domains))
    # a lane takes long, so large domains come first
    small = sizes <= most_at_once(config.schedule)
    order = order[np.argsort(small[domain[order]], kind="stable")]
    addresses, tries = addresses[order], wanted["tries"].to_numpy()[order]
    batches = cut(list(zip(domains, sizes.tolist(), strict=True)), config.schedule)
    number = np.repeat(np.arange(len(batches), dtype=np.uint32), [batch.end - batch.start for batch in batches])
    chosen = wanted.take(pa.array(order))
    columns: list[Any] = [number, chosen["url_id"], chosen["url"], chosen["domain"], tries]
    yield "urls", pa.table(columns, schema=schema.FETCH_URLS)
    units: list[Any] = [
        np.arange(len(batches), dtype=np.uint32),
        [unit_id(addresses[batch.start : batch.end], tries[batch.start : batch.end]) for batch in batches],
        [batch.lane for batch in batches],
        np.array([batch.end - batch.start for batch in batches], np.uint32),
        np.array([batch.domains for batch in batches], np.uint32),
    ]
    yield "units", pa.table(units, schema=schema.FETCH_UNITS)
    work.count(f"addresses{SIDE}asked", len(order))
    work.count(f"addresses{SIDE}again", int((tries > 0).sum()))
    work.count(f"domains{SIDE}asked", len(domains))
    work.count(f"units{SIDE}shared", sum(not batch.lane for batch in batches))
    work.count(f"units{SIDE}large", sum(bool(batch.lane) for batch in batches))


def most_at_once(schedule: select.Schedule) -> int:
    """Addresses of one domain that a unit can take, by number and, at the domain's rate, by time; at least 1."""
    if not schedule.rate:
        return schedule.unit_urls
    return max(1, min(schedule.unit_urls, int(schedule.unit_s * schedule.rate)))


def cut(domains: list[tuple[str, int]], schedule: select.Schedule) -> list[Batch]:
    """The units over (domain, number of addresses): first the large ones, in steps; then the others, several a unit."""
    most = most_at_once(schedule)
    batches = []
    place = 0
    for name, size in domains:
        if size > most:
            for end in [*range(place + most, place + size, most), place + size]:
                batches.append(Batch(start=place, end=end, lane=name, domains=1))
                place = end
    start, inside = place, 0
    for _, size in domains:
        if size <= most:
            if inside and place + size - start > schedule.unit_urls:
                batches.append(Batch(start=start, end=place, lane="", domains=inside))
                start, inside = place, 0
            place += size
            inside += 1
    if inside:
        batches.append(Batch(start=start, end=place, lane="", domains=inside))
    return batches


def unit_id(addresses: Ids, tries: npt.NDArray[np.uint8]) -> str:
    """The name of a fetch unit: sha256 over its (address id, one byte of tries) by id, first 24 digits."""
    order = np.argsort(addresses, kind="stable")
    rows = np.empty((len(order), ID_BYTES + 1), np.uint8)
    rows[:, :ID_BYTES] = np.ascontiguousarray(addresses[order]).view(np.uint8).reshape(-1, ID_BYTES)
    rows[:, ID_BYTES] = tries[order]
    return hashlib.sha256(rows.tobytes()).hexdigest()[:ID_DIGITS]
