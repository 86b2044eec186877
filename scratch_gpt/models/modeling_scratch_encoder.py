"""The encoder: a stack of transformer blocks with bidirectional attention, for masked-LM and classification.

Unusual here: it is the GPT's stack without the causal mask. Independent fields of the config select BERT (Devlin et al.
2018, arXiv:1810.04805), RoBERTa, DistilBERT or ModernBERT; tests compare each, with the same weights, with
transformers' own classes. The preset "fasttext" has no blocks: it is a bag of tokens and n-grams, the baseline for
attention.

Dimension letters: B batch, T tokens, R rotated features of a head, C hidden size, V vocabulary, K labels.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .block import TransformerBlock
from .compatibility import head_forward, trunk_forward
from .configuration_scratch_encoder import ScratchEncoderConfig
from .dropout import Dropout
from .feed_forward import ACTIVATIONS
from .linear_cross_entropy import scored_items, token_loss
from .ngram_embedding import NgramEmbedding
from .normalization import build_norm
from .packing import pack_texts
from .positions import build_positions, build_rotary, check_length, count_positions, rotary_by_layer_type
from .pretrained_model import ScratchPreTrainedModel
from .relative_positions import bidirectional_masks, build_relative_bias
from .token_weights import TokenWeights

if TYPE_CHECKING:  # not imported: releases of transformers before 5.10 copy only the files that this one names
    from .attention import ScratchAttention  # noqa: F401
    from .autocast import computed_dtype  # noqa: F401
    from .configuration_block import TransformerBlockConfig  # noqa: F401
    from .cpu_gradients import rms_norm  # noqa: F401
    from .experts import MixtureOfExperts  # noqa: F401
    from .hooks import has_no_hooks  # noqa: F401
    from .preset_descriptions import ENCODERS  # noqa: F401
POOLER_ACTIVATIONS = {"tanh": torch.tanh, **ACTIVATIONS}


class ScratchEncoderPreTrainedModel(ScratchPreTrainedModel):
    """Base class of the models: sets the config class, and initializes token weights."""

    config_class = ScratchEncoderConfig
    config: ScratchEncoderConfig

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TokenWeights):
            module.reset()

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """Resize the token embeddings, as in transformers.

        Raises:
            ValueError: if the model has token weights, which are computed for its vocabulary.
        """
        if self.config.token_weights and (args or kwargs):
            raise ValueError("the token weights were computed for this vocabulary, which can't be resized")
        return super().resize_token_embeddings(*args, **kwargs)


class Pooler(nn.Module):
    """BERT's pooler: a dense layer and an activation, applied to the pooled vector of a text; in ModernBERT also a
    norm."""

    def __init__(self, config: ScratchEncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.head_bias)
        self.activation = POOLER_ACTIVATIONS[config.pooler_activation]
        self.norm = build_norm(config) if config.pooler_norm else nn.Identity()

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Transform pooled vectors (B, C) to (B, C)."""
        return self.norm(self.activation(self.dense(pooled)))


