"""A run's folder: what counts as a checkpoint, what is refused, what stays when a disk is full."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import override
from engine.errors import ConfigError, StoreError
from engine.store import Store
from trainer.checkpoints import COMPLETE, RUN, TOKENIZER, Described, Run, _Hashing, _torch_faults, check
from trainer.config import Config, DataConfig, Quotas, kosmos1, tiny

MODEL = b"a tokenizer's model"
DESCRIBED = Described(
    config=replace(tiny(), model=replace(tiny().model, vocab_size=4007)),
    digests=("d" * 64,),
    order={"pieces": [{"first_update": 1}]},
    vocabulary=hashlib.sha256(MODEL).hexdigest(),
)


def states(seed: int, size: int = 64) -> dict[str, dict[str, Any]]:
    """What a model and an optimizer would save."""
    values = torch.arange(size, dtype=torch.float32) + seed
    group = {"lr": 0.1, "betas": (0.9, 0.98), "params": [0]}
    return {
        "model": {"weight": values},
        "optimizer": {
            "state": {0: {"step": torch.tensor(float(seed)), "exp_avg": values / 2}},
            "param_groups": [group],
        },
    }


def run_at(url: str | Path) -> Run:
    """A new run there."""
    run = Run(str(url))
    run.create(DESCRIBED, MODEL)
    return run


def paths(run: Run, prefix: str = "") -> list[str]:
    """What lies in the run's folder."""
    return sorted(head.path for head in run.store.list(prefix))


def change(run: Run, **fields: object) -> None:
    """Write other values into run.json."""
    run.store.put(RUN, json.dumps({**json.loads(run.store.get(RUN)), **fields}).encode())


