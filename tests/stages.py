"""A small recipe for tests, importable by worker processes: numbers -> double -> unique -> index.

A unit's inputs after the first two are hazards ("die:2:FOLDER"). Inputs enter no key and no file, so a unit that dies
five times must leave the bytes of one that never did.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.ledger import Commit, Ledger
from engine.recipe import Recipe, Step
from engine.schema import TEXT, field, schema
from engine.spread import with_parts
from engine.stage import Output, Stage, Unit, Work

PATIENCE_S = 90.0  # how long a gate waits for the test before it gives up


@dataclass(frozen=True)
class Numbers:
    """partitions: of the key table. piece: rows a yield; it must not decide any byte."""

    partitions: int = 2
    factor: int = 3


@dataclass(frozen=True)
class Unique:
    partitions: int = 2
    mark: int = 0


NUMBERS = Output(
    name="numbers",
    schema=schema(field("n", pa.uint64(), "a number"), field("text", TEXT, "it in words of a kind")),
    batch_rows=7,
)
KEYS = Output(
    name="keys",
    schema=schema(field("part", pa.uint16(), "partition"), field("key", pa.uint64(), "a hash of n modulo 50")),
    partition_by="part",
    sort_by=("key",),
    compression=None,
)
DOUBLED = Output(name="doubled", schema=schema(field("n", pa.uint64(), "twice the number")))
UNIQUE = Output(name="unique", schema=schema(field("key", pa.uint64(), "not seen before")), sort_by=("key",))
INDEX = Output(name="index", schema=schema(field("key", pa.uint64(), "seen in this generation")), compression=None)


# hazards ----------------------------------------------------------------------------------------------------------
def _times(folder: str, what: str, unit: Unit) -> int:
    """How often this was called before, over all processes."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    before = len(list(place.glob(f"{what}-{unit.id}.*")))
    (place / f"{what}-{unit.id}.{before}.{os.getpid()}").touch()
    return before


def _fail(unit: Unit, work: Work, num: str, folder: str) -> None:
    if _times(folder, "fail", unit) < int(num):
        raise RuntimeError(f"{unit.id} fails on purpose")


def _die(unit: Unit, work: Work, num: str, folder: str) -> None:
    if _times(folder, "die", unit) < int(num):
        os.kill(os.getpid(), signal.SIGKILL)


def _sleep(unit: Unit, work: Work, seconds: str) -> None:
    time.sleep(float(seconds))


def _log(unit: Unit, work: Work, folder: str) -> None:
    _times(folder, "ran", unit)


def _gate(unit: Unit, work: Work, folder: str) -> None:
    """Say who is here, then wait for the test's word."""
    place = Path(folder)
    (place / f"here.{unit.id}.{os.getpid()}").touch()
    until = time.monotonic() + PATIENCE_S
    while not (place / "go").exists():
        if time.monotonic() > until:
            raise TimeoutError("the test never opened the gate")
        time.sleep(0.05)


def _fill(unit: Unit, work: Work, num_bytes: str) -> None:
    """Fill the scratch disk as a library's temporary file would."""
    with open(work.scratch / "big", "wb") as file:
        for _ in range(int(num_bytes) >> 16):
            file.write(b"\0" * (1 << 16))


def _overlap(unit: Unit, work: Work, folder: str) -> None:
    """Fail if another unit of the same folder is under way."""
    mark = Path(folder) / "busy"
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    time.sleep(0.2)
    mark.unlink()


HAZARDS: dict[str, Callable[..., None]] = {
    "fail": _fail,
    "die": _die,
    "sleep": _sleep,
    "log": _log,
    "gate": _gate,
    "fill": _fill,
    "overlap": _overlap,
}


def _poison(unit: Unit, offset: int) -> None:
    for hazard in unit.inputs[2:]:
        name, _, argument = hazard.partition(":")
        if name == "kill" and int(argument) == offset:
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == "segfault" and int(argument) == offset:
            ctypes.string_at(0)
        if name == "exit" and int(argument) == offset:
            os._exit(3)


