"""The ledger: create-only objects whose digests know rows and sums, not attempts."""

from __future__ import annotations

import io
import json
import pickle
import random
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arrow import Batch, File
from engine.errors import ConfigError, Missing, StoreError
from engine.ledger import QUARANTINE, Commit, Generation, Ledger
from engine.stage import Unit
from engine.store import Head, Store
from tests import stages
from tests.conftest import Proxy

KEY = "stage-0123456789ab"
NATURAL = st.integers(0, 2**40)
FILES = st.builds(
    File,
    st.text("abc/.", min_size=1, max_size=8),
    NATURAL,
    NATURAL,
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.lists(st.builds(Batch, NATURAL, NATURAL, NATURAL, NATURAL, st.integers(-1, 9)), max_size=3).map(tuple),
    st.lists(st.integers(0, 2**64 - 1), max_size=3).map(tuple),
)
COMMITS = st.builds(
    Commit,
    stage=st.just(KEY),
    unit=st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True),
    attempt=st.text("0123456789abcdef", min_size=8, max_size=8),
    outputs=st.dictionaries(st.sampled_from(["x", "y"]), st.lists(FILES, max_size=3).map(tuple)),
    inputs=st.lists(st.text(max_size=5)).map(tuple),
    generation=st.integers(0, 9),
    counts=st.dictionaries(st.text(max_size=4), st.integers(0, 99)),
    crashed=st.lists(st.integers(0, 99)).map(tuple),
    seconds=st.floats(0, 1e6),
    host=st.text(max_size=4),
)


def commit(unit: str, attempt: str = "a", rows: int = 3, sha256: str = "00") -> Commit:
    path = f"{KEY}/data/{unit}.{attempt}.x.0.arrow"
    return Commit(
        stage=KEY,
        unit=unit,
        attempt=attempt,
        outputs={"x": (File(path, rows, 100, sha256, (Batch(8, 50, 20, rows, 0),)), File(path, 1, 2, "11", ()))},
        counts={"kept": rows},
    )


@pytest.fixture
def ledger(memory: str) -> Ledger:
    found = Ledger(memory)
    assert not found.check(create=False)
    assert found.check(create=True)
    return found


@given(COMMITS)
def test_a_commit_survives_its_object(one: Commit) -> None:
    assert Commit.from_json(one.to_json(), "here") == one


def test_a_file_without_sums_is_written_as_ever_and_read_so() -> None:
    body = json.loads(commit("u1").to_json())
    assert [len(file) for file in body["outputs"]["x"]] == [5, 5]
    assert Commit.from_json(json.dumps(body).encode(), "here") == commit("u1")


def test_the_first_commit_stays(ledger: Ledger) -> None:
    assert ledger.put_commit(commit("u1", "a"))
    assert not ledger.put_commit(commit("u1", "b", rows=9))
    assert ledger.commit(KEY, "u1") == commit("u1", "a")
    assert ledger.put_commit(commit("u1", "a")), "a put that timed out and had succeeded is ours"
    assert ledger.is_committed(KEY, "u1") and not ledger.is_committed(KEY, "u2")
    with pytest.raises(Missing):
        ledger.commit(KEY, "u2")


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["lost", "busy", "conflict"])
def test_a_commit_knows_its_own_after_a_faulty_put(s3: str, flaky: Proxy, kind: str) -> None:
    ledger = Ledger(s3)
    ledger.check(create=True)
    flaky.misbehave("PUT .*/commits/", kind, 2)
    assert ledger.put_commit(commit("u1", "a"))
    assert not ledger.put_commit(commit("u1", "b"))
    assert flaky.done and ledger.commit(KEY, "u1").attempt == "a"


def test_commits_come_by_unit_id_and_pickles_see_them(ledger: Ledger) -> None:
    ids = [f"u{i}" for i in range(300)]
    for unit in random.Random(1).sample(ids, len(ids)):
        ledger.put_commit(commit(unit))
    assert [found.unit for found in ledger.commits(KEY)] == sorted(ids)
    again: Ledger = pickle.loads(pickle.dumps(ledger))
    assert again.committed(KEY) == set(ids)
    assert [found.unit for found in ledger.commits(KEY, ["u7", "u3"])] == ["u3", "u7"]
    assert list(ledger.commits(KEY, [])) == []


