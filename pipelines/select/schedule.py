"""The units of the fetch stage: each wanted address once, and a domain never in two units that run at once.

A domain with more addresses than a unit may take has units of its own, in a lane named by it, one after the other. All
others share units; they need no lane, since a domain is whole in one unit and a unit runs once. So the unit that asks a
domain can pace it alone, without a word to any other unit. A unit is named by its addresses and by how many outcomes
each has on record (by their targets too, where they moved): a change upstream that ends in the same list finds it
answered, and who had no turn is not taken for who had one. What a domain's budget leaves out (module `budget`) is in no
unit.

What takes a domain's turns is requests: one an address, and in every unit one an origin (scheme, host, port), for its
robots.txt. A domain of many hosts with a picture each takes twice the turns of one host with them all. So a large
domain is cut by requests, and in order of its origins, lest the same robots.txt be asked for in each of its units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.stage import SIDE, Output, Unit, Work
from pipelines import select
from pipelines.dedupe import one
from pipelines.ids import ID_BYTES, Ids, first_of_runs, ids
from pipelines.select import Cut
from pipelines.select.budget import beyond

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 2  # of the code that decides the bytes
OUTPUTS = (
    Output(name="urls", schema=schema.FETCH_URLS, partition_by="batch", sort_by=("url_id",)),
    Output(name="units", schema=schema.FETCH_UNITS, sort_by=("batch",)),
)
ID_DIGITS = 24
ORIGIN = r"^(?P<scheme>[a-z]+)://(?P<host>[^/]*)"  # of a canonical address; the port is part of the host


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How the domains are partitioned, and what a unit may take. source: the stage that says what is wanted."""

    cut: Cut = field(default_factory=Cut)
    schedule: select.Schedule = field(default_factory=select.Schedule)
    source: str = "recall"


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A unit: consecutive rows of the addresses, those of large domains first, then by (domain, origin, id)."""

    start: int
    end: int
    lane: str
    domains: int
    largest: int  # requests of the largest of them


class Domain(NamedTuple):
    """large: whether it has more addresses, or more requests, than a unit can take of one domain."""

    name: str
    urls: int
    requests: int
    large: bool


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition of the domains."""
    return [(str(part),) for part in range(config.cut.domains)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Cut the wanted addresses of one partition of the domains into fetch units."""
    wanted = work.partition(config.source, "urls", int(unit.inputs[0]))
    if not wanted.num_rows:
        return
    names, domain = ranked(wanted["domain"])
    _, origin = ranked(origins(wanted["url"]))
    addresses = ids(wanted["url_id"])
    order = np.lexsort((addresses, domain))
    order = order[first_of_runs(addresses[order])]
    order = order[~beyond(domain[order], config.schedule.domain_budget)]
    # both sorts are stable: addresses of an origin stay in order of their ids
    order = order[np.lexsort((origin[order], domain[order]))]
    domains = loads(names.to_pylist(), domain[order], origin[order], config.schedule)
    # a lane takes long, so large domains come first
    small = ~np.array([each.large for each in domains])
    order = order[np.argsort(small[domain[order]], kind="stable")]
    batches = cut(domains, first_of_runs(domain[order], origin[order]), config.schedule)
    number = np.repeat(np.arange(len(batches), dtype=np.uint32), [batch.end - batch.start for batch in batches])
    chosen = wanted.take(pa.array(order))
    tries = chosen["tries"].to_numpy()
    columns: list[Any] = [number, chosen["url_id"], chosen["url"], chosen["domain"], tries]
    yield "urls", pa.table(columns, schema=schema.FETCH_URLS)
    yield "units", listed(batches, chosen, moved=config.source == "moved")
    work.count(f"addresses{SIDE}asked", len(order))
    work.count(f"addresses{SIDE}again", int((tries > 0).sum()))
    work.count(f"domains{SIDE}asked", len(domains))
    work.count(f"units{SIDE}shared", sum(not batch.lane for batch in batches))
    work.count(f"units{SIDE}large", sum(bool(batch.lane) for batch in batches))


def listed(batches: list[Batch], chosen: pa.Table, moved: bool) -> pa.Table:
    """FETCH_UNITS of the batches; chosen: their addresses (WANTED) in order."""
    addresses, outcomes = ids(chosen["url_id"]), chosen["outcomes"].to_numpy()
    # the same address may move to another place: that is another question
    urls = chosen["url"].to_pylist() if moved else []
    spans = [slice(batch.start, batch.end) for batch in batches]
    columns: list[Any] = [
        np.arange(len(batches), dtype=np.uint32),
        [unit_id(addresses[span], outcomes[span], urls[span]) for span in spans],
        [batch.lane for batch in batches],
        np.array([batch.end - batch.start for batch in batches], np.uint32),
        np.array([batch.domains for batch in batches], np.uint32),
        np.array([batch.largest for batch in batches], np.uint32),
    ]
    return pa.table(columns, schema=schema.FETCH_UNITS)


def origins(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """The origin of each canonical address as host[:port]/scheme, so that in order both schemes of a host are
    neighbours: the robots.txt of one mostly leads to that of the other, which is then not asked for."""
    parts = pc.extract_regex(urls, ORIGIN)
    scheme, host = (pc.fill_null(pc.struct_field(parts, name), "") for name in ("scheme", "host"))
    return pc.binary_join_element_wise(host, scheme, pa.scalar("/", host.type))


def ranked(names: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """(the distinct names in order, the number of each row's name among them)."""
    coded = one(names).dictionary_encode()
    by_name = pc.sort_indices(coded.dictionary)
    rank: npt.NDArray[np.int64] = np.argsort(by_name)[coded.indices.to_numpy()]
    return coded.dictionary.take(by_name), rank


def loads(
    names: list[str], domain: npt.NDArray[np.int64], origin: npt.NDArray[np.int64], schedule: select.Schedule
) -> list[Domain]:
    """What each domain asks for; the rows' numbers of domain and origin stand in order."""
    first = first_of_runs(domain, origin)
    urls = np.bincount(domain, minlength=len(names))
    requests = urls + np.bincount(domain[first], minlength=len(names))
    large = (urls > schedule.unit_urls) | (requests > most_at_once(schedule))
    return list(map(Domain, names, urls.tolist(), requests.tolist(), large.tolist()))


def most_at_once(schedule: select.Schedule) -> int:
    """Requests to one domain that a unit can take: at the domain's rate in its time, and no more than the addresses of
    a unit can cost. At least those of one address: its own and its robots.txt."""
    most = 2 * schedule.unit_urls
    return int(max(2, min(most, schedule.unit_s * schedule.rate))) if schedule.rate else most


def cut(domains: list[Domain], first: npt.NDArray[np.bool_], schedule: select.Schedule) -> list[Batch]:
    """The units over domains in order: first the large ones, in steps; then the others, several a unit. first: which
    rows begin an origin; those of large domains stand first."""
    batches = []
    start = 0
    for each in domains:
        if each.large:
            for num, requests in steps(first[start : start + each.urls], schedule):
                batches.append(Batch(start=start, end=start + num, lane=each.name, domains=1, largest=requests))
                start += num
    place = start
    inside: list[int] = []
    for each in domains:
        if not each.large:
            if inside and place + each.urls - start > schedule.unit_urls:
                batches.append(Batch(start=start, end=place, lane="", domains=len(inside), largest=max(inside)))
                start, inside = place, []
            place += each.urls
            inside.append(each.requests)
    if inside:
        batches.append(Batch(start=start, end=place, lane="", domains=len(inside), largest=max(inside)))
    return batches


def steps(first: npt.NDArray[np.bool_], schedule: select.Schedule) -> Iterator[tuple[int, int]]:
    """(addresses, requests) of each unit of a large domain, in order, each as full as it can be; first: which of the
    domain's rows begin an origin. An origin that does not end with a unit is asked for its robots.txt in the next."""
    spent = np.cumsum(1 + first)  # up to each row, its own included
    place = 0
    while place < len(first):
        before = int(spent[place]) - 2  # so that the unit's first row costs two, whether or not it begins an origin
        full = int(np.searchsorted(spent, before + most_at_once(schedule), side="right"))
        end = min(full, place + schedule.unit_urls)
        yield end - place, int(spent[end - 1]) - before
        place = end


def unit_id(addresses: Ids, outcomes: npt.NDArray[np.uint8], urls: Sequence[str] = ()) -> str:
    """The name of a fetch unit: sha256 over its (address id, one byte of outcomes) by id, first 24 digits. urls: where
    the addresses moved; then (address id, one byte of outcomes, sha256 of the target)."""
    order = np.argsort(addresses, kind="stable")
    rows = np.empty((len(order), ID_BYTES + 1), np.uint8)
    rows[:, :ID_BYTES] = np.ascontiguousarray(addresses[order]).view(np.uint8).reshape(-1, ID_BYTES)
    rows[:, ID_BYTES] = outcomes[order]
    if urls:
        targets = b"".join(hashlib.sha256(urls[place].encode()).digest() for place in order.tolist())
        rows = np.hstack([rows, np.frombuffer(targets, np.uint8).reshape(len(order), -1)])
    return hashlib.sha256(rows.tobytes()).hexdigest()[:ID_DIGITS]
