"""What a driver makes of what its workers say."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from engine.errors import ConfigError
from trainer import news
from trainer.checkpoints.run import RUN, Run
from trainer.faces import Face
from trainer.loop import Result
from trainer.news import News


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def heard(tmp_path: Path, said: io.StringIO) -> News:
    """Of a run that is written down."""
    run = Run(str(tmp_path / "run"))
    run.store.put(RUN, b"{}")
    return News(run=run, shown=Face(said))


def begin(heard: News, size: int, start: int) -> None:
    heard.hear(news.UP, size)
    heard.hear(news.BEGUN, (size, start))


def test_a_death_says_more_than_what_it_did_to_others(heard: News, said: io.StringIO, tmp_path: Path) -> None:
    begin(heard, 3, 0)
    assert heard.up and said.getvalue() == ""
    heard.hear(news.FAILED, {0: ("failed (RuntimeError: connection closed)", "Traceback of 0")})
    heard.hear(news.FAILED, {1: ("failed (RuntimeError: connection closed)", "Traceback of 1")})
    heard.hear(news.FAILED, {2: (news.DIED, "its node is gone")})
    heard.hear(news.FAILED, {1: (news.DIED, "and this one too")})
    assert not heard.up
    begin(heard, 2, 40)
    (kept,) = (tmp_path / "run" / "failures").iterdir()
    assert said.getvalue() == f"workers 1, 2 died; 2 workers go on from update 40; the whole of it is in {kept}\n"
    text = kept.read_text()
    assert text.index("its node is gone") < text.index("Traceback of 0") and "and this one too" in text
    # all of that is over
    heard.hear(news.FAILED, {0: ("failed (ZeroDivisionError: by zero)", "Traceback")})
    assert str(heard.fault("")).startswith("the training failed: worker 0 failed (ZeroDivisionError: by zero); the who")


def test_another_size_and_a_node_that_goes_away_are_told(heard: News, said: io.StringIO) -> None:
    begin(heard, 2, 0)
    begin(heard, 4, 10)
    heard.hear(news.MOVED, 20)
    assert not heard.up
    begin(heard, 1, 20)
    assert said.getvalue().splitlines() == [
        "4 workers go on from update 10",
        "a node goes away; the checkpoint of update 20 is written, workers elsewhere go on",
        "1 worker goes on from update 20",
    ]


def test_the_first_sentence_counts_and_a_result_is_kept(heard: News) -> None:
    heard.hear(news.ERROR, ConfigError("the first"))
    heard.hear(news.ERROR, ConfigError("another"))
    heard.hear(news.RESULT, Result(update=3))
    assert str(heard.error) == "the first" and heard.result == Result(update=3)


def test_an_end_without_a_word_is_kept_beside_the_run_or_on_this_machine(heard: News, tmp_path: Path) -> None:
    assert f"failed (out of workers); the whole of it is in {tmp_path}/run/failures/" in str(
        heard.fault("Traceback\n  out of workers\n")
    )
    nowhere = News(run=Run(str(tmp_path / "none")), shown=Face(io.StringIO()))
    told = str(nowhere.fault(""))
    assert "they ended without a word" in told and not (tmp_path / "none").exists()
    path = Path(told.split("the whole of it is in ")[1].split(";")[0])
    path.unlink()
