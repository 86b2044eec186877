"""Relative positions of T5 in all three trunks: buckets and biases, masks, caches, packed documents and refusals."""

import pytest
import torch
from helpers.models import tiny_config, tiny_encoder, tiny_model, tiny_seq2seq
from transformers import StaticCache
from transformers.models.t5.modeling_t5 import T5Attention

from scratch_gpt import ScratchEncoderForMaskedLM, ScratchGPTForCausalLM, ScratchSeq2SeqForConditionalGeneration
from scratch_gpt.models.compatibility import cache_argument, cache_of
from scratch_gpt.models.relative_positions import RelativePositionBias, relative_position_buckets
from scratch_gpt.train.optim.optimizers import parameter_groups

RELATIVE = {"position_type": "relative", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gpt(**fields):
    return tiny_model("llama", **RELATIVE, num_key_value_heads=2, **fields)


def encoder(**fields):
    return tiny_encoder(ScratchEncoderForMaskedLM, "modern", **RELATIVE, **fields)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 12), (4, 3), (64, 40), (320, 1000)])
def test_buckets_are_those_of_t5(num_buckets, max_distance, bidirectional):
    positions = torch.arange(-3000, 3001)
    expected = T5Attention._relative_position_bucket(positions, bidirectional, num_buckets, max_distance)
    assert torch.equal(relative_position_buckets(positions, num_buckets, max_distance, bidirectional), expected)
    assert expected.unique().numel() > num_buckets // 3


@pytest.mark.parametrize("is_decoder", [True, False])
@pytest.mark.parametrize("cached", [0, 5])
def test_bias_is_that_of_t5(is_decoder, cached):
    config = tiny_config("llama", **RELATIVE)
    ours = RelativePositionBias(config, bidirectional=not is_decoder)
    fields = {"is_decoder": is_decoder, "d_model": 32, "d_kv": 8, "num_heads": 4, "dropout_rate": 0.0}
    fields |= {name: value for name, value in RELATIVE.items() if name != "position_type"}
    theirs = T5Attention(type("Config", (), fields), has_relative_attention_bias=True)
    theirs.relative_attention_bias.load_state_dict(ours.state_dict())
    found = ours.bias(20, 20 + cached, cached)
    assert torch.equal(found, theirs.compute_bias(20, 20 + cached, past_seen_tokens=cached))
    assert found.shape == (1, 4, 20, 20 + cached)
    # A preallocated cache has keys after the last query; one with a window has lost the first keys.
    assert torch.equal(ours.bias(20, 64, torch.tensor(cached))[..., : 20 + cached], found)
    assert torch.equal(ours.bias(20, 18 + cached, cached), found[..., 2:])


