"""Mixed precision: the dtype in which autocast computes matrix products."""

import torch


def computed_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype of matrix products of this tensor: autocast's, if it is enabled for the tensor's device, otherwise the
    tensor's own. Autocast leaves float64 unchanged."""
    device = tensor.device.type
    if tensor.dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype
