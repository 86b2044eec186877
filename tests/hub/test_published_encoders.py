"""Published encoders (their `config.json`, in tests/helpers/published_configs): the settings are accepted, and a model
of the same shape with fewer layers computes the same here and there."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from helpers import models
from helpers.native_encoders import largest_difference, outputs_of, random_weights, rows_of
from transformers import AutoConfig

from scratch_gpt import export_native, import_native
from scratch_gpt.hub.native.registry import TWINS

PUBLISHED = json.loads(
    (Path(models.__file__).parent / "published_configs" / "encoders.json").read_text(encoding="utf-8")
)
# One layer, and with windows two, so that there is one; small vocabularies, and the ids of special tokens in them.
LAYERS = {"modernbert": {"num_hidden_layers": 2, "vocab_size": 300, "pad_token_id": 283}}
LAYERS["modernbert"] |= {"bos_token_id": 281, "cls_token_id": 281, "eos_token_id": 282, "sep_token_id": 282}
LAYERS["distilbert"] = {"n_layers": 1, "vocab_size": 300}
ONE_LAYER = {"num_hidden_layers": 1, "vocab_size": 300}


def config_of(settings: dict, **fields):
    """The config of these settings, with other fields."""
    names = {name: value for name, value in settings.items() if name != "model_type"}
    return AutoConfig.for_model(settings["model_type"], **{**names, **fields})


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_accepted_without_weights(name):
    settings = PUBLISHED[name]
    twin = next(twin for twin in TWINS if twin.model_class.__name__ == settings["architectures"][0])
    native = config_of(settings)
    assert twin.import_incompatibilities(native) == []
    ours = twin.config_from_native(native)
    assert twin.export_incompatibilities(ours) == []
    with torch.device("meta"):
        here, there = twin.our_model_class(ours), twin.model_class(native)
    unused = 2 * 768 * ("roberta" in settings["model_type"])  # position embeddings that no token has
    assert here.num_parameters() == there.num_parameters() - unused
    restored = twin.config_to_native(ours).to_dict()
    for key in settings.keys() - {
        "architectures",
        "transformers_version",
        "gradient_checkpointing",
        "reference_compile",
    }:
        assert restored.get(key, settings[key]) == native.to_dict().get(key, settings[key]), key


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_of_this_shape_computes_the_same(name):
    settings = PUBLISHED[name]
    config = config_of(settings, **LAYERS.get(settings["model_type"], ONE_LAYER))
    native = random_weights(getattr(transformers, settings["architectures"][0])(config), std=0.05)
    rows = rows_of(config, lengths=(150, 70))  # longer than ModernBERT's windows
    expected = outputs_of(native, rows)
    ours = import_native(native)
    assert largest_difference(outputs_of(ours, rows, left=True), expected) <= 1e-4
    assert largest_difference(outputs_of(export_native(ours), rows, left=False), expected) <= 1e-4
    if settings["model_type"] == "modernbert":
        assert ours.config.layer_types == ["full_attention", "sliding_attention"]
        assert ours.config.sliding_window == 64
