"""The loss of every head, and the norms: batches without scored tokens, unneeded gradients, and rounding."""

import pytest
import torch
from helpers.models import tiny_encoder, tiny_model, tiny_seq2seq
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from scratch_gpt import ScratchBigramConfig, ScratchBigramForCausalLM
from scratch_gpt.models.linear_cross_entropy import linear_cross_entropy, token_loss
from scratch_gpt.models.modeling_scratch_encoder import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
)
from scratch_gpt.models.modeling_scratch_gpt import ScratchGPTForSequenceClassification
from scratch_gpt.models.normalization import RMSNorm

IDS = torch.arange(3, 15).view(2, 6)
HEADS = {
    "causal": lambda: tiny_model("llama"),
    "bigram": lambda: ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=99)),
    "masked": lambda: tiny_encoder(ScratchEncoderForMaskedLM, "bert"),
    "seq2seq": lambda: tiny_seq2seq("vaswani2017", label_smoothing=0.1),
    "classifier": lambda: tiny_encoder(ScratchEncoderForSequenceClassification, "bert"),
    "causal classifier": lambda: ScratchGPTForSequenceClassification(tiny_model("llama", num_labels=3).config),
}


@pytest.mark.parametrize("num_items_in_batch", [None, 0, torch.tensor(0)])
@pytest.mark.parametrize("skip_logits", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_batch_without_scored_tokens_has_zero_loss_and_gradient(head, skip_logits, num_items_in_batch):
    model = HEADS[head]().train()
    more = {} if "classifier" in head else {"num_items_in_batch": num_items_in_batch}
    if head in ("causal", "masked", "seq2seq"):
        more["skip_logits"] = skip_logits
    if head == "seq2seq":
        more["decoder_input_ids"] = IDS
    labels = torch.full_like(IDS[:, 0] if "classifier" in head else IDS, -100)
    loss = model(input_ids=IDS, labels=labels, **more).loss
    assert loss.item() == 0
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@pytest.mark.parametrize("num_items_in_batch", [None, 3, torch.tensor(7)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_torchs_mean_over_scored_positions(num_items_in_batch, smoothing):
    states, head = torch.randn(4, 5, 16), torch.nn.Linear(16, 30)
    labels = torch.randint(0, 30, (4, 5))
    labels[1:3, 2:] = -100
    logits = head(states)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    if num_items_in_batch is not None:
        expected = expected * (labels != -100).sum() / num_items_in_batch
    how = {"num_items_in_batch": num_items_in_batch, "label_smoothing": smoothing}
    torch.testing.assert_close(token_loss(labels, logits, **how), expected)
    torch.testing.assert_close(token_loss(labels, None, states, head, **how), expected)


@pytest.mark.parametrize("learned", ["states", "weight", "bias"])
def test_fused_loss_computes_only_the_needed_gradients(learned):
    """No gradient is allocated for a frozen head, as with LoRA; the other gradients are the same as with it."""
    parts = {"states": torch.randn(20, 16), "weight": torch.randn(50, 16), "bias": torch.randn(50)}
    labels = torch.randint(0, 50, (20,))
    labels[::4] = -100

    def gradients(names):
        leaves = {name: tensor.clone().requires_grad_(name in names) for name, tensor in parts.items()}
        built = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: built.append(t.shape) or t, lambda t: t):
            loss = linear_cross_entropy(leaves["states"], leaves["weight"], labels, leaves["bias"], 0.1)
        loss.backward()
        return {name: leaf.grad for name, leaf in leaves.items()}, built

    single, built = gradients([learned])
    everything, _ = gradients(list(parts))
    assert built == [parts[learned].shape]
    assert [name for name, gradient in single.items() if gradient is not None] == [learned]
    assert torch.equal(single[learned], everything[learned])


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_equals_its_formula_in_dtype_and_rounding(dtype, weight_dtype):
    """With a float32 weight and a 16-bit input, the formula returned float32."""
    norm = RMSNorm(128)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * torch.randn(128))
    norm, x = norm.to(weight_dtype), (3 * torch.randn(64, 128)).to(dtype)
    assert norm(x).dtype == norm.formula(x).dtype == dtype
    torch.testing.assert_close(norm(x), norm.formula(x), rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_equals_llamas_except_for_one_rounding(dtype):
    ours, theirs = RMSNorm(128), LlamaRMSNorm(128)
    with torch.no_grad():
        ours.weight.copy_(1 + 0.3 * torch.randn(128))
        theirs.weight.copy_(ours.weight)
    x = (3 * torch.randn(64, 128)).to(dtype)
    expected = theirs.to(dtype)(x)
    assert expected.dtype == ours.to(dtype)(x).dtype
    torch.testing.assert_close(ours(x), expected, rtol=torch.finfo(dtype).eps, atol=0)