@pytest.fixture(params=["file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new folder, of each kind of store."""
    if request.param == "file":
        return str(tmp_path / "run")
    return str(request.getfixturevalue(request.param))


@pytest.mark.s3
def test_what_was_saved_is_what_is_loaded(place: str) -> None:
    run = run_at(place)
    assert run.latest() is None
    run.save(50, 3.5, states(1), [{"update": 49, "loss": 4.0}, {"update": 50, "loss": 3.5}])
    run.save(100, None, states(2), [{"update": 100, "loss": None}])

    again = Run(place)
    latest = again.latest()
    assert latest is not None and (latest.update, latest.loss) == (100, None)
    assert torch.equal(again.load(latest, "model")["weight"], states(2)["model"]["weight"])
    optimizer = again.load(latest, "optimizer")
    assert torch.equal(optimizer["state"][0]["exp_avg"], states(2)["optimizer"]["state"][0]["exp_avg"])
    assert optimizer["param_groups"] == states(2)["optimizer"]["param_groups"]
    assert [line["update"] for line in again.metrics()] == [49, 50, 100]
    found = again.describe()
    assert found == DESCRIBED
    assert again.tokenizer(found) == MODEL


@pytest.mark.parametrize("config", [tiny(), kosmos1()], ids=["tiny", "kosmos1"])
def test_a_config_comes_back_from_the_run_as_it_was(config: Config, memory: str) -> None:
    run = Run(memory)
    run.create(replace(DESCRIBED, config=config), MODEL)
    found = run.describe()
    assert found is not None and found.config == config


def test_a_run_that_is_made_again_is_found(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    before = paths(run)
    run_at(tmp_path / "run")
    assert paths(run) == before == [RUN, TOKENIZER]
    run.store.delete([TOKENIZER])  # as a crash between the two would leave it
    run_at(tmp_path / "run")
    assert paths(run) == before


def test_naming_a_run_makes_no_folder(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    assert run.describe() is None and run.latest() is None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            replace(DESCRIBED, config=replace(DESCRIBED.config, model=replace(DESCRIBED.config.model, dim=256))),
            "model.dim is 256 here and 128 in the run",
        ),
        (
            replace(
                DESCRIBED, config=replace(DESCRIBED.config, optim=replace(DESCRIBED.config.optim, betas=(0.9, 0.5)))
            ),
            "optim.betas is 0.9,0.5 here and 0.9,0.98 in the run",
        ),
        (replace(DESCRIBED, config=replace(DESCRIBED.config, seed=3)), "seed is 3 here and 2 in the run"),
        (replace(DESCRIBED, vocabulary="0" * 64), "another vocabulary"),
        (replace(DESCRIBED, digests=("e" * 64,)), f"begun on {'d' * 64}"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(memory: str, other: Described, sentence: str) -> None:
    run = run_at(memory)
    with pytest.raises(ConfigError, match=sentence) as error:
        run.create(other, MODEL)
    assert "--out" in str(error.value)


@pytest.mark.parametrize(
    "setting", ["name=mine", "checkpoint_every=7", "data.micro_batch.text=3", "optim.total_updates=2000"]
)
def test_what_does_not_change_an_update_may_differ(setting: str) -> None:
    config = override(DESCRIBED.config, [setting])
    assert config != DESCRIBED.config
    check(replace(DESCRIBED, config=config), DESCRIBED, "run", DESCRIBED.config.data)


def test_what_rows_are_drawn_by_may_differ_where_data_is_added() -> None:
    given = replace(DESCRIBED, config=override(DESCRIBED.config, ["data.quotas.text=9"]))
    check(given, DESCRIBED, "run", None)
    with pytest.raises(ConfigError, match=r"data.quotas.text is 9 here and 1 in the run .*--set data.quotas.text=1"):
        check(given, DESCRIBED, "run", DESCRIBED.config.data)


def test_a_folder_that_holds_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"holds other things .* give --out a new folder"):
        run_at(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["letters", "mine.txt"]


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    assert run_at(tmp_path).describe() == DESCRIBED


def test_a_run_of_another_format_is_refused(memory: str) -> None:
    run = run_at(memory)
    change(run, format=2)
    with pytest.raises(ConfigError, match="has format 2, this version reads 1"):
        run.describe()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "config": {"colour": 3}}'])
def test_a_run_that_cannot_be_read_is_one_sentence(memory: str, body: bytes) -> None:
    run = run_at(memory)
    run.store.put(RUN, body)
    with pytest.raises((StoreError, ConfigError), match="--out a new folder") as error:
        run.describe()
    assert "delete" not in str(error.value)  # without run.json the folder would be refused


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("config", 5),
        ("config", None),
        ("config.seed", "2"),
        ("config.seed", True),
        ("config.model", [1]),
        ("config.model.dim", 127),
        ("config.model.colour", 3),
        ("config.optim.lr", None),
        ("config.optim.betas", [0.9]),
        ("config.optim.betas", [0.9, "0.98"]),
        ("config.data.weights", "a=1"),
        ("digests", "dddd"),
        ("digests", [1]),
        ("order", []),
        ("vocabulary", None),
    ],
)
def test_a_run_of_other_types_is_one_sentence(memory: str, path: str, value: object) -> None:
    run = run_at(memory)
    document = json.loads(run.store.get(RUN))
    *above, last = path.split(".")
    inner = document
    for name in above:
        inner = inner[name]
    inner[last] = value
    run.store.put(RUN, json.dumps(document).encode())
    with pytest.raises(StoreError, match=r"run.json in .* cannot be read .*give --out a new folder"):
        run.describe()


def test_whole_numbers_are_numbers(memory: str) -> None:
    run = run_at(memory)
    document = json.loads(run.store.get(RUN))
    document["config"]["optim"]["clip_norm"] = 2
    run.store.put(RUN, json.dumps(document).encode())
    found = run.describe()
    assert found is not None and found.config.optim.clip_norm == 2.0


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"data": 5}', b'{"data": {"seed": "x"}}'])
def test_a_damaged_order_is_one_sentence_and_not_to_be_deleted(memory: str, body: bytes) -> None:
    run = run_at(memory)
    run.store.put("order/00000101.json", body)
    with pytest.raises(StoreError, match=r"order/00000101.json in .*--out a new folder") as error:
        run.data(DESCRIBED)
    assert "delete" not in str(error.value)  # the run would go on without its rows


