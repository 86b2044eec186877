"""The encoder-decoder Transformer: an encoder processes the source; a decoder with cross-attention to the source
generates the target (Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762).

Unusual here: encoder and decoder (seq2seq_stacks.py) are stacks of the GPT's block, so that the architecture of 2017,
BART, Pegasus, T5 and a modern one are presets of the config. All but the last have a class of transformers with the
same logits.

Dimension letters: B batch, S source tokens, T target tokens, H heads, C hidden size, V target vocabulary.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .compatibility import cache_argument, cache_of, head_forward
from .configuration_scratch_seq2seq import ScratchSeq2SeqConfig
from .fast_generation import FastGenerationMixin
from .linear_cross_entropy import shift_right, token_loss
from .seq2seq_stacks import ScratchSeq2SeqDecoder, ScratchSeq2SeqEncoder, ScratchSeq2SeqPreTrainedModel

if TYPE_CHECKING:  # not imported: a model directory has the files that this one names
    from .attention import ScratchAttention  # noqa: F401
    from .autocast import computed_dtype  # noqa: F401
    from .beam_search import Beams  # noqa: F401
    from .block import TransformerBlock  # noqa: F401
    from .compiled_step import StepCompiler  # noqa: F401
    from .configuration_block import TransformerBlockConfig  # noqa: F401
    from .cpu_gradients import rms_norm  # noqa: F401
    from .decoding_attention import StepSelfAttention  # noqa: F401
    from .decoding_cache import KeyValueBuffer  # noqa: F401
    from .decoding_step import DecodingStep  # noqa: F401
    from .dropout import Dropout  # noqa: F401
    from .experts import MixtureOfExperts  # noqa: F401
    from .fast_decoding import StepDecoder  # noqa: F401
    from .feed_forward import FeedForward  # noqa: F401
    from .functional_layers import functional_linear  # noqa: F401
    from .hooks import has_no_hooks  # noqa: F401
    from .int8_linear import Int8Linear  # noqa: F401
    from .ngram_embedding import NgramEmbedding  # noqa: F401
    from .normalization import build_norm  # noqa: F401
    from .packing import PackedTexts  # noqa: F401
    from .pipeline_scratch_translation import ScratchTranslationPipeline  # noqa: F401
    from .positions import build_positions  # noqa: F401
    from .preset_descriptions import ENCODER_DECODERS  # noqa: F401
    from .pretrained_model import ScratchPreTrainedModel  # noqa: F401
    from .relative_positions import RelativePositionBias  # noqa: F401
    from .step_threads import StepThreads  # noqa: F401
    from .traced_step import TracedStep  # noqa: F401


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
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask: see `ScratchSeq2SeqModel`.
            encoder_outputs, cache, inputs_embeds, decoder_inputs_embeds, use_cache: see `ScratchSeq2SeqModel`.
            labels: target ids (B, T) including `<eos>`, not shifted; -100 is not scored. Without decoder inputs, the
                decoder's input is the labels shifted right.
            logits_to_keep: compute logits of the last so many positions, or of these indices, only; 0 computes all.
            num_items_in_batch: divide the summed loss by this number instead of the number of scored tokens.
            skip_logits: return the loss and no logits, which is faster and takes less memory.

        Returns:
            `loss` (a scalar, if labels are given), `logits` (B, T, V), and the outputs of the trunk.
        """
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
