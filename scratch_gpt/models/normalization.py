"""Normalization: scale the features of each token to unit variance or unit root mean square, so that deep stacks train.

Both norms compute in float32 and cast back. `formula` is the definition, readable and slow; `forward` calls torch's
fused kernel for the same function, and a test compares the two.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .cpu_gradients import has_cpu_gradients, rms_norm


class LayerNorm(nn.Module):
    """Layer normalization (Ba, Kiros and Hinton 2016, arXiv:1607.06450).

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last dimension; without a bias if `bias` is false.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-5, bias: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size)) if bias else None

    def formula(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, in float32 (Ba, Kiros and Hinton 2016,
        arXiv:1607.06450): the reference for `forward`. (..., C) to (..., C)."""
        x = hidden_states.float()
        centered = x - x.mean(-1, keepdim=True)
        variance = centered.pow(2).mean(-1, keepdim=True)
        normalized = centered * torch.rsqrt(variance + self.eps)
        bias = 0.0 if self.bias is None else self.bias.float()
        return (normalized * self.weight.float() + bias).to(hidden_states.dtype)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension by torch's kernel: (..., C) to (..., C)."""
        return F.layer_norm(hidden_states, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang and Sennrich 2019, arXiv:1910.07467).

    y = x / sqrt(mean(x^2) + eps) * weight, over the last dimension. Without a weight (`elementwise_affine=False`)
    the module has no parameters, as in nanochat.

    The result has the dtype of the input, to which the weight is cast first. transformers' LlamaRMSNorm rounds once
    more, before it multiplies by the weight: in 16 bits the two differ by this rounding.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6, elementwise_affine: bool = True):
        super().__init__()
        self.eps = eps
        self.hidden_size = hidden_size
        self.weight = nn.Parameter(torch.ones(hidden_size)) if elementwise_affine else None

    def formula(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """y = x / sqrt(mean(x^2) + eps) * weight, in float32 (Zhang and Sennrich 2019, arXiv:1910.07467): the reference
        for `forward`. (..., C) to (..., C)."""
        x = hidden_states.float()
        normalized = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.weight is not None:
            normalized = normalized * self.weight.to(hidden_states.dtype).float()
        return normalized.to(hidden_states.dtype)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension by torch's kernel: (..., C) to (..., C)."""
        weight = None if self.weight is None else self.weight.to(hidden_states.dtype)  # no fused kernel mixes dtypes
        if has_cpu_gradients(hidden_states):
            return rms_norm(hidden_states, weight, self.eps)
        return F.rms_norm(hidden_states, (self.hidden_size,), weight, self.eps)

    def extra_repr(self) -> str:
        """Size, epsilon and whether there is a weight, for `repr`."""
        return f"{self.hidden_size}, eps={self.eps}, elementwise_affine={self.weight is not None}"


def build_norm(config, size: int | None = None) -> nn.Module:
    """The norm of type `config.norm_type` over `size` features (default: `config.hidden_size`)."""
    size = size or config.hidden_size
    if config.norm_type.startswith("layer_norm"):
        return LayerNorm(size, config.norm_eps, bias=config.norm_type == "layer_norm")
    return RMSNorm(size, config.norm_eps, elementwise_affine=config.norm_type == "rms_norm")
