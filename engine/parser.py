"""What may be typed: the commands, their arguments, and an example of each. Loads nothing but argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

STORE = "kosmos-store"
RUN = "kosmos-run"
SHEET = "sheet.html"


def parser(recipes: Sequence[str], presets: Sequence[str], trainings: Sequence[str]) -> argparse.ArgumentParser:
    """The tree of commands; `verb` of what it parses names the command. The arguments: names that there are."""
    whole = argparse.ArgumentParser(
        prog="kosmos",
        description="From Common Crawl to curated training data: every command resumes, nothing is dropped uncounted.",
        epilog="Start with: kosmos demo",
    )
    verbs = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(verb=name)
        command.add_argument("--json", action="store_true", help="print JSON, one object a line, for programs")
        return command

    demo = verb("demo", "the whole job on a bundled crawl, on this machine", "kosmos demo --dir kosmos-demo")
    demo.add_argument("--dir", default="kosmos-demo", help="where the crawl and the store go (default: kosmos-demo)")
    demo.add_argument("--workers", type=int, default=0, help="units at once (default: the cores of this machine)")

    plan = verb(
        "plan",
        "what a run would do and cost (`plan train`: a training); starts nothing, writes nothing",
        "kosmos plan interleaved --input 'crawl/*.warc.gz'",
    )
    _recipe_arguments(plan, recipes, presets, looks=False)
    _input_arguments(plan)
    plan.add_argument("--workers", type=int, default=0, help="cores to reckon with (default: this machine's)")

    run = verb(
        "run",
        "run a recipe; always resumes, Ctrl-C once drains",
        "kosmos run interleaved --crawl CC-MAIN-2024-22 --limit 10 --store s3://bucket/kosmos",
    )
    _recipe_arguments(run, recipes, presets, looks=False)
    _input_arguments(run)
    run.add_argument("--only", default="", metavar="STAGE", help="run this stage only")
    run.add_argument("--retry-failed", action="store_true", help="try quarantined units again")
    run.add_argument(
        "--max-failed",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of a stage's units that may fail before the run stops; three always may (default: 0.01)",
    )
    run.add_argument(
        "--workers", type=int, default=0, help="units at once on an embedded Ray (default: the cores of this machine)"
    )
    run.add_argument("--scratch", default="", metavar="DIR", help="folder on a fast local disk (default: the system's)")
    run.add_argument(
        "--timeout",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="watchdog: a unit that takes longer fails (default: 3600)",
    )

    status = verb(
        "status",
        "what a store holds: units, generations, and the funnel with every reason",
        "kosmos status interleaved --store s3://bucket/kosmos",
    )
    _recipe_arguments(status, recipes, presets)

    crawls = verb(
        "crawls",
        "the crawls that a mirror offers, newest first, and what a store holds of each",
        "kosmos crawls --store s3://bucket/kosmos",
    )
    _recipe_arguments(crawls, recipes, presets)
    _mirror_argument(crawls)

    why = verb(
        "why",
        "what became of a page, a document or a unit, and which value decided",
        "kosmos why https://garden.example/roses --store kosmos-store",
    )
    why.add_argument("query", metavar="URL|DOC|UNIT", help="an address, a doc_id (32 hex digits) or a unit id")
    _recipe_arguments(why, recipes, presets, positional=False)

    leaks = verb(
        "leaks", "what pages have of the evaluation sets, a line a set", "kosmos leaks --store s3://bucket/kosmos"
    )
    _recipe_arguments(leaks, recipes, presets)

    sheet = verb(
        "sheet",
        "a page to look at: curated documents as they read, and images that were refused",
        "kosmos sheet $(kosmos freeze assemble --all) -o sheet.html",
    )
    sheet.add_argument(
        "digests",
        nargs="*",
        metavar="DIGEST",
        help="manifests of assemble, as `kosmos freeze assemble` prints them (default: of all published generations)",
    )
    sheet.add_argument(
        "-o", "--out", default=SHEET, metavar="FILE", help=f"a file, an address, or - (default: {SHEET})"
    )
    sheet.add_argument("--documents", type=int, default=50, metavar="N", help="documents to show (default: 50)")
    sheet.add_argument("--rejects", type=int, default=50, metavar="N", help="refused images to show (default: 50)")
    sheet.add_argument("--seed", type=int, default=0, metavar="N", help="another one draws others (default: 0)")
    _recipe_arguments(sheet, recipes, presets, positional=False)

    freeze = verb("freeze", "print a manifest digest: the frozen list of a stage's commits", "kosmos freeze decide")
    freeze.add_argument("stage", metavar="STAGE", help="a stage of the recipe")
    freeze.add_argument(
        "--generation", type=int, default=0, metavar="N", help="of a barrier stage (default: the newest published)"
    )
    freeze.add_argument("--all", action="store_true", help="of every published generation, one a line")
    _recipe_arguments(freeze, recipes, presets, positional=False)

    verify = verb(
        "verify",
        "check every file against its sums and compute a sample of units again",
        "kosmos verify interleaved --sample 2",
    )
    _recipe_arguments(verify, recipes, presets)
    verify.add_argument(
        "--sample", type=int, default=2, metavar="N", help="units a stage to compute again (default: 2)"
    )
    verify.add_argument("--only", default="", metavar="STAGE", help="this stage only")
    verify.add_argument("--scratch", default="", metavar="DIR", help="folder on a local disk")

    gc = verb("gc", "remove data that no commit names and that is older than a day", "kosmos gc --dry-run")
    gc.add_argument("--store", default=STORE, metavar="URL", help=f"the store (default: {STORE})")
    gc.add_argument(
        "--older-than", type=float, default=24.0, metavar="HOURS", help="by the store's clock (default: 24)"
    )
    gc.add_argument("--dry-run", action="store_true", help="count only")

    abandon = verb("abandon", "give up the open generation: its inputs join the next one", "kosmos abandon interleaved")
    _recipe_arguments(abandon, recipes, presets)
    _training_verbs(verb, trainings)
    return whole


def _training_verbs(verb: Callable[[str, str, str], argparse.ArgumentParser], trainings: Sequence[str]) -> None:
    train = verb(
        "train",
        "train a model on frozen training shards; always resumes, Ctrl-C once writes a checkpoint",
        "kosmos train $(kosmos freeze pack --all) --recipe tiny --updates 100 --out kosmos-run",
    )
    _training_arguments(train, trainings)
    train.add_argument(
        "--out", default=RUN, metavar="URL", help=f"where checkpoints and metrics go (default: {RUN}); resumes there"
    )
    train.add_argument(
        "--updates", type=int, default=0, metavar="N", help="the update to reach (default: optim.total_updates)"
    )
    _place_arguments(train)
    train.add_argument(
        "--heldout",
        action="append",
        default=[],
        metavar="DIGEST",
        help="rows that are held out, as `kosmos freeze heldout --all` prints them: their losses are told too; may be "
        "repeated",
    )
    train.add_argument("--clip", metavar="FILE", help="CLIP ViT-L/14 weights for the image tower of a new run")
    train.add_argument(
        "--init-from",
        metavar="PATH",
        help="weights that a new run starts from: a run, what `kosmos export` wrote, or a Kosmos-2 checkpoint",
    )
    train.add_argument(
        "--extend", action="append", default=[], metavar="DIGEST", help="go on with these rows, new to the run"
    )
    train.add_argument("--union", action="store_true", help="with --extend: mix them with the rows of before")
    train.add_argument(
        "--accept-change", action="store_true", help="go on with other settings than the run has had so far"
    )
    train.add_argument("--wandb", default="", metavar="PROJECT", help="tell Weights & Biases of it, in this project")
    train.add_argument("--show", action="store_true", help="print the resolved settings, and stop")

    plan = verb(
        "plan train",
        "what a training would take: updates, passes over the data, time, memory; starts nothing",
        "kosmos plan train $(kosmos freeze pack --all) --recipe kosmos1 --workers 64",
    )
    _training_arguments(plan, trainings)
    plan.add_argument("--workers", type=int, default=1, metavar="N", help="workers to reckon with (default: 1)")
    plan.add_argument(
        "--gpus-per-worker", type=float, default=1.0, metavar="G", help="GPUs of each, 1 or a part of one (default: 1)"
    )
    plan.add_argument("--device", default="H100", metavar="NAME", help="the kind of GPU (default: H100)")

    export = verb(
        "export",
        "write a run's checkpoint as one folder: weights, config, tokenizer, model card",
        "kosmos export --run kosmos-run --out kosmos-model",
    )
    export.add_argument("--run", default=RUN, metavar="URL", help=f"what `kosmos train` wrote (default: {RUN})")
    export.add_argument("--out", required=True, metavar="FOLDER", help="a new folder, or an address in a store")
    export.add_argument("--update", type=int, default=0, metavar="N", help="of this checkpoint (default: the newest)")
    export.add_argument(
        "--dtype", choices=("float32", "bf16"), default="float32", help="of the weights (default: float32)"
    )
    export.add_argument(
        "--layout",
        choices=("kosmos", "kosmos2"),
        default="kosmos",
        help="names of the weights: ours, or those that transformers' Kosmos-2 loads (default: kosmos)",
    )

    generate = verb(
        "generate",
        "what a trained model says to an image or to a text",
        "kosmos generate --run kosmos-run --image photo.jpg",
    )
    generate.add_argument(
        "--run", default=RUN, metavar="URL", help=f"what `kosmos train` or `kosmos export` wrote (default: {RUN})"
    )
    generate.add_argument("--image", action="append", default=[], metavar="FILE", dest="images", help="an image file")
    generate.add_argument("--prompt", default="", metavar="TEXT", help="text to go on from, after the image")
    generate.add_argument("--max-tokens", type=int, default=64, metavar="N", help="stop after so many (default: 64)")
    generate.add_argument(
        "--square", action="store_true", help="show the whole image, squeezed into a square, instead of its middle"
    )


def _training_arguments(command: argparse.ArgumentParser, trainings: Sequence[str]) -> None:
    command.add_argument(
        "digests",
        nargs="*",
        metavar="DIGEST",
        help="manifests of training rows, as `kosmos freeze pack --all` prints them",
    )
    command.add_argument("--store", default=STORE, metavar="URL", help=f"the store of the shards (default: {STORE})")
    command.add_argument("--recipe", default="tiny", help=f"one of {', '.join(trainings)} (default: tiny)")
    command.add_argument(
        "--scale-batch",
        default="",
        metavar="F",
        help="rows of an update times this, a number or a fraction as 1/16 (sets data.scale_batch)",
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="GROUP.FIELD=VALUE", dest="settings", help="change one setting"
    )


def _place_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers",
        default="",
        metavar="N|MIN-MAX",
        help="0: in this process, or in those that torchrun started; N Ray Train workers; MIN-MAX: as many as the "
        "cluster has room for, fewer or more as that changes (default: 1 if RAY_ADDRESS is set, else 0)",
    )
    command.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="G",
        help="1, 0 for none, or of a single worker a part of one (default: 1 if the cluster has GPUs, else 0)",
    )
    command.add_argument(
        "--restarts",
        type=int,
        metavar="N",
        help="crashes of workers after which it goes on from the newest checkpoint (default: 3, of one worker 0)",
    )


def _recipe_arguments(
    command: argparse.ArgumentParser,
    recipes: Sequence[str],
    presets: Sequence[str],
    positional: bool = True,
    looks: bool = True,
) -> None:
    name = "recipe" if positional else "--recipe"
    options: dict[str, Any] = {"nargs": "?"} if positional else {}
    command.add_argument(
        name,
        default="interleaved",
        metavar="RECIPE",
        help=f"one of {', '.join(recipes)} (default: interleaved)",
        **options,
    )
    command.add_argument(
        "--store",
        default=STORE,
        metavar="URL",
        help=f"folder, file://, s3://, gs:// or az:// address (default: {STORE})",
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", dest="settings", help="change one setting"
    )
    command.add_argument("--small", action="store_true", help="the recipe's variant for a laptop")
    command.add_argument(
        "--preset", choices=presets, default="", help=f"the bounds of all rules at once (default: {presets[0]})"
    )
    command.add_argument("--show", action="store_true", help="print the resolved settings and stage keys, and stop")
    command.set_defaults(looks=looks)


def _input_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--crawl",
        default="",
        metavar="NAME",
        help="a Common Crawl snapshot, as CC-MAIN-2024-22, or latest: the newest that `kosmos crawls` lists",
    )
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="GLOB",
        dest="inputs",
        help="WARC files: a glob, a folder, an address, or @FILE with one a line; may be repeated",
    )
    _mirror_argument(command)
    command.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N WARC files")


def _mirror_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mirror", default="", metavar="URL", help="where crawls are read from (default: https://data.commoncrawl.org)"
    )
