"""The curated shards of one block: which images and documents stay, and their rows with the JPEG bytes.

Whatever failed leaves no scar: items of images that went vanish, their captions too, and the others are counted anew.
So do paragraphs that the page's site repeats; a page whose text was nothing else goes.
Images are read by byte ranges, 24 MB at a time, and one unit's pages: a block of any size takes 165 MB over its tables.
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
from engine.stage import SIDE, Output, Place, Unit, Work
from pipelines.assemble.captions import scars
from pipelines.assemble.match import fetched
from pipelines.assemble.settle import FIRST, MOST_NEAR, SPREAD, settle
from pipelines.coin import Coin, stays
from pipelines.dedupe import BLOCK, MAX_ORDINAL, MAX_ROW, ORDINAL_SHIFT, Docs, block_parts, column, one, within
from pipelines.ids import first_of_runs
from pipelines.images import FORMATS
from pipelines.reasons import Reason, tally

if TYPE_CHECKING:
    from engine.ledger import Commit

VERSION = 3  # of the code that decides the bytes
OUTPUTS = (
    Output(
        name="curated",
        schema=schema.CURATED,
        batch_rows=64,
        compression=None,
        file_bytes=320 << 20,
        located="images.bytes",
    ),
    Output(name="verdicts", schema=schema.ASSEMBLED, sort_by=("doc",), batch_rows=1 << 16),
    Output(name="fates", schema=schema.IMAGE_FATES, sort_by=("doc", "image"), batch_rows=1 << 16),
)
GROUP_BYTES = 24 << 20  # of images read at once: where a group ends never shows in the rows
GROUP_DOCS = 512
WORD = r"\S*[\pL\pN]\S*"  # what stands between spaces and has a letter or a digit; RE2
SCORES = [f.name for f in schema.CURATED_SCORES]
PAGE = [f.name for f in schema.CURATED if schema.DOCUMENTS.get_field_index(f.name) >= 0]
PLACES = ("followed", "generation", "unit", "file", "offset", "length")

Places = npt.NDArray[np.int64]
Reasons = npt.NDArray[np.uint16]
Values = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """max_images, pick, near: as in `pipelines.assemble`. coin: tossed again for documents of which one image is
    left."""

    max_images: int = 5  # K section 3.1: at most five images a document
    pick: str = FIRST
    near: int = 2
    coin: Coin = field(default_factory=Coin)

    def __post_init__(self) -> None:
        if self.max_images < 1:
            raise ConfigError(f"assemble.max_images is {self.max_images}; set it to 1 or more")
        if self.pick not in (FIRST, SPREAD):
            raise ConfigError(f"assemble.pick is {self.pick!r}; set it to {FIRST} or {SPREAD}")
        if not -1 <= self.near <= MOST_NEAR:
            raise ConfigError(f"assemble.near is {self.near}; set it to 0-{MOST_NEAR}, or to -1 to compare only bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Documents that go into the shards and their images, ascending. Images of document i are those from `ends[i]`
    to `ends[i + 1]`."""

    docs: Docs
    doc_ids: pa.Array
    images: pa.Table  # MATCHED
    ends: Places

    def of(self, start: int, end: int) -> Kept:
        """Documents start..end."""
        first = int(self.ends[start])
        return Kept(
            docs=self.docs[start:end],
            doc_ids=self.doc_ids[start:end],
            images=self.images.slice(first, int(self.ends[end]) - first),
            ends=self.ends[start : end + 1] - first,
        )

    def where(self, mask: Mask) -> Kept:
        """Some of the documents."""
        num = np.diff(self.ends)
        return Kept(
            docs=self.docs[mask],
            doc_ids=self.doc_ids.filter(pa.array(mask)),
            images=_chosen(self.images, np.repeat(mask, num)),
            ends=np.concatenate([[0], np.cumsum(num[mask])]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pages:
    """Rows of CURATED but for the images' bytes: columns by name, the images' fields by name, image by image."""

    columns: dict[str, pa.Array]
    images: dict[str, pa.Array]

    def where(self, mask: Mask, ends: Places) -> Pages:
        """Some of the rows; ends: of the images of each row, as in Kept."""
        rows, shown = pa.array(mask), pa.array(np.repeat(mask, np.diff(ends)))
        return Pages(
            columns={name: array.filter(rows) for name, array in self.columns.items()},
            images={name: array.filter(shown) for name, array in self.images.items()},
        )


def parts(config: Config, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    """(first ordinal, number of ordinals) of each block of this generation's extracted units."""
    return block_parts(len(commits("extract")))


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Assemble the documents of one block."""
    first, num = (int(text) for text in unit.inputs)
    block = first // BLOCK
    selected = work.partition("select", "verdicts", block)
    selected = _chosen(selected, selected["reason"].to_numpy() == 0).sort_by("doc")
    images = work.partition("match", "images", block).sort_by([("doc", "ascending"), ("image", "ascending")])
    docs, candidates = column(selected, "doc"), selected["value"].to_numpy().astype(np.int64)
    if not np.array_equal(np.repeat(docs, candidates), column(images, "doc")):
        raise StoreError(f"block {block}: the images are not the candidates that were selected; run `kosmos verify`")
    repeated = work.partition("repeats", "images", block)

    owner = np.repeat(np.arange(len(docs)), candidates)
    reasons, values = fates(images, repeated, config)
    verdicts, numbers = decided(owner[reasons == 0], selected["doc_id"].to_pylist(), config.coin)
    # 0 means that it is in the shards
    alone = (reasons == 0) & (verdicts == int(Reason.SINGLE_IMAGE))[owner]
    reasons[alone], values[alone] = Reason.SINGLE_IMAGE, 1

    stay = verdicts == 0
    kept = Kept(
        docs=docs[stay],
        doc_ids=one(_chosen(selected, stay)["doc_id"]),
        images=_chosen(images, reasons == 0),
        ends=np.concatenate([[0], np.cumsum(numbers[stay].astype(np.int64))]),
    )
    # of documents left without text, the paragraphs that went
    mute = np.zeros(len(kept.docs), np.uint32)
    yield from (("curated", table) for table in _curated(kept, mute, first, num, work))
    bare = np.flatnonzero(stay)[mute > 0]
    verdicts[bare], numbers[bare] = Reason.NO_TEXT_LEFT, mute[mute > 0]
    shown = (reasons == 0) & (verdicts == int(Reason.NO_TEXT_LEFT))[owner]
    reasons[shown], values[shown] = Reason.NO_TEXT_LEFT, numbers[owner][shown]
    for word, num_docs in tally(verdicts):
        work.count(word, num_docs)
    for word, num_images in tally(reasons):
        work.count(f"image{SIDE}{word}", num_images)
    yield "verdicts", pa.table([docs, selected["doc_id"], verdicts, numbers], schema=schema.ASSEMBLED)
    yield "fates", pa.table([images["doc"], images["image"], reasons, values], schema=schema.IMAGE_FATES)


def fates(images: pa.Table, repeated: pa.Table, config: Config) -> tuple[Reasons, Values]:
    """(reason, value) of each candidate; images: MATCHED, by (doc, image); repeated: REPEATED, in any order.

    What match found stands. Then goes what is repeated over documents, what is nearly an image before it that stays,
    and of what is left all but the `max_images` that are picked.
    """
    reasons, values = images["reason"].to_numpy().copy(), images["value"].to_numpy().copy()
    first = first_of_runs(column(images, "doc"))
    shown = _over(images, first, repeated)
    over = (reasons == 0) & (shown > 0)
    reasons[over], values[over] = Reason.IMAGE_REPEATED, shown[over]
    bodies = one(images["sha256"]).dictionary_encode().indices.to_numpy()
    bounds = (config.near, config.max_images, config.pick == SPREAD)
    settle(first, bodies, images["phash"].to_numpy(), *bounds, reasons, values)
    return reasons, values


def decided(owner: Places, doc_ids: list[bytes], coin: Coin) -> tuple[Reasons, Values]:
    """(reason, value) of each document, from the document of each image that stays."""
    num = np.bincount(owner, minlength=len(doc_ids))
    reasons = np.where(num == 0, int(Reason.NO_IMAGE_LEFT), int(Reason.KEPT)).astype(np.uint16)
    single = np.flatnonzero(num == 1)
    heads = stays([doc_ids[place] for place in single.tolist()], coin)
    reasons[single[~heads]] = Reason.SINGLE_IMAGE
    return reasons, num.astype(np.float32)


def repeating(recurring: pa.Table, docs: Docs, items: pa.ChunkedArray) -> Mask:
    """Which items of the pages go, one page after another; recurring: RECURRING, ascending by doc."""
    starts, flat = _lists(items)
    found = column(recurring, "doc")
    start, end = np.searchsorted(found, docs[0]), np.searchsorted(found, docs[-1], side="right")
    own = within(found[start:end], docs)
    page = np.searchsorted(docs, found[start:end][own])
    places = starts[page] + recurring["item"].to_numpy()[start:end][own]
    if (places >= starts[page + 1]).any() or (flat.field("image").to_numpy()[places] >= 0).any():
        raise StoreError(f"the pages from {int(docs[0])} on have other texts; run `kosmos verify`")
    gone = np.zeros(len(flat), np.bool_)
    gone[places] = True
    return gone


def written(kept: Kept, pages: pa.Table, gone: Mask, scores: pa.Table, clusters: pa.Table) -> Pages:
    """The rows of the kept documents of one unit.

    pages: DOCUMENTS, of each document; gone: which of their items are repeated paragraphs; scores: of the unit,
    ascending by row; clusters: doc, cluster and size, ascending by doc.
    """
    if not one(pages["doc_id"]).equals(kept.doc_ids):
        raise StoreError(f"the pages from {int(kept.docs[0])} on are other pages; run `kosmos verify`")
    columns = {name: one(pages[name]) for name in PAGE}
    starts, images = _lists(pages["images"])
    owner = np.repeat(np.arange(len(kept.docs)), np.diff(kept.ends))
    survivors = starts[owner] + kept.images["image"].to_numpy()
    if (survivors >= starts[owner + 1]).any():  # it would be an image of the next page
        raise StoreError(f"the pages from {int(kept.docs[0])} on have fewer images; run `kosmos verify`")
    place = np.full(len(images), -1, np.int16)
    place[survivors] = np.arange(len(survivors)) - kept.ends[owner]
    columns["items"], columns["num_words"] = stream(pages, place, gone)
    judged = _at(scores, kept.docs)
    columns["scores"] = pa.StructArray.from_arrays(
        [one(judged[name]) for name in SCORES], fields=list(schema.CURATED_SCORES)
    )
    columns["dedupe"] = _dedupe(kept.docs, clusters)
    columns["num_images"] = pa.array(np.diff(kept.ends).astype(np.int16))

    taken = images.take(pa.array(survivors))
    match = kept.images
    names = pa.array(FORMATS, schema.TEXT)
    fields: dict[str, Any] = {
        "sha256": match["sha256"],
        **{name: taken.field(name) for name in ("url", "alt", "caption", "title")},
        "width": match["stored_width"],
        "height": match["stored_height"],
        "original_width": match["width"],
        "original_height": match["height"],
        "format": names.take(one(match["format"])),
        "phash": match["phash"],
        "url_docs": match["url_docs"].cast(pa.int32()),
    }
    arrays = {name: one(array) if isinstance(array, pa.ChunkedArray) else array for name, array in fields.items()}
    return Pages(columns=columns, images=arrays)


def stream(pages: pa.Table, place: npt.NDArray[np.int16], gone: Mask) -> tuple[pa.LargeListArray, pa.Array]:
    """(items, number of words) of each page without what belongs to images that went, and without what is `gone`.

    pages: columns items and images, as in DOCUMENTS; place: of each image of all pages, its new index or -1.
    Figcaptions that are the caption of an image that went, whole or in parts, go too (`captions.scars`).
    """
    starts, items = _lists(pages["items"])
    image_starts, images = _lists(pages["images"])
    owner = np.repeat(np.arange(len(pages)), np.diff(starts))
    index = items.field("image").to_numpy()
    shown = np.flatnonzero(index >= 0)
    mapped = index.copy()
    mapped[shown] = place[image_starts[owner[shown]] + index[shown]]
    stay = ~gone
    stay[shown] = mapped[shown] >= 0

    below = np.flatnonzero(pc.equal(items.field("block"), "figcaption").to_numpy(zero_copy_only=False))
    captions = images.field("caption")
    told = np.flatnonzero(pc.not_equal(captions, "").to_numpy(zero_copy_only=False))
    said, captions = items.field("text").take(pa.array(below)), captions.take(pa.array(told))
    page = np.repeat(np.arange(len(pages)), np.diff(image_starts))
    scar = scars(said, np.searchsorted(below, starts), captions, page[told], place[told] >= 0)
    stay[below[scar]] = False

    left = items.filter(pa.array(stay))
    fields = list(schema.ITEM)
    arrays = [pa.array(mapped[stay]) if f.name == "image" else left.field(f.name) for f in fields]
    ends = np.concatenate([[0], np.cumsum(stay)])[starts]
    words = pc.count_substring_regex(left.field("text"), WORD).to_numpy()
    num_words = np.diff(np.concatenate([[0], np.cumsum(words)])[ends]).astype(np.int32)
    values = pa.StructArray.from_arrays(arrays, fields=fields)
    kind = schema.CURATED.field("items").type
    return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values, type=kind), pa.array(num_words)


def _curated(kept: Kept, mute: npt.NDArray[np.uint32], first: int, num: int, work: Work) -> Iterator[pa.Table]:
    """The rows of the kept documents, a unit at a time, but for those of which repeated paragraphs were all the text.

    mute: written; the number of those paragraphs of each such document.
    """
    block = first // BLOCK
    clusters = work.partition("decide", "verdicts", block).select(["doc", "cluster", "size"]).sort_by("doc")
    recurring = work.partition("recurring", "items", block).select(["doc", "item"]).sort_by("doc")
    commits = fetched(kept.images["followed"].to_numpy(), kept.images["generation"].to_numpy(), work)
    ordinals = kept.docs >> ORDINAL_SHIFT & np.uint64(MAX_ORDINAL - 1)
    removed = 0
    for ordinal, commit in enumerate(work.commits("extract")[first : first + num], first):
        start, end = np.searchsorted(ordinals, np.array([ordinal, ordinal + 1], np.uint64)).tolist()
        if start == end:
            continue
        own = kept.of(start, end)
        documents = _at(work.table(commit, "documents"), own.docs)
        scores = work.table(commit, "scores", ("row", *SCORES))
        gone = repeating(recurring, own.docs, documents["items"])
        pages = written(own, documents, gone, scores, clusters)
        starts, _ = _lists(documents["items"])
        lost = np.diff(np.concatenate([[0], np.cumsum(gone)])[starts])
        bare = (lost > 0) & (pages.columns["num_words"].to_numpy() == 0)
        mute[start:end][bare] = lost[bare]
        removed += int(lost[~bare].sum())
        if bare.any():
            pages, own = pages.where(~bare, own.ends), own.where(~bare)
        yield from _rows(pages, own, commits, work)
    if removed:
        work.count(f"paragraph{SIDE}removed", removed)


def _rows(pages: Pages, kept: Kept, commits: dict[tuple[bool, int], list[Commit]], work: Work) -> Iterator[pa.Table]:
    """The rows with their images, a group of documents at a time; commits: as `match.fetched` gives them."""
    followed, generation, unit, file, offset, length = (kept.images[name].to_pylist() for name in PLACES)
    kind = schema.CURATED.field("images").type
    for start, end in _groups(kept.ends, np.array(length, np.int64)):
        first, last = int(kept.ends[start]), int(kept.ends[end])
        bodies = work.pieces(
            [
                Place(commits[followed[i], generation[i]][unit[i]], "images", file[i], offset[i], length[i])
                for i in range(first, last)
            ]
        )
        if [len(body) for body in bodies] != length[first:last] or not all(bodies):
            raise StoreError(f"images of the pages from {int(kept.docs[start])} on are short; run `kosmos verify`")
        fields = {name: array.slice(first, last - first) for name, array in pages.images.items()}
        fields["bytes"] = _binary(bodies)
        del bodies
        names = list(schema.CURATED_IMAGE)
        values = pa.StructArray.from_arrays([fields[f.name] for f in names], fields=names)
        ends = pa.array(kept.ends[start : end + 1] - first, pa.int64())
        columns = {name: array.slice(start, end - start) for name, array in pages.columns.items()}
        columns["images"] = pa.LargeListArray.from_arrays(ends, values, type=kind)
        yield pa.table([columns[name] for name in schema.CURATED.names], schema=schema.CURATED)


def _binary(bodies: list[bytes]) -> pa.LargeBinaryArray:
    """One copy; a growing builder would hold three."""
    ends = np.concatenate([[0], np.cumsum([len(body) for body in bodies])])
    buffers = [None, pa.py_buffer(ends.astype(np.int64)), pa.py_buffer(b"".join(bodies))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bodies), buffers)


def _groups(ends: Places, lengths: Places) -> Iterator[tuple[int, int]]:
    """(start, end) of documents whose images are read at once: at least one, else of bounded bytes."""
    before = np.concatenate([[0], np.cumsum(lengths)])[ends]
    start, num = 0, len(ends) - 1
    while start < num:
        fitting = int(np.searchsorted(before, before[start] + GROUP_BYTES, side="right")) - 1
        end = min(max(fitting, start + 1), start + GROUP_DOCS, num)
        yield start, end
        start = end


def _over(images: pa.Table, first: npt.NDArray[np.bool_], repeated: pa.Table) -> npt.NDArray[np.uint32]:
    """Documents of each image that is in too many of them, else 0; first: where a document starts."""
    docs = column(images, "doc")[first]
    keys = (np.cumsum(first) - 1) << 16 | images["image"].to_numpy()
    wanted = np.searchsorted(docs, column(repeated, "doc")) << 16 | repeated["image"].to_numpy()
    shown = np.zeros(len(keys), np.uint32)
    # an image stands once for each of its hashes
    np.maximum.at(shown, np.searchsorted(keys, wanted), repeated["docs"].to_numpy())
    return shown


def _dedupe(docs: Docs, clusters: pa.Table) -> pa.StructArray:
    known = column(clusters, "doc")
    at = np.searchsorted(known, docs)
    alike = np.zeros(len(docs), np.bool_)
    alike[at < len(known)] = known[at[at < len(known)]] == docs[at < len(known)]
    cluster, size = docs.copy(), np.ones(len(docs), np.uint32)
    cluster[alike] = column(clusters, "cluster")[at[alike]]
    size[alike] = clusters["size"].to_numpy()[at[alike]]
    because = pa.array(["unique", "best"], schema.TEXT).take(pa.array(alike.astype(np.int8)))
    fields = list(schema.CURATED.field("dedupe").type)
    return pa.StructArray.from_arrays([pa.array(cluster), pa.array(size), because], fields=fields)


def _at(table: pa.Table, docs: Docs) -> pa.Table:
    """The rows of the pages of one unit; StoreError if one is missing."""
    rows = (docs & np.uint64(MAX_ROW - 1)).astype(np.int64)
    own = table["row"].to_numpy().astype(np.int64)
    at = np.searchsorted(own, rows)
    if len(rows) and (int(at[-1]) >= len(own) or not np.array_equal(own[at], rows)):
        raise StoreError(f"pages from {int(docs[0])} on are missing; run `kosmos verify`")
    return table.take(pa.array(at))


def _lists(lists: pa.ChunkedArray) -> tuple[Places, pa.StructArray]:
    """(offsets from 0, values) of a list column."""
    array = one(lists)
    offsets = array.offsets.to_numpy()
    return offsets - offsets[0], array.flatten()


def _chosen(table: pa.Table, mask: Mask) -> pa.Table:
    return table.filter(pa.array(mask))
