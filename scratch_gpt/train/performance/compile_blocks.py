"""Compiled blocks: the many small steps of a block, each of which reads and writes all features, become few.

Only the blocks are compiled, once for all of them (and once more for batches of another length, which then fits any),
and only for training: that takes seconds to a minute, where a whole model takes minutes. Evaluation and generation run
as they are.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ...data.batching.token_shards import make_cache
from ...errors import ScratchError

# Parameters of the blocks times steps, from where on a run takes so many minutes that compiling is soon paid back.
LONG_RUN = {"cpu": 4e9, "cuda": 4e11}


def compile_blocks(model: nn.Module, choice: str, steps: int, fixed_shape: bool) -> bool:
    """Compile the blocks if that is wanted and can be done, and say whether it was.

    Args:
        model: whatever is trained; its blocks are compiled in place, and its parameters keep their names.
        choice: "on", "off", or "auto": where the run has `steps` enough, and the machine what it takes.
        fixed_shape: whether all batches are of one shape.

    Raises:
        ScratchError: it is wanted, and there is nothing to compile with.
    """
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if choice == "off" or not blocks:
        return False
    device = next(model.parameters()).device.type
    if choice == "auto":
        checkpointing = any(block.gradient_checkpointing for block in blocks)
        work = steps * sum(parameter.numel() for block in blocks for parameter in block.parameters())
        if checkpointing or device not in LONG_RUN or work < LONG_RUN[device] or not can_compile(device):
            return False
    elif not can_compile(device):
        needed = "a C++ compiler and Python.h: install g++ and python3-dev" if device == "cpu" else "Triton and gcc"
        raise ScratchError(f"compile is 'on', but it takes {needed}, or leave it 'auto'")
    # Elsewhere than by default, a folder of a known name under the temporary folder, which others may have made first.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(make_cache("compiled")))
    if device == "cpu":
        import torch._inductor.config as inductor  # takes a second, which most runs need not wait

        from .unfused_bias import BiasApart

        inductor.post_grad_custom_post_pass = BiasApart()
        # What calls the kernels is C++, too, which tells where they are small; for any shape it takes long to compile.
        inductor.cpp_wrapper = fixed_shape
        inductor.fallback_random = True  # Dropout's own draws, which are cheaper than those of compiled code
        inductor.cpp.use_decompose_tanh = True  # by an exponential: GELU takes half the time, or less
    for block in blocks:
        block.compile()
    return True


def can_compile(device: str) -> bool:
    """Whether torch finds what it compiles with: for a processor a C++ compiler and Python's headers, for a GPU Triton
    and the C compiler that this needs."""
    if device == "cuda":
        from torch.utils._triton import has_triton

        return has_triton() and any(map(shutil.which, ("cc", "gcc", "clang")))
    if device != "cpu" or not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return False
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(cpp_builder.get_cpp_compiler())
    except InvalidCxxCompiler:
        return False
