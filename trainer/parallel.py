"""One model over many processes: FSDP2 from outside, so that the model itself stays single-device code.

One group of parameters for each decoder layer, trainable tower block and the connector, and the root's for what is left
(embedding, last LN). What is frozen is replicated, in bf16 when the rest computes in it. In bf16 the shards stay
float32 and are gathered as bf16; gradients are summed in float32 whatever they were computed in, once an update.

A world of one in float32 has no FSDP at all: its numbers are those of the plain model, bit for bit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from engine.errors import ConfigError
from trainer.config import SystemConfig
from trainer.model import Kosmos
from trainer.world import World

MOST_SHAPES = 64  # compiled variants of a block; the loader's lengths make 8 in training, and as many held out


def spread(model: Kosmos, system: SystemConfig, world: World) -> None:
    """Put a model on this process's device, in place: sharded, in the config's precision, compiled if it says so.

    To be called on all processes, with the same weights in each, before the optimizer is made. Raises ConfigError where
    system.shard_ranks does not divide the world, or nothing is there to compile with.
    """
    mesh = None if world.size == 1 and system.precision == "float32" else _mesh(system, world)
    model.to(world.device)
    model.decoder.recompute = system.checkpoint_activations
    if system.compile:
        _compile(model, world.device)
    if mesh is not None:
        _shard(model, system, mesh)


def gather_gradients(model: nn.Module, last: bool, reshard: bool) -> None:
    """Say before a backward whether it is the update's last: gradients are summed over processes then, once.

    reshard: give gathered weights back after each backward; else after the last, before the optimizer changes them.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last or reshard)


def settle(model: nn.Module) -> None:
    """Give back weights that a forward pass without a backward left gathered: parameters are shards again."""
    for module in _sharded(model):
        module.reshard()


def compilations() -> int:
    """Graphs that this process has compiled so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0


def _mesh(system: SystemConfig, world: World) -> DeviceMesh:
    kind = world.device.type
    shard = system.shard_ranks
    if not shard:
        # nodes with unequal numbers of processes, as an elastic group may have, are one shard group; equal are all when
        # the mean of squares is the square of the mean
        total, squares = world.sum([world.local_size, world.local_size**2])
        equal = world.size * squares == total**2 and world.size % world.local_size == 0
        shard = world.local_size if equal else world.size
    if world.size <= shard:
        return init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
    if world.size % shard:
        raise ConfigError(
            f"system.shard_ranks is {shard} and there are {world.size} processes; set it to a divisor of their number, "
            "or to 0 for those of one node"
        )
    return init_device_mesh(kind, (world.size // shard, shard), mesh_dim_names=("replicate", "shard"))


def _shard(model: Kosmos, system: SystemConfig, mesh: DeviceMesh) -> None:
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    policy = MixedPrecisionPolicy()
    if system.precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for parameter in frozen:
            parameter.data = parameter.data.to(torch.bfloat16)
    groups: list[list[nn.Module]] = [[layer] for layer in model.decoder.layers]
    if model.tower is not None and model.connector is not None:
        *blocks, last = model.tower.resblocks
        groups += [[block] for block in blocks if not frozen.issuperset(block.parameters())]
        groups += [[last, model.tower.ln_post], [model.connector]]
    for group in groups:
        # a list of one module would be a group that waits for a second
        fully_shard(
            group if len(group) > 1 else group[0],
            mesh=mesh,
            reshard_after_forward=system.reshard,
            mp_policy=policy,
        )
    # the connector's last Linear gives a view, which nothing changes in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    # the root's weights are used first and last: given back between, they would be gathered again at once
    fully_shard(model, mesh=mesh, reshard_after_forward=False, mp_policy=policy, ignored_params=frozen)
    # once gathered and given back: a group that has never been fails in a backward that it takes no part in, as image
    # groups do in one of text (torch 2.13)
    for module in _sharded(model):
        module.unshard()
    settle(model)


def _sharded(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _blocks(model: Kosmos) -> list[nn.Module]:
    return [*model.decoder.layers, *(model.tower.resblocks if model.tower is not None else ())]


def _compile(model: Kosmos, device: torch.device) -> None:
    tools = [os.environ.get("CXX"), "g++", "clang++"]
    if device.type == "cuda":
        tools = [os.environ.get("CC"), "gcc", "clang", "cc"]
    missing = "" if any(shutil.which(tool) for tool in tools if tool) else f"compiler {tools[1]}"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing = "package triton"
    if missing:
        raise ConfigError(f"system.compile needs the {missing}; install it, or say --set system.compile=false")
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = MOST_SHAPES
    dynamo.fail_on_recompile_limit_hit = True  # else it would go on slowly, and say so in a log
    for block in _blocks(model):
        block.compile(dynamic=False)


@contextlib.contextmanager
def told_when_not_compiled(system: SystemConfig) -> Iterator[None]:
    """ConfigError in one sentence where a block cannot be compiled, or meets too many shapes."""
    if not system.compile:
        yield
        return
    from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit

    try:
        yield
    except FailOnRecompileLimitHit:
        raise ConfigError(
            f"a block met more than {MOST_SHAPES} shapes, each of which is compiled; set data.micro_batch.interleaved "
            "lower, so that fewer numbers of images occur, or --set system.compile=false"
        ) from None
    except BackendCompilerFailed as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"a block cannot be compiled ({reason}); say --set system.compile=false") from None
