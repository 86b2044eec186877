"""What `tokenizer_config.json` contains, which transformers 4 reads too."""

import json

import pytest
from transformers import AutoTokenizer

from scratch_gpt import train_tokenizer
from scratch_gpt.tokenization.chat import CHAT_TOKENS, add_chat_template
from scratch_gpt.tokenization.saving import LOADING_ARGUMENTS, save_tokenizer

TEXTS = ["the lamp is old, the mill is older", "  two spaces\tand é, 猫"] * 4


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "word"])
def test_settings_have_a_known_class_and_nothing_of_this_machine(kind, tmp_path):
    tokenizer = train_tokenizer(TEXTS, kind, template="encoder", model_max_length=32)
    add_chat_template(tokenizer)
    save_tokenizer(tokenizer, tmp_path / "first")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "first", local_files_only=True)
    save_tokenizer(loaded, tmp_path / "second")
    for folder in ("first", "second"):
        settings = json.loads((tmp_path / folder / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert settings["model_input_names"] == ["input_ids", "attention_mask"]
        assert settings["additional_special_tokens"] == list(CHAT_TOKENS)
        assert "extra_special_tokens" not in settings
        assert not set(LOADING_ARGUMENTS) & set(settings)
        assert str(tmp_path) not in json.dumps(settings)
    again = AutoTokenizer.from_pretrained(tmp_path / "second")
    assert again.model_max_length == 32
    assert again.chat_template == tokenizer.chat_template
    assert again.all_special_tokens == tokenizer.all_special_tokens
    for text in (*TEXTS, " <eos> a", "<|user|>b"):
        assert dict(again(text)) == {name: tokenizer(text)[name] for name in ("input_ids", "attention_mask")}


def test_a_unigram_tokenizer_keeps_leading_spaces():
    """Regression: a text that starts with a space had the same tokens as without it."""
    tokenizer = train_tokenizer(TEXTS, "unigram")
    for text in ("the lamp", " the lamp", "  the lamp", "the  lamp ", " "):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
