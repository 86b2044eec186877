"""Normalisation: bring the features of each token to a common scale, so that deep stacks train.

Both norms compute in float32 and cast back. `formula` is the definition, readable and slow; `forward` calls
torch's fused kernel for the same function, and a test holds the two equal.
"""

import torch
from torch import nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """Layer normalisation (Ba, Kiros and Hinton 2016, arXiv:1607.06450).

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last dimension.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def formula(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states.float()
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        normalised = centred * torch.rsqrt(variance + self.eps)
        return (normalised * self.weight.float() + self.bias.float()).to(hidden_states.dtype)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(hidden_states, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467).

    y = x / sqrt(mean(x^2) + eps) * weight, over the last dimension. Without a weight (`elementwise_affine=False`)
    the module has no parameters, as in nanochat.

    The result has the dtype of the input, to which the weight is rounded first. transformers' LlamaRMSNorm rounds once
    more, before it multiplies by the weight: in 16 bits the two differ by that.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-6, elementwise_affine: bool = True):
        super().__init__()
        self.eps = eps
        self.hidden_size = hidden_size
        self.weight = nn.Parameter(torch.ones(hidden_size)) if elementwise_affine else None

    def formula(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states.float()
        normalised = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.weight is not None:
            normalised = normalised * self.weight.to(hidden_states.dtype).float()
        return normalised.to(hidden_states.dtype)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = None if self.weight is None else self.weight.to(hidden_states.dtype)  # mixed, the kernel is not fused
        return F.rms_norm(hidden_states, (self.hidden_size,), weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, elementwise_affine={self.weight is not None}"


def build_norm(config, size: int | None = None) -> nn.Module:
    """The norm that `config.norm_type` names, over `size` features (default: `config.hidden_size`)."""
    size = size or config.hidden_size
    if config.norm_type == "layer_norm":
        return LayerNorm(size, config.norm_eps)
    return RMSNorm(size, config.norm_eps, elementwise_affine=config.norm_type == "rms_norm")
