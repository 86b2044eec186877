"""Muon: orthogonalised momentum (Jordan 2024, kellerjordan.github.io/posts/muon).

The update equals that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which a test checks. There, each
matrix is orthogonalised by itself in fifteen small matrix products; here, matrices of one shape are batched, which is
several times as fast on a CPU. Matrices that are sharded (FSDP2) are gathered, each on one of the processes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from .whole_matrices import map_matrices

# Iterating a X + b (X Xᵀ) X + c (X Xᵀ)² X moves every singular value close to 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(x: torch.Tensor, steps: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Approximately orthogonalise matrices by Newton-Schulz iteration, for which bfloat16 is precise enough.

    Args:
        x: matrices (N, rows, columns).
        steps: number of iterations.
        dtype: in which the products are computed, and which the result has.
    """
    x = x.to(dtype)
    transposed = x.shape[-2] > x.shape[-1]
    if transposed:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if transposed else x


class Muon(torch.optim.Optimizer):
    """The Muon optimizer, for the matrices of the blocks.

    A parameter of more than two dimensions is a stack of matrices, such as the weights of all experts; each of them is
    orthogonalised by itself.

    Args:
        params: matrices or stacks of matrices, or parameter groups of them.
        lr: learning rate, scaled to match AdamW's: the root mean square of an update is 0.2 * lr (Liu et al. 2025,
            arXiv:2502.16982).
        weight_decay: decoupled weight decay, multiplied by `lr`.
        momentum: Nesterov momentum.
        ns_steps: number of Newton-Schulz iterations.
        bf16: whether to iterate in bfloat16 instead of float32; saved with the state, so that a resumed run does the
            same.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-2,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        bf16: bool = False,
    ):
        defaults = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, ns_steps=ns_steps, bf16=bf16)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; `closure` reevaluates the model and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple, list[torch.Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[(parameter.shape, parameter.device)].append(parameter)
            for parameters in by_shape.values():
                self._batched_step(parameters, group)
        return loss

    def _batched_step(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        own, own_gradients, own_momenta = map(_local, (parameters, gradients, momenta))
        torch._foreach_lerp_(own_momenta, own_gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(own_gradients, own_momenta, group["momentum"])
        updates = self._orthogonalized(list(directions), parameters[0], group)
        step_size = group["lr"] * 0.2 * max(parameters[0].shape[-2:]) ** 0.5
        torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(own, [update.to(own[0].dtype) for update in updates], alpha=-step_size)

    @staticmethod
    def _orthogonalized(
        directions: list[torch.Tensor], parameter: torch.Tensor, group: dict[str, Any]
    ) -> Iterable[torch.Tensor]:
        dtype, steps = torch.bfloat16 if group["bf16"] else torch.float32, group["ns_steps"]
        if isinstance(parameter, DTensor) and parameter.ndim == 2:
            return map_matrices(directions, parameter, lambda matrix: orthogonalize(matrix, steps, dtype), dtype)
        stacked = torch.stack(directions)  # of stacks of matrices, whole ones are sharded
        return orthogonalize(stacked.flatten(0, -3), steps, dtype).view(stacked.shape).unbind()


def _local(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The parts of the tensors that this process has."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
