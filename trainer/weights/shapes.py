"""Names and shapes of a model's parameters, without making it: what a file of its weights must hold."""

from __future__ import annotations

import torch
from torch import nn

from trainer.config import ModelConfig, TowerConfig
from trainer.model import Kosmos
from trainer.tower import Tower


def of_model(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of the whole model, by the names of `trainer.model.Kosmos`; ConfigError where its vocabulary's size is 0."""
    with torch.device("meta"):
        return _of(Kosmos(config))


def of_tower(config: TowerConfig) -> dict[str, tuple[int, ...]]:
    """Of the image tower alone, by the names of `trainer.tower.Tower`."""
    with torch.device("meta"):
        return _of(Tower(config))


def _of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.named_parameters()}
