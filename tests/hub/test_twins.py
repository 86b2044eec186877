"""Our models against transformers' own: equal logits with the same weights, in both directions."""

import pytest
import torch
from helpers.models import randomise, tiny_config, tiny_model
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    NanoChatConfig,
    NanoChatForCausalLM,
)

from scratch_gpt import ScratchGPTForCausalLM, export_native, import_native

SHAPE = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
NATIVES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SHAPE)),
    "gpt2-untied-erf": lambda: GPT2LMHeadModel(
        GPT2Config(**SHAPE, tie_word_embeddings=False, activation_function="gelu", n_inner=48)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=80)),
    "llama-grouped": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, intermediate_size=80, num_key_value_heads=2, head_dim=12, tie_word_embeddings=True)
    ),
    "llama-3-with-biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, intermediate_size=80, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3)
    ),
    "llama-dynamic": lambda: LlamaForCausalLM(
        LlamaConfig(
            **{**SHAPE, "max_position_embeddings": 16},
            intermediate_size=80,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        )
    ),
    "nanochat": lambda: NanoChatForCausalLM(NanoChatConfig(**SHAPE, intermediate_size=80)),
    "nanochat-grouped-with-biases": lambda: NanoChatForCausalLM(
        NanoChatConfig(**SHAPE, intermediate_size=80, num_key_value_heads=2, attention_bias=True)
    ),
    "nanochat-uncapped": lambda: NanoChatForCausalLM(
        NanoChatConfig(**SHAPE, intermediate_size=80, final_logit_softcapping=None)
    ),
}


def padded_batch():
    x = torch.randint(3, 99, (3, 17))
    mask = torch.ones_like(x)
    mask[0, :5] = 0
    mask[1, 12:] = 0
    return x, mask, (mask.cumsum(-1) - 1).clamp(min=0)


@pytest.mark.parametrize("name", NATIVES)
def test_logits_are_equal_after_import_and_export(name, tmp_path):
    native = randomise(NATIVES[name]()).eval()
    ours = import_native(native)
    out = export_native(ours)
    assert type(out) is type(native)
    x, mask, positions = padded_batch()
    real = mask.bool()
    expected = native(x, attention_mask=mask, position_ids=positions).logits[real]
    assert expected.std() > 0.1  # the comparison is meaningful
    assert (ours(x, attention_mask=mask).logits[real] - expected).abs().max() <= 1e-4
    assert (out(x, attention_mask=mask, position_ids=positions).logits[real] - expected).abs().max() <= 1e-4

    left = {"attention_mask": mask[:1], "max_new_tokens": 20, "do_sample": False}
    greedy = native.generate(x[:1], **left)
    assert torch.equal(ours.generate(x[:1], **left), greedy)
    out.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.__class__.__module__.startswith("transformers.")
    assert torch.equal(again.generate(x[:1], **left), greedy)


@pytest.mark.parametrize(("preset", "cls"), [("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM")])
def test_dtype_and_generation_config_are_exported(preset, cls):
    model = tiny_model(preset).to(torch.bfloat16)
    model.generation_config.temperature = 0.7
    model.generation_config.do_sample = True
    native = export_native(model)
    assert type(native).__name__ == cls
    assert native.dtype == torch.bfloat16
    assert native.generation_config.temperature == 0.7
    assert import_native(native).dtype == torch.bfloat16


@pytest.mark.parametrize("preset", ["llama", "nanochat"])
def test_half_precision_twins_are_equal_at_late_positions(preset):
    """Rotary frequencies stay in float32: rounded to bfloat16 they are a radian off after some hundred tokens."""
    model = tiny_model(preset, max_position_embeddings=1024).to(torch.bfloat16)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    x = torch.randint(3, 99, (1, 900))
    native = export_native(model)
    assert native.model.rotary_emb.inv_freq.dtype == torch.float32
    again = import_native(native)
    assert again.model.rotary_emb.inv_freq.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(again(x).logits, model(x).logits, atol=0, rtol=0)
        assert (native(x).logits - model(x).logits).abs().max() < 0.1


@pytest.mark.parametrize(
    ("preset", "fields", "reason"),
    [
        ("gpt2", {"norm_position": "post"}, "norm_position is 'post'"),
        ("gpt2", {"num_key_value_heads": 2}, "num_key_value_heads is 2"),
        ("gpt2", {"head_dim": 4}, "head_dim is 4"),
        ("gpt2", {"position_type": "sinusoidal"}, "position_type is 'sinusoidal'"),
        ("llama", {"embedding_norm": True}, "embedding_norm is True"),
        ("llama", {"final_logit_softcapping": 5.0}, "final_logit_softcapping is 5.0"),
        ("nanochat", {"mlp_bias": True}, "mlp_bias is True"),
        ("nanochat_ngram", {}, "ngram_buckets is 1024, NanoChatForCausalLM has 0"),
    ],
)
def test_export_rejects_unsupported_settings(preset, fields, reason):
    with pytest.raises(ValueError, match=reason):
        export_native(ScratchGPTForCausalLM(tiny_config(preset, **fields)))


def test_import_rejects_unsupported_settings():
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx is True"):
        import_native(GPT2LMHeadModel(GPT2Config(**SHAPE, scale_attn_by_inverse_layer_idx=True)))
    with pytest.raises(ValueError, match="activation is 'mish'"):
        import_native(LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=80, hidden_act="mish")))
    bert = BertConfig(**{k: v for k, v in SHAPE.items() if k != "bos_token_id"}, intermediate_size=64, is_decoder=True)
    with pytest.raises(ValueError, match="cannot import a BertLMHeadModel"):
        import_native(BertLMHeadModel(bert))
