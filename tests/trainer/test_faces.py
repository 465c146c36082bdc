"""What is seen of a run: lines, JSON, a bar, nothing."""

from __future__ import annotations

import io
import json

import pytest

from trainer import faces
from trainer.loop import NOT_FINITE
from trainer.metrics import Metrics

METRICS = Metrics(
    update=5,
    loss=1.25,
    losses={},
    lr=0.1,
    grad_norm=1.0,
    counted=1,
    positions=1,
    images=0,
    bad_images=2,
    skipped=NOT_FINITE,
    seconds=1.0,
    waited_s=0.0,
    tokens_per_s=1234.0,
    mfu=0.421,
    heldout={"text": 3.5, "caption": 2.25},
)
HELD_OUT = "held out, after update 5: text 3.500, caption 2.250"


def test_a_bar_shows_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    bar = faces.Bar()
    bar.note("resuming [at] update 5")
    bar.begin(4, 10)
    bar.advance(METRICS)
    bar.close()
    said = capsys.readouterr().err
    assert "resuming [at] update 5" in said
    assert "5/10" in said and "loss 1.250" in said and "update 5 made no step: not finite" in said
    assert HELD_OUT in said


def test_lines_have_what_is_wrong_and_what_is_held_out() -> None:
    out = io.StringIO()
    face = faces.Face(out)
    face.begin(4, 5)
    face.advance(METRICS)
    update, heldout = out.getvalue().splitlines()
    assert (
        update == "update 5 of 5: loss 1.250, 1,234 tokens/s, MFU 42.1%, 2 bad images, no step: not finite"
        and heldout == HELD_OUT
    )


def test_json_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    faces.JsonFace().advance(METRICS)
    said = json.loads(capsys.readouterr().out)
    assert said == {"event": "update", **METRICS.plain()} and said["heldout"]["caption"] == 2.25


def test_who_is_mute_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    face = faces.Mute()
    face.begin(0, 5)
    face.note("a word")
    face.advance(METRICS)
    face.end({})
    face.close()
    assert capsys.readouterr() == ("", "")
