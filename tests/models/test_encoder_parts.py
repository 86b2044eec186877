"""Parts of the encoder that only some of its presets have: windows, token types, the pooler."""

import pytest
import torch
from helpers.models import tiny_encoder
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F

from scratch_gpt import (
    ScratchEncoderConfig,
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
)

WINDOWED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 2}


def texts() -> torch.Tensor:
    return torch.randint(3, 99, (3, 14), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("attention", "window"), [*((name, n) for name in ("eager", "sdpa") for n in (1, 3, 13)), ("flex_attention", 3)]
)
def test_a_window_reaches_as_far_on_both_sides(attention, window):
    fields = {"num_hidden_layers": 1, "layer_types": ["sliding_attention"], "sliding_window": window}
    model = tiny_encoder(ScratchEncoderForMaskedLM, "modernbert", attn_implementation=attention, **fields)
    ids = texts()
    with torch.no_grad():
        logits = model(ids).logits
        for position in (0, 6, 13):
            changed = ids.clone()
            changed[:, position] = (changed[:, position] + 1) % 99
            moved = (model(changed).logits - logits).abs().amax((0, 2)) > 1e-4
            assert moved.tolist() == [abs(other - position) <= window for other in range(14)]


def test_each_layer_type_has_its_mask_and_its_rotary_positions():
    """A row within the window of layers with sliding attention differs from full attention by the frequencies only."""
    model = tiny_encoder(ScratchEncoderModel, "modernbert", **WINDOWED)
    wide = {**WINDOWED, "sliding_window": 14}
    full = {"layer_types": ["full_attention"] * 2, "sliding_window": None}
    one_theta = {name: {"rope_type": "default", "rope_theta": 1e4} for name in ("full_attention", "sliding_attention")}
    ids, outputs = texts(), {}
    cases = {"narrow": WINDOWED, "wide": wide, "full": full, "wide one": wide | {"rope_parameters": one_theta}}
    cases["full one"] = full | {"rope_parameters": one_theta}
    for name, fields in cases.items():
        other = tiny_encoder(ScratchEncoderModel, "modernbert", **fields)
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            outputs[name] = other(ids).last_hidden_state
    torch.testing.assert_close(outputs["wide one"], outputs["full one"])
    for first, second in (("narrow", "wide"), ("wide", "full"), ("full", "full one")):
        assert (outputs[first] - outputs[second]).abs().max() > 1e-3, (first, second)


def test_token_types_are_added_to_the_embeddings():
    model = tiny_encoder(ScratchEncoderModel, "bert", type_vocab_size=2)
    ids = texts()
    types = (torch.arange(14) > 8).long().expand(3, -1)
    with torch.no_grad():
        first = model(ids).last_hidden_state
        assert torch.equal(model(ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state, first)
        expected = model(ids, token_type_ids=types).last_hidden_state
        assert (expected - first).abs().max() > 0.1
        embeds = model.embed_tokens(ids) + model.embed_token_types(types) - model.embed_token_types.weight[0]
        torch.testing.assert_close(model(inputs_embeds=embeds).last_hidden_state, expected)
    with pytest.raises(ValueError, match="token_type_ids has 2, want less than 2"):
        model(ids, token_type_ids=2 * types)
    with pytest.raises(StrictDataclassError, match="num_experts is 2, only the decoder-only model has experts, want 0"):
        tiny_encoder(ScratchEncoderModel, "modernbert", num_experts=2)
    with pytest.raises(StrictDataclassError, match="type_vocab_size is -1, want 0 or more"):
        tiny_encoder(ScratchEncoderModel, "bert", type_vocab_size=-1)


def test_the_trunk_pools_if_it_is_not_that_of_a_masked_lm():
    trunk = tiny_encoder(ScratchEncoderModel, "distilbert")
    ids, mask = texts(), (torch.arange(14) < torch.tensor([[9], [5], [2]])).long()
    outputs = trunk(ids, attention_mask=mask)
    torch.testing.assert_close(outputs.pooler_output, F.relu(trunk.pooler.dense(outputs.last_hidden_state[:, 0])))
    classifier = tiny_encoder(ScratchEncoderForSequenceClassification, "distilbert")
    pooled = classifier.model(ids, attention_mask=mask).pooler_output
    torch.testing.assert_close(classifier(ids, attention_mask=mask).logits, classifier.classifier(pooled))
    masked = tiny_encoder(ScratchEncoderForMaskedLM, "distilbert")
    assert masked.model.pooler is None
    assert masked.model(ids).pooler_output is None
    assert tiny_encoder(ScratchEncoderModel, "modern")(ids).pooler_output is None
    without = ScratchEncoderModel(trunk.config, add_pooling_layer=False)
    assert without.pooler is None


def test_layer_types_of_a_preset_are_repeated():
    assert ScratchEncoderConfig.from_preset("modernbert", num_hidden_layers=1).layer_types == ["full_attention"]
    config = ScratchEncoderConfig.from_preset("modernbert", num_hidden_layers=4)
    assert config.layer_types == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config.rope_parameters["full_attention"]["rope_theta"] = 1.0  # a preset's values are copied
    assert ScratchEncoderConfig.from_preset("modernbert").rope_parameters["full_attention"]["rope_theta"] == 160000.0
