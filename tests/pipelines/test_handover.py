"""handover: units of one lane, one after the other, by what the server was asked."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine import schema
from engine.stage import Unit
from pipelines import fetch
from pipelines.fetch import Config
from pipelines.reasons import Reason
from tests.offline import OfflineCommit, OfflineWork, collect
from tests.pipelines.hostile import Hostile, Play, says, sends
from tests.pipelines.test_fetch import Frozen, listing, on_loopback, verdicts

HOST = "a.test"
FIRST, SECOND = "1" * 24, "2" * 24


def listed() -> tuple[list[str], Frozen]:
    """A lane of two units of thirty addresses, and one of another lane between them."""
    addresses = [f"http://{HOST}/{k}.jpg" for k in range(60)]
    tables = [listing(addresses[:30], batch=3)["urls"], listing(addresses[30:], batch=5)["urls"]]
    units = {
        "batch": [3, 4, 5],
        "unit": [FIRST, "3" * 24, SECOND],
        "lane": [HOST, "b.test", HOST],
        "urls": [30, 1, 30],
        "domains": [1, 1, 1],
        "largest": [31, 2, 31],
    }
    return addresses, Frozen(urls=pa.concat_tables(tables), units=pa.table(units, schema=schema.FETCH_UNITS))


def ask(folder: Path, config: Config, commit: Frozen, batch: int, own: dict[str, Any]) -> tuple[Any, OfflineWork]:
    folder.mkdir()
    unit = Unit(id={3: FIRST, 5: SECOND}[batch], inputs=("mark", commit.unit, str(batch)), lane=HOST)
    work = OfflineWork(unit=unit, scratch=folder, frozen={("mark", 0): [commit]}, own=own)
    return collect(fetch.process, config, work, fetch.OUTPUTS), work


def both(tmp_path: Path, play: Play, **settings: Any) -> tuple[list[OfflineWork], list[int], Hostile, list[Any]]:
    """Both units: their work, how many requests the server saw by the end of each, the server, their tables."""
    _, commit = listed()
    own: dict[str, Any] = {}
    works, seen, tables = [], [], []
    with Hostile(tmp_path, {HOST: play}) as server:
        config = dataclasses.replace(on_loopback(server, tmp_path), respect_robots=False, **settings)
        for unit, batch in ((FIRST, 3), (SECOND, 5)):
            results, work = ask(tmp_path / unit, config, commit, batch, own)
            own[unit] = OfflineCommit(results)
            works.append(work)
            tables.append(results)
            seen.append(len(server.log))
    return works, seen, server, tables


def test_a_server_that_says_in_an_hour_is_not_asked_by_the_next_unit(tmp_path: Path) -> None:
    works, seen, _, tables = both(tmp_path, says(429, "Retry-After: 3600"))
    assert verdicts(works[0])["deferred"] >= 28 and seen[1] == seen[0] <= 2
    assert verdicts(works[1]) == {"deferred": 30}
    assert set(tables[1]["outcomes"]["tries"].to_pylist()) == {0}
    until = [table["rests"]["until"].to_pylist()[0].timestamp() for table in tables]
    assert 3500 < until[0] - time.time() <= 3600 and abs(until[0] - until[1]) < 1, "a third unit would know as well"


def test_a_rest_that_can_be_waited_for_is(tmp_path: Path) -> None:
    play = says(503, "Retry-After: 1")
    works, seen, server, tables = both(tmp_path, play, per_domain=1, max_pause_s=1.5)
    assert verdicts(works[0])["deferred"] and seen[1] > seen[0]
    (left,) = tables[0]["rests"].to_pylist()
    # the server's clock is the monotonic one, so spans are compared
    assert server.log[seen[0]][2] - server.log[seen[0] - 1][3] >= 0.95
    assert left["until"].timestamp() > 0


@pytest.mark.parametrize("play", [sends(), says(500)])
def test_a_domain_that_was_given_up_is_asked_once_more_and_no_oftener(tmp_path: Path, play: Play) -> None:
    works, seen, _, _ = both(tmp_path, play, max_unanswered=5, per_domain=1)
    assert verdicts(works[0])["domain_down"] == 25 and verdicts(works[1])["domain_down"] == 29
    assert seen[1] - seen[0] == 1


def test_one_answer_clears_it(tmp_path: Path) -> None:
    played = iter([sends()] * 5)

    def play(*arguments: Any) -> bool | None:
        return next(played, says())(*arguments)

    works, _, _, tables = both(tmp_path, play, max_unanswered=5, per_domain=1)
    assert verdicts(works[0]) == {"connect": 5, "domain_down": 25} and verdicts(works[1]) == {"kept": 30}
    assert [table["rests"].num_rows for table in tables] == [1, 0]


def test_a_unit_that_failed_leaves_nothing(tmp_path: Path) -> None:
    _, commit = listed()
    with Hostile(tmp_path, {HOST: says()}) as server:
        config = dataclasses.replace(on_loopback(server, tmp_path), respect_robots=False)
        results, work = ask(tmp_path / "second", config, commit, 5, {})
    assert verdicts(work) == {"kept": 30} and not results["rests"].num_rows
    assert set(results["outcomes"]["reason"].to_pylist()) == {int(Reason.KEPT)}
