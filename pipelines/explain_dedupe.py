"""`why`, the middle: what a page holds of evaluation sets, and which page stays for it.

Of verdicts and of pages only the record batches that hold the wanted ones are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.arrow import File, read_batch, stored_schema
from engine.chain import Chain
from engine.ledger import Commit, Ledger
from engine.recipe import Recipe
from engine.stage import Output, Stage
from engine.store import Store
from engine.work import read_parts, read_rows
from pipelines import decontaminate, dedupe, evalsets, jaccard
from pipelines.dedupe import BLOCK, GENERATION_SHIFT, MAX_ORDINAL, MAX_ROW, ORDINAL_SHIFT
from pipelines.finding import Finding
from pipelines.reasons import Reason
from pipelines.sign import page_texts

TOLD = 3  # items that are named of a page
SAME = 5e-5  # similarities closer than this read alike


def contaminated(stage: Stage, ledger: Ledger, commit: Commit, where: str, row: int) -> Finding:
    """What a page has of evaluation sets; commit: of extract. The files of the sets need not be there."""
    found = read_rows(ledger.store, ledger.commit(stage.key, commit.unit).outputs["contaminated"])
    mine = found.filter(pc.equal(found["row"], pa.scalar(row, pa.uint32()))).to_pylist()
    config: decontaminate.Config = stage.config
    names = [source.name for source in evalsets.sources(config.sets)]
    mine.sort(key=lambda hit: (-hit["covered"], hit["set"], hit["item"]))
    # files are read by people, who count lines from 1
    told = [
        f"set {names[hit['set']]} line {hit['item'] + 1}, {hit['covered']:.2f} of its {config.ngram}-grams"
        for hit in mine[:TOLD]
    ]
    if len(mine) > TOLD:
        told.append(f"and {len(mine) - TOLD:,} more items")
    bound = f" (decontaminate.min_covered is {config.min_covered:g})" if mine else ""
    # the one that has most decides
    outcome = Reason(mine[0]["reason"]) if mine else Reason.KEPT
    return Finding(where=where, stage=stage.name, outcome=outcome.word, detail="; ".join(told) + bound)


def number(recipe: Recipe, ledger: Ledger, unit: str, row: int) -> int:
    """The doc of a page, 0 if its unit is in no generation yet."""
    chain = Chain(recipe, ledger)
    for generation in chain.standing():
        units = _units(recipe, ledger, generation)
        if unit in units:
            return generation << int(GENERATION_SHIFT) | units.index(unit) << int(ORDINAL_SHIFT) | row
    return 0


def deduped(recipe: Recipe, ledger: Ledger, where: str, doc: int) -> Finding | None:
    """What became of a page among its like; None if that is not decided yet."""
    decide = recipe.stage("decide")
    generation = doc >> int(GENERATION_SHIFT)
    decided = ledger.generation(decide.key, generation)
    if decided is None or not ledger.is_committed(decide.key, decided.unit_id(0)):
        return None
    output = decide.output("verdicts")
    files = ledger.commit(decide.key, decided.unit_id(0)).outputs[output.name]
    part = (doc >> int(ORDINAL_SHIFT) & MAX_ORDINAL - 1) // BLOCK
    verdicts = pa.Table.from_batches(
        read_parts(ledger.store, stored_schema(output), files, part), stored_schema(output)
    )
    mine = verdicts.filter(pc.equal(verdicts["doc"], pa.scalar(doc, pa.uint64()))).to_pylist()
    reason = Reason(mine[0]["reason"]) if mine else Reason.KEPT
    if reason == Reason.KEPT:
        alike = f", the best of {mine[0]['size']:,} that are linked" if mine else ""
        return Finding(where=where, stage="dedupe", outcome="kept", detail=f"generation {generation}{alike}")
    keeper = _keeper(recipe, ledger, doc, mine[0]["keeper"], reason, mine[0]["similarity"])
    return Finding(where=where, stage="dedupe", outcome=reason.word, detail=f"generation {generation}, {keeper}")


def _keeper(recipe: Recipe, ledger: Ledger, doc: int, keeper: int, reason: Reason, similarity: float) -> str:
    """Which page stays for this one, how alike they are, counted on their texts whatever the sketches said, and the
    setting that decided."""
    kept, own = page(recipe, ledger, keeper), page(recipe, ledger, doc)
    if kept is None or own is None:
        return f"kept: document {keeper:#x}, whose WARC file this store no longer has; run `kosmos verify`"
    whose = f"kept: {kept['url']} ({kept['crawl'] or 'local file'}, generation {keeper >> int(GENERATION_SHIFT)})"
    if reason == Reason.DUPLICATE_TEXT:
        return f"{whose}, the same text"
    alike = jaccard.of_texts(*(page_texts(one["items"])[0][0].as_py() for one in (own, kept)))
    if reason == Reason.DUPLICATE_URL:
        return f"{whose}, the same address, similarity {alike:.4f}"
    return f"{whose}, similarity {alike:.4f}, {_rule(recipe.stage('decide').config, alike, similarity)}"


def _rule(config: dedupe.Config, alike: float, similarity: float) -> str:
    """Why two pages count as near duplicates; similarity: what the verdict holds."""
    if config.components:
        return "the best of all that are linked, directly or not (dedupe.components)"
    if not config.verify:
        return "they share a band (dedupe.verify is off)"
    estimated = f"{similarity:.4f} by their sketches, " if abs(similarity - alike) > SAME else ""
    return f"{estimated}dedupe.threshold is {config.threshold:g}"


def page(recipe: Recipe, ledger: Ledger, doc: int) -> dict[str, Any] | None:
    """url, crawl and items (an array of one) of a page by its number; None if it is nowhere."""
    extract = recipe.stage("extract")
    units = _units(recipe, ledger, doc >> int(GENERATION_SHIFT))
    ordinal = doc >> int(ORDINAL_SHIFT) & MAX_ORDINAL - 1
    if ordinal >= len(units):
        return None
    commit = ledger.commit(extract.key, units[ordinal])
    for name in ("documents", "texts"):
        found = _at(ledger.store, extract.output(name), commit.outputs[name], doc & MAX_ROW - 1)
        if found is not None:
            return {"url": found["url"][0].as_py(), "crawl": found["crawl"][0].as_py(), "items": found["items"]}
    return None


def _units(recipe: Recipe, ledger: Ledger, generation: int) -> list[str]:
    """The units of a generation, by ordinals."""
    head = ledger.generation(Chain(recipe, ledger).head.key, generation)
    return [] if head is None else [commit.unit for commit in ledger.manifest(head.manifests["sign"][1])]


def _at(store: Store, output: Output, files: Sequence[File], row: int) -> pa.RecordBatch | None:
    """The page of that number as a batch of one; `row` ascends, so that a few batches are read and not the file."""
    batches = [(file, batch) for file in files for batch in file.batches]
    low, high = 0, len(batches)
    while low < high:
        middle = (low + high) // 2
        file, batch = batches[middle]
        found = read_batch(stored_schema(output), store.get_range(file.path, batch.offset, batch.length), file.path)
        rows = found["row"].to_numpy()
        if len(rows) and rows[0] <= row <= rows[-1]:
            place = int(rows.searchsorted(row))
            return found.slice(place, 1) if rows[place] == row else None
        low, high = (middle + 1, high) if len(rows) and rows[-1] < row else (low, middle)
    return None
