"""The whole recipe on the bundled crawl, record by record against what its generator knows."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.arrow import File
from engine.care import verify
from engine.chain import Chain, frozen
from engine.config import override
from engine.drive import drive
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.stage import OFFSETS
from engine.status import status
from engine.vocab import BOS, EOS, IMAGE_SLOTS, STREAMS, Vocab
from engine.window import Options, StageReport, run
from engine.work import read_rows
from pipelines import explain, snapshot
from pipelines.dedupe import GENERATION_SHIFT, ORDINAL_SHIFT
from pipelines.kosmos import interleaved, obelics, small
from pipelines.reasons import Reason
from pipelines.smallweb import CRAWLS, Fate, Record, Truth, expected_dedupe
from pipelines.smallweb.fates import Bounds, Document, expected_images
from pipelines.smallweb.pixels import draw
from tests.conftest import SmallWeb

GOLDEN = Path(__file__).parent / "golden"
FIRST, SECOND = CRAWLS
Key = tuple[str, int]


@dataclass(frozen=True)
class Ingested:
    """A store with both crawls in it, the reports of the two runs, and what the image server was asked in each."""

    web: Path
    truth: Truth
    ledger: Ledger
    recipe: Recipe
    reports: tuple[list[StageReport], list[StageReport]]
    asked: tuple[Counter[str], Counter[str]]

    def files(self, crawl: str) -> set[str]:
        return set(self.truth.files(crawl))

    def copied(self, folder: Path) -> Ledger:
        """Another store with the same in it, which a test may add to."""
        shutil.copytree(self.ledger.store.url.removeprefix("file://"), folder / "store")
        return Ledger(str(folder / "store"))


@pytest.fixture(scope="module")
def ingested(small_web: SmallWeb, ray_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    """Two crawls, one after the other, on Ray."""
    ledger = Ledger(str(tmp_path_factory.mktemp("store")))
    ledger.check(create=True)
    recipe = small_web.recipe()
    before = small_web.server.requests
    reports, asked = [], []
    for crawl in CRAWLS:
        reports.append(drive(recipe, ledger, crawl_units(small_web.folder, crawl, ledger)))
        asked.append(small_web.server.requests - before)
        before = small_web.server.requests
    return Ingested(small_web.folder, small_web.truth, ledger, recipe, (reports[0], reports[1]), (asked[0], asked[1]))


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
        for ordinal, commit in enumerate(ledger.manifest(generation.manifests["sign"][1])):
            extracted = ledger.commit(recipe.stage("extract").key, commit.unit)
            signed = read_rows(ledger.store, commit.outputs["signatures"], ("row",)).to_pylist()
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
    """sha256 of every file of every commit, by stage, unit and output, save what may differ from run to run."""
    volatile = {
        (step.stage.key, output.name) for step in recipe.steps for output in step.stage.outputs if output.volatile
    }
    return {
        (step.stage.key, commit.unit, output): [file.sha256 for file in files]
        for step in recipe.steps
        for commit in ledger.commits(step.stage.key)
        for output, files in commit.outputs.items()
        if (step.stage.key, output) not in volatile
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
    commits = ingested.ledger.manifest(generation.manifests["extract"][1])
    read = {ingested.ledger.commit(commit.stage, commit.unit).inputs[0] for commit in commits}
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
    assert [(report.stage, report.committed) for report in reports] == [("extract", 0), ("judge", 0), ("sign", 0)]
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
    assert check.recomputed == len(ingested.recipe.steps) - 2, "what the network said is not asked again"


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
        last = [finding for finding in findings if finding.stage in ("extract", "judge", "dedupe")][-1]
        assert last.outcome == outcome, f"{record.url}: {findings}"
        assert last.where == f"{record.file} at {record.offset}"
    assert {"kept", "language", "words", "opt_out_header", "duplicate_text", "near_duplicate", "too_deep"} <= told
    kept = next(record for record in ingested.truth.kept())
    assert explain.why(ingested.recipe, ingested.ledger, kept.doc_id.hex())[0].where == f"{kept.file} at {kept.offset}"


@pytest.mark.ray
def test_thresholds_move_without_parsing_again(small_web: SmallWeb, ingested: Ingested, tmp_path: Path) -> None:
    ledger = ingested.copied(tmp_path)
    recipe = small_web.recipe("judge.min_words=150")
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


def test_the_strict_preset_has_the_reasons_that_its_author_knows(small_web: SmallWeb, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.check(create=True)
    strict = interleaved(small(obelics()))
    for stage in ("extract", "judge"):
        inline(ledger, strict, crawl_units(small_web.folder, FIRST, ledger), only=stage)
    truth = small_web.truth
    expected = {record.key: record.strict or record.reason for record in truth.records if record.crawl == FIRST}
    assert differences(expected, found_reasons(ledger, strict), truth) == []


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
def test_generations_come_as_they_come(small_web: SmallWeb, tmp_path: Path, ingest: Ingest) -> None:
    shutil.copytree(small_web.folder, tmp_path / "web")
    ledger, recipe = Ledger(str(tmp_path / "store")), small_web.recipe()
    ledger.check(create=True)
    generations = ingest(ledger, recipe, tmp_path / "web")
    expected = expected_dedupe(small_web.truth, generations)
    assert differences(expected, found_fates(ledger, recipe), small_web.truth) == []
    documents = expected_images(small_web.truth, generations).documents
    assert differences(documents, found_documents(ledger, recipe), small_web.truth) == []


# the image half ---------------------------------------------------------------------------------------------------
def generation_pages(ledger: Ledger, recipe: Recipe) -> Iterator[tuple[int, int, Key, dict[str, Any]]]:
    """(generation, doc number, key, row of documents or texts) of every page of the standing generations."""
    head = Chain(recipe, ledger).head
    for number in Chain(recipe, ledger).standing():
        generation = ledger.generation(head.key, number)
        assert generation is not None
        for ordinal, commit in enumerate(ledger.manifest(generation.manifests["extract"][1])):
            extracted = ledger.commit(commit.stage, commit.unit)
            for output in ("documents", "texts"):
                for page in read_rows(ledger.store, extracted.outputs[output]).to_pylist():
                    doc = number << int(GENERATION_SHIFT) | ordinal << int(ORDINAL_SHIFT) | page["row"]
                    yield number, doc, (extracted.inputs[0], page["warc"]["offset"]), page


def rows(ledger: Ledger, recipe: Recipe, stage: str, output: str) -> Iterator[dict[str, Any]]:
    """All rows of an output over the standing generations."""
    standing = Chain(recipe, ledger).standing()
    for commit in ledger.commits(recipe.stage(stage).key):
        if commit.generation in standing:
            yield from read_rows(ledger.store, commit.outputs[output]).to_pylist()


def found_documents(ledger: Ledger, recipe: Recipe) -> dict[Key, Document]:
    """What became of every page that deduplication kept, in the words of its truth."""
    selected = {row["doc"]: Reason(row["reason"]).word for row in rows(ledger, recipe, "select", "verdicts")}
    assembled = {row["doc"]: Reason(row["reason"]).word for row in rows(ledger, recipe, "assemble", "verdicts")}
    curated = {row["doc_id"]: row for row in rows(ledger, recipe, "assemble", "curated")}
    candidates = [(row["doc"], row["image"]) for row in rows(ledger, recipe, "select", "choices")]
    fates: dict[tuple[int, int], str] = {}
    for stage, output in (("refer", "refused"), ("select", "refused"), ("assemble", "fates")):
        for row in rows(ledger, recipe, stage, output):
            assert (row["doc"], row["image"]) not in fates, "an image has one fate"
            fates[row["doc"], row["image"]] = Reason(row["reason"]).word
    found: dict[Key, Document] = {}
    for _, doc, key, page in generation_pages(ledger, recipe):
        if doc not in selected:
            continue
        shard = curated.pop(page["doc_id"], None)
        found[key] = Document(
            selected=selected[doc],
            assembled=assembled.get(doc, ""),
            fates=tuple(fates.get((doc, index), "") for index in range(len(page.get("images", ())))),
            candidates=tuple(sorted(image for owner, image in candidates if owner == doc)),
            urls=tuple(image["url"] for image in shard["images"]) if shard else (),
            stream=tuple(shard_items(shard)) if shard else (),
        )
    assert not curated, "shards hold kept pages only"
    return found


def shard_items(shard: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The stream of a curated document, as its author writes it."""
    for item in shard["items"]:
        if item["kind"] == "text":
            assert item["image"] == -1
            yield ("text", item["block"], item["text"])
        else:
            image = shard["images"][item["image"]]
            yield ("image", image["url"], image["alt"], image["caption"])


