"""The walk-through of docs/contributing/add-an-architecture.md, checked: StableLM 2 built from config fields alone."""

import re
from typing import Any

import pytest
import torch
from helpers.models import lift_norms, randomise
from helpers.processes import PROJECT
from transformers import StableLmConfig, StableLmForCausalLM

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from scratch_gpt.hub.native.llama import FIELDS, HeadTwin
from scratch_gpt.models.configuration_scratch_gpt import PRESETS

PAGE = PROJECT / "docs" / "contributing" / "add-an-architecture.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[:3]
SHAPE = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "biases": {"num_key_value_heads": 4, "use_qkv_bias": True},
    "grouped heads, no biases": {"num_key_value_heads": 2, "use_qkv_bias": False},
    "whole heads": {"num_key_value_heads": 4, "partial_rotary_factor": 1.0, "rope_theta": 300.0},
}


def stablelm(**fields) -> StableLmForCausalLM:
    """The model of transformers, with random weights, those of the norms around 1."""
    return lift_norms(randomise(StableLmForCausalLM(StableLmConfig(**SHAPE, **fields))))


def assert_equal_logits(model: torch.nn.Module, reference: torch.nn.Module) -> None:
    """Compare logits and greedy decoding."""
    input_ids = torch.randint(0, 99, (3, 17))  # (B, T)
    with torch.no_grad():
        expected = reference(input_ids).logits  # (B, T, V)
        assert expected.std() > 0.1  # constant logits would be equal whatever the model computes
        torch.testing.assert_close(model(input_ids).logits, expected, atol=1e-5, rtol=0)
        options = {"attention_mask": torch.ones_like(input_ids), "max_new_tokens": 8, "do_sample": False}
        assert torch.equal(model.generate(input_ids, **options), reference.generate(input_ids, **options))


@pytest.fixture
def twin(monkeypatch) -> HeadTwin:
    """The twin of the walk-through, with its preset."""
    monkeypatch.setattr(ScratchGPTConfig, "presets", {**PRESETS})
    exec(BLOCKS[1], {"PRESETS": ScratchGPTConfig.presets})
    names = {"Any": Any, "FIELDS": FIELDS, "HeadTwin": HeadTwin}
    names |= {"StableLmConfig": StableLmConfig, "StableLmForCausalLM": StableLmForCausalLM}
    exec(BLOCKS[2], names)
    return names["StableLmTwin"]()


def test_the_code_of_the_walk_through_runs():
    assert 'from_preset("llama", **fields' in BLOCKS[0]
    assert "stablelm" not in PRESETS, "the walk-through adds a family that exists: choose another"
    exec(BLOCKS[0], {})  # it compares the logits itself


def test_the_preset_has_the_fields_of_the_class(twin):
    reference = stablelm(**VARIANTS["biases"])
    model = ScratchGPTForCausalLM(ScratchGPTConfig.from_preset("stablelm", **SHAPE)).eval()
    model.load_state_dict(reference.state_dict())  # strict: the names of the weights are the same
    assert_equal_logits(model, reference)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_twin_converts_both_ways(variant, twin):
    reference = stablelm(**VARIANTS[variant])
    assert twin.import_incompatibilities(reference.config) == []
    config = twin.config_from_native(reference.config)
    model = ScratchGPTForCausalLM(config).eval()
    model.load_state_dict(twin.weights_from_native(reference.state_dict(), config))
    assert_equal_logits(model, reference)
    assert twin.export_incompatibilities(config) == []
    config.imported_from = None
    back = StableLmForCausalLM(twin.config_to_native(config)).eval()
    back.load_state_dict(twin.weights_to_native(model.state_dict(), config))
    assert_equal_logits(back, model)


def test_the_twin_names_what_the_model_does_not_support(twin):
    config = StableLmConfig(**SHAPE, qk_layernorm=True, use_parallel_residual=True)
    assert twin.import_incompatibilities(config) == [
        "its qk_layernorm is True, ours is always False",
        "its use_parallel_residual is True, ours is always False",
    ]
    llama = ScratchGPTConfig.from_preset("llama", **SHAPE)
    assert any(reason.startswith("norm_type is 'rms_norm'") for reason in twin.export_incompatibilities(llama))


def test_without_its_fields_the_logits_differ(twin):
    """The comparison can fail: the same weights with whole heads rotated."""
    reference = stablelm(**VARIANTS["biases"])
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    model = ScratchGPTForCausalLM(ScratchGPTConfig.from_preset("stablelm", **SHAPE, rope_parameters=rope)).eval()
    model.load_state_dict(reference.state_dict())
    input_ids = torch.randint(0, 99, (3, 17))
    with torch.no_grad():
        assert (model(input_ids).logits - reference(input_ids).logits).abs().max() > 1e-2
