"""Two rounds of requests: what recall asks for at the address, and what moved asks for at the place it moved to."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.errors import StoreError
from engine.stage import Unit
from pipelines.kosmos import interleaved
from pipelines.reasons import PASSING, Reason
from pipelines.select import Cut, Schedule, moved, recall, schedule
from tests.offline import OfflineWork, collect
from tests.pipelines.select_world import first_bits, sha

OUTCOMES = pa.schema([schema.OUTCOMES.field(name) for name in ("url_id", "reason", "tries")])
UNASKED = (Reason.DEFERRED, Reason.DOMAIN_DOWN)  # they are no try
WANTED = ("url_id", "url", "domain", "tries", "outcomes")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one request; target: where the address moved to, by number."""

    url: int
    reason: Reason
    tries: int = 1
    target: int = 0


Generations = Sequence[Sequence[Answer]]


def address(url: int) -> str:
    return f"https://{url % 3}.example/{url}.jpg"


def place(target: int) -> tuple[str, str]:
    """(address, politeness key) of a target."""
    return f"https://cdn{target}.example/x.jpg", f"cdn{target}.example"


def parted(rows: Sequence[Row], columns: pa.Schema, partitions: int) -> list[pa.Table]:
    own = [[row for row in rows if first_bits(row["url_id"], partitions) == part] for part in range(partitions)]
    return [pa.Table.from_pylist(part, columns) for part in own]


@dataclass
class Round:
    """Recall and moved over all partitions, on what the two recorded stages have published."""

    fetch: Generations
    follow: Generations = ()
    partitions: int = 4
    max_tries: int = 3
    recorded_key: str = ""  # of all that moved, in place of the right one

    def run(self, module: ModuleType, wanted: Sequence[int]) -> tuple[list[Row], Counter[str]]:
        """(rows, counts) of a stage for these candidates, in any order and with repetitions."""
        rows = [{"url_id": sha(address(u)), "url": address(u), "domain": f"{u % 3}.example"} for u in wanted]
        parts = {("select", "urls", 0): parted(rows, schema.CANDIDATE_URLS.remove(0), self.partitions)}
        series = {"fetch": self.fetch, "follow": self.follow}
        for stage, generations in series.items():
            for number, answers in enumerate(generations, 1):
                found = [{"url_id": sha(address(a.url)), "reason": a.reason, "tries": a.tries} for a in answers]
                parts[stage, "outcomes", number] = parted(found, OUTCOMES, self.partitions)
                moves = [
                    dict(zip(schema.MOVES.names[1:], (sha(address(a.url)), *place(a.target)), strict=True))
                    for a in answers
                    if a.reason == Reason.MOVED
                ]
                if self.recorded_key:
                    moves = [{**row, "domain": self.recorded_key} for row in moves]
                parts[stage, "moves", number] = parted(moves, schema.MOVES.remove(0), self.partitions)
        config = recall.Config(cut=Cut(partitions=self.partitions, domains=8), max_tries=self.max_tries)
        done, counts = [], Counter[str]()
        for inputs in module.parts(config, lambda name: []):
            work = OfflineWork(
                unit=Unit(id="0" * 12 + "-000000", inputs=inputs),
                scratch=Path(),
                parts=parts,
                generation=SimpleNamespace(earlier=lambda name: tuple(range(1, len(series[name]) + 1))),
            )
            done.append(collect(module.process, config, work, module.OUTPUTS)["urls"])
            counts += work.counts
        return pa.concat_tables(done).to_pylist(), counts


def tries_of(generations: Generations, url: int) -> int | None:
    """Requests in vain, None if an answer holds."""
    answers = [answer for generation in generations for answer in generation if answer.url == url]
    if any(answer.reason not in PASSING for answer in answers):
        return None
    return max((answer.tries for answer in answers), default=0)


def outcomes_of(generations: Generations, url: int) -> int:
    return sum(answer.url == url for generation in generations for answer in generation)


