"""Mixed precision: which parts of a step are computed in 16 bits is autocast's choice, and this says what it chose."""

import torch


def computed_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype in which products of a tensor are computed: autocast's, which spares float64, or else its own."""
    kind = tensor.device.type
    if tensor.dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return tensor.dtype
