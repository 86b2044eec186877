"""The GPT against formulas, and its fast and cached paths against the plain forward."""

import math

import pytest
import torch
from helpers.models import PRESET_STYLES, PRESETS, STYLES, randomise, tiny_config, tiny_model, tiny_seq2seq
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, StaticCache

from scratch_gpt import (
    ScratchBigramConfig,
    ScratchBigramForCausalLM,
    ScratchGPTConfig,
    ScratchGPTForCausalLM,
    ScratchGPTForSequenceClassification,
    ScratchGPTModel,
)
from scratch_gpt.models.compatibility import cache_of
from scratch_gpt.models.dropout import Dropout
from scratch_gpt.models.normalization import LayerNorm, RMSNorm
from scratch_gpt.models.positions import RotaryEmbedding, SinusoidalPositions, apply_rotary


def ids(batch: int = 2, length: int = 12, vocab_size: int = 99) -> torch.Tensor:
    return torch.randint(3, vocab_size, (batch, length))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [LayerNorm(16), RMSNorm(16), RMSNorm(16, elementwise_affine=False)])
def test_norm_equals_its_formula(norm, dtype):
    norm = randomise(norm).to(dtype)
    x = (torch.randn(3, 5, 16) * 4 + 1).to(dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2  # one rounding to bfloat16 more or less, of values up to 4
    torch.testing.assert_close(norm(x), norm.formula(x), atol=tolerance, rtol=tolerance)


def test_sinusoidal_positions_are_those_of_the_paper():
    positions = SinusoidalPositions(8)(torch.tensor([[0, 1, 7]]))
    for i in range(4):
        assert positions[0, 2, 2 * i].item() == pytest.approx(math.sin(7 / 10000 ** (2 * i / 8)), abs=1e-6)
        assert positions[0, 2, 2 * i + 1].item() == pytest.approx(math.cos(7 / 10000 ** (2 * i / 8)), abs=1e-6)


def test_rotary_products_depend_on_distance_only():
    rotary = RotaryEmbedding(tiny_config("llama"))
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(i: int, j: int) -> float:
        def rotated(x, position):
            return apply_rotary(x, *rotary(x, torch.tensor([[position]])))

        return (rotated(q, i) * rotated(k, j)).sum().item()

    assert product(9, 4) == pytest.approx(product(25, 20), abs=1e-5)
    assert abs(product(9, 4) - product(9, 5)) > 1e-3


@pytest.mark.parametrize(
    ("implementation", "preset", "fields"),
    [
        *(pytest.param("sdpa", *style, marks=pytest.mark.slow) for style in PRESET_STYLES),
        pytest.param("flex_attention", "llama", {}, marks=pytest.mark.release),
    ],
)
@torch.no_grad()  # flex attention has no backward on a CPU
def test_fast_attention_equals_eager(preset, fields, implementation):
    heads = {"num_key_value_heads": 2 if preset != "gpt2" else 4, "head_dim": 16, "hidden_size": 64}
    model = tiny_model(preset, **heads, **fields)
    x = ids(3, 16)
    mask = torch.ones_like(x)
    mask[0, :5] = 0
    packed = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]).expand(3, -1)
    for inputs in ({}, {"attention_mask": mask}, {"position_ids": packed}):
        model.set_attn_implementation("eager")
        expected = model(x, **inputs).logits
        model.set_attn_implementation(implementation)
        seen = mask.bool() if "attention_mask" in inputs else torch.ones_like(mask).bool()
        torch.testing.assert_close(model(x, **inputs).logits[seen], expected[seen], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("preset", "fields"), STYLES)
def test_cached_decoding_equals_full_forward(preset, fields):
    model, x = tiny_model(preset, **fields), ids()
    full = model(x).logits
    cache, steps = None, []
    for piece in (x[:, :4], *x[:, 4:].split(1, dim=1)):
        out = model(piece, cache=cache, use_cache=True)
        cache = cache_of(out)
        steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), full, atol=1e-5, rtol=1e-4)


