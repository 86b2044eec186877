"""Exports of models that differ from a preset: another class of transformers fits them, or a default of the class is
another one than ours. Logits are equal, or the setting is refused by its name."""

import copy

import pytest
import torch
from helpers.models import tiny_encoder, tiny_model

from scratch_gpt import ScratchEncoderForMaskedLM, export_native
from scratch_gpt.hub.native.convert import NoNativeClassError

ROPE = {"rope_type": "default", "rope_theta": 500.0}
WINDOW = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
CASES = [
    # GPT-NeoX rotates a quarter of each head if the settings do not say how much; here it is all of it.
    ("gpt_neox", {"rope_parameters": ROPE}, "GPTNeoXForCausalLM"),
    ("gpt_neox", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.25}}, "GPTNeoXForCausalLM"),
    # Gemma 3 has rotary settings for each layer type, of which the defaults differ.
    ("gemma3", {"rope_parameters": ROPE, **WINDOW}, "Gemma3ForCausalLM"),
    ("gemma3", {"rope_parameters": {"full_attention": ROPE}, "layer_types": None, "sliding_window": None},
     "Gemma3ForCausalLM"),
    ("qwen3", {"norm_position": "sandwich"}, "Gemma3ForCausalLM"),
    # Mistral has a window in all layers if its config has one.
    ("mistral", {"sliding_window": 4, "layer_types": ["full_attention"] * 2}, "MistralForCausalLM"),
    # Llama wants a number of heads that divides the hidden size, Mistral does not.
    ("llama", {"hidden_size": 30, "head_dim": 8}, "MistralForCausalLM"),
]  # fmt: skip


@pytest.mark.parametrize(("preset", "fields", "name"), CASES)
def test_logits_are_equal(preset, fields, name):
    model = tiny_model(preset, **copy.deepcopy(fields))
    before = copy.deepcopy(model.config.to_dict())
    native = export_native(model)
    assert type(native).__name__ == name
    assert model.config.to_dict() == before  # transformers' constructors change nested settings in place
    ids = torch.randint(3, 99, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(native(ids).logits, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize(
    ("preset", "fields", "reason"),
    [
        # Gemma 3 has the setting and ignores it.
        (
            "gemma3",
            {"attn_logit_softcapping": 2.0, **WINDOW},
            "attn_logit_softcapping is 2.0, Gemma3ForCausalLM has None",
        ),
        # OLMoE has these norms, and experts in every layer.
        ("olmo2", {"norm_position": "pre"}, "qk_norm_per_head is False, Qwen3ForCausalLM has True"),
    ],
)
def test_what_no_class_has_is_refused(preset, fields, reason):
    with pytest.raises(NoNativeClassError, match=reason):
        export_native(tiny_model(preset, **fields))


def test_pooling_has_no_effect_on_a_masked_lm():
    model = tiny_encoder(ScratchEncoderForMaskedLM, "modernbert", classifier_pooling="sum")
    assert export_native(model).config.classifier_pooling == "mean"