@pytest.mark.parametrize("build", [gpt, encoder])
def test_positions_matter_and_only_their_differences(build):
    model = build()
    x = torch.randint(3, 99, (2, 9))
    with torch.no_grad():
        logits = model(x).logits
        swapped = model(x[:, [1, 0, 2, 3, 4, 5, 6, 7, 8]]).logits
        assert (swapped[:, 8] - logits[:, 8]).abs().max() > 1e-3
        left = torch.nn.functional.pad(x, (4, 0), value=7)
        mask = torch.cat((torch.zeros(2, 4), torch.ones(2, 9)), 1).long()
        torch.testing.assert_close(model(left, attention_mask=mask).logits[:, 4:], logits, atol=1e-5, rtol=0)
        right = torch.nn.functional.pad(x, (0, 4), value=7)
        torch.testing.assert_close(model(right, attention_mask=mask.flip(1)).logits[:, :9], logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", [gpt, encoder, lambda: tiny_seq2seq("t5")])
def test_eager_attention_and_sdpa_have_the_same_logits_and_gradients(build):
    model, x = build().train(), torch.randint(3, 99, (2, 9))
    for module in model.modules():
        module.p = 0.0  # dropout
        module.attention_dropout = 0.0
    mask = torch.ones_like(x)
    mask[0, :3] = 0  # the first queries of a causal model have no key
    results = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        model.zero_grad()
        out = model(x, attention_mask=mask, labels=x.masked_fill(mask == 0, -100))
        out.loss.backward()
        results.append((out.loss, {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)
    tables = [gradient for name, gradient in results[0][1].items() if "relative_bias" in name]
    assert len(tables) == (2 if model.config.is_encoder_decoder else 1)
    assert all(table.abs().sum() > 0 for table in tables)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("build", [gpt, encoder, lambda: tiny_seq2seq("t5")])
def test_gradient_checkpointing_gives_the_same_gradients(build, reentrant):
    """Of the table too, which reaches each layer through the mask."""
    model, x, gradients = build(), torch.randint(3, 99, (2, 9)), []
    for module in model.modules():
        module.p = module.attention_dropout = 0.0
    model.train()
    for _ in range(2):
        model.zero_grad()
        model(x, labels=x).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_documents_have_the_logits_of_each_alone(attention):
    model = gpt(attn_implementation=attention)
    texts = [torch.randint(3, 99, (1, length)) for length in (5, 9, 2)]
    positions = torch.cat([torch.arange(text.shape[1]) for text in texts])[None]
    with torch.no_grad():
        packed = model(torch.cat(texts, 1), position_ids=positions, use_cache=False).logits
        expected = torch.cat([model(text).logits for text in texts], 1)
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "fields", [{}, {"sliding_window": 6}, {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 6}]
)
@pytest.mark.parametrize("static", [True, False])
def test_cached_decoding_equals_the_full_forward(fields, static):
    """In pieces, also beyond the window of a cache that drops tokens."""
    model, x = gpt(**fields), torch.randint(3, 99, (2, 30))
    cache, found = StaticCache(config=model.config, max_cache_len=40) if static else None, []
    with torch.no_grad():
        expected = model(x).logits
        for first, last in ((0, 4), (4, 5), (5, 12), (12, 13), (13, 14), (14, 30)):
            out = model(x[:, first:last], use_cache=True, **cache_argument(cache))
            cache = cache_of(out)
            found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_with_and_without_a_cache(cache):
    model, x = gpt(), torch.randint(3, 99, (2, 7))
    mask = torch.ones_like(x)
    mask[0, :3] = 0
    how = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    expected = model.generate(x, use_cache=False, **how)
    assert torch.equal(model.generate(x, cache_implementation=cache, **how), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_half_precision_masks_are_finite(attention):
    """A row of a mask without any key, plus a negative bias, would be -inf, and the row NaN."""
    for dtype in (torch.bfloat16, torch.float16):
        model = gpt(attn_implementation=attention).to(dtype)
        model.model.relative_bias.weight.data -= 40
        mask = torch.tensor([[0, 0, 0, 1, 1, 1]])
        assert model(torch.randint(3, 99, (1, 6)), attention_mask=mask).logits.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            gpt(attn_implementation=attention)(torch.randint(3, 99, (1, 6)), attention_mask=mask)
            .logits.isfinite()
            .all()
        )


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention", "paged|sdpa"])
@pytest.mark.parametrize("build", [gpt, encoder])
def test_attention_functions_without_real_valued_masks_are_refused_by_name(build, attention):
    model = build()
    model.config._attn_implementation_internal = attention
    with pytest.raises(ValueError, match=f"attn_implementation is '{attention}'".replace("|", r"\|")):
        model(torch.randint(3, 99, (1, 5)))


@pytest.mark.parametrize(("buckets", "distance"), [(6, 128), (0, 128), (2, 128), (32, 16), (32, 8)])
def test_invalid_settings_are_refused(buckets, distance):
    fields = {"relative_attention_num_buckets": buckets, "relative_attention_max_distance": distance}
    with pytest.raises(
        Exception, match=f"relative_attention_num_buckets is {buckets}, want a multiple of 4, less than"
    ):
        tiny_config("llama", position_type="relative", **fields)


def test_initial_biases_are_small_and_trained_like_embeddings():
    config = tiny_seq2seq("t5", hidden_size=64, relative_attention_num_buckets=128).config
    config.relative_attention_max_distance, config.initializer_range = 512, 0.05
    model = ScratchSeq2SeqForConditionalGeneration(config)
    for stack in (model.model.encoder, model.model.decoder):
        assert stack.relative_bias.weight.std().item() == pytest.approx(0.05, rel=0.15)
    logits = model.eval()(torch.randint(3, 99, (4, 16)), decoder_input_ids=torch.randint(3, 99, (4, 16))).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(3, 99, (64,)))
    assert loss.item() == pytest.approx(torch.log(torch.tensor(99.0)).item(), abs=0.2)
    groups = parameter_groups(model)
    assert any(p is model.model.encoder.relative_bias.weight for p in groups["embeddings"])


def test_a_model_without_relative_positions_has_no_table():
    names = [name for name, _ in ScratchGPTForCausalLM(tiny_config("llama")).named_parameters()]
    assert not [name for name in names if "relative" in name]
    assert tiny_config("llama", **RELATIVE).base_model_tp_plan is None
    assert tiny_config("olmo2").base_model_tp_plan is None  # its norms are over all heads together
    assert tiny_config("llama").base_model_tp_plan is not None
