"""The encoder-decoder Transformer: an encoder processes the source; a decoder with cross-attention to the source
generates the target (Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762).

Unusual here: encoder and decoder are stacks of the GPT's block, so that the architecture of 2017 and a modern one are
two presets of the config. Weights of the former can be exported to transformers' `MarianMTModel`.

Dimension letters: B batch, S source tokens, T target tokens, H heads, D head size, C hidden size, V target vocabulary.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .attention import ScratchAttention
from .block import TransformerBlock
from .compatibility import (
    OutputRecorder,
    cache_argument,
    cache_of,
    create_bidirectional_mask,
    create_causal_masks,
    head_forward,
    trunk_forward,
)
from .configuration_scratch_seq2seq import ScratchSeq2SeqConfig
from .dropout import Dropout
from .fast_decoding import StepDecoder
from .fast_generation import FastGenerationMixin
from .linear_cross_entropy import shift_right, token_loss
from .normalization import build_norm
from .positions import RotaryEmbedding, build_positions, check_length, count_positions
from .pretrained_model import ScratchPreTrainedModel

if TYPE_CHECKING:  # not imported: a model directory has the files that this one names
    from .autocast import computed_dtype  # noqa: F401
    from .configuration_block import TransformerBlockConfig  # noqa: F401
    from .experts import MixtureOfExperts  # noqa: F401
    from .feed_forward import FeedForward  # noqa: F401
    from .ngram_embedding import NgramEmbedding  # noqa: F401
    from .pipeline_scratch_translation import ScratchTranslationPipeline  # noqa: F401


class ScratchSeq2SeqPreTrainedModel(ScratchPreTrainedModel):
    """Base class of the models: sets the config class, and ties and resizes embeddings."""

    config_class = ScratchSeq2SeqConfig
    config: ScratchSeq2SeqConfig

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict:
        """Names of tied weights and what they are tied to. transformers ties nothing without `tie_word_embeddings`;
        here the embeddings of source and target can be tied without the head."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        return dict(self._tied_weights_keys or {})

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the embedding that source and target share.

        Raises:
            ValueError: if they have separate embeddings.
        """
        if not self.config.share_encoder_decoder_embeddings:
            raise ValueError("source and target have separate embeddings, which can't be resized together")
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.config.decoder_vocab_size = self.config.vocab_size
        return embeddings


class ScratchSeq2SeqStack(ScratchSeq2SeqPreTrainedModel):
    """The common modules of encoder and decoder: embeddings, positions, blocks and the final norm. The blocks of a
    decoder are causal and have cross-attention."""

    def __init__(self, config: ScratchSeq2SeqConfig, vocab_size: int, num_layers: int, is_decoder: bool):
        super().__init__(config)
        self.embed_scale = config.hidden_size**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = nn.Embedding(vocab_size, config.hidden_size, config.pad_token_id)
        self.embed_positions = build_positions(config)
        self.embedding_norm = build_norm(config) if config.embedding_norm else None
        self.dropout = Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(
            [TransformerBlock(config, i, is_causal=is_decoder, cross_attention=is_decoder) for i in range(num_layers)]
        )
        self.norm = build_norm(config) if config.norm_position != "post" else nn.Identity()
        self.rotary_emb = RotaryEmbedding(config) if config.position_type == "rotary" else None
        self.gradient_checkpointing = False

    def embed(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Token ids (B, T) to embeddings (B, T, C); embeddings are returned unchanged. Raises ValueError if both or
        neither are given."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input ids and embeddings, for the source and for the target")
        return self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds

    def add_positions(
        self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
        """Embeddings (B, T, C) and position ids (B or 1, T) to the input of the first block (B, T, C), and the rotary
        cosines and sines for all blocks, each (B or 1, T, D/2)."""
        hidden_states = inputs_embeds * self.embed_scale
        if self.embed_positions is not None:
            hidden_states = hidden_states + self.embed_positions(position_ids).to(hidden_states.dtype)
        if self.embedding_norm is not None:
            hidden_states = self.embedding_norm(hidden_states)
        hidden_states = self.dropout(hidden_states)
        return hidden_states, self.rotary_emb(hidden_states, position_ids) if self.rotary_emb is not None else None


class ScratchSeq2SeqEncoder(ScratchSeq2SeqStack):
    """The encoder: every source token attends to every other."""

    _can_record_outputs = {"hidden_states": TransformerBlock, "attentions": ScratchAttention}

    def __init__(self, config: ScratchSeq2SeqConfig):
        super().__init__(config, config.vocab_size, config.encoder_layers, is_decoder=False)
        self.post_init()

    @trunk_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encode source ids (B, S) or embeddings (B, S, C), with a padding mask (B, S): 1 for tokens and 0 for padding,
        on either side. Returns `last_hidden_state` (B, S, C), and hidden states and attentions if requested."""
        embeds = self.embed(input_ids, inputs_embeds)  # (B, S, C)
        check_length(self.config, embeds.shape[1])
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=embeds, attention_mask=attention_mask)
        hidden_states, rotary = self.add_positions(embeds, count_positions(embeds, attention_mask))
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=mask, position_embeddings=rotary, **kwargs)  # (B, S, C)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class ScratchSeq2SeqDecoder(ScratchSeq2SeqStack):
    """The decoder: every target token attends to itself, to those before it, and to the whole source."""

    _can_record_outputs = {
        "hidden_states": TransformerBlock,
        "attentions": OutputRecorder(ScratchAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(ScratchAttention, index=1, layer_name="cross_attn"),
    }

    def __init__(self, config: ScratchSeq2SeqConfig):
        super().__init__(config, config.decoder_vocab_size, config.decoder_layers, is_decoder=True)  # type: ignore[arg-type]
        self.post_init()

    @trunk_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decode the target. Positions are counted from the cache: padding of the source has no effect on them.

        Args:
            input_ids, inputs_embeds: target ids (B, T) or embeddings (B, T, C), exactly one of them.
            attention_mask: 1 for target tokens and 0 for padding (B, cached tokens + T).
            encoder_hidden_states: the encoder's `last_hidden_state` (B, S, C).
            encoder_attention_mask: 1 for source tokens and 0 for padding (B, S).
            cache: an `EncoderDecoderCache` of earlier target tokens and of the source.
            use_cache: whether to return a cache.

        Returns:
            `last_hidden_state` (B, T, C), `cache`, and hidden states and attentions if requested.
        """
        embeds = self.embed(input_ids, inputs_embeds)  # (B, T, C)
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        self_attention_cache = getattr(cache, "self_attention_cache", cache)
        check_length(self.config, embeds.shape[1], self_attention_cache)
        causal_masks = create_causal_masks(
            config=self.config, inputs_embeds=embeds, attention_mask=attention_mask, cache=self_attention_cache
        )
        source_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=embeds,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
        )
        hidden_states, rotary = self.add_positions(embeds, count_positions(embeds, None, self_attention_cache))
        source_rotary = None
        if self.config.cross_attention_rotary and self.rotary_emb is not None:
            source_positions = count_positions(encoder_hidden_states, encoder_attention_mask)
            source_rotary = self.rotary_emb(hidden_states, source_positions)
        for layer in self.layers:
            hidden_states = layer(  # (B, T, C)
                hidden_states,
                encoder_hidden_states,
                attention_mask=causal_masks["full_attention"],
                encoder_attention_mask=source_mask,
                position_embeddings=rotary,
                encoder_position_embeddings=source_rotary,
                use_cache=use_cache,
                **cache_argument(cache),
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), **cache_argument(cache)
        )


class ScratchSeq2SeqModel(ScratchSeq2SeqPreTrainedModel):
    """The trunk: source and target ids to hidden states of the target."""

    def __init__(self, config: ScratchSeq2SeqConfig):
        super().__init__(config)
        self.encoder = ScratchSeq2SeqEncoder(config)
        self.decoder = ScratchSeq2SeqDecoder(config)
        if config.share_encoder_decoder_embeddings:
            self._tied_weights_keys = {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source, and that of the target if they are shared."""
        self.encoder.embed_tokens = value  # type: ignore[assignment]
        if self.config.share_encoder_decoder_embeddings:
            self.decoder.embed_tokens = value  # type: ignore[assignment]

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqModelOutput:
        """Run encoder and decoder.

        Args:
            input_ids, inputs_embeds: source ids (B, S) or embeddings (B, S, C), exactly one of them.
            attention_mask: 1 for source tokens and 0 for padding (B, S), on either side.
            decoder_input_ids, decoder_inputs_embeds: target ids (B, T), shifted right, or embeddings (B, T, C).
            decoder_attention_mask: the same for the target (B, cached tokens + T). Not needed for padding on the right.
            encoder_outputs: output of the encoder for this source, or a tuple of it; the encoder is then not run.
            cache: an `EncoderDecoderCache` of earlier target tokens and of the source.
            use_cache: whether to return a cache.

        Returns:
            `last_hidden_state` (B, T, C), `cache`, `encoder_last_hidden_state` (B, S, C), and, if requested, the hidden
            states and attentions of encoder and decoder, and `cross_attentions`, each (B, H, T, S).

        Raises:
            ValueError: if both or neither of ids and embeddings are given, or learned positions do not suffice.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                return_dict=True,
                **kwargs,
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            cache=cache,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            **cache_argument(cache_of(outputs)),
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class ScratchSeq2SeqForConditionalGeneration(ScratchSeq2SeqPreTrainedModel, FastGenerationMixin):
    """The trunk with a linear head: the logits of the next target token."""

    decoding_trunk = property(lambda self: self.model.decoder)

    def __init__(self, config: ScratchSeq2SeqConfig):
        super().__init__(config)
        self.model = ScratchSeq2SeqModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.decoder_vocab_size, bias=config.lm_head_bias)  # type: ignore[arg-type]
        self.post_init()

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict:
        """Names of tied weights and what they are tied to: the head to the shared embedding, or to the target's."""
        shared, tied = self.config.share_encoder_decoder_embeddings, self.config.tie_word_embeddings
        side = "encoder" if shared else "decoder"
        self._tied_weights_keys = {"lm_head.weight": f"model.{side}.embed_tokens.weight"} if tied else {}
        return super().get_expanded_tied_weights_keys(all_submodels)

    @head_forward
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: int | torch.Tensor | None = None,
        skip_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqLMOutput:
        """Predict the next target token. The other arguments are those of `ScratchSeq2SeqModel`.

        Args:
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, cache, inputs_embeds,
                decoder_inputs_embeds, use_cache: see `ScratchSeq2SeqModel`.
            labels: target ids (B, T) including `<eos>`, not shifted; -100 is not scored. Without decoder inputs, the
                decoder's input is the labels shifted right.
            logits_to_keep: compute logits of the last so many positions, or of these indices, only; 0 computes all.
            num_items_in_batch: divide the summed loss by this number instead of the number of scored tokens.
            skip_logits: return the loss and no logits, which is faster and takes less memory.

        Returns:
            `loss` (a scalar, if labels are given), `logits` (B, T, V), and the outputs of the trunk.
        """
        if isinstance(cache, StepDecoder):
            return Seq2SeqLMOutput(logits=cache.step(decoder_input_ids[:, 0])[:, None], **cache_argument(cache))
        if labels is not None:
            use_cache = False if use_cache is None else use_cache
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            cache=cache,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = None if skip_logits else self.lm_head(hidden_states[:, kept])  # (B, T, V)
        loss = None
        if labels is not None:
            # transformers' `loss_function` would shift the labels again.
            smoothing = float(self.config.label_smoothing) if self.training else 0.0
            loss = token_loss(labels, logits, hidden_states, self.lm_head, num_items_in_batch, smoothing)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            **cache_argument(cache_of(outputs)),
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """The decoder's inputs (B, T) for labels (B, T); transformers' data collator calls this method."""
        return shift_right(labels, self.config.decoder_start_token_id, self.config.pad_token_id)  # type: ignore[arg-type]


__all__ = ["ScratchSeq2SeqForConditionalGeneration", "ScratchSeq2SeqModel", "ScratchSeq2SeqPreTrainedModel"]
