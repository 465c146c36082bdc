"""What a person sees of a training run: plain lines, JSON lines or a bar. Of several processes the first has a face."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from trainer.metrics import Metrics

PLAIN_EVERY_S = 5.0  # between the lines of a log


class Face:
    """Plain lines: one every five seconds, on stderr; the end on stdout."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out, self._said, self._last = out or sys.stderr, 0.0, 0

    def begin(self, start: int, last: int) -> None:
        """The updates start + 1 .. last are to come."""
        self._last = last

    def advance(self, metrics: Metrics) -> None:
        """An update is done."""
        if time.monotonic() - self._said > PLAIN_EVERY_S or metrics.update == self._last:
            self._said = time.monotonic()
            bad = f", {metrics.bad_images} bad images" if metrics.bad_images else ""
            skipped = f", no step: {metrics.skipped}" if metrics.skipped else ""
            self.note(f"update {metrics.update:,} of {self._last:,}: {_words(metrics)}{bad}{skipped}")
        if metrics.heldout:
            self.note(_heldout(metrics))

    def note(self, text: str) -> None:
        """A sentence for the person."""
        print(text, file=self._out, flush=True)

    def end(self, summary: dict[str, Any]) -> None:
        """It is done: from which loss to which, where it lies, what to type next."""
        losses = ""
        if summary["first_loss"] is not None and summary["last_loss"] is not None:
            losses = (
                f"loss {summary['first_loss']:.3f} at update {summary['first_update']:,}, "
                f"{summary['last_loss']:.3f} at update {summary['update']:,}; "
            )
        print(f"{losses}the checkpoint is {summary['checkpoint']}; next: {summary['next']}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""


class JsonFace(Face):
    """One JSON object a line on stdout, one for each update."""

    def advance(self, metrics: Metrics) -> None:
        """{"event": "update", ...}"""
        self._event(event="update", **metrics.plain())

    def note(self, text: str) -> None:
        """{"event": "note", ...}"""
        self._event(event="note", text=text)

    def end(self, summary: dict[str, Any]) -> None:
        """{"event": "end", ...}"""
        self._event(event="end", **summary)

    def _event(self, **event: Any) -> None:
        print(json.dumps(event), flush=True)


class Mute(Face):
    """Nothing: the face of every process but the first."""

    def advance(self, metrics: Metrics) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def end(self, summary: dict[str, Any]) -> None:
        """Nothing."""


class Bar(Face):
    """A live bar with the loss."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
            console=Console(stderr=True),
        )

    def begin(self, start: int, last: int) -> None:
        """A new bar."""
        super().begin(start, last)
        self._task = self._bar.add_task("", total=last, completed=start, words="")
        self._bar.start()

    def advance(self, metrics: Metrics) -> None:
        """The bar moves."""
        self._bar.update(self._task, completed=metrics.update, words=_words(metrics))
        if metrics.skipped:
            self.note(f"update {metrics.update:,} made no step: {metrics.skipped}")
        if metrics.heldout:
            self.note(_heldout(metrics))

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """The bar stands."""
        self._bar.stop()


def choose(as_json: bool) -> Face:
    """The face for where stderr goes to."""
    if as_json:
        return JsonFace()
    return Bar() if sys.stderr.isatty() else Face()


def _words(metrics: Metrics) -> str:
    used = f", MFU {metrics.mfu:.1%}" if metrics.mfu is not None else ""
    return f"loss {metrics.loss:.3f}, {metrics.tokens_per_s:,.0f} tokens/s{used}"


def _heldout(metrics: Metrics) -> str:
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in metrics.heldout.items())
    return f"held out, after update {metrics.update:,}: {losses}"
