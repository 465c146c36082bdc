"""Image references of kept pages, and the address rules: what can be refused by an address and its declared size.

A page with two images or more is known by the set of them, too: by a hash over their ascending ids, so that order,
captions and what the rules refused make no difference.

Rules look at the path by whole tokens: runs of ASCII letters and digits, case-folded, so that /Essex/ stays and /sex/
goes; at the name of a file, and at the labels of the host. In a canonical address every letter and digit stands
unescaped, so an escape only ever separates tokens, and one regular expression a rule does for all addresses without
decoding any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from engine import schema
from engine.errors import ConfigError
from engine.spread import with_parts
from engine.stage import SIDE, Output, Unit, Work
from pipelines.dedupe import Docs, block_parts, pack, within
from pipelines.dedupe.kept import kept
from pipelines.dedupe.rank import Ranks, ranks
from pipelines.dedupe.spread import halves
from pipelines.ids import ID_BYTES, Ids, arrow, first_of_runs, ids, partitions
from pipelines.reasons import Reason, tally
from pipelines.select import Cut, Rules

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 3  # of the code that decides the bytes
OUTPUTS = (
    Output(name="references", schema=schema.REFERENCE_KEYS, partition_by="part", sort_by=("url_id", "doc", "image")),
    Output(name="pages", schema=schema.PAGES, sort_by=("doc",), batch_rows=1 << 16),
    Output(name="refused", schema=schema.REFUSED, sort_by=("doc", "image"), batch_rows=1 << 16),
    Output(name="sets", schema=schema.IMAGE_SETS, partition_by="part", sort_by=("key", "check", "doc")),
)
COLUMNS = ("row", "image", "url_id", "url", "width", "height")
# Images that make a page known by its set of them: many a text is illustrated by the same one. Of 25 pages of the real
# crawl that go by 2, 23 showed nothing but arrows and bullets of their site, and 2 were the same manual page again; 3
# would take those 2 alone.
MIN_SET = 2
TOKEN = re.compile(r"[a-z0-9]+")
PATH = r"^[a-z]+://[^/?]*/"
# what ends a token before another: an escape is one border, and its two digits are no part of a token
BORDER = r"(?:[^?]*(?:[^A-Za-z0-9%?]|%[0-9A-Fa-f]{2}))?"
DRAWING = PATH + r"(?i:[^?]*\.svgz?)(?:\?|$)"

Images = npt.NDArray[np.int16]
Reasons = npt.NDArray[np.uint16]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How the addresses are partitioned, and which are refused."""

    cut: Cut = field(default_factory=Cut)
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        rules = self.rules
        for word in (*rules.blocked, *rules.adult, *rules.folders, *rules.symbols, *rules.hosts):
            if not TOKEN.fullmatch(word.lower()):
                raise ConfigError(f"select.rules: {word!r} is no token and matches nothing; use ASCII letters, digits")


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """(first ordinal, number of ordinals) of each block of this generation's units: those of dedupe.spread."""
    return block_parts(len(commits("extract")))


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Judge the image references of one block of units, a unit at a time."""
    first, num = (int(text) for text in unit.inputs)
    signatures = work.commits("sign")
    for ordinal, commit, docs, signed in kept(work, first, num):
        table = work.table(commit, "references", COLUMNS)
        owners = pack(work.generation.number, ordinal, table["row"].to_numpy())
        own = within(owners, docs)
        table, owners = table.filter(pa.array(own)), owners[own]
        images: Images = table["image"].to_numpy()
        addresses = ids(table["url_id"])
        reasons, values = refuse(table, config.rules)
        passing = reasons == 0
        passing[passing] = shown_first(owners[passing], addresses[passing], images[passing])
        reasons[(reasons == 0) & ~passing] = Reason.IMAGE_TWICE
        for word, many in tally(reasons[~passing]):
            work.count(f"image{SIDE}{word}", many)
        work.count(f"image{SIDE}passing", int(passing.sum()))
        keys: list[Any] = [partitions(addresses[passing], config.cut.partitions), arrow(addresses[passing])]
        yield "references", pa.table([*keys, owners[passing], images[passing]], schema=schema.REFERENCE_KEYS)
        totals: list[Any] = [_per_page(docs, owners), _per_page(docs, owners[passing])]
        # a row of scores a page, in order of rows
        scores = work.table(commit, "scores", ("row", "interspersed")).sort_by("row")
        prose = scores["interspersed"].to_numpy(zero_copy_only=False).astype(np.bool_)[signed["row"].to_numpy()]
        yield "pages", pa.table([docs, signed["doc_id"], *totals, prose], schema=schema.PAGES)
        rank = _ranks(work.table(signatures[ordinal], "signatures", ("row", "doc_id", "quality", "words")), signed)
        known = prose & (totals[1] >= MIN_SET)
        sets = image_sets(docs[known], owners[passing], addresses[passing])
        told: list[Any] = [rank[known], signed["doc_id"].filter(pa.array(known)), totals[1][known].astype(np.int16)]
        table = pa.table([*sets, docs[known], *told], names=schema.IMAGE_SETS.names[1:])
        yield "sets", with_parts(table, "key", config.cut.partitions).cast(schema.IMAGE_SETS)
        columns: list[Any] = [rows[~passing] for rows in (owners, images, reasons, values)]
        yield "refused", pa.table(columns, schema=schema.REFUSED)


def refuse(references: pa.Table, rules: Rules) -> tuple[Reasons, Values]:
    """(first rule that each reference fails or 0, smaller declared side where that decides) over url, width, height."""
    reasons = np.zeros(references.num_rows, np.uint16)
    values = np.zeros(references.num_rows, np.float32)
    for reason, pattern in (
        (Reason.IMAGE_DRAWING, DRAWING),
        (Reason.IMAGE_ADULT, with_token(rules.adult)),
        (Reason.IMAGE_BLOCKED, with_token(rules.blocked)),
        (Reason.IMAGE_BLOCKED, with_folder(rules.folders)),
        (Reason.IMAGE_BLOCKED, with_name(rules.symbols)),
        (Reason.IMAGE_BLOCKED, with_label(rules.hosts)),
    ):
        if pattern:
            found = pc.match_substring_regex(references["url"], pattern).to_numpy()
            reasons[(reasons == 0) & found] = reason
    # 0 is a side that the page does not declare
    sides = np.stack([references["width"].to_numpy(), references["height"].to_numpy()])
    smaller = np.where(sides > 0, sides, np.iinfo(np.int32).max).min(axis=0)
    small = (reasons == 0) & (smaller < rules.min_side)
    reasons[small] = Reason.IMAGE_DECLARED_SMALL
    values[small] = smaller[small]
    return reasons, values


def with_token(tokens: tuple[str, ...]) -> str:
    """A regular expression (RE2) for canonical addresses with one of the tokens in their path; "" for no tokens."""
    words = "|".join(sorted({token.lower() for token in tokens}))
    return f"{PATH}{BORDER}(?i:{words})(?:[^A-Za-z0-9]|$)" if words else ""


def with_folder(names: tuple[str, ...]) -> str:
    """A regular expression for canonical addresses in a folder of one of the names; "" for no names."""
    words = "|".join(sorted({name.lower() for name in names}))
    return f"{PATH}(?:[^?]*/)?(?i:{words})/" if words else ""


def with_name(names: tuple[str, ...]) -> str:
    """A regular expression for canonical addresses of a .gif or .png file of one of the names; "" for no names."""
    words = "|".join(sorted({name.lower() for name in names}))
    return f"{PATH}(?:[^?]*/)?(?i:(?:{words})\\.(?:gif|png))(?:\\?|$)" if words else ""


def with_label(labels: tuple[str, ...]) -> str:
    """A regular expression for canonical addresses whose host has one of the labels before its last two."""
    words = "|".join(sorted({label.lower() for label in labels}))
    return f"^[a-z]+://(?:[^/?:]*\\.)?(?:{words})\\.[^/?:]*[^/?:.]\\.[^/?:.]+(?:[:/?]|$)" if words else ""


def shown_first(docs: Docs, addresses: Ids, images: Images) -> npt.NDArray[np.bool_]:
    """Whether no smaller image index of the same page has the same address."""
    order = np.lexsort((images, addresses, docs))
    first = np.zeros(len(order), np.bool_)
    first[order] = first_of_runs(docs[order], addresses[order])
    return first


def image_sets(docs: Docs, owners: Docs, addresses: Ids) -> tuple[Docs, Docs]:
    """(key, check) of each of the ascending docs: the halves of xxh3-128 over the ascending ids of its addresses, of
    which each has at least one and none twice; owners: the page of each address."""
    order = np.lexsort((addresses, owners))
    owners, body = owners[order], memoryview(addresses[order].tobytes())
    starts = np.searchsorted(owners, docs) * ID_BYTES
    ends = np.searchsorted(owners, docs, "right") * ID_BYTES
    digests = [
        xxhash.xxh3_128_digest(body[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    numbers = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def _ranks(signatures: pa.Table, signed: pa.Table) -> Ranks:
    """The priority of the pages of `signed`, by the signatures of all pages of their unit in order of rows."""
    places = np.searchsorted(signatures["row"].to_numpy(), signed["row"].to_numpy())
    first = halves(signed["doc_id"], ">u8")[:, 0]
    return ranks(signatures["quality"].to_numpy()[places], signatures["words"].to_numpy()[places], first)


def _per_page(docs: Docs, owners: Docs) -> npt.NDArray[np.int32]:
    """How many of the owners are each page; all of them stand in the ascending docs."""
    return np.bincount(np.searchsorted(docs, owners), minlength=len(docs)).astype(np.int32)
