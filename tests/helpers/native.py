"""Small models of transformers' own classes."""

from pathlib import Path

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    NanoChatConfig,
    NanoChatForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from helpers.models import lift_norms, randomise
from scratch_gpt import train_tokenizer
from scratch_gpt.tokenization.chat import add_chat_template

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **IDS}
DECODER |= {"max_position_embeddings": 64, "intermediate_size": 80}
BERT = {k: v for k, v in DECODER.items() if k not in ("bos_token_id", "eos_token_id")}
MARIAN = {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
MARIAN |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
MARIAN |= {"pad_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": None, "decoder_start_token_id": 0}
BART = {**MARIAN, "bos_token_id": 1}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
T5 |= {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
GATED = {
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "scale_decoder_outputs": False,
}  # releases before 5.4 need the last
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, DECODER),
    "nanochat": (NanoChatForCausalLM, NanoChatConfig, DECODER),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {k: v for k, v in DECODER.items() if k != "intermediate_size"}),
    "marian": (MarianMTModel, MarianConfig, MARIAN),
    "bart": (BartForConditionalGeneration, BartConfig, BART),
    "mbart": (MBartForConditionalGeneration, MBartConfig, BART),
    "pegasus": (PegasusForConditionalGeneration, PegasusConfig, BART),
    "t5": (T5ForConditionalGeneration, T5Config, T5),
    "t5_v1.1": (T5ForConditionalGeneration, T5Config, T5 | GATED),
    "mt5": (MT5ForConditionalGeneration, MT5Config, T5 | GATED),
    "bert": (BertForMaskedLM, BertConfig, BERT),
    "classifier": (BertForSequenceClassification, BertConfig, BERT),
}


def save_chat_model(folder: Path, dtype: torch.dtype = torch.bfloat16, template: bool = True, **fields) -> Path:
    """Save a tiny Qwen2 with random weights, and a character tokenizer, as pretrained chat models come.

    Args:
        folder: destination.
        dtype: data type of the weights.
        template: whether the tokenizer has a chat template, and the model embeddings for its tokens.
        fields: fields of the config.
    """
    tokenizer = train_tokenizer(["".join(map(chr, range(32, 127)))], "char", model_max_length=64)
    if template:
        add_chat_template(tokenizer)
    shape = {**DECODER, "vocab_size": len(tokenizer), "num_key_value_heads": 2, "tie_word_embeddings": True}
    model = randomise(Qwen2ForCausalLM(Qwen2Config(**{**shape, **fields})), seed=3, std=0.1)
    lift_norms(model).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SEQ2SEQ = ("bart", "mbart", "pegasus", "t5", "t5_v1.1", "mt5")


def native_with(family: str, **fields):
    """A model of transformers whose weights do not depend on the fields, if its shapes do not."""
    model_class, config_class, shape = FAMILIES[family]
    shape = {**shape, **fields}
    model, fixed = model_class(config_class(**shape)), model_class(config_class(**shape)).state_dict()
    if config_class in (T5Config, MT5Config) and shape.get("tie_word_embeddings") is False:
        untie_head(model)
    randomise(model, seed=3)
    if family in ("marian", "pegasus"):  # sinusoids
        model.load_state_dict({n: w for n, w in fixed.items() if "embed_positions" in n}, strict=False)
    if family in SEQ2SEQ and hasattr(model, "final_logits_bias"):
        model.final_logits_bias.copy_(
            torch.randn(1, model.config.vocab_size, generator=torch.Generator().manual_seed(4))
        )
    return lift_norms(model)


def untie_head(model) -> None:
    """Give the head a matrix of its own, as loading a checkpoint of T5 v1.1 does, whose config claims a tied one."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    del model.all_tied_weights_keys["lm_head.weight"]
