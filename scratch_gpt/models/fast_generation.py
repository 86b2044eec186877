"""When `generate` uses the fast decoding of fast_decoding.py, and the loop around it.

The prompt, logits processors, stopping criteria and streamers are transformers' own, so that every option of `generate`
keeps its meaning. `supports_fast_path` decides: a modified or hooked model, and a request that fast decoding does not
support, take transformers' own path from start to end.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMixin, MaxLengthCriteria
from transformers.utils.output_capturing import capture_outputs

from .attention import ScratchAttention
from .block import TransformerBlock
from .dropout import Dropout
from .fast_decoding import StepDecoder
from .feed_forward import FeedForward, OutputProjection
from .ngram_embedding import NgramEmbedding
from .normalization import LayerNorm, RMSNorm
from .positions import RotaryEmbedding, SinusoidalPositions

# What the step knows; a wrapper in the place of one of these (LoRA, a quantised layer) is left to transformers.
PARTS = (
    *(nn.ModuleList, nn.Embedding, nn.Linear, nn.Identity, OutputProjection, LayerNorm, RMSNorm, Dropout),
    *(TransformerBlock, ScratchAttention, FeedForward, RotaryEmbedding, SinusoidalPositions, NgramEmbedding),
)
SLOTS = {"self_attn": ScratchAttention, "cross_attn": ScratchAttention, "mlp": FeedForward}  # of a block
INPUTS = {"attention_mask", "position_ids", "cache", "use_cache", "logits_to_keep", "encoder_outputs"}
SAME_ATTENTION = ("eager", "sdpa", "blockwise")  # of which the last is for training, and is SDPA otherwise
FIXED_ROPE = {"default", "linear", "llama3", "yarn"}  # of which the frequencies don't depend on the length
PREPARATION = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")


class FastGenerationMixin(GenerationMixin):
    """`generate`, lean in the plain cases. A class names the stack that writes as `decoding_trunk`."""

    # The two calls of `super` ignore types: transformers types `self` as model and mixin in one, which no mixin is.
    config: Any
    decoding_trunk: Any

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        """Read the prompt; while searching with beams, go on from there in lean steps."""
        outputs = super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)  # type: ignore[misc]
        if generation_config.num_beams > 1 and supports_fast_path(self, input_ids, generation_config, model_kwargs):
            outputs.cache = self._step_decoder(outputs.cache, generation_config, model_kwargs)
        return outputs

    def _step_decoder(self, cache, generation_config, model_kwargs) -> StepDecoder:
        mask = model_kwargs.get("attention_mask")
        mask = None if mask is None or bool(mask.all()) else mask
        if self.config.is_encoder_decoder:
            rows = max(generation_config.num_beams, generation_config.num_return_sequences)
            decoder = StepDecoder(self, self.decoding_trunk, cache, source_mask=mask, beams=rows)
        else:
            decoder = StepDecoder(self, self.decoding_trunk, cache, model_kwargs.get("position_ids"), mask)
        getattr(cache, "self_attention_cache", cache).layers.clear()  # copied; `generate` would keep it to the end
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
        """Write token by token, greedily or by chance: transformers' `_sample`, with a lean step for the model."""
        if synced_gpus or not supports_fast_path(self, input_ids, generation_config, kwargs):
            return super()._sample(  # type: ignore[misc]
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, streamer, **kwargs
            )
        outputs = self._prefill(input_ids, generation_config, kwargs)
        logits, decoder = outputs.logits[:, -1], None
        longest, criteria = split_criteria(stopping_criteria)
        pads = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        finished = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        while True:
            scores = logits_processor(input_ids, logits.float())
            if generation_config.do_sample:
                tokens = torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)
            else:
                tokens = scores.max(dim=-1).indices  # argmax, which takes three times as long on a processor
            if pads:
                tokens = torch.where(finished, generation_config._pad_token_tensor, tokens)
            input_ids = torch.cat((input_ids, tokens[:, None]), dim=-1)
            for criterion in criteria:
                finished = finished | criterion(input_ids, None)
            if streamer is not None:
                streamer.put(tokens.cpu())
            if input_ids.shape[1] >= longest or (criteria and bool(finished.all())):
                break
            if decoder is None:
                decoder = self._step_decoder(outputs.cache, generation_config, kwargs)
            logits = decoder.step(tokens)
        if streamer is not None:
            streamer.end()
        return input_ids


