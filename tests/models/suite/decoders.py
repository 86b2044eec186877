"""transformers' model tests on our GPT with each preset that is named after a family. Run by
test_transformers_suite.py before a release, as cases.py is in CI."""

import unittest
from typing import Any

from cases import OurMixin

from scratch_gpt import ScratchGPTConfig
from scratch_gpt.models.configuration_scratch_gpt import PRESETS

# Layers of both kinds, windows shorter than the inputs and few experts, where a preset has them.
SMALL: dict[str, Any] = {"sliding_window": 4, "num_experts": 4, "num_experts_per_tok": 2, "no_rope_layers": [1, 0]}
LAYERS = ["sliding_attention", "full_attention"]


def test_class(name: str) -> type[unittest.TestCase]:
    """The tests on our GPT with a preset."""
    small = {field: value for field, value in SMALL.items() if field in PRESETS[name]}
    if "layer_types" in PRESETS[name]:
        small["layer_types"] = LAYERS
    if "partial_rotary_factor" in PRESETS[name].get("rope_parameters", {}):
        small["head_dim"] = 16  # transformers scales no fewer than four rotated features
    small |= dict.fromkeys((field for field in PRESETS[name] if field.endswith("_dropout")), 0.0)

    def make_config(self, **fields):
        return ScratchGPTConfig.from_preset(name, **small, **fields)

    return type(f"{name}_style", (OurMixin, unittest.TestCase), {"make_config": make_config})


test_class.__test__ = False  # type: ignore[attr-defined]
for preset in PRESETS:
    if preset not in ("gpt2", "llama", "nanochat", "nanochat_ngram"):  # these are in cases.py
        globals()[f"{preset}_style"] = test_class(preset)
