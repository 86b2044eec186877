"""The bigram model: the smallest language model, a table with the logits of the next token for each token.

Gradient descent converges to the relative frequencies of the bigrams: softmax(table[a])[b] = count(a b) / count(a).

Dimension letters: B batch, T tokens, V vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .compatibility import BaseGenerationMixin, head_forward
from .configuration_scratch_bigram import ScratchBigramConfig
from .linear_cross_entropy import next_token_labels, token_loss

if TYPE_CHECKING:  # not imported: releases of transformers before 5.10 copy only the files that this one names
    from .autocast import computed_dtype  # noqa: F401


class ScratchBigramForCausalLM(PreTrainedModel, BaseGenerationMixin):
    """Logits of the next token, which are rows `input_ids` of a V x V table."""

    config_class = ScratchBigramConfig
    config: ScratchBigramConfig
    base_model_prefix = "model"

    def __init__(self, config: ScratchBigramConfig):
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table, (V, V)."""
        return self.table

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # there are no keys and values to cache

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutput:
        """Predict the next token. An attention mask is accepted and has no effect.

        Args:
            input_ids: token ids (B, T).
            labels: token ids (B, T), shifted here by one; -100 is not scored. Pass labels that are already shifted as
                `shift_labels`.
            logits_to_keep: compute only the logits of the last so many positions, or of those with these indices; 0
                computes all.
            num_items_in_batch: divide the summed loss by this number instead of the number of scored tokens.

        Returns:
            `loss` (a scalar, if labels are given) and `logits` (B, T, V).
        """
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.table(input_ids[:, kept])  # (B, T, V)
        loss = None
        if labels is not None:
            shift_labels = kwargs.get("shift_labels")
            targets = next_token_labels(labels) if shift_labels is None else shift_labels
            loss = token_loss(targets, logits, num_items_in_batch=kwargs.get("num_items_in_batch"))
        return CausalLMOutput(loss=loss, logits=logits)


__all__ = ["ScratchBigramForCausalLM"]
