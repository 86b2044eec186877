"""The engine of a page against torch: logits, cached decoding and greedy text of every preset and every family."""

from typing import Any

import pytest
import torch
from helpers.decoders import VARIANTS, native_decoder
from helpers.models import lift_norms, tiny_encoder, tiny_model, tiny_seq2seq
from helpers.native import SEQ2SEQ, native_with
from helpers.native_encoders import FAMILIES, HEADS, native_encoder, types_of
from helpers.page_engine import EngineError, close, in_float16, mostly_slow, needs_node, run_engine, run_jobs

from scratch_gpt import ScratchBigramConfig, ScratchBigramForCausalLM, import_native
from scratch_gpt.models.configuration_scratch_encoder import PRESETS as ENCODERS
from scratch_gpt.models.configuration_scratch_gpt import PRESETS as DECODERS
from scratch_gpt.models.configuration_scratch_seq2seq import PRESETS as TRANSLATORS
from scratch_gpt.models.modeling_scratch_encoder import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
)
from scratch_gpt.models.modeling_scratch_gpt import ScratchGPTForSequenceClassification

pytestmark = needs_node
LENGTH, PROMPT, NEW_TOKENS = 20, 6, 64
IDS = torch.randint(6, 99, (1, LENGTH), generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(6, 99, (1, LENGTH - 3), generator=torch.Generator().manual_seed(1))
FEW_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}


def decoder_of(preset: str, **fields: Any) -> Any:
    """A tiny decoder of a preset with random weights, and windows and experts as small as it is."""
    own = DECODERS[preset]
    fields = {"max_position_embeddings": 96, **(FEW_EXPERTS if own.get("num_experts") else {}), **fields}
    return lift_norms(tiny_model(preset, **({"sliding_window": 5} if own.get("sliding_window") else {}), **fields))


def check_decoder(model: Any) -> None:
    """Check logits at each position with float32 and float16 weights, cached decoding, and 64 greedy tokens. Texts are
    as long as the frequencies of the rotary positions are the same."""
    model.generation_config.eos_token_id = None
    rope = model.config.rope_parameters or {}
    longest = rope.get("original_max_position_embeddings", 96) if rope.get("rope_type") == "longrope" else 96
    length = min(LENGTH, longest)
    ids, text, new_tokens = IDS[:, :length], {"ids": IDS[0, :length].tolist()}, min(NEW_TOKENS, longest - PROMPT)
    pieces = [[0, 7], *([n, n + 1] for n in range(7, 11)), [11, length]]
    calls = [{"method": "forward", **text}, {"method": "inPieces", "pieces": pieces, **text}]
    calls += [{"method": "generate", "ids": text["ids"][:PROMPT], "count": NEW_TOKENS}]
    (full, cached, generated), (rounded,) = run_jobs([(model, "float32", calls), (model, "float16", calls[:1])])
    with torch.no_grad():
        close(full["logits"], model(ids).logits)
        torch.testing.assert_close(torch.cat(cached["logits"]), full["logits"], atol=1e-6, rtol=0)
        options = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
        expected = model.generate(ids[:, :PROMPT], **options)
        assert generated == expected[0, PROMPT:].tolist()
        assert len(generated) == new_tokens
        close(rounded["logits"], in_float16(model)(ids).logits, 1e-3)


@pytest.mark.parametrize("preset", mostly_slow(DECODERS, ("gpt2", "nanochat_ngram", "gemma3", "mixtral")))
def test_decoder_presets(preset):
    check_decoder(decoder_of(preset))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "variant"), [(family, name) for family in VARIANTS for name in VARIANTS[family]])
def test_decoder_families(family, variant):
    check_decoder(import_native(native_decoder(family, variant, max_position_embeddings=96)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"position_type": "relative", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12},
        {"norm_position": "post", "position_type": "sinusoidal", "norm_type": "layer_norm_without_bias"},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0}
            | {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0}
            | {"original_max_position_embeddings": 24}},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}},
        {"ngram_buckets": 64, "ngram_size": 5, "hidden_size": 30, "num_attention_heads": 3, "num_key_value_heads": 1},
    ],
)  # fmt: skip
def test_other_fields_of_decoders(fields):
    check_decoder(decoder_of("llama", **fields))


NORMS = ("rms_norm", "rms_norm_without_weight", "layer_norm", "layer_norm_without_bias")


@pytest.mark.parametrize("norm", NORMS)
def test_epsilon_of_norms(norm):
    """One that is large beside the variances, in each kind of norm, also of queries and keys."""
    check_decoder(decoder_of("llama", norm_type=norm, norm_eps=0.3, qk_norm=True, embedding_norm=True))


def test_text_longer_than_the_positions_is_refused():
    model = decoder_of("gpt2", max_position_embeddings=16)
    with pytest.raises(EngineError, match="there are 17 tokens, and this model has 16 positions"):
        run_engine(model, [{"method": "forward", "ids": [7] * 17}])
    (generated,) = run_engine(model, [{"method": "generate", "ids": [7] * 5, "count": 64, "options": {}}])
    assert len(generated) <= 11


@pytest.mark.parametrize(
    ("ids", "message"), [([], "give at least one"), ([99], "there is no token 99"), ([-1], "there is no token -1")]
)
def test_ids_that_do_not_exist_are_refused(ids, message):
    with pytest.raises(EngineError, match=message):
        run_engine(decoder_of("llama"), [{"method": "forward", "ids": ids}])


