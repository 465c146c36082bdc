"""The least time that the requests of a run take: those to one domain wait for one another, however large the cluster.

What the newest list of fetch units asks and no commit answers yet, by domain: 10 million addresses of one host at two a
second are 58 days, and one of each of its 10 million hosts 116, since every origin is asked for its robots.txt first.
Redirects, pauses and waiting for answers come on top. All that waits is told in addresses, and what a domain takes in
requests.
"""

from __future__ import annotations

import pyarrow as pa

from engine.arrow import stored_schema
from engine.chain import Chain
from engine.ledger import Commit, Ledger
from engine.recipe import Floor, Recipe, Step, Turns
from engine.work import read_parts, read_rows
from pipelines.select.schedule import OUTPUTS, origins

SLOWEST = 5  # domains told by name
URLS = next(output for output in OUTPUTS if output.name == "urls")
COLUMNS = ("batch", "unit", "lane", "urls", "largest")


def floors(recipe: Recipe, ledger: Ledger) -> tuple[Floor, ...]:
    """What waits at each stage of the recipe that asks what `schedule` lists; reads only. () if nothing waits."""
    standing = Chain(recipe, ledger).standing()
    asking = [step for step in recipe.chain if step.listed is not None]
    found = [_floor(step, _list(recipe, ledger, step, standing), ledger) for step in asking]
    return tuple(floor for floor in found if floor is not None)


def _list(recipe: Recipe, ledger: Ledger, step: Step, standing: list[int]) -> list[Commit]:
    """The commits of the newest list for a stage, of a generation that was not abandoned."""
    key = recipe.stage(step.lister).key
    number = max(set(ledger.generations(key)) & set(standing), default=0)
    generation = ledger.generation(key, number) if number else None
    if generation is None:
        return []
    start = generation.unit_id(0)[:-6]  # its units differ in their last six digits
    return list(ledger.commits(key, [unit for unit in ledger.committed(key) if unit.startswith(start)]))


def _floor(step: Step, commits: list[Commit], ledger: Ledger) -> Floor | None:
    """What waits of a list; None if nothing does."""
    asked = ledger.committed(step.stage.key) if commits else set()
    waiting = [
        (commit, row)
        for commit in commits
        for row in read_rows(ledger.store, commit.outputs["units"], COLUMNS).to_pylist()
        if row["unit"] not in asked
    ]
    if not waiting:
        return None
    lanes: dict[str, int] = {}
    for _, row in waiting:
        if row["lane"]:
            lanes[row["lane"]] = lanes.get(row["lane"], 0) + row["largest"]
    # A shared unit says how many its largest domain takes and not its name: who may be among the slowest is looked up.
    shared = sorted(((commit, row) for commit, row in waiting if not row["lane"]), key=lambda one: -one[1]["largest"])
    least = sorted([*lanes.values(), *(row["largest"] for _, row in shared)], reverse=True)[:SLOWEST][-1]
    known = dict(lanes)
    for commit, row in [one for one in shared if one[1]["largest"] >= least][:SLOWEST]:
        known |= _domains(ledger, commit, row["batch"])
    rate = float(step.stage.config.rate)
    slowest = sorted(known.items(), key=lambda one: (-one[1], one[0]))[:SLOWEST]
    return Floor(
        stage=step.stage.name,
        units=len(waiting),
        addresses=sum(row["urls"] for _, row in waiting),
        rate=rate,
        seconds=slowest[0][1] / rate if rate else 0.0,
        slowest=tuple(Turns(key=name, requests=num) for name, num in slowest),
    )


def _domains(ledger: Ledger, commit: Commit, batch: int) -> dict[str, int]:
    """How many requests each domain of a unit takes: its addresses, and its origins."""
    batches = read_parts(ledger.store, stored_schema(URLS), commit.outputs[URLS.name], batch)
    urls = pa.Table.from_batches(batches, stored_schema(URLS))
    table = pa.table({"domain": urls["domain"], "origin": origins(urls["url"])})
    counts = table.group_by("domain").aggregate([("origin", "count"), ("origin", "count_distinct")])
    return {row["domain"]: row["origin_count"] + row["origin_count_distinct"] for row in counts.to_pylist()}
