"""The fast path of `generate`: when it uses fast_decoding.py, and the loop around it.

Prefill, logits processors, stopping criteria and streamers are transformers' own, so that every option of `generate`
keeps its meaning. `supports_fast_path` decides: a modified or hooked model, and a request that fast decoding does not
support, are left to transformers' own loop from start to end.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMixin, MaxLengthCriteria

from .attention import ScratchAttention
from .beam_search import Beams
from .block import TransformerBlock
from .compatibility import (
    CACHE,
    LOOP_INPUTS,
    BaseGenerationMixin,
    cache_of,
    create_masks_for_generate,
)
from .dropout import Dropout
from .experts import Experts, MixtureOfExperts, Router
from .fast_decoding import StepDecoder
from .feed_forward import FeedForward, OutputProjection
from .hooks import has_no_hooks
from .int8_linear import Int8Linear
from .ngram_embedding import NgramEmbedding
from .normalization import LayerNorm, RMSNorm
from .positions import RotaryEmbedding, RotaryEmbeddings, SinusoidalPositions
from .relative_positions import RelativePositionBias

# Modules that fast decoding supports; a model with any other module (LoRA, a quantized layer) is left to transformers.
SUPPORTED_MODULES = (
    *(nn.ModuleList, nn.Embedding, nn.Linear, nn.Identity, OutputProjection, Int8Linear, LayerNorm, RMSNorm, Dropout),
    *(TransformerBlock, ScratchAttention, FeedForward, MixtureOfExperts, Router, Experts),
    *(RotaryEmbedding, RotaryEmbeddings, SinusoidalPositions, RelativePositionBias, NgramEmbedding),
)
BLOCK_MODULES: dict[str, tuple[type, ...]] = {
    "self_attn": (ScratchAttention,),
    "cross_attn": (ScratchAttention,),
    "mlp": (FeedForward, MixtureOfExperts),
}
SUPPORTED_INPUTS = {
    *("attention_mask", "position_ids", CACHE, "use_cache", "logits_to_keep", "encoder_outputs"),
    *LOOP_INPUTS,
}
SUPPORTED_ATTENTION = ("eager", "sdpa", "blockwise")  # blockwise attention is for training, and is SDPA otherwise
SUPPORTED_POSITIONS = ("learned", "sinusoidal", "rotary", "relative")
SUPPORTED_ROPE_TYPES = {"default", "linear", "llama3", "yarn"}  # whose frequencies do not depend on the length
PREPARATION_METHODS = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")


class FastGenerationMixin(BaseGenerationMixin):
    """`generate` with fast decoding where it is supported. A model class defines `decoding_trunk`, its stack of causal
    blocks."""

    # Calls of transformers' methods ignore types: it annotates `self` as both a model and the mixin.
    config: Any
    decoding_trunk: Any
    create_masks_for_generate = staticmethod(create_masks_for_generate)
    # Whether `generate` compiles its step on a CPU: "auto", where it saves more time than it takes; "on" or "off".
    decoding_compilation = "auto"

    def _step_decoder(self, cache, generation_config, model_kwargs) -> StepDecoder:
        mask = model_kwargs.get("attention_mask")
        mask = None if mask is None or bool(mask.all()) else mask
        if self.config.is_encoder_decoder:
            rows = max(generation_config.num_beams, generation_config.num_return_sequences)
            decoder = StepDecoder(
                self, self.decoding_trunk, cache, source_mask=mask, beams=rows, remaining=generation_config.max_length
            )
        else:
            position_ids = model_kwargs.get("position_ids")
            if position_ids is None and mask is not None:  # `generate` of transformers 5.1 does not keep them
                position_ids = (mask.long().cumsum(-1) - 1).clamp(min=0)
            remaining = generation_config.max_length - getattr(cache, "self_attention_cache", cache).get_seq_length()
            decoder = StepDecoder(self, self.decoding_trunk, cache, position_ids, mask, remaining=remaining)
        # The decoder has copied the keys and values; `generate` keeps a reference to the cache until it returns.
        getattr(cache, "self_attention_cache", cache).layers.clear()
        return decoder

    def _sample(
        self,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        synced_gpus=False,
        streamer=None,
        **kwargs,
    ):
        """Greedy decoding or sampling: transformers' `_sample`, with `StepDecoder.step` in place of the model."""
        if synced_gpus or not supports_fast_path(self, input_ids, generation_config, kwargs):
            return super()._sample(  # type: ignore[misc]
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, streamer, **kwargs
            )
        outputs = self._prefill(input_ids, generation_config, kwargs)  # type: ignore[misc]  # of `GenerationMixin`
        logits, decoder = outputs.logits[:, -1], None
        max_length, criteria = split_criteria(stopping_criteria)
        pad_finished = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        finished = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        while True:
            scores = logits_processor(input_ids, logits.float())
            if generation_config.do_sample:
                tokens = torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)
            else:
                tokens = largest(scores)
            if pad_finished:
                tokens = torch.where(finished, generation_config._pad_token_tensor, tokens)
            input_ids = torch.cat((input_ids, tokens[:, None]), dim=-1)
            for criterion in criteria:
                finished = finished | criterion(input_ids, None)
            if streamer is not None:
                streamer.put(tokens.cpu())
            if input_ids.shape[1] >= max_length or (criteria and bool(finished.all())):
                break
            if decoder is None:
                decoder = self._step_decoder(cache_of(outputs), generation_config, kwargs)
            logits = decoder.step(tokens)
        if streamer is not None:
            streamer.end()
        return input_ids

    def _beam_search(
        self, input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus=False, **kwargs
    ):
        """Beam search: transformers' `_beam_search`, with `StepDecoder.step` in place of the model."""
        supported = supports_fast_path(self, input_ids, generation_config, kwargs)
        if synced_gpus or generation_config.low_memory or not supported:
            return super()._beam_search(  # type: ignore[misc]  # of `GenerationMixin`
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, **kwargs
            )
        outputs = self._prefill(input_ids, generation_config, kwargs)  # type: ignore[misc]  # of `GenerationMixin`
        logits, decoder = outputs.logits[:, -1], None
        beams = Beams(input_ids, *split_criteria(stopping_criteria), generation_config)
        while True:
            scores = torch.log_softmax(logits.float(), dim=-1)
            rows = beams.advance(logits_processor(beams.running, scores))
            if beams.done:
                return beams.best()
            if decoder is None:
                decoder = self._step_decoder(cache_of(outputs), generation_config, kwargs)
            decoder.reorder(rows)
            logits = decoder.step(beams.running[:, -1])


