"""Compilation of the transformer blocks with torch.compile, which fuses their many small element-wise operations.

Only the blocks are compiled, once for all of one kind (once for an encoder's, once for a decoder's), also if batches
have different shapes (any_shape.py), and only for training: this takes seconds to a minute, while a whole model takes
minutes. Evaluation and generation run uncompiled.
"""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ...errors import ScratchError
from ...models.compiled_step import has_compiler, use_private_cache
from ...models.experts import MixtureOfExperts

# Number of parameters of the blocks times steps from which compilation saves more time than it takes.
LONG_RUN = {"cpu": 2e9, "cuda": 4e11}


def compile_blocks(model: nn.Module, choice: str, steps: int, fixed_shape: bool) -> bool:
    """Compile the blocks of a model, if this is requested and possible. Blocks with experts are not compiled: how many
    tokens an expert processes differs in every step, and so do the shapes.

    Args:
        model: model to train; its blocks are compiled in place, and its parameters keep their names.
        choice: "on", "off", or "auto": if the run is long enough and the machine has a compiler.
        steps: number of optimizer steps of the run.
        fixed_shape: whether all batches have the same shape.

    Returns:
        Whether the blocks were compiled.

    Raises:
        ScratchError: `choice` is "on", and there is no compiler, or the blocks have experts.
    """
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if choice == "off" or not blocks:
        return False
    device = next(model.parameters()).device.type
    if any(isinstance(module, MixtureOfExperts) for module in model.modules()):
        if choice == "on":
            raise ScratchError("compile is 'on', but blocks with experts can't be compiled: set it to 'auto' or 'off'")
        return False
    if choice == "auto":
        checkpointing = any(block.gradient_checkpointing for block in blocks)
        work = steps * sum(parameter.numel() for block in blocks for parameter in block.parameters())
        if checkpointing or device not in LONG_RUN or work < LONG_RUN[device] or not can_compile(device):
            return False
    elif not can_compile(device):
        needed = "a C++ compiler and Python.h: install g++ and python3-dev" if device == "cpu" else "Triton and gcc"
        raise ScratchError(f"compile is 'on', which needs {needed}, or leave it 'auto'")
    use_private_cache()
    if device == "cpu":
        import torch._inductor.config as inductor  # the import takes a second

        from .unfused_bias import UnfuseBias

        inductor.post_grad_custom_post_pass = UnfuseBias()
        # A C++ wrapper calls small kernels with less overhead, but takes long to compile for dynamic shapes.
        inductor.cpp_wrapper = fixed_shape
        inductor.fallback_random = True  # eager dropout draws random numbers faster than compiled code
        inductor.cpp.use_decompose_tanh = True  # by an exponential: GELU takes at most half the time
    for block in blocks:
        if fixed_shape:
            block.compile()
        else:
            from .any_shape import compile_for_any_shape

            compile_for_any_shape(block, device)
    return True


def can_compile(device: str) -> bool:
    """Whether torch.compile works on a device: a CPU needs a C++ compiler and Python's headers, a GPU needs Triton and
    a C compiler."""
    if device == "cuda":
        from torch.utils._triton import has_triton

        return has_triton() and any(map(shutil.which, ("cc", "gcc", "clang")))
    return device == "cpu" and (Path(sysconfig.get_path("include")) / "Python.h").exists() and has_compiler()
