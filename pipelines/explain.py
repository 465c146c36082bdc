"""`why`: what became of a page, a document or a unit, stage by stage, with the value that decided.

A page is found by one small range read a WARC: verdicts are sorted by the hash of the address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow.compute as pc

from engine import schema
from engine.errors import ConfigError
from engine.ledger import QUARANTINE, Commit, Ledger
from engine.lookup import find
from engine.recipe import Recipe
from engine.work import read_rows
from pipelines import explain_dedupe, explain_images, extract, judge
from pipelines.finding import Finding
from pipelines.reasons import Reason
from pipelines.urls import canonical, url_hash

DOC_ID = re.compile(r"[0-9a-f]{32}")
READS = 16  # WARC files looked into at once
UNIT_ID = re.compile(r"[0-9a-f]{24}|[0-9a-f]{12}-[0-9]{6}")


def why(recipe: Recipe, ledger: Ledger, query: str) -> list[Finding]:
    """Findings on an address of a page or an image, a doc_id (32 hex digits) or a unit id, in order; ConfigError if
    nothing is known."""
    if not ledger.check(create=False):
        raise ConfigError(f"{ledger.store.url} is empty; run `kosmos run {recipe.name}` first")
    address = canonical(query)
    if address:
        found = [*_page(recipe, ledger, address), *explain_images.address(recipe, ledger, address)]
    elif DOC_ID.fullmatch(query):
        found = list(_document(recipe, ledger, bytes.fromhex(query)))
    elif UNIT_ID.fullmatch(query):
        found = list(_unit(recipe, ledger, query))
    else:
        raise ConfigError(f"{query!r} is no http(s) address, no doc_id (32 hex digits) and no unit id")
    if not found:
        raise ConfigError(
            f"{query} is in no WARC that {recipe.name} has read here, and no image that was asked for; `kosmos status` "
            "shows what was read"
        )
    return found


def _page(recipe: Recipe, ledger: Ledger, address: str) -> Iterator[Finding]:
    extract = recipe.stage("extract")
    wanted = url_hash(address)

    def look(commit: Commit) -> tuple[Commit, list[dict[str, int]]]:
        return commit, find(ledger.store, schema.VERDICTS, commit.outputs["verdicts"], "url_hash", wanted)

    with ThreadPoolExecutor(READS) as pool:
        for commit, rows in pool.map(look, ledger.commits(extract.key)):
            # a capture is three records with one address: only the response has a story
            stories = [row for row in rows if row["reason"] != Reason.NOT_RESPONSE]
            for row in sorted(stories, key=lambda row: row["offset"]):
                yield from _record(recipe, ledger, commit, row["offset"], Reason(row["reason"]), row["value"])


def _record(
    recipe: Recipe, ledger: Ledger, commit: Commit, offset: int, reason: Reason, value: float
) -> Iterator[Finding]:
    identity = commit.inputs[0] if commit.inputs else commit.unit
    where = f"{identity.split('|')[0]} at {offset}"
    if reason != Reason.KEPT:
        detail = extract.describe(recipe.stage("extract").config, reason, value)
        yield Finding(where=where, stage="extract", outcome=reason.word, detail=detail)
        return
    scores = read_rows(ledger.store, commit.outputs["scores"], ("row", "offset", "doc_id", "num_images", "words"))
    mine = scores.filter(pc.equal(scores["offset"], offset)).to_pylist()
    if not mine:
        return
    page = mine[0]
    what = f"doc_id {page['doc_id'].hex()}, {page['num_images']} images, {page['words']} words"
    yield Finding(where=where, stage="extract", outcome="kept", detail=what)
    yield from _judged(recipe, ledger, commit, where, page["row"])


def _judged(recipe: Recipe, ledger: Ledger, commit: Commit, where: str, row: int) -> Iterator[Finding]:
    stage = recipe.stage("judge")
    if not ledger.is_committed(stage.key, commit.unit):
        yield Finding(where=where, stage="judge", outcome="not yet", detail=f"kosmos run {recipe.name} goes on")
        return
    rows = (
        read_rows(ledger.store, ledger.commit(stage.key, commit.unit).outputs["judgements"]).slice(row, 1).to_pylist()
    )
    reason = Reason(rows[0]["reason"])
    if reason != Reason.KEPT:
        detail = f"value {rows[0]['value']:.4g}, {judge.describe(stage.config, reason)}"
        yield Finding(where=where, stage="judge", outcome=reason.word, detail=detail)
        return
    yield Finding(where=where, stage="judge", outcome="kept")
    leaking = next((step.stage for step in recipe.maps if step.stage.name == "decontaminate"), None)
    if leaking is not None:
        if not ledger.is_committed(leaking.key, commit.unit):
            detail = f"kosmos run {recipe.name} goes on"
            yield Finding(where=where, stage=leaking.name, outcome="not yet", detail=detail)
            return
        found = explain_dedupe.contaminated(leaking, ledger, commit, where, row)
        yield found
        if found.outcome != Reason.KEPT.word:
            return
    yield from _deduped(recipe, ledger, commit, where, row)


def _deduped(recipe: Recipe, ledger: Ledger, commit: Commit, where: str, row: int) -> Iterator[Finding]:
    doc = explain_dedupe.number(recipe, ledger, commit.unit, row)
    found = explain_dedupe.deduped(recipe, ledger, where, doc) if doc else None
    yield found or Finding(where=where, stage="dedupe", outcome="not yet", detail=f"kosmos run {recipe.name} goes on")
    if found and found.outcome == Reason.KEPT.word:
        yield from explain_images.document(recipe, ledger, commit, where, doc)


def _document(recipe: Recipe, ledger: Ledger, doc_id: bytes) -> Iterator[Finding]:
    def look(commit: Commit) -> tuple[Commit, list[int]]:
        scores = read_rows(ledger.store, commit.outputs["scores"], ("doc_id", "offset"))
        return commit, scores.filter(pc.equal(scores["doc_id"], doc_id))["offset"].to_pylist()

    with ThreadPoolExecutor(READS) as pool:
        for commit, offsets in pool.map(look, ledger.commits(recipe.stage("extract").key)):
            for offset in offsets:
                yield from _record(recipe, ledger, commit, offset, Reason.KEPT, 0.0)


def _unit(recipe: Recipe, ledger: Ledger, unit: str) -> Iterator[Finding]:
    for step in recipe.steps:
        key = step.stage.key
        if ledger.is_committed(key, unit):
            commit = ledger.commit(key, unit)
            counts = ", ".join(f"{reason} {num}" for reason, num in commit.counts.items())
            crashed = f"; skipped as crashed at {', '.join(map(str, commit.crashed))}" if commit.crashed else ""
            detail = f"{commit.seconds:.1f} s on {commit.host}, {commit.num_bytes:,} bytes; {counts}{crashed}"
            yield Finding(
                where=commit.inputs[0] if commit.inputs else unit,
                stage=step.stage.name,
                outcome="committed",
                detail=detail,
            )
            continue
        bodies = ledger.failure_bodies(key, unit)
        if bodies:
            state = "quarantined" if len(bodies) >= QUARANTINE else "failed"
            trace = str(bodies[-1].get("trace", "")).strip()
            detail = f"{len(bodies)} times, last: {bodies[-1]['error']}\n{trace}".strip()
            yield Finding(where=unit, stage=step.stage.name, outcome=state, detail=detail)
