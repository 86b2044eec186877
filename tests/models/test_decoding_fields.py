"""Fast decoding of every field of the block, alone and as popular families combine them: the logits of each step equal
those of the full forward pass, and the tokens those of transformers' own loop."""

import copy

import pytest
import torch
from helpers.decoding import CAPACITY, OPTIONS, generate_fast_and_slow, padded, record_steps
from helpers.models import lift_norms, tiny_model
from torch import nn
from transformers import DynamicCache

from scratch_gpt.models import fast_decoding

WINDOW = 5
SLIDING, FULL = "sliding_attention", "full_attention"
MIXED = {"sliding_window": WINDOW, "layer_types": [SLIDING, FULL]}
ROPES = {
    FULL: {"rope_type": "linear", "rope_theta": 50.0, "factor": 4.0},
    SLIDING: {"rope_type": "default", "rope_theta": 20.0},
}
PARTIAL = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
RELATIVE = {"position_type": "relative", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 9}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 16}

FIELDS = {
    "branch": ("llama", {"norm_position": "branch"}),
    "sandwich": ("llama", {"norm_position": "sandwich"}),
    "parallel": ("gpt2", {"parallel_residual": True}),
    "shared norm": ("gpt2", {"parallel_residual": True, "parallel_shared_norm": True}),
    "no first norm": ("llama", {"first_attention_norm": False, "embedding_norm": True}),
    "no first norm, sandwich": ("gpt2", {"first_attention_norm": False, "norm_position": "sandwich"}),
    "no first norm, parallel": ("gpt2", {"first_attention_norm": False, "parallel_residual": True}),
    "whole projection normalized": ("llama", {"qk_norm": True, "qk_norm_per_head": False}),
    "only output bias": ("llama", {"attention_output_bias": True}),
    "no output bias": ("gpt2", {"attention_output_bias": False}),
    "partial rotary": ("llama", {"rope_parameters": PARTIAL}),
    "no rotary in a layer": ("llama", {"no_rope_layers": [1, 0]}),
    "no rotary in any layer": ("llama", {"no_rope_layers": [0, 0]}),
    "rotary by layer type": ("llama", {**MIXED, "rope_parameters": ROPES}),
    "rotary of one type": ("llama", {"rope_parameters": {FULL: ROPES[FULL]}}),
    "window": ("llama", {"sliding_window": WINDOW}),
    "window of two": ("llama", {"sliding_window": 2}),
    "large window": ("llama", {"sliding_window": 20}),
    "some windows": ("llama", MIXED),
    "window, learned positions": ("gpt2", MIXED),
    "window, n-grams": ("nanochat_ngram", MIXED),
    "soft-cap": ("llama", {"attn_logit_softcapping": 0.7}),
    "relative": ("gpt2", RELATIVE),
    "relative, some windows": ("llama", {**RELATIVE, **MIXED}),
    "relative, soft-cap": ("llama", {**RELATIVE, "attn_logit_softcapping": 0.7}),
    "experts": ("llama", EXPERTS),
    "unscaled experts": ("llama", {**EXPERTS, "norm_topk_prob": False, "num_experts_per_tok": 3}),
    "head bias": ("gpt2", {"lm_head_bias": True, "tie_word_embeddings": False}),
    "norm without bias": ("gpt2", {"norm_type": "layer_norm_without_bias"}),
}
FAMILIES = {
    "gemma2": (
        "llama",
        {**MIXED, "norm_position": "sandwich", "attn_logit_softcapping": 0.9, "final_logit_softcapping": 3.0},
    ),
    "gemma3": ("llama", {**MIXED, "rope_parameters": ROPES, "norm_position": "sandwich", "qk_norm": True}),
    "olmo2": ("llama", {"norm_position": "branch", "qk_norm": True, "qk_norm_per_head": False}),
    "gpt_neox": ("gpt2", {"position_type": "rotary", "rope_parameters": PARTIAL, "parallel_residual": True}),
    "phi": (
        "gpt2",
        {"position_type": "rotary", "rope_parameters": PARTIAL, "parallel_residual": True, "lm_head_bias": True}
        | {"parallel_shared_norm": True, "tie_word_embeddings": False},
    ),
    "smollm3": ("llama", {**MIXED, "no_rope_layers": [1, 0]}),
    "mixtral": ("llama", {**EXPERTS, "sliding_window": WINDOW}),
    "mistral": ("llama", {"sliding_window": WINDOW}),
}
STYLES = {**FIELDS, **FAMILIES}


def build(style: str) -> nn.Module:
    """A tiny model of a style with grouped queries, and with large scores so that the masks and caps matter."""
    preset, fields = STYLES[style]
    model = lift_norms(tiny_model(preset, num_key_value_heads=2, **fields))
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.q_proj.weight.mul_(2)
    return model


@pytest.fixture
def steps(monkeypatch):
    """A list with one entry for each fast decoding step."""
    return record_steps(monkeypatch)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW, 12])
@torch.no_grad()
def test_logits_of_each_step_equal_those_of_the_full_forward_pass(style, rows, length, steps):
    torch.manual_seed(0)
    model, (ids, mask) = build(style), padded(rows, length)
    cache = DynamicCache(config=model.config)
    model(ids, attention_mask=mask, cache=cache)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    decoder = fast_decoding.StepDecoder(model, model.model, cache, positions, mask if rows > 1 else None)
    tokens = torch.randint(3, 99, (rows, 25))
    text, seen = torch.cat((ids, tokens), 1), torch.cat((mask, torch.ones_like(tokens)), 1)
    # In float64: in float32, the full forward pass has a rounding error of its own of about 1e-5 of logits of size 4.
    expected = copy.deepcopy(model).double()(text, attention_mask=seen).logits[:, length:].float()
    size = expected.abs().max().item()
    for i in range(25):
        torch.testing.assert_close(decoder.step(tokens[:, i]), expected[:, i], atol=1e-5 * size, rtol=0)
    for buffer in decoder.buffers:
        limit = 4 * (length + CAPACITY) if buffer.window is None else buffer.window - 1 + CAPACITY
        assert buffer.capacity <= limit


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("options", ["greedy", "sampling", "beams"])
def test_generates_the_same_tokens(style, options, steps, monkeypatch):
    torch.manual_seed(1)
    model = build(style).double()
    ids, mask = padded(3, 7)
    short = {"input_ids": ids[:, :4].clamp(min=3)}  # shorter than the window, without padding
    for given in ({"input_ids": ids, "attention_mask": mask}, short):
        steps.clear()
        settings = {"max_new_tokens": 25, "eos_token_id": 2, **OPTIONS[options]}
        fast, slow = generate_fast_and_slow(model, monkeypatch, steps, **given, **settings)
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("style", FAMILIES)
def test_bfloat16_is_as_close_to_float32_as_the_model(style, steps):
    """Soft-capped scores, too: the softmax is computed in float32."""
    torch.manual_seed(2)
    model, half, (ids, mask) = build(style), build(style).bfloat16(), padded(3, 12)
    with torch.no_grad():
        cache, before = DynamicCache(config=half.config), mask[:, :-1]
        half(ids[:, :-1], attention_mask=before, cache=cache)
        positions = (before.cumsum(-1) - 1).clamp(min=0)
        fast = fast_decoding.StepDecoder(half, half.model, cache, positions, before).step(ids[:, -1])
        exact, own = model(ids, attention_mask=mask).logits[:, -1], half(ids, attention_mask=mask).logits[:, -1]
    assert fast.dtype == torch.bfloat16
    assert (fast - exact).abs().max() < 2 * (own - exact).abs().max()
