"""`kosmos demo`: the whole job on the bundled crawl, in two generations, on this machine."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from engine import show
from engine.cluster import connect, where
from engine.drive import drive
from engine.errors import ConfigError
from engine.ledger import Ledger
from engine.status import status
from engine.window import Options
from pipelines import smallweb, snapshot
from pipelines.kosmos import interleaved, small

MARK = "truth.jsonl"  # a folder that holds it is a demo's own and may be written over


def demo(folder: str, workers: int = 0, as_json: bool = False) -> int:
    """Write the bundled web below `folder`, ingest its two crawls one after the other, print the funnel.

    Running it again finds everything done. Exit code 0, or 1 if a unit failed.
    """
    root = Path(folder).absolute()
    web, store = root / "web", root / "store"
    if root.exists() and any(root.iterdir()) and not (web / MARK).exists():
        raise ConfigError(f"{root} holds other things; give --dir a new folder")
    console = Console(quiet=as_json)
    shutil.rmtree(web, ignore_errors=True)
    truth = smallweb.write(web)
    console.print(
        f"A web of our own, as Common Crawl would have captured it: {len(truth.records):,} records in "
        f"{len(truth.files())} WARC files of {len(smallweb.CRAWLS)} crawls, below {web}",
        highlight=False,
        soft_wrap=True,
    )
    recipe, ledger = interleaved(small()), Ledger(str(store))
    ledger.check(create=True)
    complete = True
    console.print(f"Starting Ray {where(workers)} ...", highlight=False)
    with connect(workers or None):
        for crawl in smallweb.CRAWLS:
            words = f"kosmos run interleaved --small --crawl {crawl} --mirror {web} --store {store}"
            console.print(Text(f"\n$ {words}", "bold"), soft_wrap=True)
            units = snapshot.units(snapshot.Inputs(crawl=crawl, mirror=str(web)), ledger)
            reports = drive(recipe, ledger, units, Options(settings=("--small",)), as_json=as_json)
            complete &= all(report.complete for report in reports)
    found = status(recipe, ledger)
    if as_json:
        print(json.dumps({"event": "demo", "store": str(store), "complete": complete}))
        return 0 if complete else 1
    show.status(found, as_json=False)
    # `make demo` runs it from an environment that is not activated
    kosmos = "kosmos" if shutil.which("kosmos") else sys.argv[0]
    duplicate = next(record for record in truth.records if record.relation == "near")
    console.print(
        Text(
            "\nEvery row above is a file in the store; nothing was dropped without a counted reason. Try next:\n"
            f"  {kosmos} why {duplicate.url} --store {store}\n"
            f"  {kosmos} run interleaved --small --crawl {smallweb.CRAWLS[-1]} --mirror {web} --store {store}"
            "    # all done: costs a second\n"
            f"  {kosmos} verify interleaved --store {store}\n"
            f"  {kosmos} run interleaved --crawl CC-MAIN-2024-22 --limit 2    # two real WARC files, 1 GB each"
        ),
        soft_wrap=True,
    )
    return 0 if complete else 1
