"""What a run will cost, before it is run: parameters, arithmetic, memory, time.

Parameters and arithmetic follow from the config. Activations and speed are measured: a few real steps on this machine,
with a hook that counts the bytes which autograd keeps for the way back.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ..evaluation.language_modeling import sum_of_losses
from ..hardware import should_use_bf16
from ..models.linear_cross_entropy import POSITIONS_PER_CHUNK
from ..models.modeling_scratch_gpt import ScratchGPTForCausalLM
from .optim.muon import rough_dtype
from .optim.optimizers import build_optimizers, parameter_groups
from .tasks.language_modeling.arguments import PretrainingArguments
from .tasks.language_modeling.build import build_model

BYTES = 4  # weights, gradients and optimizer states are float32
# Tokens per parameter for the lowest loss with a given compute: Hoffmann et al. 2022, arXiv:2203.15556.
OPTIMAL_RATIO = 20.0
WORKSPACE = 0.1  # measured on three sizes, which a test repeats: the sum of the parts was 20% too small to 3% too great
UTILISATION = 0.4  # share of the peak that a plain training loop reaches on a GPU; nanoGPT reports 0.4 to 0.5


@dataclass(frozen=True)
class Gpu:
    """Peak of dense bfloat16 arithmetic in FLOP/s, and memory in bytes, from the vendor's data sheet."""

    flops: float
    memory: float


GPUS = {
    "T4": Gpu(65e12, 16e9),
    "RTX 4090": Gpu(165e12, 24e9),
    "A100": Gpu(312e12, 80e9),
    "H100": Gpu(989e12, 80e9),
    "H200": Gpu(989e12, 141e9),
}


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step holds at its peak."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def workspace(self) -> int:
        """Temporaries of kernels and what the allocator holds back."""
        return round(WORKSPACE * (self.weights + self.gradients + self.optimizer + self.activations))

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.workspace


@dataclass(frozen=True)
class Plan:
    """What is known before a run."""

    parameters: int
    flops_per_token: float
    memory: Memory
    tokens_per_second: float
    tokens: int

    @property
    def seconds(self) -> float:
        return self.tokens / self.tokens_per_second

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters

    def remark(self) -> str:
        """The ratio of tokens to parameters, compared with the compute-optimal one."""
        multiple = self.tokens_per_parameter / OPTIMAL_RATIO
        optimal = f"the compute-optimal ratio of about {OPTIMAL_RATIO:.0f} tokens per parameter"
        if 0.5 <= multiple <= 2:
            return f"near {optimal}"
        other = "smaller model on more tokens" if multiple < 1 else "larger model on fewer tokens"
        return f"{multiple:.2g} times {optimal}: with the same compute, a {other} would reach a lower loss"


def flops_per_token(model: PreTrainedModel, context_length: int) -> float:
    """Floating-point operations of a training step for each token: 6 for each parameter of a matrix, and attention's
    12 x layers x width x context / 2, of which the causal half is needed (Chowdhery et al. 2022, arXiv:2204.02311,
    appendix B)."""
    matrices = sum(p.numel() for p in parameter_groups(model)["matrices"])
    head = model.get_output_embeddings()
    matrices += sum(p.numel() for p in head.parameters()) if head is not None else 0
    config: Any = model.config
    if not isinstance(model, ScratchGPTForCausalLM):
        return 6.0 * matrices
    width = config.num_attention_heads * config.head_dim
    return 6.0 * matrices + 6.0 * config.num_hidden_layers * width * context_length


def optimizer_bytes(model: PreTrainedModel, optimizer: str) -> int:
    """AdamW keeps two numbers for each parameter, Muon one for each of a matrix."""
    groups = parameter_groups(model)
    muon = sum(p.numel() for p in groups["matrices"]) if optimizer == "muon" else 0
    return BYTES * (2 * (model.num_parameters() - muon) + muon)


def orthogonalizing_bytes(model: PreTrainedModel) -> int:
    """What Muon's step takes beside its state, for the matrices of one shape at once: gradients with momentum twice, or
    four times the numbers that it computes with. The room that activations leave is in pieces too small for these."""
    fused_linear: Counter[torch.Size] = Counter()
    for matrix in parameter_groups(model)["matrices"]:
        fused_linear[matrix.shape] += matrix.numel()
    return max(fused_linear.values(), default=0) * max(2 * BYTES, 4 * rough_dtype(model.device).itemsize)


def make_plan(config: Any, args: PretrainingArguments, context_length: int, tokens: int, steps: int = 3) -> Plan:
    """Build the model, run a few steps on random tokens, and add up.

    Args:
        config: of a fresh model.
        args: batch size, optimizer and precision of the run.
        context_length: tokens of a row.
        tokens: of the whole run.
        steps: how many are timed, after one that is not.
    """
    model = build_model(config).train()
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    optimizers = build_optimizers(model, args)
    bf16 = should_use_bf16(args.precision)
    saved = activation_bytes(model, args.batch_size, context_length, bf16)
    started = 0.0
    for step in range(steps + 1):
        if step == 1:
            started = time.perf_counter()
        _forward(model, args.batch_size, context_length, bf16).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    seconds = (time.perf_counter() - started) / steps
    weights = BYTES * model.num_parameters()
    optimizer_memory = optimizer_bytes(model, args.optimizer)
    if args.optimizer == "muon":
        optimizer_memory += orthogonalizing_bytes(model)
    memory = Memory(weights, weights, optimizer_memory, saved)
    speed = args.batch_size * context_length / seconds
    return Plan(model.num_parameters(), flops_per_token(model, context_length), memory, speed, tokens)


def activation_bytes(model: PreTrainedModel, batch_size: int, context_length: int, bf16: bool) -> int:
    """Bytes that autograd keeps from the forward pass, each storage counted once, and what the loss takes beside them:
    of a GPT a few hundred positions' logits, in bfloat16 beside the head in it, and after them the head's gradient a
    second time; of a bigram, whose weights are logits, the gradients on both sides of the softmax of all."""
    held: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage  # kept, so that its address is not given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = _forward(model, batch_size, context_length, bf16)
    saved = sum(storage.nbytes() for storage in held.values())
    del loss
    positions = batch_size * context_length
    rows = 2 * positions
    if isinstance(model, ScratchGPTForCausalLM):
        width, scored = model.config.hidden_size, min(POSITIONS_PER_CHUNK, positions)
        rows = max(width, (scored + width) // 2 if bf16 else scored)
    return saved + rows * BYTES * model.config.vocab_size


def _forward(model: PreTrainedModel, batch_size: int, context_length: int, bf16: bool) -> torch.Tensor:
    tokens = torch.randint(0, model.config.vocab_size, (batch_size, context_length))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return sum_of_losses(model, {"input_ids": tokens, "labels": tokens}) / tokens.numel()
