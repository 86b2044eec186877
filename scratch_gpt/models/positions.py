"""Position encodings: attention is invariant to the order of tokens, so positions are encoded in its inputs.

Learned positions (an `nn.Embedding`) and sinusoidal ones are added to the token embeddings. Rotary position embeddings
rotate the queries and keys, so that their dot product depends only on the distance between two tokens.

Dimension letters: B batch, T tokens, H heads, D head size, R rotated features of a head, C hidden size.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from .compatibility import LAYER_TYPES, is_paged
from .cpu_gradients import has_cpu_gradients, rotate


class SinusoidalPositions(nn.Module):
    """Sinusoids of increasing wavelength: sines on even features, cosines on odd ones (Vaswani et al. 2017,
    arXiv:1706.03762, section 3.5). Computed on the fly: there is no table to store, and no maximum length."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        """Position ids (B, T) to float32 encodings (B, T, C)."""
        even = torch.arange(0, self.hidden_size, 2, device=position_ids.device, dtype=torch.float32)
        angles = position_ids[..., None].float() * 10000.0 ** (-even / self.hidden_size)  # (B, T, C/2)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # (B, T, C)


class RotaryEmbedding(nn.Module):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864): cosines and sines of position times frequency.

    The frequencies are a non-persistent buffer, which `PreTrainedModel._init_weights` fills after loading; it requires
    these attribute names. The scaled variants (linear, dynamic, llama3, yarn, longrope) come from transformers'
    `ROPE_INIT_FUNCTIONS`; its decorator updates the frequencies of those that depend on the length.
    """

    inv_freq: torch.Tensor

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        compute = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = compute(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config, **kwargs) -> tuple[torch.Tensor, float]:
        """Frequencies theta^(-2i/R) for i = 0 … R/2 - 1, (R/2,), and the factor of cosines and sines, which is 1."""
        rotated = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))  # R
        exponents = torch.arange(0, rotated, 2, dtype=torch.float32) / rotated
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Position ids (B, T) to cosines, and sines that are negated in the first half of the features, each (B, T, R)
        in the dtype of `x`."""
        angles = position_ids[..., None].float() * self.inv_freq.float()  # (B, T, R/2)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return torch.cat((cos, cos), dim=-1).to(x.dtype), torch.cat((-sin, sin), dim=-1).to(x.dtype)


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate each pair (a, b) = (x_i, x_{i+R/2}) of the first R features of queries or keys by an angle t, to
    (a cos t - b sin t, b cos t + a sin t) (Su et al. 2021, arXiv:2104.09864). The other features keep their values.

    Args:
        x: (B, H, T, D).
        cos, sin: what `RotaryEmbedding` returns, each (B, T, R).
    """
    if has_cpu_gradients(x):
        return rotate(x, cos, sin)
    rotated = cos.shape[-1]  # R
    if rotated < x.shape[-1]:
        return torch.cat((apply_rotary(x[..., :rotated], cos, sin), x[..., rotated:]), dim=-1)
    first, second = x.chunk(2, dim=-1)  # each (B, H, T, R/2)
    swapped = torch.cat((second, first), dim=-1)
    return torch.addcmul(x * cos.unsqueeze(1), swapped, sin.unsqueeze(1))


class RotaryEmbeddings(nn.ModuleDict):
    """A rotary embedding for each layer type, with frequencies of its own (Gemma 3, arXiv:2503.19786, section 2)."""

    def __init__(self, config):
        super().__init__()
        for layer_type in sorted(set(config.layer_types or ["full_attention"])):
            flat = copy.copy(config)
            flat.rope_parameters = config.rope_parameters[layer_type]
            self[layer_type] = RotaryEmbedding(flat)

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Position ids (B, T) to the cosines and sines of a layer type, each (B, T, R) in the dtype of `x`."""
        return self[layer_type](x, position_ids)


def build_rotary(config) -> RotaryEmbedding | RotaryEmbeddings | None:
    """The rotary embedding of a model, or one for each layer type; None without rotary positions."""
    if config.position_type != "rotary":
        return None
    return RotaryEmbeddings(config) if config.rotary_by_layer_type else RotaryEmbedding(config)


def rotary_by_layer_type(
    rotary_emb: nn.Module | None, x: torch.Tensor, position_ids: torch.Tensor
) -> dict[str | None, tuple[torch.Tensor, torch.Tensor]]:
    """Cosines and sines of the positions for each layer type, each (B, T, R) in the dtype of `x`; empty without rotary
    positions.

    Args:
        rotary_emb: what `build_rotary` returned.
        x: a tensor of the model's dtype, on its device.
        position_ids: positions (B, T).
    """
    if rotary_emb is None:
        return {}
    if isinstance(rotary_emb, RotaryEmbeddings):
        return {layer_type: rotary_emb(x, position_ids, layer_type) for layer_type in rotary_emb}
    return dict.fromkeys(LAYER_TYPES, rotary_emb(x, position_ids))


def build_positions(config) -> nn.Module | None:
    """The module of the position embeddings that are added to the token embeddings; None for rotary and relative
    positions."""
    if config.position_type == "learned":
        return nn.Embedding(config.max_position_embeddings, config.hidden_size)
    return SinusoidalPositions(config.hidden_size) if config.position_type == "sinusoidal" else None


def count_positions(
    inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None, cache: Cache | None = None
) -> torch.Tensor:
    """Position ids (B or 1, T), from the padding mask if there is one, otherwise from the number of cached tokens.

    Args:
        inputs_embeds: embeddings of the tokens (B, T, C).
        attention_mask: 1 for tokens and 0 for padding (B, cached tokens + T).
        cache: keys and values of the tokens before these.
    """
    length = inputs_embeds.shape[1]
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
    cached = cache.get_seq_length() if cache is not None else 0
    return (torch.arange(length, device=inputs_embeds.device) + cached).unsqueeze(0)


def check_length(config, length: int, cache: Any = None) -> None:
    """Check that a model with learned positions has enough of them for `length` tokens after those in the cache. Not
    checked under continuous batching, where a row holds several sequences.

    Raises:
        ValueError: if there are more tokens than learned positions.
    """
    if config.position_type != "learned" or is_paged(cache):
        return
    cached = cache.get_seq_length() if cache is not None else 0
    total = length + (cached if isinstance(cached, int) else 0)  # a compiled cache counts in a tensor
    if total > config.max_position_embeddings:
        raise ValueError(
            f"the input has {total} tokens, but this model has learned positions for {config.max_position_embeddings}: "
            "truncate the input"
        )
