"""A block of pages before it is assembled: documents with candidates, what every stage before said of them."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from engine import schema
from engine.stage import Unit
from pipelines.reasons import Reason
from tests.offline import OfflineWork
from tests.pipelines.test_match import UNIT, doc

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A candidate image of a document, as match found it; bytes and looks by number."""

    image: int
    body: int = 0
    looks: int = 0
    reason: int = 0
    value: float = 0.0
    repeated: tuple[int, ...] = ()  # in so many documents, by one hash and by the other

    @property
    def jpeg(self) -> bytes:
        return b"\xff\xd8" + b"%d" % self.body * 3


@dataclass(frozen=True, kw_only=True)
class Document:
    """A page of `documents`: items are texts, (block, text) or indices of images; images are captions."""

    unit: int
    row: int
    items: tuple[str | tuple[str, str] | int, ...] = ()
    images: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] | None = ()  # None: select has no image of it
    alike: int = 1
    recurring: tuple[int, ...] = ()  # items that its site repeats

    @property
    def doc(self) -> int:
        return doc(self.row, self.unit)

    @property
    def doc_id(self) -> bytes:
        return hashlib.sha256(b"%d" % self.doc).digest()[:16]

    def extracted(self) -> Row:
        items = []
        for item in self.items:
            kind = "text" if isinstance(item, str | tuple) else "image"
            block, text = item if isinstance(item, tuple) else ("p", item) if isinstance(item, str) else ("", "")
            image = item if isinstance(item, int) else -1
            items.append({"kind": kind, "text": text, "block": block, "level": 1, "image": image})
        images = [
            {"url": f"http://h/{self.row}/{i}", "alt": f"alt {i}", "caption": c, "title": "", "width": i, "height": 0}
            for i, c in enumerate(self.images)
        ]
        return {**self.page(), "row": self.row, "items": items, "images": images}

    def page(self) -> Row:
        name = f"{self.unit}-{self.row}"
        return {
            "doc_id": self.doc_id,
            "url": f"http://h/{name}",
            "host": "h",
            "crawl": "c",
            "fetched_at": datetime(2024, 1, 1 + self.row % 28, tzinfo=UTC),
            "warc": {"file": f"w{self.unit}", "offset": self.row * 10, "length": 9, "record_id": name},
            "lang": {"code": "en", "score": 0.5},
            "rights": {"robots": "", "meta": "", "tdm": ""},
            "title": f"page {name}",
        }

    def scores(self) -> Row:
        return {
            f.name: bool(self.row % 2) if pa.types.is_boolean(f.type) else self.row % 100 for f in schema.CURATED_SCORES
        }


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of `num_units` units. Unit i % 3 of generation 1 + i % 2 of fetch, or of follow where i % 5 is over 2,
    holds the JPEG with the number i."""

    documents: tuple[Document, ...]
    num_units: int = 1
    texts: tuple[tuple[int, int], ...] = ()  # (unit, row) of pages without images
    first: int = 0
    fetched: dict[tuple[str, int, int], dict[str, Any]] = field(default_factory=dict)

    def place(self, body: int, jpeg: bytes) -> Row:
        """Where the JPEG lies, put there if it is not yet."""
        followed, generation, unit = body % 5 > 2, 1 + body % 2, body % 3
        commit = self.fetched.setdefault(("follow" if followed else "fetch", generation, unit), {"blob": b"head"})
        if jpeg not in commit["blob"]:
            commit["blob"] += jpeg + b"|"
        offset = commit["blob"].index(jpeg)
        place = {"generation": generation, "unit": unit, "file": 0, "offset": offset, "length": len(jpeg)}
        return {"followed": followed, **place}

    def work(self, order: random.Random | None = None) -> OfflineWork:
        extracted: list[dict[str, pa.Table]] = []
        for unit in range(self.num_units):
            own = sorted((d for d in self.documents if d.unit == self.first + unit), key=lambda d: d.row)
            plain = [Document(unit=u, row=row) for u, row in self.texts if u == self.first + unit]
            scores = [{**dict.fromkeys(schema.SCORES.names, 0), "doc_id": d.doc_id, "interspersed": False, "row": d.row}
                      | d.scores() for d in sorted([*own, *plain], key=lambda d: d.row)]  # fmt: skip
            extracted.append(
                {
                    "documents": pa.Table.from_pylist([d.extracted() for d in own], schema.DOCUMENTS),
                    "scores": pa.Table.from_pylist(scores, schema.SCORES),
                }
            )
        pages, images, repeated, clusters, recurring = [], [], [], [], []
        for d in sorted(self.documents, key=lambda d: d.doc):
            chosen = d.candidates is not None
            value = len(d.candidates or ())
            reason = 0 if chosen else int(Reason.NO_CANDIDATE)
            pages.append({"doc": d.doc, "doc_id": d.doc_id, "reason": reason, "value": value})
            images += [self.matched(d, candidate) for candidate in d.candidates or ()]
            repeated += [
                {"doc": d.doc, "image": candidate.image, "docs": docs}
                for candidate in d.candidates or ()
                for docs in candidate.repeated
            ]
            recurring += [{"doc": d.doc, "item": item, "docs": 3} for item in d.recurring]
            if d.alike > 1:
                clusters.append({"doc": d.doc, "reason": 0, "keeper": d.doc, "cluster": d.doc - 1, "size": d.alike})
        if order:
            order.shuffle(images)
            order.shuffle(repeated)
            order.shuffle(recurring)
        block = self.first // 256
        frozen: dict[tuple[str, int], list[Any]] = {("extract", 0): [*[{}] * self.first, *extracted]}
        for stage, generation in itertools.product(("fetch", "follow"), (1, 2)):
            frozen[stage, generation] = [self.fetched.get((stage, generation, n), {"blob": b""}) for n in range(3)]

        def parts(rows: list[Row], declared: pa.Schema) -> list[pa.Table]:
            return [declared.empty_table()] * block + [pa.Table.from_pylist(rows, declared)]

        return OfflineWork(
            unit=Unit(id=UNIT, inputs=(str(self.first), str(self.num_units))),
            scratch=Path(),
            frozen=frozen,
            parts={
                ("select", "verdicts", 0): parts(pages, schema.SELECTIONS),
                ("match", "images", 0): parts(images, schema.MATCHED.remove(0)),
                ("repeats", "images", 0): parts(repeated, schema.REPEATED.remove(0)),
                ("recurring", "items", 0): parts(recurring, schema.RECURRING.remove(0)),
                ("decide", "verdicts", 0): parts(clusters, schema.DEDUPE_VERDICTS.remove(0)),
            },
            generation=SimpleNamespace(number=1, earlier=lambda name: (1, 2)),
        )

    def matched(self, document: Document, candidate: Candidate) -> Row:
        nothing = dict.fromkeys(schema.MATCHED.remove(0).names, 0)
        found: Row = {"sha256": hashlib.sha256(candidate.jpeg).digest(), "phash": candidate.looks}
        return {
            **nothing,
            "followed": False,
            **found,
            **({} if candidate.reason else self.place(candidate.body, candidate.jpeg)),
            "doc": document.doc,
            "image": candidate.image,
            "url_id": bytes(32),
            "url_docs": candidate.body + 1,
            "reason": candidate.reason,
            "value": candidate.value,
            "width": 640 + candidate.body,
            "height": 480,
            "stored_width": 320 + candidate.body,
            "stored_height": 240,
            "format": 1 + candidate.body % 2,
        }
