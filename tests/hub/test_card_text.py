"""The name, the sample and the example of a model card."""

import re

import numpy as np
import pytest
from helpers.processes import run_here
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from scratch_gpt import train_tokenizer
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.hub.card import MAX_SAMPLE, render_card
from scratch_gpt.train.tasks import recipe_of
from scratch_gpt.train.tasks.common import first_words
from scratch_gpt.train.tasks.masked_lm.task import EXAMPLE_TOKENS, whole_words

TINY = ("--max_steps", "2", "--num_stories", "200", "--hidden_size", "32", "--num_hidden_layers", "1")
TINY += ("--context_length", "32", "--batch_size", "2", "--num_threads", "1")


def card_with(sample, verdict=None):
    facts = dict.fromkeys(("title", "style", "dataset", "license", "prompt"), "x")
    facts |= {"parameters": 1, "context_length": 8, "train": {}, "validation": {}, "data": {}}
    machine = {"device": "x", "processes": 1, "threads": 1}
    run = {"arguments": {"metric_for_best_model": "val_loss"}, "facts": facts, "machine": machine, "versions": {}}
    return render_card(
        run, [{"val_loss": 1.0, "step": 1, "sample": sample, "verdict": verdict}], recipe_of("language_modeling").card
    )


@pytest.mark.parametrize(
    ("options", "name"), [((), "stories-1m"), (("--model_name", "Ada's `tales`"), "Ada's `tales`")]
)
def test_a_model_has_the_name_that_its_user_gives_it(options, name, tmp_path):
    folder = tmp_path / "stories-1m"
    run_here("scratch-gpt", "train", "language_modeling", "--output_dir", str(folder), *TINY, *options)
    card = ModelCard.load(folder / "README.md")
    assert card.data.model_name == name
    assert re.search("^# (.*)$", card.text, re.M)[1].replace("\\", "") == name
    assert re.search("\n```text\n.+\n```\n", card.text)  # the sample of its evaluation


def test_a_sample_stays_in_its_code_block():
    text = "```\n# heading\n<img src=x>\n\x1b[31mred\n```\n</details>"
    tokens = MarkdownIt().parse(card_with(text))
    shown = [token.content for token in tokens if token.type == "fence" and token.info == "text"]
    assert shown == ["```\n# heading\n<img src=x>\n\\x1b[31mred\n```\n</details>\n"]
    assert "heading" not in [token.content for token in tokens if token.type == "inline"]


def test_the_card_says_how_good_the_model_is():
    assert "\n\nThe model needs 8% fewer bits than xz.\n\n![" in card_with(
        "a", "The model needs 8% fewer bits than xz."
    )
    assert "\n\n## b" not in card_with("a", "a\n\n## b")


def test_a_long_sample_is_cut_at_a_word():
    (shown,) = re.findall("```text\n(.*?)\n```", card_with("word " * 1000), re.S)
    assert len(shown) <= MAX_SAMPLE + 2
    assert shown.endswith("word …")


@pytest.mark.parametrize("sample", [None, "", 3, ["a"]])
def test_no_sample_has_no_section(sample):
    assert "A sample" not in card_with(sample)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("In the morning, Oscar had a knife", "In the morning, Oscar"),
        ("In  the\nmorning", "In the morning"),
        ("In the morning, Osc", "In the morning, Osc"),
        ("a" * 50, "a" * 24),
        ("今天天气很好" * 9, ("今天天气很好" * 9)[:24]),
        ("", ""),
    ],
)
def test_an_example_prompt_ends_with_a_whole_word(text, expected):
    assert first_words(text, 24) == expected


@pytest.mark.parametrize("kind", ["bpe", "char", "unigram"])
def test_the_example_of_a_masked_model_ends_with_a_whole_word(kind):
    texts = list(stories(seed=1, count=200))
    tokenizer = train_tokenizer(texts, kind, None if kind == "char" else 300)
    for text in texts[:20]:
        ids = np.array(tokenizer(text, add_special_tokens=False).input_ids)
        shown = tokenizer.decode(ids[: whole_words(tokenizer, ids)])
        assert len(ids) > EXAMPLE_TOKENS
        assert text.startswith(shown)
        assert shown
        assert not text[len(shown) :][:1].isalnum()
