"""The candidates of each document: which of its images are asked for, and whether the document is worth asking at all.

An image that more than ten documents show goes, at most eight stay, and the coin is tossed over a document with one
candidate before it costs a request: failed downloads never add an image. An address that failed for good is still a
candidate, so that what a document chooses does not depend on who asked before.

A document that shows the very images of another goes, if two or more of them are candidates. Then that other is chosen,
in this generation or an earlier one, with two candidates or more: it shows the same addresses, stands by prose, and no
address was in more documents when it was judged. So no set of images is lost to the rule; with one candidate left, each
document is for its own coin to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.errors import ConfigError, StoreError
from engine.stage import SIDE, Output, Unit, Work
from pipelines.coin import stays
from pipelines.dedupe import BLOCK, MAX_ORDINAL, ORDINAL_SHIFT, Docs, block_parts, column, within
from pipelines.ids import ids, partitions
from pipelines.reasons import Reason, tally
from pipelines.select import Choice, Cut, domains

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 2  # of the code that decides the bytes
OUTPUTS = (
    Output(name="verdicts", schema=schema.SELECTIONS, sort_by=("doc",), batch_rows=1 << 16),
    Output(name="choices", schema=schema.CHOICES, partition_by="part", sort_by=("url_id", "doc", "image")),
    Output(name="urls", schema=schema.CANDIDATE_URLS, partition_by="part", sort_by=("url_id",)),
    Output(name="refused", schema=schema.REFUSED, sort_by=("doc", "image"), batch_rows=1 << 16),
)
COLUMNS = ("row", "image", "url_id", "url")
HOST = r"^[a-z]+://(?P<host>\[[^\]]*\]|[^/?:]*)"
IMAGE_BITS = np.uint64(16)

Mask = npt.NDArray[np.bool_]
Reasons = npt.NDArray[np.uint16]
Values = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """libraries: what decides the politeness keys; it names what is installed and cannot be chosen."""

    cut: Cut = field(default_factory=Cut)
    choice: Choice = field(default_factory=Choice)
    libraries: str = field(default_factory=domains.version)

    def __post_init__(self) -> None:
        if self.libraries != domains.version():
            raise ConfigError("select.libraries names what is installed; leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Passing references of a block, by (doc, image): `page` is the place of the document among the block's pages."""

    docs: Docs
    page: Places
    image: npt.NDArray[np.int16]
    url_docs: npt.NDArray[np.uint32]

    def where(self, mask: Mask) -> Images:
        """Some of them, in the same order."""
        return Images(
            docs=self.docs[mask],
            page=self.page[mask],
            image=self.image[mask],
            url_docs=self.url_docs[mask],
        )


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """(first ordinal, number of ordinals) of each block of this generation's units."""
    return block_parts(len(commits("extract")))


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Choose the candidates of one block's documents."""
    choice = config.choice
    first, num = (int(text) for text in unit.inputs)
    pages = work.partition("refer", "pages", first // BLOCK)
    images = _images(column(pages, "doc"), work.partition("frequency", "images", first // BLOCK))
    crowded = pages["passing"].to_numpy() > choice.max_references
    frequent, surplus, candidates = sift(images, crowded, choice)
    twins = work.partition("frequency", "twins", first // BLOCK)
    same = _same(column(pages, "doc"), twins if choice.same_images else twins.slice(0, 0))
    reasons, values = judge(pages, np.bincount(images.page[candidates], minlength=len(crowded)), same, choice)
    for word, many in tally(reasons):
        work.count(word, many)
    verdicts: list[Any] = [pages["doc"], pages["doc_id"], reasons, values]
    yield "verdicts", pa.table(verdicts, schema=schema.SELECTIONS)
    for reason, refused, told in (
        (Reason.IMAGE_FREQUENT, images.where(frequent), True),
        (Reason.IMAGE_SURPLUS, images.where(surplus), False),
    ):
        work.count(f"image{SIDE}{reason.word}", len(refused.docs))
        numbers = refused.url_docs.astype(np.float32) if told else np.zeros(len(refused.docs), np.float32)
        columns: list[Any] = [refused.docs, refused.image, np.full(len(refused.docs), reason, np.uint16), numbers]
        yield "refused", pa.table(columns, schema=schema.REFUSED)
    chosen = images.where(candidates & (reasons[images.page] == Reason.KEPT))
    work.count(f"image{SIDE}candidate", len(chosen.docs))
    extracted = work.commits("extract")
    ordinals = chosen.docs >> ORDINAL_SHIFT & np.uint64(MAX_ORDINAL - 1)
    for ordinal in range(first, first + num):
        here = ordinals == np.uint64(ordinal)
        if here.any():
            references = work.table(extracted[ordinal], "references", COLUMNS)
            yield from _asked(chosen.where(here), references, config)


def sift(images: Images, crowded: Mask, choice: Choice) -> tuple[Mask, Mask, Mask]:
    """Which images are (too frequent, more than enough, candidates); none of them in crowded pages."""
    considered = ~crowded[images.page]
    frequent = considered & (images.url_docs > choice.max_docs)
    left = considered & ~frequent
    surplus = left & (_rank(images.page, left) > choice.max_candidates)
    return frequent, surplus, left & ~surplus


def judge(
    pages: pa.Table, num_candidates: Places, same: npt.NDArray[np.int16], choice: Choice
) -> tuple[Reasons, Values]:
    """The verdict on each page of PAGES by its candidates, and the number that decided or the candidates.

    same: the images of each page that shows the set of another, 0 for all others.
    """
    passing = pages["passing"].to_numpy()
    crowded = passing > choice.max_references
    single = np.flatnonzero(num_candidates == 1)
    lost = single[~stays(pages["doc_id"].take(pa.array(single)).to_pylist(), choice.coin)]
    reasons = np.full(len(passing), Reason.KEPT, np.uint16)
    twin = (same > 0) & (num_candidates > 1)
    reasons[twin] = Reason.SAME_IMAGES
    reasons[lost] = Reason.SINGLE_IMAGE
    reasons[num_candidates == 0] = Reason.NO_CANDIDATE
    reasons[crowded] = Reason.TOO_MANY_REFERENCES
    apart = ~pages["interspersed"].to_numpy(zero_copy_only=False)
    reasons[apart] = Reason.NOT_INTERSPERSED
    reasons[pages["references"].to_numpy() == 0] = Reason.NO_IMAGE
    values = np.where(reasons == Reason.SAME_IMAGES, same, num_candidates)
    return reasons, np.where(crowded, passing, values).astype(np.float32)


def _same(pages: Docs, twins: pa.Table) -> npt.NDArray[np.int16]:
    """The images of each of the ascending pages that stands in SET_TWINS, else 0; StoreError for a twin that is no
    page."""
    docs = column(twins, "doc")
    if not within(docs, pages).all():
        raise StoreError("twins of pages that refer does not know; run `kosmos verify`")
    same = np.zeros(len(pages), np.int16)
    same[np.searchsorted(pages, docs)] = twins["images"].to_numpy()
    return same


def _images(pages: Docs, table: pa.Table) -> Images:
    """Rows of FREQUENT by (doc, image); StoreError if a page of theirs is not among the ascending pages."""
    docs, image = column(table, "doc"), table["image"].to_numpy()
    order = np.lexsort((image, docs))
    docs = docs[order]
    if not within(docs, pages).all():
        raise StoreError("images of pages that refer does not know; run `kosmos verify`")
    return Images(
        docs=docs,
        page=np.searchsorted(pages, docs),
        image=image[order],
        url_docs=table["url_docs"].to_numpy()[order],
    )


def _rank(page: Places, wanted: Mask) -> Places:
    """How many wanted rows of the same page stand up to each row, itself included; rows are by page."""
    running = np.cumsum(wanted)
    start = np.searchsorted(page, page)  # of the page's first row
    return np.asarray(running - (running - wanted)[start])


def _asked(chosen: Images, references: pa.Table, config: Config) -> Iterator[tuple[str, pa.Table]]:
    """Choices and their addresses of one unit, whose references are all given."""
    places = _places(chosen, references)
    addresses = references["url_id"].take(pa.array(places)).combine_chunks()
    parts = partitions(ids(addresses), config.cut.partitions)
    columns: list[Any] = [parts, addresses, chosen.docs, chosen.image, chosen.url_docs]
    yield "choices", pa.table(columns, schema=schema.CHOICES)
    urls = references["url"].take(pa.array(places)).combine_chunks()
    yield "urls", pa.table([parts, addresses, urls, _domains(urls)], schema=schema.CANDIDATE_URLS)


def _places(chosen: Images, references: pa.Table) -> Places:
    """The row of each chosen image among the references of its unit, which stand in any order."""
    rows = references["row"].to_numpy().astype(np.uint64) << IMAGE_BITS
    keys = rows | references["image"].to_numpy().astype(np.uint64)
    order = np.argsort(keys, kind="stable")
    asked = (chosen.docs & np.uint64((1 << 24) - 1)) << IMAGE_BITS | chosen.image.astype(np.uint64)
    if not within(asked, keys[order]).all():
        raise StoreError("images that extract does not know; run `kosmos verify`")
    return np.asarray(order[np.searchsorted(keys[order], asked)])


def _domains(urls: pa.Array) -> pa.Array:
    """The politeness key of each address."""
    hosts = pc.fill_null(pc.struct_field(pc.extract_regex(urls, HOST), "host"), "").dictionary_encode()
    return pa.array([domains.key(host) for host in hosts.dictionary.to_pylist()], pa.large_string()).take(hosts.indices)
