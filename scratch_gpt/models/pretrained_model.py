"""What all models made of transformer blocks share: initialisation, and what transformers may do with them."""

from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .attention import ScratchAttention
from .block import TransformerBlock
from .feed_forward import OutputProjection


class ScratchPreTrainedModel(PreTrainedModel):
    """The base of every model here; a family's own base names its config class."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": TransformerBlock, "attentions": ScratchAttention}

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights, zero biases, norms at one (the base class), then the last matrix of each branch."""
        super()._init_weights(module)
        if not isinstance(module, OutputProjection):
            return
        if self.config.output_projection_init == "zero":
            init.zeros_(module.weight)
        elif self.config.output_projection_init == "scaled":
            init.normal_(module.weight, std=self.config.initializer_range * self.config.num_residual_branches**-0.5)
