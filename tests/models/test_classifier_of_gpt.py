"""The GPT's classifier passes all of its inputs to its trunk."""

import torch
from helpers.models import randomise, tiny_config

from scratch_gpt import ScratchGPTForSequenceClassification
from scratch_gpt.models.compatibility import cache_of


def classifier() -> ScratchGPTForSequenceClassification:
    return randomise(ScratchGPTForSequenceClassification(tiny_config("llama", num_labels=3))).eval()


@torch.no_grad()
def test_inputs_embeds_equal_input_ids():
    model, ids = classifier(), torch.randint(3, 99, (2, 7))
    mask = torch.ones_like(ids)
    expected = model(input_ids=ids, attention_mask=mask).logits
    logits = model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask).logits
    torch.testing.assert_close(logits, expected)


@torch.no_grad()
def test_classification_with_a_cache_equals_full_forward():
    model, ids = classifier(), torch.randint(3, 99, (2, 7))
    mask = torch.ones_like(ids)
    expected = model(input_ids=ids, attention_mask=mask).logits
    first = model(input_ids=ids[:, :4], attention_mask=mask[:, :4], use_cache=True)
    assert cache_of(first).get_seq_length() == 4
    second = model(input_ids=ids[:, 4:], attention_mask=mask, cache=cache_of(first), use_cache=True)
    torch.testing.assert_close(second.logits, expected, atol=1e-5, rtol=1e-4)
    assert cache_of(second).get_seq_length() == 7
    assert cache_of(model(input_ids=ids, attention_mask=mask, use_cache=False)) is None
