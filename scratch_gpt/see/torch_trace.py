"""What the engine of a page computes, computed by torch: recorded passes as of web/engine, from our modules with hooks.

`ServedModel.forward` returns a trace with the names of web/engine/gpt.js and block.js; its tensors have a batch
dimension of 1, or none.

Dimension letters: T tokens, S key tokens, H query heads, G key-value heads, D head size, C hidden size, V vocabulary,
K labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from ..errors import ScratchError
from ..models.compatibility import cache_argument
from ..models.positions import apply_rotary
from .support import kind_of_page
from .torch_caches import KeptCaches
from .torch_edits import Edits, edited

Trace = dict[str, Any]
# The norms of a block by their modules' names, and the edit that leaves each out.
NORMS = {
    "input_layernorm": None,
    "attn_output_layernorm": "attentions",
    "cross_attn_layernorm": None,
    "post_attention_layernorm": None,
    "mlp_output_layernorm": "mlps",
}


@dataclass(frozen=True)
class Pass:
    """A forward pass that a page asks for.

    Attributes:
        ids: all tokens so far; of an encoder-decoder those of the target.
        source_ids: those of the source of an encoder-decoder.
        start: number of the first tokens whose results the page has: only those of the others are returned.
        cached: whether to keep keys and values for a pass with more tokens.
        edits: parts that are switched off.
        record: whether to return what each block computed.
        last_logits: whether to return the logits of the last token only.
    """

    ids: tuple[int, ...]
    source_ids: tuple[int, ...] = ()
    start: int = 0
    cached: bool = False
    edits: Edits = field(default_factory=Edits)
    record: bool = False
    last_logits: bool = False


class ServedModel:
    """A model that answers the passes of a page.

    Args:
        model: one of our models, in evaluation mode; its attention becomes the eager one, which returns its weights.
    """

    def __init__(self, model: PreTrainedModel):
        self.model: Any = model
        self.kind = kind_of_page(model)
        self.config: Any = model.config
        self.caches = KeptCaches()
        if self.kind != "bigram":
            model.set_attn_implementation("eager")

    @property
    def trunk(self) -> Any:
        """The stack that the head reads; of an encoder-decoder the decoder."""
        if self.kind == "encoder":
            return self.model
        return self.model.model.decoder if self.kind == "seq2seq" else self.model.model

    @torch.no_grad()
    def forward(self, wanted: Pass) -> Trace:
        """Compute a pass.

        Raises:
            ScratchError: there is no token, one that does not exist, or more than the model has positions.
        """
        ids, start = wanted.ids, wanted.start
        if not 0 <= start < len(ids):
            raise ScratchError("there is no token: give at least one")
        target_size = getattr(self.config, "decoder_vocab_size", None) or self.config.vocab_size
        self._check(ids, target_size)
        if self.kind == "bigram":
            kept = ids[-1:] if wanted.last_logits else ids[start:]
            none = torch.zeros(0)
            trace: Trace = {
                "start": start,
                "length": len(ids) - start,
                "embeddings": none,
                "layers": [],
                "hidden": none,
            }
            return trace | {"logits": self.model.table(self._tensor(kept)), **_nothing("scores", "pooled", "encoder")}
        if self.kind == "seq2seq":
            self._check(wanted.source_ids, self.config.vocab_size)
            trace = self._forward_seq2seq(wanted)
        else:
            trace = self._forward_stack(wanted)
        hidden = trace["hidden"]
        if self.kind == "classifier":
            trace["scores"] = self.head(trace["pooled"])
        elif self.kind != "encoder":
            trace["logits"] = self.head(hidden[:, -1:] if wanted.last_logits else hidden)
        return trace

    @torch.no_grad()
    def norm(self, states: torch.Tensor) -> torch.Tensor:
        """The last norm of states (T, C) to (T, C)."""
        return self.trunk.norm(self._on_device(states))

    @torch.no_grad()
    def head(self, states: torch.Tensor) -> torch.Tensor:
        """The head: states after the last norm (…, C) to logits (…, V), or pooled ones to scores (…, K)."""
        model, states = self.model, self._on_device(states)
        if self.kind == "classifier" and hasattr(model, "score"):
            return model.score(states)
        if self.kind == "classifier":
            return model.classifier(states if model.model.pooler is None else model.model.pooler(states))
        if self.kind == "masked":
            return model.lm_head(model.transform(states))
        logits = model.lm_head(states)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _forward_stack(self, wanted: Pass) -> Trace:
        """A pass without logits of a model with one stack."""
        edits, ids = wanted.edits, self._tensor(wanted.ids)
        if self.kind == "causal" or hasattr(self.model, "score"):
            trace = self._run_causal(wanted, ids)
            if self.kind == "classifier":
                last = self.model._last_tokens(trace["hidden"], ids[:, wanted.start :], None)  # (1,)
                trace["pooled"] = trace["hidden"][0, last]
            return trace
        trunk = self.trunk
        mask = _without(len(wanted.ids), edits.hidden_tokens, ids.device)
        if trunk.embed_ngrams or trunk.token_weights is not None:  # for which hidden tokens are padding
            ids = ids.masked_fill(mask == 0, self.config.pad_token_id or 0)
        trace = _run(trunk, edits, wanted.record, 0, lambda: trunk(input_ids=ids))
        trace["pooled"] = trunk.pool(trace["hidden"], mask)
        return trace

    def _run_causal(self, wanted: Pass, ids: torch.Tensor, source: Trace | None = None) -> Trace:
        """A pass without logits of a causal stack, with a cache if it is asked for.

        Args:
            wanted: the pass.
            ids: its tokens (1, T).
            source: trace of the encoder of an encoder-decoder, or None.
        """
        trunk, edits, cache, seen = self.trunk, wanted.edits, None, 0
        key = wanted.source_ids, edits
        inputs: dict[str, Any] = {}
        if source is not None:
            inputs["encoder_hidden_states"] = source["hidden"]
        if wanted.cached and not wanted.record:
            cache, seen = self.caches.take(key, wanted.ids, wanted.start)
            if cache is None:
                own = DynamicCache()  # keeps all tokens, also outside of a window: a page may go back
                cache = own if source is None else EncoderDecoderCache(own, DynamicCache())
            inputs |= cache_argument(cache)
        hidden_source = edits.of_encoder.hidden_tokens if source is not None else frozenset()
        if source is not None and hidden_source.issuperset(range(len(wanted.source_ids))):  # nothing to attend to
            heads = itertools.product(range(len(trunk.layers)), range(self.config.num_attention_heads))
            edits = replace(edits, cross_heads=frozenset(f"{layer}.{head}" for layer, head in heads))
        trace = _run(
            trunk,
            edits,
            wanted.record,
            wanted.start - seen,
            lambda: trunk(input_ids=ids[:, seen:], use_cache=cache is not None, **inputs),
            seen,
            hidden_source,
        )
        if cache is not None:
            self.caches.keep(key, wanted.ids, cache)
        return trace | {"start": wanted.start}

    def _forward_seq2seq(self, wanted: Pass) -> Trace:
        """A pass without logits of an encoder-decoder. The encoder is not run again for the same source."""
        edits, encoder = wanted.edits.of_encoder, self.model.model.encoder
        source = self.caches.source(wanted.source_ids, edits, wanted.record)
        if source is None:
            ids = self._tensor(wanted.source_ids)
            source = _run(encoder, edits, wanted.record, 0, lambda: encoder(input_ids=ids))
            self.caches.keep_source(wanted.source_ids, edits, wanted.record, source)
        trace = self._run_causal(wanted, self._tensor(wanted.ids), source)
        return trace | {"encoder": source if wanted.start == 0 else None}  # later the page has it

    def _check(self, ids: Sequence[int], size: int) -> None:
        """Check ids of the text or the source; torch on an accelerator would not recover from a wrong one."""
        if not ids:
            raise ScratchError("there is no token: give at least one")
        if wrong := [each for each in ids if not 0 <= each < size]:
            raise ScratchError(f"there is no token {wrong[0]}: want an integer from 0 to {size - 1}")

    def _tensor(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], device=self.model.device)

    def _on_device(self, states: torch.Tensor) -> torch.Tensor:
        return states.to(self.model.device, self.model.dtype)


def _nothing(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def _without(length: int, hidden: frozenset[int], device: torch.device) -> torch.Tensor:
    """A mask of a text (1, T): 0 for the hidden tokens."""
    mask = torch.ones(1, length, dtype=torch.long, device=device)
    mask[0, [position for position in hidden if 0 <= position < length]] = 0
    return mask


def _run(
    stack: Any,
    edits: Edits,
    record: bool,
    skipped: int,
    call: Any,
    start: int = 0,
    hidden_source: frozenset[int] = frozenset(),
) -> Trace:
    """Run a stack and record it.

    Args:
        stack: with `layers` and `norm`.
        edits: what is off.
        record: whether to keep what each block computed.
        skipped: number of tokens at the beginning whose results are left out.
        call: what runs the stack.
        start: position of the first token.
        hidden_source: positions of the source that cross-attention does not attend to.

    Returns:
        The trace, without logits.
    """
    with edited(stack.layers, edits, start, hidden_source), recorded(stack, edits, record, skipped) as trace:
        hidden = call().last_hidden_state[:, skipped:]  # (1, T, C)
    trace |= {"start": 0, "length": hidden.shape[1], "hidden": hidden}
    return trace | _nothing("logits", "scores", "pooled", "encoder")


@contextmanager
def recorded(stack: Any, edits: Edits, record: bool, skipped: int) -> Iterator[Trace]:
    """Inside the block, what a stack computes is put into the yielded dict: `embeddings` (1, T, C) and `layers`.

    Args:
        stack: with `layers` and `norm`.
        edits: what is off: a norm of a branch that is off is not recorded.
        record: whether to keep what each block computed.
        skipped: number of tokens at the beginning whose results are left out.
    """
    trace: Trace = {"layers": []}
    handles: list[Any] = []

    def before(module: nn.Module, inputs: Any) -> None:
        trace["embeddings"] = inputs[0][:, skipped:]

    first = stack.layers[0] if len(stack.layers) else stack.norm
    handles.append(first.register_forward_pre_hook(before))
    for index, layer in enumerate(stack.layers if record else ()):
        found: Trace = {"norms": {}, "experts": None}
        found |= _nothing("crossAttention", "crossAttentionDetail", "crossAttentionOutput")
        trace["layers"].append(found)
        off = {name for name, edit in NORMS.items() if edit and index in getattr(edits, edit)}
        handles += record_block(layer, found, off, skipped)
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def record_block(layer: Any, found: Trace, off: set[str], skipped: int) -> list[Any]:
    """Record what a block computes; returns the handles of the hooks.

    Args:
        layer: the block.
        found: where it is put, a `LayerTrace` of web/engine/block.js.
        off: names of norms whose branch is off.
        skipped: number of tokens at the beginning that are left out.
    """

    def kept(states: torch.Tensor) -> torch.Tensor:
        return states[:, skipped:] if skipped else states  # the same object, which is sent once

    def output_as(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = kept(output[0] if isinstance(output, tuple) else output)

        return hook

    def norm_as(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            found["norms"][name] = {"input": kept(inputs[0]), "output": kept(output)}

        return hook

    def attention_as(name: str) -> Any:
        def hook(module: Any, inputs: Any, kwargs: dict[str, Any], output: Any) -> None:
            detail = attention_detail(module, inputs[0], kwargs, output[1], skipped)
            found[name], found[f"{name}Detail"] = detail["weights"], detail

        return hook

    def experts(module: Any, inputs: Any, output: Any) -> None:
        logits, weights, chosen = (each[skipped:] for each in output)
        probabilities = logits.softmax(-1, dtype=torch.float32)  # (T, E)
        found["experts"] = {"probabilities": probabilities, "weights": weights, "chosen": chosen.int()}

    def entered(module: nn.Module, inputs: Any) -> None:
        found["input"] = kept(inputs[0])

    def feed_forward_entered(module: nn.Module, inputs: Any) -> None:
        found["mlpInput"] = kept(inputs[0])

    handles = [layer.register_forward_pre_hook(entered), layer.register_forward_hook(output_as("output"))]
    handles.append(layer.self_attn.register_forward_hook(attention_as("attention"), with_kwargs=True))
    handles.append((layer.attn_output_layernorm or layer.self_attn).register_forward_hook(output_as("attentionOutput")))
    if layer.cross_attn is not None:
        handles.append(layer.cross_attn.register_forward_hook(attention_as("crossAttention"), with_kwargs=True))
        handles.append(layer.cross_attn.register_forward_hook(output_as("crossAttentionOutput")))
    handles.append(layer.mlp.register_forward_pre_hook(feed_forward_entered))
    handles.append((layer.mlp_output_layernorm or layer.mlp).register_forward_hook(output_as("mlpOutput")))
    if hasattr(layer.mlp, "gate"):
        handles.append(layer.mlp.gate.register_forward_hook(experts))
    norms = ((name, getattr(layer, name)) for name in NORMS if name not in off)
    handles += [norm.register_forward_hook(norm_as(name)) for name, norm in norms if norm is not None]
    return handles


def attention_detail(
    attention: Any, states: torch.Tensor, inputs: dict[str, Any], weights: torch.Tensor, skipped: int
) -> Trace:
    """What a recorded pass keeps of attention, an `AttentionRecord` of web/engine/attention.js. Queries, keys and
    scores are computed again as in scratch_gpt/models/attention.py, which does not return them.

    Args:
        attention: the module.
        states: its input (1, T, C).
        inputs: its keyword arguments, without a cache.
        weights: the attention weights that it returned (1, H, T, S).
        skipped: number of queries at the beginning that are left out.
    """
    source, rotation, mask = (
        inputs.get(name) for name in ("key_value_states", "position_embeddings", "attention_mask")
    )
    queries = attention._split_heads(attention.q_proj(states), attention.q_norm)  # (1, H, T, D)
    if rotation is not None:
        queries = apply_rotary(queries, *rotation)
    if source is None:
        keys, values = attention._keys_and_values(states, rotation)  # (1, G, S, D)
    else:
        keys, values = attention._keys_and_values(source, inputs.get("key_position_embeddings"))
    repeated = keys.repeat_interleave(attention.num_key_value_groups, dim=1)  # (1, H, S, D)
    scores = queries @ repeated.transpose(-1, -2) * attention.scaling  # (1, H, T, S)
    cap = attention.attention_options.get("softcap")
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if mask is not None:  # the smallest number instead of minus infinity, see `relative_positions.py`
        scores = (scores + mask).masked_fill(mask <= torch.finfo(mask.dtype).min / 2, -torch.inf)
        weights = weights.masked_fill(scores == -torch.inf, 0)  # a row without any key
    return {
        "weights": weights[:, :, skipped:],
        "scores": scores[:, :, skipped:],
        "queries": queries.transpose(1, 2)[:, skipped:],  # (1, T, H, D)
        "keys": keys.transpose(1, 2),  # (1, S, G, D)
        "values": values.transpose(1, 2),
        "firstKey": 0,
    }
