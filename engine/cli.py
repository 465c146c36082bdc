"""The console script: parses, calls, prints; no logic. Importing it loads neither ray, torch nor pyarrow."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, KosmosError

if TYPE_CHECKING:
    from engine.ledger import Ledger
    from engine.recipe import Recipe

# The one edge upward: names that are resolved when asked for. recipe -> (function, its config, the config of --small)
RECIPES = {"interleaved": ("pipelines.kosmos:interleaved", "pipelines.kosmos:Interleaved", "pipelines.kosmos:small")}
WHY = "pipelines.explain:why"
DEMO = "pipelines.demo:demo"
INPUTS = "pipelines.snapshot:Inputs"
STORE = "kosmos-store"
SMALL = "--small"


def resolve(name: str) -> Any:
    """What a dotted name "module:attribute" stands for."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 ok, 1 some units failed, 2 usage, 3 stopped, 130 interrupted and resumable."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.call(arguments)
        return code
    except KosmosError as error:
        if getattr(arguments, "json", False):
            print(json.dumps({"event": "error", "kind": type(error).__name__, "text": str(error)}), flush=True)
        print(f"kosmos: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("kosmos: stopped; the same command resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output has gone (head, less): not a fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kosmos",
        description="From Common Crawl to curated training data: every command resumes, nothing is dropped uncounted.",
        epilog="Start with: kosmos demo",
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def verb(name: str, call: Callable[[argparse.Namespace], int], text: str, example: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(call=call)
        command.add_argument("--json", action="store_true", help="print JSON, one object a line, for programs")
        return command

    demo = verb("demo", _demo, "the whole job on a bundled crawl, on this machine", "kosmos demo --dir kosmos-demo")
    demo.add_argument("--dir", default="kosmos-demo", help="where the crawl and the store go (default: kosmos-demo)")
    demo.add_argument("--workers", type=int, default=0, help="units at once (default: the cores of this machine)")

    plan = verb(
        "plan",
        _plan,
        "what a run would do and cost; starts nothing, writes nothing",
        "kosmos plan interleaved --input 'crawl/*.warc.gz'",
    )
    _recipe_arguments(plan, looks=False)
    _input_arguments(plan)
    plan.add_argument("--workers", type=int, default=0, help="cores to reckon with (default: this machine's)")

    run = verb(
        "run",
        _run,
        "run a recipe; always resumes, Ctrl-C once drains",
        "kosmos run interleaved --crawl CC-MAIN-2024-22 --limit 10 --store s3://bucket/kosmos",
    )
    _recipe_arguments(run, looks=False)
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
        _status,
        "what a store holds: units, generations, and the funnel with every reason",
        "kosmos status interleaved --store s3://bucket/kosmos",
    )
    _recipe_arguments(status)

    why = verb(
        "why",
        _why,
        "what became of a page, a document or a unit, and which value decided",
        "kosmos why https://garden.example/roses --store kosmos-store",
    )
    why.add_argument("query", metavar="URL|DOC|UNIT", help="an address, a doc_id (32 hex digits) or a unit id")
    _recipe_arguments(why, positional=False)

    freeze = verb(
        "freeze", _freeze, "print a manifest digest: the frozen list of a stage's commits", "kosmos freeze decide"
    )
    freeze.add_argument("stage", metavar="STAGE", help="a stage of the recipe")
    freeze.add_argument(
        "--generation", type=int, default=0, metavar="N", help="of a barrier stage (default: the newest published)"
    )
    _recipe_arguments(freeze, positional=False)

    verify = verb(
        "verify",
        _verify,
        "check every file against its sums and compute a sample of units again",
        "kosmos verify interleaved --sample 2",
    )
    _recipe_arguments(verify)
    verify.add_argument(
        "--sample", type=int, default=2, metavar="N", help="units a stage to compute again (default: 2)"
    )
    verify.add_argument("--only", default="", metavar="STAGE", help="this stage only")
    verify.add_argument("--scratch", default="", metavar="DIR", help="folder on a local disk")

    gc = verb("gc", _gc, "remove data that no commit names and that is older than a day", "kosmos gc --dry-run")
    gc.add_argument("--store", default=STORE, metavar="URL", help=f"the store (default: {STORE})")
    gc.add_argument(
        "--older-than", type=float, default=24.0, metavar="HOURS", help="by the store's clock (default: 24)"
    )
    gc.add_argument("--dry-run", action="store_true", help="count only")

    abandon = verb(
        "abandon", _abandon, "give up the open generation: its inputs join the next one", "kosmos abandon interleaved"
    )
    _recipe_arguments(abandon)
    return parser


def _recipe_arguments(command: argparse.ArgumentParser, positional: bool = True, looks: bool = True) -> None:
    name = "recipe" if positional else "--recipe"
    options: dict[str, Any] = {"nargs": "?"} if positional else {}
    command.add_argument(
        name,
        default="interleaved",
        metavar="RECIPE",
        help=f"one of {', '.join(RECIPES)} (default: interleaved)",
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
    command.add_argument("--show", action="store_true", help="print the resolved settings and stage keys, and stop")
    command.set_defaults(looks=looks)


def _input_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--crawl", default="", metavar="NAME", help="a Common Crawl snapshot, as CC-MAIN-2024-22")
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="GLOB",
        dest="inputs",
        help="WARC files: a glob, a folder, an address, or @FILE with one a line; may be repeated",
    )
    command.add_argument(
        "--mirror", default="", metavar="URL", help="where crawls are read from (default: https://data.commoncrawl.org)"
    )
    command.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N WARC files")


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe as asked for; commands that look into a store take the settings of its last run if none are given."""
    from engine.config import override

    if arguments.recipe not in RECIPES:
        raise ConfigError(f"no recipe {arguments.recipe!r}; there is {', '.join(RECIPES)}")
    if arguments.looks and not _settings(arguments):
        ledger = _ledger(arguments)
        words = ledger.told(arguments.recipe) if ledger.check(create=False) else ()
        arguments.small = SMALL in words
        arguments.settings = [word for word in words if word != SMALL]
    function, config, small = RECIPES[arguments.recipe]
    resolved = override(resolve(small if arguments.small else config)(), arguments.settings)
    recipe: Recipe = resolve(function)(resolved)
    return recipe


def _settings(arguments: argparse.Namespace) -> tuple[str, ...]:
    return (*([SMALL] if arguments.small else []), *arguments.settings)


def _ledger(arguments: argparse.Namespace) -> Ledger:
    from engine.ledger import Ledger

    return Ledger(arguments.store)


def _units(arguments: argparse.Namespace, recipe: Recipe, ledger: Ledger | None) -> list[Any]:
    if arguments.limit < 0:
        raise ConfigError("--limit is a number of WARC files, 1 or more")
    inputs = resolve(INPUTS)
    mirror = {"mirror": arguments.mirror} if arguments.mirror else {}
    units = recipe.listing(inputs(crawl=arguments.crawl, files=tuple(arguments.inputs), **mirror), ledger)
    return units[: arguments.limit] if arguments.limit else units


def _show(arguments: argparse.Namespace, recipe: Recipe) -> int:
    from engine.config import lines

    if arguments.json:
        keys = {step.stage.name: step.stage.key for step in recipe.steps}
        print(json.dumps({"recipe": recipe.name, "stages": keys, "config": dataclasses.asdict(recipe.config)}))
        return 0
    for line in lines(recipe.config):
        print(line)
    for step in recipe.steps:
        print(f"# {step.stage.name}: {step.stage.key}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    code: int = resolve(DEMO)(arguments.dir, arguments.workers, arguments.json)
    return code


def _plan(arguments: argparse.Namespace) -> int:
    from engine import show
    from engine.forecast import plan

    recipe = _recipe(arguments)
    if arguments.show:
        return _show(arguments, recipe)
    result = plan(recipe, _ledger(arguments), _units(arguments, recipe, None), arguments.workers)
    show.plan(result, arguments.json)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from engine import show
    from engine.drive import drive
    from engine.window import Options

    recipe = _recipe(arguments)
    if arguments.show:
        return _show(arguments, recipe)
    if arguments.only:
        recipe.stage(arguments.only)
    ledger = _ledger(arguments)
    ledger.check(create=False)
    _units(arguments, recipe, None)  # a wrong input is told before the store is touched
    ledger.check(create=True)
    options = Options(
        only=arguments.only,
        retry_failed=arguments.retry_failed,
        max_failed=arguments.max_failed,
        scratch=arguments.scratch,
        timeout_s=arguments.timeout,
        settings=_settings(arguments),
    )
    reports = drive(recipe, ledger, _units(arguments, recipe, ledger), options, arguments.workers, arguments.json)
    show.reports(reports, recipe.name, arguments.store, arguments.json)
    return 0 if all(report.complete for report in reports) else 1


def _status(arguments: argparse.Namespace) -> int:
    from engine import show
    from engine.status import status

    recipe = _recipe(arguments)
    if arguments.show:
        return _show(arguments, recipe)
    show.status(status(recipe, _ledger(arguments)), arguments.json)
    return 0


def _why(arguments: argparse.Namespace) -> int:
    from engine import show

    recipe = _recipe(arguments)
    show.findings(resolve(WHY)(recipe, _ledger(arguments), arguments.query), arguments.json)
    return 0


def _freeze(arguments: argparse.Namespace) -> int:
    from engine.chain import frozen

    digest = frozen(_recipe(arguments), _ledger(arguments), arguments.stage, arguments.generation)
    print(json.dumps({"stage": arguments.stage, "manifest": digest}) if arguments.json else digest)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from engine import show
    from engine.care import verify

    check = verify(_recipe(arguments), _ledger(arguments), arguments.sample, arguments.scratch, arguments.only)
    show.check(check, arguments.json)
    return 3 if check.faults else 0


def _gc(arguments: argparse.Namespace) -> int:
    from datetime import timedelta

    from engine import show
    from engine.care import gc

    show.garbage(
        gc(_ledger(arguments), timedelta(hours=arguments.older_than), arguments.dry_run),
        arguments.dry_run,
        arguments.json,
    )
    return 0


def _abandon(arguments: argparse.Namespace) -> int:
    from engine.chain import Chain

    recipe = _recipe(arguments)
    number = Chain(recipe, _ledger(arguments)).abandon()
    text = f"generation {number} is abandoned; `kosmos run {recipe.name}` puts its inputs into the next one"
    print(json.dumps({"abandoned": number}) if arguments.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
