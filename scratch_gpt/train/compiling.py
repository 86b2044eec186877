"""Compiled blocks: the many small steps of a block, each of which reads and writes all features, become few.

Only the blocks are compiled, once for all of them, and only for training: that takes seconds to a minute, where a whole
model takes minutes. Evaluation and generation, whose lengths vary, run as they are.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import ScratchError

# Parameters of the blocks times steps. On two cores this takes some five minutes, and compiling a tenth of it.
LONG_RUN = 4e9


def compile_blocks(model: nn.Module, choice: str, steps: int) -> bool:
    """Compile the blocks if that is wanted and can be done, and say whether it was.

    Args:
        model: whatever is trained; its blocks are compiled in place, and its parameters keep their names.
        choice: "on", "off", or "auto": where the run has `steps` enough, and the machine a C++ compiler.

    Raises:
        ScratchError: it is wanted, and there is nothing to compile with.
    """
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if choice == "off" or not blocks:
        return False
    if choice == "auto":
        checkpointing = any(block.gradient_checkpointing for block in blocks)
        work = steps * sum(parameter.numel() for block in blocks for parameter in block.parameters())
        if checkpointing or work < LONG_RUN or not can_compile():
            return False
    elif not can_compile():
        raise ScratchError("compile is 'on', but there is no C++ compiler: install g++, or leave it 'auto'")
    import torch._inductor.config as inductor  # takes a second, which most runs need not wait

    inductor.fallback_random = True  # Dropout's own draws, which are cheaper than those of compiled code
    for block in blocks:
        block.compile()
    return True


def can_compile() -> bool:
    """Whether torch finds what it compiles with: a C++ compiler for a processor, Triton for an accelerator."""
    if torch.cuda.is_available():
        from torch.utils._triton import has_triton

        return has_triton()
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False
