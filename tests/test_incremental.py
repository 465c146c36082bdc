"""Crawl after crawl: nothing that was published changes, whoever is killed, and all of it can be computed again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.config import override
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.window import Options, run
from engine.work import read_rows
from pipelines import snapshot
from pipelines.dedupe import Config
from pipelines.kosmos import interleaved, small
from pipelines.smallweb import CRAWLS
from tests.conftest import SmallWeb
from tests.ingest import ingest, text_only
from tests.pipelines.dedupe_chain import Chain
from tests.test_end_to_end import crawl_units, inline, sums

REAL = Path(__file__).parents[2] / "shared/data/crawl"
SIGNED = ("signatures", "slots", "shingles")


@pytest.fixture(scope="module")
def undisturbed(small_web: SmallWeb, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Any]:
    """The recipe up to the index, and what it writes when nobody interferes."""
    url = str(tmp_path_factory.mktemp("undisturbed"))
    recipe = text_only(interleaved(small()))
    ingest(url, small_web.folder, recipe)
    return recipe, sums(Ledger(url), recipe)


def killed_at(process: subprocess.Popen[bytes], folder: Path) -> bool:
    """Kill -9 as soon as a commit stands in the folder; whether the process was still at work."""
    until = time.monotonic() + 120
    while process.poll() is None and not any(folder.glob("*.json")) and time.monotonic() < until:
        time.sleep(0.005)
    process.kill()
    return process.wait(30) == -9


@pytest.mark.timeout(300)
def test_dedupe_killed_at_every_stage_writes_the_same_bytes(
    small_web: SmallWeb, undisturbed: tuple[Recipe, Any], tmp_path: Path
) -> None:
    recipe, expected = undisturbed
    words = [sys.executable, "-m", "tests.ingest", str(tmp_path), str(small_web.folder)]
    killed = 0
    for stage in ("exact", "verify", "decide"):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
            killed += killed_at(process, tmp_path / recipe.stage(stage).key / "commits")
    assert killed >= 2, "a process that was done cannot be killed"
    # two at once finish what they left
    both = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sums(Ledger(str(tmp_path)), recipe) == expected


@pytest.mark.ray
def test_what_was_published_never_changes_and_all_is_computed_again_from_the_recorded_fetch(
    small_web: SmallWeb, tmp_path: Path
) -> None:
    recipe, ledger = small_web.recipe(), Ledger(str(tmp_path))
    ledger.check(create=True)
    inline(ledger, recipe, crawl_units(small_web.folder, CRAWLS[0], ledger))
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    inline(ledger, recipe, crawl_units(small_web.folder, CRAWLS[1], ledger))
    changed = [path for path, body in first.items() if path.read_bytes() != body]
    assert not changed, "the second crawl stands beside the first"
    whole = sums(ledger, recipe)

    asked = small_web.server.requests
    for step in recipe.chain:
        if not step.stage.recorded:
            for name in ("data", "commits", "published"):
                shutil.rmtree(tmp_path / step.stage.key / name, ignore_errors=True)
    again = Ledger(str(tmp_path))
    run(recipe, again, [], InlinePool(again.store.url), Quiet(), Options())
    assert sums(again, recipe) == whole
    assert small_web.server.requests == asked, "what the servers said is on record"


def signed(ledger: Ledger, recipe: Recipe) -> list[dict[str, pa.Table]]:
    """What sign wrote, a dictionary a unit, in order of unit ids."""
    return [
        {name: read_rows(ledger.store, commit.outputs[name]) for name in SIGNED}
        for commit in sorted(ledger.commits(recipe.stage("sign").key), key=lambda commit: commit.unit)
    ]


def verdicts(generations: Sequence[Sequence[dict[str, pa.Table]]]) -> tuple[dict[int, Any], Chain]:
    """{doc_id: (reason, doc_id of the keeper)} of what went, and the chain."""
    chain = Chain(Config(partitions=4))
    found = {}
    for units in generations:
        for row in chain.publish(units).to_pylist():
            if row["reason"]:
                found[chain.id(row["doc"])] = (row["reason"], chain.id(row["keeper"]))
    return found, chain


def with_generation(unit: dict[str, pa.Table], place: int) -> dict[str, pa.Table]:
    """The unit with its generation as the first thing that priority looks at."""
    table = unit["signatures"]
    quality = table["quality"].to_numpy() + np.uint16(1000 * (9 - place))
    at = table.schema.get_field_index("quality")
    return {**unit, "signatures": table.set_column(at, table.schema.field(at), pa.array(quality, pa.uint16()))}


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared data")
@pytest.mark.timeout(300)
def test_the_real_crawl_in_three_is_the_real_crawl_at_once(tmp_path: Path) -> None:
    recipe, ledger = interleaved(small()), Ledger(str(tmp_path))
    ledger.check(create=True)
    units = snapshot.units(snapshot.Inputs(files=(f"{REAL}/*.warc.gz",)), ledger)
    for step in recipe.maps:
        run(recipe, ledger, units, InlinePool(ledger.store.url), Quiet(), Options(only=step.stage.name))
    tables = signed(ledger, recipe)
    thirds = [tables[place::3] for place in range(3)]
    one_by_one, _ = verdicts(thirds)
    at_once, _ = verdicts([[with_generation(unit, place) for place, third in enumerate(thirds) for unit in third]])
    assert len(one_by_one) > 100
    assert one_by_one == at_once


@pytest.mark.parametrize("partitions", [1, 16])
def test_verdicts_are_the_same_bytes_in_other_partitions_and_another_order(
    small_web: SmallWeb, undisturbed: tuple[Recipe, Any], tmp_path: Path, partitions: int
) -> None:
    base, expected = undisturbed
    recipe = text_only(interleaved(override(small(), [f"dedupe.partitions={partitions}"])))
    ledger = Ledger(str(tmp_path))
    ledger.check(create=True)
    for crawl in CRAWLS:
        inline(ledger, recipe, crawl_units(small_web.folder, crawl, ledger)[::-1])

    def decided(found: Any, recipe: Recipe) -> list[tuple[str, list[str]]]:
        key = recipe.stage("decide").key
        return sorted((output, files) for (stage, _, output), files in found.items() if stage == key)

    # unit ids hold the partitions' key; what is written does not
    assert decided(sums(ledger, recipe), recipe) == decided(expected, base)
