"""Attention by blocks of queries: its gradients are correct, and other cases fall back to SDPA or eager attention."""

import pytest
import torch
from helpers.models import tiny_encoder, tiny_model
from helpers.processes import needs_compiler
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from scratch_gpt import ScratchEncoderForMaskedLM
from scratch_gpt.models import fast_decoding
from scratch_gpt.models.attention import eager_attention_forward
from scratch_gpt.train.performance import blockwise_attention
from scratch_gpt.train.performance.blockwise_attention import BLOCK, BLOCKWISE, LONG_ROW, SHORT_ROW
from scratch_gpt.train.performance.compile_blocks import compile_blocks


def model_with(attention, compiled, dtype=torch.bfloat16, **overrides):
    """Return the query, key and value weights of a new model, and a function that gives its loss under autocast."""
    model = tiny_model("llama", max_position_embeddings=640, num_hidden_layers=1, **overrides).train()
    model.set_attn_implementation(attention)
    compile_blocks(model, "on" if compiled else "off", 0, True)

    def loss(tokens, **inputs):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model(tokens, labels=tokens, use_cache=False, **inputs).loss

    attention = model.model.layers[0].self_attn
    return [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight], loss


@pytest.fixture
def calls(monkeypatch):
    """The names of the attention functions that were called, in order."""
    names = []

    def recorded(name, function):
        def call(*args, **kwargs):
            names.append(name)
            return function(*args, **kwargs)

        return call

    for name in ("sdpa_attention_forward", "eager_attention_forward"):
        monkeypatch.setattr(blockwise_attention, name, recorded(name.split("_")[0], getattr(blockwise_attention, name)))
    for name in ("_Blockwise", "_BlockwiseRecomputed"):
        function = getattr(blockwise_attention, name)
        monkeypatch.setattr(blockwise_attention, name, type(name, (), {"apply": recorded(name, function.apply)}))
    return names


def attention_gradients(attention, inputs, grad, mask=None):
    """Return the gradients of query, key and value under causal attention."""
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, len(inputs[0][0]) // len(inputs[1][0])
    attended, _ = attention(module, *inputs, mask, scaling=0.25)
    return torch.autograd.grad(attended, inputs, grad.to(inputs[0].dtype).transpose(1, 2))


