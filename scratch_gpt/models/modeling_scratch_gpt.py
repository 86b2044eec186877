"""The GPT: a stack of causal transformer blocks that predicts the next token.

Unusual here: one set of modules implements GPT-2, Llama, Gemma, Mixtral and many others, selected by independent fields
of the config (the presets of configuration_scratch_gpt.py); tests compare each, with the same weights, with
transformers' own class. Read in this order: normalization.py, positions.py, attention.py, feed_forward.py, experts.py,
block.py, this file. ngram_embedding.py is for the preset nanochat_ngram, which has no equivalent in transformers.

Dimension letters: B batch, T tokens, S cached tokens, R rotated features of a head, C hidden size, V vocabulary,
K labels.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    MoeCausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .block import TransformerBlock
from .compatibility import cache_argument, cache_of, head_forward, is_paged, trunk_forward
from .configuration_scratch_gpt import ScratchGPTConfig
from .dropout import Dropout
from .experts import check_router_gradient, load_balancing_loss
from .fast_generation import FastGenerationMixin
from .linear_cross_entropy import next_token_labels, scored_items, token_loss
from .ngram_embedding import NgramEmbedding, check_ngram_inputs
from .normalization import build_norm
from .positions import build_positions, build_rotary, check_length, count_positions, rotary_by_layer_type
from .pretrained_model import ScratchPreTrainedModel
from .relative_positions import build_relative_bias, causal_masks

if TYPE_CHECKING:  # not imported: releases of transformers before 5.10 copy only the files that this one names
    from .attention import ScratchAttention  # noqa: F401
    from .autocast import computed_dtype  # noqa: F401
    from .beam_search import Beams  # noqa: F401
    from .compiled_step import StepCompiler  # noqa: F401
    from .configuration_block import TransformerBlockConfig  # noqa: F401
    from .cpu_gradients import rms_norm  # noqa: F401
    from .decoding_attention import StepSelfAttention  # noqa: F401
    from .decoding_cache import KeyValueBuffer  # noqa: F401
    from .decoding_step import DecodingStep  # noqa: F401
    from .fast_decoding import StepDecoder  # noqa: F401
    from .feed_forward import FeedForward  # noqa: F401
    from .functional_layers import functional_linear  # noqa: F401
    from .hooks import has_no_hooks  # noqa: F401
    from .int8_linear import Int8Linear  # noqa: F401
    from .packing import PackedTexts  # noqa: F401
    from .preset_descriptions import DECODERS  # noqa: F401
    from .step_threads import StepThreads  # noqa: F401
    from .traced_step import TracedStep  # noqa: F401


class ScratchGPTPreTrainedModel(ScratchPreTrainedModel):
    """Base class of the models: sets the config class."""

    config_class = ScratchGPTConfig
    config: ScratchGPTConfig


class ScratchGPTModel(ScratchGPTPreTrainedModel):
    """The trunk: embeddings, blocks and final norm; token ids to hidden states."""

    def __init__(self, config: ScratchGPTConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        ngram_shape = config.ngram_size, config.ngram_buckets, config.hidden_size
        self.embed_ngrams = NgramEmbedding(*ngram_shape, fill_id=-1) if config.ngram_buckets else None
        self.embed_positions = build_positions(config)
        self.embedding_norm = build_norm(config) if config.embedding_norm else None
        self.dropout = Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList([TransformerBlock(config, i) for i in range(config.num_hidden_layers)])
        self.norm = build_norm(config) if config.norm_position != "post" else nn.Identity()
        self.rotary_emb = build_rotary(config)
        self.relative_bias = build_relative_bias(config, bidirectional=False)
        self.gradient_checkpointing = False
        self.post_init()

    @trunk_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Compute hidden states.

        Args:
            input_ids: token ids (B, T). Either these or `inputs_embeds`.
            attention_mask: 1 for tokens and 0 for padding (B, S + T), on either side. Without a mask, a row may hold
                several packed documents, each with `position_ids` that start at 0; they do not attend to each other
                (with flash attention, transformers supports this only for a batch of one row).
            position_ids: position of each token in its document (B, T). By default counted from the cache and, with a
                padding mask, from the first token that is not padding.
            cache: keys and values of earlier tokens; with n-gram embeddings, it must come from this model, which also
                stores the tokens in it.
            inputs_embeds: token embeddings (B, T, C).
            use_cache: whether to return a cache.

        Returns:
            `last_hidden_state` (B, T, C), `cache`, and `hidden_states` and `attentions` if requested.

        Raises:
            ValueError: if both or neither of `input_ids` and `inputs_embeds` are given, there are more tokens than
                learned positions, a model with n-gram embeddings gets `inputs_embeds` or a paged cache, or one with
                soft-capped scores a paged cache.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if self.embed_ngrams is not None:
            check_ngram_inputs(input_ids, cache, kwargs)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (B, T, C)
        check_length(self.config, inputs_embeds.shape[1], cache)
        if self.config.attn_logit_softcapping is not None and is_paged(cache):
            raise ValueError("this model caps attention scores, which continuous batching does not: use `generate`")
        # Before a cache is created, with which packed documents are not detected
        masks = causal_masks(self.config, self.relative_bias, inputs_embeds, attention_mask, cache, position_ids)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = count_positions(inputs_embeds, attention_mask, cache)

        hidden_states = inputs_embeds
        if self.embed_ngrams is not None:
            mask = None if isinstance(attention_mask, dict) else attention_mask  # masks of `generate`, per layer type
            context = mask, cache, len(self.layers)
            buckets = self.embed_ngrams.bucket_ids_in_context(input_ids, position_ids, *context)  # type: ignore[arg-type]
            hidden_states = hidden_states + self.embed_ngrams(buckets)
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
                position_ids=position_ids,
                use_cache=use_cache,
                **cache_argument(cache),
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **cache_argument(cache))


class ScratchGPTForCausalLM(ScratchGPTPreTrainedModel, FastGenerationMixin):
    """The trunk with a linear head: the logits of the next token."""

    decoding_trunk = property(lambda self: self.model)
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: ScratchGPTConfig):
        super().__init__(config)
        self.model = ScratchGPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast | MoeCausalLMOutputWithPast:
        """Predict the next token. The other arguments are those of `ScratchGPTModel`.

        Args:
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache: see `ScratchGPTModel`.
            labels: token ids (B, T), shifted here by one; -100 is not scored. Pass labels that are already shifted as
                `shift_labels`.
            logits_to_keep: compute only the logits of the last so many positions, or of those with these indices; 0
                computes all.
            skip_logits: return the loss and no logits, which are then never all in memory at the same time.
            num_items_in_batch: divide the summed loss by this number instead of the number of scored tokens.
            output_router_logits: of a model with experts: return the router's logits and their load balancing loss
                (`aux_loss`), and add `config.router_aux_loss_coef` times that to the loss. By default in training mode
                if labels are given.

        Returns:
            `loss` (a scalar, if labels are given), `logits` (B, T, V), and the outputs of the trunk.

        Raises:
            ValueError: see `ScratchGPTModel`; or if reentrant gradient checkpointing detaches the router.
        """
        if self.config.num_experts and kwargs.get("output_router_logits") is None:
            kwargs["output_router_logits"] = self.training and labels is not None
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states, cap = outputs.last_hidden_state, self.config.final_logit_softcapping
        loss, logits = None, None
        # The fused loss uses the head's weight, which does not include an adapter around the head.
        if not (skip_logits and labels is not None and type(self.lm_head) is nn.Linear):
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept])  # (B, T, V)
            if cap is not None:
                logits = cap * torch.tanh(logits / cap)
        aux_loss = None
        if self.config.num_experts and kwargs["output_router_logits"]:
            aux_loss = load_balancing_loss(outputs.router_logits, self.config.num_experts_per_tok, attention_mask)
            if self.training and torch.is_grad_enabled():
                check_router_gradient(aux_loss, self.model.layers[0].mlp.gate)
        if labels is not None:
            shifted = kwargs.get("shift_labels")
            targets: torch.Tensor = next_token_labels(labels) if shifted is None else shifted
            items = kwargs.get("num_items_in_batch")
            loss = token_loss(targets, logits, hidden_states, self.lm_head, items, softcapping=cap)
            if aux_loss is not None:  # a mean: weighted by its share of the tokens, so that accumulated batches add up
                share = (targets != -100).sum() / scored_items(targets, items)
                loss = loss + self.config.router_aux_loss_coef * aux_loss.to(loss.device) * share.to(loss.device)
        output: dict[str, Any] = {"loss": loss, "logits": logits, **cache_argument(cache_of(outputs))}
        output |= {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        if aux_loss is None:
            return CausalLMOutputWithPast(**output)
        return MoeCausalLMOutputWithPast(**output, aux_loss=aux_loss, router_logits=outputs.router_logits)


class ScratchGPTForSequenceClassification(ScratchGPTPreTrainedModel):
    """The trunk with a linear head on the last token before padding, the only one that attends to the whole text."""

    accepts_loss_kwargs = False  # the loss is a mean over rows: Trainer must divide it by the accumulation steps

    def __init__(self, config: ScratchGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ScratchGPTModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)  # type: ignore[arg-type]
        self.post_init()

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        """Classify each row. The other arguments are those of `ScratchGPTModel`.

        Args:
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache: see `ScratchGPTModel`.
            labels: class ids (B,), or targets (B, K) for regression and multi-label classification, according to
                `config.problem_type`.

        Returns:
            `loss` (a scalar, if labels are given), `logits` (B, K), and the outputs of the trunk.

        Raises:
            ValueError: if there are several rows, but neither an attention mask nor a padding token to find their ends.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        last = self._last_tokens(hidden_states, input_ids, attention_mask)
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        logits = self.score(hidden_states[rows, last])  # (B, K)

        loss = None
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, num_items_in_batch=scored_items(labels)
            )
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            **cache_argument(cache_of(outputs)),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _last_tokens(
        self, hidden_states: torch.Tensor, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Index of each row's last token that is not padding (B,), from the mask or, without one, the padding id."""
        batch_size, length = hidden_states.shape[:2]
        if attention_mask is not None and attention_mask.ndim == 2:
            real = attention_mask[:, -length:].bool()
        elif input_ids is not None and self.config.pad_token_id is not None:
            real = input_ids != self.config.pad_token_id
        elif batch_size == 1 or input_ids is None:
            real = torch.ones(batch_size, length, dtype=torch.bool, device=hidden_states.device)
        else:
            raise ValueError(
                f"cannot find the end of {batch_size} rows: give an attention_mask, or set config.pad_token_id"
            )
        positions = torch.arange(length, device=hidden_states.device)
        return (positions * real).argmax(-1)


__all__ = [
    "ScratchGPTForCausalLM",
    "ScratchGPTForSequenceClassification",
    "ScratchGPTModel",
    "ScratchGPTPreTrainedModel",
]
