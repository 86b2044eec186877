"""Special tokens of tokenizers as they are on the Hub: padding, and the tokens around a text."""

import pytest
from helpers.published import MODELS, TEXTS, gpt2_tokenizer, llama3_tokenizer
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scratch_gpt import train_tokenizer
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import open_tokenizer
from scratch_gpt.tokenization.special_tokens import (
    choose_padding,
    end_token_id,
    special_token_ids,
    surrounding_tokens,
    unknown_token_id,
)

PADDING = {
    "gpt2": "<|endoftext|>",
    "llama": "<unk>",
    "mistral": "<unk>",
    "llama3": "<|finetune_right_pad_id|>",
    "qwen2": "<|endoftext|>",
    "bert": "[PAD]",
    "roberta": "<pad>",
    "xlm-roberta": "<pad>",
}


@pytest.mark.parametrize("name", PADDING)
def test_padding_is_one_of_the_tokenizers_own_tokens(name, tmp_path):
    tokenizer = MODELS[name][-1]()
    had_padding, size = tokenizer.pad_token is not None, len(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    said: list[str] = []
    opened = open_tokenizer(str(tmp_path), report=said.append)
    assert (opened.pad_token, len(opened)) == (PADDING[name], size)
    assert len(said) == (0 if had_padding else 1)
    assert all(PADDING[name] in line for line in said)
    opened.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token == PADDING[name]
    assert open_tokenizer(str(tmp_path), report=said.append).pad_token == PADDING[name]
    assert len(said) == (0 if had_padding else 1)


def test_an_unknown_token_that_texts_contain_is_not_padding():
    """Padding would otherwise be taken for a word, by models that recognise it by its id."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1, "a": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>")
    assert "<end>" in choose_padding(tokenizer)
    assert tokenizer.pad_token == "<end>"


def test_a_name_of_padding_that_is_an_ordinary_token_is_not_used():
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "a": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    choose_padding(tokenizer)
    assert tokenizer.pad_token == "<end>"


AROUND = {
    "gpt2": ([], []),
    "llama": (["<s>"], []),
    "llama3": (["<|begin_of_text|>"], []),
    "bert": (["[CLS]"], ["[SEP]"]),
    "roberta": (["<s>"], ["</s>"]),
    "xlm-roberta": (["<s>"], ["</s>"]),
}


@pytest.mark.parametrize("name", AROUND)
def test_tokens_around_a_text_are_those_of_the_tokenizers_template(name):
    tokenizer = MODELS[name][-1]()
    before, after = surrounding_tokens(tokenizer)
    assert (tokenizer.convert_ids_to_tokens(before), tokenizer.convert_ids_to_tokens(after)) == AROUND[name]
    for text in TEXTS[:3]:
        inner = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert [*before, *inner, *after] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(("template", "around"), [("causal", (1, 0)), ("seq2seq", (0, 1)), ("encoder", (1, 1))])
def test_tokens_around_a_text_of_our_tokenizers(template, around):
    tokenizer = train_tokenizer(["xyz"], "char", template=template)  # SHORT_TEXTS are unknown characters
    assert tuple(map(len, surrounding_tokens(tokenizer))) == around


def test_end_and_unknown_tokens():
    bert, gpt2 = MODELS["bert"][-1](), gpt2_tokenizer()
    assert end_token_id(bert) == bert.sep_token_id
    assert (unknown_token_id(bert), unknown_token_id(gpt2)) == (bert.unk_token_id, None)
    llama3 = llama3_tokenizer()
    assert llama3.convert_tokens_to_ids("<|eot_id|>") in special_token_ids(llama3)


def test_a_tokenizer_without_an_end_is_refused_where_one_is_needed(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(ScratchError, match="no token that ends a text, want an eos_token or a sep_token"):
        open_tokenizer(str(tmp_path))
    assert open_tokenizer(str(tmp_path), needs_end=False).pad_token is None
