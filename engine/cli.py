"""The console script: parses, calls, prints; no logic. Importing it loads neither ray, torch nor pyarrow."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, KosmosError
from engine.parser import parser

if TYPE_CHECKING:
    from engine.ledger import Ledger
    from engine.recipe import Recipe

# The one edge upward: names that are resolved when asked for. recipe -> (function, what --small makes of its config)
RECIPES = {"interleaved": ("pipelines.kosmos:interleaved", "pipelines.kosmos:small")}
PRESETS = {  # the first by default
    "kosmos1": "pipelines.kosmos:Interleaved",
    "obelics": "pipelines.kosmos:obelics",
    "fineweb": "pipelines.kosmos:fineweb",
}
WHY = "pipelines.explain:why"
DEMO = "pipelines.demo:demo"
LEAKS = "pipelines.leaks:leaks"
SHEET = "pipelines.sheet:sheet"
PUT_SHEET = "pipelines.sheet:write"
INPUTS = "pipelines.snapshot:Inputs"
NAMED = "pipelines.snapshot:named"
CRAWLS = "pipelines.offers:crawls"
TRAININGS = {name: f"trainer.config:{name}" for name in ("tiny", "kosmos1", "text")}
TRAIN = "trainer.command:train"
ESTIMATE = "trainer.estimate:estimate"
EXPORT = "trainer.weights.export:export"
GENERATE = "trainer.answer:answer"
SMALL, PRESET = "--small", "--preset="


def resolve(name: str) -> Any:
    """What a dotted name "module:attribute" stands for."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 ok, 1 some units failed, 2 usage, 3 stopped, 130 interrupted and resumable."""
    arguments = parser(tuple(RECIPES), tuple(PRESETS), tuple(TRAININGS)).parse_args(_joined(argv))
    try:
        code: int = VERBS[arguments.verb](arguments)
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


