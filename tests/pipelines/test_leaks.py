"""The report on evaluation sets of texts and images, through a real ledger."""

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
from pipelines.assemble import match
from pipelines.images import evaluation
from pipelines.leaks import Leak, leaks
from pipelines.reasons import Reason
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


# images ------------------------------------------------------------------------------------------------------------
SHOWN = pa.schema([("doc", pa.uint64()), ("phash", pa.uint64()), ("reason", pa.uint16())])
LOOK = 0x8000_0000_0000_0001


def shows(unit: Unit, config: int, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Stands for all before match: an image each input, "doc bits reason"; bits: those in which it is not LOOK."""
    rows = [[int(word, 0) for word in image.split()] for image in unit.inputs]
    yield "shown", pa.Table.from_pylist([{"doc": d, "phash": LOOK ^ b, "reason": r} for d, b, r in rows], SHOWN)


def matched(unit: Unit, config: match.Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Stands for match: the documents of one of two partitions."""
    rows = [row for commit in work.commits("shows") for row in work.table(commit, "shown").to_pylist()]
    zeros = {f.name: 0 for f in schema.MATCHED} | {"followed": False, "url_id": bytes(32), "sha256": bytes(32)}
    mine = [zeros | row | {"image": n} for n, row in enumerate(rows) if row["doc"] % 2 == int(unit.inputs[0])]
    yield "leaks", evaluation.contaminated(pa.Table.from_pylist(mine, schema.MATCHED), config.evaluation)[1]


def image_recipe(sets: evaluation.Config) -> Recipe:
    first = Stage(name="shows", process=f"{__name__}:shows", config=0, outputs=(Output(name="shown", schema=SHOWN),))
    last = Stage(
        name="match",
        process=f"{__name__}:matched",
        config=match.Config(evaluation=sets),
        outputs=tuple(output for output in match.OUTPUTS if output.name == "leaks"),
        reads=(first,),
        barrier=True,
    )
    steps = (Step(stage=first), Step(stage=last, parts=lambda config, commits: [("0",), ("1",)]))
    return Recipe(name="small", config=sets, steps=steps, listing=lambda inputs, ledger: list(inputs))


def test_the_report_counts_images_and_documents_once(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", [f"{look:016x}" for look in (LOOK, LOOK | 0xFF00, LOOK | 0xFF0000)])
    write(tmp_path, "b.txt", ["ab" * 32, f"{LOOK | 0b110:016x}"])
    sets = decontaminate.images(
        decontaminate.Config(images=(f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"), image_distance=4)
    )
    whole = image_recipe(sets)
    ledger = Ledger(f"memory:///leaks{next(numbers)}")
    with pytest.raises(ConfigError, match="run `kosmos run small` first"):
        leaks(whole, ledger)
    aspect = int(Reason.ASPECT)
    units = [
        # two of a document, one refused before, one like nothing
        Unit(id="a" * 24, inputs=("1 0b1000 0", "1 0 0", f"2 0b110 {aspect}", "3 0xff000000 0")),
        Unit(id="b" * 24, inputs=(f"2 0xff10 {aspect}",)),
    ]
    for unit in units:
        run(whole, ledger, [unit], InlinePool(ledger.store.url), Quiet())
    assert leaks(whole, ledger) == [
        # items 0 and 1, which lie in 0 and in 1 bit
        Leak(set="a", kind="image", items=3, findable=3, hit=2, leaked=1, pages=2, removed=2,
             mean_covered=(1 + 63 / 64) / 2, max_covered=1.0),
        # 0b1000 is 3 bits from its only hash, 0 is 2, 0b110 none
        Leak(set="b", kind="image", items=2, findable=1, hit=1, leaked=1, pages=2, removed=2,
             mean_covered=1.0, max_covered=1.0),
    ]  # fmt: skip
    (tmp_path / "b.txt").unlink()
    assert len(leaks(whole, ledger)) == 2, "the hashes travel with the recipe"
    with pytest.raises(ConfigError, match=r"no evaluation set is configured; give .* or decontaminate.images"):
        leaks(image_recipe(evaluation.Config()), ledger)
