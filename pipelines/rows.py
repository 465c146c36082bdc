"""Pages to Arrow tables, column by column: the rows that `extract` writes, in chunks so that memory stays bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from engine import schema
from pipelines.entries import Stream
from pipelines.language import Language
from pipelines.reasons import Reason
from pipelines.rights import Rights
from pipelines.tally import NAMES, Array
from pipelines.warc import Record

INTEGERS = frozenset(("words", "gopher_stopwords"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page that extract keeps."""

    record: Record
    host: str
    lang: Language
    rights: Rights
    stream: Stream
    scores: Array
    interspersed: bool


@dataclass(kw_only=True, slots=True)
class Rows:
    """Collects pages and verdicts of one WARC; `tables` gives what is pending and forgets it."""

    crawl: str
    file: str
    num_rows: int = 0
    num_chars: int = 0  # of the text that is not in a table yet
    documents: list[tuple[int, bytes, Page]] = field(default_factory=list)
    texts: list[tuple[int, bytes, Page]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    judged: list[tuple[int, int, int, float]] = field(default_factory=list)

    @property
    def num_pending(self) -> int:
        """Pages that are not in a table yet."""
        return len(self.scores)

    def add(self, page: Page, *, doc_id: bytes, url_hash: int) -> None:
        """A page, as the next row."""
        num_images = len(page.stream.images)
        (self.documents if num_images else self.texts).append((self.num_rows, doc_id, page))
        row: dict[str, Any] = {
            "row": self.num_rows,
            "doc_id": doc_id,
            "offset": page.record.offset,
            "url_hash": url_hash,
            "num_images": num_images,
            "interspersed": page.interspersed,
            "lang_score": page.lang.wanted,
        }
        for name, value in zip(NAMES, page.scores.tolist(), strict=True):
            row[name] = int(value) if name in INTEGERS else value
        self.scores.append(row)
        self.num_rows += 1
        self.num_chars += sum(len(entry.text) for entry in page.stream.entries)

    def verdict(self, url_hash: int, offset: int, reason: Reason, value: float) -> None:
        """The verdict on one record."""
        self.judged.append((url_hash, offset, int(reason), value))

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """What is pending, by output."""
        if self.documents:
            yield "documents", self._pages(self.documents, schema.DOCUMENTS)
            captions, references = _images(self.documents)
            if captions:
                yield "captions", pa.Table.from_pylist(captions, schema.CAPTIONS)
            yield "references", pa.Table.from_pylist(references, schema.REFERENCES)
        if self.texts:
            yield "texts", self._pages(self.texts, schema.TEXTS)
        if self.scores:
            yield "scores", pa.Table.from_pylist(self.scores, schema.SCORES)
        self.documents, self.texts, self.scores, self.num_chars = [], [], [], 0

    def verdicts(self) -> Iterator[tuple[str, pa.Table]]:
        """The verdicts of all records, as one table."""
        columns = [pa.array([row[i] for row in self.judged], f.type) for i, f in enumerate(schema.VERDICTS)]
        yield "verdicts", pa.Table.from_arrays(columns, schema=schema.VERDICTS)

    def _pages(self, pages: list[tuple[int, bytes, Page]], target: pa.Schema) -> pa.Table:
        records = [page.record for _, _, page in pages]
        columns: dict[str, Any] = {
            "row": [row for row, _, _ in pages],
            "doc_id": [doc_id for _, doc_id, _ in pages],
            "url": [record.url for record in records],
            "host": [page.host for _, _, page in pages],
            "crawl": [self.crawl] * len(pages),
            "fetched_at": [_seconds(record.date) for record in records],
            "warc": [
                {"file": self.file, "offset": r.offset, "length": r.length, "record_id": r.record_id} for r in records
            ],
            "lang": [{"code": page.lang.code, "score": page.lang.score} for _, _, page in pages],
            "rights": [{"robots": p.rights.robots, "meta": p.rights.meta, "tdm": p.rights.tdm} for _, _, p in pages],
            "title": [page.stream.title for _, _, page in pages],
        }
        arrays = [pa.array(columns[f.name], f.type) for f in target if f.name in columns]
        entries = [entry for _, _, page in pages for entry in page.stream.entries]
        arrays.append(
            _nested(
                target.field("items").type,
                [len(page.stream.entries) for _, _, page in pages],
                [
                    ["text" if entry.image < 0 else "image" for entry in entries],
                    [entry.text for entry in entries],
                    [entry.block for entry in entries],
                    [entry.level for entry in entries],
                    [entry.image for entry in entries],
                ],
            )
        )
        if "images" in target.names:
            images = [image for _, _, page in pages for image in page.stream.images]
            arrays.append(
                _nested(
                    target.field("images").type,
                    [len(page.stream.images) for _, _, page in pages],
                    [[getattr(image, f.name) for image in images] for f in target.field("images").type.value_type],
                )
            )
        return pa.Table.from_arrays(arrays, schema=target)


def _nested(kind: pa.LargeListType, lengths: list[int], columns: list[list[Any]]) -> pa.LargeListArray:
    """A list column from the lengths of its lists and the columns of its structs."""
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    fields = list(kind.value_type)
    arrays = [pa.array(column, f.type) for column, f in zip(columns, fields, strict=True)]
    values = pa.StructArray.from_arrays(arrays, fields=fields)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values, type=kind)


def _images(pages: list[tuple[int, bytes, Page]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of captions and of references."""
    captions: list[dict[str, Any]] = []
    references: list[dict[str, Any]] = []
    for row, doc_id, page in pages:
        entries = page.stream.entries
        after = [""] * (len(entries) + 1)
        for place in range(len(entries) - 1, -1, -1):
            own = entries[place].image < 0 and entries[place].block != "figcaption"
            after[place] = entries[place].text if own else after[place + 1]
        before = ""
        for place, entry in enumerate(entries):
            if entry.image < 0:
                before = before if entry.block == "figcaption" else entry.text
                continue
            image = page.stream.images[entry.image]
            references.append(
                {
                    "row": row,
                    "image": entry.image,
                    "url_id": hashlib.sha256(image.url.encode("ascii")).digest(),
                    "url": image.url,
                    "width": image.width,
                    "height": image.height,
                }
            )
            if image.alt or image.caption:
                captions.append(
                    {
                        "row": row,
                        "image": entry.image,
                        "doc_id": doc_id,
                        "url": image.url,
                        "alt": image.alt,
                        "caption": image.caption,
                        "before": before,
                        "after": after[place + 1],
                    }
                )
    return captions, references


def _seconds(date: str) -> int:
    """WARC-Date as seconds since 1970; 0 if it is none."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
