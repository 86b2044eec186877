"""Unseen characters, invalid chat templates, and invalid repository names."""

import pytest
from helpers.models import save_tiny

from scratch_gpt import train_tokenizer
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.upload import plan_push, push_directory
from scratch_gpt.tokenization.safety import MAX_TEMPLATE, check_template


@pytest.mark.parametrize(("kind", "size"), [("char", None), ("word", None), ("unigram", None), ("bpe", 600)])
def test_unseen_characters_are_unknown_except_for_bpe(kind, size):
    texts = list(stories(seed=0, count=300))
    tokenizer = train_tokenizer(texts, kind, size)
    text = texts[0].split(".")[0]
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    unseen = tokenizer(f"{text} 漢字", add_special_tokens=False)["input_ids"]
    if kind == "bpe":
        assert tokenizer.decode(unseen) == f"{text} 漢字"
    else:
        assert tokenizer.unk_token_id in unseen


@pytest.mark.parametrize(
    "template", ["x" * (MAX_TEMPLATE + 1), 5, ["x"], {"default": "x", "tools": 5}, {"default": None, "tools": 5}]
)
def test_invalid_or_long_template_is_rejected(template):
    check_template("x" * MAX_TEMPLATE)
    check_template({"default": "x", "tools": None})
    with pytest.raises(ScratchError, match=f"its chat template is not a string of at most {MAX_TEMPLATE:,} characters"):
        check_template(template)


@pytest.mark.parametrize("name", ["a/b/c", "../x", "a b", "x" * 97])
@pytest.mark.parametrize("call", [push_directory, plan_push])
def test_invalid_repository_name_is_rejected_before_any_request(call, name, tmp_path):
    folder = save_tiny(tmp_path / "model")
    with pytest.raises(ScratchError, match="is not a valid repository name, expected 'user/model'"):
        call(folder, name)
