"""`kosmos demo`: the whole job on the bundled crawl, from WARC files in two generations to a model that says something.

What it does is what a person would type, and it prints the words. Training is lent to it: pipelines know no model.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text

from engine import show
from engine.chain import frozen
from engine.cluster import connect, where
from engine.config import override
from engine.drive import drive
from engine.errors import ConfigError
from engine.ledger import Ledger, code_version
from engine.recipe import Recipe
from engine.status import status
from engine.window import Options
from engine.work import read_rows
from pipelines import smallweb, snapshot
from pipelines.kosmos import interleaved, small
from pipelines.smallweb.server import Pictures, Server, settings

MARK = "truth.jsonl"  # a folder that holds it is a demo's own and may be written over
UPDATES = 100


def demo(folder: str, workers: int, as_json: bool, train: Callable[..., int], answer: Callable[..., str]) -> int:
    """Write the bundled web below `folder`, ingest its two crawls one after the other, print the funnel; train a tiny
    model on the shards and let it caption an image.

    train: (digests, store, out, updates, as_json) -> exit code; answer: (run, images, prompt) -> text. Running it
    again finds everything done. Exit code 0, or 1 if a unit failed.
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
    if as_json:
        print(json.dumps({"event": "demo", "store": str(store), "complete": complete}))
    else:
        show.status(status(recipe, ledger), as_json=False)
        console.print(f"\nThe curated shards: {shards(recipe, ledger)}", highlight=False, soft_wrap=True)
    if not complete:
        return 1
    run = root / "run"
    digests = frozen(recipe, ledger, "pack")
    words = ["kosmos", "train", *digests, "--store", str(store), "--out", str(run), "--updates", str(UPDATES)]
    console.print(Text(f"\n$ {shlex.join(words)}", "bold"), soft_wrap=True)
    _clear(run, digests)
    code = train(digests, str(store), str(run), UPDATES, as_json)
    if code:
        return code
    image, said = sample(recipe, ledger, root / "samples")
    words = ["kosmos", "generate", "--run", str(run), "--image", str(image)]
    console.print(Text(f"\n$ {shlex.join(words)}", "bold"), soft_wrap=True)
    text = answer(str(run), [str(image)], "")
    if as_json:
        print(json.dumps({"event": "caption", "image": str(image), "page": said, "model": text}))
        return 0
    console.print(Text(f"{image.name}\n  its page says:   {said}\n  the model says:  {text}"), soft_wrap=True)
    _next(truth, store, run, console)
    return 0


def _clear(run: Path, digests: list[str]) -> None:
    """Remove the run of a demo of another version or on other rows: it could not go on."""
    try:
        found = json.loads((run / "run.json").read_text())
        mine = (found["digests"], found["code"]) == (digests, code_version())
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        mine = False
    if not mine:
        shutil.rmtree(run)


def _next(truth: smallweb.Truth, store: Path, run: Path, console: Console) -> None:
    # `make demo` runs it from an environment that is not activated
    kosmos = "kosmos" if shutil.which("kosmos") else shlex.quote(sys.argv[0])
    place = shlex.quote(str(store))
    fates = smallweb.expected_dedupe(truth, [set(truth.files(crawl)) for crawl in smallweb.CRAWLS])
    duplicate = next(r for r in truth.kept() if r.images and fates[r.key].reason == "near_duplicate")
    kept = next(record.url for record in truth.kept() if record.images > 1)
    lines = (
        f"{kosmos} why {duplicate.url} --store {place}",
        f"{kosmos} why {kept} --store {place}",
        f"{kosmos} verify interleaved --store {place}",
        f"{kosmos} train $({kosmos} freeze pack --all --store {place}) --store {place} "
        f"--out {shlex.quote(str(run.with_name('longer')))} --updates 300",
        f"{kosmos} run interleaved --crawl CC-MAIN-2024-22 --limit 2 --set fetch.contact=https://YOUR.SITE/bot"
        "    # two real WARC files, 1 GB each",
    )
    told = "\nNothing above was dropped without a counted reason. Try next:\n"
    console.print(Text(told + "\n".join(f"  {line}" for line in lines)), soft_wrap=True)


def sample(recipe: Recipe, ledger: Ledger, folder: Path) -> tuple[Path, str]:
    """An image of the newest curated shard as a file of its own name, and what its page says of it."""
    commits = [c for c in ledger.commits(recipe.stage("assemble").key) if c.rows("curated")]
    newest = max(commits, key=lambda commit: commit.generation)
    images = pc.list_flatten(read_rows(ledger.store, newest.outputs["curated"], ("images",))["images"])
    image = next(image for image in images.to_pylist() if image["alt"] and not image["caption"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(image["url"]).with_suffix(".jpg").name
    path.write_bytes(image["bytes"])
    return path, image["alt"]


def shards(recipe: Recipe, ledger: Ledger) -> str:
    """How many curated shards there are, their rows, their size, and where the first one is."""
    commits = list(ledger.commits(recipe.stage("assemble").key))
    files = [file for commit in commits for file in commit.outputs["curated"]]
    size = sum(file.bytes for file in files)
    rows = sum(file.rows for file in files)
    first = f"{ledger.store.place}/{files[0].path}" if files else "none"
    return f"{rows:,} documents, {size:,} bytes in {len(files)} Arrow files, the first at {first}"
