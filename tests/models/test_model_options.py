"""Every option of a new model is set in its config; other fields have the values of the preset."""

import pytest
from helpers.models import SEQ2SEQ_PRESETS

from scratch_gpt import ScratchEncoderConfig, ScratchGPTConfig, ScratchSeq2SeqConfig
from scratch_gpt.train.tasks import encoder_model
from scratch_gpt.train.tasks.classification.arguments import ClassifierModelArguments, EncoderModelArguments
from scratch_gpt.train.tasks.language_modeling.arguments import ModelArguments
from scratch_gpt.train.tasks.language_modeling.build import build_config
from scratch_gpt.train.tasks.translation import build
from scratch_gpt.train.tasks.translation.arguments import PairArguments, Seq2SeqModelArguments

SHAPE = {"hidden_size": 48, "num_attention_heads": 6}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def gpt(preset: str = "llama", **fields):
    return build_config(ModelArguments(preset=preset, **fields), 99, 40, IDS)


def seq2seq(data: dict | None = None, preset: str = "modern", **fields):
    options = PairArguments(**{"max_length": 40, "source_lang": "de", "target_lang": "en", **(data or {})})
    return build.build_config(
        Seq2SeqModelArguments(preset=preset, **fields), options, (99, 88 if options.separate_vocabularies else 99)
    )


def encoder(preset: str = "modern", **fields):
    return encoder_model.build_config(EncoderModelArguments(preset=preset, context_length=40, **fields), 99, IDS)


def classifier(preset: str = "modern", **fields):
    return encoder_model.build_config(ClassifierModelArguments(preset=preset, context_length=40, **fields), 99, IDS)


DROPOUTS = {"embedding_dropout": 0.3, "residual_dropout": 0.3, "attention_dropout": 0.3}
CASES = [
    (gpt, SHAPE, SHAPE),
    (gpt, {"num_hidden_layers": 7}, {"num_hidden_layers": 7}),
    (gpt, {"num_key_value_heads": 2, "num_attention_heads": 4}, {"num_key_value_heads": 2}),
    (gpt, {"intermediate_size": 50}, {"intermediate_size": 50}),
    (gpt, {"dropout": 0.3}, DROPOUTS),
    (gpt, {"dropout": 0.3, "attention_dropout": 0.1}, {**DROPOUTS, "attention_dropout": 0.1}),
    (gpt, {"tie_word_embeddings": True}, {"tie_word_embeddings": True}),
    (gpt, {"preset": "gpt2", "tie_word_embeddings": False}, {"tie_word_embeddings": False, "position_type": "learned"}),
    (gpt, {}, {"vocab_size": 99, "max_position_embeddings": 40, **IDS}),
    (gpt, {"preset": "bigram"}, {"vocab_size": 99, "model_type": "scratch_bigram", **IDS}),
    (seq2seq, SHAPE, SHAPE),
    (seq2seq, {"encoder_layers": 3, "decoder_layers": 5}, {"encoder_layers": 3, "decoder_layers": 5}),
    (seq2seq, {"intermediate_size": 50}, {"intermediate_size": 50}),
    (seq2seq, {"preset": "t5", "tie_word_embeddings": True}, {"tie_word_embeddings": True, "mlp_gated": True}),
    (seq2seq, {"dropout": 0.3}, {"embedding_dropout": 0.3, "residual_dropout": 0.3}),
    (seq2seq, {"label_smoothing": 0.2}, {"label_smoothing": 0.2}),
    (seq2seq, {"data": {"separate_vocabularies": True}},
     {"share_encoder_decoder_embeddings": False, "target_tokenizer": True, "vocab_size": 99, "decoder_vocab_size": 88}),
    (seq2seq, {"data": {"both_directions": True, "separate_vocabularies": True}},
     {"both_directions": True, "source_lang": "de", "target_lang": "en", "max_position_embeddings": 40}),
    (encoder, SHAPE, SHAPE),
    (encoder, {"num_hidden_layers": 7}, {"num_hidden_layers": 7}),
    (encoder, {}, {"num_hidden_layers": 2, "vocab_size": 99, "max_position_embeddings": 40, **IDS}),
    (encoder, {"intermediate_size": 50}, {"intermediate_size": 50}),
    (encoder, {"dropout": 0.3}, DROPOUTS),
    (classifier, {"classifier_dropout": 0.4}, {"classifier_dropout": 0.4}),
    (classifier, {"classifier_pooling": "cls"}, {"classifier_pooling": "cls"}),
    (classifier, {"preset": "fasttext"}, {"num_hidden_layers": 0, "ngram_sizes": [2]}),
    (classifier, {"preset": "fasttext", "ngram_sizes": [3, 4]}, {"ngram_sizes": [3, 4]}),
    (classifier, {"preset": "bert", "num_hidden_layers": 1}, {"num_hidden_layers": 1, "model_type": "scratch_encoder"}),
    (classifier, {"preset": "llama", **SHAPE}, {"model_type": "scratch_gpt", "num_hidden_layers": 2, **SHAPE}),
]  # fmt: skip


@pytest.mark.parametrize(("build", "options", "expected"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_option_is_set_in_the_config(build, options, expected):
    config = build(**options)
    assert {name: getattr(config, name) for name in expected} == expected


PRESETS = [
    (gpt, ScratchGPTConfig, ("gpt2", "llama", "nanochat", "nanochat_ngram")),
    (seq2seq, ScratchSeq2SeqConfig, SEQ2SEQ_PRESETS),
    (encoder, ScratchEncoderConfig, ("bert", "roberta", "distilbert", "modernbert", "modern")),
]


@pytest.mark.parametrize(("build", "kind", "preset"), [(b, k, preset) for b, k, names in PRESETS for preset in names])
def test_config_without_options_equals_the_preset(build, kind, preset):
    config, chosen = build(preset=preset), dict(kind.presets[preset])
    if "layer_types" in chosen:  # repeated for all layers
        chosen["layer_types"] = (chosen["layer_types"] * config.num_hidden_layers)[: config.num_hidden_layers]
    assert {name: getattr(config, name) for name in chosen} == chosen