@pytest.mark.ray
def test_every_image_and_every_document_has_the_fate_that_its_author_knows(ingested: Ingested) -> None:
    expected = expected_images(ingested.truth, [ingested.files(crawl) for crawl in CRAWLS])
    found = found_documents(ingested.ledger, ingested.recipe)
    assert differences(expected.documents, found, ingested.truth) == []
    told = {fate for document in found.values() for fate in document.fates}
    planted = {
        "image_blocked", "image_adult", "image_declared_small", "image_drawing", "image_frequent", "image_twice",
        "image_surplus", "http_gone", "side_small", "aspect", "single_colour", "image_repeated", "image_repeated_here",
        "robots", "opt_out_robots", "kept",
    }  # fmt: skip
    assert planted <= told
    ends = {document.selected for document in found.values()} | {document.assembled for document in found.values()}
    assert {
        "no_image",
        "no_candidate",
        "too_many_references",
        "single_image",
        "no_image_left",
        "same_images",
        "kept",
    } <= ends


@pytest.mark.ray
def test_an_address_is_asked_for_once_ever(ingested: Ingested) -> None:
    expected = expected_images(ingested.truth, [ingested.files(crawl) for crawl in CRAWLS])
    busy = {picture.url for picture in ingested.truth.pictures if picture.kind == "busy"}
    for asked, wanted in zip(ingested.asked, expected.asked, strict=True):
        images = {url: times for url, times in asked.items() if not url.endswith("/robots.txt")}
        assert set(images) == set(wanted)
        # a busy server asks to be asked again, and says so once in its life
        again = {url for url, times in images.items() if times != 1}
        assert again <= busy and all(images[url] == 2 for url in again)


