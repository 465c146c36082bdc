"""A recorded stage in a chain: asked once for each thing, whoever wants it, under generations of its own."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.care import verify
from engine.chain import Chain, frozen
from engine.errors import ConfigError
from engine.ledger import Commit, Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe, Step
from engine.schema import field, schema
from engine.stage import OFFSETS, UNKEYED, Output, Place, Stage, Unit, Work
from engine.status import status
from engine.window import Options, StageReport, run
from engine.work import LedgerWork, read_rows
from tests import stages

ANSWERS = Output(
    name="answers",
    schema=schema(field("key", pa.uint64(), "what was asked"), field("bytes", pa.large_binary(), "what came back")),
    sort_by=("key",),
    compression=None,
    batch_rows=2,
    file_bytes=1,  # a file a batch
    located="bytes",
)
WHEN = Output(name="when", schema=schema(field("clock", pa.uint64(), "never the same")), volatile=True)
SEEN = Output(name="seen", schema=schema(field("key", pa.uint64(), ""), field("times", pa.uint32(), "")))
_clock = itertools.count()
_asked: list[int] = []  # in this process only: the pool of these tests is inline


def asked(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Answer every key of one partition; the answer tells when it was asked, so no two are alike."""
    mark, name, *hazards = unit.inputs
    commit = next(commit for commit in work.manifest(mark) if commit.unit == name)
    keys = work.part(commit, stages.UNIQUE, -1)["key"].to_pylist()
    if hazards and not Path(hazards[0]).exists():
        raise RuntimeError("the network is down")
    _asked.extend(keys)
    bodies = [f"{len(_asked)}".encode() * (1 + key % 3) for key in keys]
    yield "when", pa.table([pa.array([next(_clock)], pa.uint64())], schema=WHEN.schema)
    yield "answers", pa.table([pa.array(keys, pa.uint64()), pa.array(bodies, pa.large_binary())], schema=ANSWERS.schema)


def listed(config: int, commits: Sequence[Commit], table: Callable[[Commit, str], pa.Table], mark: str) -> list[Unit]:
    found = []
    for commit in commits:
        keys = table(commit, "unique")["key"].to_pylist()
        if keys:
            name = hashlib.sha256(str(keys).encode()).hexdigest()[:24]
            found.append(Unit(id=name, inputs=(mark, commit.unit, *_hazards), lane="one"))
    return found


_hazards: list[str] = []


