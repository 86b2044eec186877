"""Muon: orthogonalised momentum (Jordan 2024, kellerjordan.github.io/posts/muon).

The update equals that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which a test checks. There, each
matrix is orthogonalised by itself in fifteen small matrix products; here, matrices of one shape are batched, which is
several times as fast on a CPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

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
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        directions = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        matrices = directions.flatten(0, -3)  # (parameters * experts, rows, columns)
        dtype = torch.bfloat16 if group["bf16"] else torch.float32
        updates = orthogonalize(matrices, group["ns_steps"], dtype).view(directions.shape)
        step_size = group["lr"] * 0.2 * max(parameters[0].shape[-2:]) ** 0.5
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype).unbind()), alpha=-step_size)
