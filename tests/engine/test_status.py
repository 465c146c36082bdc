"""What a store holds: every record under a reason, failures with their error, generations with their state and
their crawls."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from engine import show
from engine.chain import Chain
from engine.crawls import CrawlStatus, held
from engine.ledger import Commit, Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.stage import Unit, Work
from engine.status import passed_over, status
from engine.window import Options, run
from tests import stages

RECIPE = stages.recipe()


def test_an_empty_store_has_no_stages(memory: str) -> None:
    assert status(RECIPE, Ledger(memory)).stages == ()


def test_a_store_is_told_whole(memory: str, tmp_path: Path) -> None:
    ledger = Ledger(memory)
    run(RECIPE, ledger, stages.units(4, f"fail:9:{tmp_path}", at=1), InlinePool(memory), Quiet())
    found = status(RECIPE, ledger)
    numbers = found.stages[0]
    assert (numbers.stage, numbers.units, numbers.quarantined) == ("numbers", 3, ("u0001",))
    assert numbers.counts == {"kept": 76, "seventh": 14} and numbers.rows == {"numbers": 76, "keys": 76}
    assert sum(numbers.counts.values()) == 3 * 30
    assert "on purpose" in numbers.failures["u0001"]
    assert [(g.number, g.state, g.units, g.published) for g in found.generations] == [
        (1, "published", 3, ("unique", "index"))
    ]
    assert found.others == ()
    other = status(stages.recipe(mark=1), ledger)
    assert set(other.others) == {RECIPE.stage("unique").key, RECIPE.stage("index").key}


def test_generations_of_other_settings_are_passed_over(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, other = Ledger(memory), stages.recipe(mark=1)
    assert passed_over(RECIPE, ledger) == ()
    run(RECIPE, ledger, stages.units(2), InlinePool(memory), Quiet())
    assert passed_over(RECIPE, ledger) == ()
    assert passed_over(other, ledger) == (RECIPE.stage("unique").key,)
    show.passed_over(passed_over(other, ledger), other.name, "a store", as_json=False)
    told = capsys.readouterr().out
    assert RECIPE.stage("unique").key in told and "--store 'a store' --show`" in told and told.count("\n") == 1
    run(other, ledger, [], InlinePool(memory), Quiet())
    assert passed_over(other, ledger) == ()


def test_an_abandoned_generation_does_not_count(memory: str) -> None:
    ledger = Ledger(memory)
    for stage in ("numbers", "double", "unique"):
        run(RECIPE, ledger, stages.units(2), InlinePool(memory), Quiet(), Options(only=stage))
    before = status(RECIPE, ledger).stages[2]
    assert before.units == 2
    Chain(RECIPE, ledger).abandon()
    found = status(RECIPE, ledger)
    assert found.stages[2].units == 0 and found.generations[0].state == "abandoned"
    run(RECIPE, ledger, stages.units(2), InlinePool(memory), Quiet())
    assert status(RECIPE, ledger).stages[2].rows == before.rows


CRAWLS = ("CC-MAIN-2024-22", "CC-MAIN-2024-26")
WITH_VERDICTS = "tests.engine.test_status:with_verdicts"


def with_verdicts(unit: Unit, config: stages.Unique, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """`stages.unique`, with a verdict on each row: kept, or twice; and how many were there in earlier generations."""
    keys = work.partition("numbers", "keys", int(unit.inputs[0]))["key"].to_pylist()
    ((name, table),) = stages.unique(unit, config, work)
    old: set[int] = set()
    for number in work.generation.earlier("index"):
        old |= set(work.partition("index", "index", int(unit.inputs[0]), number)["key"].to_pylist())
    work.count("kept", table.num_rows)
    work.count("twice", len(keys) - table.num_rows)
    work.count("known:twice", sum(key in old for key in keys))
    yield name, table


def judging() -> Recipe:
    """The recipe of `stages` whose third stage gives verdicts."""
    first, second, third, fourth = RECIPE.steps
    judge = dataclasses.replace(third.stage, process=WITH_VERDICTS)
    index = dataclasses.replace(fourth.stage, reads=(judge,))
    steps = (first, second, dataclasses.replace(third, stage=judge), dataclasses.replace(fourth, stage=index))
    return dataclasses.replace(RECIPE, steps=steps, funnel=("numbers", "unique"))


def listed(ledger: Ledger, unit: str, **counts: int) -> None:
    """A listing's commit."""
    body = {f"warcs:{name.replace('_', '-')}": num for name, num in counts.items()}
    ledger.put_commit(Commit(stage="snapshot-0", unit=unit, attempt="0", outputs={}, counts=body))


