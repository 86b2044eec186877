"""Linear layers in int8: their rounding, the quality of a quantized model, and what is refused."""

import math

import pytest
import torch
from helpers.models import save_tiny, tiny_encoder, tiny_model
from helpers.processes import run_here
from torch import nn

from scratch_gpt import ScratchEncoderForMaskedLM
from scratch_gpt.cli.app import open_model
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.models.functional_layers import functional_linear
from scratch_gpt.models.int8_linear import Int8Linear, quantize_int8
from scratch_gpt.train import train


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_weight_is_off_by_at_most_half_a_step(dtype, bias):
    layer = nn.Linear(48, 32, bias=bias).to(dtype)
    layer.weight.data[3] = 0  # a row without a largest element
    quantized = Int8Linear(layer)
    restored = quantized.weight.float() * quantized.scale.float()[:, None]
    step = layer.weight.float().abs().amax(1, keepdim=True) / 127
    rounding = torch.finfo(dtype).eps * layer.weight.float().abs()  # of the scale
    assert ((restored - layer.weight.float()).abs() <= step / 2 + rounding + 1e-7).all()
    x = torch.randn(2, 5, 48).to(dtype)
    expected = nn.functional.linear(x.float(), restored, None if layer.bias is None else layer.bias.float())
    # An input is off by at most half a step, too.
    largest = x.float().abs().amax(-1, keepdim=True) / 254 * restored.abs().sum(-1)
    rounded = 1e-5 if dtype == torch.float32 else 2e-2
    assert ((quantized(x).float() - expected).abs() <= largest + rounded).all()
    assert (quantized(x).float() - expected).abs().mean() < 0.05 * expected.abs().mean()
    torch.testing.assert_close(functional_linear(quantized)(x[0]), quantized(x[0]))


def test_all_linear_layers_are_quantized_and_the_embedding_is_not():
    for model in (tiny_model("llama"), tiny_model("gpt2"), tiny_encoder(ScratchEncoderForMaskedLM, "bert")):
        embedding = model.get_input_embeddings().weight.clone()
        quantize_int8(model.eval())
        assert not any(isinstance(module, nn.Linear) for module in model.modules())
        assert torch.equal(model.get_input_embeddings().weight, embedding)
        assert not any(module.training for module in model.modules())
        assert torch.isfinite(model(torch.arange(5, 14)[None]).logits).all()


def test_a_quantized_model_is_not_saved(tmp_path):
    model = quantize_int8(tiny_model("llama").eval())
    with pytest.raises(ValueError, match="quantized to int8 in memory only: save the model that it was loaded from"):
        model.save_pretrained(tmp_path / "model")


def test_other_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        quantize_int8(tiny_model("llama").train())
    with pytest.raises(ValueError, match="experts can't be quantized"):
        quantize_int8(tiny_model("mixtral").eval())


def test_commands_quantize_what_they_load(tmp_path):
    folder = save_tiny(tmp_path / "model")
    model, _ = open_model(str(folder), dtype="int8")
    assert isinstance(model.lm_head, Int8Linear)
    options = ("--prompt", "abc", "--max_new_tokens", "4", "--temperature", "0")
    assert run_here("scratch-gpt", "generate", str(folder), *options, "--dtype", "int8", cwd=tmp_path).stdout
    open_model(str(folder))[0].save_pretrained(tmp_path / "other")
    refused = run_here("scratch-gpt", "generate", str(folder), *options, "--dtype", "int4", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "want one of auto, float32, bfloat16, float16, int8" in refused.stderr


@pytest.mark.slow
def test_perplexity_is_within_one_percent(tmp_path):
    """Of a trained model: random weights have no outliers."""
    sizes = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_stories": 3000}
    run = {"max_steps": 250, "eval_every": 0, "baselines": False, "precision": "fp32", "num_threads": 1}
    train("language_modeling", output_dir=str(tmp_path / "run"), **sizes, **run)
    text = "\n".join(stories(seed=5, count=40))

    def perplexity(dtype: str) -> float:
        model, tokenizer = open_model(str(tmp_path / "run"), dtype=dtype)
        ids = torch.tensor(tokenizer(text).input_ids)[: 64 * 40].view(-1, 64)
        with torch.no_grad():
            return math.exp(model(ids, labels=ids).loss)

    assert perplexity("float32") < 30
    assert perplexity("int8") == pytest.approx(perplexity("float32"), rel=0.01)
