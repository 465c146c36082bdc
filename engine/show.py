"""What the commands print: tables for people, one JSON object for programs."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from engine.care import Check, Garbage
    from engine.crawls import CrawlStatus
    from engine.forecast import Plan
    from engine.recipe import Floor
    from engine.status import Status
    from engine.window import StageReport


LOCAL = "(local files)"  # in the place of a crawl's name: files from elsewhere


def _size(num: float) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if num < 1000:
            return f"{num:.0f} {unit}" if unit == "B" else f"{num:.1f} {unit}"
        num /= 1000
    return f"{num:.1f} PB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _wait(seconds: float) -> str:
    """A time to wait, rounded to what one plans by: 40 s, 25 min, 18 h 20 min, 3 d 4 h."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def _console() -> Console:
    # without a terminal rich assumes 80 columns and breaks what a person wants to copy
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _json(value: Any) -> None:
    print(json.dumps(dataclasses.asdict(value)))


def _table(*columns: str, title: str = "") -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def plan(result: Plan, as_json: bool) -> None:
    """Units left a stage, measured cost, the next generation."""
    if as_json:
        _json(result)
        return
    console = _console()
    table = _table("stage", "units", "committed", "quarantined", "left", "CPU each", "in", "out each")
    for stage in result.stages:
        measured = _time(stage.cpu_s) if stage.cpu_s else "not measured"
        table.add_row(
            stage.stage,
            f"{stage.planned:,}",
            f"{stage.committed:,}",
            f"{stage.quarantined:,}",
            f"{stage.left:,}",
            measured,
            _size(stage.bytes_in) if stage.bytes_in else "",
            _size(stage.bytes_out) if stage.bytes_out else "",
        )
    console.print(table)
    if result.open_generation:
        console.print(f"Generation {result.open_generation} is open and is finished first.")
    if result.fresh:
        console.print(f"{result.fresh:,} units are in no generation yet: they enter the next one when all are settled.")
    if result.cpu_s:
        console.print(
            f"About {_time(result.cpu_s / result.workers)} on {result.workers} cores for the measured stages "
            f"({_time(result.cpu_s)} of CPU)."
        )
    for floor in result.floors:
        console.print(Text(_floor(floor)), soft_wrap=True)
    if result.missing:
        console.print(Text(f"Before it can run: {result.missing}", "yellow"), soft_wrap=True)
    if result.unmeasured:
        console.print(f"Not measured yet: {', '.join(result.unmeasured)}; a run with --limit 2 measures them.")


def _floor(floor: Floor) -> str:
    """What waits at a stage, and whose turns make it last."""
    waiting = f"{floor.addresses:,} addresses in {floor.units:,} units wait"
    if not floor.seconds:
        return f"{floor.stage}: {waiting}."
    first, *others = floor.slowest
    text = (
        f"{floor.stage}: {_wait(floor.seconds)} at least: {first.key} has {first.requests:,} requests at "
        f"{floor.rate:g} a second; {waiting}."
    )
    if others:
        text += f" The next are {', '.join(f'{turns.key} with {turns.requests:,}' for turns in others)}."
    return text


