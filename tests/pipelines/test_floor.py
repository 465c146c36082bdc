"""How long a run takes at least: the turns of the domain with the most requests, said before it runs."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pytest

from engine import schema, show
from engine.chain import Chain
from engine.forecast import plan
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Floor, Recipe, Step, Turns
from engine.stage import Output, Stage, Unit, Work
from engine.store import Store
from engine.window import Options, run
from pipelines import fetch, select
from pipelines.fetch.origins import origin
from pipelines.select import Cut, floor, recall, schedule
from tests import stages

ASKED = Output(name="asked", schema=schema.URL_COUNTS)
DOMAINS = {  # (addresses, hosts); the first two are large
    "photos.example": (132, 11),
    "g.example": (11, 11),
    "b.example": (9, 1),
    "c.example": (12, 3),
    "d.example": (3, 3),
    "e.example": (7, 7),
    "f.example": (1, 1),
}
NUM_URLS = 175
_down: set[str] = set()  # domains whose units fail; the pool of these tests is inline
_requests: Counter[str] = Counter()  # of each domain, by units that did not fail


@dataclass(frozen=True)
class Server:
    rate: float = 2.0


def wanted(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """As many addresses of each domain as it says, in every generation those of before and the new number."""
    rows = [
        {
            "domain": name,
            "url": f"https://{n % hosts:02}.{name}/{work.generation.number}/{n}.jpg",
            "tries": 0,
            "outcomes": 0,
        }
        for name, (num, hosts) in DOMAINS.items()
        for n in range(num)
    ]
    rows = [{**row, "url_id": hashlib.sha256(str(row["url"]).encode()).digest()} for row in rows]
    parts = recall.domain_parts(pa.array([row["domain"] for row in rows], pa.large_string()), 4)
    columns = [parts, *pa.Table.from_pylist(rows, schema.WANTED.remove(0)).columns]
    yield "urls", pa.table(columns, schema=schema.WANTED)


def ask(unit: Unit, config: Server, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Ask each origin for its robots.txt, and for each address; answer nothing; fail where the network is down."""
    mark, name, batch = unit.inputs
    commit = next(commit for commit in work.manifest(mark) if commit.unit == name)
    rows = work.part(commit, schedule.OUTPUTS[0], int(batch)).to_pylist()
    if _down & {row["domain"] for row in rows}:
        raise RuntimeError("the network is down")
    _requests.update(row["domain"] for row in rows)
    _requests.update(domain for domain, _ in {(row["domain"], origin(row["url"])) for row in rows})
    yield "asked", ASKED.schema.empty_table()


def recipe(rate: float = 2.0) -> Recipe:
    """numbers -> double -> recall, which wants DOMAINS -> schedule -> fetch."""
    first, second = (step.stage for step in stages.recipe().steps[:2])
    here = "tests.pipelines.test_floor"
    listed = Stage(
        name="recall", process=f"{here}:wanted", config=0, outputs=recall.OUTPUTS, reads=(second,), barrier=True
    )
    units = schedule.Config(cut=Cut(domains=4), schedule=select.Schedule(unit_urls=20, unit_s=10, rate=2.0))
    cut = Stage(
        name="schedule",
        process="pipelines.select.schedule:process",
        config=units,
        outputs=schedule.OUTPUTS,
        reads=(listed,),
        barrier=True,
    )
    network = Stage(
        name="fetch",
        process=f"{here}:ask",
        config=Server(rate),
        outputs=(ASKED,),
        barrier=True,
        recorded=True,
        exclusive=True,
    )
    last = Stage(
        name="match", process="tests.stages:index", config=0, outputs=(stages.INDEX,), reads=(network,), barrier=True
    )
    return Recipe(
        name="tested",
        config=None,
        steps=(
            Step(stage=first),
            Step(stage=second),
            Step(stage=listed, parts=lambda config, commits: [("0",)]),
            Step(stage=cut, parts=schedule.parts),
            Step(stage=network, lister="schedule", listed=fetch.listed),
            Step(stage=last, parts=lambda config, commits: []),
        ),
        listing=stages.no_listing,
        floor=floor.floors,
    )


