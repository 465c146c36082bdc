"""What the tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.trainer.runs import Data, packed


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Nobody writes into it."""
    return packed(str(tmp_path_factory.mktemp("training") / "store"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads on two busy cores wait for each other longer than a toy computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No torchrun, no cluster."""
    for name in ("WORLD_SIZE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