@pytest.mark.ray
def test_the_images_are_what_the_server_sent(small_web: SmallWeb, ingested: Ingested) -> None:
    """Each JPEG decodes, has the size that is told, shows what its address shows, and carries the sum of the body."""
    import cv2
    import numpy as np

    pictures = {picture.url: picture for picture in small_web.truth.pictures}
    compared = 0
    for shard in rows(ingested.ledger, ingested.recipe, "assemble", "curated"):
        assert shard["num_images"] == len(shard["images"]) <= 5
        for image in shard["images"]:
            body = draw(pictures[image["url"]])
            assert hashlib.sha256(body).digest() == image["sha256"]
            stored = cv2.imdecode(np.frombuffer(image["bytes"], np.uint8), cv2.IMREAD_COLOR)
            original = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
            assert stored is not None and original is not None
            assert stored.shape[:2] == (image["height"], image["width"]) and min(stored.shape[:2]) <= 256
            assert original.shape[:2] == (image["original_height"], image["original_width"])
            if compared % 7 == 0:
                smaller = cv2.resize(original, stored.shape[1::-1], interpolation=cv2.INTER_AREA)
                assert np.abs(smaller.astype(int) - stored).mean() < 6, image["url"]
            compared += 1
    assert compared > 200


@pytest.mark.ray
def test_the_sidecar_finds_the_images_of_a_document(ingested: Ingested) -> None:
    for commit in ingested.ledger.commits(ingested.recipe.stage("assemble").key):
        shards = [(file.path, read_rows(ingested.ledger.store, [file])) for file in commit.outputs["curated"]]
        places = read_rows(ingested.ledger.store, commit.outputs["curated" + OFFSETS]).to_pylist()
        documents = [(path, images) for path, table in shards for images in table["images"].to_pylist()]
        assert len(documents) == len(places) == commit.counts.get("kept", 0)
        for (path, images), place in zip(documents, places, strict=True):
            run_of_bytes = ingested.ledger.store.get_range(path, place["offset"], place["length"])
            assert run_of_bytes == b"".join(image["bytes"] for image in images)


@pytest.mark.ray
def test_why_tells_of_images(ingested: Ingested) -> None:
    expected = expected_images(ingested.truth, [ingested.files(crawl) for crawl in CRAWLS])
    captures = Counter(record.url for record in ingested.truth.records if record.type == "response")
    records = {record.key: record for record in ingested.truth.records}
    told: set[str] = set()
    for key, document in expected.documents.items():
        end = document.assembled or document.selected
        if end in told or captures[records[key].url] != 1:
            continue
        told.add(end)
        findings = explain.why(ingested.recipe, ingested.ledger, records[key].url)
        findings = [finding for finding in findings if finding.stage != "pack"]
        assert findings[-1].outcome == end, findings
        fates = [finding.outcome for finding in findings if finding.outcome.startswith("image ")]
        assert sorted(fates) == sorted(f"image {fate}" for fate in document.fates if fate)
        if end == "kept":
            row, path = findings[-1].detail.removeprefix("row ").split(" of ")
            shard = read_rows(ingested.ledger.store, [_file(ingested, path)]).slice(int(row), 1).to_pylist()
            assert shard[0]["url"] == records[key].url
    assert {"kept", "no_image", "no_candidate", "single_image", "no_image_left"} <= told
    fetched = next(url for document in expected.documents.values() for url in document.urls)
    outcomes = {finding.outcome for finding in explain.why(ingested.recipe, ingested.ledger, fetched)}
    assert outcomes == {"fetched", "image kept", "counted"}


