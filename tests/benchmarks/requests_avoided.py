"""Requests avoided before the first download: image references of a crawl, and those left after each step.

    python -m tests.benchmarks.requests_avoided [--pages 600] [--crawls 3]   a generated crawl of a stated mix
    python -m tests.benchmarks.requests_avoided --store STORE                what a real run asked

The generated crawls go through the real stages, one generation each; only the network is a script. What a step leaves
is counted in the tables that it wrote. Goal: at least four references of pages that pass the text rules a request.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine import schema
from engine.errors import ConfigError
from engine.ledger import Commit, Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.stage import Stage, Unit, Work
from engine.window import Options, run
from engine.work import read_rows
from pipelines import fetch, ids, snapshot
from pipelines.kosmos import interleaved, small
from pipelines.reasons import Reason
from pipelines.select.schedule import OUTPUTS as LISTS
from tests.benchmarks.duplicate_crawl import Capture, Mix, crawls, write

ASKING = ("fetch", "follow")
LAST = "follow"  # the last stage that may ask


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Image references by what is left of them; requests are for images, robots those for robots.txt (0: unknown)."""

    extracted: int
    judged: int  # on pages that the text rules keep
    kept: int  # and deduplication
    passing: int  # by address and declared size, once a page
    unique: int  # addresses of these
    chosen: int  # candidates of documents that stay
    asked: int  # addresses asked for, those that are asked again each time
    robots: int
    reasons: dict[str, int]  # images that select refused, by reason


