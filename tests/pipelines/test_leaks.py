"""The report on evaluation sets, through a real ledger."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from engine import schema
from engine.errors import ConfigError
from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe, Step
from engine.stage import Output, Stage, Unit, Work
from engine.window import run
from pipelines import decontaminate
from pipelines.leaks import Leak, leaks
from tests.pipelines.eval_world import PAGES, Row, config, page, words, write

numbers = itertools.count()


def extracted(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Stands for extract: a text each input."""
    yield "texts", pa.Table.from_pylist([page(row, text) for row, text in enumerate(unit.inputs)], PAGES)


def judged(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Stands for judge: all are kept."""
    rows = work.read("extract", "texts", ("row",))["row"].to_pylist()
    yield (
        "judgements",
        pa.Table.from_pylist([{"row": row, "reason": 0, "value": 0.0} for row in rows], schema.JUDGEMENTS),
    )


def recipe(config: decontaminate.Config) -> Recipe:
    pages = (Output(name="documents", schema=PAGES), Output(name="texts", schema=PAGES))
    first = Stage(name="extract", process=f"{__name__}:extracted", config=0, outputs=pages)
    kept = (Output(name="judgements", schema=schema.JUDGEMENTS),)
    second = Stage(name="judge", process=f"{__name__}:judged", config=0, outputs=kept, reads=(first,))
    last = Stage(
        name="decontaminate",
        process="pipelines.decontaminate:process",
        config=config,
        outputs=decontaminate.OUTPUTS,
        reads=(first, second),
    )
    stages = (first, second, last) if config.sets else (first, second)
    steps = tuple(Step(stage=stage) for stage in stages)
    return Recipe(name="small", config=config, steps=steps, listing=lambda inputs, ledger: list(inputs))


def test_the_report_counts_items_and_pages_once(tmp_path: Path) -> None:
    texts = [words(n, 32) for n in range(4)]  # 20 grams
    first = write(tmp_path, "a.jsonl", [*({"text": text} for text in texts), {"text": words(9, 5)}])
    second = write(tmp_path, "b.jsonl", ["", {"text": texts[0]}])
    whole = config(first, second)
    ledger = Ledger(f"memory:///leaks{next(numbers)}")
    with pytest.raises(ConfigError, match="run `kosmos run small` first"):
        leaks(recipe(whole), ledger)
    part = " ".join(texts[1].split()[:17])  # 5 grams
    units = [
        Unit(id="a" * 24, inputs=(f"{texts[0]} {part}", texts[0], "x")),
        Unit(id="b" * 24, inputs=(texts[0], " ".join(part.split()[:15]))),
        Unit(id="c" * 24, inputs=("x",)),
    ]
    run(recipe(whole), ledger, units, InlinePool(ledger.store.url), Quiet())
    shared: Row = {"max_covered": 1.0, "leaked": 1, "removed": 3}
    assert leaks(recipe(whole), ledger) == [
        Leak(set="a", items=5, findable=4, hit=2, pages=4, mean_covered=0.625, **shared),
        Leak(set="b", items=1, findable=1, hit=1, pages=3, mean_covered=1.0, **shared),
    ]
    with pytest.raises(ConfigError, match="compared with these sets"):
        leaks(recipe(config(second)), ledger)
    with pytest.raises(ConfigError, match="no evaluation set is configured"):
        leaks(recipe(decontaminate.Config()), ledger)