def test_past_key_values_is_accepted_as_the_cache():
    """The former name, which transformers' own models also accept and PEFT still uses."""
    model, x = tiny_model("gpt2"), ids()
    cache = cache_of(model(x[:, :4], use_cache=True))
    logits = model(x[:, 4:], past_key_values=cache).logits
    torch.testing.assert_close(logits, model(x).logits[:, 4:], atol=1e-5, rtol=1e-4)
    translator = tiny_seq2seq("modern")
    source = {"encoder_outputs": translator.model.encoder(x)}
    cache = cache_of(translator(**source, decoder_input_ids=x[:, :4], use_cache=True))
    logits = translator(**source, decoder_input_ids=x[:, 4:], past_key_values=cache).logits
    expected = translator(**source, decoder_input_ids=x).logits[:, 4:]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    decoder, states = translator.model.decoder, {"encoder_hidden_states": source["encoder_outputs"].last_hidden_state}
    later = decoder(x[:, 4:], past_key_values=cache_of(decoder(x[:, :4], use_cache=True, **states)), **states)
    whole = decoder(x, **states)
    torch.testing.assert_close(later.last_hidden_state, whole.last_hidden_state[:, 4:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("preset", "fields"), PRESET_STYLES)
def test_static_cache_equals_full_forward(preset, fields):
    model, x = tiny_model(preset, **fields), ids()
    full = model(x).logits
    cache = StaticCache(config=model.config, max_cache_len=32)
    steps = [model(piece, cache=cache, use_cache=True).logits for piece in (x[:, :4], *x[:, 4:].split(1, 1))]
    torch.testing.assert_close(torch.cat(steps, 1), full, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("preset", "fields"), STYLES)
def test_padded_row_equals_row_alone(preset, fields, side):
    model, x = tiny_model(preset, **fields), ids(1, 7)
    padded = torch.zeros(2, 12, dtype=torch.long)
    padded[1] = ids(1, 12)
    mask = torch.ones_like(padded)
    mask[0] = 0
    place = slice(5, 12) if side == "left" else slice(0, 7)
    padded[0, place], mask[0, place] = x[0], 1
    expected = model(x).logits[0]
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[0, place], expected, atol=1e-5, rtol=1e-4)
    padded[0, ~mask[0].bool()] = 77  # the ids of padding do not matter
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[0, place], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("preset", "fields"), STYLES)
def test_packed_documents_do_not_attend_to_each_other(preset, fields):
    model, a, b = tiny_model(preset, **fields), ids(1, 5), ids(1, 7)
    packed = model(torch.cat([a, b], 1), position_ids=torch.tensor([[*range(5), *range(7)]])).logits
    torch.testing.assert_close(packed[:, :5], model(a).logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(packed[:, 5:], model(b).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("preset", "fields"), PRESET_STYLES)
def test_a_later_token_changes_no_earlier_logit(preset, fields):
    model, x = tiny_model(preset, **fields), ids()
    changed = x.clone()
    changed[:, 8] = 5
    before, after = model(x).logits, model(changed).logits
    torch.testing.assert_close(before[:, :8], after[:, :8], atol=0, rtol=0)
    assert not torch.equal(before[:, 8:], after[:, 8:])


@pytest.mark.parametrize(("preset", "fields"), PRESET_STYLES)
def test_gradient_checkpointing_changes_no_gradient(preset, fields):
    gradients, dropouts = [], dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.0)
    for checkpointing in (False, True):
        model = tiny_model(preset, **dropouts, **fields).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        x = torch.arange(24).view(2, 12)
        model(x, labels=x).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=0, rtol=0)