def _file(ingested: Ingested, path: str) -> File:
    commits = ingested.ledger.commits(ingested.recipe.stage("assemble").key)
    return next(file for commit in commits for file in commit.outputs["curated"] if file.path == path)


@pytest.mark.ray
def test_the_image_gate_moves_without_asking_again(small_web: SmallWeb, ingested: Ingested, tmp_path: Path) -> None:
    """Another bound on the aspect, another coin: the same answers, other shards, and not one request."""
    ledger = ingested.copied(tmp_path)
    before = small_web.server.requests
    recipe = small_web.recipe("images.max_aspect=20")
    inline(ledger, recipe, crawl_units(ingested.web, SECOND, ledger))
    assert small_web.server.requests == before
    wider = found_documents(ledger, recipe)
    assert "aspect" not in {fate for document in wider.values() for fate in document.fates}
    generations = [ingested.files(crawl) for crawl in CRAWLS]
    expected = expected_images(ingested.truth, generations, bounds=Bounds(max_aspect=20.0)).documents
    assert differences(expected, wider, ingested.truth) == []


@pytest.mark.ray
def test_another_choice_asks_only_for_what_is_new(small_web: SmallWeb, ingested: Ingested, tmp_path: Path) -> None:
    ledger = ingested.copied(tmp_path)
    before = small_web.server.requests
    recipe = small_web.recipe("select.choice.coin.keep_single=1")
    inline(ledger, recipe, crawl_units(ingested.web, SECOND, ledger))
    generations = [ingested.files(crawl) for crawl in CRAWLS]
    truth = expected_images(ingested.truth, generations)
    every = expected_images(ingested.truth, generations, keep_single=1.0)
    asked = small_web.server.requests - before
    images = {url for url in asked if not url.endswith("/robots.txt")}
    assert images == set().union(*every.asked) - set().union(*truth.asked) and images
    assert differences(every.documents, found_documents(ledger, recipe), ingested.truth) == []


@pytest.mark.s3
def test_a_bucket_holds_what_a_folder_holds(small_web: SmallWeb, s3: str, tmp_path: Path) -> None:
    """Range reads, sidecars and leases of the image half on an object store."""
    found = []
    for url in (s3, str(tmp_path)):
        ledger, recipe = Ledger(url), small_web.recipe()
        ledger.check(create=True)
        inline(ledger, recipe, crawl_units(small_web.folder, FIRST, ledger)[:1])
        assert any(row["num_images"] > 1 for row in rows(ledger, recipe, "assemble", "curated"))
        found.append(sums(ledger, recipe))
    assert found[0] == found[1]


# the training half ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def vocabulary(ingested: Ingested) -> Any:
    """The SentencePiece model that the newest generation's training rows carry, and its ids."""
    import sentencepiece

    models = {row["model"] for row in rows(ingested.ledger, ingested.recipe, "pack", "vocabulary")}
    (model,) = models
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.LoadFromSerializedProto(model)
    return pieces, Vocab(pieces=pieces.GetPieceSize())


def text_lines(page: dict[str, Any], vocabulary: Any) -> list[list[int]]:
    """The tokens of each line of a document, without what ends it."""
    pieces, vocab = vocabulary
    texts = [item["text"] for item in page["items"] if item["kind"] == "text"]
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    return [[vocab.from_piece(piece) for piece in pieces.EncodeAsIds(line)] for line in lines]


def counted(row: dict[str, Any]) -> list[int]:
    return [token for span in row["loss"] for token in row["tokens"][span["start"] : span["end"]]]


@pytest.mark.ray
def test_every_curated_document_is_a_training_row_as_it_reads(ingested: Ingested, vocabulary: Any) -> None:
    pieces, vocab = vocabulary
    expected = {}
    for page in rows(ingested.ledger, ingested.recipe, "assemble", "curated"):
        tokens, starts, wanted = [BOS], [], []
        before = ""
        for item in page["items"]:
            if item["kind"] == "image":
                tokens += [vocab.image] * (1 + IMAGE_SLOTS) + [vocab.image_end]
                starts.append(len(tokens) - 1 - IMAGE_SLOTS)
            for line in item["text"].split("\n") if item["kind"] == "text" else []:
                if line.strip():
                    own = [vocab.line] if before == "text" else []
                    own += [vocab.from_piece(piece) for piece in pieces.EncodeAsIds(line)]
                    tokens += own
                    wanted += own
                    before = "text"
            before = item["kind"]
        images = [image["bytes"] for image in page["images"]]
        expected[page["doc_id"]] = ([*tokens, EOS], starts, [*wanted, EOS], images)
    found = {}
    for row in rows(ingested.ledger, ingested.recipe, "pack", "interleaved"):
        (doc_id,) = row["docs"]
        assert doc_id not in found, "no page of the bundled web is longer than a row"
        assert (row["length"], row["counted"], row["num_images"]) == (
            len(row["tokens"]),
            len(counted(row)),
            len(row["images"]),
        )
        found[doc_id] = (row["tokens"], row["image_starts"], counted(row), row["images"])
    assert found == expected


