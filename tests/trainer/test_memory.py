"""Whether a model fits: what a machine and a container say, and what an allocator says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import ConfigError
from tests.trainer.test_loop import CONFIG
from trainer import memory
from trainer.config import kosmos1

CPU = torch.device("cpu")


def test_kosmos1_is_refused_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 8 << 30)
    with pytest.raises(ConfigError, match=r"1,662,375,936 parameters, which take 24\.8 GiB, .* has 8\.0 GiB of memory"):
        memory.check_fits(kosmos1(), CPU)
    memory.check_fits(CONFIG, CPU)
    monkeypatch.setattr(memory, "available_bytes", lambda: 32 << 30)
    memory.check_fits(kosmos1(), CPU)


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