@pytest.mark.parametrize("field", ["embedding_dropout", "attention_dropout", "residual_dropout"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_each_dropout_acts_in_training_only(field, implementation):
    none = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
    model, x = tiny_model("gpt2", **{**none, field: 0.5}), ids()
    model.set_attn_implementation(implementation)
    torch.testing.assert_close(model(x).logits, model(x).logits, atol=0, rtol=0)
    model.train()
    assert not torch.equal(model(x).logits, model(x).logits)


def test_loss_is_the_cross_entropy_of_the_next_token():
    model, x = tiny_model("llama"), ids()
    labels = x.clone()
    labels[0, :5] = -100
    logits = model(x).logits[:, :-1].log_softmax(-1)
    scored = labels[:, 1:] != -100
    nats = -logits.gather(-1, x[:, 1:, None])[..., 0][scored]
    assert model(x, labels=labels).loss.item() == pytest.approx(nats.mean().item(), abs=1e-5)
    assert model(x, labels=labels, num_items_in_batch=7).loss.item() == pytest.approx(nats.sum().item() / 7, rel=1e-5)
    shifted = torch.full_like(x, -100)
    shifted[:, :-1] = labels[:, 1:]
    ready = model(x, labels=shifted, shift_labels=shifted).loss
    assert ready.item() == pytest.approx(nats.mean().item(), abs=1e-5)


@pytest.mark.parametrize(("preset", "fields"), PRESET_STYLES)  # nanochat caps its logits
def test_the_loss_without_logits_has_the_same_gradients(preset, fields):
    model, x = tiny_model(preset, **fields), ids()
    labels = x.clone()
    labels[0, :5] = -100
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    for inputs in (
        {"labels": labels},
        {"labels": labels, "num_items_in_batch": 7},
        {"labels": x, "shift_labels": shifted},
    ):
        losses, gradients = [], []
        for skip_logits in (False, True):
            model.zero_grad()
            outputs = model(x, skip_logits=skip_logits, **inputs)
            outputs.loss.backward()
            losses.append(outputs.loss)
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        assert outputs.logits is None
        torch.testing.assert_close(*losses)
        for plain, chunked in zip(*gradients, strict=True):
            torch.testing.assert_close(chunked, plain, atol=1e-5, rtol=1e-4)


def test_logits_to_keep():
    model, x = tiny_model("nanochat"), ids()
    full = model(x).logits
    torch.testing.assert_close(model(x, logits_to_keep=3).logits, full[:, -3:])
    torch.testing.assert_close(model(x, logits_to_keep=torch.tensor([0, 5])).logits, full[:, [0, 5]])


def test_attentions_and_hidden_states_on_request():
    model, x = tiny_model("llama"), ids()
    model.set_attn_implementation("eager")
    out = model(x, output_attentions=True, output_hidden_states=True)
    assert len(out.attentions) == 2
    assert len(out.hidden_states) == 3
    torch.testing.assert_close(out.attentions[0].sum(-1), torch.ones(2, 4, 12))
    assert out.attentions[0].triu(1).abs().max() == 0
    plain = model(x)
    assert plain.attentions is None
    assert plain.hidden_states is None


def test_soft_cap_bounds_the_logits():
    model = tiny_model("nanochat", final_logit_softcapping=0.5)
    logits = model(ids()).logits
    assert 0.4 < logits.abs().max() <= 0.5


@pytest.mark.parametrize(("tied", "preset"), [(True, "llama"), (False, "gpt2")])
def test_embedding_and_head_are_tied_as_configured(tied, preset, tmp_path):
    model = ScratchGPTForCausalLM(tiny_config(preset, tie_word_embeddings=tied))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied


@pytest.mark.parametrize(("preset", "fields"), STYLES)
def test_reload_gives_the_same_logits(preset, fields, tmp_path):
    model, x = tiny_model(preset, **fields), ids()
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(
        AutoModelForCausalLM.from_pretrained(tmp_path)(x).logits, model(x).logits, atol=0, rtol=0
    )


def test_initial_weights_follow_the_presets():
    scaled = ScratchGPTForCausalLM(tiny_config("gpt2", hidden_size=128, num_hidden_layers=8))
    assert scaled.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert scaled.model.layers[0].mlp.down_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    zero = ScratchGPTModel(tiny_config("nanochat"))
    x = ids()
    torch.testing.assert_close(zero(x).last_hidden_state, zero.norm(zero.embedding_norm(zero.embed_tokens(x))))


def test_classification_reads_the_last_real_token():
    model = randomise(ScratchGPTForSequenceClassification(tiny_config("llama", num_labels=3))).eval()
    x = ids(1, 7)
    alone = model(x).logits
    for place in (slice(5, 12), slice(0, 7)):
        padded, mask = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.long)
        padded[:, place], mask[:, place] = x[0], 1
        torch.testing.assert_close(model(padded, attention_mask=mask).logits[:1], alone, atol=1e-5, rtol=1e-4)
    padded = torch.zeros(2, 12, dtype=torch.long)
    padded[:, :7] = x[0]
    torch.testing.assert_close(model(padded).logits[:1], alone, atol=1e-5, rtol=1e-4)  # found by the padding id
    loss = model(x, labels=torch.tensor([2])).loss
    assert loss.item() == pytest.approx(-alone.log_softmax(-1)[0, 2].item(), abs=1e-5)
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match="attention_mask"):
        model(padded)


