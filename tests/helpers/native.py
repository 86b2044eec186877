"""Small models of transformers' own classes."""

from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    NanoChatConfig,
    NanoChatForCausalLM,
)

from helpers.models import lift_norms, randomise

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **IDS}
DECODER |= {"max_position_embeddings": 64, "intermediate_size": 80}
BERT = {k: v for k, v in DECODER.items() if k not in ("bos_token_id", "eos_token_id")}
MARIAN = {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
MARIAN |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
MARIAN |= {"pad_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": None, "decoder_start_token_id": 0}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, DECODER),
    "nanochat": (NanoChatForCausalLM, NanoChatConfig, DECODER),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {k: v for k, v in DECODER.items() if k != "intermediate_size"}),
    "marian": (MarianMTModel, MarianConfig, MARIAN),
    "bert": (BertForMaskedLM, BertConfig, BERT),
    "classifier": (BertForSequenceClassification, BertConfig, BERT),
}


def native_with(family: str, **fields):
    """A model of transformers whose weights do not depend on the fields, if its shapes do not."""
    model_class, config_class, shape = FAMILIES[family]
    config = config_class(**{**shape, **fields})
    model, fixed = randomise(model_class(config), seed=3), model_class(config).state_dict()
    model.load_state_dict(
        {n: w for n, w in fixed.items() if family == "marian" and "embed_positions" in n}, strict=False
    )
    return lift_norms(model)
