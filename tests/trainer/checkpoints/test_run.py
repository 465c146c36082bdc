"""A run's folder: what counts as a checkpoint, what is refused, what stays when a disk is full."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.errors import ConfigError, StoreError
from engine.store import Store
from trainer.checkpoints import state
from trainer.checkpoints.run import COMPLETE, RUN, TOKENIZER, Checkpoint, Described, Run
from trainer.checkpoints.saver import Saver
from trainer.config import Config, DataConfig, Quotas, kosmos1, tiny
from trainer.world import World

MODEL = b"a tokenizer's model"
DESCRIBED = Described(
    config=replace(tiny(), model=replace(tiny().model, vocab_size=4007)),
    digests=("d" * 64,),
    order={"pieces": [{"first_update": 1}]},
    vocabulary=hashlib.sha256(MODEL).hexdigest(),
)


class Toy(nn.Module):
    """One parameter whose numbers say which it is."""

    def __init__(self, seed: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(size, dtype=torch.float32) + seed)


def toy(seed: int, size: int = 64) -> tuple[Toy, torch.optim.AdamW]:
    """A model with an optimizer that has made `seed` steps, its moments made of the weight."""
    model = Toy(seed, size)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    found = state.held(model, optimizer)
    found["exp_avg.weight"].copy_(model.weight.detach() / 2)
    found["exp_avg_sq.weight"].copy_(model.weight.detach() / 4)
    state.set_steps(optimizer, seed)
    return model, optimizer


def save(
    run: Run,
    update: int,
    loss: float | None,
    seed: int,
    lines: Sequence[dict[str, Any]] = (),
    keep: int = 3,
    size: int = 64,
) -> Checkpoint:
    """Write the toy's checkpoint and wait for it."""
    with Saver(run, World(), keep) as saver:
        saver.save(update, loss, *toy(seed, size), lines)
    saved = run.checkpoint(update)
    assert saved is not None
    return saved