def test_what_others_put_into_the_folder_is_no_part_of_it(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    run.save(1, 1.0, states(1), [{"update": 1}])
    for folder in ("metrics", "order", "checkpoints"):
        (tmp_path / "run" / folder).mkdir(exist_ok=True)
        for name in (".DS_Store", "\u00b2", "\u0663", "1", "00000009.txt", "-0000009.json"):
            (tmp_path / "run" / folder / name).write_text("{}")
        (tmp_path / "run" / folder / "\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2").mkdir()
        (tmp_path / "run" / folder / "\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2" / COMPLETE).write_text("{}")
    again = run_at(tmp_path / "run")
    again.forget_after(0)
    again.save(2, 1.0, states(2), [{"update": 2}])
    latest = again.latest()
    assert latest is not None and latest.update == 2
    assert again.orders() == {} and [line["update"] for line in again.metrics()] == [1, 2]
    assert (tmp_path / "run/metrics/.DS_Store").exists()


def test_a_half_written_checkpoint_does_not_count_and_is_written_over(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    run.save(50, 3.5, states(1), [{"update": 50, "loss": 3.5}])
    run.save(100, 3.0, states(2), [{"update": 100, "loss": 3.0}])
    run.store.delete([f"checkpoints/00000100/{COMPLETE}"])  # the crash came just before
    latest = run.latest()
    assert latest is not None and latest.update == 50
    assert [line["update"] for line in run.metrics()] == [50]

    run.forget_after(50)
    run.save(100, 2.9, states(3), [{"update": 100, "loss": 2.9}])
    latest = run.latest()
    assert latest is not None and latest.update == 100
    assert torch.equal(run.load(latest, "model")["weight"], states(3)["model"]["weight"])
    assert len(paths(run, "checkpoints/00000100/")) == 3  # what the crash left is gone
    assert [line["loss"] for line in run.metrics()] == [3.5, 2.9]


@pytest.mark.parametrize("part", ["model", "optimizer"])
@pytest.mark.parametrize("damage", ["flipped", "short", "long", "gone"])
def test_a_damaged_checkpoint_is_refused_with_what_to_do(tmp_path: Path, part: str, damage: str) -> None:
    run = run_at(tmp_path / "run")
    run.save(50, 3.5, states(1))
    complete = run.save(100, 3.0, states(2))
    file = tmp_path / "run" / complete.parts[part].path
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    damaged = {"flipped": bytes(body), "short": bytes(body[:-9]), "long": bytes(body) + b"more"}
    file.unlink() if damage == "gone" else file.write_bytes(damaged[damage])
    with pytest.raises(StoreError) as error:
        run.load(complete, part)
    sentence = str(error.value)
    assert complete.parts[part].path in sentence
    mark = tmp_path / "run" / "checkpoints" / "00000100" / COMPLETE
    assert f"delete {mark} to go back to the checkpoint before it, or give --out a new folder" in sentence
    mark.unlink()
    latest = run.latest()
    assert latest is not None and latest.update == 50


def test_a_damaged_mark_of_completeness_is_refused(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    run.save(100, 3.0, states(2))
    good = run.store.get(f"checkpoints/00000100/{COMPLETE}")
    for body in (
        b"{",
        b"[]",
        b"{}",
        b'{"update": 100, "loss": 1, "parts": {"model": {}}}',
        b'{"update": 100, "loss": 1, "parts": {}}',
        good.replace(b'"update":100', b'"update":99'),
        good.replace(b'"bytes":', b'"bytes":1.5,"was":'),
        good.replace(b'"metrics":null', b'"metrics":7'),
    ):
        assert body != good
        run.store.put(f"checkpoints/00000100/{COMPLETE}", body)
        with pytest.raises(StoreError, match=r"damaged .*delete .*complete.json to go back"):
            run.latest()


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    complete = run.save(1, 1.0, states(1))
    sink = io.BytesIO()
    torch.save({"weight": Path("/")}, sink)  # any object that is no tensor, with its sha256 made right
    body = sink.getvalue()
    part = replace(complete.parts["model"], bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
    run.store.put(part.path, body)
    with pytest.raises(pickle.UnpicklingError):
        run.load(replace(complete, parts={**complete.parts, "model": part}), "model")


def test_the_last_few_stay_and_nothing_else(place: str) -> None:
    run = run_at(place)
    run.store.put("checkpoints/00000001/model.feedfeed.pt", b"of a crash")
    for update in (1, 2, 3, 4, 5):
        run.save(update, 1.0, states(update), [{"update": update}], keep=2)
    assert [update for update in range(1, 6) if run.checkpoint(update)] == [4, 5]
    assert len(paths(run, "checkpoints/")) == 2 * 3
    assert [line["update"] for line in run.metrics()] == [1, 2, 3, 4, 5]
    kept = run.checkpoint(4)
    assert kept is not None
    assert torch.equal(run.load(kept, "model")["weight"], states(4)["model"]["weight"])


def test_two_processes_in_one_run_are_told_so(memory: str) -> None:
    run = run_at(memory)
    mine = run.save(3, 1.0, states(1))
    with pytest.raises(StoreError, match="another process has written update 3"):
        Run(memory).save(3, 1.0, states(1))
    assert run.latest() == mine


def test_an_interrupt_inside_the_writer_is_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_at(tmp_path / "run")
    written = _Hashing.write
    faults: list[BaseException] = []

    def write(self: _Hashing, body: bytes) -> int:
        if faults:
            raise faults.pop()
        return written(self, body)

    monkeypatch.setattr(_Hashing, "write", write)
    faults.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run.save(1, 1.0, states(1))
    with pytest.raises(KeyboardInterrupt), _torch_faults():
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")  # what torch's writer says when it cannot end its file
    with pytest.raises(OSError, match="No space"), _torch_faults():
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")
    with pytest.raises(RuntimeError, match="CUDA"), _torch_faults():
        raise RuntimeError("CUDA error")
    assert run.latest() is None and list(run.metrics()) == []


@pytest.mark.s3
def test_a_put_whose_answer_was_lost_is_our_own(s3: str, flaky: Any) -> None:
    run = run_at(s3)
    flaky.misbehave(rf"PUT .*{COMPLETE}", "lost")
    saved = run.save(3, 1.0, states(1))
    assert flaky.done and run.latest() == saved


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(tiny_disk: Path) -> None:
    run = run_at(tiny_disk / "run")
    run.save(50, 3.5, states(1), [{"update": 50}])
    with pytest.raises(StoreError, match="run the same command again to resume"):
        run.save(100, 3.0, states(2, size=300_000), [{"update": 100}])
    latest = run.latest()
    assert latest is not None and latest.update == 50
    assert torch.equal(run.load(latest, "model")["weight"], states(1)["model"]["weight"])
    run.save(100, 3.0, states(2), [{"update": 100}])  # what the failure left does not fill the disk
    latest = run.latest()
    assert latest is not None and latest.update == 100


def test_no_room_for_the_local_copy_is_one_sentence(
    tiny_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(tmp_path / "run")
    complete = run.save(50, 3.5, states(1, size=300_000))
    monkeypatch.setattr("tempfile.tempdir", str(tiny_disk))
    with pytest.raises(StoreError, match=r"cannot write a checkpoint below .* set TMPDIR to a folder with more room"):
        run.save(100, 3.0, states(2, size=300_000))
    with pytest.raises(StoreError, match=r"cannot read a checkpoint into .* set TMPDIR to a folder with more room"):
        run.load(complete, "model")
    assert run.latest() == complete
    assert shutil.disk_usage(tiny_disk).free > 900_000


def test_added_data_is_recorded_once_for_each_place_in_the_run(memory: str) -> None:
    run = run_at(memory)
    assert run.orders() == {}
    data, later = DESCRIBED.config.data, DataConfig(seed=7, quotas=Quotas(text=0), weights=("a=1",))
    assert run.data(DESCRIBED) == data
    run.add_order(101, {"pieces": [1, 2]}, later)
    run.add_order(101, {"pieces": [1, 2]}, later)
    run.add_order(51, {"pieces": [1]}, data)
    assert [(first, order["pieces"]) for first, order in run.orders().items()] == [(51, [1]), (101, [1, 2])]
    assert run.data(DESCRIBED) == later
    for pieces, config in (([3], later), ([1, 2], data)):
        with pytest.raises(StoreError, match="adds other data from update 101"):
            run.add_order(101, {"pieces": pieces}, config)


def test_another_tokenizer_in_its_place_is_refused(memory: str) -> None:
    run = run_at(memory)
    run.store.put(TOKENIZER, b"another")
    with pytest.raises(StoreError, match=r"tokenizer.model .* is damaged"):
        run.tokenizer(DESCRIBED)
    with pytest.raises(StoreError, match=r"damaged; delete it, then `kosmos train`"):
        run_at(memory)  # resuming would end in a run that cannot answer
    run.store.delete([TOKENIZER])
    with pytest.raises(StoreError, match=r"is not in .* writes it again"):
        run.tokenizer(DESCRIBED)
    assert run_at(memory).tokenizer(DESCRIBED) == MODEL


def test_a_failure_is_kept(tmp_path: Path) -> None:
    path = run_at(tmp_path / "run").keep_failure("Traceback ...")
    assert Path(path).read_text() == "Traceback ..."


def test_a_failure_before_the_run_is_made_is_no_other_thing(memory: str) -> None:
    Run(memory).keep_failure("Traceback ...")
    assert run_at(memory).describe() == DESCRIBED


def test_a_run_is_no_store_of_the_crawl(tmp_path: Path) -> None:
    Store(str(tmp_path)).put_new("kosmos.json", b"{}")
    with pytest.raises(ConfigError, match="holds other things"):
        run_at(tmp_path)
