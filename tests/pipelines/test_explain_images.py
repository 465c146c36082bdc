"""What `why` says of an image's address: what each round was told, and why it was not asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from engine.ledger import Commit, Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe, Step
from engine.schema import MATCHED, OUTCOMES
from engine.stage import Stage, Unit, Work
from engine.window import Options, run
from pipelines import explain_images, fetch
from pipelines.assemble import match
from pipelines.reasons import Reason
from pipelines.select import Cut, budget, frequency
from tests import stages
from tests.pipelines.select_world import first_bits, sha

GOOD, GONE, LATE, MANY = (f"https://a.example/{name}.jpg" for name in ("good", "gone", "late", "many"))
THERE = "https://cdn.example/x.jpg"
STORIES: dict[tuple[str, str], list[dict[str, Any]]] = {}


@dataclass(frozen=True)
class Stub:
    name: str
    cut: Cut = field(default_factory=lambda: Cut(partitions=4, domains=1))


def told(unit: Unit, config: Stub, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """The rows of the stage, in every generation; those of addresses in their partition."""
    for output in stage(config.name).outputs:
        rows = STORIES.get((config.name, output.name), [])
        if "part" in output.schema.names:
            rows = [{**row, "part": first_bits(row["url_id"], 4)} for row in rows]
        elif "url_id" in output.schema.names:
            rows = [row for row in rows if first_bits(row["url_id"], 4) == int(unit.inputs[0])]
        yield output.name, pa.Table.from_pylist(rows, output.schema)


def stage(name: str, *reads: Stage) -> Stage:
    """A stage that says what STORIES has of it."""
    outputs = {"frequency": frequency.OUTPUTS, "budget": budget.OUTPUTS, "match": match.OUTPUTS[:1]}.get(name)
    kept = ("counts", "left", "outcomes", "moves", *(["images"] if name == "match" else []))
    own = tuple(o for o in outputs or fetch.OUTPUTS if o.name in kept)
    here = "tests.pipelines.test_explain_images:told"
    return Stage(name=name, process=here, config=Stub(name), outputs=own, reads=reads, barrier=True)


def parts(num: int) -> Callable[[Stub, Callable[[str], list[Commit]]], list[tuple[str, ...]]]:
    return lambda config, commits: [(str(part),) for part in range(num)]


def recipe() -> Recipe:
    first, second = (step.stage for step in stages.recipe().steps[:2])
    head = stage("frequency", first, second)
    rest = [Step(stage=stage(name, head), parts=parts(1)) for name in ("fetch", "follow", "budget")]
    rest.append(Step(stage=stage("match", head), parts=parts(4)))
    steps = (Step(stage=first), Step(stage=second), Step(stage=head, parts=parts(4)), *rest)
    return Recipe(name="tested", config=None, steps=steps, listing=stages.no_listing)


def outcome(url: str, reason: Reason, tries: int, **more: Any) -> dict[str, Any]:
    nothing = {f.name: bytes(32) if f.name == "sha256" else 0 for f in OUTCOMES}
    return {**nothing, "url_id": sha(url), "reason": int(reason), "tries": tries, **more}


def test_each_round_is_told_and_what_had_no_turn(memory: str) -> None:
    STORIES["frequency", "counts"] = [{"url_id": sha(url), "docs": 2} for url in (GOOD, MANY)]
    STORIES["fetch", "outcomes"] = [
        outcome(GOOD, Reason.MOVED, 1, value=1),
        outcome(GONE, Reason.HTTP_GONE, 2, value=404),
        outcome(LATE, Reason.DEFERRED, 0, value=2400),
    ]
    STORIES["fetch", "moves"] = [{"url_id": sha(GOOD), "url": THERE, "domain": "cdn.example"}]
    STORIES["follow", "outcomes"] = [outcome(GOOD, Reason.KEPT, 1, width=640, height=480, num_bytes=71_179)]
    STORIES["budget", "left"] = [{"url_id": sha(MANY), "reason": int(Reason.DOMAIN_BUDGET), "value": 200_000}]
    nothing = {f.name: bytes(32) if f.name == "sha256" else 0 for f in MATCHED}
    seen = {**nothing, "url_id": sha(GOOD), "followed": True}
    contaminated = {"reason": int(Reason.IMAGE_CONTAMINATED), "value": 3.0}
    STORIES["match", "images"] = [{**seen, **contaminated, "doc": doc, "image": 0} for doc in (7, 9)]
    made, ledger = recipe(), Ledger(memory)
    run(made, ledger, stages.units(1), InlinePool(memory), Quiet(), Options())

    def why(url: str) -> list[tuple[str, str, str]]:
        found = list(explain_images.address(made, ledger, url))
        assert {finding.where for finding in found} <= {url}
        return [(finding.stage, finding.outcome, finding.detail) for finding in found]

    counted = ("select", "counted", "shown by 2 documents")
    assert why(GOOD) == [
        ("fetch", "moved", f"try 1, to {THERE} of cdn.example"),
        ("follow", "fetched", "try 1, 640 x 480, 71,179 bytes"),
        ("match", "image image_contaminated", "generation 1, wanted by 2 documents, value 3"),
        counted,
    ]
    assert why(GONE) == [("fetch", "http_gone", "try 2, value 404")]
    assert why(LATE) == [("fetch", "deferred", "no try, value 2400")]
    left = ("budget", "domain_budget", "generation 1, select.schedule.domain_budget is 200,000")
    assert why(MANY) == [left, counted]
    assert why(THERE) == []
