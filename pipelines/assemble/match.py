"""Candidates to what became of them: the outcome on record, the image gate, and where the JPEG lies.

An address may have several outcomes, since what passes is asked again in later generations: the latest one that is for
good holds, however many attempts failed around it, and the latest of all where none is. One that moved to another
operator has what was found there, once it was asked there. Whoever has none was not asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.errors import StoreError
from engine.spread import with_parts
from engine.stage import SIDE, Output, Unit, Work
from pipelines.dedupe import Docs, column
from pipelines.ids import Ids, blocks, first_of_runs, ids
from pipelines.images import Gate, evaluation, judge
from pipelines.reasons import PASSING, Reason, tally
from pipelines.select import Cut
from pipelines.select.frequency import among

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 2  # of the code that decides the bytes
OUTPUTS = (
    Output(name="images", schema=schema.MATCHED, partition_by="block", sort_by=("doc", "image")),
    Output(
        name="hashes",
        schema=schema.HASHES,
        partition_by="part",
        sort_by=("kind", "key", "check", "doc", "image"),
    ),
    Output(name="leaks", schema=schema.IMAGE_LEAKS, sort_by=("doc", "image", "set")),
)
SHA256, PHASH = 0, 1  # kinds of hashes
# Which outcome of an address holds: the highest. Fetch asks at the address, follow at where it moved to; no outcome of
# one has an order with one of the other but this.
PASSED, MOVED, FOLLOW_PASSED, FOLLOWED, ANSWERED = range(5)
MEASURES = [f.name for f in schema.MEASURES]
NO_OUTCOME = pa.table(
    [
        pa.array([{"reason": int(Reason.NOT_ASKED), "row": -1, "sha256": bytes(32)}.get(f.name, 0)], f.type)
        for f in schema.OUTCOMES
        if f.name in (*MEASURES, "tries", "row")
    ],
    schema=pa.schema([f for f in schema.OUTCOMES if f.name in (*MEASURES, "tries", "row")]),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """cut: the partitions of addresses, which are the fetch stage's, and of hashes. gate: what an image must be.
    evaluation: which it must not be, as resolved."""

    cut: Cut = field(default_factory=Cut)
    gate: Gate = field(default_factory=Gate)
    evaluation: evaluation.Config = field(default_factory=evaluation.Config)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Outcomes of a partition's addresses. Row i of `outcomes` is about address `address[i]`; its image, if there is
    one, lies in unit `unit[i]` of generation `generation[i]` of fetch, or of follow where `followed[i]`. The last row
    stands for addresses without an outcome."""

    outcomes: pa.Table
    address: npt.NDArray[np.int64]
    followed: npt.NDArray[np.bool_]
    generation: npt.NDArray[np.uint16]
    unit: npt.NDArray[np.uint32]


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """One unit a partition of the addresses."""
    return [(str(part),) for part in range(config.cut.partitions)]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Match the candidates of one address partition."""
    part = int(unit.inputs[0])
    choices = work.partition("select", "choices", part)
    wanted, address = np.unique(ids(choices["url_id"]), return_inverse=True)
    record = recorded(wanted, part, work)
    chosen = latest(record, len(wanted))
    file, offset, length = _places(record, chosen, work)
    rows = chosen[address]
    docs = column(choices, "doc")
    columns: dict[str, Any] = {
        "block": blocks(docs),
        **{name: choices[name] for name in ("doc", "image", "url_id", "url_docs")},
        **{name: record.outcomes[name].take(pa.array(rows)) for name in MEASURES},
        "followed": record.followed[rows],
        "generation": record.generation[rows],
        "unit": record.unit[rows],
        "file": file[address],
        "offset": offset[address],
        "length": length[address],
    }
    reasons, values = left_out(record, chosen, wanted, work.partition("budget", "left", part))
    columns |= {"reason": reasons[address], "value": values[address]}
    reasons, values = judge(pa.table({name: columns[name] for name in MEASURES}), config.gate)
    columns |= {"reason": reasons, "value": values}
    images = pa.table([columns[name] for name in schema.MATCHED.names], schema=schema.MATCHED)
    images, leaks = evaluation.contaminated(images, config.evaluation)
    for word, num in tally(images["reason"].to_numpy()):
        work.count(f"image{SIDE}{word}", num)
    yield "images", images
    yield "leaks", leaks
    yield "hashes", with_parts(keyed(images), "key", config.cut.partitions).cast(schema.HASHES)


def recorded(wanted: Ids, part: int, work: Work) -> Record:
    """All outcomes of the addresses (ascending, each once), over every generation of the fetch and follow stages."""
    from pipelines.fetch import OUTPUTS as FETCHED

    (declared,) = (output for output in FETCHED if output.name == "outcomes")
    tables, address, followed, generation, units = [], [], [], [], []
    asked = [(name, number) for name in ("fetch", "follow") for number in work.generation.earlier(name)]
    for name, number in asked if len(wanted) else ():
        for ordinal, outcomes in enumerate(work.each_part(work.commits(name, number), declared, part)):
            rows, places = among(ids(outcomes["url_id"]), wanted)
            if len(rows):
                tables.append(outcomes.select(NO_OUTCOME.schema.names).take(pa.array(rows)))
                address.append(places)
                followed.append(np.full(len(rows), name == "follow"))
                generation.append(np.full(len(rows), number, np.uint16))
                units.append(np.full(len(rows), ordinal, np.uint32))
    tables = [table.cast(NO_OUTCOME.schema) for table in (*tables, NO_OUTCOME)]
    return Record(
        outcomes=pa.concat_tables(tables).combine_chunks(),
        address=np.concatenate([*address, [len(wanted)]]).astype(np.int64),
        followed=np.concatenate([*followed, [False]]),
        generation=np.concatenate([*generation, [0]]).astype(np.uint16),
        unit=np.concatenate([*units, [0]]).astype(np.uint32),
    )


def latest(record: Record, num: int) -> npt.NDArray[np.int64]:
    """The row of `record` that holds for each of `num` addresses."""
    reasons = record.outcomes["reason"].to_numpy()
    passing = np.isin(reasons, np.array(sorted(PASSING), np.uint16))
    fetched = np.where(passing, PASSED, np.where(reasons == int(Reason.MOVED), MOVED, ANSWERED))
    holds = np.where(record.followed, np.where(passing, FOLLOW_PASSED, FOLLOWED), fetched)
    tries = record.outcomes["tries"].to_numpy()
    order = np.lexsort((record.unit, tries, record.generation, holds, record.address))
    # the row without an address comes last
    order = order[:-1]
    ordered = record.address[order]
    last = first_of_runs(ordered[::-1])[::-1]
    chosen = np.full(num, len(record.address) - 1, np.int64)
    chosen[ordered[last]] = order[last]
    return chosen


def left_out(
    record: Record, chosen: npt.NDArray[np.int64], wanted: Ids, left: pa.Table
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """(reason, value) of each address: that of LEFT_OUT where nothing is on record, or only that it moved."""
    reasons = record.outcomes["reason"].to_numpy()[chosen]
    values = record.outcomes["value"].to_numpy()[chosen]
    unknown = (reasons == int(Reason.NOT_ASKED)) | (reasons == int(Reason.MOVED)) & ~record.followed[chosen]
    rows, places = among(ids(left["url_id"]), wanted)
    rows, places = rows[unknown[places]], places[unknown[places]]
    reasons[places] = left["reason"].to_numpy()[rows]
    values[places] = left["value"].to_numpy()[rows]
    return reasons, values


def keyed(images: pa.Table) -> pa.Table:
    """The hashes of the images (MATCHED) that passed, in no particular order: HASHES without its partition.

    A perceptual hash of 0 says that there is none, and images without one are not alike.
    """
    passed = images.filter(pc.equal(images["reason"], pa.scalar(0, pa.uint16())))
    docs, index = column(passed, "doc"), passed["image"].to_numpy()
    halves = ids(passed["sha256"]).view(">u8").reshape(-1, 4)[:, :2].astype(np.uint64)
    looks = column(passed, "phash")
    seen = looks != 0
    columns = [
        np.concatenate([halves[:, 0], mixed(looks[seen])]),
        np.concatenate([halves[:, 1], np.zeros(int(seen.sum()), np.uint64)]),
        np.repeat(np.array([SHA256, PHASH], np.uint8), [len(docs), int(seen.sum())]),
        np.concatenate([docs, docs[seen]]),
        np.concatenate([index, index[seen]]),
    ]
    return pa.table(columns, schema=schema.HASHES.remove(0))


def mixed(values: Docs) -> Docs:
    """SplitMix64's finaliser: one to one, and spreads what differs in a few bits over all of them."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def fetched(
    followed: npt.NDArray[np.bool_], generation: npt.NDArray[np.uint16], work: Work
) -> dict[tuple[bool, int], list[Commit]]:
    """The commits of each generation of fetch, or of follow, that images lie in."""
    sources = sorted(set(zip(followed.tolist(), generation.tolist(), strict=True)))
    return {(there, number): work.commits("follow" if there else "fetch", number) for there, number in sources}


def _places(
    record: Record, chosen: npt.NDArray[np.int64], work: Work
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """(file, offset, length) of the JPEG of each address; zeros where there is none."""
    file = np.zeros(len(chosen), np.uint16)
    offset = np.zeros(len(chosen), np.uint64)
    length = np.zeros(len(chosen), np.uint32)
    at = np.flatnonzero(record.outcomes["reason"].to_numpy()[chosen] == int(Reason.KEPT))
    followed, generation = record.followed[chosen[at]], record.generation[chosen[at]]
    unit, row = record.unit[chosen[at]], record.outcomes["row"].to_numpy()[chosen[at]]
    order = np.lexsort((row, unit, generation, followed))
    at, followed, generation, unit, row = at[order], followed[order], generation[order], unit[order], row[order]
    starts = np.flatnonzero(first_of_runs(followed, generation, unit))
    commits = fetched(followed, generation, work)
    runs = list(itertools.pairwise([*starts.tolist(), len(at)])) if len(at) else []
    # outcomes of a partition and images are both sorted by address, so its images stand together: a range a commit
    wanted = []
    for start, end in runs:
        first, last = int(row[start]), int(row[end - 1])
        source = (bool(followed[start]), int(generation[start]))
        if first < 0:
            name = "follow" if source[0] else "fetch"
            raise StoreError(f"an image of {name} generation {source[1]} has no row; run `kosmos verify`")
        wanted.append((commits[source][int(unit[start])], first, last - first + 1))
    for (start, end), found in zip(runs, work.offsets("images", wanted), strict=True):
        own, rows = at[start:end], row[start:end] - row[start]
        file[own] = found["file"].to_numpy()[rows]
        offset[own] = found["offset"].to_numpy()[rows]
        length[own] = found["length"].to_numpy()[rows]
    return file, offset, length