def of_crawl(crawl: str, *starts: int) -> list[Unit]:
    """Units of 30 numbers, as of WARC files of a crawl."""
    return [Unit(id=f"u{start}", inputs=(str(start), "30", crawl)) for start in starts]


def test_crawls_and_what_each_generation_knew(memory: str) -> None:
    recipe, ledger = judging(), Ledger(memory)
    run(recipe, ledger, [*of_crawl(CRAWLS[0], 0), *of_crawl("", 90)], InlinePool(memory), Quiet())
    assert status(recipe, ledger).crawls == (), "nobody has listed a crawl"
    listed(ledger, "a", CC_MAIN_2024_22=3)
    listed(ledger, "b", CC_MAIN_2024_22=4, CC_MAIN_2024_26=9)
    listed(ledger, "c", **{"": 1})
    more = [*of_crawl(CRAWLS[0], 30), *of_crawl(CRAWLS[1], 60)]
    run(recipe, ledger, more, InlinePool(memory), Quiet())
    found = status(recipe, ledger)
    # of 30 numbers 4 or 5 are multiples of 7
    assert [(c.crawl, c.committed, c.listed, c.records, c.kept, c.generations) for c in found.crawls] == [
        ("", 1, 0, 30, 25, (1,)),
        (CRAWLS[0], 2, 4, 60, 51, (1, 2)),
        (CRAWLS[1], 1, 9, 30, 26, (2,)),
    ]
    assert held(recipe, ledger) == found.crawls
    rows = [[n % 50 for s in starts for n in range(s, s + 30) if n % 7] for starts in ((0, 90), (30, 60))]
    old = set(rows[0])
    for generation, keys, known in zip(found.generations, rows, (set(), old), strict=True):
        kept = len(set(keys) - known)
        before = sum(key in known for key in keys)
        assert (generation.pages, generation.kept) == (len(keys), kept) and kept > 0
        assert generation.known == ({"twice": before} if before else {})
        assert sum(generation.removed.values()) == len(keys) - kept - before > 0
    assert [generation.crawls for generation in found.generations] == [("", CRAWLS[0]), CRAWLS]
    assert found.generations[1].known and "known:twice" not in found.funnel["unique"]


def test_a_crawl_that_is_listed_only_has_no_files_yet(memory: str) -> None:
    recipe, ledger = judging(), Ledger(memory)
    run(recipe, ledger, of_crawl(CRAWLS[0], 0), InlinePool(memory), Quiet(), Options(only="numbers"))
    listed(ledger, "a", CC_MAIN_2024_22=3, CC_MAIN_2024_26=9)
    assert held(recipe, ledger) == (
        CrawlStatus(crawl=CRAWLS[0], listed=3, committed=1, records=30, kept=25),
        CrawlStatus(crawl=CRAWLS[1], listed=9),
    )
    assert held(recipe, Ledger(f"{memory}-none")) == ()


def test_status_shows_crawls_and_generations(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, ledger = judging(), Ledger(memory)
    for start in (0, 30):
        run(recipe, ledger, [*of_crawl(CRAWLS[0], start), *of_crawl("", start + 60)], InlinePool(memory), Quiet())
    listed(ledger, "a", CC_MAIN_2024_22=4)
    found = status(recipe, ledger)
    show.status(found, as_json=False)
    text = capsys.readouterr().out
    assert re.search(rf"{CRAWLS[0]} +2 of 4 +60 +5\d +1-2\n", text), text
    assert re.search(r"\(local files\) +2 +60 +5\d +1-2\n", text), text
    known = sum(found.generations[1].known.values())
    assert known and re.search(rf"\n2 +published +2 .* {known} .*\(local files\), {CRAWLS[0]}", text), text
    show.status(found, as_json=True)
    body = json.loads(capsys.readouterr().out)
    assert body["generations"][1]["known"] == {"twice": known} and body["crawls"][1]["listed"] == 4
