"""Whether a model fits: what it holds in each layout, what a machine and a container say, what an allocator says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import ConfigError
from tests.trainer.test_loop import CONFIG
from trainer import memory
from trainer.config import Config, SystemConfig, kosmos1, text
from trainer.model import Kosmos

CPU = torch.device("cpu")
TRAINED, FROZEN = 1_371_794_432, 290_581_504  # of KOSMOS-1 with a frozen tower


def on_meta(config: Config) -> Kosmos:
    with torch.device("meta"):
        model = Kosmos(config.model)
    if config.model.freeze_tower == "yes":
        model.freeze_tower()
    return model


def held(config: Config, ranks: int, local: int) -> int:
    return memory.held_bytes(config, on_meta(config), ranks, local)


def test_each_process_holds_its_share_and_what_is_whole() -> None:
    alone = replace(kosmos1(), system=SystemConfig())
    num = TRAINED + FROZEN
    assert held(alone, 1, 1) == 16 * num
    assert (
        held(kosmos1(), 1, 1) == 22 * num
    )  # beside the float32 weights bf16 ones, and gradients before they are summed
    assert held(kosmos1(), 8, 8) == held(kosmos1(), 64, 8) == (2 + 4 + 2) * num
    wide = replace(kosmos1(), system=SystemConfig(precision="bf16", shard_ranks=64, reshard=True))
    assert held(wide, 64, 8) == 16 * num // 64 + 4 * num
    assert held(alone, 4, 4) == (4 + 4 + 4) * num


def test_what_is_frozen_has_neither_gradient_nor_moments() -> None:
    frozen = replace(kosmos1(), model=replace(kosmos1().model, freeze_tower="yes"))
    assert held(frozen, 1, 1) == 22 * TRAINED + 2 * FROZEN
    assert held(replace(frozen, system=SystemConfig()), 1, 1) == 16 * TRAINED + 4 * FROZEN
    assert held(replace(text(), system=SystemConfig()), 1, 1) == 16 * 1_340_180_480


def test_a_checkpoint_is_copied_from_a_share_of_what_trains() -> None:
    def staged(config: Config, ranks: int, local: int) -> int:
        return memory.staged_bytes(config, on_meta(config), ranks, local)

    num = TRAINED + FROZEN
    assert staged(kosmos1(), 1, 1) == 12 * num and staged(kosmos1(), 64, 8) == 12 * num // 8
    whole = replace(kosmos1(), system=SystemConfig(shard_ranks=1))
    assert staged(whole, 8, 8) == 12 * num
    assert staged(replace(whole, model=replace(whole.model, freeze_tower="yes")), 8, 8) == 12 * TRAINED


def test_kosmos1_is_refused_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 8 << 30)
    with pytest.raises(
        ConfigError, match=r"1,662,375,936 parameters, which take 52\.6 GiB with the copy .* has 8\.0 GiB of memory"
    ):
        memory.check_fits(kosmos1(), CPU)
    memory.check_fits(CONFIG, CPU)
    monkeypatch.setattr(memory, "available_bytes", lambda: 54 << 30)
    memory.check_fits(kosmos1(), CPU)
    # two processes share the weights, but not the machine's memory
    with pytest.raises(ConfigError, match=r"take 61\.9 GiB with .*, and this machine, with 2 processes, has 54\.0 GiB"):
        memory.check_fits(kosmos1(), CPU, ranks=2)
    memory.check_fits(kosmos1(), CPU, ranks=2, local=1)


def test_a_gpu_is_asked_for_its_share_and_the_machine_for_building_and_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 << 30, 80 << 30))
    monkeypatch.setattr(memory, "available_bytes", lambda: 64 << 30)
    memory.check_fits(kosmos1(), gpu, ranks=8)
    with pytest.raises(
        ConfigError, match=r"its GPU has 20\.0 GiB of memory left; .*--workers N, .*system\.reshard=true"
    ):
        memory.check_fits(kosmos1(), gpu)
    with pytest.raises(ConfigError, match=r"take 99\.1 GiB with .*, and this machine, with 16 processes"):
        memory.check_fits(kosmos1(), gpu, ranks=16)
    memory.check_fits(kosmos1(), gpu, ranks=16, local=8)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 << 30, 80 << 30))
    memory.check_fits(kosmos1(), gpu)
    monkeypatch.setattr(memory, "available_bytes", lambda: 16 << 30)  # it could be built, and never be saved
    with pytest.raises(ConfigError, match=r"take 18\.6 GiB with the copy that checkpoints are written from"):
        memory.check_fits(kosmos1(), gpu)


def test_where_nothing_tells_all_models_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory.check_fits(replace(CONFIG, model=replace(CONFIG.model, ffn_dim=1 << 40)), CPU)


def test_what_is_left_is_the_machines_at_most_a_containers(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    limits = (limit, tmp_path / "none")
    assert memory.available_bytes(meminfo, limits) is None
    meminfo.write_text("MemTotal:       2000 kB\nMemAvailable:    1000 kB\n")
    assert memory.available_bytes(meminfo, limits) == 1000 << 10
    limit.write_text("max\n")
    assert memory.available_bytes(meminfo, limits) == 1000 << 10
    limit.write_text("4096\n")
    assert memory.available_bytes(meminfo, limits) == 4096
    meminfo.write_text("no such thing")
    assert memory.available_bytes(meminfo, limits) == 4096


def test_an_allocators_faults_are_one_sentence_and_others_pass() -> None:
    for num in (1 << 50, 1 << 62):
        with pytest.raises(ConfigError, match="there is not enough memory"), memory.told_when_short():
            torch.empty(num)
    with pytest.raises(ConfigError, match="there is not enough memory"), memory.told_when_short():
        bytearray(1 << 60)
    with pytest.raises(RuntimeError, match="same number of elements"), memory.told_when_short():
        torch.ones(2) @ torch.ones(3)


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.\nmore"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ],
)
def test_a_gpu_that_is_full_names_what_to_turn(fault: RuntimeError) -> None:
    turned = r"data\.micro_batch\.caption=N.*system\.checkpoint_activations=true or system\.reshard=true.*--workers N"
    with (
        pytest.raises(ConfigError, match=rf"the GPU has not enough memory \([^\n]*\); [^\n]*{turned}"),
        memory.told_when_short(),
    ):
        raise fault
