"""Encoder and decoder of the encoder-decoder: stacks of the block of block.py, each with its own embeddings.

Dimension letters: B batch, S source tokens, T target tokens, R rotated features of a head, C hidden size.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .attention import ScratchAttention
from .block import TransformerBlock
from .compatibility import OutputRecorder, cache_argument, create_bidirectional_mask, trunk_forward
from .configuration_scratch_seq2seq import ScratchSeq2SeqConfig
from .dropout import Dropout
from .normalization import build_norm
from .positions import RotaryEmbedding, build_positions, check_length, count_positions
from .pretrained_model import ScratchPreTrainedModel
from .relative_positions import bidirectional_masks, build_relative_bias, causal_masks


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
        self.relative_bias = build_relative_bias(config, bidirectional=not is_decoder)
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
        cosines and sines for all blocks, each (B or 1, T, R)."""
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
        masks = bidirectional_masks(self.config, self.relative_bias, embeds, attention_mask)
        hidden_states, rotary = self.add_positions(embeds, count_positions(embeds, attention_mask))
        for layer in self.layers:
            hidden_states = layer(  # (B, S, C)
                hidden_states, None, masks["full_attention"], position_embeddings=rotary, **kwargs
            )
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
        masks = causal_masks(self.config, self.relative_bias, embeds, attention_mask, self_attention_cache)
        source_mask = create_bidirectional_mask(
            self.config, embeds, encoder_attention_mask, encoder_hidden_states=encoder_hidden_states
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
                masks["full_attention"],
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