# processes --------------------------------------------------------------------------------------------------------
def numbers(unit: Unit, config: Numbers, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Rows start..start+num, a record each; every seventh is dropped with the reason "seventh"."""
    start, num = int(unit.inputs[0]), int(unit.inputs[1])
    kept = []
    for offset in range(start, start + num):
        if offset == start + num // 2:
            for hazard in unit.inputs[2:]:
                name, _, arguments = hazard.partition(":")
                if name in HAZARDS:
                    HAZARDS[name](unit, work, *(arguments.split(":") if arguments else ()))
        if not work.enter(offset):
            work.count("crashed")
            continue
        _poison(unit, offset)
        if offset % 7 == 0:
            work.count("seventh")
            continue
        work.count("kept")
        kept.append(offset)
        if len(kept) >= 5:
            yield from _rows(kept, config)
            kept = []
    if kept:
        yield from _rows(kept, config)


def _rows(ns: Sequence[int], config: Numbers) -> Iterator[tuple[str, pa.Table]]:
    column = pa.array(ns, pa.uint64())
    yield "numbers", pa.table([column, pa.array([f"number {n}" for n in ns], TEXT)], schema=NUMBERS.schema)
    hashed = np.array([n % 50 for n in ns], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    yield "keys", with_parts(pa.table({"key": hashed}), "key", config.partitions)


def double(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Reads the unit of the same id."""
    n = work.read("numbers", "numbers", ("n",))["n"].to_numpy()
    yield "doubled", pa.table([n * np.uint64(config)], schema=DOUBLED.schema)


def unique(unit: Unit, config: Unique, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Keys of one partition that no earlier generation had."""
    part = int(unit.inputs[0])
    new = set(work.partition("numbers", "keys", part)["key"].to_pylist())
    for number in work.generation.earlier("index"):
        new -= set(work.partition("index", "index", part, number)["key"].to_pylist())
    yield "unique", pa.table([pa.array(sorted(new), pa.uint64())], schema=UNIQUE.schema)


def index(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """The keys of one partition, for the generations to come."""
    yield "index", work.partition("unique", "unique", int(unit.inputs[0])).cast(INDEX.schema)


def unsteady(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Not a pure function."""
    yield "doubled", pa.table([pa.array([time.monotonic_ns()], pa.uint64())], schema=DOUBLED.schema)


def wandering(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Dies at another record each time, as what is killed for its memory does; inputs: a file that counts."""
    path = Path(unit.inputs[0])
    path.write_bytes(path.read_bytes() + b"." if path.exists() else b".")
    work.enter(len(path.read_bytes()))
    os.kill(os.getpid(), signal.SIGKILL)
    yield "doubled", DOUBLED.schema.empty_table()


def deadly(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Dies before any record."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield "doubled", DOUBLED.schema.empty_table()


# stages -----------------------------------------------------------------------------------------------------------
def numbers_stage(config: Numbers = Numbers()) -> Stage:
    return Stage(name="numbers", process="tests.stages:numbers", config=config, outputs=(NUMBERS, KEYS))


def unsteady_stage(recorded: bool = False, exclusive: bool = False) -> Stage:
    return Stage(
        name="unsteady",
        process="tests.stages:unsteady",
        config=0,
        outputs=(DOUBLED,),
        recorded=recorded,
        exclusive=exclusive,
    )


def exclusive_stage() -> Stage:
    return Stage(
        name="numbers",
        process="tests.stages:numbers",
        config=Numbers(),
        outputs=(NUMBERS, KEYS),
        recorded=True,
        exclusive=True,
        version=2,
    )


def parts(config: Unique, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    return [(str(part),) for part in range(config.partitions)]


def index_parts(config: int, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
    return [(str(part),) for part in range(len(commits("unique")))]


def no_listing(inputs: Any, ledger: Ledger | None) -> list[Unit]:
    return list(inputs)


def recipe(mark: int = 0, factor: int = 2, partitions: int = 2) -> Recipe:
    """All four stages. mark, factor: another key for the chain, or for double alone."""
    first = numbers_stage(Numbers(partitions=partitions))
    second = Stage(
        name="double", process="tests.stages:double", config=factor, outputs=(DOUBLED,), reads=(first,), num_cpus=1
    )
    third = Stage(
        name="unique",
        process="tests.stages:unique",
        config=Unique(partitions, mark),
        outputs=(UNIQUE,),
        reads=(first, second),
        carries=(("index", (INDEX,)),),
        barrier=True,
    )
    return _recipe(first, second, third, _index_stage(third))


def _index_stage(unique_stage: Stage, config: int = 0) -> Stage:
    return Stage(
        name="index",
        process="tests.stages:index",
        config=config,
        outputs=(INDEX,),
        reads=(unique_stage,),
        barrier=True,
    )


def _recipe(first: Stage, second: Stage, third: Stage, fourth: Stage) -> Recipe:
    return Recipe(
        name="tested",
        config=None,
        steps=(
            Step(stage=first),
            Step(stage=second),
            Step(stage=third, parts=parts),
            Step(stage=fourth, parts=index_parts),
        ),
        listing=no_listing,
    )


def with_new_index(old: Recipe, config: int) -> Recipe:
    """The same recipe with another key for its last stage only."""
    first, second, third = (step.stage for step in old.steps[:3])
    return _recipe(first, second, third, _index_stage(third, config))


def without_parts(old: Recipe) -> Recipe:
    """The same recipe whose barriers have no units."""

    def none(config: Any, commits: Callable[[str], list[Commit]]) -> list[tuple[str, ...]]:
        return []

    steps = tuple(Step(stage=step.stage, parts=none if step.parts else None) for step in old.steps)
    return Recipe(name="empty", config=None, steps=steps, listing=no_listing)


def alone(stage: Stage) -> Recipe:
    """A recipe of one map stage."""
    return Recipe(name="alone", config=None, steps=(Step(stage=stage),), listing=no_listing)


def units(num: int, *hazards: str, rows: int = 30, first: int = 0, at: int | None = None, lane: str = "") -> list[Unit]:
    """`num` units of `rows` numbers each; the hazards lie in unit `at` of them (default: in all)."""
    return [
        Unit(
            id=f"u{i:04d}",
            inputs=(str(i * rows), str(rows), *(hazards if at is None or at == i else ())),
            lane=lane,
            size=rows,
        )
        for i in range(first, first + num)
    ]


def manifests(recipe: Recipe, ledger: Ledger) -> dict[str, list[tuple[str, str, int, int, str]]]:
    """All that the ledger names as data, without attempt names: equal for equal bytes."""
    found = {}
    for step in recipe.steps:
        found[step.stage.key] = [
            (commit.unit, name, k, file.rows, file.sha256)
            for commit in ledger.commits(step.stage.key)
            for name, files in sorted(commit.outputs.items())
            for k, file in enumerate(files)
        ]
    return found