def test_classifier_of_a_decoder_reads_the_last_token_before_padding():
    config = decoder_of("llama", num_labels=3).config
    torch.manual_seed(3)
    model = ScratchGPTForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.score.weight)
    ids = torch.cat((IDS, torch.zeros(1, 4, dtype=torch.long)), 1)
    calls = [{"method": "logits", "ids": [row[0].tolist()]} for row in (IDS, ids)]
    alone, padded = run_engine(model, calls)
    with torch.no_grad():
        close(alone, model(IDS).logits[0])
        close(padded, model(ids).logits[0])


def check_encoder(model: Any) -> None:
    """Check the logits, scores or hidden states of a text between `<bos>` and `<eos>`, with both token types."""
    ids = torch.cat((torch.tensor([[1]]), IDS, torch.tensor([[2]])), 1)
    types = types_of([ids[0]], model.config)[0] if model.config.type_vocab_size else None
    options = {"typeIds": None if types is None else types.tolist()}
    call = {"method": "forward", "ids": ids[0].tolist(), "options": options}
    (exact,), (rounded,) = run_jobs([(model, "float32", [call]), (model, "float16", [call])])
    name = next(name for name in ("scores", "logits", "hidden") if exact[name] is not None)
    for result, tolerance in ((exact, 1e-4), (rounded, 1e-3)):
        with torch.no_grad():
            output = model(ids, token_type_ids=None if types is None else types[None])
        close(result[name], (output.last_hidden_state if name == "hidden" else output.logits)[0], tolerance)
        in_float16(model)


def with_token_weights(model: Any) -> Any:
    """The same model with random weights of tokens and n-grams, some of them 0."""
    generator = torch.Generator().manual_seed(5)
    weights = model.model.token_weights if hasattr(model, "model") else model.token_weights
    weights.tokens.copy_(torch.rand(99, generator=generator))
    weights.ngrams.copy_(torch.rand(weights.ngrams.shape, generator=generator))
    weights.tokens[[0, int(IDS[0, 4]), int(IDS[0, 9])]] = 0
    return model


HEADS_OF_ENCODERS = (ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification, ScratchEncoderModel)


@pytest.mark.parametrize("model_class", HEADS_OF_ENCODERS)
@pytest.mark.parametrize("preset", mostly_slow(ENCODERS, ("modernbert", "fasttext")))
def test_encoder_presets(preset, model_class):
    if preset != "fasttext":
        check_encoder(tiny_encoder(model_class, preset))
        return
    fields = {"num_hidden_layers": 0, "ngram_buckets": 64, "ngram_sizes": [2, 3]}
    check_encoder(with_token_weights(tiny_encoder(model_class, preset, **fields)))
    check_encoder(with_token_weights(tiny_encoder(model_class, preset, boundary_token_id=5, **fields)))


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_families(family, head):
    check_encoder(import_native(native_encoder(family, head)))


def check_translator(model: Any) -> None:
    """Check logits at each position with float32 and float16 weights, cached decoding, and greedy text."""
    model.generation_config.eos_token_id = None
    source, target = IDS[0].tolist(), TARGET[0].tolist()
    text = {"ids": target, "options": {"sourceIds": source}}
    pieces = [[0, 3], [3, 4], [4, 9], [9, len(target)]]
    calls = [{"method": "forward", **text}, {"method": "inPieces", "pieces": pieces, **text}]
    calls += [{"method": "logits", "ids": [source, target]}, {"method": "generate", "ids": source, "count": 40}]
    (full, cached, last, generated), (rounded,) = run_jobs([(model, "float32", calls), (model, "float16", calls[:1])])
    with torch.no_grad():
        expected = model(IDS, decoder_input_ids=TARGET).logits
        close(full["logits"], expected)
        close(last, expected[0, -1])
        torch.testing.assert_close(torch.cat(cached["logits"]), full["logits"], atol=1e-6, rtol=0)
        options = {"max_new_tokens": 40, "do_sample": False, "num_beams": 1}
        assert generated == model.generate(IDS, **options)[0, 1:].tolist()
        close(rounded["logits"], in_float16(model)(IDS, decoder_input_ids=TARGET).logits, 1e-3)


@pytest.mark.parametrize("preset", mostly_slow(TRANSLATORS, ("modern", "t5")))
def test_translator_presets(preset):
    check_translator(tiny_seq2seq(preset))


@pytest.mark.slow
@pytest.mark.parametrize("family", [*SEQ2SEQ, "marian"])
def test_translator_families(family):
    check_translator(import_native(native_with(family)))


def test_translator_with_separate_vocabularies():
    fields = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 120, "lm_head_bias": True}
    check_translator(tiny_seq2seq("modern", num_key_value_heads=2, **fields))


def test_bigram_model():
    torch.manual_seed(0)
    model = ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=99)).eval()
    torch.nn.init.normal_(model.table.weight)
    ids = IDS[0].tolist()
    calls = [{"method": "forward", "ids": ids}, {"method": "generate", "ids": ids, "count": NEW_TOKENS}]
    full, generated = run_engine(model, calls)
    with torch.no_grad():
        close(full["logits"], model(IDS).logits)
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
        assert generated == model.generate(IDS, **options)[0, LENGTH:].tolist()
