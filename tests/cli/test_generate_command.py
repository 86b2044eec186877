"""`scratch-gpt generate`: each sampling option has its documented effect."""

import pytest
import torch
from helpers.models import randomise, tiny_config
from helpers.processes import run_here

from scratch_gpt import ScratchGPTForCausalLM, train_tokenizer


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
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
    """Return the texts that are generated from the prompt "ab"."""
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


def test_samples_of_a_prompt_use_consecutive_seeds(saved_model):
    folder = saved_model[0]
    samples = texts(folder, "--num_samples", "4", "--seed", "7")
    assert len(samples) == len(set(samples)) == 4
    assert samples[:2] == [texts(folder, "--seed", str(seed))[0] for seed in (7, 8)]
    assert samples == texts(folder, "--num_samples", "4", "--seed", "7")


@pytest.mark.parametrize("option", ["--top_p 0.0001 --top_k 0", "--top_k 1", "--temperature 0.00001", None])
def test_sampling_in_the_limit_is_greedy(saved_model, option):
    """This holds for all seeds; without such an option, sampled texts differ from the greedy one."""
    folder, model, tokenizer = saved_model
    greedy = greedy_text(model, tokenizer, "ab", 20)
    generated = texts(folder, *(option or "--top_k 0").split(), "--num_samples", "3", "--seed", "1")
    assert generated == [greedy] * 3 if option else greedy not in generated


def test_top_p_samples_from_the_nucleus_only(saved_model):
    """With `--top_p 0.5`, sampled tokens are among the most probable ones that add up to 0.5, and there are several;
    without the option, other tokens are sampled too."""
    folder, model, tokenizer = saved_model
    probabilities = distribution(model, tokenizer)
    order = probabilities.argsort(descending=True).tolist()
    size = int((probabilities[order].cumsum(0) < 0.5).sum()) + 1
    assert 2 <= size < len(tokenizer) // 2
    options = ("--max_new_tokens", "1", "--num_samples", "30")
    sampled = set(texts(folder, "--top_p", "0.5", "--top_k", "0", *options))
    nucleus = {decoded_after_prompt(tokenizer, token) for token in order[:size]}
    assert sampled <= nucleus
    assert len(sampled) >= 2
    assert set(texts(folder, "--top_k", "0", *options)) - nucleus


def test_top_k_samples_from_the_k_most_probable_tokens_only(saved_model):
    folder, model, tokenizer = saved_model
    order = distribution(model, tokenizer).argsort(descending=True).tolist()
    options = ("--max_new_tokens", "1", "--num_samples", "30")
    sampled = set(texts(folder, "--top_k", "3", *options))
    assert sampled == {decoded_after_prompt(tokenizer, token) for token in order[:3]}


def test_max_new_tokens_limits_each_completion(saved_model):
    folder, model, tokenizer = saved_model
    generated = texts(folder, "--prompt", "cd", "--temperature", "0", "--max_new_tokens", "9", "--num_samples", "2")
    expected = [greedy_text(model, tokenizer, prompt, 9) for prompt in ("ab", "cd")]
    assert generated == [expected[0]] * 2 + [expected[1]] * 2
