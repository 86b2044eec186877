"""The graphs of an ONNX export: modules that take and return tensors only, with the names of Hugging Face Optimum.

- decoder-only: `model`, from `input_ids`, `attention_mask` and `past_key_values.N.{key,value}` to `logits` and
  `present.N.{key,value}`. In the first step, the cache has length 0.
- bigram and n-gram embeddings, masked LM, classifier: `model`, from `input_ids` and `attention_mask` to `logits`.
- encoder-decoder:
    - `encoder_model`, from `input_ids` and `attention_mask` to `last_hidden_state`;
    - `decoder_model`, from `input_ids`, `encoder_attention_mask` and `encoder_hidden_states` to `logits` and
      `present.N.{decoder,encoder}.{key,value}`, for the first step;
    - `decoder_with_past_model`, from `input_ids`, `encoder_attention_mask` and
      `past_key_values.N.{decoder,encoder}.{key,value}` to `logits` and `present.N.decoder.{key,value}`.

Dimension letters: B batch, P cached tokens, S source tokens, T tokens, G key-value heads, D head size, C hidden size,
V vocabulary.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from ...models.compatibility import cache_argument, cache_of

BATCH, LENGTH, PAST, TOTAL, SOURCE = (
    *("batch_size", "sequence_length", "past_sequence_length"),
    *("past_sequence_length + sequence_length", "encoder_sequence_length"),
)
# Sizes of the example that a graph is traced with: different from each other and from 1, so that none is a constant.
EXAMPLE = {BATCH: 2, LENGTH: 5, PAST: 3, TOTAL: 8, SOURCE: 7}


class LogitsGraph(nn.Module):
    """Logits of a model without a cache: (B, T, V), or (B, labels) of a classifier."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask, each (B, T), to logits."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **self.options).logits


class CausalGraph(nn.Module):
    """One step of a decoder-only model with a cache. Positions are counted from the mask, as `generate` does."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Compute the logits of new tokens.

        Args:
            input_ids: token ids (B, T).
            attention_mask: 1 for tokens and 0 for padding (B, P + T).
            past: keys and values of each layer in turn, each (B, G, P, D).

        Returns:
            Logits (B, T, V), and keys and values of each layer, each (B, G, P + T, D).
        """
        position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=True,
            return_dict=True,
            **({"position_ids": position_ids} if self.takes_positions else {}),
            **cache_argument(build_cache(past, self.model.config)),
        )
        return (outputs.logits, *flatten_cache(cache_of(outputs)))


class EncoderGraph(nn.Module):
    """The encoder of an encoder-decoder."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Source ids and mask, each (B, S), to hidden states (B, S, C)."""
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state


class FirstDecoderGraph(nn.Module):
    """The first step of the decoder, which also computes the keys and values of the source."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, encoder_attention_mask: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Target ids (B, T), mask of the source (B, S) and its hidden states (B, S, C) to logits (B, T, V), and for
        each layer keys and values of the target, each (B, G, T, D), and of the source, each (B, G, S, D)."""
        logits, cache = decode(self.model, input_ids, encoder_attention_mask, encoder_hidden_states, None)
        own, cross = flatten_cache(cache.self_attention_cache), flatten_cache(cache.cross_attention_cache)
        layers = [[*own[i : i + 2], *cross[i : i + 2]] for i in range(0, len(own), 2)]
        return (logits, *itertools.chain.from_iterable(layers))


class NextDecoderGraph(nn.Module):
    """A later step of the decoder."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, encoder_attention_mask: torch.Tensor, past: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Target ids (B, T), mask of the source (B, S), and for each layer keys and values of the target, each
        (B, G, P, D), and of the source, each (B, G, S, D), to logits (B, T, V), and keys and values of the target for
        each layer, each (B, G, P + T, D)."""
        own = [tensor for i, tensor in enumerate(past) if i % 4 < 2]
        cross = [tensor for i, tensor in enumerate(past) if i % 4 >= 2]
        caches = build_cache(own, self.model.config), build_cache(cross, self.model.config)
        # Only their shape is used: the keys and values of the source are in the cache.
        states = past[0].new_zeros(*encoder_attention_mask.shape, self.model.config.hidden_size)
        logits, cache = decode(self.model, input_ids, encoder_attention_mask, states, EncoderDecoderCache(*caches))
        return (logits, *flatten_cache(cache.self_attention_cache))


def decode(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    source_mask: torch.Tensor,
    source_states: torch.Tensor,
    cache: EncoderDecoderCache | None,
) -> tuple[torch.Tensor, EncoderDecoderCache]:
    """Run the decoder of an encoder-decoder.

    Args:
        model: the encoder-decoder.
        input_ids: target ids (B, T).
        source_mask: 1 for source tokens and 0 for padding (B, S).
        source_states: hidden states of the source (B, S, C).
        cache: keys and values of earlier target tokens and of the source.

    Returns:
        Logits (B, T, V) and the cache.
    """
    outputs = model(
        decoder_input_ids=input_ids,
        attention_mask=source_mask,
        encoder_outputs=BaseModelOutput(last_hidden_state=source_states),
        use_cache=True,
        return_dict=True,
        **cache_argument(cache),
    )
    return outputs.logits, cache_of(outputs)


