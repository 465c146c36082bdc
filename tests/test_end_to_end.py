"""The whole recipe on the bundled crawl, record by record against what its generator knows."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.care import verify
from engine.chain import Chain
from engine.drive import drive
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.status import status
from engine.window import Options, StageReport, run
from engine.work import read_rows
from pipelines import explain, extract, judge, snapshot
from pipelines.dedupe import GENERATION_SHIFT, ORDINAL_SHIFT
from pipelines.kosmos import Interleaved, interleaved, small
from pipelines.reasons import Reason
from pipelines.smallweb import CRAWLS, Fate, Record, Truth, expected_dedupe, write

GOLDEN = Path(__file__).parent / "golden"
FIRST, SECOND = CRAWLS
Key = tuple[str, int]


@dataclass(frozen=True)
class Ingested:
    """A store with both crawls in it, and the reports of the two runs."""

    web: Path
    truth: Truth
    ledger: Ledger
    recipe: Recipe
    reports: tuple[list[StageReport], list[StageReport]]

    def files(self, crawl: str) -> set[str]:
        return set(self.truth.files(crawl))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("web")
    return folder, write(folder)


@pytest.fixture(scope="module")
def ingested(web: tuple[Path, Truth], ray_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    """Two crawls, one after the other, on Ray."""
    folder, truth = web
    ledger = Ledger(str(tmp_path_factory.mktemp("store")))
    ledger.check(create=True)
    recipe = interleaved(small())
    first, second = (drive(recipe, ledger, crawl_units(folder, crawl, ledger)) for crawl in CRAWLS)
    return Ingested(folder, truth, ledger, recipe, (first, second))


def crawl_units(web: Path, crawl: str, ledger: Ledger) -> list[Any]:
    return snapshot.units(snapshot.Inputs(crawl=crawl, mirror=str(web)), ledger)


def inline(ledger: Ledger, recipe: Recipe, units: list[Any], **options: Any) -> list[StageReport]:
    return run(recipe, ledger, units, InlinePool(ledger.store.url), Quiet(), Options(**options))


def found_reasons(ledger: Ledger, recipe: Recipe) -> dict[Key, str]:
    """The reason of every record after extract and judge, by file and offset."""
    found = {}
    for commit in ledger.commits(recipe.stage("extract").key):
        file = commit.inputs[0]
        for row in read_rows(ledger.store, commit.outputs["verdicts"]).to_pylist():
            assert (file, row["offset"]) not in found, "a record has one verdict"
            found[file, row["offset"]] = Reason(row["reason"]).word
        scores = read_rows(ledger.store, commit.outputs["scores"]).to_pylist()
        judged = ledger.commit(recipe.stage("judge").key, commit.unit)
        for row, verdict in zip(scores, read_rows(ledger.store, judged.outputs["judgements"]).to_pylist(), strict=True):
            assert row["row"] == verdict["row"]
            found[file, row["offset"]] = Reason(verdict["reason"]).word
    return found


def found_fates(ledger: Ledger, recipe: Recipe) -> dict[Key, Fate]:
    """What deduplication did to every page that judge kept."""
    keys: dict[int, Key] = {}
    verdicts: dict[int, dict[str, int]] = {}
    head = Chain(recipe, ledger).head
    decide = recipe.stage("decide")
    for number in Chain(recipe, ledger).standing():
        generation = ledger.generation(head.key, number)
        assert generation is not None
        for ordinal, frozen in enumerate(ledger.manifest(generation.manifests["sign"][1])):
            extracted = ledger.commit(recipe.stage("extract").key, frozen.unit)
            signed = read_rows(ledger.store, frozen.outputs["signatures"], ("row",)).to_pylist()
            offsets = read_rows(ledger.store, extracted.outputs["scores"], ("row", "offset")).to_pylist()
            for page in signed:
                doc = number << int(GENERATION_SHIFT) | ordinal << int(ORDINAL_SHIFT) | page["row"]
                keys[doc] = (extracted.inputs[0], offsets[page["row"]]["offset"])
        claimed = ledger.generation(decide.key, number)
        assert claimed is not None
        commit = ledger.commit(decide.key, claimed.unit_id(0))
        for row in read_rows(ledger.store, commit.outputs["verdicts"]).to_pylist():
            verdicts[row["doc"]] = row
    fates = {}
    for doc, key in keys.items():
        row = verdicts.get(doc)
        keeper = keys[row["keeper"]] if row else key
        fates[key] = Fate(reason=Reason(row["reason"]).word if row else "kept", keeper=keeper)
    return fates


def sums(ledger: Ledger, recipe: Recipe) -> dict[tuple[str, str, str], list[str]]:
    """sha256 of every file of every commit, by stage, unit and output."""
    return {
        (step.stage.key, commit.unit, output): [file.sha256 for file in files]
        for step in recipe.steps
        for commit in ledger.commits(step.stage.key)
        for output, files in commit.outputs.items()
    }


def differences(expected: dict[Key, Any], found: dict[Key, Any], truth: Truth) -> list[Any]:
    records = {record.key: record for record in truth.records}
    return [
        (key, records[key].kind if key in records else "?", expected.get(key), found.get(key))
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key) != found.get(key)
    ]


@pytest.mark.ray
def test_every_record_has_the_reason_that_its_author_knows(ingested: Ingested) -> None:
    expected = {record.key: record.reason for record in ingested.truth.records}
    assert differences(expected, found_reasons(ingested.ledger, ingested.recipe), ingested.truth) == []


@pytest.mark.ray
def test_every_stream_is_what_a_reader_would_see(ingested: Ingested) -> None:
    wrong = []
    for record, page in pages(ingested):
        found = []
        for item in page["items"]:
            if item["kind"] == "text":
                found.append(("text", item["block"], item["text"]))
            else:
                image = page["images"][item["image"]]
                found.append(("image", image["url"], image["alt"], image["caption"]))
        if tuple(found) != record.stream:
            wrong.append(
                (
                    record.url,
                    record.kind,
                    [pair for pair in zip(found, record.stream, strict=False) if pair[0] != pair[1]][:2],
                )
            )
    assert wrong == []


def pages(ingested: Ingested) -> Iterator[tuple[Record, dict[str, Any]]]:
    records = {record.key: record for record in ingested.truth.records}
    for commit in ingested.ledger.commits(ingested.recipe.stage("extract").key):
        for output in ("documents", "texts"):
            for page in read_rows(ingested.ledger.store, commit.outputs[output]).to_pylist():
                record = records[commit.inputs[0], page["warc"]["offset"]]
                assert (page["url"], page["doc_id"]) == (record.url, record.doc_id)
                assert page["warc"]["length"] == record.length
                assert (output == "documents") == (record.images > 0)
                yield record, page


@pytest.mark.ray
def test_the_second_crawl_is_compared_with_the_first(ingested: Ingested) -> None:
    expected = expected_dedupe(ingested.truth, [ingested.files(crawl) for crawl in CRAWLS])
    found = found_fates(ingested.ledger, ingested.recipe)
    assert differences(expected, found, ingested.truth) == []
    across = [
        fate for key, fate in found.items() if key[0].split("/")[1] == SECOND and fate.keeper[0].split("/")[1] == FIRST
    ]
    assert len(across) > 10, "the second crawl repeats pages of the first"


@pytest.mark.ray
def test_the_second_crawl_reads_its_own_files_only(ingested: Ingested) -> None:
    _, second = ingested.reports
    by_name = {report.stage: report for report in second}
    files = ingested.files(SECOND)
    for name in ("extract", "judge", "sign"):
        assert (by_name[name].planned, by_name[name].committed) == (len(files), len(files))
    assert by_name["spread"].generation == 2
    generation = ingested.ledger.generation(ingested.recipe.stage("spread").key, 2)
    assert generation is not None
    frozen = ingested.ledger.manifest(generation.manifests["extract"][1])
    read = {ingested.ledger.commit(commit.stage, commit.unit).inputs[0] for commit in frozen}
    assert read == files


@pytest.mark.ray
def test_the_funnel_is_the_golden_one(ingested: Ingested) -> None:
    found = {
        stage.stage: {"rows": stage.rows, "counts": stage.counts}
        for stage in status(ingested.recipe, ingested.ledger).stages
    }
    golden = json.loads((GOLDEN / "funnel.json").read_text())
    assert found == golden, f"if this change is meant, write the new funnel:\n{json.dumps(found, indent=1)}"


@pytest.mark.ray
def test_running_again_does_nothing(ingested: Ingested) -> None:
    before = sums(ingested.ledger, ingested.recipe)
    units = crawl_units(ingested.web, SECOND, ingested.ledger)
    reports = drive(ingested.recipe, ingested.ledger, units)
    assert [report.committed for report in reports] == [0, 0, 0]
    assert sums(ingested.ledger, ingested.recipe) == before


@pytest.mark.ray
def test_one_process_in_another_order_writes_the_same_bytes(ingested: Ingested, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.check(create=True)
    for crawl in CRAWLS:
        inline(ledger, ingested.recipe, list(reversed(crawl_units(ingested.web, crawl, ledger))))
    assert sums(ledger, ingested.recipe) == sums(ingested.ledger, ingested.recipe)


@pytest.mark.ray
def test_what_is_published_is_sound(ingested: Ingested) -> None:
    check = verify(ingested.recipe, ingested.ledger, sample=1)
    assert check.faults == []
    assert check.recomputed == len(ingested.recipe.steps)


@pytest.mark.ray
def test_why_tells_of_every_reason(ingested: Ingested) -> None:
    fates = expected_dedupe(ingested.truth, [ingested.files(crawl) for crawl in CRAWLS])
    captures = Counter(record.url for record in ingested.truth.records if record.type == "response")
    told: set[str] = set()
    for record in ingested.truth.records:
        outcome = fates[record.key].reason if record.key in fates else record.reason
        if record.type != "response" or not record.url or captures[record.url] != 1 or outcome in told | {"corrupt"}:
            continue
        told.add(outcome)
        findings = explain.why(ingested.recipe, ingested.ledger, record.url)
        assert findings[-1].outcome == outcome, f"{record.url}: {findings}"
        assert findings[-1].where == f"{record.file} at {record.offset}"
    assert {"kept", "language", "words", "opt_out_header", "duplicate_text", "near_duplicate", "too_deep"} <= told
    kept = next(record for record in ingested.truth.kept())
    assert explain.why(ingested.recipe, ingested.ledger, kept.doc_id.hex())[0].where == f"{kept.file} at {kept.offset}"


@pytest.mark.ray
def test_thresholds_move_without_parsing_again(ingested: Ingested, tmp_path: Path) -> None:
    shutil.copytree(ingested.ledger.store.url.removeprefix("file://"), tmp_path / "store")
    ledger = Ledger(str(tmp_path / "store"))
    longer = dataclasses.replace(small(), judge=judge.Config(min_words=150))
    recipe = interleaved(longer)
    reports = inline(ledger, recipe, crawl_units(ingested.web, FIRST, ledger), only="judge")
    assert [(report.stage, report.committed) for report in reports] == [("judge", 4)]
    kept = {record.key: record for record in ingested.truth.kept() if record.crawl == FIRST}
    found = {key: reason for key, reason in found_judgements(ledger, recipe).items() if key in kept}
    assert set(found.values()) == {"kept", "words"}
    expected = {key: "words" if words(record) < 150 else "kept" for key, record in kept.items()}
    assert differences(expected, found, ingested.truth) == []


def words(record: Record) -> int:
    found = [word for item in record.stream if item[0] == "text" for word in item[2].split()]
    return sum(any(letter.isalnum() for letter in word) for word in found)


def test_the_strict_preset_has_the_reasons_that_its_author_knows(web: tuple[Path, Truth], tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.check(create=True)
    strict = interleaved(Interleaved(extract=extract.obelics(), judge=judge.obelics(), dedupe=small().dedupe))
    inline(ledger, strict, crawl_units(web[0], FIRST, ledger))
    expected = {record.key: record.strict or record.reason for record in web[1].records if record.crawl == FIRST}
    assert differences(expected, found_reasons(ledger, strict), web[1]) == []


def found_judgements(ledger: Ledger, recipe: Recipe) -> dict[Key, str]:
    found = {}
    for commit in ledger.commits(recipe.stage("judge").key):
        extracted = ledger.commit(recipe.stage("extract").key, commit.unit)
        scores = read_rows(ledger.store, extracted.outputs["scores"], ("offset",)).to_pylist()
        verdicts = read_rows(ledger.store, commit.outputs["judgements"]).to_pylist()
        for row, verdict in zip(scores, verdicts, strict=True):
            found[extracted.inputs[0], row["offset"]] = Reason(verdict["reason"]).word
    return found


Ingest = Callable[[Ledger, Recipe, Path], list[set[str]]]


def out_of_order(ledger: Ledger, recipe: Recipe, web: Path) -> list[set[str]]:
    """The later crawl first."""
    generations = []
    for crawl in (SECOND, FIRST):
        units = crawl_units(web, crawl, ledger)
        inline(ledger, recipe, units)
        generations.append({unit.inputs[0] for unit in units})
    return generations


def limit_then_all(ledger: Ledger, recipe: Recipe, web: Path) -> list[set[str]]:
    """Two files of the first crawl, then all of it."""
    units = crawl_units(web, FIRST, ledger)
    inline(ledger, recipe, units[:2])
    inline(ledger, recipe, units)
    return [{unit.inputs[0] for unit in units[:2]}, {unit.inputs[0] for unit in units[2:]}]


def late_retry(ledger: Ledger, recipe: Recipe, web: Path) -> list[set[str]]:
    """A file that cannot be read is quarantined, and joins the generation after its retry."""
    units = crawl_units(web, FIRST, ledger)
    late = Path(units[0].inputs[1].removeprefix("file://"))
    late.rename(late.with_suffix(".away"))
    reports = inline(ledger, recipe, units)
    assert reports[0].failed == [units[0].id]
    claimed = ledger.generation(recipe.stage("spread").key, 1)
    assert claimed is not None and claimed.quarantined == {"extract": (units[0].id,)}
    late.with_suffix(".away").rename(late)
    assert inline(ledger, recipe, units)[0].failed == [units[0].id], "a quarantined unit waits for --retry-failed"
    inline(ledger, recipe, units, retry_failed=True)
    return [{unit.inputs[0] for unit in units[1:]}, {units[0].inputs[0]}]


def abandoned(ledger: Ledger, recipe: Recipe, web: Path) -> list[set[str]]:
    """An open generation is given up; its inputs join the next one."""
    units = crawl_units(web, FIRST, ledger)
    inline(ledger, recipe, units[:3], only="extract")
    inline(ledger, recipe, units[:3], only="judge")
    inline(ledger, recipe, units[:3], only="sign")
    inline(ledger, recipe, units[:3], only="spread")
    assert Chain(recipe, ledger).open_generation() == 1
    assert Chain(recipe, ledger).abandon() == 1
    inline(ledger, recipe, units)
    assert Chain(recipe, ledger).standing() == [2]
    return [{unit.inputs[0] for unit in units}]


@pytest.mark.parametrize("ingest", [out_of_order, limit_then_all, late_retry, abandoned])
def test_generations_come_as_they_come(web: tuple[Path, Truth], tmp_path: Path, ingest: Ingest) -> None:
    shutil.copytree(web[0], tmp_path / "web")
    ledger, recipe = Ledger(str(tmp_path / "store")), interleaved(small())
    ledger.check(create=True)
    generations = ingest(ledger, recipe, tmp_path / "web")
    expected = expected_dedupe(web[1], generations)
    assert differences(expected, found_fates(ledger, recipe), web[1]) == []
