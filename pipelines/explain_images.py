"""`why`, the image half: what became of a document, its images and its training rows, and what a server said of an
address."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine import schema
from engine.arrow import stored_schema
from engine.ledger import Commit, Ledger
from engine.recipe import Recipe
from engine.stage import Stage
from engine.vocab import STREAMS
from engine.work import read_parts, read_rows
from pipelines import ids
from pipelines.dedupe import BLOCK, MAX_ORDINAL, MAX_ROW
from pipelines.finding import Finding
from pipelines.reasons import Reason
from pipelines.urls import url_id


def document(recipe: Recipe, ledger: Ledger, extracted: Commit, where: str, doc: int) -> Iterator[Finding]:
    """Findings on a document that dedupe kept, from its images to its shard."""
    number, ordinal, row = doc >> 48, doc >> 24 & MAX_ORDINAL - 1, doc & MAX_ROW - 1
    block = ordinal // BLOCK
    select, assemble = recipe.stage("select"), recipe.stage("assemble")
    chosen = mine(ledger, select, number, block, "verdicts", doc)
    if not chosen:
        yield Finding(where=where, stage="select", outcome="not yet", detail=f"kosmos run {recipe.name} goes on")
        return
    reason = Reason(chosen[0]["reason"])
    pages = read_rows(ledger.store, extracted.outputs["documents"], ("row", "images"))
    page = pages.filter(pc.equal(pages["row"], row)).to_pylist()
    urls = [image["url"] for image in page[0]["images"]] if page else []
    for stage in (recipe.stage("refer"), select):
        for fate in mine(ledger, stage, number, block, "refused", doc):
            yield _image(where, stage, fate, urls)
    what = f"{chosen[0]['value']:g} candidates" if reason == Reason.KEPT else _value(chosen[0]["value"])
    yield Finding(where=where, stage="select", outcome=reason.word, detail=what)
    if reason != Reason.KEPT:
        return
    ended = mine(ledger, assemble, number, block, "verdicts", doc)
    if not ended:
        yield Finding(where=where, stage="assemble", outcome="not yet", detail=f"kosmos run {recipe.name} goes on")
        return
    fates = mine(ledger, assemble, number, block, "fates", doc)
    for fate in fates:
        yield _image(where, assemble, fate, urls)
    reason = Reason(ended[0]["reason"])
    if reason == Reason.KEPT:
        place = _place(ledger, assemble, number, block, doc) + _cut(recipe, ledger, number, block, doc)
    elif reason == Reason.NO_TEXT_LEFT:
        place = f"all of it were paragraphs that its site repeats, {ended[0]['value']:.0f}"
    else:
        place = _value(ended[0]["value"])
    yield Finding(where=where, stage="assemble", outcome=reason.word, detail=place)
    if reason == Reason.KEPT:
        shown = [urls[fate["image"]] for fate in fates if fate["reason"] == Reason.KEPT]
        yield from _packed(recipe, ledger, number, block, doc, where, shown)


def _packed(
    recipe: Recipe, ledger: Ledger, number: int, block: int, doc: int, where: str, urls: list[str]
) -> Iterator[Finding]:
    """What became of a curated document's text and images; urls: of its images, in order."""
    found = mine(ledger, recipe.stage("tokenise"), number, block, "verdicts", doc)
    if not found:
        yield Finding(where=where, stage="pack", outcome="not yet", detail=f"kosmos run {recipe.name} goes on")
    for row in found:
        stream, reason = STREAMS[row["stream"]], Reason(row["reason"])
        which = f"{urls[row['index']]} " if stream == "caption" else ""
        what = f"{row['value']:g} tokens" if reason == Reason.KEPT else _value(row["value"])
        yield Finding(where=where, stage="pack", outcome=f"{stream} {reason.word}", detail=f"{which}{what}".strip())


def _image(where: str, stage: Stage, fate: dict[str, Any], urls: list[str]) -> Finding:
    detail = " ".join(part for part in (urls[fate["image"]], _value(fate["value"])) if part)
    return Finding(where=where, stage=stage.name, outcome=f"image {Reason(fate['reason']).word}", detail=detail)


