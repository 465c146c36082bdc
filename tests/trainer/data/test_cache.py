"""Where the bytes of batches come from: ranges, then a folder that never passes its bound; and what is damaged."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine.arrow import File
from engine.errors import Missing, StoreError
from engine.ledger import Ledger
from engine.store import Store
from tests.conftest import Proxy
from tests.trainer.shards import Sample, pack, rows_of
from trainer.data.cache import Shard, Shards
from trainer.data.rows import Row, Sources, sources

TEXT = "pack-0/text"
HALF_OF_256 = (0, 64)  # rows in two of four batches


def tokens(row: Row) -> tuple[int, ...]:
    return tuple(row.tokens.tolist())


def files(url: str, mark: str) -> list[File]:
    return [file for commit in Ledger(url).manifest(mark) for file in commit.outputs["text"] if file.rows]


def shards_of(url: str, mark: str) -> list[Shard]:
    (commit,) = Ledger(url).manifest(mark)
    return [Shard(commit=commit, output="text", index=i, first=0) for i in range(len(commit.outputs["text"]))]


def change(url: str, file: File, edit: Callable[[bytearray], Any]) -> None:
    store = Store(url)
    body = bytearray(store.get(file.path))
    edit(body)
    store.put(file.path, bytes(body))


def flip(place: int) -> Callable[[bytearray], Any]:
    def edit(body: bytearray) -> None:
        body[place] ^= 1

    return edit


def in_folder(opened: Sources | Shards) -> list[int]:
    """Sizes of what lies in the folder."""
    shards = opened._shards if isinstance(opened, Sources) else opened
    return [] if shards._folder is None else [path.stat().st_size for path in Path(shards._folder.name).iterdir()]


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Ranges that were asked for: path, start, length."""
    asked = []
    real = Store.get_range

    def get_range(self: Store, path: str, start: int, length: int) -> bytes:
        asked.append((path, start, length))
        return real(self, path, start, length)

    monkeypatch.setattr(Store, "get_range", get_range)
    return asked


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("range", "shards"))]
    assert not left


