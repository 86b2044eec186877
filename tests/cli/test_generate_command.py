"""`scratch-gpt generate`: each sampling option has its documented effect."""

import pytest
import torch
from helpers.models import randomise, tiny_config
from helpers.processes import run_here

from scratch_gpt import ScratchGPTForCausalLM, train_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model, its folder and tokenizer. Many letters are probable at each position, and the end of text is not."""
    folder = tmp_path_factory.mktemp("generate")
    tokenizer = train_tokenizer(["abcdefghijklmnopqrstuvwxyz"], "char", model_max_length=64)
    model = randomise(ScratchGPTForCausalLM(tiny_config("llama", vocab_size=len(tokenizer))), std=0.15).eval()
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


def texts(folder, *options: str) -> list[str]:
    """Return the generated texts of the prompt "ab"."""
    printed = run_here("scratch-gpt", "generate", str(folder), "--prompt", "ab", "--max_new_tokens", "20", *options)
    return [text for text in printed.stdout.split("\n") if text]


def decoded_after_prompt(tokenizer, token: int) -> str:
    """Decode the prompt "ab" and one token after it."""
    return tokenizer.decode([*tokenizer("ab").input_ids, token], skip_special_tokens=True)


def greedy_text(model, tokenizer, prompt: str, count: int) -> str:
    """Decode `count` tokens greedily after a prompt, without a cache."""
    ids = torch.tensor([tokenizer(prompt).input_ids])
    for _ in range(count):
        with torch.no_grad():
            ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), dim=1)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def distribution(model, tokenizer) -> torch.Tensor:
    """Return the probabilities of the token after "ab": (vocab_size,)."""
    ids = torch.tensor([tokenizer("ab").input_ids])
    with torch.no_grad():
        return model(ids).logits[0, -1].softmax(-1)


def test_samples_of_a_prompt_use_consecutive_seeds(model):
    folder = model[0]
    several = texts(folder, "--num_samples", "4", "--seed", "7")
    assert len(several) == len(set(several)) == 4
    assert several[:2] == [texts(folder, "--seed", str(seed))[0] for seed in (7, 8)]
    assert several == texts(folder, "--num_samples", "4", "--seed", "7")


@pytest.mark.parametrize("narrow", ["--top_p 0.0001 --top_k 0", "--top_k 1", "--temperature 0.00001", None])
def test_sampling_in_the_limit_is_greedy(model, narrow):
    """For all seeds; without such an option, sampled texts differ from the greedy one."""
    folder, own, tokenizer = model
    greedy = greedy_text(own, tokenizer, "ab", 20)
    found = texts(folder, *(narrow or "--top_k 0").split(), "--num_samples", "3", "--seed", "1")
    assert found == [greedy] * 3 if narrow else greedy not in found


def test_top_p_samples_from_the_nucleus_only(model):
    """With `--top_p 0.5`, sampled tokens are the most probable ones that add up to 0.5, and more than one of them;
    without the option, others too."""
    folder, own, tokenizer = model
    probabilities = distribution(own, tokenizer)
    order = probabilities.argsort(descending=True).tolist()
    size = int((probabilities[order].cumsum(0) < 0.5).sum()) + 1
    assert 2 <= size < len(tokenizer) // 2
    options = ("--max_new_tokens", "1", "--num_samples", "30")
    drawn = set(texts(folder, "--top_p", "0.5", "--top_k", "0", *options))
    nucleus = {decoded_after_prompt(tokenizer, token) for token in order[:size]}
    assert drawn <= nucleus
    assert len(drawn) >= 2
    assert set(texts(folder, "--top_k", "0", *options)) - nucleus


def test_top_k_samples_from_the_k_most_probable_tokens_only(model):
    folder, own, tokenizer = model
    order = distribution(own, tokenizer).argsort(descending=True).tolist()
    options = ("--max_new_tokens", "1", "--num_samples", "30")
    drawn = set(texts(folder, "--top_k", "3", *options))
    assert drawn == {decoded_after_prompt(tokenizer, token) for token in order[:3]}


def test_max_new_tokens_limits_each_completion(model):
    folder, own, tokenizer = model
    found = texts(folder, "--prompt", "cd", "--temperature", "0", "--max_new_tokens", "9", "--num_samples", "2")
    expected = [greedy_text(own, tokenizer, prompt, 9) for prompt in ("ab", "cd")]
    assert found == [expected[0]] * 2 + [expected[1]] * 2
