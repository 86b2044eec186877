"""When `generate` writes by the lean steps of decoding.py, and the loop around them.

The prompt, the processors of logits, the criteria to stop and the streamers are transformers' own, so that whatever is
asked of `generate` means what it means there. A model that was wrapped or hooked, and a request that the step doesn't
know, take transformers' own way from start to end.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMixin, MaxLengthCriteria
from transformers.utils.output_capturing import capture_outputs

from .attention import ScratchAttention
from .block import TransformerBlock
from .decoding import StepDecoder
from .dropout import Dropout
from .feed_forward import FeedForward, OutputProjection
from .normalization import LayerNorm, RMSNorm
from .positions import RotaryEmbedding, SinusoidalPositions

# What the step knows; a wrapper in the place of one of these (LoRA, a quantised layer) is left to transformers.
LAYERS = (nn.Embedding, nn.Linear, OutputProjection, LayerNorm, RMSNorm, nn.Identity, Dropout)
PARTS = (*LAYERS, nn.ModuleList, TransformerBlock, ScratchAttention, FeedForward, RotaryEmbedding, SinusoidalPositions)
INPUTS = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "encoder_outputs"}
FIXED_ROPE = {"default", "linear", "llama3", "yarn"}  # of which the frequencies don't depend on the length


class FastGenerationMixin(GenerationMixin):
    """`generate`, lean in the plain cases. A class names the stack that writes as `decoding_trunk`."""

    config: Any
    decoding_trunk: Any

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        """Read the prompt; while searching with beams, go on from there in lean steps."""
        outputs = super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)  # type: ignore[misc]
        if generation_config.num_beams > 1 and is_plain(self, generation_config, model_kwargs):
            outputs.past_key_values = self._step_decoder(outputs.past_key_values, generation_config, model_kwargs)
        return outputs

    def _step_decoder(self, cache, generation_config, model_kwargs) -> StepDecoder:
        mask = model_kwargs.get("attention_mask")
        mask = None if mask is None or bool(mask.all()) else mask
        if self.config.is_encoder_decoder:
            rows = max(generation_config.num_beams, generation_config.num_return_sequences)
            return StepDecoder(self, self.decoding_trunk, cache, source_mask=mask, beams=rows)
        return StepDecoder(self, self.decoding_trunk, cache, model_kwargs.get("position_ids"), mask)

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
        """Write token by token, greedily or by chance: transformers' `_sample`, with a lean step for the model."""
        if synced_gpus or not is_plain(self, generation_config, kwargs):
            return super()._sample(  # type: ignore[misc]
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, streamer, **kwargs
            )
        outputs = self._prefill(input_ids, generation_config, kwargs)
        decoder = self._step_decoder(outputs.past_key_values, generation_config, kwargs)
        logits = outputs.logits[:, -1]
        del outputs  # the cache that was copied
        criteria = [criterion for criterion in stopping_criteria if not only_counts(criterion)]
        pads = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        finished = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        while True:
            scores = logits_processor(input_ids, logits.float())
            if generation_config.do_sample:
                tokens = torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)
            else:
                tokens = scores.argmax(dim=-1)
            if pads:
                tokens = torch.where(finished, generation_config._pad_token_tensor, tokens)
            input_ids = torch.cat((input_ids, tokens[:, None]), dim=-1)
            if streamer is not None:
                streamer.put(tokens.cpu())
            for criterion in criteria:
                finished = finished | criterion(input_ids, None)
            if input_ids.shape[1] >= stopping_criteria.max_length or (criteria and bool(finished.all())):
                break
            logits = decoder.step(tokens)
        if streamer is not None:
            streamer.end()
        return input_ids


def only_counts(criterion: Any) -> bool:
    """Whether a criterion asks for no more than the number of tokens. One that would warn of a text longer than the
    model was made for is asked at every token."""
    if type(criterion) is not MaxLengthCriteria:
        return False
    return criterion.max_position_embeddings is None or criterion.max_length <= criterion.max_position_embeddings


def is_plain(model: Any, generation_config: Any, inputs: dict[str, Any]) -> bool:
    """Whether `generate` was asked for something that the lean step knows, of a model that nothing has wrapped."""
    device = model.device.type
    if definer(model, "forward") is not definer(model, "decoding_trunk"):  # a class of someone's own
        return False
    if model.training or torch.is_grad_enabled() or torch.is_autocast_enabled(device) or torch.compiler.is_compiling():
        return False
    asked = generation_config
    if asked.return_dict_in_generate or asked.is_assistant or asked.compile_config is not None:
        return False
    if any(value is not None and name not in INPUTS for name, value in inputs.items()) or not inputs.get("use_cache"):
        return False
    cache, mask = inputs.get("past_key_values"), inputs.get("attention_mask")
    own = getattr(cache, "self_attention_cache", cache)
    if type(own) is not DynamicCache or own.offloading or getattr(cache, "_is_user_defined", False):
        return False
    if mask is not None and mask.ndim != 2:
        return False
    config = model.config
    if config._attn_implementation not in ("eager", "sdpa"):
        return False
    if config.position_type == "rotary" and config.rope_parameters["rope_type"] not in FIXED_ROPE:
        return False
    inside = (*model.decoding_trunk.layers.modules(), model.decoding_trunk.embed_tokens, model.lm_head)
    return all(type(module) in PARTS for module in inside) and all(is_untouched(module) for module in model.modules())


def definer(model: Any, name: str) -> type:
    """The class that a method of the model comes from."""
    return next(cls for cls in type(model).__mro__ if name in vars(cls))


def is_untouched(module: nn.Module) -> bool:
    """Whether a module does what its class says: no hook (but those by which transformers records outputs), no other
    forward in its place, and weights that are plain tensors."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if any(hook.__module__ != capture_outputs.__module__ for hook in hooks) or "forward" in vars(module):
        return False
    return all(type(weight) is nn.Parameter for weight in module._parameters.values() if weight is not None)