def test_a_manifest_knows_rows_and_sums_not_order_or_attempts(memory: str) -> None:
    marks = []
    for number, attempt in ((0, "a"), (1, "b")):
        ledger = Ledger(f"{memory}x{number}")
        ledger.check(create=True)
        for unit in ("u2", "u1", "u3") if number else ("u1", "u2", "u3"):
            ledger.put_commit(commit(unit, attempt))
        marks.append(ledger.freeze(KEY))
        assert ledger.freeze(KEY, ["u3", "u1", "u2"]) == ledger.freeze(KEY) == marks[0]
        frozen = ledger.manifest(marks[0])
        assert [found.unit for found in frozen] == ["u1", "u2", "u3"]
        assert all(found.outputs == ledger.commit(KEY, found.unit).outputs for found in frozen)
    assert marks[0] == marks[1]


def with_sums(one: Commit, *sums: int) -> Commit:
    return replace(one, outputs={"x": (replace(one.outputs["x"][0], sums=sums), one.outputs["x"][1])})


def test_a_manifest_keeps_the_sums_and_its_digest_does_not_know_them(ledger: Ledger, memory: str) -> None:
    ledger.put_commit(with_sums(commit("u1"), 2**64 - 1))
    ledger.put_commit(commit("u2"))
    mark = ledger.freeze(KEY)
    first, second = ledger.manifest(mark)
    assert [file.sums for file in first.outputs["x"]] == [(2**64 - 1,), ()]
    assert second.outputs == commit("u2").outputs
    other = Ledger(f"{memory}-bare")
    other.check(create=True)
    for unit in ("u1", "u2"):
        other.put_commit(commit(unit))
    assert other.freeze(KEY) == mark


def test_a_manifest_that_was_written_before_sums_is_read(ledger: Ledger) -> None:
    ledger.put_commit(with_sums(commit("u1"), 7))
    mark = ledger.freeze(KEY)
    path = f"manifests/{mark}.parquet"
    table = pq.read_table(pa.BufferReader(ledger.store.get(path)))
    sink = io.BytesIO()
    pq.write_table(table.drop_columns(["sums"]), sink)
    ledger.store.put(path, sink.getvalue())
    assert [found.outputs for found in ledger.manifest(mark)] == [commit("u1").outputs]


@pytest.mark.parametrize("change", [{"rows": 4}, {"sha256": "01"}])
def test_other_rows_or_sums_are_another_manifest(ledger: Ledger, change: dict[str, int | str]) -> None:
    ledger.put_commit(commit("u1"))
    before = ledger.freeze(KEY)
    other = Ledger(f"{ledger.store.url}other")
    other.put_commit(commit("u1", **change))  # type: ignore[arg-type]
    assert other.freeze(KEY) != before
    ledger.put_commit(commit("u2"))
    assert ledger.freeze(KEY) != before and ledger.freeze(KEY, ["u1"]) == before


def test_no_units_are_an_empty_manifest(ledger: Ledger) -> None:
    ledger.put_commit(commit("u1"))
    assert ledger.manifest(ledger.freeze(KEY, [])) == []


def test_a_wrong_digest_names_the_near_one(ledger: Ledger) -> None:
    ledger.put_commit(commit("u1"))
    mark = ledger.freeze(KEY)
    with pytest.raises(ConfigError, match=f"did you mean {mark}"):
        ledger.manifest(mark[:12])
    with pytest.raises(ConfigError, match="kosmos freeze"):
        ledger.manifest("0" * 64)
    with pytest.raises(ConfigError, match="kosmos freeze"):
        ledger.manifest("not/a/digest")


def test_three_failures_without_a_commit_are_quarantine(ledger: Ledger) -> None:
    for number in range(QUARANTINE):
        assert ledger.quarantined(KEY) == set()
        ledger.put_failure(KEY, Unit(id="u1"), f"a{number}", f"error {number}", trace="t", host="h")
        ledger.put_failure(KEY, Unit(id="u2"), f"b{number}", "error")
    ledger.put_commit(commit("u2"))
    assert ledger.failures(KEY) == {"u1": 3, "u2": 3}
    assert ledger.quarantined(KEY) == {"u1"}
    bodies = ledger.failure_bodies(KEY, "u1")
    assert [body["error"] for body in bodies] == ["error 0", "error 1", "error 2"]
    assert bodies[0]["trace"] == "t" and bodies[0]["unit"]["id"] == "u1"


