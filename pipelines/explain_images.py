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
from engine.chain import Chain
from engine.ledger import Commit, Ledger
from engine.recipe import Recipe
from engine.stage import Stage
from engine.vocab import STREAMS
from engine.work import read_parts, read_rows
from pipelines import explain_dedupe, ids
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
    if reason == Reason.SAME_IMAGES:
        what = _twin(recipe, ledger, number, block, doc)
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
    """What is on record of an image's canonical address, and where it moved to."""
    wanted = url_id(url)
    column = pa.array([wanted], pa.binary(ids.ID_BYTES))
    part = int(ids.partitions(ids.ids(column), recipe.stage("frequency").config.cut.partitions)[0])
    for name in ("fetch", "follow"):
        stage = recipe.stage(name)
        for commit in sorted(ledger.commits(stage.key), key=lambda commit: commit.generation):
            for row in _of(ledger, stage, commit, "outcomes", part, wanted):
                moves = _of(ledger, stage, commit, "moves", part, wanted) if row["reason"] == Reason.MOVED else []
                yield _answer(url, stage, row, moves)
    yield from _over_budget(recipe, ledger, url, part, wanted)
    yield from _gated(recipe, ledger, url, part, wanted)
    shown = [
        row["docs"]
        for number in ledger.generations(recipe.stage("frequency").key)
        for row in _rows(ledger, recipe.stage("frequency"), number, part, "counts", "url_id", wanted)
    ]
    if shown:
        documents = f"shown by {max(shown)} document{'s' if max(shown) > 1 else ''}"
        yield Finding(where=url, stage="select", outcome="counted", detail=documents)


def _answer(url: str, stage: Stage, row: dict[str, Any], moves: list[dict[str, Any]]) -> Finding:
    """One outcome, as a finding; moves: where the address moved to."""
    reason = Reason(row["reason"])
    size = f", {row['width']} x {row['height']}" if row["width"] else ""
    body = f", {row['num_bytes']:,} bytes" if row["num_bytes"] else ""
    # of a move, how many redirects it took
    value = f", {_value(row['value'])}" if row["value"] and not moves else ""
    there = "".join(f", to {move['url']} of {move['domain']}" for move in moves)
    outcome = "fetched" if reason == Reason.KEPT else reason.word
    tries = f"try {row['tries']}" if row["tries"] else "no try"
    return Finding(where=url, stage=stage.name, outcome=outcome, detail=f"{tries}{size}{body}{value}{there}")


def _gated(recipe: Recipe, ledger: Ledger, url: str, part: int, wanted: bytes) -> Iterator[Finding]:
    """What the image gate said of an address, in each generation that wanted it; a page tells its own."""
    stage = recipe.stage("match")
    for number in ledger.generations(stage.key):
        rows = _rows(ledger, stage, number, part, "images", "url_id", wanted)
        if rows:
            reason, num = Reason(rows[0]["reason"]), len({row["doc"] for row in rows})
            what = f"generation {number}, wanted by {num} document{'s' if num > 1 else ''}"
            value = f", {_value(rows[0]['value'])}" if reason and rows[0]["value"] else ""
            yield Finding(where=url, stage="match", outcome=f"image {reason.word}", detail=f"{what}{value}")


def _over_budget(recipe: Recipe, ledger: Ledger, url: str, part: int, wanted: bytes) -> Iterator[Finding]:
    """The generations that left an address out because its domain has so many."""
    stage = recipe.stage("budget")
    standing = Chain(recipe, ledger).standing()
    for commit in sorted(ledger.commits(stage.key), key=lambda commit: commit.generation):
        if commit.generation in standing and commit.rows("left"):
            for row in _of(ledger, stage, commit, "left", part, wanted):
                most = f"select.schedule.domain_budget is {row['value']:,.0f}"
                detail = f"generation {commit.generation}, {most}"
                yield Finding(where=url, stage=stage.name, outcome=Reason(row["reason"]).word, detail=detail)


def _of(ledger: Ledger, stage: Stage, commit: Commit, output: str, part: int, wanted: bytes) -> list[dict[str, Any]]:
    """Rows of an address in one partition of an output of a commit."""
    columns = stored_schema(stage.output(output))
    table = pa.Table.from_batches(read_parts(ledger.store, columns, commit.outputs[output], part), columns)
    own = pc.equal(table["url_id"], pa.scalar(wanted, pa.binary(ids.ID_BYTES)))
    rows: list[dict[str, Any]] = table.filter(own).to_pylist()
    return rows


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
    gone = _table(recipe, ledger, ("assemble", "recurring", "items"), number, block, doc).num_rows
    which = "1 paragraph that its site repeats" if gone == 1 else f"{gone} paragraphs that its site repeats"
    return f"; {which} went" if gone else ""


def _twin(recipe: Recipe, ledger: Ledger, number: int, block: int, doc: int) -> str:
    """Whose images a document shows, from all partitions of the sets of images."""
    found = _table(recipe, ledger, ("select", "frequency", "twins"), number, block, doc).to_pylist()
    if not found:
        return ""
    keeper = found[0]["keeper"]
    page = explain_dedupe.page(recipe, ledger, keeper)
    whose = f"document {keeper:#x}, whose WARC file this store no longer has; run `kosmos verify`"
    if page is not None:
        whose = f"{page['url']} ({page['crawl'] or 'local file'}, generation {keeper >> 48})"
    return f"its {found[0]['images']} images are those of {whose} (select.choice.same_images)"


def _table(recipe: Recipe, ledger: Ledger, source: tuple[str, str, str], number: int, block: int, doc: int) -> pa.Table:
    """Rows of a document in one block of an output, over all units that a reader froze: (reader, stage, output)."""
    reader, stage = recipe.stage(source[0]), recipe.stage(source[1])
    columns = stored_schema(stage.output(source[2]))
    generation = ledger.generation(reader.key, number)
    if generation is None:
        return columns.empty_table()

    def own(commit: Commit) -> pa.Table:
        table = pa.Table.from_batches(read_parts(ledger.store, columns, commit.outputs[source[2]], block), columns)
        return table.filter(pc.equal(table["doc"], pa.scalar(doc, schema.DOC.type)))

    units = [commit.unit for commit in ledger.manifest(generation.manifests[stage.name][1])]
    with ThreadPoolExecutor(16) as pool:
        return pa.concat_tables([columns.empty_table(), *pool.map(own, ledger.commits(stage.key, units))])


def _value(value: float) -> str:
    return f"value {value:.4g}" if value else ""
