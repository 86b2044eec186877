"""The encoder-decoder: masks, cache, loss, tied embeddings, and equivalence with transformers' Marian."""

from itertools import pairwise

import pytest
import torch
from helpers.models import SEQ2SEQ_PRESETS as PRESETS
from helpers.models import randomise, tiny_seq2seq, tiny_seq2seq_config
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForSeq2SeqLM, MarianConfig, MarianMTModel

from scratch_gpt import ScratchSeq2SeqForConditionalGeneration, export_native, import_native
from scratch_gpt.errors import ScratchError
from scratch_gpt.models.compatibility import RELEASE, cache_of
from scratch_gpt.models.linear_cross_entropy import (
    LOGITS_PER_PIECE,
    POSITIONS_PER_CHUNK,
    VOCAB_PER_PIECE,
    linear_cross_entropy,
    shift_right,
)

STYLES = [(preset, {}) for preset in PRESETS] + [
    ("modern", {"cross_attention_rotary": False}),
    ("modern", {"position_type": "learned", "norm_position": "post"}),
    ("modern", {"position_type": "relative", "num_key_value_heads": 2}),
]


def sources(rows: int = 3, length: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 99, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded(length: int = 14) -> tuple[torch.Tensor, torch.Tensor]:
    """Three sources of 9, 5 and 2 tokens, padded on the right with random tokens."""
    ids = sources(3, length, seed=1)
    mask = torch.zeros_like(ids)
    for row, real in enumerate((9, 5, 2)):
        mask[row, :real] = 1
    return ids, mask


@pytest.mark.parametrize(("preset", "more"), STYLES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_of_the_source_changes_nothing(preset, more, attention):
    model = tiny_seq2seq(preset, attn_implementation=attention, **more)
    ids, mask = padded()
    target = sources(3, 6, seed=2)
    logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
    other = torch.where(mask == 1, ids, (ids + 7) % 99)
    assert torch.equal(model(input_ids=other, attention_mask=mask, decoder_input_ids=target).logits, logits)
    touched = ids.clone()
    touched[1, 4] += 1  # the last real token of its row does matter
    changed = model(input_ids=touched, attention_mask=mask, decoder_input_ids=target).logits
    assert not torch.allclose(changed[1], logits[1], atol=1e-3)
    for row, real in enumerate((9, 5, 2)):
        alone = model(input_ids=ids[row : row + 1, :real], decoder_input_ids=target[row : row + 1]).logits
        torch.testing.assert_close(logits[row : row + 1], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_left_padding_equals_right_padding(preset):
    model = tiny_seq2seq(preset)
    ids, mask = padded()
    target = sources(3, 6, seed=2)
    right = model(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
    left_ids = torch.stack([row.roll(int((real == 0).sum())) for row, real in zip(ids, mask, strict=True)])
    left = model(input_ids=left_ids, attention_mask=mask.flip(1), decoder_input_ids=target).logits
    torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("preset", "more"), STYLES)
def test_a_later_target_token_changes_no_earlier_logit(preset, more):
    model = tiny_seq2seq(preset, **more)
    source, target = sources(), sources(3, 8, seed=2)
    logits = model(input_ids=source, decoder_input_ids=target).logits
    target[:, 5] += 1
    changed = model(input_ids=source, decoder_input_ids=target).logits
    assert torch.equal(changed[:, :5], logits[:, :5])
    assert not torch.allclose(changed[:, 5:], logits[:, 5:], atol=1e-3)


@pytest.mark.parametrize(("preset", "more"), STYLES)
@pytest.mark.parametrize("beams", [1, 4])
def test_cached_and_uncached_decoding_agree(preset, more, beams):
    model = tiny_seq2seq(preset, **more)
    ids, mask = padded()
    how = {"num_beams": beams, "do_sample": False, "max_new_tokens": 12, "attention_mask": mask}
    cached = model.generate(ids, use_cache=True, **how)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **how))
    for row, real in enumerate((9, 5, 2)):  # and a row of the batch is the row alone
        alone = model.generate(ids[row : row + 1, :real], **{**how, "attention_mask": mask[row : row + 1, :real]})
        assert torch.equal(cached[row, : alone.shape[1]], alone[0])


def test_search_options_of_generate():
    model = tiny_seq2seq("modern")
    source = sources(2)
    free = model.generate(source, num_beams=3, max_new_tokens=20)
    assert any(len(set(pairwise(row))) < len(row) - 1 for row in free.tolist())
    tight = model.generate(source, num_beams=3, max_new_tokens=20, no_repeat_ngram_size=2)
    for row in tight.tolist():
        pairs = [pair for pair in pairwise(row) if 0 not in pair]
        assert len(set(pairs)) == len(pairs)
    static = model.generate(source, max_new_tokens=10, cache_implementation="static", do_sample=False)
    assert torch.equal(static, model.generate(source, max_new_tokens=10, do_sample=False))


@pytest.mark.parametrize("preset", PRESETS)
def test_cached_decoding_equals_full_forward(preset):
    model = tiny_seq2seq(preset)
    ids, mask = padded()
    target = sources(3, 6, seed=2)
    whole = model(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
    encoded, past, steps = model.model.encoder(ids, mask), None, []
    for position in range(6):
        out = model(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=target[:, position : position + 1],
            cache=past,
            use_cache=True,
        )
        past = cache_of(out)
        steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=2e-5, rtol=1e-4)
    cross = past.cross_attention_cache
    assert cross.get_seq_length() == ids.shape[1]  # keys and values of the source are computed once


@pytest.mark.parametrize("preset", PRESETS)
def test_eager_and_sdpa_agree_and_all_attentions_are_returned(preset):
    model = tiny_seq2seq(preset)
    ids, mask = padded()
    target = sources(3, 6, seed=2)
    fused = model(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
    model.set_attn_implementation("eager")
    requested = {"output_attentions": True, "output_hidden_states": True}
    out = model(input_ids=ids, attention_mask=mask, decoder_input_ids=target, **requested)
    torch.testing.assert_close(out.logits, fused, atol=2e-5, rtol=1e-4)
    assert [len(out[f"{name}_attentions"]) for name in ("encoder", "decoder", "cross")] == [2, 3, 3]
    assert out.encoder_attentions[0].shape == (3, 4, 14, 14)
    assert out.decoder_attentions[0].shape == (3, 4, 6, 6)
    assert out.cross_attentions[0].shape == (3, 4, 6, 14)
    assert len(out.encoder_hidden_states) == 3
    assert len(out.decoder_hidden_states) == 4
    for weights in (out.encoder_attentions[-1], out.cross_attentions[-1]):
        assert (weights[1, :, :, 5:] == 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (out.decoder_attentions[0].triu(1) == 0).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_gradient_checkpointing_gives_the_same_gradients(preset):
    model = tiny_seq2seq(preset, residual_dropout=0.0, embedding_dropout=0.0, attention_dropout=0.0).train()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(input_ids=sources(), labels=sources(3, 6, seed=2)).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        model.gradient_checkpointing_enable()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_cross_entropy_of_the_logits(smoothing):
    model = tiny_seq2seq("vaswani2017", label_smoothing=smoothing, residual_dropout=0.0, embedding_dropout=0.0)
    source, labels = sources(), sources(3, 6, seed=2)
    labels[1, 4:] = -100
    for training in (True, False):
        out = model.train(training)(input_ids=source, labels=labels)
        shifted = shift_right(labels, 0, 0)
        assert shifted[1].tolist() == [0, *labels[1, :4].tolist(), 0]
        logits = model(input_ids=source, decoder_input_ids=shifted).logits
        torch.testing.assert_close(out.logits, logits)
        how = {"label_smoothing": smoothing if training else 0.0}
        expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), **how)
        torch.testing.assert_close(out.loss, expected)
        total = model(input_ids=source, labels=labels, num_items_in_batch=5, skip_logits=True)
        assert total.logits is None
        torch.testing.assert_close(total.loss, expected * 16 / 5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("rows", "vocabulary"), [(5, 50), (512, 50), (700, 50), (700, 2000)])
def test_chunked_loss_has_the_gradients_of_torchs(rows, vocabulary, smoothing):
    assert POSITIONS_PER_CHUNK > LOGITS_PER_PIECE // 2000  # several pieces per chunk in the last case
    states = torch.randn(rows, 16, requires_grad=True)
    weight, bias = torch.randn(vocabulary, 16, requires_grad=True), torch.randn(vocabulary, requires_grad=True)
    labels = torch.randint(0, vocabulary, (rows,))
    labels[::3] = -100
    for cap in (None, 2.0) if not smoothing else (None,):
        logits = F.linear(states, weight, bias)
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        expected = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        expected_gradients = torch.autograd.grad(expected, (states, weight, bias))
        loss = linear_cross_entropy(states, weight, labels, bias, smoothing, cap)
        torch.testing.assert_close(loss, expected)
        for gradient, other in zip(torch.autograd.grad(loss, (states, weight, bias)), expected_gradients, strict=True):
            torch.testing.assert_close(gradient, other, atol=2e-5, rtol=1e-4)


def test_chunked_loss_in_16_bits():
    torch.manual_seed(0)
    vocabulary = VOCAB_PER_PIECE + 808  # two pieces of a gradient, and two chunks of positions
    states, weight = torch.randn(600, 16, requires_grad=True), torch.randn(vocabulary, 16, requires_grad=True)
    labels = torch.randint(0, vocabulary, (600,))
    expected = F.cross_entropy(F.linear(states, weight), labels, reduction="sum")
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(states, weight, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    expected_gradients = torch.autograd.grad(expected, (states, weight))
    for gradient, other in zip(torch.autograd.grad(loss, (states, weight)), expected_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - other).norm() < 0.01 * other.norm()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("tie", [True, False])
def test_each_embedding_can_be_tied_or_not(share, tie, tmp_path):
    choice = {"share_encoder_decoder_embeddings": share, "tie_word_embeddings": tie}
    model = tiny_seq2seq("vaswani2017", **choice)
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    source, target = sources(), sources(3, 6, seed=2)
    logits = model(input_ids=source, decoder_input_ids=target).logits
    assert torch.equal(again(input_ids=source, decoder_input_ids=target).logits, logits)
    for one in (model, again):
        tables = one.model.encoder.embed_tokens.weight, one.model.decoder.embed_tokens.weight, one.lm_head.weight
        assert (tables[0] is tables[1], tables[1] is tables[2]) == (share, tie)
    trunk = AutoModel.from_pretrained(tmp_path).eval()
    states = trunk(input_ids=source, decoder_input_ids=target).last_hidden_state
    assert torch.equal(states, model.model(input_ids=source, decoder_input_ids=target).last_hidden_state)


def test_separate_vocabularies():
    model = tiny_seq2seq("modern", decoder_vocab_size=57, share_encoder_decoder_embeddings=False)
    assert model(input_ids=sources(), decoder_input_ids=sources(3, 4) % 57).logits.shape == (3, 4, 57)
    with pytest.raises(Exception, match="decoder_vocab_size is 57 and vocab_size 99, want them equal"):
        tiny_seq2seq_config("modern", decoder_vocab_size=57)


def test_input_longer_than_learned_positions_is_refused():
    model = tiny_seq2seq("modern", position_type="learned", max_position_embeddings=8)
    with pytest.raises(ValueError, match="has 9 tokens, but this model has learned positions for 8"):
        model(input_ids=sources(), decoder_input_ids=sources(3, 4))


def test_scaled_rotary_embeddings_apply_to_encoder_and_decoder():
    plain = tiny_seq2seq("modern")
    scaled = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
    other = tiny_seq2seq("modern", rope_parameters=scaled)
    inputs = {"input_ids": sources(), "decoder_input_ids": sources(3, 6, seed=2)}
    assert not torch.allclose(other.model.encoder(sources())[0], plain.model.encoder(sources())[0], atol=1e-3)
    encoded = plain.model.encoder(sources())
    states = [model(encoder_outputs=encoded, **inputs).logits for model in (plain, other)]
    assert not torch.allclose(*states, atol=1e-3)


MARIAN_CASES = {
    "as in the paper": {},
    "gelu, unscaled": {"hidden_act": "gelu", "scale_embedding": False},
    "a bias on the logits": {"lm_head_bias": True},
    "untied head": {"tie_word_embeddings": False},
    "two vocabularies": {"decoder_vocab_size": 57, "share_encoder_decoder_embeddings": False},
}


@pytest.mark.parametrize("case", MARIAN_CASES)
def test_marian_has_the_same_logits_and_translations(case):
    ours = tiny_seq2seq("vaswani2017", **MARIAN_CASES[case])
    native = export_native(ours)
    assert type(native) is MarianMTModel
    ids, mask = padded()
    target = sources(3, 6, seed=2) % 57
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": target}
    logits = ours(**inputs).logits
    torch.testing.assert_close(native(**inputs).logits, logits, atol=1e-4, rtol=0)
    again = import_native(native)
    assert type(again) is ScratchSeq2SeqForConditionalGeneration
    torch.testing.assert_close(again(**inputs).logits, logits, atol=1e-4, rtol=0)
    # Beam search of transformers before 5.18 takes one size for both vocabularies.
    for beams in (1,) if case == "two vocabularies" and RELEASE < (5, 18) else (1, 4):
        how = {"num_beams": beams, "max_new_tokens": 12, "attention_mask": mask, "length_penalty": 0.6}
        assert torch.equal(native.generate(ids, **how), ours.generate(ids, **how))


def test_marian_is_imported():
    config = MarianConfig(
        vocab_size=99,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=98,
        eos_token_id=0,
        decoder_start_token_id=98,
        max_position_embeddings=64,
    )
    native = randomise(MarianMTModel(config)).eval()
    for stack in (native.model.encoder, native.model.decoder):  # randomise also changed the fixed positions
        stack.embed_positions.weight.data = stack.embed_positions.create_weight()
    native.final_logits_bias = torch.nn.Buffer(torch.randn(1, 99))
    ids, mask = padded()
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": sources(3, 6, seed=2)}
    ours = import_native(native)
    assert ours.config.hidden_act == "silu"
    torch.testing.assert_close(ours(**inputs).logits, native(**inputs).logits, atol=1e-4, rtol=0)
    how = {"num_beams": 4, "max_new_tokens": 12, "attention_mask": mask}
    assert torch.equal(ours.generate(ids, **how), native.generate(ids, **how))


def test_export_of_what_marian_does_not_support_is_refused():
    with pytest.raises(ScratchError, match="norm_type is 'rms_norm', MarianMTModel has 'layer_norm'"):
        export_native(tiny_seq2seq("vaswani2017", norm_type="rms_norm"))
    with pytest.raises(ScratchError, match="num_key_value_heads is 2, MarianMTModel has as many as query heads, 4"):
        export_native(tiny_seq2seq("vaswani2017", num_key_value_heads=2))
    unequal = MarianConfig(
        vocab_size=99, d_model=32, encoder_layers=1, decoder_layers=1, decoder_ffn_dim=48, pad_token_id=0
    )
    with pytest.raises(ScratchError, match="its encoder_ffn_dim is 4096 and its decoder_ffn_dim 48, ours are equal"):
        import_native(MarianMTModel(unequal))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"parallel_residual": True}, "parallel_residual is True, which encoder-decoders do not have, want False"),
        ({"num_experts": 2}, "num_experts is 2, only the decoder-only model has experts, want 0"),
        ({"norm_position": "branch"}, "norm_position"),
        ({"norm_position": "sandwich"}, "norm_position"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers is set, which encoder-decoders do not have, want None"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 500.0}}},
            "rope_parameters has settings for each layer type, encoder-decoders have one for all",
        ),
    ],
)
def test_fields_that_an_encoder_decoder_would_ignore_are_refused(fields, reason):
    """A parallel block has no cross-attention: the source had no effect on the target."""
    with pytest.raises(StrictDataclassError, match=reason):
        tiny_seq2seq_config("modern", **fields)
