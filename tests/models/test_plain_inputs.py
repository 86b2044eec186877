"""Inputs that fast decoding does not support are left to transformers' own loop."""

import pytest
import torch
from helpers.models import tiny_model

from scratch_gpt.models import fast_generation


@pytest.fixture
def request_args(monkeypatch):
    """The arguments with which `generate` calls `supports_fast_path`, and the function."""
    calls, supports_fast_path = [], fast_generation.supports_fast_path
    monkeypatch.setattr(
        fast_generation, "supports_fast_path", lambda *args: calls.append(args) or supports_fast_path(*args)
    )
    model, ids = tiny_model("llama"), torch.randint(3, 99, (2, 6))
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
    return calls[0], supports_fast_path


CHANGED = {
    "a mask of four dimensions": {"attention_mask": torch.ones(2, 1, 6, 6)},
    "a mask of one dimension": {"attention_mask": torch.ones(6)},
    "positions of one dimension": {"position_ids": torch.arange(6)},
    "a mask on another device": {"attention_mask": torch.ones(2, 6, device="meta")},
    "positions on another device": {"position_ids": torch.ones(2, 6, device="meta", dtype=torch.long)},
    "a fully masked row": {"attention_mask": torch.tensor([[1] * 6, [0] * 6])},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("change", CHANGED)
@torch.no_grad()
def test_other_inputs_are_not_supported(change, request_args):
    (model, ids, config, inputs), supports_fast_path = request_args
    assert supports_fast_path(model, ids, config, inputs)
    assert not supports_fast_path(model, ids, config, {**inputs, **CHANGED[change]})
