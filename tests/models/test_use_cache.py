"""The argument `use_cache` decides whether a model returns its cache, and overrides the config."""

import pytest
import torch
from helpers.models import tiny_config, tiny_model, tiny_seq2seq

from scratch_gpt import ScratchGPTForSequenceClassification, ScratchGPTModel
from scratch_gpt.models.compatibility import cache_of

IDS = torch.arange(3, 13)[None]
MODELS = {
    "GPT": lambda: (tiny_model("llama"), {"input_ids": IDS}),
    "trunk": lambda: (ScratchGPTModel(tiny_config("llama")).eval(), {"input_ids": IDS}),
    "classifier": lambda: (
        ScratchGPTForSequenceClassification(tiny_config("llama", num_labels=3)).eval(),
        {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)},
    ),
    "encoder-decoder": lambda: (tiny_seq2seq("vaswani2017"), {"input_ids": IDS, "decoder_input_ids": IDS}),
    "encoder-decoder trunk": lambda: (tiny_seq2seq("vaswani2017").model, {"input_ids": IDS, "decoder_input_ids": IDS}),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_cache_is_returned_if_requested(name):
    model, inputs = MODELS[name]()
    for default in (True, False):
        for part in model.modules():
            if hasattr(part, "config"):
                part.config.use_cache = default
        assert (cache_of(model(**inputs)) is not None) is default
        assert cache_of(model(**inputs, use_cache=True)).get_seq_length() == IDS.shape[1]
        assert cache_of(model(**inputs, use_cache=False)) is None
