"""RMSNorm and rotary positions in uncompiled training on a CPU: the same functions, with gradients in fewer operations.

torch differentiates them operation by operation, and on a CPU each operation reads and writes the features of all
tokens. Written out, a norm and its gradient take a quarter of the time, a rotation and its gradient half of it.
Elsewhere a compiler or a fused kernel does this.

Dimension letters: C normalized features, B batch, H heads, T tokens, D head size, R rotated features of a head.
"""

import torch
from torch.nn import functional as F

MIN_ELEMENTS = 2**17  # of a tensor for which fewer operations outweigh the calls of Python functions


def has_cpu_gradients(x: torch.Tensor) -> bool:
    """Whether the functions below are used for `x`: a large tensor on the CPU, of at most 32 bits, whose gradient will
    be computed outside of compiled code."""
    return (
        x.requires_grad
        and x.numel() >= MIN_ELEMENTS
        and x.device.type == "cpu"
        and x.dtype != torch.float64
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last dimension: (..., C) and (C,), of one dtype, to (..., C)."""
    return _RMSNorm.apply(x, weight, eps)[0]


class _RMSNorm(torch.autograd.Function):
    """With r = 1 / sqrt(mean(x²) + eps), n = r x and h = weight * (gradient of y), the gradient of x is
    r (h - n mean(h n)). That of layer normalization is r (h - mean(h) - n mean(h n)), for n = r (x - mean(x)): so
    torch's kernel for layer normalization, given a mean of 0, computes all but r mean(h)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, eps):
        dtype = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)  # r, (..., 1)
        normalized = x * scale
        return (normalized if weight is None else normalized.mul_(weight)), scale

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, ctx.eps = inputs
        ctx.save_for_backward(x, weight, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, grad, _):
        x, weight, scale = ctx.saved_tensors
        shape, needed = x.shape[-1:], ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # for a second derivative, this one is computed by operations that have one
            inputs = [tensor for tensor, is_needed in zip((x, weight), needed, strict=True) if is_needed]
            gradients = iter(
                torch.autograd.grad(F.rms_norm(x, shape, weight, ctx.eps), inputs, grad, create_graph=True)
            )
            return (*(next(gradients) if is_needed else None for is_needed in needed), None)
        mean = torch.zeros_like(scale)
        grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, shape, mean, scale, weight, None, [*needed, False]
        )
        if needed[0]:
            mean_h = grad.mean(-1, keepdim=True) if weight is None else (grad @ weight).div_(len(weight)).unsqueeze(-1)
            grad_x.add_(mean_h.mul_(scale))
        return grad_x, grad_weight, None


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`positions.apply_rotary`: (B, H, T, D) by the angles of `cos` and `sin`, each (B, T, R), to (B, H, T, D)."""
    return _Rotation.apply(x, cos.unsqueeze(1), sin.unsqueeze(1))


class _Rotation(torch.autograd.Function):
    """The gradient of a rotation is the rotation of the gradient by the opposite angle."""

    @staticmethod
    def forward(x, cos, sin):
        half, end = cos.shape[-1] // 2, cos.shape[-1]  # R/2, R
        rotated = torch.empty_like(x, dtype=torch.result_type(x, cos))
        torch.mul(x[..., :end], cos, out=rotated[..., :end])
        rotated[..., :half].addcmul_(x[..., half:end], sin[..., :half])
        rotated[..., half:end].addcmul_(x[..., :half], sin[..., half:])
        rotated[..., end:] = x[..., end:]
        return rotated

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return _Rotation.apply(grad, cos, -sin), None, None

    @staticmethod
    def vmap(info, in_dims, *tensors):
        batched = (
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims, strict=True)
        )
        return _Rotation.apply(*batched), 0
