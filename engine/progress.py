"""What a run shows: a bar a stage on a terminal, plain lines in a log, JSON lines with --json."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from engine.stage import Outcome
    from engine.window import StageReport

EVERY_S = 10.0  # between plain lines of one stage


class Progress(Protocol):
    """Told of a run's steps, as they happen."""

    def start(self, report: StageReport, total: int) -> None:
        """A stage has work to do."""

    def advance(self, report: StageReport, outcome: Outcome) -> None:
        """A unit was settled."""

    def end(self, report: StageReport) -> None:
        """A stage is through."""

    def note(self, text: str) -> None:
        """A sentence for the person."""


def _label(report: StageReport) -> str:
    return f"{report.stage} (generation {report.generation})" if report.generation else report.stage


def _settled(report: StageReport) -> int:
    return report.found + report.committed + report.shared + len(report.failed)


class Quiet:
    """Shows nothing; keeps the notes."""

    def close(self) -> None:
        """Nothing is open."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, report: StageReport, total: int) -> None:
        """Nothing."""

    def advance(self, report: StageReport, outcome: Outcome) -> None:
        """Nothing."""

    def end(self, report: StageReport) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Kept."""
        self.notes.append(text)


class Plain(Quiet):
    """A line when a stage starts and ends, and every ten seconds between."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out, self._said = out, 0.0

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)
        self._said = time.monotonic()

    def start(self, report: StageReport, total: int) -> None:
        """One line."""
        self._print(f"{_label(report)}: {total - report.found} of {total} units to do")

    def advance(self, report: StageReport, outcome: Outcome) -> None:
        """One line every ten seconds."""
        if time.monotonic() - self._said > EVERY_S:
            self._print(f"{_label(report)}: {_settled(report)} of {report.planned} units")

    def end(self, report: StageReport) -> None:
        """One line."""
        failed = f", {len(report.failed)} quarantined" if report.failed else ""
        self._print(f"{_label(report)}: {report.committed} units, {report.rows:,} rows, {report.seconds:.1f} s{failed}")

    def note(self, text: str) -> None:
        """One line."""
        super().note(text)
        self._print(text)


class Json(Quiet):
    """One JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def _print(self, **event: Any) -> None:
        print(json.dumps(event), file=self._out, flush=True)

    def start(self, report: StageReport, total: int) -> None:
        """{"event": "start", ...}"""
        self._print(event="start", stage=report.stage, generation=report.generation, units=total, found=report.found)

    def advance(self, report: StageReport, outcome: Outcome) -> None:
        """{"event": "unit", ...}"""
        self._print(
            event="unit",
            stage=report.stage,
            generation=report.generation,
            unit=outcome.unit,
            state=outcome.state,
            rows=outcome.rows,
            seconds=round(outcome.seconds, 3),
            **({"error": outcome.error} if outcome.error else {}),
        )

    def end(self, report: StageReport) -> None:
        """{"event": "end", ...}"""
        self._print(
            event="end",
            stage=report.stage,
            generation=report.generation,
            committed=report.committed,
            failed=report.failed,
            rows=report.rows,
            seconds=round(report.seconds, 3),
        )

    def note(self, text: str) -> None:
        """{"event": "note", ...}"""
        super().note(text)
        self._print(event="note", text=text)


class Bars(Quiet):
    """A live bar a stage."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description:<26}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rows]:>12} rows"),
            console=Console(stderr=True),
        )
        self._tasks: dict[int, Any] = {}
        self._bars.start()

    def start(self, report: StageReport, total: int) -> None:
        """A new bar."""
        self._tasks[id(report)] = self._bars.add_task(_label(report), total=total, completed=_settled(report), rows="")

    def advance(self, report: StageReport, outcome: Outcome) -> None:
        """The bar moves."""
        self._move(report)

    def _move(self, report: StageReport) -> None:
        self._bars.update(self._tasks[id(report)], completed=_settled(report), rows=f"{report.rows:,}")

    def end(self, report: StageReport) -> None:
        """The bar stands."""
        self._move(report)

    def note(self, text: str) -> None:
        """A line above the bars."""
        super().note(text)
        self._bars.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()


def choose(as_json: bool) -> Quiet:
    """JSON lines on stdout if asked, bars on a terminal, else plain lines on stderr."""
    if as_json:
        return Json(sys.stdout)
    return Bars() if sys.stderr.isatty() else Plain(sys.stderr)
