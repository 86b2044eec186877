"""Loading a model of another kind than requested is refused; importing a native model does not modify it."""

import pytest
from helpers.models import tiny_encoder, tiny_model, tiny_seq2seq
from helpers.native import FAMILIES, native_with

from scratch_gpt import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
    import_native,
)
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import load_model
from scratch_gpt.hub.model_directory import kind_of_model

MODELS = {
    "causal": lambda: tiny_model("llama"),
    "seq2seq": lambda: tiny_seq2seq("vaswani2017"),
    "masked": lambda: tiny_encoder(ScratchEncoderForMaskedLM, "bert"),
    "classifier": lambda: tiny_encoder(ScratchEncoderForSequenceClassification, "bert"),
    "encoder": lambda: tiny_encoder(ScratchEncoderModel, "bert"),
}


@pytest.mark.parametrize("found", MODELS)
def test_only_the_requested_kind_is_loaded(found, tmp_path):
    model = MODELS[found]()
    model.save_pretrained(tmp_path)
    assert type(load_model(str(tmp_path))) is type(model)
    for requested in MODELS:
        if requested == found:
            assert type(load_model(str(tmp_path), kind=requested)) is type(model)
        elif requested == "classifier" and found != "seq2seq":
            assert "Classification" in type(load_model(str(tmp_path), kind=requested)).__name__
        else:
            with pytest.raises(ScratchError, match=rf"it is a {model.config.model_type} model, which is {found}"):
                load_model(str(tmp_path), kind=requested)


@pytest.mark.parametrize("family", FAMILIES)
def test_import_does_not_modify_the_config_of_the_native_model(family):
    native = native_with(family, **({"activation_function": "swish"} if family == "marian" else {}))
    before = native.config.to_dict()
    ours = import_native(native)
    ours.config.vocab_size += 1
    assert native.config.to_dict() == before


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("BertModel", "encoder"),
        ("ModernBertModel", "encoder"),
        ("ScratchEncoderModel", "encoder"),
        ("GPT2Model", "causal"),
        ("GPT2LMHeadModel", "causal"),
        ("LlamaModel", "causal"),
        (None, "causal"),
    ],
)
def test_only_an_encoder_without_a_head_is_loaded_without_one(architecture, kind):
    config = tiny_model("llama").config
    config.architectures = architecture and [architecture]
    assert kind_of_model(config) == kind