def build_cache(tensors: Sequence[torch.Tensor], config: Any) -> DynamicCache:
    """Keys and values of each layer in turn to a cache."""
    return DynamicCache(list(zip(tensors[::2], tensors[1::2], strict=True)), config=config)


def flatten_cache(cache: Any) -> list[torch.Tensor]:
    """Keys and values of each layer of a cache in turn."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


@dataclass
class Graph:
    """A module to export, with an example of its inputs.

    Attributes:
        name: file name without extension.
        module: takes tensors, and as its last argument a list of tensors if there is a cache.
        inputs: each plain input with the names of its dimensions.
        outputs: names of the outputs.
        past: inputs of the cache, likewise.
        past_tensors: their values in the example.
        vocab_size: number of token ids in the example.
        hidden_size: size of hidden states.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, tuple[str, ...]]
    outputs: list[str]
    vocab_size: int
    hidden_size: int = 0
    past: Mapping[str, str] = field(default_factory=dict)
    past_tensors: list[torch.Tensor] = field(default_factory=list)

    def example(self) -> tuple[Any, ...]:
        """Arguments to trace the module with."""
        arguments: list[Any] = []
        for name, dimensions in self.inputs.items():
            sizes = [EXAMPLE[dimension] for dimension in dimensions]
            if name == "input_ids":
                arguments.append(torch.arange(sizes[0] * sizes[1]).reshape(sizes) % self.vocab_size)
            elif name == "encoder_hidden_states":
                arguments.append(torch.zeros(*sizes, self.hidden_size))
            else:
                arguments.append(torch.ones(sizes, dtype=torch.long))
        return (*arguments, self.past_tensors) if self.past else tuple(arguments)

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """For each argument, the names of its dynamic dimensions."""
        shapes: list[Any] = [dict(enumerate(dimensions)) for dimensions in self.inputs.values()]
        return (*shapes, [{0: BATCH, 2: length} for length in self.past.values()]) if self.past else tuple(shapes)


def build_graphs(model: PreTrainedModel, kind: str, has_cache: bool) -> list[Graph]:
    """Return the graphs of a model.

    Args:
        model: the model.
        kind: "causal", "seq2seq", "masked" or "classifier".
        has_cache: whether a decoder-only model is exported with a cache.
    """
    if kind == "seq2seq":
        return _seq2seq_graphs(model)
    vocab_size = model.config.get_text_config().vocab_size
    inputs = {"input_ids": (BATCH, LENGTH), "attention_mask": (BATCH, LENGTH)}
    if kind != "causal" or not has_cache:
        return [Graph("model", LogitsGraph(model), inputs, ["logits"], vocab_size)]
    ids = torch.zeros(EXAMPLE[BATCH], EXAMPLE[PAST], dtype=torch.long)
    outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, return_dict=True)
    past = flatten_cache(cache_of(outputs))
    names = [f"{i}.{part}" for i in range(len(past) // 2) for part in ("key", "value")]
    inputs["attention_mask"] = (BATCH, TOTAL)
    present = [f"present.{name}" for name in names]
    past_inputs = {f"past_key_values.{name}": PAST for name in names}
    graph = CausalGraph(model)
    return [Graph("model", graph, inputs, ["logits", *present], vocab_size, past=past_inputs, past_tensors=past)]


def _seq2seq_graphs(model: PreTrainedModel) -> list[Graph]:
    config = model.config
    target_size = getattr(config, "decoder_vocab_size", None) or config.vocab_size
    source = {"input_ids": (BATCH, SOURCE), "attention_mask": (BATCH, SOURCE)}
    target = {"input_ids": (BATCH, LENGTH), "encoder_attention_mask": (BATCH, SOURCE)}
    ids = torch.zeros(EXAMPLE[BATCH], EXAMPLE[PAST], dtype=torch.long)
    states = torch.zeros(EXAMPLE[BATCH], EXAMPLE[SOURCE], config.hidden_size)
    first = FirstDecoderGraph(model)
    past = list(first(ids, torch.ones(states.shape[:2], dtype=torch.long), states)[1:])
    layers = range(len(past) // 4)
    sides = {"decoder": PAST, "encoder": SOURCE}
    lengths = {f"{i}.{side}.{part}": sides[side] for i in layers for side in sides for part in ("key", "value")}
    with_states = {**target, "encoder_hidden_states": (BATCH, SOURCE)}
    present = [f"present.{name}" for name in lengths]
    own = [name for name in present if ".decoder." in name]
    past_inputs = {f"past_key_values.{name}": length for name, length in lengths.items()}
    return [
        Graph("encoder_model", EncoderGraph(model), source, ["last_hidden_state"], config.vocab_size),
        Graph("decoder_model", first, with_states, ["logits", *present], target_size, config.hidden_size),
        Graph(
            "decoder_with_past_model",
            NextDecoderGraph(model),
            target,
            ["logits", *own],
            target_size,
            past=past_inputs,
            past_tensors=past,
        ),
    ]
