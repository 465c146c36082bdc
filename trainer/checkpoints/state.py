"""What a step checkpoint holds of a model and its optimizer: weights and both moments, of all that trains, by name.

    model.<name>   exp_avg.<name>   exp_avg_sq.<name>

What is frozen is not in it: a run keeps that once. The optimizer's numbers (rates, decay) are the config's.
"""

from __future__ import annotations

import torch
from torch import nn

from trainer import parallel

MOMENTS = ("exp_avg", "exp_avg_sq")


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The tensors themselves, by the names of the plain model. Moments of 0 are made where no step was yet."""
    parallel.settle(model)  # a look at what is held out may have left gathered weights in the place of the shards
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    _begin(optimizer)
    found: dict[str, torch.Tensor] = {f"model.{name}": parameter for name, parameter in trained.items()}
    for moment in MOMENTS:
        found |= {f"{moment}.{name}": optimizer.state[parameter][moment] for name, parameter in trained.items()}
    return found


def steps(optimizer: torch.optim.Optimizer) -> int:
    """Steps that an AdamW has made: the same for all its parameters."""
    return max((int(state["step"]) for state in list(optimizer.state.values())[:1]), default=0)


def set_steps(optimizer: torch.optim.Optimizer, number: int) -> None:
    """Have it count on from there."""
    _begin(optimizer)
    for state in optimizer.state.values():
        state["step"].fill_(number)


def _begin(optimizer: torch.optim.Optimizer) -> None:
    """The state that AdamW makes itself at its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state:
                beside = parameter.device if group["fused"] or group["capturable"] else None
                state["step"] = torch.zeros((), dtype=torch.float32, device=beside)
                for moment in MOMENTS:
                    state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
