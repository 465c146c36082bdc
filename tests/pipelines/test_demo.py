"""The demo, with a stand-in for what is lent to it: what it trains on, what it asks, what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from engine.errors import ConfigError
from engine.ledger import Ledger, code_version
from pipelines.demo import demo


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_goes_from_warc_files_to_a_caption(
    tmp_path: Path, ray_session: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    asked: list[Any] = []
    (folder / "web").mkdir(parents=True)
    (folder / "web" / "truth.jsonl").touch()

    def train(digests: list[str], store: str, out: str, updates: int, as_json: bool) -> int:
        asked.append((digests, store, out, updates, as_json))
        return 0

    def answer(run: str, images: list[str], prompt: str) -> str:
        assert run == str(folder / "run") and prompt == ""
        assert cv2.imread(images[0]) is not None
        return "a barn"

    assert demo(str(folder), 2, True, train, answer) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[-2] == {"event": "demo", "store": str(folder / "store"), "complete": True}
    last = told[-1]
    assert (last["event"], last["model"]) == ("caption", "a barn") and len(last["page"].split()) > 3
    assert Path(last["image"]).parent == folder / "samples"
    (digests, store, out, _, as_json) = asked.pop()
    assert as_json and len(digests) == 2 and [Ledger(store).manifest(digest) for digest in digests]

    Path(out).mkdir()
    other, own = {"digests": ["d"], "code": code_version()}, {"digests": digests, "code": code_version()}
    (Path(out) / "run.json").write_text(json.dumps(own))
    assert demo(str(folder), 2, True, train, answer) == 0 and Path(out).exists(), "it goes on"
    capsys.readouterr()
    (Path(out) / "run.json").write_text(json.dumps(other))
    assert demo(str(folder), 2, False, train, lambda *_: "a barn") == 0
    assert not Path(out).exists(), "a run on other rows is begun again"
    text = capsys.readouterr().out
    assert f"$ kosmos train {digests[0]} {digests[1]} --store {store}" in text.replace("\n", " ")
    assert "the model says:  a barn" in text and " freeze pack --all --store " in text


def test_the_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="give --dir a new folder"):
        demo(str(tmp_path), 0, False, lambda *_: 0, lambda *_: "")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
