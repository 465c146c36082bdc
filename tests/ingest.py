"""The bundled crawls up to the index of what dedupe kept, for tests to kill: `python -m tests.ingest STORE WEB`."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from engine.ledger import Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.window import Options, run
from pipelines import snapshot
from pipelines.kosmos import interleaved, small
from pipelines.smallweb import CRAWLS

LAST = "index"  # the last stage before images


def text_only(recipe: Recipe) -> Recipe:
    """The recipe up to the index: all that asks nobody, published by itself."""
    names = [step.stage.name for step in recipe.steps]
    steps = recipe.steps[: names.index(LAST) + 1]
    return dataclasses.replace(recipe, steps=steps, funnel=("extract", "judge", "decide"), ready=lambda: None)


def ingest(url: str, web: Path, recipe: Recipe) -> None:
    """Take in the bundled crawls one after the other."""
    ledger = Ledger(url)
    ledger.check(create=True)
    for crawl in CRAWLS:
        units = snapshot.units(snapshot.Inputs(crawl=crawl, mirror=str(web)), ledger)
        run(recipe, ledger, units, InlinePool(url), Quiet(), Options())


if __name__ == "__main__":
    ingest(sys.argv[1], Path(sys.argv[2]), text_only(interleaved(small())))
    # an Arrow thread that lets go of a Python buffer while the interpreter ends aborts it (one time in twelve here)
    os._exit(0)