def test_a_foreign_place_is_not_taken_over(memory: str) -> None:
    Store(memory).put_new("my/thesis.txt", b"years of work")
    for create in (True, False):
        with pytest.raises(ConfigError, match="holds other things"):
            Ledger(memory).check(create=create)


def test_a_store_that_another_driver_founds_meanwhile_is_ours(memory: str) -> None:
    ledger = Ledger(memory)

    class Late(Store):
        def head(self, path: str) -> Head | None:
            # between our look at kosmos.json and our list, the other driver founds the store and begins its work
            if not other.store.exists("kosmos.json"):
                other.check(create=True)
                other.put_commit(commit("u1"))
                return None
            return super().head(path)

    other = Ledger(memory)
    ledger.store = Late(memory)
    assert ledger.check(create=True)


@pytest.mark.parametrize(
    ("body", "match"), [(b'{"format": 99}', "format 99"), (b"{", "not readable"), (b"[]", "not readable")]
)
def test_a_store_of_another_format_is_left_alone(memory: str, body: bytes, match: str) -> None:
    Store(memory).put_new("kosmos.json", body)
    with pytest.raises(ConfigError, match=match):
        Ledger(memory).check(create=True)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"unit": "u1"}', b'{"outputs": {"x": [[1]]}}', b"\xff"])
def test_a_damaged_object_is_a_store_error(ledger: Ledger, body: bytes) -> None:
    for path in (f"{KEY}/commits/u1.json", f"{KEY}/generations/1.json", f"{KEY}/published/1.json"):
        ledger.store.put_new(path, body)
    with pytest.raises(StoreError, match="kosmos verify"):
        ledger.commit(KEY, "u1")
    with pytest.raises(StoreError, match="kosmos verify"):
        list(ledger.commits(KEY))
    with pytest.raises(StoreError, match="kosmos verify"):
        ledger.generation(KEY, 1)
    with pytest.raises(StoreError, match="kosmos verify"):
        ledger.settled(KEY)
    with pytest.raises(StoreError, match="kosmos verify"):
        ledger.settle(KEY, 1, "published")


def test_a_damaged_manifest_is_a_store_error(ledger: Ledger) -> None:
    ledger.store.put_new(f"manifests/{'a' * 64}.parquet", b"PAR1 not at all")
    with pytest.raises(StoreError, match="damaged"):
        ledger.manifest("a" * 64)


def test_a_generation_survives_its_object_and_is_claimed_once(ledger: Ledger) -> None:
    mine = Generation(
        stage=KEY,
        number=1,
        parent="",
        manifests={"numbers": ("numbers-1", "m" * 64)},
        carried={"index": {2: ("index-1", "a" * 64), 10: ("index-1", "b" * 64)}},
        quarantined={"numbers": ("u8", "u9")},
    )
    theirs = Generation(stage=KEY, number=1, parent="", manifests={})
    assert ledger.generation(KEY, 1) is None
    assert ledger.claim(mine) == mine
    assert ledger.claim(theirs) == mine, "the loser adopts"
    found = ledger.generation(KEY, 1)
    assert found == mine and found.digest == mine.digest and found.unit_id(3) == f"{mine.digest[:12]}-000003"
    assert found.earlier("index") == (2, 10) and found.earlier("another") == ()
    assert theirs.digest != mine.digest


def test_generations_settle_once(ledger: Ledger) -> None:
    assert ledger.settled(KEY) == {}
    assert ledger.settle(KEY, 1, "published", "m") == "published"
    assert ledger.settle(KEY, 1, "abandoned") == "published"
    assert ledger.settle(KEY, 2, "abandoned") == "abandoned"
    assert {n: body["state"] for n, body in ledger.settled(KEY).items()} == {1: "published", 2: "abandoned"}


def test_a_stage_says_what_it_is(ledger: Ledger) -> None:
    stage = stages.numbers_stage()
    ledger.open(stage)
    ledger.open(stage)
    body = json.loads(ledger.store.get(f"{stage.key}/stage.json"))
    assert body["config"] == {"partitions": 2, "factor": 3} and body["name"] == "numbers" and "code" in body


def test_objects_that_are_no_longer_ours_are_a_sentence(ledger: Ledger) -> None:
    ledger.bind("network", "one")
    ledger.store.put("bound/network.json", b"{")
    ledger.store.put(f"{KEY}/stage.json", b"[]")
    for broken in (lambda: ledger.bind("network", "one"), lambda: ledger.freeze(KEY)):
        with pytest.raises(StoreError, match="kosmos verify"):
            broken()
