"""The smallest language model: a table with one row of scores for each token, which depend on that token alone.

Trained by gradient descent it arrives at the counts of neighbours: softmax(row of a)[b] = count(a b) / count(a).

Dimension letters: B batch, T tokens, V vocabulary.
"""

import torch
from torch import nn
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_scratch_bigram import ScratchBigramConfig
from .linear_cross_entropy import next_token_labels, token_loss


class ScratchBigramForCausalLM(PreTrainedModel, GenerationMixin):
    """Logits of the next token, read from row `input_ids` of a V x V table."""

    config_class = ScratchBigramConfig
    config: ScratchBigramConfig
    base_model_prefix = "model"

    def __init__(self, config: ScratchBigramConfig):
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # there is nothing to remember

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutput:
        """Token ids (B, T) to `logits` (B, T, V), and the `loss` if `labels` (B, T) are given; -100 is not scored.

        The arguments mean what they mean in `ScratchGPTForCausalLM`; an attention mask changes nothing here.
        """
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.table(input_ids[:, kept])
        loss = None
        if labels is not None:
            shift_labels = kwargs.get("shift_labels")
            targets = next_token_labels(labels) if shift_labels is None else shift_labels
            loss = token_loss(targets, logits, num_items_in_batch=kwargs.get("num_items_in_batch"))
        return CausalLMOutput(loss=loss, logits=logits)


__all__ = ["ScratchBigramForCausalLM"]
