"""Positions: scaled rotary embeddings equal those of transformers; each row counts from its own first token."""

import math

import pytest
import torch
from helpers.models import SEQ2SEQ_PRESETS, STYLES, randomise, tiny_config, tiny_model, tiny_seq2seq
from transformers import DynamicCache, EncoderDecoderCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from scratch_gpt import ScratchGPTForCausalLM, import_native
from scratch_gpt.models.compatibility import cache_of
from scratch_gpt.models.positions import RotaryEmbedding

LONG = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [1.0, 3.0, 5.0, 7.0]}
SCALED = {
    "default": ({}, 1.0),
    "linear": ({"factor": 4.0}, 1.0),
    "dynamic": ({"factor": 4.0}, 1.0),
    "yarn": ({"factor": 4.0, "original_max_position_embeddings": 16}, 0.1 * math.log(4) + 1),
    "longrope": (
        {"factor": 4.0, "original_max_position_embeddings": 16, **LONG},
        math.sqrt(1 + math.log(4) / math.log(16)),
    ),
    "llama3": (
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
        1.0,
    ),
}
SHAPE = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}


def rope_of(name: str, **more) -> dict:
    return {"rope_type": name, "rope_theta": 300.0, **SCALED[name][0], **more}


@pytest.mark.parametrize("length", [8, 40, 200])
@pytest.mark.parametrize("name", SCALED)
def test_scaled_rotary_embeddings_equal_llamas(name, length):
    """Below the original length, beyond it, and beyond `max_position_embeddings`."""
    ours = RotaryEmbedding(tiny_config("llama", rope_parameters=rope_of(name)))
    theirs = LlamaRotaryEmbedding(LlamaConfig(**SHAPE, max_position_embeddings=64, rope_parameters=rope_of(name)))
    x, positions = torch.zeros(1, length, 32), torch.arange(length)[None]
    (cos, sin), (their_cos, their_sin) = ours(x, positions), theirs(x, positions)
    torch.testing.assert_close(cos, their_cos, atol=1e-6, rtol=1e-6)
    half = sin.shape[-1] // 2  # where ours are negated, and transformers negates the queries and keys
    signed = torch.cat((-their_sin[..., :half], their_sin[..., half:]), dim=-1)
    torch.testing.assert_close(sin, signed, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SCALED)
def test_attention_scaling_is_that_of_the_papers(name):
    """At position 0 a cosine is the factor: 0.1 ln s + 1 for YaRN (Peng et al. 2023, arXiv:2309.00071, section 3.4) and
    sqrt(1 + ln s / ln L) for LongRoPE (Ding et al. 2024, arXiv:2402.13753); 1 for the others."""
    cos, _ = RotaryEmbedding(tiny_config("llama", rope_parameters=rope_of(name)))(
        torch.zeros(1, 1, 32), torch.zeros(1, 1)
    )
    torch.testing.assert_close(cos, torch.full_like(cos, SCALED[name][1]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SCALED)
def test_models_with_scaled_rotary_embeddings_generate_what_llama_generates(name):
    """Beyond the original length, with fast decoding if it supports the variant."""
    config = LlamaConfig(**SHAPE, intermediate_size=80, max_position_embeddings=64, rope_parameters=rope_of(name))
    native = randomise(LlamaForCausalLM(config)).eval()
    ours = import_native(native)
    x = torch.randint(3, 99, (2, 10))
    greedy = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None}
    assert torch.equal(ours.generate(x, **greedy), native.generate(x, **greedy))


@pytest.mark.parametrize("fields", [{}, {"rope_parameters": rope_of("yarn")}])
def test_frequencies_depend_on_theta(fields):
    logits = []
    for theta in (100.0, 10_000.0):
        rope = {**fields.get("rope_parameters", {"rope_type": "default"}), "rope_theta": theta}
        model = randomise(ScratchGPTForCausalLM(tiny_config("llama", rope_parameters=rope))).eval()
        logits.append(model(torch.arange(3, 43)[None]).logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-2


# --- rows of a batch, with a cache -----------------------------------------------------------------------

PIECES = [(0, 6), (6, 7), (7, 10), (10, 12)]  # of 12 tokens, of which the first row has 5 of padding on the left


@pytest.mark.parametrize(("preset", "fields"), STYLES)
def test_positions_of_padded_rows_with_a_cache(preset, fields):
    """Without `position_ids`, in pieces: each row has the same logits as alone in a single forward."""
    model = tiny_model(preset, **fields)
    x = torch.randint(3, 99, (2, 12))
    mask = torch.ones_like(x)
    mask[0, :5] = 0
    cache, found = None, []
    with torch.no_grad():
        for begin, end in PIECES:
            out = model(x[:, begin:end], attention_mask=mask[:, :end], cache=cache, use_cache=True)
            cache = cache_of(out)
            found.append(out.logits)
        logits = torch.cat(found, 1)
        torch.testing.assert_close(logits[0, 5:], model(x[:1, 5:]).logits[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(logits[1], model(x[1:]).logits[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("masked_target", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("preset", SEQ2SEQ_PRESETS)
def test_padding_of_the_source_does_not_shift_target_positions(preset, side, masked_target):
    """An encoder-decoder with a cache, in pieces, with a mask of the source and optionally of the target: each row has
    the same logits as alone."""
    model = tiny_seq2seq(preset)
    source, target = torch.randint(3, 99, (2, 9)), torch.randint(3, 99, (2, 12))
    mask = torch.ones_like(source)
    real = slice(4, 9) if side == "left" else slice(0, 5)
    mask[0] = 0
    mask[0, real] = 1
    cache, found = EncoderDecoderCache(DynamicCache(), DynamicCache()), []
    with torch.no_grad():
        encoded = model.model.encoder(source, attention_mask=mask)
        for begin, end in PIECES:
            out = model(
                encoder_outputs=encoded,
                attention_mask=mask,
                decoder_input_ids=target[:, begin:end],
                decoder_attention_mask=torch.ones(2, end, dtype=torch.long) if masked_target else None,
                cache=cache,
                use_cache=True,
            )
            found.append(out.logits)
        logits = torch.cat(found, 1)
        alone = model(source[:1, real], decoder_input_ids=target[:1]).logits[0]
        torch.testing.assert_close(logits[0], alone, atol=2e-5, rtol=1e-4)
        other = model(source[1:], decoder_input_ids=target[1:]).logits[0]
        torch.testing.assert_close(logits[1], other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("preset", SEQ2SEQ_PRESETS)
def test_padding_of_the_target_changes_no_earlier_logit(preset):
    """Padding on the right of a target, masked or not, changes no logit of its tokens."""
    model = tiny_seq2seq(preset)
    source, target = torch.randint(3, 99, (1, 7)), torch.randint(3, 99, (1, 6))
    padded = torch.cat((target, torch.zeros(1, 4, dtype=torch.long)), 1)
    mask = torch.tensor([[1] * 6 + [0] * 4])
    with torch.no_grad():
        expected = model(source, decoder_input_ids=target).logits
        for masks in ({}, {"decoder_attention_mask": mask}):
            found = model(source, decoder_input_ids=padded, **masks).logits[:, :6]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