# ranges, then whole shards ------------------------------------------------------------------------------------------
def test_a_row_costs_one_range_and_half_a_shard_brings_the_rest(
    memory: str, gets: list[tuple[str, int, int]], eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    wanted = rows_of(256)
    mark = pack(memory, [{"text": [wanted]}])
    (file,) = files(memory, mark)
    with sources(memory, [mark]) as opened:
        assert tokens(opened.read(TEXT, 70)) == wanted[70].tokens
        assert gets == [(file.path, file.batches[1].offset, file.batches[1].length)]
        assert not in_folder(opened)
        for row in HALF_OF_256:
            assert tokens(opened.read(TEXT, row)) == wanted[row].tokens
        opened.read(TEXT, 130)  # the third of four
        opened.read(TEXT, 255)
        eventually(lambda: opened._shards._fetching is not None and opened._shards._fetching[1].done())
        assert in_folder(opened) == [file.bytes]
        opened._blocks.clear()
        gets.clear()
        found = opened.rows([(TEXT, row) for row in range(256)])
        assert [tokens(row) for row in found] == [sample.tokens for sample in wanted]
        assert not gets
    assert not in_folder(opened)


def test_rows_of_one_call_are_asked_for_together(memory: str, gets: list[tuple[str, int, int]]) -> None:
    mark = pack(memory, [{"text": [rows_of(640)]}])
    with sources(memory, [mark]) as opened:
        opened.rows([(TEXT, row) for row in (5, 6, 7, 70, 8, 71)])
        assert len(gets) == 2


@pytest.mark.s3
def test_the_first_batch_is_one_request(s3: str, flaky: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = pack(s3, [{"text": [rows_of(256), rows_of(256, 1)]}])
    asked: list[str] = []

    def noted(line: str) -> str:
        asked.append(line)
        return ""

    monkeypatch.setattr(flaky, "next_fault", noted)
    with sources(s3, [mark]) as opened:
        asked.clear()
        assert tokens(opened.read(TEXT, 300)) == rows_of(256, 1)[44].tokens
        assert len(asked) == 1 and asked[0].startswith("GET") and ".text.1.arrow" in asked[0]


@pytest.mark.s3
def test_a_store_that_stutters_is_asked_again(s3: str, flaky: Proxy) -> None:
    wanted = rows_of(128)
    mark = pack(s3, [{"text": [wanted]}])
    flaky.misbehave(r"GET .*\.text\.", "busy", 2)
    with sources(s3, [mark]) as opened:
        assert tokens(opened.read(TEXT, 100)) == wanted[100].tokens
    assert len(flaky.done) == 2


def test_a_store_that_gives_out_is_a_sentence(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = pack(memory, [{"text": [rows_of(128)]}])

    def broken(self: Store, path: str, start: int, length: int) -> bytes:
        raise StoreError(f"cannot read {path}; run the same command again to resume")

    with sources(memory, [mark]) as opened:
        monkeypatch.setattr(Store, "get_range", broken)
        with pytest.raises(StoreError, match="run the same command again"):
            opened.read(TEXT, 1)


# the folder ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sums", [True, False])
def test_the_folder_never_passes_its_bound(memory: str, sums: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [rows_of(70, seed) for seed in range(6)]
    mark = pack(memory, [{"text": parts}], sums=sums)
    bound = 2 * max(file.bytes for file in files(memory, mark))
    wanted = [sample for part in parts for sample in part]
    numbers = random.Random(1).choices(range(len(wanted)), k=300)
    kept: list[int] = []
    real = Shards._take

    def noted(self: Shards) -> None:
        real(self)
        kept.append(max(self._kept(), sum(in_folder(self))))

    monkeypatch.setattr(Shards, "_take", noted)
    monkeypatch.setattr("trainer.data.rows.FAR_BATCHES", 3)
    with sources(memory, [mark], cache_bytes=bound) as opened:
        for first in range(0, 300, 10):
            own = numbers[first : first + 10]
            found = opened.rows([(TEXT, number) for number in own])
            assert [tokens(row) for row in found] == [wanted[number].tokens for number in own]
        assert len(kept) > 6 and 0 < max(kept) <= bound, "shards came, left and came again"
        assert len(opened._shards._mapped) <= 2
        folder = Path(opened._shards._folder.name)  # type: ignore[union-attr]
    assert not folder.exists()


def test_what_was_used_last_stays(memory: str) -> None:
    parts = [rows_of(64, seed) for seed in range(3)]
    mark = pack(memory, [{"text": parts}], sums=False)
    largest = max(file.bytes for file in files(memory, mark))
    with sources(memory, [mark], cache_bytes=2 * largest) as opened:
        for row in (0, 64, 0, 128):
            opened._blocks.clear()
            opened.read(TEXT, row)
        assert [path.split(".")[-2] for path in opened._shards._mapped] == ["0", "2"]


@pytest.mark.parametrize("sums", [True, False])
def test_a_shard_larger_than_the_folder_may_hold(memory: str, sums: bool) -> None:
    """Its batches come by range every time; where they have no sums it is alone there."""
    mark = pack(memory, [{"text": [rows_of(10), rows_of(10, 1)]}], sums=sums)
    with sources(memory, [mark], cache_bytes=1) as opened:
        for row, sample in ((3, rows_of(10)[3]), (12, rows_of(10, 1)[2])):
            assert tokens(opened.read(TEXT, row)) == sample.tokens
        assert len(in_folder(opened)) == (0 if sums else 1)


def test_shards_of_the_same_bytes_do_not_meet(memory: str) -> None:
    mark = pack(memory, [{"text": [rows_of(64), rows_of(64)]}], sums=False)
    with sources(memory, [mark]) as opened:
        assert tokens(opened.read(TEXT, 3)) == tokens(opened.read(TEXT, 67)) == rows_of(64)[3].tokens
        assert len(in_folder(opened)) == 2


def fetched(shards: Shards, shard: Shard) -> pa.Buffer:
    """A batch of the shard, from the folder."""
    for _ in range(3):  # it is due, it is fetched, it is there
        (buffer,) = shards.batches([(shard, 0)])
        if shards._fetching is not None:
            shards._fetching[1].result()
    return buffer


def test_what_is_still_read_keeps_its_room(memory: str) -> None:
    mark = pack(memory, [{"text": [rows_of(64), rows_of(64, 1)]}])
    first, second = shards_of(memory, mark)
    dropped: list[str] = []
    shards = Shards(Ledger(memory), max(first.file.bytes, second.file.bytes), dropped.append)
    held: list[pa.Buffer] = [fetched(shards, first)]
    fetched(shards, second)
    assert dropped == [first.file.path] and not shards._mapped
    assert shards._fetching is None, "its file is gone, its place on the disk is not"
    held.clear()
    fetched(shards, second)
    assert list(shards._mapped) == [second.file.path] and in_folder(shards) == [second.file.bytes]
    shards.close()


BIG = [Sample(tokens=(1, *[5] * 2000, 2), loss=((1, 2002),))] * 200  # 1.6 MB
FOUR_BATCHES = [(TEXT, row) for row in range(0, 200, 64)]


def test_a_folder_that_cannot_be_made_is_told(memory: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = pack(memory, [{"text": [BIG]}])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with sources(memory, [mark]) as opened:
        opened.rows(FOUR_BATCHES)
        with pytest.raises(StoreError, match="set TMPDIR to a folder with room"):
            opened.rows(FOUR_BATCHES)


def test_a_full_disk_is_told(memory: str, monkeypatch: pytest.MonkeyPatch, tiny_disk: Path) -> None:
    mark = pack(memory, [{"text": [BIG]}])
    monkeypatch.setattr(tempfile, "tempdir", str(tiny_disk))
    with sources(memory, [mark]) as opened:
        for _ in range(2):
            opened.rows(FOUR_BATCHES)
        assert opened._shards._fetching is not None
        opened._shards._fetching[1].exception()
        for _ in range(2):
            with pytest.raises(StoreError, match=r"free 1 MiB there, or set TMPDIR to a larger disk"):
                opened.read(TEXT, 0)


# damage -------------------------------------------------------------------------------------------------------------
@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> str:
    return memory if request.param == "memory" else str(tmp_path)


def test_a_batch_is_refused_by_its_own_sum(place: str) -> None:
    wanted = rows_of(640)
    mark = pack(place, [{"text": [wanted]}])
    (file,) = files(place, mark)
    bad = file.batches[3]
    change(place, file, flip(bad.offset + bad.length - 9))
    with sources(place, [mark]) as opened:
        assert tokens(opened.read(TEXT, 191)) == wanted[191].tokens
        with pytest.raises(StoreError, match=rf"{file.path} .*xxh64 of record batch 3 is another.*kosmos verify"):
            opened.read(TEXT, 192)
        assert tokens(opened.read(TEXT, 256)) == wanted[256].tokens


def test_without_sums_a_shard_is_refused_whole(place: str) -> None:
    mark = pack(place, [{"text": [rows_of(640), rows_of(10)]}], sums=False)
    file, _ = files(place, mark)
    change(place, file, flip(file.batches[3].offset + 200))
    with sources(place, [mark]) as opened:
        assert tokens(opened.read(TEXT, 640)) == rows_of(10)[0].tokens
        for _ in range(2):
            with pytest.raises(StoreError, match=rf"{file.path} .*its sha256 is another.*kosmos verify"):
                opened.read(TEXT, 0)


def test_a_shard_of_which_half_is_read_is_checked_whole(
    place: str, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    mark = pack(place, [{"text": [rows_of(256), rows_of(64, 1)]}])
    file, _ = files(place, mark)
    change(place, file, flip(6))  # padding behind the magic bytes: of no batch
    with sources(place, [mark]) as opened:
        opened.read(TEXT, 0)
        assert not opened._shards._checks and not opened._shards._due
        opened.rows([(TEXT, 64), (TEXT, 128)])

        def told() -> bool:
            try:
                opened.read(TEXT, 0)
            except StoreError as error:
                return "its sha256 is another" in str(error) and file.path in str(error)
            return False

        opened._blocks.clear()
        told()
        eventually(told)
        assert told(), "and again, for whoever asks next"


def test_a_shard_that_is_shorter_is_refused(place: str) -> None:
    mark = pack(place, [{"text": [rows_of(128)]}])
    (file,) = files(place, mark)
    change(place, file, lambda body: body.__delitem__(slice(file.batches[1].offset + 100, None)))
    with sources(place, [mark]) as opened, pytest.raises(StoreError, match="kosmos verify"):
        opened.read(TEXT, 100)


def test_a_shard_that_is_gone_while_it_is_read_is_named(memory: str) -> None:
    mark = pack(memory, [{"text": [rows_of(640)]}])
    (file,) = files(memory, mark)
    with sources(memory, [mark]) as opened:
        opened.read(TEXT, 0)
        Store(memory).delete([file.path])
        with pytest.raises(Missing, match=file.path):
            opened.read(TEXT, 64)


def test_closing_does_not_wait_for_whole_shards(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.cache.PIECE_BYTES", 64)
    mark = pack(memory, [{"text": [rows_of(64)]}])
    (file,) = files(memory, mark)
    under_way, go_on, pieces = threading.Event(), threading.Event(), []
    real = Store.get_range

    def slow(self: Store, path: str, start: int, length: int) -> bytes:
        if length == 64:
            pieces.append(start)
            under_way.set()
            assert go_on.wait(60)
        return real(self, path, start, length)

    monkeypatch.setattr(Store, "get_range", slow)
    opened = sources(memory, [mark])
    for _ in range(2):
        opened._blocks.clear()
        opened.read(TEXT, 0)
    assert under_way.wait(60)
    closing = threading.Thread(target=opened.close)
    closing.start()
    while not opened._shards._closed.is_set():
        pass
    go_on.set()
    closing.join(60)
    assert pieces == [0] and not in_folder(opened) and file.bytes > 64
