"""What is on record of each candidate's address: only those without an answer that holds are asked for.

The record is all that the fetch stage has published when this stage claims, whichever recipe asked. It stands after the
choice, not before: a changed choice is compared with the record of its own day, and asks for nothing twice. That an
address moved is an answer that holds: where to, another round asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine import schema
from engine.errors import ConfigError
from engine.stage import SIDE, Output, Unit, Work
from pipelines.ids import Ids, first_of_runs, ids
from pipelines.reasons import PASSING
from pipelines.select import Cut
from pipelines.select.frequency import among

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 2  # of the code that decides the bytes
OUTPUTS = (Output(name="urls", schema=schema.WANTED, partition_by="part", sort_by=("domain", "url_id")),)
ON_RECORD = 255  # tries of an address whose outcome holds, good or bad


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """max_tries: requests for an address that gives no answer that holds (lifecycle: three in all). domain_budget:
    decides nothing here; with another one, what the old one left out is compared with the record as it is by then."""

    cut: Cut = field(default_factory=Cut)
    max_tries: int = 3
    domain_budget: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.max_tries < ON_RECORD:
            raise ConfigError(f"select.choice.max_tries is {self.max_tries}; set it to 1-{ON_RECORD - 1}")


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition of the addresses."""
    return [(str(part),) for part in range(config.cut.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """The addresses of one partition that have to be asked for, each once, by partition of the domains."""
    part = int(unit.inputs[0])
    unique = candidates(part, work)
    tries, outcomes = on_record(ids(unique["url_id"]), part, work, "fetch")
    new = tries < config.max_tries
    work.count(f"image{SIDE}known", int((~new).sum()))
    work.count(f"image{SIDE}wanted_again", int((new & (tries > 0)).sum()))
    work.count(f"image{SIDE}wanted", int((tries == 0).sum()))
    wanted = unique.filter(pa.array(new))
    columns: list[Any] = [domain_parts(wanted["domain"].combine_chunks(), config.cut.domains)]
    columns += [wanted[name] for name in ("domain", "url_id", "url")]
    yield "urls", pa.table([*columns, tries[new], outcomes[new]], schema=schema.WANTED)


def candidates(part: int, work: Work) -> pa.Table:
    """The chosen addresses of one partition, each once, ascending by id: CANDIDATE_URLS without its partition."""
    chosen = work.partition("select", "urls", part)
    order = np.argsort(ids(chosen["url_id"]), kind="stable")
    return chosen.take(pa.array(order[first_of_runs(ids(chosen["url_id"])[order])]))


def on_record(unique: Ids, part: int, work: Work, stage: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """(how often each of the ascending addresses was asked for in vain in a recorded stage, or ON_RECORD; the outcomes
    that it has there, with those that are no try)."""
    tries, found = np.zeros(len(unique), np.uint8), np.zeros(len(unique), np.int64)
    passing = np.array(sorted(PASSING), np.uint16)
    for number in work.generation.earlier(stage) if len(unique) else ():
        outcomes = work.partition(stage, "outcomes", part, number)
        rows, places = among(ids(outcomes["url_id"]), unique)
        np.add.at(found, places, 1)
        asked = outcomes["tries"].to_numpy()[rows]
        holds = ~np.isin(outcomes["reason"].to_numpy()[rows], passing)
        np.maximum.at(tries, places, np.where(holds, np.uint8(ON_RECORD), np.minimum(asked, np.uint8(ON_RECORD - 1))))
    return tries, np.minimum(found, 255).astype(np.uint8)


def domain_parts(names: pa.Array, num: int) -> pa.Array:
    """The partition of each domain: the first bits of a hash, since names themselves gather at some letters."""
    encoded = names.dictionary_encode()
    bits = num.bit_length() - 1
    hashed = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in encoded.dictionary.to_pylist()]
    parts = [int.from_bytes(first, "big") >> (64 - bits) for first in hashed]
    return pa.array(parts, pa.uint16()).take(encoded.indices)
