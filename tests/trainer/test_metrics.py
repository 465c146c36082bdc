"""A run's metrics: one line an update, whatever was cut short, run twice, or run by two processes at once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import StoreError
from tests.trainer.checkpoints.test_run import paths, run_at
from trainer.checkpoints.index import Part
from trainer.checkpoints.run import COMPLETE, Checkpoint, Run


def commit(run: Run, update: int, lines: Sequence[Mapping[str, object]], keep: int = 3) -> Checkpoint:
    """Make a checkpoint count whose files were written."""
    path = f"checkpoints/{update:08d}/index.{uuid.uuid4().hex[:12]}.json"
    run.store.put(path, b"")
    return run.commit(update, 1.0, update, Part(path=path, bytes=0, sha256=""), lines, keep)


@pytest.mark.parametrize("cut", [b"", b'{"update": 1, "loss": 2.0}\n{"upd', b'{"update": 1, "loss": 2.0}\n\xff\n5\n'])
def test_whole_lines_of_damaged_metrics_are_read(memory: str, cut: bytes) -> None:
    run = run_at(memory)
    first = commit(run, 2, [{"update": 1, "loss": 2.0}, {"update": 2, "loss": 1.0}])
    commit(run, 3, [{"update": 3, "loss": 0.5}])
    assert first.metrics is not None
    run.store.put(first.metrics, cut)
    assert [line["update"] for line in run.metrics()] == [1, 3][not cut :]


def test_an_update_that_was_run_twice_has_one_line(memory: str) -> None:
    run = run_at(memory)
    commit(run, 2, [{"update": 1}, {"update": 2}])
    # an interruption at 3 left its metrics and no complete checkpoint; the next run goes on from 2 to 4
    commit(run, 3, [{"update": 3}])
    run.store.delete([f"checkpoints/00000003/{COMPLETE}"])
    run.forget_after(2)
    assert len(paths(run, "metrics/")) == 1
    commit(run, 4, [{"update": 3}, {"update": 4}])
    assert [line["update"] for line in run.metrics()] == [1, 2, 3, 4]


def test_of_two_processes_only_what_a_checkpoint_leads_to_is_shown(memory: str) -> None:
    mine, theirs = run_at(memory), run_at(memory)

    def lines(of: str, first: int, last: int) -> list[dict[str, object]]:
        return [{"update": update, "of": of} for update in range(first, last + 1)]

    commit(theirs, 13, lines("theirs", 1, 13))  # stopped before its first periodic checkpoint
    commit(mine, 20, lines("mine", 1, 20))
    assert list(mine.metrics()) == lines("mine", 1, 20)
    # one that lost the race for 40, killed before it was told
    commit(theirs, 40, lines("theirs", 21, 40))
    theirs.store.delete([f"checkpoints/00000040/{COMPLETE}"])
    commit(mine, 40, lines("mine", 21, 40))
    before = paths(mine, "metrics/")
    with pytest.raises(StoreError, match="another process"):
        commit(theirs, 40, lines("theirs", 14, 40))
    assert paths(mine, "metrics/") == before
    assert list(mine.metrics()) == lines("mine", 1, 40)
    for update in (60, 80, 100, 120):
        commit(mine, update, lines("mine", update - 19, update))
    assert mine.checkpoint(40) is None
    mine.forget_after(120)
    assert list(mine.metrics()) == lines("mine", 1, 120)
    # one that had stood still at 13 overtakes, its checkpoint long pruned
    commit(theirs, 130, lines("theirs", 14, 130))
    assert list(mine.metrics()) == lines("theirs", 1, 130)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_update_has_one_line_however_processes_share_a_run(data: st.DataObject) -> None:
    run = run_at(f"memory:///{uuid.uuid4().hex}")
    at = [0, 0, 0]  # the update that each process has done, its lines since in memory
    since: list[list[dict[str, int]]] = [[], [], []]
    for _ in range(data.draw(st.integers(5, 25))):
        number = data.draw(st.integers(0, 2))
        for update in range(at[number] + 1, at[number] + 1 + data.draw(st.integers(1, 4))):
            since[number].append({"update": update, "process": number})
        at[number] = since[number][-1]["update"]
        killed = False
        try:
            commit(run, at[number], since[number], keep=2)
            since[number] = []
        except StoreError:
            killed = True
        if killed or data.draw(st.integers(0, 5)) == 0:  # it begins again
            latest = run.latest()
            assert latest is not None
            at[number], since[number] = latest.update, []
            run.forget_after(latest.update)
        latest = run.latest()
        assert latest is not None
        assert [line["update"] for line in run.metrics()] == list(range(1, latest.update + 1))