def _joined(argv: Sequence[str] | None) -> list[str]:
    """The words, the first two as one where they name a command together, as `plan train` does."""
    words = list(sys.argv[1:] if argv is None else argv)
    two = " ".join(words[:2])
    return [two, *words[2:]] if two in VERBS else words


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe as asked for; commands that look into a store take the settings of its last run if none are given."""
    from engine.config import override

    if arguments.recipe not in RECIPES:
        raise ConfigError(f"no recipe {arguments.recipe!r}; there is {', '.join(RECIPES)}")
    if arguments.looks and not _settings(arguments):
        ledger = _ledger(arguments)
        words = ledger.told(arguments.recipe) if ledger.check(create=False) else ()
        arguments.small = SMALL in words
        arguments.preset = next((word.removeprefix(PRESET) for word in words if word.startswith(PRESET)), "")
        arguments.settings = [word for word in words if not word.startswith("--")]
    function, small = RECIPES[arguments.recipe]
    config = resolve(PRESETS[arguments.preset or next(iter(PRESETS))])()
    if arguments.small:
        config = resolve(small)(config)
    recipe: Recipe = resolve(function)(override(config, arguments.settings))
    return recipe


def _settings(arguments: argparse.Namespace) -> tuple[str, ...]:
    words = [SMALL] if arguments.small else []
    if arguments.preset:
        words.append(f"{PRESET}{arguments.preset}")
    return (*words, *arguments.settings)


def _ledger(arguments: argparse.Namespace) -> Ledger:
    from engine.ledger import Ledger

    return Ledger(arguments.store)


def _inputs(arguments: argparse.Namespace) -> Any:
    """What is asked for, with the name of the crawl that is the latest now: it must be one for the whole command."""
    from engine import show

    if arguments.limit < 0:
        raise ConfigError("--limit is a number of WARC files, 1 or more")
    mirror = {"mirror": arguments.mirror} if arguments.mirror else {}
    asked = resolve(INPUTS)(crawl=arguments.crawl, files=tuple(arguments.inputs), **mirror)
    inputs = resolve(NAMED)(asked)
    if inputs.crawl != asked.crawl:
        show.newest(inputs.crawl, arguments.json)
    return inputs


def _units(arguments: argparse.Namespace, recipe: Recipe, inputs: Any, ledger: Ledger | None) -> list[Any]:
    units = recipe.listing(inputs, ledger)
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
    def train(digests: list[str], store: str, out: str, updates: int, as_json: bool) -> int:
        config = resolve(TRAININGS["tiny"])()
        done: int = resolve(TRAIN)(config, digests, store, out, updates=updates, workers="0", as_json=as_json)
        return done

    def answer(run: str, images: list[str], prompt: str) -> str:
        text: str = resolve(GENERATE)(run, images, prompt)
        return text

    code: int = resolve(DEMO)(arguments.dir, arguments.workers, arguments.json, train, answer)
    return code


def _plan(arguments: argparse.Namespace) -> int:
    from engine import show
    from engine.forecast import plan

    recipe = _recipe(arguments)
    if arguments.show:
        return _show(arguments, recipe)
    units = _units(arguments, recipe, _inputs(arguments), None)
    result = plan(recipe, _ledger(arguments), units, arguments.workers)
    show.plan(result, arguments.json)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from engine import show
    from engine.drive import drive
    from engine.status import passed_over
    from engine.window import Options

    recipe = _recipe(arguments)
    if arguments.show:
        return _show(arguments, recipe)
    if arguments.only:
        recipe.stage(arguments.only)
    ledger = _ledger(arguments)
    ledger.check(create=False)
    inputs = _inputs(arguments)
    _units(arguments, recipe, inputs, None)  # a wrong input is told before the store is touched
    ledger.check(create=True)
    if others := passed_over(recipe, ledger):
        show.passed_over(others, recipe.name, arguments.store, arguments.json)
    options = Options(
        only=arguments.only,
        retry_failed=arguments.retry_failed,
        max_failed=arguments.max_failed,
        scratch=arguments.scratch,
        timeout_s=arguments.timeout,
        settings=(*_settings(arguments), *recipe.pinned),
    )
    reports = drive(
        recipe, ledger, _units(arguments, recipe, inputs, ledger), options, arguments.workers, arguments.json
    )
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


def _crawls(arguments: argparse.Namespace) -> int:
    from engine import show

    recipe = _recipe(arguments)
    if arguments.show:
        return _show(arguments, recipe)
    show.crawls(resolve(CRAWLS)(recipe, _ledger(arguments), arguments.mirror), arguments.json)
    return 0


def _leaks(arguments: argparse.Namespace) -> int:
    from engine import show

    recipe = _recipe(arguments)
    if arguments.show:
        return _show(arguments, recipe)
    show.rows(resolve(LEAKS)(recipe, _ledger(arguments)), arguments.json)
    return 0


def _why(arguments: argparse.Namespace) -> int:
    from engine import show

    recipe = _recipe(arguments)
    show.findings(resolve(WHY)(recipe, _ledger(arguments), arguments.query), arguments.json)
    return 0


def _sheet(arguments: argparse.Namespace) -> int:
    recipe = _recipe(arguments)
    if arguments.show:
        return _show(arguments, recipe)
    numbers = arguments.documents, arguments.rejects, arguments.seed
    drawn = resolve(SHEET)(recipe, _ledger(arguments), arguments.digests, *numbers)
    if arguments.out == "-":
        sys.stdout.buffer.write(drawn.body)
        sys.stdout.buffer.flush()
        return 0
    resolve(PUT_SHEET)(arguments.out, drawn.body)
    told = {"out": arguments.out, "bytes": len(drawn.body)}
    told |= {f.name: getattr(drawn, f.name) for f in dataclasses.fields(drawn) if f.name != "body"}
    text = (
        f"{arguments.out}: {drawn.documents:,} of {drawn.all_documents:,} documents and {drawn.rejects:,} of "
        f"{drawn.all_rejects:,} refused images, {len(drawn.body) / 1e6:.1f} MB; open it in a browser"
    )
    print(json.dumps(told) if arguments.json else text)
    return 0


def _freeze(arguments: argparse.Namespace) -> int:
    from engine.chain import frozen

    digests = frozen(_recipe(arguments), _ledger(arguments), arguments.stage, arguments.generation)
    if not arguments.all:
        digests = digests[-1:]
    if arguments.json:
        newest = {"manifest": digests[-1]}
        print(json.dumps({"stage": arguments.stage, **({"manifests": digests} if arguments.all else newest)}))
    else:
        print("\n".join(digests))
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


def _training(arguments: argparse.Namespace) -> Any:
    """The config of a training as asked for."""
    from engine.config import override

    if arguments.recipe not in TRAININGS:
        raise ConfigError(f"no training recipe {arguments.recipe!r}; there is {', '.join(TRAININGS)}")
    scale = [f"data.scale_batch={_fraction(arguments.scale_batch)}"] if arguments.scale_batch else []
    return override(resolve(TRAININGS[arguments.recipe])(), [*arguments.settings, *scale])


def _fraction(text: str) -> float:
    from fractions import Fraction

    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ConfigError(f"--scale-batch is {text!r}; give a number or a fraction, as 0.5 or 1/16") from None


def _train(arguments: argparse.Namespace) -> int:
    from engine.config import lines

    config = _training(arguments)
    if arguments.show:
        print(json.dumps(dataclasses.asdict(config)) if arguments.json else "\n".join(lines(config)))
        return 0
    code: int = resolve(TRAIN)(
        config,
        arguments.digests,
        arguments.store,
        arguments.out,
        updates=arguments.updates,
        workers=arguments.workers,
        as_json=arguments.json,
        extend=arguments.extend,
        union=arguments.union,
        heldout=arguments.heldout,
        clip=_filled("--clip", arguments.clip),
        init_from=_filled("--init-from", arguments.init_from),
        accept_change=arguments.accept_change,
        wandb=arguments.wandb,
        gpus_per_worker=arguments.gpus_per_worker,
        restarts=arguments.restarts,
    )
    return code


def _filled(option: str, value: str | None) -> str:
    """What an option was given; ConfigError for nothing, as an unset variable of the shell gives it."""
    if value is not None and not value.strip():
        raise ConfigError(f"{option} is empty; give it a path, or leave it out")
    return value or ""


def _plan_train(arguments: argparse.Namespace) -> int:
    if not arguments.digests:
        raise ConfigError("there is nothing to plan for; give the digests that `kosmos freeze pack --all` prints")
    if arguments.workers < 1:
        raise ConfigError(f"--workers is {arguments.workers}; give the number of workers to reckon with, 1 or more")
    if not 0 < arguments.gpus_per_worker <= 1:
        raise ConfigError(f"--gpus-per-worker is {arguments.gpus_per_worker:g}; give 1, or a part of one")
    config = _training(arguments)
    devices = max(1, round(arguments.workers * arguments.gpus_per_worker))
    found: list[str] = resolve(ESTIMATE)(config, arguments.digests, arguments.store, devices, arguments.device)
    print(json.dumps({"lines": found}) if arguments.json else "\n".join(found))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    place: str = resolve(EXPORT)(
        arguments.run, arguments.out, update=arguments.update, dtype=arguments.dtype, layout=arguments.layout
    )
    next_ = f"kosmos generate --run {shlex.quote(arguments.out)} --prompt TEXT, or --image FILE"
    text = f"{place} holds the model; next: {next_}"
    said = {"out": place, "dtype": arguments.dtype, "layout": arguments.layout}
    print(json.dumps(said) if arguments.json else text)
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    words = arguments.images, arguments.prompt, arguments.max_tokens, arguments.square
    text = resolve(GENERATE)(arguments.run, *words)
    given = {"images": arguments.images, "prompt": arguments.prompt}
    print(json.dumps({**given, "text": text}) if arguments.json else text)
    return 0


VERBS = {
    "demo": _demo,
    "plan": _plan,
    "run": _run,
    "status": _status,
    "crawls": _crawls,
    "why": _why,
    "leaks": _leaks,
    "sheet": _sheet,
    "freeze": _freeze,
    "verify": _verify,
    "gc": _gc,
    "abandon": _abandon,
    "train": _train,
    "plan train": _plan_train,
    "export": _export,
    "generate": _generate,
}

if __name__ == "__main__":
    sys.exit(main())
