"""Tiny models of transformers' own classes, saved with the tokenizers that such models have on the Hub."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
)

SENTENCE = "the cat sat on a mat and saw two red birds near old mills by sea when Anna came home with bread"
WORDS = SENTENCE.split()
TEXTS = [" ".join(WORDS[(i * step + start) % len(WORDS)] for i in range(9)) for start in range(19) for step in (1, 3)]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GPT2_SHAPE = {"n_embd": 32, "n_layer": 2, "n_head": 4}
SPACE = "▁"
# Chat templates that do not mark answers.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)


def byte_level(specials: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE, as of GPT-2; the special tokens come last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    vocabulary, merges = _bpe(tokenizer)
    return vocabulary | {name: len(vocabulary) + i for i, name in enumerate(specials)}, merges


def byte_fallback() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a SentencePiece BPE with byte fallback, as of Llama 2 and Mistral."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=specials)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _bpe(tokenizer)


def _bpe(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """As of GPT-2: `<|endoftext|>` is beginning, end and unknown token; there is no padding token."""
    return GPT2Tokenizer(*byte_level(["<|endoftext|>"]))


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """As of Llama 2 and Mistral: `<s>`, `</s>`, `<unk>`, and no padding token."""
    tokenizer = LlamaTokenizer(*byte_fallback())
    return with_template(tokenizer, "<s> $A", "<s>")


def llama3_tokenizer() -> PreTrainedTokenizerFast:
    """As of Llama 3.1: no padding token, but one that was reserved for it."""
    from tokenizers.decoders import ByteLevel

    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>"]
    specials += ["<|end_header_id|>", "<|eot_id|>"]
    vocabulary, merges = byte_level([])
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevel()
    backend.add_special_tokens(specials)
    names = {"bos_token": specials[0], "eos_token": specials[1]}
    return with_template(PreTrainedTokenizerFast(tokenizer_object=backend, **names), f"{specials[0]} $A", specials[0])


def qwen2_tokenizer() -> PreTrainedTokenizerFast:
    """As of Qwen 2: no beginning token; the padding token is the end token of the base model."""
    tokenizer = Qwen2Tokenizer(*byte_level(["<|endoftext|>"]))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def with_template(tokenizer: PreTrainedTokenizerFast, template: str, *tokens: str) -> PreTrainedTokenizerFast:
    """Add special tokens around a text ($A), as the saved tokenizers on the Hub do."""
    from tokenizers.processors import TemplateProcessing

    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """As of BERT and DistilBERT: `[CLS] text [SEP]`, and no beginning or end token."""
    letters = sorted(set(SENTENCE.lower()) - {" "})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, *WORDS]))}
    return BertTokenizer(vocab=vocabulary, model_max_length=64)


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """As of RoBERTa: `<s> text </s>`, with `<mask>`."""
    vocabulary, merges = byte_level([])
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    moved = {name: number for number, name in enumerate([*specials, *vocabulary, "<mask>"])}
    return RobertaTokenizer(moved, merges, model_max_length=64)


def mbart_tokenizer(tokenizer_class: type, words: list[str]) -> PreTrainedTokenizerFast:
    """As of mBART or mBART-50: pieces and one token for each language."""
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(piece, -3.0) for piece in dict.fromkeys(SPACE + word for word in words)]
    codes = [(code, 0.0) for code in sys.modules[tokenizer_class.__module__].FAIRSEQ_LANGUAGE_CODES]
    return tokenizer_class(vocab=[*specials, *pieces, *codes, ("<mask>", 0.0)])


def xlm_roberta_tokenizer() -> PreTrainedTokenizerFast:
    """As of XLM-R: a unigram model, with `<s> text </s>` and `<mask>`."""
    letters = [(letter, -9.0) for letter in sorted({*SENTENCE, SPACE} - {" "})]
    pieces = [*letters, *((SPACE + word, -5.0) for word in dict.fromkeys(WORDS) if len(word) > 1)]
    specials = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(vocab=[*specials, *pieces, ("<mask>", 0.0)], model_max_length=64)


DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
LONG, OFFSET = {"max_position_embeddings": 128}, {"max_position_embeddings": 66, "pad_token_id": 1}
MODELS: dict[str, tuple[Any, Any, dict[str, Any], Any]] = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, {**GPT2_SHAPE, "n_positions": 128}, gpt2_tokenizer),
    "llama": (LlamaForCausalLM, LlamaConfig, {**SHAPE, **LONG}, llama_tokenizer),
    "llama3": (LlamaForCausalLM, LlamaConfig, {**SHAPE, **LONG}, llama3_tokenizer),
    "mistral": (MistralForCausalLM, MistralConfig, {**SHAPE, **LONG, "num_key_value_heads": 2}, llama_tokenizer),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {**SHAPE, **LONG, "num_key_value_heads": 2}, qwen2_tokenizer),
    "bert": (BertForMaskedLM, BertConfig, {**SHAPE, "max_position_embeddings": 64}, bert_tokenizer),
    "distilbert": (DistilBertForMaskedLM, DistilBertConfig, {**DISTILBERT, **LONG}, bert_tokenizer),
    "roberta": (RobertaForMaskedLM, RobertaConfig, {**SHAPE, **OFFSET}, roberta_tokenizer),
    "xlm-roberta": (XLMRobertaForMaskedLM, XLMRobertaConfig, {**SHAPE, **OFFSET}, xlm_roberta_tokenizer),
}


def published_model(name: str, seed: int = 0, **fields: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A tiny model with random weights, and its tokenizer; `fields` are of its config."""
    model_class, config_class, shape, make_tokenizer = MODELS[name]
    tokenizer = make_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = config_class(vocab_size=len(tokenizer), **{**ids, **shape, **fields})
    torch.manual_seed(seed)
    return model_class(config).eval(), tokenizer


def save_published(name: str, folder: Path, **fields: Any) -> Path:
    """Save a model of `MODELS` and its tokenizer to a folder."""
    model, tokenizer = published_model(name, **fields)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