@pytest.mark.ray
def test_every_image_that_its_page_describes_is_a_caption(ingested: Ingested, vocabulary: Any) -> None:
    pieces, vocab = vocabulary
    expected = Counter()
    for page in rows(ingested.ledger, ingested.recipe, "assemble", "curated"):
        for image in page["images"]:
            text = image["caption"] or image["alt"]
            if len(text.split()) > 1:
                tokens = tuple(vocab.from_piece(piece) for piece in pieces.EncodeAsIds(text))
                expected[page["doc_id"], image["bytes"], tokens] += 1
    found = Counter()
    for row in rows(ingested.ledger, ingested.recipe, "pack", "caption"):
        prefix = [BOS] + [vocab.image] * (1 + IMAGE_SLOTS) + [vocab.image_end]
        assert row["tokens"][: len(prefix)] == prefix and row["image_starts"] == [2]
        assert counted(row) == row["tokens"][len(prefix) :] and row["tokens"][-1] == EOS
        found[row["docs"][0], row["images"][0], tuple(row["tokens"][len(prefix) : -1])] += 1
    assert found == expected and found.total() > 500


@pytest.mark.ray
def test_every_line_of_text_is_in_full_sentences(ingested: Ingested, vocabulary: Any) -> None:
    _, vocab = vocabulary
    expected = Counter()
    for page in rows(ingested.ledger, ingested.recipe, "assemble", "curated"):
        lines = text_lines(page, vocabulary)
        expected.update([*(tuple([*line, vocab.line]) for line in lines[:-1]), tuple([*lines[-1], EOS])])
    found = Counter()
    lengths = []
    for row in rows(ingested.ledger, ingested.recipe, "pack", "text"):
        assert row["tokens"][0] == BOS and counted(row) == row["tokens"][1:] and len(row["tokens"]) <= 2048
        lengths.append(len(row["tokens"]))
        line: list[int] = []
        for token in row["tokens"][1:]:
            line.append(token)
            if token in (vocab.line, EOS):
                found[tuple(line)] += 1
                line = []
        assert not line, "a line is never cut in two"
    assert found == expected
    assert sorted(lengths)[len(lengths) // 2] > 1900, "rows are full"


@pytest.mark.ray
def test_training_rows_are_shuffled_and_told_of(ingested: Ingested) -> None:
    for stream in STREAMS:
        for commit in ingested.ledger.commits(ingested.recipe.stage("pack").key):
            ranks = read_rows(ingested.ledger.store, commit.outputs[stream], ("rank",))["rank"].to_pylist()
            assert ranks == sorted(ranks)
    page = next(rows(ingested.ledger, ingested.recipe, "assemble", "curated"))
    told = [f for f in explain.why(ingested.recipe, ingested.ledger, page["doc_id"].hex()) if f.stage == "pack"]
    assert [finding.outcome for finding in told][:1] == ["text kept"]
    assert sum(finding.outcome.startswith("caption") for finding in told) == page["num_images"]
    assert told[-1].outcome == "interleaved kept" and told[-1].detail.endswith("tokens")


@pytest.mark.ray
def test_a_model_learns_from_the_rows_and_says_something(ingested: Ingested, tmp_path: Path) -> None:
    from trainer.answer import answer
    from trainer.config import tiny
    from trainer.fit import fit

    settings = ["data.quotas.text=0", "data.quotas.caption=16", "data.micro_batch.caption=16", "optim.lr=0.005"]
    config = override(tiny(), [*settings, "data.quotas.interleaved=1", "optim.warmup_updates=2"])
    digests = frozen(ingested.recipe, ingested.ledger, "pack")
    losses: list[float] = []
    run = str(tmp_path / "run")
    done = fit(config, digests, ingested.ledger.store.url, run, 12, report=lambda metrics: losses.append(metrics.loss))
    assert done.update == 12 and losses[-1] < losses[0] - 1.5
    page = next(rows(ingested.ledger, ingested.recipe, "assemble", "curated"))
    image = tmp_path / "image.jpg"
    image.write_bytes(page["images"][0]["bytes"])
    assert answer(run, [str(image)], "", 8)