def reader(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """How often each key of a partition has been answered, over all that is published."""
    wanted = work.partition("unique", "unique", int(unit.inputs[0]))["key"].to_numpy()
    answered = [
        work.table(commit, "answers", ("key",))["key"].to_numpy()
        for number in work.generation.earlier("asked")
        for commit in work.commits("asked", number)
    ]
    times = np.array([sum(int((keys == key).sum()) for keys in answered) for key in wanted], np.uint32)
    yield "seen", pa.table([wanted, times], schema=SEEN.schema)


def recipe(mark: int = 0, factor: int = 0) -> Recipe:
    """numbers -> double -> unique -> (asked) -> reader -> index; mark: another key for unique, factor: for reader."""
    first, second, unique, index = (step.stage for step in stages.recipe(mark=mark).steps)
    network = Stage(
        name="asked",
        process="tests.engine.test_series:asked",
        config=0,
        outputs=(ANSWERS, WHEN),
        barrier=True,
        recorded=True,
        exclusive=True,
        binds="network of tests",
    )
    read = Stage(
        name="reader",
        process="tests.engine.test_series:reader",
        config=factor,
        outputs=(SEEN,),
        reads=(unique, network),
        barrier=True,
    )
    return Recipe(
        name="tested",
        config=None,
        steps=(
            Step(stage=first),
            Step(stage=second),
            Step(stage=unique, parts=stages.parts),
            Step(stage=network, lister="unique", listed=listed),
            Step(stage=read, parts=stages.index_parts),
            Step(stage=index, parts=stages.index_parts),
        ),
        listing=stages.no_listing,
    )


def go(url: str, units: Sequence[Unit], made: Recipe, **options: Any) -> list[StageReport]:
    return run(made, Ledger(url), units, InlinePool(url), Quiet(), Options(**options))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    _asked.clear()
    yield
    _hazards.clear()


def seen(url: str, made: Recipe) -> dict[int, int]:
    ledger = Ledger(url)
    rows = []
    for commit in ledger.commits(made.stage("reader").key):
        rows += read_rows(ledger.store, commit.outputs["seen"]).to_pylist()
    return {row["key"]: row["times"] for row in rows}


def test_each_thing_is_asked_once_and_readers_see_all_of_it(memory: str) -> None:
    made = recipe()
    go(memory, stages.units(1), made)
    first = list(_asked)
    go(memory, stages.units(3), made)
    go(memory, stages.units(3), made)
    assert len(_asked) == len(set(_asked)) and set(_asked) > set(first)
    assert set(seen(memory, made)) == set(_asked) and set(seen(memory, made).values()) == {1}
    ledger = Ledger(memory)
    key = made.stage("asked").key
    assert ledger.generations(key) == [1, 2]
    second = ledger.generation(made.stage("reader").key, 2)
    assert second is not None and second.earlier("asked") == (1, 2)
    manifests = [ledger.manifest(frozen(made, ledger, "asked", number)[0]) for number in (1, 2)]
    units = [commit.unit for commits in manifests for commit in commits]
    assert len(units) == len(set(units)) and set(units) == ledger.committed(key)


def test_another_recipe_that_wants_the_same_asks_nothing(memory: str) -> None:
    go(memory, stages.units(2), recipe())
    before = list(_asked)
    other = recipe(mark=7)
    assert other.stage("asked").key == recipe().stage("asked").key
    assert other.stage("unique").key != recipe().stage("unique").key
    go(memory, stages.units(2), other)
    assert _asked == before
    assert set(seen(memory, other).values()) == {1}


def test_a_recipe_that_wants_more_asks_only_for_more(memory: str) -> None:
    go(memory, stages.units(1), recipe())
    before = set(_asked)
    other = recipe(mark=7)
    go(memory, stages.units(1), other)
    go(memory, stages.units(2), other)
    assert len(_asked) == len(set(_asked)) and set(_asked) > before
    again = recipe(mark=7, factor=1)
    go(memory, stages.units(2), again)
    assert len(_asked) == len(set(_asked))
    replayed = Ledger(memory).generation(again.stage("reader").key, 1)
    assert replayed is not None and replayed.earlier("asked") == (1, 2), "a replay reads what is on record by now"


def test_what_fails_stops_the_generation_and_a_retry_resumes(memory: str, tmp_path: Path) -> None:
    made = recipe()
    gate = tmp_path / "network"
    _hazards.append(str(gate))
    reports = go(memory, stages.units(2), made)
    assert [r.stage for r in reports if r.failed] == ["asked"]
    assert Chain(made, Ledger(memory)).open_generation() == 1 and not _asked
    gate.touch()
    reports = go(memory, stages.units(2), made, retry_failed=True)
    assert all(report.complete for report in reports)
    assert len(_asked) == len(set(_asked)) > 0 and set(seen(memory, made)) == set(_asked)


def test_commits_of_an_abandoned_generation_are_not_forgotten(memory: str, tmp_path: Path) -> None:
    """The chain gives its inputs up after the network was asked: they join the next generation, nothing is re-asked."""
    made = recipe()
    for name in ("numbers", "double", "asked"):
        go(memory, stages.units(1), made, only=name)
    before = list(_asked)
    assert before
    Chain(made, Ledger(memory)).abandon()
    go(memory, stages.units(1), made)
    assert _asked == before
    assert Ledger(memory).generation(made.stage("reader").key, 2) is not None
    assert set(seen(memory, made).values()) == {1}


def test_two_numbers_published_by_others_lose_nothing(memory: str) -> None:
    """Another driver settles our number with what was there before us: what we add goes under the next one."""
    made = recipe()
    go(memory, stages.units(1), made)
    ledger = Ledger(memory)
    key = made.stage("asked").key
    put = ledger.settle
    raced = itertools.count()

    class Racing(Ledger):
        def settle(self, of: str, number: int, state: str, manifest: str = "") -> str:
            if of == key and next(raced) == 0:
                put(of, number, state, ledger.freeze(key, []))
            return super().settle(of, number, state, manifest)

    run(made, Racing(memory), stages.units(3), InlinePool(memory), Quiet(), Options())
    published = [ledger.manifest(frozen(made, ledger, "asked", number)[0]) for number in (1, 2, 3)]
    assert [len(commits) > 0 for commits in published] == [True, False, True]
    assert set(seen(memory, made)) == set(_asked) and set(seen(memory, made).values()) == {1}


def test_what_is_volatile_names_nothing_that_follows(memory: str) -> None:
    """Two stores in which the network said the same, at other times: the same manifests and the same unit names."""
    made = recipe()
    units, marks = [], []
    for url in (f"{memory}a", f"{memory}b"):
        _asked.clear()
        go(url, stages.units(2), made)
        ledger = Ledger(url)
        units.append({step.stage.name: ledger.committed(step.stage.key) for step in made.steps})
        marks.append([frozen(made, ledger, name)[-1] for name in ("asked", "reader", "index")])
        clocks = [commit.outputs["when"][0].sha256 for commit in ledger.commits(made.stage("asked").key)]
        marks[-1].append(clocks)
    assert units[0] == units[1] and marks[0][:3] == marks[1][:3]
    assert marks[0][3] != marks[1][3]


def test_verify_checks_sums_and_does_not_ask(memory: str) -> None:
    made = recipe()
    go(memory, stages.units(2), made)
    before = list(_asked)
    check = verify(made, Ledger(memory), sample=9)
    assert check.faults == [] and _asked == before
    ledger = Ledger(memory)
    victim = next(iter(ledger.commits(made.stage("asked").key))).outputs["answers"][0]
    ledger.store.put(victim.path, b"x" * victim.bytes)
    assert any(victim.path in fault for fault in verify(made, ledger).faults)


def test_status_counts_it_in_every_generation(memory: str) -> None:
    made = recipe()
    go(memory, stages.units(1), made)
    go(memory, stages.units(3), made)
    told = {stage.stage: stage for stage in status(made, Ledger(memory)).stages}
    assert told["asked"].rows["answers"] == len(_asked)
    assert [g.published for g in status(made, Ledger(memory)).generations] == [("unique", "reader", "index")] * 2


def test_a_store_is_bound_to_one_network(memory: str) -> None:
    go(memory, stages.units(1), recipe())
    ledger = Ledger(memory)
    ledger.bind("asked", "network of tests")
    with pytest.raises(ConfigError, match="another --store"):
        ledger.bind("asked", "another network")
    with pytest.raises(ConfigError, match="network of tests"):
        ledger.check_bound("asked", "another network")


def test_located_rows_are_read_by_their_places(memory: str, tmp_path: Path) -> None:
    made = recipe()
    go(memory, stages.units(2), made)
    ledger = Ledger(memory)
    stage = made.stage("asked")
    lent = LedgerWork(ledger, made.stage("reader"), Unit(id="x"), tmp_path)
    compared = 0
    for commit in ledger.commits(stage.key):
        rows = lent.table(commit, "answers")
        assert len(commit.outputs["answers"]) == -(-rows.num_rows // 2)
        assert commit.rows("answers" + OFFSETS) == rows.num_rows
        for first, num in ((0, rows.num_rows), (rows.num_rows // 2, 1), (rows.num_rows, 0)):
            places = lent.offsets("answers", [(commit, first, num)])[0].to_pylist()
            found = lent.pieces([Place(commit, "answers", p["file"], p["offset"], p["length"]) for p in places])
            assert found == rows["bytes"].to_pylist()[first : first + num]
            compared += len(found)
    assert compared > 20


def test_unkeyed_fields_stay_out_of_the_key() -> None:
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Config:
        rate: float = 1.0
        port: int = dataclasses.field(default=0, metadata=UNKEYED)

    def key(config: Config) -> str:
        return Stage(name="x", process="a:b", config=config, outputs=(SEEN,)).key

    assert key(Config(port=1)) == key(Config(port=2)) != key(Config(rate=2.0))


def test_a_recorded_barrier_needs_its_lister() -> None:
    made = recipe()
    network = next(step for step in made.steps if step.stage.name == "asked")
    with pytest.raises(ConfigError, match="lister"):
        Recipe(name="x", config=None, steps=(network,), listing=stages.no_listing)
    with pytest.raises(ConfigError, match="parts"):
        Recipe(name="x", config=None, steps=(Step(stage=network.stage, parts=stages.parts),), listing=stages.no_listing)
