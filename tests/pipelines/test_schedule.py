"""Units of the fetch stage: each address once, a domain in one unit at a time, an origin in as few as can be."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.stage import Unit
from pipelines.fetch.origins import origin
from pipelines.kosmos import Interleaved, interleaved
from pipelines.reasons import Reason
from pipelines.select import Cut, Schedule, budget, schedule
from tests.offline import OfflineWork, collect
from tests.pipelines.select_world import first_bits, sha

Row = dict[str, Any]
PLACES = ("https://{}", "http://{}", "https://{}:81", "https://[::1]", "https://w.{}", "http://{}:81", "https://{}.w")


def place(domain: str, i: int, hosts: int) -> str:
    """An address, at one of so many origins of its domain."""
    return f"{PLACES[sha(f'{domain} {i}')[30] % hosts].format(domain)}/{i}"


def by_host(name: str) -> tuple[str, str]:
    """The order of the origins."""
    url = urlsplit(name)
    return f"{url.netloc}/", url.scheme


def requests(rows: Iterable[Row]) -> int:
    """Of one domain in one unit: its addresses, and a robots.txt for each origin."""
    found = [urlsplit(row["url"]) for row in rows]
    return len(found) + len({(url.scheme, url.netloc) for url in found})


def scheduled(
    wanted: Iterable[tuple[str, int, int]],
    config: Schedule,
    shuffle: random.Random,
    source: str = "recall",
    hosts: int = 1,
) -> dict[str, pa.Table]:
    """Units of (domain, number, tries) in any order, with repetitions."""
    rows = [
        {
            "domain": domain,
            "url_id": sha(f"{domain} {i}"),
            "url": place(domain, i, hosts),
            "tries": tries,
            "outcomes": tries + i % 2,
        }
        for domain, i, tries in wanted
    ]
    rows += [row for row in rows if shuffle.random() < 0.3]
    shuffle.shuffle(rows)
    done, counts = units_of(rows, schedule.Config(schedule=config, source=source))
    if rows:
        assert counts["units:shared"] + counts["units:large"] == done["units"].num_rows
        assert counts["addresses:asked"] == done["urls"].num_rows
    return done


def units_of(rows: list[Row], config: schedule.Config) -> tuple[dict[str, pa.Table], Counter[str]]:
    """(outputs, counts) of rows of WANTED."""
    work = OfflineWork(
        unit=Unit(id="0" * 12 + "-000000", inputs=("0",)),
        scratch=Path(),
        parts={(config.source, "urls", 0): [pa.Table.from_pylist(rows, schema.WANTED.remove(0))]},
    )
    return collect(schedule.process, config, work, schedule.OUTPUTS), work.counts


def left_of(rows: dict[str, list[Row]], budget_of: int, partitions: int = 4) -> tuple[list[Row], Counter[str]]:
    """(rows, counts) of what a budget leaves out of both rounds, by who wants it."""
    wanted = {
        (source, "urls", 0): [pa.Table.from_pylist(rows.get(source, []), schema.WANTED.remove(0))]
        for source in ("recall", "moved")
    }
    config = budget.Config(cut=Cut(partitions=partitions), domain_budget=budget_of)
    work = OfflineWork(unit=Unit(id="0" * 12 + "-000000", inputs=("0",)), scratch=Path(), parts=wanted)
    return collect(budget.process, config, work, budget.OUTPUTS)["left"].to_pylist(), work.counts


@given(
    st.dictionaries(st.text("abcz.-", min_size=1, max_size=5), st.integers(1, 12), max_size=12),
    st.integers(1, 9),
    st.sampled_from([(0.0, 1.0), (0.5, 8.0), (1.0, 3.5), (1.0, 11.0), (2.0, 100.0), (0.01, 1.0)]),
    st.integers(1, len(PLACES)),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_each_address_is_in_one_unit_and_a_domain_in_one_at_a_time(
    sizes: dict[str, int], unit_urls: int, pace: tuple[float, float], hosts: int, shuffle: random.Random
) -> None:
    rate, unit_s = pace
    config = Schedule(unit_urls=unit_urls, unit_s=unit_s, rate=rate)
    most = max(2, int(rate * unit_s)) if rate else math.inf
    wanted = [(domain, i, sha(f"{domain} {i}")[31] % 3) for domain, num in sizes.items() for i in range(num)]
    done = scheduled(wanted, config, shuffle, hosts=hosts)
    urls, units = done["urls"].to_pylist(), done["units"].to_pylist()
    assert sorted((row["url_id"], row["tries"], row["domain"], row["url"]) for row in urls) == sorted(
        (sha(f"{domain} {i}"), tries, domain, place(domain, i, hosts)) for domain, i, tries in wanted
    )
    assert [unit["batch"] for unit in units] == list(range(len(units)))
    known = {sha(f"{domain} {i}"): tries + i % 2 for domain, i, tries in wanted}
    ids = []
    of_domain: dict[str, list[int]] = defaultdict(list)
    for unit in units:
        rows = [row for row in urls if row["batch"] == unit["batch"]]
        inside = defaultdict(list)
        for row in rows:
            inside[row["domain"]].append(row)
        assert 0 < len(rows) == unit["urls"] <= max(unit_urls, 0 if unit["lane"] else sizes[min(inside)])
        assert len(inside) == unit["domains"]
        assert max(map(requests, inside.values())) == unit["largest"] <= most
        for domain in inside:
            of_domain[domain].append(unit["batch"])
        if unit["lane"]:
            assert set(inside) == {unit["lane"]}
        assert rows == sorted(rows, key=lambda row: row["url_id"])
        body = b"".join(row["url_id"] + bytes([known[row["url_id"]]]) for row in rows)
        assert unit["unit"] == hashlib.sha256(body).hexdigest()[:24]
        ids.append(unit["unit"])
    assert len(set(ids)) == len(ids)
    for domain, num in sizes.items():
        own = [row for row in urls if row["domain"] == domain]
        large = num > unit_urls or requests(own) > most
        assert {units[number]["lane"] for number in of_domain[domain]} == ({domain} if large else {""})
        assert large or len(of_domain[domain]) == 1
    # what fits into a shared unit is in it: the next one begins with a domain that did not
    shared = [unit for unit in units if not unit["lane"]]
    for unit, after in itertools.pairwise(shared):
        following = min(row["domain"] for row in urls if row["batch"] == after["batch"])
        assert unit["urls"] + sizes[following] > unit_urls
    assert scheduled(wanted, config, random.Random(2), hosts=hosts) == done


@given(
    st.integers(1, 60),
    st.integers(1, len(PLACES)),
    st.integers(1, 20),
    st.sampled_from([0, 1, 3, 4, 9, 16, 25]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_an_origin_is_split_only_where_a_unit_is_full(
    num: int, hosts: int, unit_urls: int, most: int, shuffle: random.Random
) -> None:
    config = Schedule(unit_urls=unit_urls, unit_s=1.0, rate=float(most))
    done = scheduled([("a.example", i, 0) for i in range(num)], config, shuffle, hosts=hosts)
    of_unit: list[dict[str, list[Row]]] = [defaultdict(list) for _ in range(done["units"].num_rows)]
    for row in done["urls"].to_pylist():
        of_unit[row["batch"]][origin(row["url"])].append(row)
    bound = max(2, most) if most else math.inf
    for before, after in itertools.pairwise(of_unit):
        rows = [row for own in before.values() for row in own]
        shared = set(before) & set(after)
        assert len(shared) <= 1
        for name in shared:  # and in order of the ids
            assert before[name][-1]["url_id"] < after[name][0]["url_id"]
        # not one more address would have fitted
        assert len(rows) == unit_urls or requests(rows) + (1 if shared else 2) > bound
    for name in {name for unit in of_unit for name in unit}:
        inside = [number for number, unit in enumerate(of_unit) if name in unit]
        assert inside == list(range(inside[0], inside[-1] + 1))
    # both schemes of a host are neighbours
    names = [name for unit in of_unit for name in sorted(unit, key=by_host)]
    assert names == sorted(names, key=by_host)


@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["a", "b.a", "a-b"]), st.text("/?:@a", max_size=6))))
@settings(max_examples=50, deadline=None)
def test_an_origin_here_is_one_where_it_is_fetched(parts: list[tuple[str, str, str]]) -> None:
    urls = [f"{where.format(name)}/{rest}" for where, name, rest in parts]
    ours = schedule.origins(pa.chunked_array([pa.array(urls, pa.large_string())])).to_pylist()
    theirs = list(map(origin, urls))
    assert len(set(zip(ours, theirs, strict=True))) == len(set(ours)) == len(set(theirs))


def test_a_large_domain_is_cut_by_its_pace() -> None:
    wanted = [("big.example", i, 0) for i in range(25)] + [(f"{i}.example", i, 1) for i in range(12)]
    done = scheduled(wanted, Schedule(unit_urls=10, unit_s=4, rate=2), random.Random(0))["units"].to_pylist()
    assert [(unit["lane"], unit["urls"], unit["domains"], unit["largest"]) for unit in done] == [
        ("big.example", 7, 1, 8),
        ("big.example", 7, 1, 8),
        ("big.example", 7, 1, 8),
        ("big.example", 4, 1, 5),
        ("", 10, 10, 2),
        ("", 2, 2, 2),
    ]


@pytest.mark.parametrize(
    ("hosts", "each", "expected"),
    [
        (1, 7, [("", 7, 8)]),
        # so many requests that it is large, though it has few addresses
        (5, 1, [("a", 4, 8), ("a", 1, 2)]),
        (16, 1, [("a", 4, 8)] * 4),
        # each host in one unit, whatever the ids of its addresses
        (6, 3, [("a", 6, 8)] * 3),
        (3, 7, [("a", 7, 8)] * 3),
        # what a host leaves free is used, and a host too large for a unit is in two
        (3, 5, [("a", 6, 8), ("a", 6, 8), ("a", 3, 4)]),
        (2, 9, [("a", 7, 8), ("a", 6, 8), ("a", 5, 6)]),
    ],
)
def test_a_domain_of_many_hosts_is_cut_by_requests(hosts: int, each: int, expected: list[tuple[str, int, int]]) -> None:
    urls = [f"https://{host:02}.a/{i}" for i in range(each) for host in range(hosts)]
    rows = [{"domain": "a", "url_id": sha(url), "url": url, "tries": 0, "outcomes": 0} for url in urls]
    done, _ = units_of(rows, schedule.Config(schedule=Schedule(unit_urls=10, unit_s=4, rate=2)))
    assert [(unit["lane"], unit["urls"], unit["largest"]) for unit in done["units"].to_pylist()] == expected
    # without a rate nothing but the number of addresses bounds a unit
    done, _ = units_of(rows, schedule.Config(schedule=Schedule(unit_urls=10, rate=0)))
    assert done["units"]["urls"].to_pylist() == [10] * (len(rows) // 10) + [len(rows) % 10] * bool(len(rows) % 10)


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 9), max_size=5),
    st.integers(0, 7),
    st.sampled_from([1, 4, 64]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_a_budget_leaves_out_what_comes_later_by_id(
    sizes: dict[str, int], most: int, partitions: int, shuffle: random.Random
) -> None:
    rows = [
        {"domain": domain, "url_id": sha(f"{domain} {i}"), "url": place(domain, i, 3), "tries": i % 3, "outcomes": 3}
        for domain, num in sizes.items()
        for i in range(num)
    ]
    order = shuffle.sample(rows, len(rows))
    config = schedule.Config(schedule=Schedule(unit_urls=3, unit_s=2.5, domain_budget=most))
    done, _ = units_of(order, config)
    kept, left = set(), []
    for domain in sizes:
        own = sorted(row["url_id"] for row in rows if row["domain"] == domain)
        kept |= set(own[:most] if most else own)
        left += own[most:] if most else []
    assert set(done["urls"]["url_id"].to_pylist()) == kept and done["urls"].num_rows == len(kept)
    expected = [
        {"part": first_bits(url_id, partitions), "url_id": url_id, "reason": Reason.DOMAIN_BUDGET, "value": most}
        for url_id in sorted(left)
    ]
    for source in ("recall", "moved"):
        found, counts = left_of({source: order}, most, partitions)
        assert found == expected
        over = sum(bool(most) and num > most for num in sizes.values())
        assert (counts["addresses:over_budget"], counts["domains:over_budget"]) == (len(left), over)
    # what stays is cut as if nothing had been left
    again, _ = units_of([row for row in order if row["url_id"] in kept], config)
    assert (again["urls"], again["units"]) == (done["urls"], done["units"])


def test_each_round_has_a_budget_of_its_own() -> None:
    rows = {
        source: [
            {"domain": "a", "url_id": sha(f"{source} {i}"), "url": "https://x/", "tries": 0, "outcomes": 0}
            for i in range(3)
        ]
        for source in ("recall", "moved")
    }
    found, counts = left_of(rows, 2)
    last = sorted(max(row["url_id"] for row in own) for own in rows.values())
    assert [row["url_id"] for row in found] == last and counts["addresses:over_budget"] == 2
    assert left_of({}, 2)[0] == left_of(rows, 0)[0] == []


def test_what_moved_is_named_by_where_it_moved() -> None:
    wanted = [("a.example", i, i % 2) for i in range(3)]
    ours = scheduled(wanted, Schedule(), random.Random(0), source="moved")
    (unit,) = ours["units"]["unit"].to_pylist()
    rows = ours["urls"].to_pylist()
    known = {sha(f"{domain} {i}"): tries + i % 2 for domain, i, tries in wanted}
    body = b"".join(row["url_id"] + bytes([known[row["url_id"]]]) + sha(row["url"]) for row in rows)
    assert unit == hashlib.sha256(body).hexdigest()[:24]
    there = [{name: row[name] for name in ("domain", "url_id", "url", "tries")} for row in rows]
    there = [{**row, "outcomes": known[row["url_id"]]} for row in there]
    there[0]["url"] = "https://a.example/elsewhere"
    (other,) = units_of(there, schedule.Config(source="moved"))[0]["units"]["unit"].to_pylist()
    assert other != unit
    # at the address itself the id says all
    names = [units_of([{**row, "url": url} for row in there], schedule.Config())[0]["units"] for url in ("x:", "y:")]
    assert names[0] == names[1]


def test_a_partition_without_addresses_yields_nothing() -> None:
    done = scheduled([], Schedule(), random.Random(0))
    assert done["urls"].num_rows == done["units"].num_rows == 0


def test_another_try_is_another_unit() -> None:
    names = {
        scheduled([("a.example", 1, tries)], Schedule(), random.Random(0))["units"]["unit"][0].as_py()
        for tries in (0, 1, 2)
    }
    assert len(names) == 3


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"unit_urls": 9}, {"schedule", "reschedule"}),
        ({"unit_s": 9.0}, {"schedule", "reschedule"}),
        # what the old budget left out is wanted anew, so all that follows is; nobody is asked again for the rest
        ({"domain_budget": 9}, {"recall", "schedule", "moved", "reschedule", "budget", "match", "repeats", "assemble"}),
    ],
)
def test_the_pace_of_requests_decides_no_document(changed: dict[str, Any], expected: set[str]) -> None:
    def keys(config: Interleaved) -> dict[str, str]:
        return {step.stage.name: step.stage.key for step in interleaved(config).steps}

    before = Interleaved()
    slower = replace(before.select, schedule=replace(before.select.schedule, **changed))
    after = keys(replace(before, select=slower))
    images = [name for name in after if name not in ("sheet", "tokenise", "lay", "pack", "heldout")]
    assert {name for name in images if after[name] != keys(before)[name]} == expected
    assert (after["tokenise"] != keys(before)["tokenise"]) == ("assemble" in expected)


def test_the_list_of_addresses_is_declared_as_the_fetch_stage_reads_it() -> None:
    (urls,) = (output for output in schedule.OUTPUTS if output.name == "urls")
    assert (urls.schema, urls.partition_by, urls.sort_by) == (schema.FETCH_URLS, "batch", ("url_id",))
