"""Estimate the cost of a training run before it starts: parameters, FLOPs, memory and time.

Parameters and FLOPs follow from the config. Activations and speed are measured in a few training steps on this machine,
with a hook that counts the bytes that autograd saves for the backward pass.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ..evaluation.language_modeling import sum_of_losses
from ..hardware import should_use_bf16
from ..models.linear_cross_entropy import POSITIONS_PER_CHUNK
from ..models.modeling_scratch_gpt import ScratchGPTForCausalLM
from .arguments.default_rates import with_default_rates
from .optim.muon import orthogonalization_dtype
from .optim.optimizers import build_optimizers, parameter_groups
from .tasks.language_modeling.arguments import PretrainingArguments
from .tasks.language_modeling.build import build_model

BYTES = 4  # weights, gradients and optimizer states are float32
# Tokens per parameter for the lowest loss at a given compute: Hoffmann et al. 2022, arXiv:2203.15556.
OPTIMAL_RATIO = 20.0
# Fraction added for temporary buffers. Measured on three sizes, which a test repeats: without it, the sum of the parts
# was between 20% too low and 3% too high.
WORKSPACE = 0.1
UTILISATION = 0.4  # fraction of the peak FLOP/s that a training loop reaches on a GPU; nanoGPT reports 0.4 to 0.5


@dataclass(frozen=True)
class Gpu:
    """Peak of dense bfloat16 matrix multiplication in FLOP/s, and memory in bytes, from the vendor's data sheet."""

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
    """Peak memory of a training step, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def workspace(self) -> int:
        """Temporary buffers of kernels, and memory that the allocator keeps."""
        return round(WORKSPACE * (self.weights + self.gradients + self.optimizer + self.activations))

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.workspace


@dataclass(frozen=True)
class Plan:
    """The estimated cost of a training run.

    Attributes:
        parameters: number of parameters.
        flops_per_token: of a training step, forward and backward.
        memory: peak memory of a training step.
        tokens_per_second: measured speed of training.
        tokens: number of tokens to train on.
        inactive_parameters: number of parameters of the experts that do not process a token.
    """

    parameters: int
    flops_per_token: float
    memory: Memory
    tokens_per_second: float
    tokens: int
    inactive_parameters: int = 0

    @property
    def active_parameters(self) -> int:
        """Number of parameters with which a token is processed: all, except the experts that it does not choose."""
        return self.parameters - self.inactive_parameters

    @property
    def seconds(self) -> float:
        """Estimated duration of the run."""
        return self.tokens / self.tokens_per_second

    @property
    def tokens_per_parameter(self) -> float:
        """Training tokens divided by active parameters, with which a token is processed."""
        return self.tokens / self.active_parameters

    def remark(self) -> str:
        """Compare the ratio of tokens to parameters with the compute-optimal ratio."""
        multiple = self.tokens_per_parameter / OPTIMAL_RATIO
        optimal = f"the compute-optimal ratio of about {OPTIMAL_RATIO:.0f} tokens per parameter"
        if 0.5 <= multiple <= 2:
            return f"near {optimal}"
        other = "smaller model on more tokens" if multiple < 1 else "larger model on fewer tokens"
        return f"{multiple:.2g} times {optimal}: with the same compute, a {other} would reach a lower loss"


def flops_per_token(config: Any, context_length: int) -> float:
    """Floating-point operations (FLOPs) per token of a training step, forward and backward.

    PyTorch's `FlopCounterMode` counts the matrix multiplications of a model on the meta device, which computes nothing.
    It counts attention without regard to the causal mask. Since a token attends to half of the context on average, it
    counts a sequence of half the length: in full, that costs as much per token as causal attention over the whole. Of
    experts, only those count that process a token; of layers with a sliding window, only the tokens within it.

    Args:
        config: config of the model.
        context_length: length of a sequence in tokens.
    """
    length = max(1, context_length // 2)
    with torch.device("meta"):
        model = build_model(with_active_experts(config)).train()
        if isinstance(model, ScratchGPTForCausalLM):
            model.set_attn_implementation("eager")  # FlopCounterMode does not know SDPA's kernel for CPUs
        with FlopCounterMode(display=False) as counter:
            tokens = torch.zeros((1, length), dtype=torch.long)
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    return counter.get_total_flops() / length + router_flops(config) - flops_beyond_windows(config, context_length)


def with_active_experts(config: Any) -> Any:
    """A copy of a config, in which one network as wide as the experts of a token together takes their place. It has the
    same matrix products per token; those of experts depend on the data, which the meta device does not have."""
    config = copy.deepcopy(config)
    if getattr(config, "num_experts", 0):
        config.intermediate_size *= config.num_experts_per_tok
        config.num_experts = 0
    return config


def router_flops(config: Any) -> int:
    """FLOPs per token of the routers in a training step: 2 per weight forward, 4 backward."""
    experts = getattr(config, "num_experts", 0)
    return 6 * config.num_hidden_layers * experts * config.hidden_size if experts else 0


def flops_beyond_windows(config: Any, context_length: int) -> float:
    """FLOPs per token of a training step that full attention has more than the layers with a sliding window: 12 per
    feature of a head and token beyond the window (the scores and the weighted sum of the values, forward and backward).
    In a context of T tokens, a token attends to T / 2 others on average, and within a window of W to W - W² / 2 T."""
    if not getattr(config, "windowed", False):
        return 0.0
    window, length = min(config.sliding_window, context_length), max(1, context_length // 2)
    beyond = max(0.0, length - window * (1 - window / (2 * context_length)))
    layers = config.layer_types.count("sliding_attention")
    return 12 * layers * config.num_attention_heads * config.head_dim * beyond


def inactive_parameters(config: Any) -> int:
    """Number of parameters of the experts that do not process a token."""
    if not getattr(config, "num_experts", 0):
        return 0
    unused = config.num_experts - config.num_experts_per_tok
    return config.num_hidden_layers * unused * 3 * config.hidden_size * config.intermediate_size


def optimizer_bytes(model: PreTrainedModel, optimizer: str) -> int:
    """Bytes of the optimizer state: two numbers per parameter for AdamW, one per parameter for Muon."""
    groups = parameter_groups(model)
    muon = sum(p.numel() for p in groups["matrices"]) if optimizer == "muon" else 0
    return BYTES * (2 * (model.num_parameters() - muon) + muon)


def orthogonalizing_bytes(model: PreTrainedModel) -> int:
    """Bytes of the temporary buffers of Muon's step, which updates all matrices of one shape together: two copies of
    the gradients with momentum, or four copies in the dtype of the iteration. The memory that activations free is too
    fragmented to hold them."""
    numel_by_shape: Counter[torch.Size] = Counter()
    for matrix in parameter_groups(model)["matrices"]:
        numel_by_shape[matrix.shape] += matrix.numel()
    return max(numel_by_shape.values(), default=0) * max(2 * BYTES, 4 * orthogonalization_dtype(model.device).itemsize)


def make_plan(
    config: Any, args: PretrainingArguments, context_length: int, tokens: int, steps: int = 3, is_tuned: bool = False
) -> Plan:
    """Build the model, run a few training steps on random tokens, and estimate the cost of the run.

    Args:
        config: config of the model.
        args: batch size, optimizer and precision of the run.
        context_length: length of a sequence in tokens.
        tokens: number of tokens of the whole run.
        steps: number of timed steps, after one warm-up step.
        is_tuned: whether the model is pretrained, not new, on which the default optimizer depends.
    """
    model = build_model(config).train()
    args, _ = with_default_rates(args, model.num_parameters(), is_tuned)
    assert args.optimizer is not None
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    optimizers = build_optimizers(model, args)
    bf16 = should_use_bf16(args.precision_used)
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
    flops, unused = flops_per_token(config, context_length), inactive_parameters(config)
    return Plan(model.num_parameters(), flops, memory, speed, tokens, unused)


def activation_bytes(model: PreTrainedModel, batch_size: int, context_length: int, bf16: bool) -> int:
    """Bytes that autograd saves in the forward pass, each storage counted once, plus the temporary buffers of the loss.
    For a GPT, these are the logits of a few hundred positions (in bfloat16 together with the head cast to it) or the
    second copy of the head's gradient, whichever is larger; for a bigram model, whose weights are the logits, the
    gradients of the logits and log-probabilities of all positions.

    Args:
        model: model in training mode.
        batch_size: sequences per batch.
        context_length: length of a sequence in tokens.
        bf16: whether autocast computes in bfloat16.
    """
    held: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage  # kept alive, so that its address is not reused
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
