"""Evaluation sets on the bundled crawls: what they hold goes, nothing else does, and all of it is told."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engine.cli import main
from engine.config import override
from engine.errors import ConfigError
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.status import status
from engine.window import Options, StageReport, run
from engine.work import read_rows
from pipelines import decontaminate, explain
from pipelines.finding import Finding
from pipelines.images.decode import cv2
from pipelines.kosmos import interleaved, small
from pipelines.leaks import leaks
from pipelines.reasons import Reason
from pipelines.smallweb import CRAWLS, Fate, Record, Truth, expected_dedupe
from pipelines.smallweb.fates import likeness
from pipelines.smallweb.pictures import Picture
from pipelines.smallweb.pixels import draw
from tests.conftest import SmallWeb
from tests.ingest import text_only
from tests.pipelines.image_bodies import coded
from tests.test_end_to_end import Key, crawl_units, differences, found_fates, found_reasons

NGRAM = 13
LENGTH = 24  # words of an item: 12 runs


@dataclass(frozen=True)
class World:
    """Evaluation sets of what some pages say, and a store with both crawls that were compared with them.

    pair: (page that holds an item, a near copy of it that has less than half of that item).
    """

    truth: Truth
    sets: dict[str, list[list[str]]]  # items as words
    folder: Path
    pair: tuple[Record, Record]
    recipe: Recipe
    ledger: Ledger

    def why(self, record: Record) -> list[Finding]:
        """What is told of a page, by the whole recipe: it has the same stages, and some that have not run."""
        return explain.why(interleaved(self.recipe.config), self.ledger, record.doc_id.hex())

    def covered(self, record: Record) -> dict[tuple[str, int], float]:
        """(set, line) -> share of its runs, of what the record has."""
        own = grams(words(record))
        shares = {
            (name, line): len(grams(item) & own) / len(grams(item))
            for name, items in self.sets.items()
            for line, item in enumerate(items)
            if len(item) >= NGRAM
        }
        return {place: share for place, share in shares.items() if share}

    @property
    def contaminated(self) -> set[Key]:
        """The pages that should go: counted here with strings and sets."""
        return {r.key for r in self.truth.kept() if max(self.covered(r).values(), default=0.0) >= 0.5}

    def one_record(self, key: Key) -> Record:
        return next(record for record in self.truth.records if record.key == key)


def words(record: Record) -> list[str]:
    return re.findall("[a-z0-9]+", " ".join(item[-1] for item in record.stream if item[0] == "text").lower())


def grams(text: list[str]) -> set[tuple[str, ...]]:
    return {tuple(text[start : start + NGRAM]) for start in range(len(text) - NGRAM + 1)}


def fives(record: Record) -> set[tuple[str, ...]]:
    text = words(record)
    return {tuple(text[start : start + 5]) for start in range(len(text) - 4)}


def half_lost(page: Record, copy: Record) -> list[str]:
    """Words of the page of which its copy has some runs, and fewer than half; [] if there are none."""
    text, other = words(page), grams(words(copy))
    for start in range(len(text) - LENGTH):
        item = text[start : start + LENGTH]
        if 0 < len(grams(item) & other) / len(grams(item)) < 0.5:
            return item
    return []


def sized(records: list[Record], cluster: str) -> list[Record]:
    return [record for record in records if record.cluster == cluster]


def write(path: Path, items: list[list[str]]) -> str:
    path.write_text("".join(json.dumps({"id": n, "question": " ".join(item)}) + "\n" for n, item in enumerate(items)))
    return str(path)


def recipe_for(*settings: str) -> Recipe:
    whole = text_only(interleaved(override(small(), settings)))
    return dataclasses.replace(whole, funnel=("extract", "judge", "decontaminate", "decide"))


def ingest(world: Path, ledger: Ledger, recipe: Recipe) -> list[StageReport]:
    """Both crawls, as the command does it."""
    ledger.check(create=True)
    reports = []
    for crawl in CRAWLS:
        options = Options(settings=("--small", *recipe.pinned))
        reports += run(
            recipe, ledger, crawl_units(world, crawl, ledger), InlinePool(ledger.store.url), Quiet(), options
        )
    return reports


@pytest.fixture(scope="module")
def world(small_web: SmallWeb, tmp_path_factory: pytest.TempPathFactory) -> World:
    truth = small_web.truth
    kept = truth.kept()
    fates = expected_dedupe(truth, [set(truth.files(crawl)) for crawl in CRAWLS])
    by_key = {record.key: record for record in kept}
    # a page with one near copy, which loses to it
    pair = next(
        (by_key[fates[copy.key].keeper], copy)
        for copy in kept
        if fates[copy.key].reason == "near_duplicate"
        and len(sized(kept, copy.cluster)) == 2
        and half_lost(by_key[fates[copy.key].keeper], copy)
    )
    alone = [record for record in kept if not record.cluster and record.images > 1 and len(words(record)) > 200]
    early, late = (next(record for record in alone if record.crawl == crawl) for crawl in CRAWLS)
    other = [record for record in alone if record.crawl == CRAWLS[1]][1]
    unknown = [f"unheard{n}" for n in range(LENGTH)]
    sets = {
        "arc": [unknown, half_lost(*pair), words(late)[40 : 40 + LENGTH], unknown[:5]],
        # 4 runs of the 12 are on no page
        "piqa": [words(early)[60 : 60 + LENGTH - 4] + unknown[:4], words(other)[30 : 30 + LENGTH]],
        "quiet": [[f"nobody{n}" for n in range(LENGTH)]],
    }
    folder = tmp_path_factory.mktemp("sets")
    files = ",".join(write(folder / f"{name}.jsonl", items) for name, items in sets.items())
    recipe = recipe_for(f"decontaminate.sets={files}")
    ledger = Ledger(str(tmp_path_factory.mktemp("store")))
    ingest(small_web.folder, ledger, recipe)
    return World(truth=truth, sets=sets, folder=folder, pair=pair, recipe=recipe, ledger=ledger)


def without(truth: Truth, keys: set[Key]) -> Truth:
    return dataclasses.replace(truth, records=tuple(record for record in truth.records if record.key not in keys))


def fates_without(truth: Truth, keys: set[Key]) -> dict[Key, Fate]:
    return expected_dedupe(without(truth, keys), [set(truth.files(crawl)) for crawl in CRAWLS])


def test_what_holds_an_item_goes_and_nothing_goes_for_it(world: World) -> None:
    """As if the crawls had never had these pages: a near copy that is clean now stays."""
    gone = world.contaminated
    page, copy = world.pair
    assert 4 <= len(gone) < 12 and page.key in gone and copy.key not in gone
    assert {world.one_record(key).crawl for key in gone} == set(CRAWLS)
    found = found_fates(world.ledger, world.recipe)
    expected = fates_without(world.truth, gone)
    assert expected[copy.key].reason == "kept"
    assert fates_without(world.truth, set())[copy.key].reason == "near_duplicate"
    assert differences(expected, found, world.truth) == []


def test_the_funnel_adds_up(world: World) -> None:
    found = status(world.recipe, world.ledger)
    stages = list(found.funnel)
    assert stages == ["extract", "judge", "decontaminate", "decide"]
    for before, after in itertools.pairwise(stages):
        assert found.funnel[before]["kept"] == sum(found.funnel[after].values())
    assert found.funnel["decontaminate"]["contaminated"] == len(world.contaminated)
    assert sum(generation.pages for generation in found.generations) == found.funnel["decontaminate"]["kept"]
    expected = Counter(fate.reason for fate in fates_without(world.truth, world.contaminated).values())
    assert found.funnel["decide"] == dict(expected)


def test_leaks_are_counted_over_both_crawls(world: World) -> None:
    shares = {record.key: world.covered(record) for record in world.truth.kept()}
    told = {leak.set: leak for leak in leaks(world.recipe, world.ledger)}
    assert list(told) == ["arc", "piqa", "quiet"]
    for name, leak in told.items():
        mine = {key: {line: share for (of, line), share in some.items() if of == name} for key, some in shares.items()}
        most = {
            line: max(some.get(line, 0.0) for some in mine.values())
            for line in range(len(world.sets[name]))
            if any(line in some for some in mine.values())
        }
        assert leak.items == len(world.sets[name])
        assert leak.findable == sum(len(item) >= 8 for item in world.sets[name])
        assert leak.hit == len(most) and leak.leaked == sum(share >= 0.5 for share in most.values())
        assert leak.pages == sum(bool(some) for some in mine.values())
        assert leak.removed == sum(any(share >= 0.5 for share in some.values()) for some in mine.values())
        assert leak.mean_covered == pytest.approx(sum(most.values()) / len(most) if most else 0)
        assert leak.max_covered == pytest.approx(max(most.values(), default=0))
    assert told["piqa"].hit > told["arc"].hit - 1 > 0 and told["quiet"].hit == 0


def test_why_names_set_and_line_and_share(world: World) -> None:
    page, copy = world.pair
    last = world.why(page)[-1]
    assert (last.stage, last.outcome) == ("decontaminate", "contaminated")
    assert last.detail == "set arc line 2, 1.00 of its 13-grams (decontaminate.min_covered is 0.5)"
    share = world.covered(copy)["arc", 1]
    told = world.why(copy)
    hit = next(finding for finding in told if finding.stage == "decontaminate")
    assert hit.outcome == "kept" and hit.detail.startswith(f"set arc line 2, {share:.2f} of its 13-grams (")
    assert [finding.outcome for finding in told if finding.stage == "dedupe"] == ["kept"]
    clean = next(r for r in world.truth.kept() if not world.covered(r))
    told = world.why(clean)
    assert [(f.outcome, f.detail) for f in told if f.stage == "decontaminate"] == [("kept", "")]


def test_why_names_the_page_that_stays_and_what_decided(world: World) -> None:
    """Of each kind of duplicate one within the first crawl, one of the second, and one across."""
    fates = fates_without(world.truth, world.contaminated)
    told: dict[tuple[str, str, str], Finding] = {}
    for key, fate in fates.items():
        record, keeper = world.one_record(key), world.one_record(fate.keeper)
        case = (fate.reason, record.crawl, keeper.crawl)
        if fate.reason == "kept" or case in told:
            continue
        told[case] = found = world.why(record)[-1]
        assert (found.stage, found.outcome) == ("dedupe", fate.reason)
        numbers = [1 + CRAWLS.index(one.crawl) for one in (record, keeper)]
        whose = f"generation {numbers[0]}, kept: {keeper.url} ({keeper.crawl}, generation {numbers[1]}), "
        assert found.detail.startswith(whose)
        rest = found.detail.removeprefix(whose)
        alike = len(fives(record) & fives(keeper)) / len(fives(record) | fives(keeper))
        if fate.reason == "near_duplicate":
            assert 0.8 <= alike < 1
            by = r"(, 0\.\d{4} by their sketches)?"
            assert re.fullmatch(rf"similarity {alike:.4f}{by}, dedupe\.threshold is 0\.8", rest)
        else:
            same = f"the same address, similarity {alike:.4f}"
            assert rest == (same if fate.reason == "duplicate_url" else "the same text")
    assert len(told) == 9


def test_a_store_is_looked_into_without_the_files(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings are pinned with a run: only the report on the sets themselves reads them again."""
    page, _ = world.pair
    where = ["--store", world.ledger.store.url]
    assert main(["leaks", *where]) == 0
    report = capsys.readouterr().out
    moved = world.folder.rename(world.folder.with_name("moved"))
    try:
        assert main(["status", *where, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["funnel"]["decontaminate"]["contaminated"] == len(world.contaminated)
        assert main(["why", page.doc_id.hex(), *where]) == 0
        assert "decontaminate contaminated: set arc line 2" in capsys.readouterr().out
        decontaminate.known.cache_clear()
        assert main(["leaks", *where]) == 2
        told = capsys.readouterr().err
        assert "arc.jsonl cannot be read" in told and "decontaminate.sets" in told and told.count("\n") == 1
        files = ",".join(f"{name}={moved}/{name}.jsonl" for name in world.sets)
        assert main(["leaks", *where, "--set", f"decontaminate.sets={files}"]) == 0
        assert capsys.readouterr().out == report
    finally:
        moved.rename(world.folder)


def test_other_items_are_another_key(small_web: SmallWeb, world: World, tmp_path: Path) -> None:
    """A file that says something else is compared anew; what was found with the old one stays where it is."""
    files = [write(tmp_path / f"{name}.jsonl", items) for name, items in world.sets.items()]
    same = recipe_for(f"decontaminate.sets={','.join(files)}")
    assert same.stage("decide").key == world.recipe.stage("decide").key, "it is what they say that counts"
    write(tmp_path / "arc.jsonl", world.sets["arc"][:1])
    other = recipe_for(f"decontaminate.sets={','.join(files)}")
    for stage in ("decontaminate", "sign", "decide"):
        assert other.stage(stage).key != world.recipe.stage(stage).key
    with pytest.raises(ConfigError, match="holds no unit that was compared with these sets"):
        leaks(other, world.ledger)
    units = crawl_units(small_web.folder, CRAWLS[0], world.ledger)
    pool = InlinePool(world.ledger.store.url)
    for stage in ("extract", "judge", "decontaminate"):
        (report,) = run(other, world.ledger, units, pool, Quiet(), Options(only=stage))
        assert report.found == (0 if stage == "decontaminate" else 4)
    changed = dataclasses.replace(world, sets={**world.sets, "arc": world.sets["arc"][:1]})
    gone = {key for key in changed.contaminated if changed.one_record(key).crawl == CRAWLS[0]}
    assert gone < world.contaminated
    counts = Counter[str]()
    for commit in world.ledger.commits(other.stage("decontaminate").key):
        counts.update(commit.counts)
    assert counts["contaminated"] == len(gone)
    assert Counter(found_reasons(world.ledger, other).values())["kept"] == len(world.truth.kept())


# images ------------------------------------------------------------------------------------------------------------
def up_to_match(recipe: Recipe) -> Recipe:
    """No shard is laid: what match says of images is what assemble goes by."""
    names = [step.stage.name for step in recipe.steps]
    return dataclasses.replace(recipe, steps=recipe.steps[: names.index("match") + 1])


def matched(ledger: Ledger, recipe: Recipe, truth: Truth) -> dict[tuple[int, int], tuple[Picture, str]]:
    """(doc, image) -> what its address shows, and the reason that it has."""
    pictures = {hashlib.sha256(picture.url.encode()).digest(): picture for picture in truth.pictures}
    rows = [
        row
        for commit in ledger.commits(recipe.stage("match").key)
        for row in read_rows(ledger.store, commit.outputs["images"], ("doc", "image", "url_id", "reason")).to_pylist()
    ]
    return {(row["doc"], row["image"]): (pictures[row["url_id"]], Reason(row["reason"]).word) for row in rows}


def test_images_of_a_set_go_and_nobody_is_asked_again(small_web: SmallWeb, tmp_path: Path) -> None:
    """Pictures that servers have, smaller and coded anew: what shows one goes, and all else keeps its reason."""
    ledger = Ledger(str(tmp_path / "store"))
    ledger.check(create=True)
    units = crawl_units(small_web.folder, CRAWLS[0], ledger)[:1]
    pool = InlinePool(ledger.store.url)
    plain = up_to_match(small_web.recipe())
    run(plain, ledger, units, pool, Quiet())
    before = matched(ledger, plain, small_web.truth)
    kept = {picture.url: picture for picture, reason in before.values() if reason == "kept"}
    chosen = [kept[url] for url in sorted(kept)][::10]
    folder = tmp_path / "nocaps"
    folder.mkdir()
    for number, picture in enumerate(chosen):
        less = cv2.resize(
            cv2.imdecode(np.frombuffer(draw(picture), np.uint8), cv2.IMREAD_COLOR),
            None,
            fx=0.7,
            fy=0.7,
            interpolation=cv2.INTER_AREA,
        )
        (folder / f"{number:02}.jpg").write_bytes(coded(".jpg", less, cv2.IMWRITE_JPEG_QUALITY, 70))
    asked = sum(small_web.server.requests.values())
    recipe = up_to_match(small_web.recipe(f"decontaminate.images={folder}"))
    reports = run(recipe, ledger, units, pool, Quiet(), Options(settings=("--small", *recipe.pinned)))
    assert {report.stage for report in reports if report.committed} == {"match"}
    assert sum(small_web.server.requests.values()) == asked
    shown = {likeness(picture) for picture in chosen}
    expected = {
        place: (picture, "image_contaminated" if reason == "kept" and likeness(picture) in shown else reason)
        for place, (picture, reason) in before.items()
    }
    assert matched(ledger, recipe, small_web.truth) == expected
    gone = [place for place, (_, reason) in expected.items() if reason == "image_contaminated"]
    assert len(chosen) > 5 and len(gone) >= len(chosen)
    (leak,) = leaks(recipe, ledger)
    assert (leak.set, leak.kind, leak.items, leak.hit, leak.leaked) == ("nocaps", "image", *[len(chosen)] * 3)
    assert (leak.removed, leak.pages) == (len(gone), len({doc for doc, _ in gone})) and leak.mean_covered > 0.95