def target_of(fetch: Generations, url: int) -> int | None:
    """Where an address moved to, if that is all that holds."""
    holding = [a for generation in fetch for a in generation if a.url == url and a.reason not in PASSING]
    if not holding or any(answer.reason != Reason.MOVED for answer in holding):
        return None
    return holding[-1].target


reasons = st.sampled_from(
    [Reason.MOVED, Reason.MOVED, Reason.TIMEOUT, Reason.KEPT, Reason.HTTP_GONE, Reason.DEFERRED, Reason.DOMAIN_DOWN]
)
answers = st.builds(Answer, url=st.integers(0, 9), reason=reasons, tries=st.integers(0, 4), target=st.integers(0, 2))
some_generations = st.lists(st.lists(answers, max_size=8, unique_by=lambda a: a.url), max_size=3)


@given(
    some_generations,
    some_generations,
    st.lists(st.integers(0, 11), max_size=20),
    st.sampled_from([1, 4, 16]),
    st.integers(1, 4),
)
@settings(max_examples=80, deadline=None)
def test_what_is_asked_is_the_rule_whatever_the_partitions_and_order(
    fetch: Generations, follow: Generations, wanted: list[int], partitions: int, max_tries: int
) -> None:
    world = Round(fetch=fetch, follow=follow, partitions=partitions, max_tries=max_tries)
    expected = []
    for url in set(wanted):
        tries = tries_of(fetch, url)
        if tries is not None and tries < max_tries:
            expected.append((sha(address(url)), address(url), f"{url % 3}.example", tries, outcomes_of(fetch, url)))
    rows, _ = world.run(recall, wanted)
    assert sorted(tuple(row[name] for name in WANTED) for row in rows) == sorted(expected)

    expected = []
    astray = [url for url in set(wanted) if target_of(fetch, url) is not None]
    for url in astray:
        tries = tries_of(follow, url)
        if tries is not None and tries < max_tries:
            expected.append((sha(address(url)), *place(target_of(fetch, url) or 0), tries, outcomes_of(follow, url)))
    rows, counts = world.run(moved, wanted)
    assert sorted(tuple(row[name] for name in WANTED) for row in rows) == sorted(expected)
    assert counts["image:moved"] == len(astray) == counts["image:known"] + len(expected)
    for row in rows:
        assert row["part"] == first_bits(hashlib.blake2b(row["domain"].encode(), digest_size=8).digest(), 8)


def test_the_first_round_asks_nobody_for_what_moved() -> None:
    gone = Round(fetch=[[Answer(url=0, reason=Reason.MOVED, target=1)]])
    assert gone.run(recall, [0])[0] == []
    (row,) = gone.run(moved, [0, 0])[0]
    assert (row["url_id"], row["url"], row["tries"]) == (sha(address(0)), "https://cdn1.example/x.jpg", 0)
    assert gone.run(moved, [1])[0] == []


@pytest.mark.parametrize(
    ("history", "tries"),
    [([], 0), ([0], 0), ([0, 0], 0), ([1], 1), ([1, 1], 1), ([1, 2, 2], 2), ([1, 2, 3], None)],
)
@pytest.mark.parametrize("reason", UNASKED)
def test_who_had_no_turn_has_lost_no_try(history: list[int], tries: int | None, reason: Reason) -> None:
    """history: tries after each generation; where they are those of before, the address was not asked."""
    answers = [
        [Answer(url=0, reason=reason if own == before else Reason.TIMEOUT, tries=own)]
        for before, own in zip([0, *history], history, strict=False)
    ]
    rows, counts = Round(fetch=answers).run(recall, [0])
    assert [row["tries"] for row in rows] == ([] if tries is None else [tries])
    assert counts["image:wanted"] == (tries == 0) and counts["image:wanted_again"] == bool(tries)
    follow = [[Answer(url=0, reason=Reason.MOVED)]]
    assert [row["tries"] for row in Round(fetch=follow, follow=answers).run(moved, [0])[0]] == [
        row["tries"] for row in rows
    ]