def reports(found: Sequence[StageReport], recipe: str, store: str, as_json: bool) -> None:
    """What a run did, and what to type next."""
    if as_json:
        print(json.dumps({"event": "report", "stages": [dataclasses.asdict(report) for report in found]}), flush=True)
        return
    console = _console()
    store = shlex.quote(store)  # it stands in commands to paste
    if not found:
        console.print(
            f"Nothing was to be done: it is done, or waits for stages before it; `kosmos status {recipe} --store "
            f"{store}` shows which",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return
    table = _table("stage", "generation", "units", "found", "committed", "shared", "failed", "rows", "seconds")
    for report in found:
        table.add_row(
            report.stage,
            str(report.generation or ""),
            f"{report.planned:,}",
            f"{report.found:,}",
            f"{report.committed:,}",
            f"{report.shared:,}",
            f"{len(report.failed):,}",
            f"{report.rows:,}",
            f"{report.seconds:.1f}",
        )
    console.print(table)
    failed = [report for report in found if report.failed]
    for report in failed:
        console.print(
            f"{report.stage}: {len(report.failed)} units are quarantined; "
            f"`kosmos why {report.failed[0]} --store {store}` says why, "
            f"`kosmos run {recipe} ... --retry-failed` tries again",
            highlight=False,
            soft_wrap=True,
        )
    if not failed:
        console.print(f"Next: kosmos status {recipe} --store {store}", highlight=False, markup=False, soft_wrap=True)


def status(found: Status, as_json: bool) -> None:
    """Stages, generations and the funnel."""
    if as_json:
        _json(found)
        return
    console = _console()
    if not found.stages:
        console.print(f"{found.url} is empty; `kosmos run {found.recipe} --input ...` fills it", highlight=False)
        return
    table = _table("stage", "units", "bytes", "CPU", "peak memory", "failed", "quarantined", "rows")
    for stage in found.stages:
        table.add_row(
            stage.stage,
            f"{stage.units:,}",
            _size(stage.num_bytes),
            _time(stage.cpu_s),
            _size(stage.peak_bytes),
            f"{len(stage.failures):,}",
            f"{len(stage.quarantined):,}",
            ", ".join(f"{num:,} {name}" for name, num in stage.rows.items()),
        )
    table.columns[-1].justify = "left"
    console.print(table)
    if found.crawls:
        _crawls(found.crawls, console)
    if found.generations:
        _generations(found, console)
    funnel(found, console)
    for stage in found.stages:
        for unit, error in list(stage.failures.items())[:5]:
            console.print(Text(f"{stage.stage} {unit}: {error}"))
    if found.others:
        console.print(Text(f"Other configs in this store: {', '.join(found.others)}"))


def _crawls(found: Sequence[CrawlStatus], console: Console) -> None:
    table = _table("crawl", "WARC files", "records", "pages kept", "generations", title="\nCrawls")
    for crawl in found:
        table.add_row(
            Text(crawl.crawl or LOCAL),
            _files(crawl),
            f"{crawl.records:,}",
            f"{crawl.kept:,}",
            _numbers(crawl.generations),
        )
    console.print(table)


def _generations(found: Status, console: Console) -> None:
    names = ("units", "pages", "kept", "known before", "removed", "crawls", "published by")
    table = _table("generation", "state", *names, title="\nGenerations")
    for generation in found.generations:
        table.add_row(
            str(generation.number),
            generation.state,
            f"{generation.units:,}",
            f"{generation.pages:,}",
            f"{generation.kept:,}",
            f"{sum(generation.known.values()):,}",
            f"{sum(generation.removed.values()):,}",
            Text(", ".join(crawl or LOCAL for crawl in generation.crawls)),
            _stages(generation.published),
        )
    for column in table.columns[-2:]:
        column.justify = "left"
    console.print(table)


def _stages(names: Sequence[str]) -> str:
    """The names, which are in order; of many the ends."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}, {len(names)} stages"


def _files(crawl: CrawlStatus) -> str:
    return f"{crawl.committed:,} of {crawl.listed:,}" if crawl.listed else f"{crawl.committed:,}"


def _numbers(numbers: Sequence[int]) -> str:
    """Ascending numbers, runs of them as one: 1-3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def newest(crawl: str, as_json: bool) -> None:
    """Which crawl `--crawl latest` is."""
    text = json.dumps({"event": "crawl", "crawl": crawl}) if as_json else f"The newest crawl is {crawl}."
    print(text, flush=True)


def passed_over(keys: Sequence[str], recipe: str, store: str, as_json: bool) -> None:
    """That a run starts anew in a store of other settings: keys of the generations that it does not see."""
    if as_json:
        print(json.dumps({"event": "passed_over", "keys": list(keys)}), flush=True)
        return
    print(
        "Generations start anew: nothing is compared with what this store kept under other settings or another version "
        f"({', '.join(keys)}); `kosmos status {recipe} --store {shlex.quote(store)} --show` prints the settings of its "
        "last run.",
        flush=True,
    )


def crawls(found: Sequence[Any], as_json: bool) -> None:
    """Crawls that a mirror offers or a store holds (`pipelines.offers.Crawl`)."""
    if as_json:
        for crawl in found:
            _json(crawl)
        return
    table = _table("crawl", "offered", "WARC files here", "pages kept", "generations")
    table.columns[1].justify = "left"
    for crawl in found:
        held = crawl.held
        ours = (_files(held), f"{held.kept:,}") if held.committed or held.listed else ("", "")
        by = crawl.title or "yes" if crawl.offered else "not by this mirror" if crawl.name else ""
        table.add_row(Text(crawl.name or LOCAL), Text(by), *ours, _numbers(held.generations))
    console = _console()
    console.print(table)
    console.print(
        f"{sum(crawl.offered for crawl in found):,} offered, "
        f"{sum(bool(crawl.name and crawl.held.committed) for crawl in found):,} in the store, whole or in part; "
        "`kosmos run --crawl latest` takes the newest",
        highlight=False,
        soft_wrap=True,
    )


def rows(found: Sequence[Any], as_json: bool) -> None:
    """A report of equal rows, a column a field."""
    if as_json:
        for row in found:
            _json(row)
        return
    if not found:
        print("nothing to report")
        return
    table = _table(*(f.name.replace("_", " ") for f in dataclasses.fields(found[0])))
    for row in found:
        values = (getattr(row, f.name) for f in dataclasses.fields(row))
        table.add_row(*(Text(_cell(value)) for value in values))
    _console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def funnel(found: Status, console: Console) -> None:
    """Every record under its reason, stage by stage."""
    _counted("Funnel", found.funnel, console)
    if found.kept:
        share = found.kept / found.candidates
        console.print(f"{found.kept:,} of {found.candidates:,} candidates are kept: {share:.2%}", highlight=False)
    for title, stages in found.apart.items():
        if stages:
            _counted(title, stages, console)


def _counted(title: str, stages: dict[str, dict[str, int]], console: Console) -> None:
    table = _table("stage", "reason", "number", "share", title=f"\n{title}")
    for stage, counts in stages.items():
        total = sum(counts.values())
        table.add_row(Text(stage, style="bold"), "all", f"{total:,}", "")
        for reason, num in counts.items():
            style = "green" if reason == "kept" else ""
            table.add_row("", Text(reason, style=style), f"{num:,}", f"{num / max(1, total):.1%}")
    console.print(table)


def findings(found: Sequence[Any], as_json: bool) -> None:
    """The life of a record."""
    if as_json:
        for finding in found:
            _json(finding)
        return
    console = _console()
    where = ""
    width = max(8, *(len(finding.stage) for finding in found))
    for finding in found:
        if finding.where != where:
            where = finding.where
            console.print(Text(where, style="bold"), soft_wrap=True)
        console.print(
            Text(f"  {finding.stage:<{width}} {finding.outcome}{': ' if finding.detail else ''}{finding.detail}"),
            soft_wrap=True,
        )


def check(found: Check, as_json: bool) -> None:
    """What `verify` found."""
    if as_json:
        _json(found)
        return
    console = _console()
    console.print(
        f"{found.commits:,} commits, {found.files:,} files, {_size(found.num_bytes)} read; "
        f"{found.recomputed} units computed again"
    )
    for fault in found.faults:
        console.print(Text(fault, style="red"), soft_wrap=True)
    console.print("all sound" if not found.faults else f"{len(found.faults)} faults")


def garbage(found: Garbage, dry_run: bool, as_json: bool) -> None:
    """What `gc` found."""
    if as_json:
        _json(found)
        return
    verb = "would be removed" if dry_run else "removed"
    print(f"{found.files} files, {_size(found.num_bytes)} {verb}; {found.kept_young} are too young to judge")
