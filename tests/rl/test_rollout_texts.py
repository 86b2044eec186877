"""The text passed to a reward: all tokens of the completion, and none of the prompt or after its end."""

import torch
from helpers.models import tiny_model

from scratch_gpt import train_tokenizer
from scratch_gpt.rl import rollouts


def test_the_text_is_the_whole_completion_and_nothing_else():
    tokenizer = train_tokenizer(["abcdefgh"], "char", model_max_length=64)
    model = tiny_model("llama", vocab_size=len(tokenizer))
    torch.manual_seed(0)
    prompts = [tokenizer(text)["input_ids"] for text in ("a", "abc", "hgf")] * 8
    found = rollouts.generate(model, tokenizer, prompts, 6, 1.0, 5, list(range(len(prompts))))
    letters = {tokenizer.convert_tokens_to_ids(letter): letter for letter in "abcdefgh"}
    ended = 0
    for prompt, rollout in zip(prompts, found, strict=True):
        assert rollout.prompt == prompt
        assert rollout.text == "".join(letters.get(token, "") for token in rollout.completion)
        ended += rollout.completion[-1] == tokenizer.eos_token_id
    assert 0 < ended < len(found)
    assert sum(len(rollout.text) for rollout in found) > 2 * len(found)
