"""A sample of the images that were refused, over all reasons, with the JPEG where one is stored.

Every reason has one image before any has two. Blocks are read whole, two small tables each, so no more than eight of
them, and others only for the reasons that none of these has.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.arrow import read_batch
from engine.errors import StoreError
from engine.ledger import Commit
from engine.stage import Place, Work
from pipelines import ids
from pipelines.assemble.match import OUTPUTS, mixed
from pipelines.dedupe import BLOCK, MAX_ORDINAL, MAX_ROW
from pipelines.images import FORMATS
from pipelines.reasons import Reason
from pipelines.sheet.frozen import Block, Frozen
from pipelines.urls import canonical, url_id

BLOCKS = 8
REFUSED = ("doc", "image", "reason", "value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """A refused image. key: what the order of the sample is by. asked: whether it was a candidate."""

    key: int
    doc: int
    image: int
    reason: Reason
    value: float
    asked: bool
    block: Block


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """A refused image with what its page says of it. body: the JPEG, b"" if none is stored. width .. num_bytes: of what
    the server gave, 0 or "" if unknown."""

    reason: Reason
    value: float
    image: dict[str, Any]  # as in DOCUMENTS.images
    page: dict[str, Any]  # of DOCUMENTS: url, title, lang, fetched_at
    body: bytes = b""
    width: int = 0
    height: int = 0
    num_bytes: int = 0
    format: str = ""


def sample(found: Frozen, num: int, seed: int) -> list[Reject]:
    """`num` refused images, or all if there are fewer, by reasons; the same for the same seed."""
    by_reason: dict[Reason, list[Pick]] = {}
    for block in _blocks(found, seed) if num else ():
        for reason, picks in _picked(found, block, num, seed).items():
            best = sorted((*by_reason.get(reason, ()), *picks), key=lambda pick: pick.key)
            by_reason[reason] = best[:num]
    picks = dealt(by_reason, num)
    return [_reject(found, pick) for pick in sorted(picks, key=lambda pick: (pick.reason, pick.key))]


def dealt(by_reason: dict[Reason, list[Pick]], num: int) -> list[Pick]:
    """One of each reason, then a second of each that has one, and so on."""
    found: list[Pick] = []
    depth = 0
    while len(found) < num and any(depth < len(picks) for picks in by_reason.values()):
        found += [by_reason[reason][depth] for reason in sorted(by_reason) if depth < len(by_reason[reason])]
        depth += 1
    return found[:num]


def _blocks(found: Frozen, seed: int) -> list[Block]:
    """Some blocks at random, and one more for each reason that is in none of them."""
    order = list(found.blocks)
    random.Random(f"sheet {seed}").shuffle(order)
    if len(order) <= BLOCKS:
        return order
    words: dict[str, set[str]] = {}
    for name in ("assemble", "select"):
        key = found.recipe.stage(name).key
        for block in order:
            unit = block.commit.unit if name == "assemble" else _unit(found, "select", block).unit
            words.setdefault(block.commit.unit, set()).update(found.ledger.commit(key, unit).counts)
    taken, seen = order[:BLOCKS], set[str]()
    for block in taken:
        seen |= words[block.commit.unit]
    for block in order[BLOCKS:]:
        if words[block.commit.unit] - seen:
            taken.append(block)
            seen |= words[block.commit.unit]
    return taken


def _unit(found: Frozen, name: str, block: Block) -> Commit:
    """The commit of the same block of an earlier stage."""
    work = found.selecting(block.generation) if name == "refer" else found.works[block.generation]
    (commit,) = (commit for commit in work.commits(name) if int(commit.unit.rpartition("-")[2]) == block.number)
    return commit


def _picked(found: Frozen, block: Block, num: int, seed: int) -> dict[Reason, list[Pick]]:
    """`num` images of each reason of one block."""
    work = found.works[block.generation]
    fates = work.table(block.commit, "fates", REFUSED)
    tables = [
        fates.filter(pc.not_equal(fates["reason"], pa.scalar(0, pa.uint16()))),
        *(work.table(_unit(found, name, block), "refused", REFUSED) for name in ("select", "refer")),
    ]
    asked = np.repeat([True, False], [tables[0].num_rows, tables[1].num_rows + tables[2].num_rows])
    docs, images, reasons, values = (np.concatenate([table[name].to_numpy() for table in tables]) for name in REFUSED)
    keys = _keys(docs, images, seed)
    picks: dict[Reason, list[Pick]] = {}
    for number in np.unique(reasons).tolist():
        rows = np.flatnonzero(reasons == number)
        rows = rows[np.argsort(keys[rows], kind="stable")[:num]]
        picks[Reason(number)] = [
            Pick(
                key=int(keys[row]),
                doc=int(docs[row]),
                image=int(images[row]),
                reason=Reason(number),
                value=float(values[row]),
                asked=bool(asked[row]),
                block=block,
            )
            for row in rows.tolist()
        ]
    return picks


def _keys(docs: npt.NDArray[np.uint64], images: npt.NDArray[np.int16], seed: int) -> npt.NDArray[np.uint64]:
    """A number for each image that depends on nothing but the seed and what it is."""
    salt = np.uint64(seed % (1 << 64))
    return mixed(mixed(mixed(docs.astype(np.uint64)) ^ salt) ^ images.astype(np.uint64))


def _reject(found: Frozen, pick: Pick) -> Reject:
    work = found.works[pick.block.generation]
    page = _page(work, pick.doc)
    image = page["images"][pick.image]
    told = {name: page[name] for name in ("url", "title", "lang", "fetched_at")}
    known = _matched(work, pick, image["url"]) if pick.asked else {}
    if not known:
        return Reject(reason=pick.reason, value=pick.value, image=image, page=told)
    return Reject(
        reason=pick.reason,
        value=pick.value,
        image=image,
        page=told,
        body=_body(work, known),
        width=known["width"],
        height=known["height"],
        num_bytes=known["num_bytes"],
        format=FORMATS[known["format"]],
    )


def _page(work: Work, doc: int) -> dict[str, Any]:
    """The row of DOCUMENTS of a page: its unit's record batches ascend by row."""
    commit = work.commits("extract")[doc >> 24 & MAX_ORDINAL - 1]
    files = commit.outputs["documents"]
    batches = [(number, batch) for number, file in enumerate(files) for batch in file.batches]
    wanted, low, high = doc & MAX_ROW - 1, 0, len(batches)
    while low < high:
        middle = (low + high) // 2
        number, batch = batches[middle]
        (message,) = work.pieces([Place(commit, "documents", number, batch.offset, batch.length)])
        table = read_batch(schema.DOCUMENTS, message, files[number].path)
        rows = table.column("row").to_numpy()
        at = int(np.searchsorted(rows, wanted))
        if at < len(rows) and rows[at] == wanted:
            found: dict[str, Any] = table.slice(at, 1).to_pylist()[0]
            return found
        low, high = (middle + 1, high) if at == len(rows) else (low, middle)
    raise StoreError(f"page {doc} is not among the documents of unit {commit.unit}; run `kosmos verify`")


def _matched(work: Work, pick: Pick, url: str) -> dict[str, Any]:
    """The row of MATCHED of a candidate; {} if there is none."""
    if not canonical(url):
        return {}
    commits = work.commits("match")
    (declared,) = (output for output in OUTPUTS if output.name == "images")
    part = int(ids.partitions(ids.ids(pa.array([url_id(url)], pa.binary(ids.ID_BYTES))), len(commits))[0])
    block = (pick.doc >> 24 & MAX_ORDINAL - 1) // BLOCK
    table = work.part(commits[part], declared, block)
    mine = pc.and_(pc.equal(table["doc"], pa.scalar(pick.doc, pa.uint64())), pc.equal(table["image"], pick.image))
    rows: list[dict[str, Any]] = table.filter(mine).to_pylist()
    return rows[0] if rows else {}


def _body(work: Work, known: dict[str, Any]) -> bytes:
    """The stored JPEG of a row of MATCHED; b"" if none is."""
    if not known["length"]:
        return b""
    commits = work.commits("follow" if known["followed"] else "fetch", known["generation"])
    place = Place(commits[known["unit"]], "images", known["file"], known["offset"], known["length"])
    return work.pieces([place])[0]