def causal_mask(length, dtype):
    return torch.full((length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)


def errors(found, expected):
    return [((x - y).norm() / y.norm()).item() for x, y in zip(found, expected, strict=True)]


def documents(length, mask_dtype=None):
    """Whether a query and a key of two rows are of the same document, and the key not after the query; or that as a
    mask to add."""
    document = torch.arange(length)[None] // torch.tensor([[length // 3 + 1], [length // 2 + 1]])  # (2, T)
    visible = (document[:, None, :, None] == document[:, None, None, :]) & torch.ones(length, length).tril().bool()
    return visible if mask_dtype is None else torch.where(visible, 0.0, torch.finfo(mask_dtype).min).to(mask_dtype)


def check_gradients(attention, dtype, length, mask, eager_mask):
    """The error against float64 is less than twice that of eager attention, with grouped queries."""
    torch.manual_seed(length)
    query, key, value, grad = (torch.randn(2, heads, length, 16, dtype=dtype) for heads in (4, 2, 2, 4))
    inputs = [x.requires_grad_() for x in (query, key, value)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = attention_gradients(sdpa_attention_forward, exact, grad, mask)
    eager_errors = errors(attention_gradients(eager_attention_forward, inputs, grad, eager_mask), expected)
    found = errors(attention_gradients(attention, inputs, grad, mask), expected)
    for error, eager_error in zip(found, eager_errors, strict=True):
        assert 0 < error < 2 * eager_error, (length, found, eager_errors)


@needs_compiler
@pytest.mark.parametrize(
    "dtype",
    [pytest.param(torch.float32, marks=pytest.mark.release), pytest.param(torch.bfloat16, marks=pytest.mark.slow)],
)
def test_gradients_of_compiled_attention_equal_those_of_sdpa(dtype, calls):
    attention = torch.compile(blockwise_attention.blockwise_attention_forward, dynamic=False)
    long = "sdpa" if dtype == torch.float32 else "_BlockwiseRecomputed"
    for length, name in {64: "_Blockwise", 301: "_Blockwise", LONG_ROW: "_Blockwise", LONG_ROW + 1: long}.items():
        calls.clear()
        check_gradients(attention, dtype, length, None, causal_mask(length, dtype))
        assert name in calls, length
        assert "eager" not in calls, length
    calls.clear()
    check_gradients(attention, dtype, 301, documents(301), documents(301, dtype))
    assert "_Blockwise" in calls
    torch.compiler.reset()


@pytest.mark.parametrize("length", [64, BLOCK + 1, 301, LONG_ROW])
def test_gradients_in_bfloat16_equal_those_of_sdpa(length, calls):
    """Uncompiled, without and with documents."""
    attention = blockwise_attention.blockwise_attention_forward
    check_gradients(attention, torch.bfloat16, length, None, causal_mask(length, torch.bfloat16))
    check_gradients(attention, torch.bfloat16, length, documents(length), documents(length, torch.bfloat16))
    assert set(calls) == {"_Blockwise"}


def test_a_mask_that_is_added_is_left_to_sdpa(calls):
    query, key, value = torch.randn(3, 1, 1, 4, 8).bfloat16()
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, 1
    mask = causal_mask(4, torch.bfloat16)[None, None] + torch.randn(1, 1, 4, 4).bfloat16()
    inputs = (module, query, key, value, mask)
    attended, _ = blockwise_attention.blockwise_attention_forward(*inputs, scaling=0.25)
    assert set(calls) == {"sdpa"}
    torch.testing.assert_close(attended, eager_attention_forward(*inputs, 0.25)[0], atol=0.02, rtol=0.02)


def test_a_query_of_padding_gets_a_finite_output():
    query, key, value = torch.randn(3, 1, 1, 4, 8).bfloat16()
    mask = torch.ones(1, 1, 4, 4).tril().bool()
    mask[..., 0, :] = False
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, 1
    attended, _ = blockwise_attention.blockwise_attention_forward(module, query, key, value, mask, scaling=0.25)
    assert attended.isfinite().all()


@pytest.mark.slow
@needs_compiler
def test_blockwise_attention_is_used_under_autocast(calls):
    ours, our_loss = model_with(BLOCKWISE, True)
    sdpa, sdpa_loss = model_with("sdpa", False)
    exact, exact_loss = model_with("sdpa", False, torch.float32)
    tokens = torch.randint(5, 99, (2, 301))
    pairs = ((our_loss, ours), (sdpa_loss, sdpa), (exact_loss, exact))
    found, peer, expected = (torch.autograd.grad(loss(tokens), weights) for loss, weights in pairs)
    assert set(calls) == {"_Blockwise"}
    for error, sdpa_error in zip(errors(found, expected), errors(peer, expected), strict=True):
        assert 0 < error < 2 * sdpa_error < 0.05
    torch.compiler.reset()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("compiled", "dtype", "overrides", "length", "padded", "fallback"),
    [
        (False, torch.bfloat16, {}, LONG_ROW + 1, False, "sdpa"),
        (False, torch.float32, {"attention_dropout": 0.1}, SHORT_ROW, False, "eager"),
        (False, torch.float32, {}, 16, False, "sdpa"),
        (False, torch.bfloat16, {"attention_dropout": 0.1}, SHORT_ROW, False, "eager"),
        (True, torch.bfloat16, {"attention_dropout": 0.1}, 300, False, "sdpa"),
        (True, torch.bfloat16, {}, LONG_ROW + 1, True, "sdpa"),
    ],
    ids=["long", "short float32 dropout", "float32", "short dropout", "dropout", "long padding"],
)
def test_other_cases_fall_back_to_sdpa_or_eager_attention(compiled, dtype, overrides, length, padded, fallback, calls):
    inputs, losses = {}, []
    tokens = torch.randint(5, 99, (2, length))
    if padded:
        inputs["attention_mask"] = torch.ones_like(tokens)
        inputs["attention_mask"][0, :7] = 0
    for attention in (BLOCKWISE, fallback):
        weights, loss = model_with(attention, compiled, dtype, **overrides)
        torch.manual_seed(0)
        losses.append(loss(tokens, **inputs).item())
        torch.autograd.grad(loss(tokens, **inputs), weights)
    assert losses[0] == losses[1]
    assert set(calls) == {fallback}
    torch.compiler.reset()


@needs_compiler
@pytest.mark.parametrize("length", [300, LONG_ROW + 1])
def test_gradients_of_large_scores_are_accurate(length):
    """Large scores have large rounding errors: the error of the value gradient stays below 1.2 times that of eager
    attention, those of the query and key gradients below 2 times."""
    query, key, value, grad = torch.randn(4, 2, 2, length, 16).bfloat16()
    inputs = [(10 * query).requires_grad_(), key.requires_grad_(), value.requires_grad_()]
    mask = causal_mask(length, torch.bfloat16)
    more = [x.detach().double().requires_grad_() for x in inputs]
    exact = attention_gradients(eager_attention_forward, more, grad, mask.double())
    found = errors(
        attention_gradients(torch.compile(blockwise_attention.blockwise_attention_forward), inputs, grad), exact
    )
    eager_errors = errors(attention_gradients(eager_attention_forward, inputs, grad, mask), exact)
    assert all(
        0 < error < factor * eager_error
        for error, eager_error, factor in zip(found, eager_errors, (2, 2, 1.2), strict=True)
    )
    torch.compiler.reset()


@needs_compiler
def test_encoder_attention_is_bidirectional():
    tokens, states = torch.randint(5, 99, (2, 300)), []
    for attention in (BLOCKWISE, "sdpa"):
        model = tiny_encoder(ScratchEncoderForMaskedLM, "bert", max_position_embeddings=512)
        model.set_attn_implementation(attention)
        compile_blocks(model, "on", 0, True)
        with torch.autocast("cpu", torch.bfloat16):
            states.append(model(tokens).logits)
    assert torch.equal(*states)
    torch.compiler.reset()


@pytest.mark.parametrize("attention", ["eager", "sdpa", BLOCKWISE])
def test_equivalent_attention_uses_fast_decoding(attention, monkeypatch):
    steps, step = [], fast_decoding.StepDecoder.step
    monkeypatch.setattr(fast_decoding.StepDecoder, "step", lambda self, ids: steps.append(ids) or step(self, ids))
    model, ids = tiny_model("llama"), torch.randint(3, 99, (1, 6))
    model.set_attn_implementation(attention)
    model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert steps