def largest(scores: torch.Tensor) -> torch.Tensor:
    """The index of the largest score of each row, (B, V) to (B,)."""
    if scores.device.type != "cpu":
        return scores.argmax(dim=-1)
    return torch.from_numpy(scores.numpy().argmax(axis=-1))  # torch takes five times as long on a CPU


def split_criteria(criteria: Any) -> tuple[float, list[Any]]:
    """Split stopping criteria into a maximum length in tokens and the criteria to evaluate after each token: those that
    depend on more than the length, and a maximum length beyond `max_position_embeddings`, which warns."""
    max_length, others = math.inf, []
    for criterion in criteria:
        positions = getattr(criterion, "max_position_embeddings", None)
        if type(criterion) is MaxLengthCriteria and (positions is None or criterion.max_length <= positions):
            max_length = min(max_length, criterion.max_length)
        else:
            others.append(criterion)
    return max_length, others


def supports_fast_path(model: Any, input_ids: torch.Tensor, generation_config: Any, inputs: dict[str, Any]) -> bool:
    """Whether fast decoding supports a request of `generate`, and the model is unmodified.

    Args:
        model: a model with `FastGenerationMixin`.
        input_ids: ids of the prompt, or of the decoder's start (B, T).
        generation_config: the generation config of the request.
        inputs: the model's other keyword arguments.
    """
    config = model.config
    if torch.is_grad_enabled() or torch.is_autocast_enabled(model.device.type) or torch.compiler.is_compiling():
        return False
    if generation_config.return_dict_in_generate or generation_config.is_assistant:
        return False
    if generation_config.compile_config is not None or not inputs.get("use_cache"):
        return False
    if any(value is not None and name not in SUPPORTED_INPUTS for name, value in inputs.items()):
        return False
    cache, mask = inputs.get(CACHE), inputs.get("attention_mask")
    self_attention_cache = getattr(cache, "self_attention_cache", cache)
    if type(self_attention_cache) is not DynamicCache or self_attention_cache.offloading:
        return False
    if getattr(cache, "_is_user_defined", False):
        return False
    num_blocks, embed_ngrams = len(model.decoding_trunk.layers), getattr(model.decoding_trunk, "embed_ngrams", None)
    if len(self_attention_cache.layers) not in (0, num_blocks, num_blocks + (embed_ngrams is not None)):
        return False
    tensors = [x for x in (input_ids, mask, inputs.get("position_ids")) if x is not None]
    if any(x.device != model.device or x.ndim != 2 for x in tensors):
        return False
    if mask is not None and not bool(mask.any(dim=-1).all()):  # attention kernels differ for fully masked rows
        return False
    if config._attn_implementation not in SUPPORTED_ATTENTION or config.position_type not in SUPPORTED_POSITIONS:
        return False
    rotary = [module for module in model.decoding_trunk.modules() if type(module) is RotaryEmbedding]
    if any(module.rope_type not in SUPPORTED_ROPE_TYPES for module in rotary):
        return False
    return is_unmodified(model)


def is_unmodified(model: Any) -> bool:
    """Whether a model consists of the modules that its class builds, with their own methods, without hooks, in
    evaluation mode and in one dtype."""
    trunk, cls = model.decoding_trunk, defining_class(model, "decoding_trunk")
    packages = {one.__module__.rpartition(".")[0] for one in (cls, defining_class(trunk, "forward"))}
    if defining_class(model, "forward") is not cls or len(packages) > 1:
        return False
    if any(name in vars(model) or defining_class(model, name) is not GenerationMixin for name in PREPARATION_METHODS):
        return False
    modules = [module for module in (*trunk.modules(), model.lm_head) if module is not trunk]
    if any(type(module) not in SUPPORTED_MODULES for module in modules):
        return False
    if not all(has_original_modules(block, index) for index, block in enumerate(trunk.layers)):
        return False
    if torch.nn.modules.module._global_forward_hooks or torch.nn.modules.module._global_forward_pre_hooks:
        return False
    one_dtype = len({weight.dtype for weight in model.parameters()}) == 1
    return one_dtype and all(has_no_hooks(module) for module in model.modules())


def defining_class(model: Any, name: str) -> type:
    """The class that defines a method or property of a model."""
    return next(cls for cls in type(model).__mro__ if name in vars(cls))


def has_original_modules(block: Any, index: int) -> bool:
    """Whether a block has the modules that its class builds, and is at its original index."""
    modules = [(getattr(block, name), classes) for name, classes in BLOCK_MODULES.items()]
    original = all(module is None or type(module) in classes for module, classes in modules)
    return original and block.self_attn.layer_idx == index