@pytest.fixture(autouse=True)
def _up() -> Iterator[None]:
    _down.clear()
    _requests.clear()
    yield
    _down.clear()


def go(url: str, num: int = 2, only: str = "", made: Recipe | None = None) -> None:
    run(made or recipe(), Ledger(url), stages.units(num), InlinePool(url), Quiet(), Options(only=only, max_failed=1.0))


def found(url: str, made: Recipe | None = None) -> tuple[Floor, ...]:
    return plan(made or recipe(), Ledger(url), stages.units(2)).floors


def slowest(requests: Counter[str]) -> tuple[Turns, ...]:
    found = sorted(requests.items(), key=lambda one: (-one[1], one[0]))
    return tuple(Turns(key=name, requests=num) for name, num in found if num)[:5]


def test_what_is_scheduled_waits_until_it_is_answered(memory: str) -> None:
    assert found(memory) == ()
    for stage in ("numbers", "double", "recall"):
        go(memory, only=stage)
        assert found(memory) == ()
    go(memory, only="schedule")
    before = sorted(head.path for head in Store(memory).list(""))
    (floor,) = found(memory)
    assert floor.addresses == NUM_URLS and floor.units > 10
    assert sorted(head.path for head in Store(memory).list("")) == before
    # without a limit there is no floor, but all waits that did
    (free,) = found(memory, recipe(0.0))
    assert (free.seconds, free.addresses, free.slowest) == (0, floor.addresses, floor.slowest)
    # what failed waits on
    _down.update({"photos.example", "c.example"})
    go(memory)
    (left,) = found(memory)
    asked = Counter(_requests)
    assert asked["g.example"] and not asked["photos.example"]
    _down.clear()
    run(recipe(), Ledger(memory), stages.units(2), InlinePool(memory), Quiet(), Options(retry_failed=True))
    assert found(memory) == ()
    # as many requests as were made
    assert _requests["g.example"] == 22 and set(_requests) == set(DOMAINS)
    assert (floor.slowest, floor.seconds) == (slowest(_requests), _requests["photos.example"] / 2)
    assert (left.slowest, left.seconds, left.stage) == (slowest(_requests - asked), floor.seconds, "fetch")
    assert left.addresses < floor.addresses


def test_only_the_newest_list_that_stands_waits(memory: str) -> None:
    go(memory)
    for stage in ("numbers", "double", "schedule"):
        go(memory, 3, only=stage)
    (floor,) = found(memory)
    assert floor.addresses == NUM_URLS
    Chain(recipe(), Ledger(memory)).abandon()
    assert found(memory) == ()


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        # 18 addresses of two hosts a unit: every other unit begins within a host
        (2.0, "fetch: 1 min at least: photos.example has 147 requests at 2 a second; 175 addresses in"),
        (0.001, "fetch: 40 h 50 min at least"),
        (0.0, "fetch: 175 addresses in"),
    ],
)
def test_a_plan_says_who_holds_it_up(memory: str, capsys: pytest.CaptureFixture[str], rate: float, text: str) -> None:
    go(memory, only="numbers")
    go(memory, only="double")
    show.plan(plan(recipe(), Ledger(memory), stages.units(2)), False)
    assert "fetch" not in capsys.readouterr().out
    go(memory, only="schedule")
    made = plan(recipe(rate), Ledger(memory), stages.units(2))
    show.plan(made, False)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("fetch"))
    assert line.startswith(text) and "175 addresses in" in line
    show.plan(made, True)
    body = json.loads(capsys.readouterr().out)["floors"][0]
    assert body["slowest"][0] == {"key": "photos.example", "requests": 147} and body["rate"] == rate


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "1 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "1 h"),
        (66_000, "18 h 20 min"),
        (187_200, "2 d 4 h"),
        (5_011_200, "58 d"),
    ],
)
def test_times_are_told_as_one_plans(seconds: float, text: str) -> None:
    assert show._wait(seconds) == text