def split_criteria(criteria: Any) -> tuple[float, list[Any]]:
    """The most tokens, and the criteria that must be asked at each of them: those that look at more than their number,
    and one that would warn of a text longer than the model was made for."""
    longest, others = math.inf, []
    for criterion in criteria:
        most = getattr(criterion, "max_position_embeddings", None)
        if type(criterion) is MaxLengthCriteria and (most is None or criterion.max_length <= most):
            longest = min(longest, criterion.max_length)
        else:
            others.append(criterion)
    return longest, others


def supports_fast_path(model: Any, input_ids: torch.Tensor, generation_config: Any, inputs: dict[str, Any]) -> bool:
    """Whether `generate` was asked for something that the lean step knows, of a model as it was written."""
    asked, config = generation_config, model.config
    if torch.is_grad_enabled() or torch.is_autocast_enabled(model.device.type) or torch.compiler.is_compiling():
        return False
    if asked.return_dict_in_generate or asked.is_assistant or asked.compile_config is not None:
        return False
    if any(value is not None and name not in INPUTS for name, value in inputs.items()) or not inputs.get("use_cache"):
        return False
    cache, mask = inputs.get("cache"), inputs.get("attention_mask")
    own = getattr(cache, "self_attention_cache", cache)
    if type(own) is not DynamicCache or own.offloading or getattr(cache, "_is_user_defined", False):
        return False
    blocks = len(model.decoding_trunk.layers)
    if len(own.layers) not in (0, blocks, blocks + (getattr(model.decoding_trunk, "embed_ngrams", None) is not None)):
        return False
    given = [x for x in (input_ids, mask, inputs.get("position_ids")) if x is not None]
    if any(x.device != model.device or x.ndim != 2 for x in given):
        return False
    if mask is not None and not bool(mask.any(dim=-1).all()):  # nothing to see: the kernels differ
        return False
    if config._attn_implementation not in SAME_ATTENTION:
        return False
    if config.position_type == "rotary" and config.rope_parameters["rope_type"] not in FIXED_ROPE:
        return False
    return is_unmodified(model)


def is_unmodified(model: Any) -> bool:
    """Whether a model consists of what its file says, and nothing changes what its parts do."""
    trunk, cls = model.decoding_trunk, definer(model, "decoding_trunk")
    if definer(model, "forward") is not cls or definer(trunk, "forward").__module__ != cls.__module__:
        return False
    if any(name in vars(model) or definer(model, name) is not GenerationMixin for name in PREPARATION):
        return False
    parts = [module for module in (*trunk.modules(), model.lm_head) if module is not trunk]
    if any(type(module) not in PARTS for module in parts):
        return False
    if not all(has_original_parts(block, index) for index, block in enumerate(trunk.layers)):
        return False
    if torch.nn.modules.module._global_forward_hooks or torch.nn.modules.module._global_forward_pre_hooks:
        return False
    one_dtype = len({weight.dtype for weight in model.parameters()}) == 1
    return one_dtype and all(has_no_hooks(module) for module in model.modules())


def definer(model: Any, name: str) -> type:
    """The class that a method of the model comes from."""
    return next(cls for cls in type(model).__mro__ if name in vars(cls))


def has_original_parts(block: Any, index: int) -> bool:
    """Whether a block has the parts that its class gives it, at its own index."""
    parts = [(getattr(block, slot), kind) for slot, kind in SLOTS.items()]
    return block.self_attn.layer_idx == index and all(part is None or type(part) is kind for part, kind in parts)


def has_no_hooks(module: nn.Module) -> bool:
    """Whether a module does what its class says, and is not training: no hook (but those by which transformers records
    outputs), no other forward in its place, and weights that are plain tensors."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if any(hook.__module__ != capture_outputs.__module__ for hook in hooks) or "forward" in vars(module):
        return False
    if module.training:
        return False
    return all(type(weight) is nn.Parameter for weight in module._parameters.values() if weight is not None)
