"""Tiny configs and models with random weights."""

from pathlib import Path
from typing import Any

import torch

from scratch_gpt import (
    ScratchEncoderConfig,
    ScratchGPTConfig,
    ScratchGPTForCausalLM,
    ScratchSeq2SeqConfig,
    ScratchSeq2SeqForConditionalGeneration,
    train_tokenizer,
)

PRESETS = ("gpt2", "llama", "nanochat", "nanochat_ngram")
SEQ2SEQ_PRESETS = ("vaswani2017", "modern", "bart", "mbart", "pegasus", "t5")


def tiny_config(preset: str, **overrides) -> ScratchGPTConfig:
    """A GPT config of 2 layers and width 32 with a vocabulary of 99 tokens."""
    fields = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        **({"ngram_buckets": 1024} if preset == "nanochat_ngram" else {}),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return ScratchGPTConfig.from_preset(preset, **{**fields, **overrides})


def tiny_model(preset: str, **overrides) -> ScratchGPTForCausalLM:
    """A GPT in evaluation mode with random weights, also where the initialization is zero."""
    return randomise(ScratchGPTForCausalLM(tiny_config(preset, **overrides))).eval()


def save_tiny(folder: Path) -> Path:
    """Save a tiny model and a character tokenizer to a model directory."""
    tiny_model("llama").save_pretrained(folder)
    train_tokenizer(["a b c"], "char", model_max_length=64).save_pretrained(folder)
    return folder


def tiny_seq2seq_config(preset: str, **overrides) -> ScratchSeq2SeqConfig:
    """A config of an encoder-decoder with 2 encoder and 3 decoder layers of width 32."""
    fields = {
        "vocab_size": 99,
        "hidden_size": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return ScratchSeq2SeqConfig.from_preset(preset, **{**fields, **overrides})


def tiny_seq2seq(preset: str, **overrides) -> ScratchSeq2SeqForConditionalGeneration:
    """The same for the encoder-decoder, with norm weights around 1, so that signals do not vanish after many norms."""
    return lift_norms(randomise(ScratchSeq2SeqForConditionalGeneration(tiny_seq2seq_config(preset, **overrides))))


def tiny_encoder(model_class, preset: str, **overrides):
    """The same for an encoder of `model_class`."""
    fields = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 3}
    fields |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
    return lift_norms(randomise(model_class(ScratchEncoderConfig.from_preset(preset, **{**fields, **overrides}))))


def lift_norms(model):
    """Add 1 to the weights of all norms; return the model in evaluation mode."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def randomise(model, seed: int = 0, std: float = 0.2):
    """Draw all parameters from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


# A few presets that together have every field of a family of decoders, with layers of both kinds and few experts.
FAMILY_STYLES: list[tuple[str, dict]] = [
    ("gemma3", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}),
    ("gpt_neox", {}),
    ("mixtral", {"num_experts": 4}),
    ("olmo2", {}),
    ("smollm3", {"no_rope_layers": [1, 0]}),
]
PRESET_STYLES = [*[(preset, {}) for preset in PRESETS], *FAMILY_STYLES]
STYLES = [
    *PRESET_STYLES,
    ("llama", {"num_key_value_heads": 2, "head_dim": 12}),
    ("gpt2", {"norm_position": "post", "position_type": "sinusoidal", "hidden_act": "relu"}),
    ("llama", {"position_type": "relative", "num_key_value_heads": 2}),
]


def small_paged_cache() -> dict[str, Any]:
    """Arguments of `generate_batch`, since transformers 5.9, for a cache of a few blocks: by default it takes most of
    the memory, and half a minute."""
    from transformers import ContinuousBatchingConfig

    return {"continuous_batching_config": ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)}
