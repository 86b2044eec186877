"""What an estimate of a training run needs of a model and its batches: sizes, FLOPs and the memory of activations.

Activations are counted in a forward pass on fake tensors, which have shapes and no data, so nothing of the size of the
model is allocated. They are those of blocks that are not compiled, with attention that does not store its weights.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.modeling_layers import GradientCheckpointingLayer

from ...errors import ScratchError
from ..arguments.default_rates import with_default_rates
from ..optim.optimizers import parameter_groups
from ..tasks.language_modeling.arguments import PretrainingArguments
from ..tasks.language_modeling.build import build_model
from .accelerators import Accelerator
from .this_machine import (
    BYTES,
    flops_per_token,
    inactive_parameters,
    logits_bytes,
    optimizer_bytes,
    saved_bytes,
    with_active_experts,
)


@dataclass(frozen=True)
class Shape:
    """What the arithmetic needs of a model and its batches.

    Attributes:
        parameters: number of parameters.
        inactive: those of experts that do not process a token.
        block, blocks: number of parameters of the largest block, and of all blocks together.
        matrices: rows, columns and number of the matrices of each shape whose optimizer is Muon.
        optimizer: bytes of the optimizer states.
        flops: FLOPs per token of a training step.
        constant, per_row: bytes that autograd saves, of any batch and of each sequence of a batch.
        logits: bytes of the temporary buffers of the loss.
        itemsize: bytes of a number in the forward pass: 2 in bfloat16, else 4.
    """

    parameters: int
    inactive: int
    block: int
    blocks: int
    matrices: tuple[tuple[int, int, int], ...]
    optimizer: int
    flops: float
    constant: int
    per_row: int
    logits: int
    itemsize: int


def shape_of(
    config: Any, args: PretrainingArguments, length: int, device: Accelerator, shard: bool, is_tuned: bool = False
) -> Shape:
    """Count the parameters, FLOPs and activations of a model, without allocating it.

    Args:
        config: config of the model.
        args: optimizer, precision and gradient checkpointing of the run, and its batch size.
        length: of a sequence in tokens.
        device: on which it is trained, which computes in bfloat16 or not.
        shard: whether the weights are sharded.
        is_tuned: whether the model is pretrained, not new, on which the default optimizer depends.
    """
    with torch.device("meta"):
        model = build_model(config)
    args, _ = with_default_rates(args, model.num_parameters(), is_tuned)
    assert args.optimizer is not None
    blocks = [sum(p.numel() for p in block.parameters()) for block in blocks_of(model)]
    matrices: Counter[tuple[int, int]] = Counter()
    for matrix in parameter_groups(model)["matrices"] if args.optimizer == "muon" else ():
        rows, columns = matrix.shape[-2:]  # of a stack of matrices, such as those of experts, each is one
        matrices[rows, columns] += matrix.numel() // (rows * columns)
    bf16 = computes_in_bf16(args, device)
    constant, per_row = saved_by_batches(config, args, length, bf16, shard)
    return Shape(
        parameters=model.num_parameters(),
        inactive=inactive_parameters(config),
        block=max(blocks, default=0),
        blocks=sum(blocks),
        matrices=tuple((*size, count) for size, count in matrices.items()),
        optimizer=optimizer_bytes(model, args.optimizer),
        flops=flops_per_token(config, length),
        constant=constant,
        per_row=per_row,
        logits=logits_bytes(model, args.batch_size * length, bf16),
        itemsize=2 if bf16 else BYTES,
    )


def saved_by_batches(config: Any, args: PretrainingArguments, length: int, bf16: bool, shard: bool) -> tuple[int, int]:
    """Bytes that autograd saves, of any batch, and of each sequence of a batch; with gradient checkpointing, together
    with those of the block that is computed again. Arguments as of `shape_of`, and whether bfloat16 is used."""
    with FakeTensorMode():
        model = build_model(with_active_experts(config)).train()
        blocks = blocks_of(model)
        for module in (part for block in blocks for part in block.modules()) if shard and bf16 else ():
            for name, weight in module._parameters.items():  # `Module.bfloat16` can't swap fake tensors
                # FSDP gathers the weights of blocks in bfloat16, which autocast would else copy and keep.
                module._parameters[name] = None if weight is None else torch.nn.Parameter(weight.bfloat16())
        one, two = (saved_bytes(model, rows, length, bf16) for rows in (1, 2))
        if not args.gradient_checkpointing or not blocks:
            return 2 * one - two, two - one
        recomputed = (two - one) // len(blocks)
        model.gradient_checkpointing_enable()
        one, two = (saved_bytes(model, rows, length, bf16) for rows in (1, 2))
        return 2 * one - two, two - one + recomputed


def blocks_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks of a model, which are the units of sharding."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def computes_in_bf16(args: PretrainingArguments, device: Accelerator) -> bool:
    """Whether a run computes in bfloat16 on a device: if it has units for it, and float32 is not requested.

    Raises:
        ScratchError: float32 is requested of a device whose peak is that of bfloat16.
    """
    if device.bf16 and args.precision_used == "fp32":
        raise ScratchError(f"the peak of {device.title} is that of bfloat16: remove --precision fp32")
    if not device.bf16 and args.precision_used == "bf16":
        raise ScratchError(f"{device.title} has no units for bfloat16: remove --precision bf16")
    return device.bf16