def test_a_move_without_a_target_is_an_error() -> None:
    rows = [{"url_id": sha(address(0)), "url": address(0), "domain": "0.example"}]
    outcome = {"url_id": sha(address(0)), "reason": int(Reason.MOVED), "tries": 1}
    work = OfflineWork(
        unit=Unit(id="0" * 12 + "-000000", inputs=("0",)),
        scratch=Path(),
        parts={
            ("select", "urls", 0): [pa.Table.from_pylist(rows, schema.CANDIDATE_URLS.remove(0))],
            ("fetch", "outcomes", 1): [pa.Table.from_pylist([outcome], OUTCOMES)],
            ("fetch", "moves", 1): [schema.MOVES.remove(0).empty_table()],
        },
        generation=SimpleNamespace(earlier=lambda name: (1,) if name == "fetch" else ()),
    )
    with pytest.raises(StoreError, match="kosmos verify"):
        list(moved.process(work.unit, recall.Config(cut=Cut(partitions=1)), work))


@given(st.integers(0, 1 << 30), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_over_many_generations_each_place_is_asked_so_often_and_no_more(seed: int, max_tries: int) -> None:
    """Every generation wants some addresses; servers answer at random. What is asked is what no answer holds for."""
    shuffle = random.Random(seed)
    series: dict[str, list[list[Answer]]] = {"fetch": [], "follow": []}
    committed: dict[str, set[str]] = {"fetch": set(), "follow": set()}
    script = [Reason.TIMEOUT, Reason.MOVED, Reason.KEPT, *UNASKED]
    urls = {sha(address(url)): url for url in range(12)}
    asked: Counter[tuple[str, int]] = Counter()
    for _ in range(5):
        wanted = shuffle.sample(range(12), 6)
        for stage, module, source in (("fetch", recall, "recall"), ("follow", moved, "moved")):
            world = Round(fetch=series["fetch"], follow=series["follow"], max_tries=max_tries)
            rows, _ = world.run(module, wanted)
            config = schedule.Config(schedule=Schedule(unit_urls=2), source=source)
            part = pa.Table.from_pylist(rows, schema.WANTED).drop_columns("part")
            work = OfflineWork(
                unit=Unit(id="0" * 12 + "-000000", inputs=("0",)), scratch=Path(), parts={(source, "urls", 0): [part]}
            )
            done = collect(schedule.process, config, work, schedule.OUTPUTS)
            fresh = []
            for unit in done["units"].to_pylist():
                # whoever is wanted again has an outcome more: no unit is taken for one that was asked before
                assert unit["unit"] not in committed[stage]
                committed[stage].add(unit["unit"])
                for row in done["urls"].to_pylist():
                    if row["batch"] == unit["batch"]:
                        reason = shuffle.choice(script)
                        url, tries = urls[row["url_id"]], row["tries"] + (reason not in UNASKED)
                        asked[stage, url] += reason not in UNASKED
                        fresh.append(Answer(url=url, reason=reason, tries=tries, target=url % 2))
            if fresh:
                series[stage].append(fresh)
    assert max(asked.values()) <= max_tries
    for (stage, url), num in asked.items():
        own = [answer for generation in series[stage] for answer in generation if answer.url == url]
        assert sum(answer.reason not in PASSING for answer in own) <= 1
        assert max(answer.tries for answer in own) == num
        assert stage == "fetch" or target_of(series["fetch"], url) == url % 2


def test_whose_the_new_place_is_is_asked_anew() -> None:
    """The record is of before the list of suffixes changed: its keys pace nothing today."""
    world = Round(fetch=[[Answer(url=1, reason=Reason.MOVED, target=5)]], recorded_key="old.example")
    rows, _ = world.run(moved, [1])
    assert [(row["url"], row["domain"]) for row in rows] == [place(5)]


def test_both_rounds_hold_one_lease() -> None:
    """Two drivers, one in each round, could ask the same domain at once."""
    recipe = interleaved()
    assert recipe.stage("follow").lease == recipe.stage("fetch").key