def address(recipe: Recipe, ledger: Ledger, url: str) -> Iterator[Finding]:
    """What is on record of an image's canonical address."""
    fetch = recipe.stage("fetch")
    outcomes = fetch.output("outcomes")
    wanted = url_id(url)
    column = pa.array([wanted], pa.binary(ids.ID_BYTES))
    part = int(ids.partitions(ids.ids(column), recipe.stage("frequency").config.cut.partitions)[0])
    for commit in sorted(ledger.commits(fetch.key), key=lambda commit: commit.generation):
        batches = read_parts(ledger.store, stored_schema(outcomes), commit.outputs["outcomes"], part)
        table = pa.Table.from_batches(batches, stored_schema(outcomes))
        for row in table.filter(pc.equal(table["url_id"], pa.scalar(wanted, pa.binary(ids.ID_BYTES)))).to_pylist():
            reason = Reason(row["reason"])
            size = f", {row['width']} x {row['height']}" if row["width"] else ""
            body = f", {row['num_bytes']:,} bytes" if row["num_bytes"] else ""
            detail = f"try {row['tries']}{size}{body}" + (f", {_value(row['value'])}" if row["value"] else "")
            outcome = "fetched" if reason == Reason.KEPT else reason.word
            yield Finding(where=url, stage="fetch", outcome=outcome, detail=detail)
    shown = [
        row["docs"]
        for number in ledger.generations(recipe.stage("frequency").key)
        for row in _rows(ledger, recipe.stage("frequency"), number, part, "counts", "url_id", wanted)
    ]
    if shown:
        documents = f"shown by {max(shown)} document{'s' if max(shown) > 1 else ''}"
        yield Finding(where=url, stage="select", outcome="counted", detail=documents)


def mine(ledger: Ledger, stage: Stage, number: int, part: int, output: str, doc: int) -> list[dict[str, Any]]:
    """Rows of a document in one output of one unit of a barrier stage; none if there is no such unit yet."""
    return _rows(ledger, stage, number, part, output, "doc", doc)


def _rows(
    ledger: Ledger, stage: Stage, number: int, part: int, output: str, column: str, value: int | bytes
) -> list[dict[str, Any]]:
    """Rows of one unit of a barrier stage whose column has the value; none if there is no such unit yet."""
    generation = ledger.generation(stage.key, number)
    if generation is None or not ledger.is_committed(stage.key, generation.unit_id(part)):
        return []
    table = read_rows(ledger.store, ledger.commit(stage.key, generation.unit_id(part)).outputs[output])
    rows: list[dict[str, Any]] = table.filter(pc.equal(table[column], pa.scalar(value, table[column].type))).to_pylist()
    return rows


def _place(ledger: Ledger, assemble: Stage, number: int, block: int, doc: int) -> str:
    """The shard and the row of a document: shards hold the kept documents in order."""
    generation = ledger.generation(assemble.key, number)
    if generation is None:
        return ""
    commit = ledger.commit(assemble.key, generation.unit_id(block))
    verdicts = read_rows(ledger.store, commit.outputs["verdicts"], ("doc", "reason"))
    kept = verdicts.filter(pc.equal(verdicts["reason"], pa.scalar(0, pa.uint16())))
    row = pc.sum(pc.less(kept["doc"], pa.scalar(doc, schema.DOC.type))).as_py() or 0
    for file in commit.outputs["curated"]:
        if row < file.rows:
            return f"row {row} of {file.path}"
        row -= file.rows
    return ""


def _cut(recipe: Recipe, ledger: Ledger, number: int, block: int, doc: int) -> str:
    """How many paragraphs of a document went, from all partitions of the paragraphs."""
    stage = recipe.stage("recurring")
    generation = ledger.generation(recipe.stage("assemble").key, number)
    if generation is None:
        return ""
    output = stage.output("items")

    def count(commit: Commit) -> int:
        batches = read_parts(ledger.store, stored_schema(output), commit.outputs[output.name], block)
        items = pa.Table.from_batches(batches, stored_schema(output))
        return int(pc.sum(pc.equal(items["doc"], pa.scalar(doc, schema.DOC.type))).as_py() or 0)

    units = [commit.unit for commit in ledger.manifest(generation.manifests[stage.name][1])]
    with ThreadPoolExecutor(16) as pool:
        gone = sum(pool.map(count, ledger.commits(stage.key, units)))
    which = "1 paragraph that its site repeats" if gone == 1 else f"{gone} paragraphs that its site repeats"
    return f"; {which} went" if gone else ""


def _value(value: float) -> str:
    return f"value {value:.4g}" if value else ""
