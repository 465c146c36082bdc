"""`kosmos demo`: the whole job on the bundled crawl, in two generations, on this machine."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from engine import show
from engine.cluster import connect, where
from engine.config import override
from engine.drive import drive
from engine.errors import ConfigError
from engine.ledger import Ledger
from engine.recipe import Recipe
from engine.status import status
from engine.window import Options
from pipelines import smallweb, snapshot
from pipelines.kosmos import interleaved, small
from pipelines.smallweb.server import Pictures, Server, settings

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
    ledger = Ledger(str(store))
    ledger.check(create=True)
    complete = True
    console.print(f"Starting Ray {where(workers)} ...", highlight=False)
    site = Pictures(web)
    with Server(site, site.corpus, serving=root / "serving.json") as server, connect(workers or None):
        console.print(f"Its images are served at https://127.0.0.1:{server.port}, whatever the host", highlight=False)
        recipe = interleaved(override(small(), settings(server)))
        given = [word for setting in settings(server) for word in ("--set", setting)]
        for crawl in smallweb.CRAWLS:
            words = ["kosmos", "run", "interleaved", "--small", "--crawl", crawl, "--mirror", str(web)]
            words += ["--store", str(store), *given]
            console.print(Text(f"\n$ {shlex.join(words)}", "bold"), soft_wrap=True)
            units = snapshot.units(snapshot.Inputs(crawl=crawl, mirror=str(web)), ledger)
            options = Options(settings=("--small", *settings(server)))
            reports = drive(recipe, ledger, units, options, as_json=as_json)
            complete &= all(report.complete for report in reports)
    found = status(recipe, ledger)
    if as_json:
        print(json.dumps({"event": "demo", "store": str(store), "complete": complete}))
        return 0 if complete else 1
    show.status(found, as_json=False)
    # `make demo` runs it from an environment that is not activated
    kosmos = "kosmos" if shutil.which("kosmos") else shlex.quote(sys.argv[0])
    place = shlex.quote(str(store))
    fates = smallweb.expected_dedupe(truth, [set(truth.files(crawl)) for crawl in smallweb.CRAWLS])
    duplicate = next(r for r in truth.kept() if r.images and fates[r.key].reason == "near_duplicate")
    kept = next(record.url for record in truth.kept() if record.images > 1)
    console.print(
        Text(
            f"\nThe curated shards: {shards(recipe, ledger)}\n"
            "Every row above is a file in the store; nothing was dropped without a counted reason. Try next:\n"
            f"  {kosmos} why {duplicate.url} --store {place}\n"
            f"  {kosmos} why {kept} --store {place}\n"
            f"  {kosmos} verify interleaved --store {place}\n"
            f"  {kosmos} freeze assemble --store {place}    # the digest of the shards, for training\n"
            f"  {kosmos} run interleaved --crawl CC-MAIN-2024-22 --limit 2 --set fetch.contact=https://YOUR.SITE/bot"
            "    # two real WARC files, 1 GB each"
        ),
        soft_wrap=True,
    )
    return 0 if complete else 1


def shards(recipe: Recipe, ledger: Ledger) -> str:
    """How many curated shards there are, their rows, their size, and where the first one is."""
    commits = list(ledger.commits(recipe.stage("assemble").key))
    files = [file for commit in commits for file in commit.outputs["curated"]]
    size = sum(file.bytes for file in files)
    rows = sum(file.rows for file in files)
    first = ledger.store.url.removeprefix("file://") + "/" + files[0].path if files else "none"
    return f"{rows:,} documents, {size:,} bytes in {len(files)} Arrow files, the first at {first}"
