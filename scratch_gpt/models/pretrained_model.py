"""The base class of all models of transformer blocks: weight initialization, and the features of transformers that they
support."""

from typing import Any

from torch import nn
from transformers import initialization as init

from .attention import ScratchAttention
from .block import TransformerBlock
from .compatibility import SOFTCAPPING_ATTENTION, BaseModel, OutputRecorder
from .experts import Experts, Router
from .feed_forward import OutputProjection


class ScratchPreTrainedModel(BaseModel):
    """Base class of all models of transformer blocks; each family's own base class sets its config class."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": TransformerBlock,
        "attentions": ScratchAttention,
        "router_logits": OutputRecorder(Router, index=0),
    }

    def get_correct_attn_implementation(self, requested_attention: str | None, *args: Any, **kwargs: Any) -> str:
        """The attention function to use: the requested one or, by default, SDPA, and eager attention if scores are
        soft-capped.

        Raises:
            ValueError: if the requested one does not exist, or does not support the model.
        """
        if getattr(self.config, "attn_logit_softcapping", None) is not None:
            name = requested_attention = requested_attention or "eager"
            if name != "eager" and not name.startswith(SOFTCAPPING_ATTENTION):
                raise ValueError(
                    f"attn_logit_softcapping is {self.config.attn_logit_softcapping}, and attention {name!r} does not "
                    f"cap scores: use 'eager' or {' or '.join(map(repr, SOFTCAPPING_ATTENTION))} (not for continuous "
                    "batching)"
                )
        return super().get_correct_attn_implementation(requested_attention, *args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the weights of a module:

        | module | initialization |
        | --- | --- |
        | linear layers, embeddings (base class) | weights normal, standard deviation `initializer_range`; biases 0 |
        | norms (base class) | weights 1, biases 0 |
        | routers and experts | normal, standard deviation `initializer_range`; the last matrices as below |
        | `OutputProjection`, "scaled" | standard deviation / square root of the number of residual branches (GPT-2) |
        | `OutputProjection`, "zero" | weights 0: every block starts as the identity |
        """
        super()._init_weights(module)
        if not isinstance(module, OutputProjection | Router | Experts):
            return
        how, std = self.config.output_projection_init, self.config.initializer_range
        output_std = std * self.config.num_residual_branches**-0.5 if how == "scaled" else std
        if isinstance(module, Router):
            init.normal_(module.weight, std=std)
            return
        if isinstance(module, Experts):
            init.normal_(module.gate_up_proj, std=std)
        output = module.down_proj if isinstance(module, Experts) else module.weight
        if how == "zero":
            init.zeros_(output)
        elif how == "scaled" or isinstance(module, Experts):
            init.normal_(output, std=output_std)
