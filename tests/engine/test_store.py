"""Objects by path: create-only means once, also where the store stutters."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.errors import ConfigError, Missing, StoreError
from engine.store import Store, absolute
from tests.conftest import Proxy


@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return Store(str(tmp_path / "store"))
    return Store(request.getfixturevalue(request.param))


def test_create_is_once_and_the_first_stays(store: Store) -> None:
    assert store.put_new("a/b", b"one")
    assert not store.put_new("a/b", b"two")
    assert store.get("a/b") == b"one"
    head = store.head("a/b")
    assert head is not None and head.size == 3
    assert store.exists("a/b") and not store.exists("a/c") and store.head("a") is None


def test_of_many_creators_one_wins(store: Store) -> None:
    won: list[int] = []

    def create(i: int) -> None:
        if store.put_new("race", str(i).encode()):
            won.append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1 and store.get("race") == str(won[0]).encode()


def test_ranges_are_cut_at_the_end(store: Store, tmp_path: Path) -> None:
    store.put_new("r", bytes(range(100)))
    assert store.get_range("r", 10, 5) == bytes(range(10, 15))
    assert store.get_range("r", 95, 50) == bytes(range(95, 100))
    assert store.get_range("r", 95, 0) == b""
    assert store.get_ranges("r", [(90, 3), (0, 2), (50, 1)]) == [bytes([90, 91, 92]), bytes([0, 1]), bytes([50])]
    assert store.get_ranges("r", []) == []
    assert store.download("r", tmp_path / "copy") == 100
    assert (tmp_path / "copy").read_bytes() == bytes(range(100))


def test_what_is_not_there_is_missing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Missing):
        store.get("no/where")
    with pytest.raises(Missing):
        store.get_range("no/where", 0, 1)
    with pytest.raises(Missing):
        store.get_ranges("no/where", [(0, 1)])
    with pytest.raises(Missing):
        store.download("no/where", tmp_path / "copy")
    assert list(store.list("no/")) == [] and store.folders("no/") == []


def test_lists_are_below_a_prefix(store: Store) -> None:
    for name in ("x/1", "x/2", "x/y/3", "xx/4", "5"):
        store.put_new(name, name.encode())
    assert sorted(head.path for head in store.list("x/")) == ["x/1", "x/2", "x/y/3"]
    assert sorted((head.path, head.size) for head in store.list("")) == [
        ("5", 1),
        ("x/1", 3),
        ("x/2", 3),
        ("x/y/3", 5),
        ("xx/4", 4),
    ]
    assert list(store.folders()) == ["x", "xx"] and list(store.folders("x")) == ["y"]


def test_delete_passes_over_what_is_gone(store: Store) -> None:
    for name in ("d/1", "d/2", "d/3"):
        store.put_new(name, b"")
    store.delete(["d/2"])
    store.delete(["d/1", "d/2", "d/3"])
    assert list(store.list("d/")) == []


def test_files_arrive_whole_and_a_second_connection_sees_them(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"0123456789" * 700_000)  # over the 5 MB from which a client uploads in parts
    store.put_file("big", source)
    again: Store = pickle.loads(pickle.dumps(store))
    assert again.get("big") == source.read_bytes() and again.url == store.url


def test_the_clock_is_the_stores(store: Store) -> None:
    store.put_new("before", b"")
    before = store.head("before")
    assert before is not None
    first, second = store.now(), store.now()
    assert before.modified <= first <= second
    assert first.tzinfo is not None


def test_a_bare_path_is_a_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("here") == f"file://{tmp_path}/here"
    assert absolute("s3://bucket/a/") == "s3://bucket/a"
    Store("here").put_new("a", b"1")
    assert (tmp_path / "here" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("url", ["ftp://host/a", "file://relative/path", "hdfs://x"])
def test_a_foreign_address_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        Store(url)


@pytest.mark.parametrize("name", ["run#1", "q?x=1", "pc%20t", "a b", "é", "c%"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path / name))
    assert store.put_new("x/y", b"1") and store.get("x/y") == b"1"
    source = tmp_path / "source"
    source.write_bytes(b"2")
    store.put_file("z", source)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "source"])
    assert store.place == str(tmp_path / name) and (tmp_path / name / "z").read_bytes() == b"2"
    again = Store(store.url)
    assert again.url == store.url and again.get("z") == b"2"


@pytest.mark.parametrize("url", ["s3://bucket/run#1", "gs://bucket/a?b", "https://host/a?b=c"])
def test_what_ends_a_path_is_refused_in_addresses(url: str) -> None:
    with pytest.raises(ConfigError, match=r"# and \? end a path"):
        Store(url)


def test_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="a place that you can write"):
        Store(str(tmp_path / "file" / "below")).put_new("a", b"1")


def test_a_folder_in_the_way_is_a_store_error(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.put_new("a", b"file")
    with pytest.raises(StoreError):
        store.put_new("a/b", b"below a file")


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["busy", "conflict"])
def test_a_busy_store_is_asked_again(s3: str, flaky: Proxy, kind: str) -> None:
    store = Store(s3)
    flaky.misbehave(r"PUT .*/a$", kind, 2)
    assert store.put_new("a", b"mine") and store.get("a") == b"mine"
    assert len(flaky.done) == 2
    flaky.misbehave(r"PUT .*/a$", kind, 1)
    assert not store.put_new("a", b"other") and store.get("a") == b"mine"


@pytest.mark.s3
def test_reads_and_lists_outlast_a_busy_store(s3: str, flaky: Proxy) -> None:
    store = Store(s3)
    store.put_new("x/a", b"abc")
    flaky.misbehave("GET|HEAD", "busy", 3)
    assert store.get("x/a") == b"abc" and store.exists("x/a")
    flaky.misbehave("GET", "busy", 2)
    assert [head.path for head in store.list("x/")] == ["x/a"]
    assert len(flaky.done) == 5


@pytest.mark.s3
def test_a_lost_answer_leaves_exactly_one_object_and_its_creator_may_not_know(s3: str, flaky: Proxy) -> None:
    # the put succeeded and its answer was lost: the client's own retry then reads as "exists". Whose object it is only
    # the commit can tell, by the attempt in it (`Ledger.put_commit`)
    store = Store(s3)
    flaky.misbehave(r"PUT .*/a$", "lost")
    store.put_new("a", b"mine")
    assert flaky.done and store.get("a") == b"mine"
    assert not store.put_new("a", b"other")


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_a_store_error(moto: Proxy) -> None:
    with pytest.raises(StoreError, match="no-such-bucket"):
        Store("s3://no-such-bucket/store").put_new("a", b"")


@pytest.mark.s3
def test_a_store_that_answers_nobody_is_a_store_error() -> None:
    # in a process of its own: an address is connected to once a process
    program = (
        "from datetime import timedelta; import engine.store as s; s.RETRY['max_retries'] = 1\n"
        "try: s.Store('s3://bucket/x').get('a')\n"
        "except s.StoreError as e: print(e)\n"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert "run the same command again" in done.stdout and "\n" not in done.stdout.strip(), done.stderr


@pytest.mark.s3
def test_a_missing_bucket_is_named_as_such(s3: str) -> None:
    store = Store(s3.replace(s3.split("/")[2], "no-bucket-of-this-name"))
    with pytest.raises(StoreError, match="no such bucket"):
        list(store.list(""))


@pytest.mark.s3
def test_a_download_comes_in_pieces_up_to_a_limit(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.store.PIECE_BYTES", 1000)
    store = Store(s3)
    body = bytes(range(256)) * 41
    for size in (0, 999, 1000, 1001, len(body)):
        store.put(f"sized/{size}", body[:size])
        assert store.download(f"sized/{size}", tmp_path / "copy") == size
        assert (tmp_path / "copy").read_bytes() == body[:size] == store.get(f"sized/{size}", size)
    with pytest.raises(StoreError, match="over the limit"):
        store.download(f"sized/{len(body)}", tmp_path / "copy", limit=5000)


@pytest.mark.parametrize(
    "ranges", [[(100, 10), (3000, 8), (3010, 8)], [(990, 8), (4000, 4)], [(990, 8), (9_000_000, 4)], [(5000, 1)]]
)
def test_ranges_past_the_end_of_a_cut_file_are_a_sentence(tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    store = Store(str(tmp_path))
    store.put("cut.arrow", b"x" * 1000)
    with pytest.raises(StoreError, match="is shorter than its commit says; run `kosmos verify`"):
        store.get_ranges("cut.arrow", ranges)
