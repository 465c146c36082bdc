"""Pages to Arrow tables, column by column: the rows that `extract` writes, in chunks so that memory stays bounded.

Text goes from the streams into Arrow's buffers as it is, never as strings: 0.15 ms a large page, where rows of objects
took 1.2 ms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from pipelines.entries import BLOCKS, IMAGE, Stream
from pipelines.language import Language
from pipelines.reasons import Reason
from pipelines.rights import Rights
from pipelines.tags import FIGCAPTION
from pipelines.tally import NAMES, Array
from pipelines.warc import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page that extract keeps."""

    record: Record
    host: str
    lang: Language
    rights: Rights
    stream: Stream
    scores: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A page with its place in the WARC."""

    row: int
    doc_id: bytes
    url_hash: int
    page: Page


@dataclass(kw_only=True, slots=True)
class Rows:
    """Collects pages and verdicts of one WARC; `tables` gives what is pending and forgets it."""

    crawl: str
    file: str
    num_rows: int = 0
    num_chars: int = 0  # of the text that is not in a table yet
    pending: list[Row] = field(default_factory=list)
    judged: list[tuple[int, int, int, float]] = field(default_factory=list)

    @property
    def num_pending(self) -> int:
        """Pages that are not in a table yet."""
        return len(self.pending)

    def add(self, page: Page, *, doc_id: bytes, url_hash: int) -> None:
        """A page, as the next row."""
        self.pending.append(Row(row=self.num_rows, doc_id=doc_id, url_hash=url_hash, page=page))
        self.num_rows += 1
        self.num_chars += page.stream.num_chars

    def verdict(self, url_hash: int, offset: int, reason: Reason, value: float) -> None:
        """The verdict on one record."""
        self.judged.append((url_hash, offset, int(reason), value))

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """What is pending, by output."""
        documents = [row for row in self.pending if row.page.stream.images]
        texts = [row for row in self.pending if not row.page.stream.images]
        if documents:
            items = Items.of([row.page.stream for row in documents])
            table = self._pages(documents, items, schema.DOCUMENTS)
            yield "documents", table
            captions, references = _images(documents, items, table)
            if len(captions):
                yield "captions", captions
            yield "references", references
        if texts:
            yield "texts", self._pages(texts, Items.of([row.page.stream for row in texts]), schema.TEXTS)
        if self.pending:
            yield "scores", _scores(self.pending)
        self.pending, self.num_chars = [], 0

    def verdicts(self) -> Iterator[tuple[str, pa.Table]]:
        """The verdicts of all records, as one table."""
        columns = [pa.array([row[i] for row in self.judged], f.type) for i, f in enumerate(schema.VERDICTS)]
        yield "verdicts", pa.Table.from_arrays(columns, schema=schema.VERDICTS)

    def _pages(self, rows: list[Row], items: Items, target: pa.Schema) -> pa.Table:
        pages = [row.page for row in rows]
        records = [page.record for page in pages]
        columns: dict[str, Any] = {
            "row": [row.row for row in rows],
            "doc_id": [row.doc_id for row in rows],
            "url": [record.url for record in records],
            "host": [page.host for page in pages],
            "crawl": [self.crawl] * len(pages),
            "fetched_at": [_seconds(record.date) for record in records],
            "warc": [
                [self.file] * len(rows),
                *([getattr(r, k) for r in records] for k in ("offset", "length", "record_id")),
            ],
            "lang": [[page.lang.code for page in pages], [page.lang.score for page in pages]],
            "rights": [[getattr(page.rights, name) for page in pages] for name in ("robots", "meta", "tdm")],
            "title": [page.stream.title for page in pages],
            "items": items.column(target.field("items").type),
        }
        if "images" in target.names:
            images = list(zip(*(image for page in pages for image in page.stream.images), strict=True))
            kind = target.field("images").type
            columns["images"] = _lists(items.image_bounds, _struct(kind.value_type, images), kind)
        arrays = []
        for f in target:
            column = columns[f.name]
            if pa.types.is_struct(f.type):
                column = _struct(f.type, column)
            arrays.append(column if isinstance(column, pa.Array) else pa.array(column, f.type))
        return pa.Table.from_arrays(arrays, schema=target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """The entries of some pages, one after another."""

    texts: pa.Array  # large_string[E + 1]; the last is ""
    kinds: Array  # u8[E]
    levels: Array  # i8[E]
    bounds: Array  # i64[P + 1], where pages start among the entries
    image_bounds: Array  # i64[P + 1], where they start among the images

    @classmethod
    def of(cls, streams: list[Stream]) -> Items:
        """The columns of some streams."""
        sizes = _sums([len(stream.text) for stream in streams])
        bounds = _sums([len(stream.kinds) for stream in streams])
        offsets = np.empty(bounds[-1] + 2, np.int64)
        for stream, first, size in zip(streams, bounds.tolist(), sizes.tolist(), strict=False):
            np.add(stream.offsets, size, out=offsets[first : first + len(stream.offsets)])
        offsets[-2:] = sizes[-1]
        text = np.concatenate([stream.text for stream in streams])
        texts = pa.Array.from_buffers(schema.TEXT, len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])
        return cls(
            texts=texts,
            kinds=np.concatenate([stream.kinds for stream in streams]),
            levels=np.concatenate([stream.levels for stream in streams]),
            bounds=bounds,
            image_bounds=_sums([len(stream.images) for stream in streams]),
        )

    def column(self, kind: pa.LargeListType) -> pa.Array:
        """The entries as lists of structs."""
        shown = self.kinds == IMAGE
        numbers = np.cumsum(shown) - 1 - np.repeat(self.image_bounds[:-1], np.diff(self.bounds))
        columns = [
            pa.array(("text", "image"), schema.TEXT).take(pa.array(shown.view(np.uint8))),
            self.texts[:-1],
            pa.array(BLOCKS, schema.TEXT).take(pa.array(self.kinds)),
            pa.array(self.levels),
            pa.array(np.where(shown, numbers, -1).astype(np.int16)),
        ]
        return _lists(self.bounds, _struct(kind.value_type, columns), kind)

    def around(self) -> tuple[Array, Array]:
        """For each image the text block before it and the one after it in its page, captions aside: places in texts."""
        num = len(self.kinds)
        own = (self.kinds != IMAGE) & (self.kinds != FIGCAPTION)
        places, page = np.arange(num), np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))
        before = np.maximum.accumulate(np.where(own, places, -1))
        after = np.minimum.accumulate(np.where(own, places, num)[::-1])[::-1]
        shown = np.flatnonzero(self.kinds == IMAGE)
        start, end = self.bounds[page[shown]], self.bounds[page[shown] + 1]
        before, after = before[shown], after[shown]
        return np.where(before >= start, before, num), np.where(after < end, after, num)


def _sums(lengths: list[int]) -> Array:
    """i64[N + 1]: where each of so many things of these lengths starts, and where the last ends."""
    sums = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=sums[1:])
    return sums


def _struct(kind: pa.StructType, columns: Sequence[Any]) -> pa.StructArray:
    """A struct column from those of its fields."""
    fields = list(kind)
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, f.type)
        for column, f in zip(columns, fields, strict=True)
    ]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _lists(bounds: Array, values: pa.Array, kind: pa.LargeListType) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(bounds), values, type=kind)


def _images(rows: list[Row], items: Items, documents: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Captions and references."""
    images = documents.column("images").chunk(0).values
    owner = np.repeat(np.arange(len(rows)), np.diff(items.image_bounds))
    number = (np.arange(len(owner)) - items.image_bounds[owner]).astype(np.int16)
    urls = images.field("url")
    digests = b"".join([hashlib.sha256(url.encode("ascii")).digest() for url in urls.to_pylist()])
    columns = {
        "row": documents.column("row").chunk(0).take(pa.array(owner)),
        "image": pa.array(number),
        "url_id": pa.Array.from_buffers(pa.binary(32), len(owner), [None, pa.py_buffer(digests)]),
    }
    columns |= {name: images.field(name) for name in ("url", "width", "height")}
    references = pa.Table.from_arrays([columns[name] for name in schema.REFERENCES.names], schema=schema.REFERENCES)
    told = pc.or_(pc.not_equal(images.field("alt"), ""), pc.not_equal(images.field("caption"), ""))
    chosen = pa.array(np.flatnonzero(told))
    before, after = items.around()
    columns |= {"doc_id": documents.column("doc_id").chunk(0).take(pa.array(owner))}
    columns |= {name: images.field(name) for name in ("alt", "caption")}
    captions = [
        items.texts.take(pa.array({"before": before, "after": after}[name]).take(chosen))
        if name in ("before", "after")
        else columns[name].take(chosen)
        for name in schema.CAPTIONS.names
    ]
    return pa.Table.from_arrays(captions, schema=schema.CAPTIONS), references


def _scores(rows: list[Row]) -> pa.Table:
    pages = [row.page for row in rows]
    columns: dict[str, Any] = {
        "row": [row.row for row in rows],
        "doc_id": [row.doc_id for row in rows],
        "offset": [page.record.offset for page in pages],
        "url_hash": [row.url_hash for row in rows],
        "num_images": [len(page.stream.images) for page in pages],
        "interspersed": [page.stream.interspersed() for page in pages],
        "lang_score": [page.lang.wanted for page in pages],
    }
    values = np.array([page.scores for page in pages])
    for place, name in enumerate(NAMES):
        columns[name] = values[:, place].astype(schema.SCORES.field(name).type.to_pandas_dtype())
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in schema.SCORES], schema=schema.SCORES)


def _seconds(date: str) -> int:
    """WARC-Date as seconds since 1970; 0 if it is none."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