def scripted(unit: Unit, config: fetch.Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Every address has an answer; one in fifty none that holds, and one in ten is gone."""
    mark, name, batch = unit.inputs
    commit = next(commit for commit in work.manifest(mark) if commit.unit == name)
    urls = next(output for output in LISTS if output.name == "urls")
    rows = work.part(commit, urls, int(batch))
    addresses = ids.ids(rows["url_id"])
    thrown = np.array([address[-1] if len(address) == ids.ID_BYTES else 0 for address in addresses.tolist()])
    reasons = np.select([thrown < 5, thrown < 30], [Reason.TIMEOUT, Reason.HTTP_GONE], Reason.KEPT)
    told: dict[str, Any] = {
        "part": ids.partitions(addresses, config.partitions),
        "url_id": rows["url_id"],
        "reason": reasons.astype(np.uint16),
        "tries": rows["tries"].to_numpy() + np.uint8(1),
        "sha256": [bytes(32)] * rows.num_rows,
    }
    nothing = np.zeros(rows.num_rows)
    columns = [told.get(f.name, nothing.astype(f.type.to_pandas_dtype())) for f in schema.OUTCOMES]
    yield "outcomes", pa.table(columns, schema=schema.OUTCOMES)


def without_network() -> Recipe:
    """The recipe up to its last request, which a script answers."""
    recipe = interleaved(small())
    made: dict[str, Stage] = {}

    def rebuilt(stage: Stage) -> Stage:
        if stage.name not in made:
            process = "tests.benchmarks.requests_avoided:scripted" if stage.name in ASKING else stage.process
            reads = tuple(rebuilt(upstream) for upstream in stage.reads)
            made[stage.name] = dataclasses.replace(stage, process=process, reads=reads)
        return made[stage.name]

    steps = [dataclasses.replace(step, stage=rebuilt(step.stage)) for step in recipe.steps]
    names = [step.stage.name for step in steps]
    return dataclasses.replace(
        recipe, steps=tuple(steps[: names.index(LAST) + 1]), funnel=("extract", "judge", "decide"), ready=lambda: None
    )


def ingest(made: Sequence[Sequence[Capture]], url: str) -> None:
    """Run crawls into a store, one after the other."""
    ledger, recipe = Ledger(url), without_network()
    ledger.check(create=True)
    with tempfile.TemporaryDirectory() as folder:
        files: list[str] = []
        for number, captures in enumerate(made):
            for half in (0, 1):
                files.append(f"{folder}/{number}-{half}.warc.gz")
                write(captures[half::2], Path(files[-1]))
            units = snapshot.units(snapshot.Inputs(files=tuple(files)), ledger)
            run(recipe, ledger, units, InlinePool(url), Quiet(), Options())


def count(ledger: Ledger) -> Counts:
    """The references and requests of all that a store holds; ConfigError for a store of several configs."""
    keys = _keys(ledger)

    def commits(name: str) -> list[Commit]:
        return list(ledger.commits(keys[name])) if name in keys else []

    def rows(commit: Commit, output: str, *columns: str) -> pa.Table:
        return read_rows(ledger.store, commit.outputs[output], columns)

    judged = 0
    for commit in commits("judge"):
        verdicts = rows(commit, "judgements", "row", "reason")
        kept = verdicts["row"].to_numpy()[verdicts["reason"].to_numpy() == 0]
        extracted = ledger.commit(keys["extract"], commit.unit)
        judged += int(np.isin(rows(extracted, "references", "row")["row"].to_numpy(), kept).sum())
    pages = [rows(commit, "pages", "references", "passing") for commit in commits("refer")]
    addresses = [ids.ids(rows(commit, "references", "url_id")["url_id"]) for commit in commits("refer")]
    reasons: Counter[str] = Counter()
    for commit in (*commits("refer"), *commits("select")):
        reasons.update({name[6:]: num for name, num in commit.counts.items() if name.startswith("image:image_")})
    return Counts(
        extracted=sum(commit.rows("references") for commit in commits("extract")),
        judged=judged,
        kept=sum(int(np.sum(table["references"].to_numpy())) for table in pages),
        passing=sum(int(np.sum(table["passing"].to_numpy())) for table in pages),
        unique=len(np.unique(np.concatenate([*addresses, np.zeros(0, "S32")]))),
        chosen=sum(commit.rows("choices") for commit in commits("select")),
        asked=sum(commit.rows("outcomes") for name in ASKING for commit in commits(name)),
        robots=sum(commit.rows("robots") for name in ASKING for commit in commits(name)),
        reasons=dict(reasons),
    )


def _keys(ledger: Ledger) -> dict[str, str]:
    """The key of each stage that the store holds."""
    found: dict[str, str] = {}
    for head in ledger.store.list(""):
        key, _, rest = head.path.partition("/")
        if rest == "stage.json":
            name = key.rpartition("-")[0]
            if name in found:
                raise ConfigError(f"the store holds {found[name]} and {key}; give --store one that knows one config")
            found[name] = key
    return found


def show(counts: Counts) -> None:
    """A line a step, and how many references of kept text a request stands for."""
    steps = (
        ("references of all extracted pages", counts.extracted),
        ("of pages that pass the text rules", counts.judged),
        ("of pages that deduplication keeps", counts.kept),
        ("that pass the address rules, once a page", counts.passing),
        ("addresses of these", counts.unique),
        ("candidates of documents that stay", counts.chosen),
        ("requests for images", counts.asked),
    )
    for name, num in steps:
        print(f"{name:<44}{num:>14,}  {counts.judged / max(1, num):>6.2f}x")
    for name, num in sorted(counts.reasons.items(), key=lambda one: -one[1]):
        print(f"    {name:<40}{num:>14,}")
    if counts.robots:
        print(f"{'requests for robots.txt':<44}{counts.robots:>14,}")
    requests = counts.asked + counts.robots
    print(
        f"{counts.judged / max(1, requests):.2f} references of pages that pass the text rules a request (goal: 4), "
        f"{counts.extracted / max(1, requests):.2f} of all"
    )


def main() -> None:
    """Generate and run, or read a store; print the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=600)
    parser.add_argument("--crawls", type=int, default=3)
    parser.add_argument("--store", default="")
    arguments = parser.parse_args()
    if arguments.store:
        show(count(Ledger(arguments.store)))
        return
    made = crawls(Mix(pages=arguments.pages, crawls=arguments.crawls))
    ingest(made, "memory:///requests_avoided")
    kinds = Counter(capture.kind for captures in made for capture in captures)
    print(", ".join(f"{num:,} captures {kind}" for kind, num in kinds.most_common()))
    show(count(Ledger("memory:///requests_avoided")))


if __name__ == "__main__":
    main()
