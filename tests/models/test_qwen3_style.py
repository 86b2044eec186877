"""Qwen3 built from config fields alone: the walk-through "Add an architecture" of CONTRIBUTING.md, checked."""

import re

import pytest
import torch
from helpers.models import lift_norms, randomise
from helpers.processes import PROJECT
from transformers import Qwen3Config, Qwen3ForCausalLM

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from scratch_gpt.models.configuration_scratch_gpt import PRESETS

WALK_THROUGH = re.findall(r"```python\n(.*?)```", (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)[:2]
SHAPE = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False,
}
SHAPES = {
    "one key-value head per query head": {"num_key_value_heads": 4, "head_dim": 8},
    "grouped heads wider than hidden_size / heads": {"num_key_value_heads": 2, "head_dim": 12},
}


def qwen3(**fields) -> Qwen3ForCausalLM:
    """The model of transformers, with random weights, those of the norms around 1."""
    return lift_norms(randomise(Qwen3ForCausalLM(Qwen3Config(**SHAPE, **fields, attention_bias=False))))


def assert_equal_logits(config: ScratchGPTConfig, reference: Qwen3ForCausalLM) -> None:
    """Copy the weights of `reference` into a model of `config`, and compare logits and greedy decoding."""
    model = ScratchGPTForCausalLM(config).eval()
    model.load_state_dict(reference.state_dict())  # strict: the names of the weights are the same
    input_ids = torch.randint(0, 99, (3, 17))  # (B, T)
    with torch.no_grad():
        expected = reference(input_ids).logits  # (B, T, V)
        assert expected.std() > 0.1  # constant logits would be equal whatever the model computes
        torch.testing.assert_close(model(input_ids).logits, expected, atol=1e-5, rtol=0)
        tokens = model.generate(input_ids, max_new_tokens=8, do_sample=False)
        assert torch.equal(tokens, reference.generate(input_ids, max_new_tokens=8, do_sample=False))


def test_the_code_of_the_walk_through_runs():
    assert 'from_preset("llama", qk_norm=True' in WALK_THROUGH[0]
    exec(WALK_THROUGH[0], {})  # it compares the logits itself


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_llama_with_qk_norm_is_qwen3(shape):
    config = ScratchGPTConfig.from_preset("llama", qk_norm=True, **SHAPE, **shape)
    assert_equal_logits(config, qwen3(**shape))


def test_a_preset_is_one_entry_of_fields():
    exec(WALK_THROUGH[1], {"PRESETS": PRESETS})
    try:
        shape = SHAPES["one key-value head per query head"]
        assert_equal_logits(ScratchGPTConfig.from_preset("qwen3", **SHAPE, **shape), qwen3(**shape))
    finally:
        del PRESETS["qwen3"]


def test_without_qk_norm_the_logits_differ():
    """The comparison can fail: the same weights without the norms of queries and keys."""
    shape = SHAPES["one key-value head per query head"]
    reference = qwen3(**shape)
    model = ScratchGPTForCausalLM(ScratchGPTConfig.from_preset("llama", **SHAPE, **shape)).eval()
    missing, unexpected = model.load_state_dict(reference.state_dict(), strict=False)
    assert not missing
    assert {name.split(".")[-2] for name in unexpected} == {"q_norm", "k_norm"}
    input_ids = torch.randint(0, 99, (3, 17))
    with torch.no_grad():
        assert (model(input_ids).logits - reference(input_ids).logits).abs().max() > 1e-2
