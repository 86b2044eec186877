"""Attention by blocks of queries: its gradients are right where it is used, and SDPA stands in everywhere else."""

import pytest
import torch
from conftest import tiny_encoder, tiny_model
from test_compiling import needs_compiler
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from scratch_gpt import ScratchEncoderForMaskedLM
from scratch_gpt.models import decoding
from scratch_gpt.models.attention import eager_attention_forward
from scratch_gpt.train import blockwise_attention
from scratch_gpt.train.blockwise_attention import BLOCKWISE, LONG_ROW
from scratch_gpt.train.compiling import compile_blocks


def model_with(attention, compiled, dtype=torch.bfloat16, **overrides):
    """Weights of a model that only attention teaches, and what gives its loss in `dtype`'s autocast."""
    model = tiny_model("llama", max_position_embeddings=512, num_hidden_layers=1, **overrides).train()
    model.set_attn_implementation(attention)
    compile_blocks(model, "on" if compiled else "off", 0)

    def loss(tokens, **inputs):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model(tokens, labels=tokens, use_cache=False, **inputs).loss

    attention = model.model.layers[0].self_attn
    return [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight], loss


@needs_compiler
def test_its_gradients_are_those_of_sdpa(monkeypatch):
    """Nearly as near to those in float32, for long rows of any length; short ones go to SDPA."""
    calls = []

    def counted(*arguments, **more):
        calls.append(arguments)
        return sdpa_attention_forward(*arguments, **more)

    monkeypatch.setattr(blockwise_attention, "sdpa_attention_forward", counted)
    sizes = {"num_key_value_heads": 2, "head_dim": 12}
    ours, our_loss = model_with(BLOCKWISE, True, **sizes)
    sdpa, sdpa_loss = model_with("sdpa", False, **sizes)
    exact, exact_loss = model_with("sdpa", False, torch.float32, **sizes)
    for lengths in ((301, LONG_ROW + 1, 333, 512), (LONG_ROW, 7, 90)):
        for length in lengths:
            tokens = torch.randint(5, 99, (2, length))
            expected = torch.autograd.grad(exact_loss(tokens), exact)
            found, peers = (torch.autograd.grad(f(tokens), w) for f, w in ((our_loss, ours), (sdpa_loss, sdpa)))
            for got, peer, wanted in zip(found, peers, expected, strict=True):
                error, usual = ((each - wanted).norm() / wanted.norm() for each in (got, peer))
                assert 0 < error < 2 * usual < 0.05, length
        assert bool(calls) == (LONG_ROW in lengths)
    torch.compiler.reset()


@needs_compiler
@pytest.mark.parametrize(
    ("compiled", "dtype", "overrides", "padded"),
    [
        (False, torch.bfloat16, {}, False),
        (True, torch.float32, {}, False),
        (True, torch.bfloat16, {"attention_dropout": 0.1}, False),
        (True, torch.bfloat16, {}, True),
    ],
    ids=["plain", "float32", "dropout", "padding"],
)
def test_sdpa_stands_in(compiled, dtype, overrides, padded, monkeypatch):
    class Wrong:
        @staticmethod
        def apply(query, *_):
            return torch.zeros_like(query)

    monkeypatch.setattr(blockwise_attention, "_Blockwise", Wrong)
    inputs, losses = {}, []
    tokens = torch.randint(5, 99, (2, 300))
    if padded:
        inputs["attention_mask"] = torch.ones_like(tokens)
        inputs["attention_mask"][0, :7] = 0
    for attention in (BLOCKWISE, "sdpa"):
        weights, loss = model_with(attention, compiled, dtype, **overrides)
        torch.manual_seed(0)
        losses.append(loss(tokens, **inputs).item())
        torch.autograd.grad(loss(tokens, **inputs), weights)
    assert losses[0] == losses[1]
    torch.compiler.reset()


@needs_compiler
def test_sharp_attention_learns_as_with_plain_products():
    """Rounded scores are far off where they are great: the gradient of the values stays as good as that of eager
    attention, those of queries and keys nearly."""
    query, key, value, grad = torch.randn(4, 2, 2, 300, 16).bfloat16()
    inputs = [(10 * query).requires_grad_(), key.requires_grad_(), value.requires_grad_()]
    module = torch.nn.Module()
    module.is_causal = True
    mask = torch.full((300, 300), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16).triu(1)

    def learned(attention, inputs, mask):
        attended, _ = attention(module, *inputs, mask, scaling=0.25)
        return torch.autograd.grad(attended, inputs, grad.to(inputs[0].dtype).transpose(1, 2))

    exact = learned(eager_attention_forward, [x.detach().double().requires_grad_() for x in inputs], mask.double())
    found = learned(torch.compile(blockwise_attention.blockwise_attention_forward), inputs, None)
    plain = learned(eager_attention_forward, inputs, mask)
    for got, peer, wanted, times in zip(found, plain, exact, (2, 2, 1.2), strict=True):
        error, usual = ((each - wanted).norm() / wanted.norm() for each in (got, peer))
        assert 0 < error < times * usual
    torch.compiler.reset()


@needs_compiler
def test_an_encoder_looks_both_ways():
    tokens, states = torch.randint(5, 99, (2, 300)), []
    for attention in (BLOCKWISE, "sdpa"):
        model = tiny_encoder(ScratchEncoderForMaskedLM, "bert", max_position_embeddings=512)
        model.set_attn_implementation(attention)
        compile_blocks(model, "on", 0)
        with torch.autocast("cpu", torch.bfloat16):
            states.append(model(tokens).logits)
    assert torch.equal(*states)
    torch.compiler.reset()


@pytest.mark.parametrize("attention", ["eager", "sdpa", BLOCKWISE])
def test_attention_that_is_the_same_function_keeps_the_lean_step(attention, monkeypatch):
    steps, step = [], decoding.StepDecoder.step
    monkeypatch.setattr(decoding.StepDecoder, "step", lambda self, ids: steps.append(ids) or step(self, ids))
    model, ids = tiny_model("llama"), torch.randint(3, 99, (1, 6))
    model.set_attn_implementation(attention)
    model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert steps
