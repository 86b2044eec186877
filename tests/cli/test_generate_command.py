"""`scratch-gpt generate`: each option of sampling does what its name says."""

import pytest
import torch
from helpers.models import randomise, tiny_config
from helpers.processes import run_here

from scratch_gpt import ScratchGPTForCausalLM, train_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory of a model that is undecided: many letters are likely at each place, and it never ends by itself."""
    folder = tmp_path_factory.mktemp("generate")
    tokenizer = train_tokenizer(["abcdefghijklmnopqrstuvwxyz"], "char", model_max_length=64)
    model = randomise(ScratchGPTForCausalLM(tiny_config("llama", vocab_size=len(tokenizer))), std=0.15).eval()
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


def texts(folder, *options: str) -> list[str]:
    """What is written after "ab", text by text."""
    printed = run_here("scratch-gpt", "generate", str(folder), "--prompt", "ab", "--max_new_tokens", "20", *options)
    return [text for text in printed.stdout.split("\n") if text]


def written(tokenizer, token: int) -> str:
    """What is printed where this token follows "ab"."""
    return tokenizer.decode([*tokenizer("ab").input_ids, token], skip_special_tokens=True)


def greedily(model, tokenizer, prompt: str, count: int) -> str:
    """The prompt with the likeliest `count` tokens after it, one by one and without a cache."""
    ids = torch.tensor([tokenizer(prompt).input_ids])
    for _ in range(count):
        with torch.no_grad():
            ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), dim=1)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def distribution(model, tokenizer) -> torch.Tensor:
    """Probabilities of the token after "ab"."""
    ids = torch.tensor([tokenizer("ab").input_ids])
    with torch.no_grad():
        return model(ids).logits[0, -1].softmax(-1)


def test_samples_of_a_prompt_differ_and_are_those_of_the_seeds_that_follow(model):
    folder = model[0]
    several = texts(folder, "--num_samples", "4", "--seed", "7")
    assert len(several) == len(set(several)) == 4
    assert several[:2] == [texts(folder, "--seed", str(seed))[0] for seed in (7, 8)]
    assert several == texts(folder, "--num_samples", "4", "--seed", "7")


@pytest.mark.parametrize("narrow", ["--top_p 0.0001 --top_k 0", "--top_k 1", "--temperature 0.00001", None])
def test_a_sampling_that_is_narrow_enough_is_greedy(model, narrow):
    """From nothing but the likeliest token, whatever the seed; without any such option, texts are others."""
    folder, own, tokenizer = model
    greedy = greedily(own, tokenizer, "ab", 20)
    found = texts(folder, *(narrow or "--top_k 0").split(), "--num_samples", "3", "--seed", "1")
    assert found == [greedy] * 3 if narrow else greedy not in found


def test_top_p_keeps_the_nucleus_and_nothing_else(model):
    """Draws of one token come from the likeliest ones that make up the half, and from more than one of them; without
    the option, from others too."""
    folder, own, tokenizer = model
    probabilities = distribution(own, tokenizer)
    order = probabilities.argsort(descending=True).tolist()
    size = int((probabilities[order].cumsum(0) < 0.5).sum()) + 1
    assert 2 <= size < len(tokenizer) // 2
    options = ("--max_new_tokens", "1", "--num_samples", "30")
    drawn = set(texts(folder, "--top_p", "0.5", "--top_k", "0", *options))
    nucleus = {written(tokenizer, token) for token in order[:size]}
    assert drawn <= nucleus
    assert len(drawn) >= 2
    assert set(texts(folder, "--top_k", "0", *options)) - nucleus


def test_top_k_keeps_the_k_likeliest_tokens(model):
    folder, own, tokenizer = model
    order = distribution(own, tokenizer).argsort(descending=True).tolist()
    options = ("--max_new_tokens", "1", "--num_samples", "30")
    drawn = set(texts(folder, "--top_k", "3", *options))
    likeliest = {written(tokenizer, token) for token in order[:3]}
    assert drawn == likeliest


def test_as_many_tokens_are_written_as_asked_for_after_each_prompt(model):
    folder, own, tokenizer = model
    found = texts(folder, "--prompt", "cd", "--temperature", "0", "--max_new_tokens", "9", "--num_samples", "2")
    expected = [greedily(own, tokenizer, prompt, 9) for prompt in ("ab", "cd")]
    assert found == [expected[0]] * 2 + [expected[1]] * 2