@pytest.mark.parametrize("preset", PRESETS)
def test_tiny_model_overfits_a_text(preset):
    model = ScratchGPTForCausalLM(
        tiny_config(preset, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0)
    )
    x = ids(2, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(x, labels=x).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1
    assert torch.equal(model.eval()(x).logits[:, :-1].argmax(-1), x[:, 1:])


def test_bigram_converges_to_the_relative_frequencies():
    text = torch.randint(0, 5, (1, 400), generator=torch.Generator().manual_seed(1))
    model = ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=5))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(300):
        model(text, labels=text).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    counts = torch.zeros(5, 5)
    for a, b in zip(text[0, :-1], text[0, 1:], strict=True):
        counts[a, b] += 1
    torch.testing.assert_close(model.table.weight.softmax(-1), counts / counts.sum(-1, keepdim=True), atol=1e-3, rtol=0)


def test_bigram_generates_and_reloads(tmp_path):
    model = randomise(ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=20, eos_token_id=19, pad_token_id=0)))
    model.save_pretrained(tmp_path)
    again, x = AutoModelForCausalLM.from_pretrained(tmp_path), ids(2, 4, 20)
    torch.testing.assert_close(again(x).logits, model(x).logits, atol=0, rtol=0)
    generated = again.generate(x, max_new_tokens=6, do_sample=False)
    assert torch.equal(generated[:, 4], model.table.weight.argmax(-1)[x[:, -1]])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": 10, "num_attention_heads": 3}, ["num_attention_heads is 3", "divides"]),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, ["num_key_value_heads is 3", "divisor"]),
        ({"attention_dropout": 1.0, "vocab_size": 0}, ["attention_dropout is 1.0", "vocab_size is 0"]),
        ({"position_type": "rotary", "head_dim": 5}, ["head_dim is 5", "even"]),
        ({"position_type": "rotary", "rope_parameters": {"rope_type": "spiral"}}, ["rope_type is 'spiral'"]),
        ({"norm_type": "batch_norm"}, ["norm_type", "batch_norm"]),
        ({"num_attention_heads": 0}, ["num_attention_heads is 0"]),
        ({"ngram_buckets": 1000, "ngram_size": 9}, ["ngram_buckets is 1000, want a power", "ngram_size is 9, want 2"]),
    ],
)
def test_config_lists_all_violations(fields, words):
    with pytest.raises(StrictDataclassError) as error:
        ScratchGPTConfig(**fields)
    for word in words:
        assert word in str(error.value)


def test_input_longer_than_learned_positions_is_refused():
    with pytest.raises(ValueError, match="65 tokens, but this model has learned positions for 64"):
        tiny_model("gpt2")(ids(1, 65))
    assert tiny_model("llama")(ids(1, 65)).logits.shape == (1, 65, 99)


def test_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'gtp2': choose one of gpt2, llama, nanochat"):
        ScratchGPTConfig.from_preset("gtp2")


def test_dropout_has_the_distribution_of_torchs():
    dropout, x = Dropout(0.3).train(), torch.full((1000, 1001), 2.0)
    torch.manual_seed(0)
    y = dropout(x)
    assert ((y == 0).float().mean() - 0.3).abs() < 2e-3
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 2 / 0.7), rtol=1e-4, atol=0)
    kept = (y != 0).float()
    for shift in (1, 4, 1001):  # neighbours, those from one draw, and rows are independent
        both_kept = (kept.flatten()[:-shift] * kept.flatten()[shift:]).mean()
        assert (both_kept - 0.7**2).abs() < 3e-3
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    assert not torch.equal(dropout(x), y)
    assert dropout.eval()(x) is x
    z = torch.ones(7, requires_grad=True)
    dropout.train()(z).sum().backward()
    assert set(z.grad.tolist()) <= {0.0, z.grad.max().item()}


@pytest.mark.parametrize("preset", ["gpt2", "llama"])
def test_inputs_of_linear_layers_are_cast_to_16_bits_once(preset):
    """Otherwise each layer keeps its own copy for the backward pass. 3 tensors of this size remain in a block: the
    inputs of attention, of its output projection and of the feed-forward network."""
    model, kept = tiny_model(preset, num_hidden_layers=1), {}
    tokens = torch.randint(5, 99, (2, 8))

    def keep(tensor):
        if tensor.dtype == torch.bfloat16 and tensor.shape == (16, 32):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model.model(tokens)
    assert len(kept) == 3


def test_float64_is_kept_under_autocast():
    model, tokens = tiny_model("llama").double(), ids()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(tokens).logits.dtype == torch.float64
