"""A model of another kind than is wanted is refused by what it is, and importing one leaves it as it was."""

import pytest
from helpers.models import tiny_encoder, tiny_model, tiny_seq2seq
from helpers.native import FAMILIES, native_with

from scratch_gpt import ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification, import_native
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import load_model

MODELS = {
    "causal": lambda: tiny_model("llama"),
    "seq2seq": lambda: tiny_seq2seq("vaswani2017"),
    "masked": lambda: tiny_encoder(ScratchEncoderForMaskedLM, "bert"),
    "classifier": lambda: tiny_encoder(ScratchEncoderForSequenceClassification, "bert"),
}


@pytest.mark.parametrize("found", MODELS)
def test_only_the_kind_that_is_wanted_is_opened(found, tmp_path):
    model = MODELS[found]()
    model.save_pretrained(tmp_path)
    assert type(load_model(str(tmp_path))) is type(model)
    for wanted in MODELS:
        if wanted == found:
            assert type(load_model(str(tmp_path), kind=wanted)) is type(model)
        elif wanted == "classifier" and found != "seq2seq":
            assert "Classification" in type(load_model(str(tmp_path), kind=wanted)).__name__
        else:
            with pytest.raises(ScratchError, match=rf"it is a {model.config.model_type} model, which is {found}"):
                load_model(str(tmp_path), kind=wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_importing_leaves_the_config_of_the_native_model_as_it_was(family):
    native = native_with(family, **({"activation_function": "swish"} if family == "marian" else {}))
    before = native.config.to_dict()
    ours = import_native(native)
    ours.config.vocab_size += 1
    assert native.config.to_dict() == before
