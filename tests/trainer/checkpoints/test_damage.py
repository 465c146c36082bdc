"""A checkpoint that is not what was written, or lies about it: one sentence, and no later one is stopped by it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import StoreError
from engine.store import Store
from tests.trainer.checkpoints.test_run import paths, run_at, same, save, toy
from trainer.checkpoints.run import COMPLETE
from trainer.world import World


@pytest.mark.parametrize("file", ["safetensors", "index"])
@pytest.mark.parametrize("damage", ["flipped", "short", "long", "gone"])
def test_a_damaged_checkpoint_is_refused_with_what_to_do(tmp_path: Path, file: str, damage: str) -> None:
    run = run_at(tmp_path / "run")
    save(run, 50, 3.5, 1)
    complete = save(run, 100, 3.0, 2)
    folder = tmp_path / "run" / "checkpoints" / "00000100"
    (place,) = (path for path in folder.iterdir() if file in path.name)
    good = place.read_bytes()
    damaged = {"flipped": good[:-5] + bytes([good[-5] ^ 1]) + good[-4:], "short": good[:-9], "long": good + b"more"}
    place.unlink() if damage == "gone" else place.write_bytes(damaged[damage])
    model, optimizer = toy(7)
    for load in (
        lambda: run.restore(complete, model, optimizer, World()),
        lambda: run.tensors(complete, "exp_avg_sq."),
    ):
        with pytest.raises(StoreError) as error:
            load()
        sentence = str(error.value)
        assert place.name in sentence
        assert f"delete {folder / COMPLETE} to go back to the checkpoint before it, or give --out a new" in sentence
    (folder / COMPLETE).unlink()
    latest = run.latest()
    assert latest is not None and latest.update == 50


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    complete = save(run, 100, 3.0, 2)
    body = run.store.get(complete.index.path).replace(b'"shape":[64]', b'"shape":[65]')
    index = replace(complete.index, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
    run.store.put(index.path, body)
    with pytest.raises(StoreError, match=r"index.* is damaged \(the chunks of .* do not make up its shape \[65\]"):
        run.tensors(replace(complete, index=index))


@pytest.mark.parametrize(
    ("shape", "size", "sentence"),
    [
        ([1 << 36], 1 << 38, r"it has 16 bytes of 274877906952"),
        ([0, 1 << 61, 1 << 61], 0, "larger than a tensor can be"),
        ([1] * 9, 4, "larger than a tensor can be"),
    ],
)
def test_an_index_of_more_than_its_files_takes_no_memory(
    memory: str, monkeypatch: pytest.MonkeyPatch, shape: list[int], size: int, sentence: str
) -> None:
    run = run_at(memory)
    complete = save(run, 100, 3.0, 2)
    attempt = complete.index.path.split(".")[1]
    name = f"00000.{attempt}.safetensors"
    run.store.put(f"checkpoints/00000100/{name}", bytes(16))
    monkeypatch.setattr("trainer.checkpoints.index.PIECE_BYTES", 1 << 40)  # a sum for every MiB would be 4 MB
    chunk = {"offsets": [0] * len(shape), "sizes": shape, "file": 0, "start": 8, "sums": "0" * 16}
    tensor = {"dtype": "F32", "shape": shape, "chunks": [chunk] if size else []}
    part = {"path": name, "bytes": size + 8, "sha256": "0" * 64}
    body = json.dumps({"piece_bytes": 1 << 40, "files": [part], "tensors": {"model.w": tensor}}).encode()
    run.store.put(complete.index.path, body)
    index = replace(complete.index, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("memory was taken"))
    with pytest.raises(StoreError, match=rf"{sentence}.*complete\.json to go back"):
        run.tensors(replace(complete, index=index))


def test_an_old_checkpoint_that_is_damaged_stops_no_later_one(memory: str) -> None:
    run = run_at(memory)
    for update in (1, 2, 3):
        save(run, update, 1.0, update, [{"update": update}], keep=3)
    for update in (2, 3):
        run.store.put(f"checkpoints/{update:08d}/{COMPLETE}", b"{")
    before = paths(run, "checkpoints/00000002/") + paths(run, "checkpoints/00000003/")
    save(run, 4, 1.0, 4, [{"update": 4}], keep=2)
    assert [line["update"] for line in run.metrics()] == [1, 2, 3, 4]
    latest = run.latest()
    assert latest is not None and latest.update == 4
    assert paths(run, "checkpoints/00000002/") + paths(run, "checkpoints/00000003/") == before
    first = run.checkpoint(1)
    assert first is not None and same(run, first, 1)


def test_what_a_mark_of_completeness_names_is_on_the_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(tmp_path / "run")
    synced: list[str] = []
    put_file = Store.put_file

    def put(self: Store, path: str, source: Path) -> None:
        put_file(self, path, source)
        synced.append(path)

    monkeypatch.setattr(Store, "put_file", put)
    monkeypatch.setattr(Store, "put", lambda *_: pytest.fail("what is put so may be empty after a power cut"))
    complete = save(run, 1, 1.0, 1, [{"update": 1}])
    assert {complete.index.path, complete.metrics} < set(synced) and len(synced) == 3


def test_a_damaged_mark_of_completeness_is_refused(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    save(run, 100, 3.0, 2)
    good = run.store.get(f"checkpoints/00000100/{COMPLETE}")
    for body in (
        b"{",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"update": 100, "loss": 1, "steps": 2, "index": {}}',
        b'{"update": 100, "loss": 1, "steps": 2}',
        good.replace(b'"update":100', b'"update":99'),
        good.replace(b'"bytes":', b'"bytes":1.5,"was":'),
        good.replace(b'"metrics":null', b'"metrics":7'),
        good.replace(b"00000100/index", b"00000099/index"),
        good.replace(b"00000100/index", b"00000100/../index"),
    ):
        assert body != good
        run.store.put(f"checkpoints/00000100/{COMPLETE}", body)
        with pytest.raises(StoreError, match=r"damaged .*delete .*complete.json to go back"):
            run.latest()