class ScratchEncoderModel(ScratchEncoderPreTrainedModel):
    """The trunk: embeddings, blocks, final norm and pooler; token ids to hidden states and a vector for each text.

    Args:
        config: the config.
        add_pooling_layer: whether to add the pooler, if the config has one.
    """

    def __init__(self, config: ScratchEncoderConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        types = config.type_vocab_size
        self.embed_token_types = nn.Embedding(types, config.hidden_size) if types else None
        ngram_args = config.ngram_buckets, config.hidden_size, config.pad_token_id or 0
        self.embed_ngrams = nn.ModuleList([NgramEmbedding(size, *ngram_args) for size in config.ngram_sizes])
        self.token_weights = TokenWeights(config) if config.token_weights else None
        self.embed_positions = build_positions(config)
        self.embedding_norm = build_norm(config) if config.embedding_norm else None
        self.dropout = Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(
            [TransformerBlock(config, i, is_causal=False) for i in range(config.num_hidden_layers)]
        )
        self.norm = build_norm(config) if config.norm_position != "post" else nn.Identity()
        self.pooler = Pooler(config) if config.pooler and add_pooling_layer else None
        self.rotary_emb = build_rotary(config)
        self.relative_bias = build_relative_bias(config, bidirectional=True)
        self.gradient_checkpointing = False
        self.post_init()

    @trunk_forward
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Compute hidden states. In inference on a CPU, padding is not computed (packing.py) and its states are 0.

        Args:
            input_ids: token ids (B, T). Either these or `inputs_embeds`.
            attention_mask: 1 for tokens and 0 for padding (B, T), on either side.
            token_type_ids: token types (B, T), as BERT's tokenizers return them; by default 0. A model without token
                types supports only 0.
            position_ids: position of each token in its text (B, T). By default counted; with a padding mask, from the
                first token that is not padding.
            inputs_embeds: token embeddings (B, T, C).

        Returns:
            `last_hidden_state` (B, T, C), `pooler_output` (B, C) if there is a pooler, and `hidden_states` and
            `attentions` if requested.

        Raises:
            ValueError: if both or neither of `input_ids` and `inputs_embeds` are given, a model with n-gram embeddings
                or token weights gets `inputs_embeds`, there are more tokens than learned positions, or a token type
                that the model does not have.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if token_type_ids is not None:
            self.check_token_types(token_type_ids)
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, attention_mask)  # type: ignore[arg-type]  # not None
        elif self.embed_ngrams or self.token_weights is not None:
            raise ValueError("this model has n-gram embeddings or token weights and needs input_ids")
        check_length(self.config, inputs_embeds.shape[1])
        if position_ids is None:
            position_ids = count_positions(inputs_embeds, attention_mask)
        packed = pack_texts(self, inputs_embeds, attention_mask, kwargs) if self.layers else None
        if packed is None:
            masks = bidirectional_masks(self.config, self.relative_bias, inputs_embeds, attention_mask)
        else:
            masks = packed.masks(bidirectional_masks(self.config, self.relative_bias, inputs_embeds[:1], None))
            inputs_embeds, position_ids = packed.pack(inputs_embeds), packed.pack(position_ids)  # (1, N, C), (1, N)
            token_type_ids = None if token_type_ids is None else packed.pack(token_type_ids)

        hidden_states = inputs_embeds
        if self.embed_token_types is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros(1, 1, dtype=torch.long, device=inputs_embeds.device)
            hidden_states = hidden_states + self.embed_token_types(token_type_ids)
        if self.embed_positions is not None:
            hidden_states = hidden_states + self.embed_positions(position_ids).to(hidden_states.dtype)
        if self.embedding_norm is not None:
            hidden_states = self.embedding_norm(hidden_states)
        hidden_states = self.dropout(hidden_states)
        # Cosines and sines, each (B or 1, T, R)
        rotary = rotary_by_layer_type(self.rotary_emb, hidden_states, position_ids)
        for layer in self.layers:
            hidden_states = layer(  # (B, T, C)
                hidden_states,
                None,
                masks[layer.attention_type],  # type: ignore[index]
                position_embeddings=rotary.get(layer.rotary_type),  # type: ignore[call-overload]
                **kwargs,
            )
        hidden_states = self.norm(hidden_states)
        if packed is not None:
            hidden_states = packed.unpack(hidden_states)  # (B, T, C)
        pooled = None if self.pooler is None else self.pooler(self.pool(hidden_states, attention_mask))  # (B, C)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def check_token_types(self, token_type_ids: torch.Tensor) -> None:
        """Check token types (B, T), except in a graph.

        Raises:
            ValueError: if the model does not have one of them.
        """
        if torch.compiler.is_compiling():
            return
        if not self.config.type_vocab_size and token_type_ids.any():
            raise ValueError("token_type_ids are not all 0: this model does not support pairs of texts")
        if self.config.type_vocab_size and (largest := int(token_type_ids.max())) >= self.config.type_vocab_size:
            raise ValueError(f"token_type_ids has {largest}, want less than {self.config.type_vocab_size}")

    def pool(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Pool hidden states (B, T, C) to (B, C): the state of the first token, or a mean or sum over tokens, according
        to `config.classifier_pooling`. Padding, 0 in the mask (B, T), is excluded."""
        if attention_mask is None or attention_mask.ndim != 2:
            attention_mask = hidden_states.new_ones(hidden_states.shape[:2])
        if self.config.classifier_pooling == "cls":
            rows = torch.arange(len(hidden_states), device=hidden_states.device)
            return hidden_states[rows, attention_mask.int().argmax(-1)]
        length = attention_mask.sum(-1, keepdim=True).clamp(min=1)  # (B, 1)
        weights = attention_mask / (length if self.config.classifier_pooling == "mean" else length**0.5)  # (B, T)
        return (hidden_states * weights[..., None].to(hidden_states.dtype)).sum(1)

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Token ids (B, T) to embeddings (B, T, C): the sum of token and n-gram embeddings, each multiplied by its
        weight if the model has token weights. For n-grams and weights, masked tokens are padding."""
        weights = self.token_weights
        if (self.embed_ngrams or weights is not None) and attention_mask is not None and attention_mask.ndim == 2:
            input_ids = input_ids.masked_fill(attention_mask == 0, self.config.pad_token_id or 0)
        embeds = self.embed_tokens(input_ids)  # (B, T, C)
        if weights is not None:
            embeds = embeds * weights.for_tokens(input_ids)[..., None]
        input_ids = self.replace_boundaries(input_ids)
        for size_idx, embed_ngrams in enumerate(self.embed_ngrams):
            assert isinstance(embed_ngrams, NgramEmbedding)
            bucket_ids = embed_ngrams.bucket_ids(input_ids)  # (B, T)
            ngram_embeds = embed_ngrams(bucket_ids)  # (B, T, C)
            if weights is not None:
                ngram_embeds = ngram_embeds * weights.for_ngrams(size_idx, bucket_ids, input_ids)[..., None]
            embeds = embeds + ngram_embeds
        return embeds

    def replace_boundaries(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) for n-grams: `config.boundary_token_id`, if set, replaces `<bos>` and `<eos>`."""
        boundary = self.config.boundary_token_id
        if boundary is None:
            return input_ids
        eos = self.config.eos_token_id
        edges = {self.config.bos_token_id, *(eos if isinstance(eos, list) else [eos])}
        edges -= {None, self.config.pad_token_id}
        return input_ids.masked_fill(torch.isin(input_ids, input_ids.new_tensor(sorted(edges))), boundary)


class MaskedLMTransform(nn.Module):
    """BERT's transform before the masked-LM head: a dense layer, an activation and a norm."""

    def __init__(self, config: ScratchEncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.head_bias)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = build_norm(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transform hidden states (..., C) to (..., C)."""
        return self.norm(self.activation(self.dense(hidden_states)))


class ScratchEncoderForMaskedLM(ScratchEncoderPreTrainedModel):
    """The trunk with a linear head: the logits of the token at each masked position."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]

    def __init__(self, config: ScratchEncoderConfig):
        super().__init__(config)
        self.model = ScratchEncoderModel(config, add_pooling_layer=False)
        self.transform = MaskedLMTransform(config) if config.masked_lm_transform else nn.Identity()
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        skip_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Predict masked tokens. The other arguments are those of `ScratchEncoderModel`.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds: see `ScratchEncoderModel`.
            labels: original token at each masked position (B, T), and -100 at all others.
            num_items_in_batch: divide the summed loss by this number instead of the number of scored tokens.
            skip_logits: return no logits; only scored positions then go through the head.

        Returns:
            `loss` (a scalar, if labels are given), `logits` (B, T, V), and the outputs of the trunk.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        logits = None if skip_logits else self.lm_head(self.transform(hidden_states))  # (B, T, V)
        loss = None
        if labels is not None:
            targets = labels.to(hidden_states.device)
            if logits is None:
                scored = targets != -100
                targets, hidden_states = targets[scored], self.transform(hidden_states[scored])  # (N,), (N, C)
            loss = token_loss(targets, logits, hidden_states, self.lm_head, num_items_in_batch)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class ScratchEncoderForSequenceClassification(ScratchEncoderPreTrainedModel):
    """The trunk, pooling of its states into one vector per text, and a linear head."""

    accepts_loss_kwargs = False  # the loss is a mean over rows: Trainer must divide it by the accumulation steps

    def __init__(self, config: ScratchEncoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ScratchEncoderModel(config)
        dropout = config.residual_dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Classify each row. The other arguments are those of `ScratchEncoderModel`.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds: see `ScratchEncoderModel`.
            labels: class ids (B,), or targets (B, K) for regression and multi-label classification, according to
                `config.problem_type`.

        Returns:
            `loss` (a scalar, if labels are given), `logits` (B, K), and the outputs of the trunk.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        pooled = outputs.pooler_output  # (B, C)
        if pooled is None:
            pooled = self.model.pool(outputs.last_hidden_state, attention_mask)
        logits = self.classifier(self.dropout(pooled))  # (B, K)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, num_items_in_batch=scored_items(labels)
            )
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = [
    "ScratchEncoderForMaskedLM",
    "ScratchEncoderForSequenceClassification",
    "ScratchEncoderModel",
    "ScratchEncoderPreTrainedModel",
]
