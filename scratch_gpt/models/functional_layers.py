"""Layers as functions of one token per row, without the overhead of calling modules: the parts of a decoding step.

Each computes the function of the module that it is made of; a test compares the two.

Dimension letters: B rows, C hidden size, N outputs, E experts, K experts per token, I intermediate size.
"""

from collections.abc import Callable

import torch
from torch import nn

from .experts import MixtureOfExperts
from .feed_forward import FeedForward
from .int8_linear import Int8Linear, quantize_rows
from .normalization import LayerNorm, RMSNorm

Function = Callable[[torch.Tensor], torch.Tensor]

MAX_FUSED_WEIGHTS = 2**20  # weights of up to this many elements in total are copied into one fused matrix
MAX_LOOP_ROWS = 8  # up to which a compiled step multiplies in loops of its own
MIN_SPLIT_WEIGHTS = 2**17  # a smaller matrix fits the cache of one core, and is not split into blocks


def functional_linear(layer: nn.Linear | Int8Linear) -> Function:
    """A linear layer as a function (B, C) to (B, N), without the overhead of calling a module, looking up its weights
    and transposing them, which matters for a single row."""
    if isinstance(layer, Int8Linear):
        return functional_int8(layer)
    return functional_matmul(layer.weight, layer.bias)


def functional_matmul(weight: torch.Tensor, bias: torch.Tensor | None) -> Function:
    """x @ weight.T + bias as a function of x (B, C), for a weight (N, C) and a bias (N,)."""
    if torch.compiler.is_exporting():
        return compiled_matmul(weight, bias)
    count = num_row_blocks(weight)
    if count > 1:
        return row_block_matmul(weight, bias, count)
    transposed = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, transposed)
    return lambda x: torch.addmm(bias, x, transposed)


def compiled_matmul(weight: torch.Tensor, bias: torch.Tensor | None) -> Function:
    """The same for a compiled step."""

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if len(x) > MAX_LOOP_ROWS:
            return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
        product = loop_matmul(weight, x)
        return (product if bias is None else product + bias.float()).to(x.dtype)

    return multiply


def loop_matmul(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """x @ weight.T (B, N) of few rows, in float32, as sums over the products of each row of the weight: the compiler
    turns them into one loop over the weight, which reads memory at its full speed, and adds what follows."""
    return torch.stack([(weight.float() * row.float()).sum(-1) for row in x])


def row_block_matmul(weight: torch.Tensor, bias: torch.Tensor | None, count: int) -> Function:
    """The same as a batched product of `count` blocks of the weight's rows, which is distributed over the cores where a
    single product would run on one."""
    blocks = weight.unflatten(0, (count, -1)).transpose(1, 2)  # (count, C, N / count)
    if bias is None:
        return lambda x: torch.bmm(x.expand(count, -1, -1), blocks).transpose(0, 1).reshape(len(x), -1)
    biases = bias.view(count, 1, -1)
    return lambda x: torch.baddbmm(biases, x.expand(count, -1, -1), blocks).transpose(0, 1).reshape(len(x), -1)


def num_row_blocks(weight: torch.Tensor) -> int:
    """Number of blocks of rows to split a weight (N, C) into for products with a few rows; 1 if it can't be split
    evenly. On AMD processors, MKL computes such products on one core; two read a large matrix twice as fast."""
    cores = torch.get_num_threads()
    if cores == 1 or weight.numel() < MIN_SPLIT_WEIGHTS or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return 1
    if not (torch.backends.mkl.is_available() and "AMD" in processor_name()):
        return 1
    counts = [count for count in range(cores, 2 * cores + 64) if len(weight) % count == 0]
    return min(
        counts, key=lambda count: -(-count // cores) / count, default=1
    )  # the smallest fraction for the busiest core


def processor_name() -> str:
    """Name of the CPU; empty in releases of torch that do not report it."""
    return getattr(torch.cpu, "get_capabilities", dict[str, str])().get("cpu_name", "")


def functional_norm(norm: nn.Module, like: torch.Tensor) -> Function:
    """A norm as a function, for inputs of the dtype and on the device of `like`."""
    if type(norm) is LayerNorm:
        shape, weight, bias, eps = list(norm.weight.shape), norm.weight, norm.bias, norm.eps
        return lambda x: torch.layer_norm(x, shape, weight, bias, eps)
    if (
        type(norm) is RMSNorm
        and not torch.compiler.is_exporting()
        and like.device.type == "cpu"
        and like.dtype.itemsize >= 4
    ):
        # x / sqrt(|x|² / C + eps) as x sqrt(C) / hypot(|x|, sqrt(eps C)): half the time of torch's kernel on a CPU.
        # Not in 16 bits, where the norm |x| would be too coarse.
        root = norm.hidden_size**0.5
        eps_root = like.new_tensor(norm.eps**0.5 * root)
        scale = root if norm.weight is None else norm.weight * root
        return lambda x: (x / torch.hypot(torch.linalg.vector_norm(x, 2, -1, True), eps_root)).mul_(scale)
    if torch.compiler.is_exporting():
        return lambda x: stored(norm(x))
    return norm.forward


def stored(x: torch.Tensor) -> torch.Tensor:
    """The same tensor, which a compiled step computes once, and not again in each loop that reads it."""
    return x.as_strided(x.shape, x.stride())  # its memory is asked for, so it must have some


def functional_int8(layer: Int8Linear) -> Function:
    """The same for a quantized layer."""
    if not torch.compiler.is_exporting():
        return layer.forward
    weight, scale, bias = layer.weight, layer.scale, layer.bias

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if len(x) > MAX_LOOP_ROWS:
            return layer(x)
        rows, scales = quantize_rows(x)
        product = loop_matmul(weight, stored(rows)) * scale.float() * scales
        return (product if bias is None else product + bias.float()).to(x.dtype)

    return multiply


def fused_linear(*layers: nn.Linear | Int8Linear) -> Function:
    """Several linear layers with the same input as one function (B, C) to their concatenated outputs (B, sum of N).
    Small weights are copied into one matrix; large ones, which would take twice the memory, are not."""
    size = sum(layer.weight.numel() for layer in layers)
    if size > MAX_FUSED_WEIGHTS or isinstance(layers[0], Int8Linear):
        functions = [functional_linear(layer) for layer in layers]
        return lambda x: torch.cat([function(x) for function in functions], dim=-1)
    weight = torch.cat(tuple(layer.weight for layer in layers))
    biases = tuple(layer.bias for layer in layers if layer.bias is not None)
    return functional_matmul(weight, torch.cat(biases) if biases else None)


def functional_feed_forward(mlp: FeedForward | MixtureOfExperts) -> Function:
    """The `forward` of a feed-forward network, or of experts, as a function (B, C) to (B, C)."""
    if isinstance(mlp, MixtureOfExperts):
        return functional_experts(mlp)
    activation, down = mlp.activation, functional_linear(mlp.down_proj)
    if mlp.gate_proj is None:
        up = functional_linear(mlp.up_proj)
        return lambda x: down(activation(up(x)))
    if torch.compiler.is_exporting():  # without a concatenation, one loop computes both
        gate, up = functional_linear(mlp.gate_proj), functional_linear(mlp.up_proj)
        return lambda x: down(activation(gate(x)) * up(x))
    gate_and_up = fused_linear(mlp.gate_proj, mlp.up_proj)

    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = gate_and_up(x).chunk(2, dim=-1)
        return down(activation(gate) * up)

    return gated


def functional_experts(mlp: MixtureOfExperts) -> Function:
    """`MixtureOfExperts.forward` as a function (B, C) to (B, C). For a single row, the chosen experts are computed one
    after the other, without grouping tokens by expert."""
    router, experts, activation = mlp.gate, mlp.experts, mlp.experts.activation
    gate_and_up, down = experts.gate_up_proj.transpose(1, 2).unbind(), experts.down_proj.transpose(1, 2).unbind()

    def mixture(x: torch.Tensor) -> torch.Tensor:
        _, weights, chosen = router(x)  # each (B, K)
        if len(x) > 1:
            return experts(x, weights, chosen)
        outputs = []
        for index in chosen[0].tolist():
            gate, up = torch.mm(x, gate_and_up[index]).chunk(2, dim=-1)  # each (1, I)
            outputs.append(torch.mm(activation(gate) * up, down[index]))
        return torch.mm(weights, torch.cat(outputs))  # (1, C)

    return mixture
