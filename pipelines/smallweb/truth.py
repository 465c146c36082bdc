"""What the bundled web knows of itself: one line a WARC record, and the fate of every duplicate.

`expected_dedupe` says which page of a cluster stays. A document's id is the sha256 of "file\\noffset", as everywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipelines.smallweb.markup import StreamItem
from pipelines.smallweb.page import stage
from pipelines.smallweb.pictures import Picture
from pipelines.smallweb.robots import Robots

MOST_IMAGES = 5  # a page with more images is no better for it
DUPLICATES = {"url": "duplicate_url", "exact": "duplicate_text", "near": "near_duplicate"}
Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One WARC record.

    file is crawl-relative, ordinal counts from 0 in the file, offset and length are bytes of its gzip member. kind is
    the layout, quirk or plant of a capture, "" for requests and the like. reason is what should become of it under the
    preset kosmos1 if there were no duplicates; strict that under the preset obelics where it is another. jaccard is
    that of the word 5-grams with the cluster's original. words and images count the stream, which only what survives
    extract has; text names its words. declared: (image, width, height) where the page says that an image is of another
    size than it is; 0 where it does not say.
    """

    file: str
    ordinal: int
    offset: int
    length: int
    type: str
    reason: str
    strict: str = ""
    kind: str = ""
    url: str = ""
    cluster: str = ""
    relation: str = ""
    jaccard: float = 0.0
    words: int = 0
    images: int = 0
    text: str = ""
    stream: tuple[StreamItem, ...] = ()
    declared: tuple[tuple[int, int, int], ...] = ()

    @property
    def stage(self) -> str:
        """Where it ends: "extract", "judge", or "" if it is kept."""
        return stage(self.reason)

    @property
    def crawl(self) -> str:
        """The crawl of its file."""
        return self.file.split("/")[1]

    @property
    def key(self) -> Key:
        """What names the record: file and offset."""
        return self.file, self.offset

    @property
    def doc_id(self) -> bytes:
        """The id of its document."""
        return hashlib.sha256(f"{self.file}\n{self.offset}".encode()).digest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """All records in the order of files and offsets, all pictures by address, and what robots.txt says by host."""

    records: tuple[Record, ...]
    pictures: tuple[Picture, ...]
    robots: tuple[Robots, ...] = ()

    def files(self, crawl: str = "") -> list[str]:
        """The WARC files, of one crawl or of all, sorted."""
        return sorted({record.file for record in self.records if crawl in ("", record.crawl)})

    def kept(self) -> list[Record]:
        """The records that survive extract and judge."""
        return [record for record in self.records if record.reason == "kept"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What deduplication does to a page: a reason's word, and the key of the page that stays in its place."""

    reason: str
    keeper: Key


def line(value: Record | Picture | Robots) -> str:
    """A JSON line without what is empty."""
    full = {name: item for name, item in asdict(value).items() if item not in ("", 0, 0.0, ())}
    return json.dumps(full, ensure_ascii=False, separators=(",", ":"))


def save(truth: Truth, directory: Path) -> None:
    """Write truth.jsonl, images.jsonl and robots.jsonl."""
    files: dict[str, Iterable[Record | Picture | Robots]] = {
        "truth.jsonl": truth.records,
        "images.jsonl": truth.pictures,
        "robots.jsonl": truth.robots,
    }
    for name, rows in files.items():
        (directory / name).write_text("".join(line(value) + "\n" for value in rows), encoding="utf-8")


def load(directory: Path) -> Truth:
    """Read what `save` has written."""
    records = [Record(**filled(Record, row)) for row in rows_of(directory / "truth.jsonl")]
    pictures = [Picture(**filled(Picture, row)) for row in rows_of(directory / "images.jsonl")]
    robots = [Robots(**filled(Robots, row)) for row in rows_of(directory / "robots.jsonl")]
    return Truth(records=tuple(records), pictures=tuple(pictures), robots=tuple(robots))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").split("\n") if text]


def filled(kind: type[Record] | type[Picture] | type[Robots], row: dict[str, Any]) -> dict[str, Any]:
    """The row with empty values for what `line` left out."""
    empty: dict[str, Any] = {"int": 0, "float": 0.0, "str": ""}
    whole = {field.name: row.get(field.name, empty.get(str(field.type), ())) for field in fields(kind)}
    for name in ("stream", "declared"):
        if name in whole:
            whole[name] = tuple(tuple(item) for item in whole[name])
    return whole


def relation(one: Record, other: Record) -> str:
    """How two records of a cluster are duplicates: the strongest of url, exact, near."""
    if one.url == other.url:
        return "url"
    return "exact" if one.text == other.text else "near"


def expected_dedupe(truth: Truth, generations: list[set[str]]) -> dict[Key, Fate]:
    """The fate of every kept page, when the files of each set are taken in as one generation.

    Of a cluster one page stays: of the earliest generation, then with more images (up to five), then with more words,
    then with the smaller doc_id. A page that stays is its own keeper.
    """
    clusters: defaultdict[str, list[tuple[int, Record]]] = defaultdict(list)
    fates: dict[Key, Fate] = {}
    for number, files in enumerate(generations):
        for record in truth.kept():
            if record.file not in files:
                continue
            if record.cluster:
                clusters[record.cluster].append((number, record))
            else:
                fates[record.key] = Fate(reason="kept", keeper=record.key)
    for members in clusters.values():
        _, keeper = min(
            members,
            key=lambda item: (item[0], -min(item[1].images, MOST_IMAGES), -item[1].words, item[1].doc_id),
        )
        for _, record in members:
            reason = "kept" if record is keeper else DUPLICATES[relation(record, keeper)]
            fates[record.key] = Fate(reason=reason, keeper=keeper.key)
    return fates