def same(run: Run, checkpoint: Checkpoint, seed: int) -> bool:
    """Whether it holds the toy's weight."""
    return torch.equal(run.tensors(checkpoint)["weight"], toy(seed)[0].weight)


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
    save(run, 50, 3.5, 1, [{"update": 49, "loss": 4.0}, {"update": 50, "loss": 3.5}])
    save(run, 100, None, 2, [{"update": 100, "loss": None}])

    again = Run(place)
    latest = again.latest()
    assert latest is not None and (latest.update, latest.loss, latest.steps) == (100, None, 2)
    (model, optimizer), (theirs, its_own) = toy(9), toy(2)
    again.restore(latest, model, optimizer, World())
    assert torch.equal(model.weight, theirs.weight)
    ours, due = optimizer.state[model.weight], its_own.state[theirs.weight]
    assert all(torch.equal(ours[name], due[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    assert torch.equal(again.tensors(latest, "exp_avg.")["weight"], theirs.weight / 2)
    assert sorted(again.tensors(latest, "")) == ["exp_avg.weight", "exp_avg_sq.weight", "model.weight"]
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
    change(run, format=1)
    with pytest.raises(ConfigError, match="has format 1, this version reads 2"):
        run.describe()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 2, "config": {"colour": 3}}', b"[" * 100_000]
)
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
    save(run, 1, 1.0, 1, [{"update": 1}])
    for folder in ("metrics", "order", "checkpoints"):
        (tmp_path / "run" / folder).mkdir(exist_ok=True)
        for name in (".DS_Store", "\u00b2", "\u0663", "1", "00000009.txt", "-0000009.json"):
            (tmp_path / "run" / folder / name).write_text("{}")
        (tmp_path / "run" / folder / "\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2").mkdir()
        (tmp_path / "run" / folder / "\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2\u00b2" / COMPLETE).write_text("{}")
    again = run_at(tmp_path / "run")
    again.forget_after(0)
    save(again, 2, 1.0, 2, [{"update": 2}])
    latest = again.latest()
    assert latest is not None and latest.update == 2
    assert again.orders() == {} and [line["update"] for line in again.metrics()] == [1, 2]
    assert (tmp_path / "run/metrics/.DS_Store").exists()


def test_a_half_written_checkpoint_does_not_count_and_is_written_over(tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    save(run, 50, 3.5, 1, [{"update": 50, "loss": 3.5}])
    save(run, 100, 3.0, 2, [{"update": 100, "loss": 3.0}])
    run.store.delete([f"checkpoints/00000100/{COMPLETE}"])  # the crash came just before
    latest = run.latest()
    assert latest is not None and latest.update == 50
    assert [line["update"] for line in run.metrics()] == [50]

    run.forget_after(50)
    save(run, 100, 2.9, 3, [{"update": 100, "loss": 2.9}])
    latest = run.latest()
    assert latest is not None and latest.update == 100 and same(run, latest, 3)
    assert len(paths(run, "checkpoints/00000100/")) == 3  # what the crash left is gone
    assert [line["loss"] for line in run.metrics()] == [3.5, 2.9]


def test_the_last_few_stay_and_nothing_else(place: str) -> None:
    run = run_at(place)
    run.store.put("checkpoints/00000001/00000.feedfeedfeed.safetensors", b"of a crash")
    run.store.put("checkpoints/00000004/00001.feedfeedfeed.safetensors", b"of another world's crash")
    for update in (1, 2, 3, 4, 5):
        save(run, update, 1.0, update, [{"update": update}], keep=2)
    assert [update for update in range(1, 6) if run.checkpoint(update)] == [4, 5]
    assert len(paths(run, "checkpoints/")) == 2 * 3
    assert [line["update"] for line in run.metrics()] == [1, 2, 3, 4, 5]
    kept = run.checkpoint(4)
    assert kept is not None and same(run, kept, 4)


def test_two_processes_in_one_run_are_told_so(memory: str) -> None:
    run = run_at(memory)
    mine = save(run, 3, 1.0, 1)
    with pytest.raises(StoreError, match="another process has written update 3"):
        save(Run(memory), 3, 1.0, 1)
    assert run.latest() == mine


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Linear(64, 1, bias=False), "weight is 1x64 of float32 in this model and 64 of float32 in the checkpoint"),
        (nn.LayerNorm(64), "bias is 64 of float32 in this model and not there in the checkpoint"),
        (nn.Identity(), "weight is not there in this model and 64 of float32 in the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(memory: str, model: nn.Module, sentence: str) -> None:
    run = run_at(memory)
    complete = save(run, 3, 1.0, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters()) or [nn.Parameter(torch.zeros(1))]
    with pytest.raises(ConfigError, match=sentence):
        run.restore(complete, model, torch.optim.AdamW(parameters), World())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.s3
def test_a_put_whose_answer_was_lost_is_our_own(s3: str, flaky: Any) -> None:
    run = run_at(s3)
    flaky.misbehave(rf"PUT .*{COMPLETE}", "lost")
    saved = save(run, 3, 1.0, 1)
    assert flaky.done and run.latest() == saved


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(tiny_disk: Path) -> None:
    run = run_at(tiny_disk / "run")
    save(run, 50, 3.5, 1, [{"update": 50}])
    with pytest.raises(StoreError, match="run the same command again to resume"):
        save(run, 100, 3.0, 2, [{"update": 100}], size=300_000)
    latest = run.latest()
    assert latest is not None and latest.update == 50 and same(run, latest, 1)
    save(run, 100, 3.0, 2, [{"update": 100}])  # what the failure left does not fill the disk
    latest = run.latest()
    assert latest is not None and latest.update == 100


def test_no_room_for_the_local_copy_is_one_sentence(
    tiny_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(tmp_path / "run")
    complete = save(run, 50, 3.5, 1)
    monkeypatch.setattr("tempfile.tempdir", str(tiny_disk))
    with Saver(run, World(), 3) as saver:
        sentence = r"cannot write a checkpoint below .*takes 3\.4 MiB .*are free; set TMPDIR to a folder with more room"
        with pytest.raises(StoreError, match=sentence):
            saver.ready(*toy(2, 300_000))  # and not once an interval was trained
    assert run.latest() == complete
    assert shutil.disk_usage(tiny_disk).free > 900_000


def test_a_disk_that_fills_up_behind_the_check_is_one_sentence(
    tiny_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(tmp_path / "run")
    model, optimizer = toy(1, 300_000)
    with pytest.raises(StoreError, match=r"No space left.*set TMPDIR"), Saver(run, World(), 3) as saver:
        saver.ready(model, optimizer)
        monkeypatch.setattr("tempfile.tempdir", str(tiny_disk))
        saver.save(100, 3.0, model, optimizer)
    assert run.latest() is None


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


def test_a_failure_and_the_first_weights_before_the_run_is_made_are_no_other_things(memory: str) -> None:
    Run(memory).keep_failure("Traceback ...")
    Run(memory).store.put("start.safetensors", b"weights")
    assert run_at(memory).describe() == DESCRIBED


def test_a_run_is_no_store_of_the_crawl(tmp_path: Path) -> None:
    Store(str(tmp_path)).put_new("kosmos.json", b"{}")
    with pytest.raises(ConfigError, match="holds other things"):
        run_at(tmp_path)
