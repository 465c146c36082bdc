"""Units of the fetch stage: each address once, a domain in one unit at a time."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import schema
from engine.stage import Unit
from pipelines.select import Schedule, schedule
from tests.offline import OfflineWork, collect
from tests.pipelines.select_world import sha


def scheduled(wanted: Iterable[tuple[str, int, int]], config: Schedule, shuffle: random.Random) -> dict[str, pa.Table]:
    """Units of (domain, number, tries) in any order, with repetitions."""
    rows = [
        {"domain": domain, "url_id": sha(f"{domain} {i}"), "url": f"https://{domain}/{i}", "tries": tries}
        for domain, i, tries in wanted
    ]
    rows += [row for row in rows if shuffle.random() < 0.3]
    shuffle.shuffle(rows)
    work = OfflineWork(
        unit=Unit(id="0" * 12 + "-000000", inputs=("0",)),
        scratch=Path(),
        parts={("recall", "urls", 0): [pa.Table.from_pylist(rows, schema.WANTED.remove(0))]},
    )
    done = collect(schedule.process, schedule.Config(schedule=config), work, schedule.OUTPUTS)
    if rows:
        counts = work.counts
        assert counts["units:shared"] + counts["units:large"] == done["units"].num_rows
        assert counts["addresses:asked"] == done["urls"].num_rows
    return done


@given(
    st.dictionaries(st.text("abcz.-", min_size=1, max_size=5), st.integers(1, 12), max_size=12),
    st.integers(1, 9),
    st.sampled_from([(0.0, 1.0), (0.5, 8.0), (1.0, 3.5), (2.0, 100.0), (0.01, 1.0)]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_each_address_is_in_one_unit_and_a_domain_in_one_at_a_time(
    sizes: dict[str, int], unit_urls: int, pace: tuple[float, float], shuffle: random.Random
) -> None:
    rate, unit_s = pace
    config = Schedule(unit_urls=unit_urls, unit_s=unit_s, rate=rate)
    most = max(1, min(unit_urls, int(rate * unit_s))) if rate else unit_urls
    wanted = [(domain, i, sha(f"{domain} {i}")[31] % 3) for domain, num in sizes.items() for i in range(num)]
    done = scheduled(wanted, config, shuffle)
    urls, units = done["urls"].to_pylist(), done["units"].to_pylist()
    assert sorted((row["url_id"], row["tries"], row["domain"]) for row in urls) == sorted(
        (sha(f"{domain} {i}"), tries, domain) for domain, i, tries in wanted
    )
    assert [unit["batch"] for unit in units] == list(range(len(units)))
    ids = []
    of_domain = defaultdict(set)
    for unit in units:
        rows = [row for row in urls if row["batch"] == unit["batch"]]
        inside = {row["domain"] for row in rows}
        assert len(rows) == unit["urls"]
        assert len(inside) == unit["domains"]
        for domain in inside:
            of_domain[domain].add(unit["batch"])
        if unit["lane"]:
            assert inside == {unit["lane"]}
            assert len(rows) <= most
        else:
            assert len(rows) <= unit_urls
        assert rows == sorted(rows, key=lambda row: row["url_id"])
        body = b"".join(row["url_id"] + bytes([row["tries"]]) for row in rows)
        assert unit["unit"] == hashlib.sha256(body).hexdigest()[:24]
        ids.append(unit["unit"])
    assert len(set(ids)) == len(ids)
    for domain, num in sizes.items():
        lanes = {units[number]["lane"] for number in of_domain[domain]}
        assert lanes == ({domain} if num > most else {""})
        assert len(of_domain[domain]) == (-(-num // most) if num > most else 1)
    # what fits into a shared unit is in it: the next one begins with a domain that did not
    shared = [unit for unit in units if not unit["lane"]]
    for unit, after in itertools.pairwise(shared):
        following = min(row["domain"] for row in urls if row["batch"] == after["batch"])
        assert unit["urls"] + sizes[following] > unit_urls
    assert scheduled(wanted, config, random.Random(2)) == done


def test_a_large_domain_is_cut_by_its_pace() -> None:
    wanted = [("big.example", i, 0) for i in range(25)] + [(f"{i}.example", i, 1) for i in range(12)]
    done = scheduled(wanted, Schedule(unit_urls=10, unit_s=4, rate=2), random.Random(0))["units"].to_pylist()
    assert [(unit["lane"], unit["urls"], unit["domains"]) for unit in done] == [
        ("big.example", 8, 1),
        ("big.example", 8, 1),
        ("big.example", 8, 1),
        ("big.example", 1, 1),
        ("", 10, 10),
        ("", 2, 2),
    ]


def test_a_partition_without_addresses_yields_nothing() -> None:
    done = scheduled([], Schedule(), random.Random(0))
    assert done["urls"].num_rows == done["units"].num_rows == 0


def test_another_try_is_another_unit() -> None:
    names = {
        scheduled([("a.example", 1, tries)], Schedule(), random.Random(0))["units"]["unit"][0].as_py()
        for tries in (0, 1, 2)
    }
    assert len(names) == 3


def test_the_list_of_addresses_is_declared_as_the_fetch_stage_reads_it() -> None:
    (urls,) = (output for output in schedule.OUTPUTS if output.name == "urls")
    assert (urls.schema, urls.partition_by, urls.sort_by) == (schema.FETCH_URLS, "batch", ("url_id",))
