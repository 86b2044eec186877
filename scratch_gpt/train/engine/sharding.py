"""Sharding of weights, gradients and optimizer states over processes: FSDP2 (torch's `fully_shard`; Zhao et al. 2023,
arXiv:2304.11277), on accelerators and on processors.

Each block is a unit, whose weights are gathered for its forward and backward pass; the rest of the model, with
embeddings and head, is another one. Accelerate would shard on accelerators only, and would make units of parts of the
model that are not called by themselves, such as a head whose weights a fused loss reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, broadcast
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from ...errors import ScratchError

SHARED = "_is_fsdp_managed_module"  # tells transformers' `generate` whether the processes make their passes together
RESHARDS = "_reshards_after_forward"  # what a unit does in training


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the weights are sharded over the processes."""
    return accelerator.distributed_type == DistributedType.FSDP


def enable_sharding(accelerator: Accelerator, replicas: int) -> None:
    """Make accelerate treat the processes as those of FSDP2, also on processors.

    Args:
        accelerator: of a run that shards its weights.
        replicas: number of copies of the model.

    Raises:
        ScratchError: the processes can't hold so many copies, each sharded.
    """
    processes = accelerator.num_processes
    if processes == 1:
        raise ScratchError("weights are sharded over processes, and there is one: set --num_processes, or omit --shard")
    if processes % replicas or processes == replicas:
        raise ScratchError(
            f"{processes} processes can't shard {replicas} replicas of the model: choose a smaller divisor of "
            f"{processes}, or data parallelism, without --shard"
        )
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # which every other state is a copy of


def shard(model: torch.nn.Module, accelerator: Accelerator, replicas: int) -> None:
    """Shard a model in place; every process must call it, before optimizers are built.

    Args:
        model: the weights of the first process are used.
        accelerator: processes, device, precision, and options of FSDP that its launcher has set.
        replicas: number of copies of the model.
    """
    plugin = accelerator.state.fsdp_plugin
    mesh = _mesh(accelerator, replicas)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(broadcast(tensor.to(accelerator.device)))
    offload = CPUOffloadPolicy() if plugin.cpu_offload and accelerator.device.type != "cpu" else OffloadPolicy()
    # In bfloat16, autocast would cast the weights of a block after they are gathered: this halves the traffic.
    gathered = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    precision = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in list(model.modules()):
        if isinstance(block, GradientCheckpointingLayer):
            reshard = bool(plugin.reshard_after_forward)
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard, mp_policy=precision, offload_policy=offload)
            setattr(block, RESHARDS, reshard)
    fully_shard(model, mesh=mesh, offload_policy=offload)


def prepare(
    accelerator: Accelerator, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[Any, ...]:
    """`accelerator.prepare`, also for a model that is sharded already; returns the model and the optimizers."""
    if not is_sharded(accelerator):
        return accelerator.prepare(model, *optimizers)
    # In evaluation mode, autocast is all that a model is prepared for.
    prepared = accelerator.prepare_model(model, evaluation_mode=True)
    return prepared, *map(accelerator.prepare_optimizer, optimizers)


def _mesh(accelerator: Accelerator, replicas: int) -> DeviceMesh:
    """All processes in one dimension or, with hybrid sharding, replicas of the model and the shards of each."""
    processes, kind = accelerator.num_processes, accelerator.device.type
    if replicas == 1:
        return init_device_mesh(kind, (processes,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (replicas, processes // replicas), mesh_dim_names=("replicate", "shard"))


@contextmanager
def weights_for_evaluation(model: torch.nn.Module, whole: bool) -> Iterator[None]:
    """Context for forward passes of a sharded model without gradients; every process must enter and leave it.

    Args:
        model: the model; if it is not sharded, the context has no effect.
        whole: whether each process has all weights, and may use the model by itself, any number of times. Otherwise
            the processes have to make the same number of passes.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if units:  # processes that generate by themselves must not wait for each other, those that share weights must
        setattr(model, SHARED, not whole)
    for unit in units if whole else ():
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        if units:
            setattr(model, SHARED, True)
        for unit in units:  # without a backward pass, the model itself stays whole
            unit.reshard()
            if whole:
                unit.set_reshard_after_forward(getattr(unit, RESHARDS, False), recurse=False)
