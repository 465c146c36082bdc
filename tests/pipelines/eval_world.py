"""Pages and evaluation sets to compare: files of items, and what decontaminate tells of pages."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import schema
from engine.stage import Unit
from pipelines import decontaminate
from tests.offline import OfflineWork, collect

Row = dict[str, Any]
PAGES = pa.schema([schema.DOCUMENTS.field(name) for name in decontaminate.COLUMNS])


def words(seed: int, num: int) -> str:
    """Words that no other seed has."""
    return " ".join(f"w{seed}x{i}" for i in range(num))


def page(row: int, *items: str) -> Row:
    """A page; "!" is an image."""
    return {
        "row": row,
        "items": [
            {
                "kind": "image" if text == "!" else "text",
                "text": "" if text == "!" else text,
                "block": "p",
                "level": 0,
                "image": -1,
            }
            for text in items
        ],
    }


def write(folder: Path, name: str, lines: Sequence[Any]) -> str:
    """A file of the lines; what is no text is JSON."""
    body = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
    path = folder / name
    path.write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
    return str(path)


def config(*sets: str, **more: Any) -> decontaminate.Config:
    return decontaminate.resolved(decontaminate.Config(sets=sets, **more))


def look(
    config: decontaminate.Config, pages: Sequence[Row], dropped: frozenset[int] = frozenset()
) -> tuple[list[Row], Counter[str]]:
    """The rows that are told and the counts, of pages with images as documents and of others as texts."""
    images = [any(item["kind"] == "image" for item in one["items"]) for one in pages]
    kinds = {
        name: pa.Table.from_pylist([one for one, shows in zip(pages, images, strict=True) if shows is wanted], PAGES)
        for name, wanted in (("documents", True), ("texts", False))
    }
    judged = [{"row": one["row"], "reason": 60 if one["row"] in dropped else 0, "value": 0.0} for one in pages]
    work = OfflineWork(
        unit=Unit(id="0" * 24),
        scratch=Path(),
        tables={
            ("judge", "judgements"): pa.Table.from_pylist(judged, schema.JUDGEMENTS),
            ("extract", "documents"): kinds["documents"],
            ("extract", "texts"): kinds["texts"],
        },
    )
    found = collect(decontaminate.process, config, work, decontaminate.OUTPUTS)["contaminated"].to_pylist()
    assert work.counts["kept"] + work.counts["contaminated"] == len(pages) - len(dropped)
    return found, work.counts
