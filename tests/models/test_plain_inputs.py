"""Inputs that the lean step of decoding does not know are left to transformers' own loop."""

import pytest
import torch
from helpers.models import tiny_model

from scratch_gpt.models import fast_generation


@pytest.fixture
def asked(monkeypatch):
    """A model, and what `generate` asks `supports_fast_path` about: input ids, generation config and inputs."""
    calls, supports_fast_path = [], fast_generation.supports_fast_path
    monkeypatch.setattr(fast_generation, "supports_fast_path", lambda *given: calls.append(given) or supports_fast_path(*given))
    model, ids = tiny_model("llama"), torch.randint(3, 99, (2, 6))
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
    return calls[0], supports_fast_path


CHANGED = {
    "a mask of four dimensions": {"attention_mask": torch.ones(2, 1, 6, 6)},
    "a mask of one dimension": {"attention_mask": torch.ones(6)},
    "positions of one dimension": {"position_ids": torch.arange(6)},
    "a mask on another device": {"attention_mask": torch.ones(2, 6, device="meta")},
    "positions on another device": {"position_ids": torch.ones(2, 6, device="meta", dtype=torch.long)},
    "a row with nothing to see": {"attention_mask": torch.tensor([[1] * 6, [0] * 6])},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("change", CHANGED)
@torch.no_grad()
def test_other_inputs_are_not_plain(change, asked):
    (model, ids, config, inputs), supports_fast_path = asked
    assert supports_fast_path(model, ids, config, inputs)
    assert not supports_fast_path(model, ids, config, {**inputs, **CHANGED[change]})
