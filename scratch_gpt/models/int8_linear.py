"""Linear layers whose weights are 8-bit integers, for inference on a CPU: a quarter of the bytes of float32, which a
decoding step reads for every token.

Quantization is symmetric, with one scale per row of the weight: a row w becomes integers round(w / s) with s = max|w| /
127, so an element is off by at most s / 2. The inputs of a layer are quantized in the same way, one row per token, so
that products are sums of integers. Embeddings, norms and biases stay as they are.
"""

from typing import Any

import torch
from torch import nn

LARGEST = 127  # of an 8-bit integer, without -128, so that the range is symmetric
SMALLEST = 1e-30  # a row of zeros has no largest element to divide by


class Int8Linear(nn.Module):
    """A linear layer with a quantized weight.

    Args:
        layer: the layer to quantize; its bias is shared.

    Attributes:
        weight: integers (N, C).
        scale: of each row (N,), in the dtype of the layer.
        bias: (N,), or None.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        weight, scale = quantize_rows(layer.weight.detach())
        self.register_buffer("weight", weight.to(torch.int8), persistent=False)
        self.register_buffer("scale", scale[:, 0].to(layer.weight.dtype), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x @ (scale * weight).T + bias, (..., C) to (..., N), for x quantized as the weight is."""
        rows, scales = quantize_rows(x.reshape(-1, self.in_features))
        product = torch._int_mm(rows.to(torch.int8), self.weight.t()).float() * scales * self.scale.float()
        product = (product if self.bias is None else product + self.bias.float()).to(x.dtype)
        return product.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes of the layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _save_to_state_dict(self, *args: Any) -> None:
        raise ValueError("this model is quantized to int8 in memory only: save the model that it was loaded from")


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers of rows (M, C), in float32, and the scale of each row (M, 1)."""
    x = x.float()
    scale = x.abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST) / LARGEST
    return (x / scale).round(), scale


def quantize_int8(model: Any) -> Any:
    """Quantize the linear layers of a model in place, its head included, and return the model.

    Args:
        model: a model of this package on a CPU, in evaluation mode.

    Raises:
        ValueError: it is on another device, in training mode, or has experts, whose weights are not linear layers.
    """
    if model.device.type != "cpu" or model.training:
        raise ValueError("int8 is for inference on a CPU: move the model there, and call model.eval()")
    if getattr(model.config, "num_experts", 0):
        raise ValueError("a model with experts can't be quantized to int8: use bfloat16")
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, Int8Linear(layer).eval())
    return model.requires_grad_(False)
