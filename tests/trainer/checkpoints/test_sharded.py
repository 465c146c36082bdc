"""What any number of processes write, any number read: bit for bit, and little more than each needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from engine.config import override
from engine.errors import StoreError
from engine.store import Store
from tests.trainer.checkpoints.test_run import run_at
from tests.trainer.ranks import ranks
from tests.trainer.test_loop import CONFIG
from trainer import loop, parallel
from trainer.checkpoints import index as indexes
from trainer.checkpoints import resharded, sharded, state
from trainer.checkpoints.index import Index, Part
from trainer.checkpoints.run import Run
from trainer.checkpoints.saver import Saver
from trainer.model import Kosmos
from trainer.world import World

HOW = {"plain": 0, "sharded": 1, "replicated": 2}  # dimensions of the mesh


def net() -> nn.Sequential:
    """Rows that four processes do not divide, and fewer of them than processes."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3, bias=False), nn.Linear(3, 1))


def spread(model: nn.Sequential, how: str, world: World) -> None:
    if how == "plain":
        return
    shape = (world.size,) if how == "sharded" else (world.size // 2, 2)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(0)
    model(torch.randn(4, 7)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def whole(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
    """All that a checkpoint holds, gathered, as bytes; and the steps."""
    found = {}
    for name, tensor in state.held(model, optimizer).items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        found[name] = full.detach().numpy().tobytes()
    steps = {int(of["step"]) for of in optimizer.state.values()}
    return found | {"steps": repr(steps).encode()}


def go_on(world: World, url: str, how: str, update: int) -> dict[str, bytes]:
    """Restore what is there, if anything, else make three steps; save it as an update."""
    run = Run(url)
    model = net()
    spread(model, how, world)
    optimizer = adamw(model)
    latest = run.latest()
    if latest is not None:
        run.restore(latest, model, optimizer, world)
    else:
        for _ in range(3):
            step(model, optimizer)
    with Saver(run, world, keep=9) as saver:
        saver.save(update, 1.0, model, optimizer, [{"update": update}])
    return whole(model, optimizer)


def after(world: World, url: str, update: int, how: str) -> dict[str, bytes]:
    """What one more step makes of a checkpoint."""
    run, model = Run(url), net()
    spread(model, how, world)
    optimizer = adamw(model)
    found = run.checkpoint(update)
    assert found is not None
    run.restore(found, model, optimizer, world)
    step(model, optimizer)
    return whole(model, optimizer)


def test_a_checkpoint_goes_through_worlds_of_all_sizes_bit_for_bit(tmp_path: Path) -> None:
    url = str(tmp_path)
    run_at(url)
    first = go_on(World(), url, "plain", 1)
    for update, (size, how) in enumerate([(4, "sharded"), (2, "plain"), (4, "replicated"), (1, "sharded")], 2):
        assert ranks(size, go_on, url, how, update) == [first] * size, how
    assert go_on(World(), url, "plain", 6) == first
    assert first["steps"] == b"{3}"

    run = Run(url)
    for update in range(1, 7):
        found = run.checkpoint(update)
        assert found is not None
        assert {name: value.numpy().tobytes() for name, value in run.tensors(found, "").items()} == {
            name: value for name, value in first.items() if name != "steps"
        }
        written = list((tmp_path / f"checkpoints/{update:08d}").glob("*.safetensors"))
        assert len(written) == (1, 3, 2, 4, 1, 1)[update - 1]  # of 4 processes one has no row, and writes nothing
    # and the training goes on alike from any of them
    (alone,) = {frozenset(after(World(), url, update, "plain").items()) for update in (1, 2, 4)}
    assert frozenset(after(World(), url, 3, "plain").items()) == alone


def test_the_files_are_safetensors_of_named_chunks(tmp_path: Path) -> None:
    url = str(tmp_path)
    run_at(url)
    ranks(2, go_on, url, "sharded", 1)
    files = sorted((tmp_path / "checkpoints/00000001").glob("*.safetensors"))
    chunks = [load_file(file) for file in files]
    latest = Run(url).latest()
    assert latest is not None
    due = Run(url).tensors(latest)["0.weight"]
    assert torch.equal(torch.cat([chunks[0]["model.0.weight@0,0"], chunks[1]["model.0.weight@3,0"]]), due)
    assert "model.3.weight" in chunks[0] and not any("model.3.weight" in name for name in chunks[1])


def spread_kosmos(world: World, url: str, settings: list[str]) -> dict[str, bytes]:
    """Save the real model as it lies in a world; its weights as they were before."""
    config = override(replace(CONFIG, model=replace(CONFIG.model, freeze_tower="yes")), settings)
    with loop.seeded(world.device, 1):
        model = Kosmos(config.model)
    model.freeze_tower()
    due = {name: value.detach().numpy().tobytes() for name, value in model.named_parameters() if value.requires_grad}
    parallel.spread(model, config.system, world)
    with Saver(Run(url), world, 3) as saver:
        saver.save(1, 1.0, model, loop.adamw(model, config.optim))
    return due


@pytest.mark.parametrize("settings", [[], ["system.precision=bf16", "system.checkpoint_activations=true"]])
def test_the_names_and_the_weights_are_those_of_the_plain_model(tmp_path: Path, settings: list[str]) -> None:
    run = run_at(tmp_path)
    due, _ = ranks(2, spread_kosmos, str(tmp_path), settings)
    latest = run.latest()
    assert latest is not None
    assert {name: value.numpy().tobytes() for name, value in run.tensors(latest).items()} == due
    names = {name for name, _ in Kosmos(CONFIG.model).named_parameters()}
    assert set(due) < names  # what is frozen is not there


# without a model -----------------------------------------------------------------------------------------------------
def written(store: Store, tensors: dict[str, torch.Tensor]) -> Index:
    parts: list[Part] = []
    sharded.Writer(store, 0, None).write("c", tensors, tensors, lambda: None, parts.append)
    return indexes.parsed(store.get(parts[0].path))


def test_every_kind_of_number_and_shape(memory: str) -> None:
    tensors = {
        "floats": torch.randn(3, 4, 5),
        "halves": torch.randn(7).to(torch.bfloat16),
        "counts": torch.arange(5) - (1 << 60),
        "one": torch.tensor(3.5),
        "one half": torch.tensor(1.5, dtype=torch.bfloat16),
        "none": torch.zeros(0, 4),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    store = Store(memory)
    index = written(store, tensors)
    found = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
    resharded.read(store, "c", index, {name: found[name] for name in index.tensors})
    for name, tensor in tensors.items():
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


LARGE = torch.arange(3 << 20, dtype=torch.float32).reshape(3 << 10, 1 << 10)  # 12 MiB


def slice_read(world: World, url: str) -> tuple[int, bool]:
    """Bytes that a process reads to hold its share of the large one, and whether it is right."""
    store = Store(url)
    index = indexes.parsed(store.get(next(head.path for head in store.list("c/") if "index" in head.path)))
    mesh = init_device_mesh("cpu", (world.size,))
    model = nn.Linear(1 << 10, 3 << 10, bias=False)
    fully_shard(model, mesh=mesh)
    asked: list[int] = []
    get_range = Store.get_range

    def counting(self: Store, path: str, start: int, length: int) -> bytes:
        asked.append(length)
        return get_range(self, path, start, length)

    Store.get_range = counting  # type: ignore[method-assign]
    resharded.read(store, "c", index, {"large": model.weight})
    rows = LARGE.chunk(world.size)[world.rank]
    return sum(asked), torch.equal(sharded.local(model.weight), rows)


def test_a_process_reads_little_more_than_its_share(tmp_path: Path) -> None:
    written(Store(str(tmp_path)), {"large": LARGE, "other": torch.randn(1000, 1000)})
    for num_bytes, right in ranks(4, slice_read, str(tmp_path)):
        assert right
        assert num_bytes <= LARGE.nbytes // 4 + (2 << 20)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_flipped_bit_of_a_large_tensor_is_found_wherever_it_is(tmp_path: Path, at: int) -> None:
    store = Store(str(tmp_path))
    index = written(store, {"large": LARGE, "other": torch.randn(1000)})
    (file,) = tmp_path.glob("c/*.safetensors")
    body = bytearray(file.read_bytes())
    body[(100, 200 + (5 << 20), 12 << 20, len(body) - 1)[at]] ^= 4
    file.write_bytes(body)
    found = {"large": torch.empty_like(LARGE), "other": torch.empty(1000)}
    with pytest.raises(resharded.Damaged) as error:
        resharded.read(store, "c", index, found)
    assert error.value.path == f"c/{file.name}"
    if at < 3:
        del found["other"]
        # the header is no part of a slice
        if at == 0:
            resharded.read(store, "c", index, found)
        else:
            with pytest.raises(resharded.Damaged, match="the bytes of large"):
                resharded.read(store, "c", index, found)


def refused(world: World, url: str) -> str:
    """What each process is told where the share of one is damaged."""
    run, model = Run(url), net()
    spread(model, "sharded", world)
    latest = run.latest()
    assert latest is not None
    with pytest.raises(StoreError) as error:
        run.restore(latest, model, adamw(model), world)
    return str(error.value)


def test_damage_that_one_process_meets_all_are_told_of(tmp_path: Path) -> None:
    url = str(tmp_path)
    run_at(url)
    ranks(2, go_on, url, "sharded", 1)
    file = max((tmp_path / "checkpoints/00000001").glob("*.safetensors"))
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)
    first, second = ranks(2, refused, url)
    assert first == second and file.name in first and "complete.json to go back" in first
