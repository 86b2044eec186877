"""Beam search finds the sequences of transformers' own, and the largest scores without sorting all."""

import pytest
import torch
from helpers.decoding import generate_fast_and_slow, padded, record_steps
from helpers.models import tiny_model, tiny_seq2seq
from transformers import StoppingCriteria, StoppingCriteriaList

from scratch_gpt.models.beam_search import largest_scores


@pytest.fixture
def steps(monkeypatch):
    return record_steps(monkeypatch)


OPTIONS = {
    "plain": {},
    "early": {"early_stopping": True},
    "never": {"early_stopping": "never", "length_penalty": 1.5},
    "short is better": {"length_penalty": -1.0},
    "all returned": {"num_return_sequences": 4},
    "several ends": {"eos_token_id": [2, 7, 11, 30, 55]},
    "no end": {"eos_token_id": None},
    "processors": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_new_tokens": 4},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("build", [lambda: tiny_model("llama"), lambda: tiny_seq2seq("modern")], ids=["gpt", "seq2seq"])
def test_sequences_are_those_of_transformers(build, name, steps, monkeypatch):
    torch.manual_seed(0)
    model = build().double().eval()
    with torch.no_grad():
        model.lm_head.weight[[2, 7]] *= 2  # sequences end at different steps
    ids, mask = padded(3, 7)
    options = {"num_beams": 4, "do_sample": False, "max_new_tokens": 20, "eos_token_id": 2, **OPTIONS[name]}
    fast, slow = generate_fast_and_slow(model, monkeypatch, steps, input_ids=ids, attention_mask=mask, **options)
    assert torch.equal(fast, slow)


class AfterPair(StoppingCriteria):
    """Stop a sequence after two equal tokens."""

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == input_ids[:, -2]


def test_other_criteria_and_sampling(steps, monkeypatch):
    torch.manual_seed(0)
    model = tiny_model("llama").double().eval()
    ids, mask = padded(3, 7)
    options = {"num_beams": 3, "max_new_tokens": 12, "input_ids": ids, "attention_mask": mask, "eos_token_id": 2}
    for more in ({"do_sample": False, "stopping_criteria": StoppingCriteriaList([AfterPair()])}, {"do_sample": True}):
        fast, slow = generate_fast_and_slow(model, monkeypatch, steps, **options, **more)
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("size", [40960, 5 * 8191, 640])
def test_largest_scores(size):
    torch.manual_seed(0)
    scores = torch.randn(3, size)
    values, indices = largest_scores(scores, 10)
    expected = scores.topk(10)
    assert torch.equal(values, expected.values)
    assert torch.equal(indices, expected.indices)
