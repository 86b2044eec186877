"""The decoder families of transformers as our models: equal logits and texts with the same weights, in both
directions."""

import pytest
import torch
from helpers.decoders import CASES, VARIANTS, WINDOW, native_decoder

from scratch_gpt import export_native, import_native

LENGTH = 4 * WINDOW  # tokens, longer than the windows


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids (B, T), mask and positions of three rows, one of them padded left and one right."""
    ids = torch.randint(3, 99, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :6], mask[1, -7:] = 0, 0
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def logits_of(model, native: bool = True) -> torch.Tensor:
    """The logits of the tokens that are not padding (N, V)."""
    ids, mask, positions = batch()
    # OPT counts positions itself, from the mask
    more = {"position_ids": positions} if native and model.config.model_type != "opt" else {}
    with torch.no_grad():
        return model(ids, attention_mask=mask, use_cache=False, **more).logits[mask.bool()]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4 * max(1.0, expected.abs().max().item()), rtol=0)


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_logits_are_equal_after_import_and_export(family, variant):
    native = native_decoder(family, variant)
    expected = logits_of(native)
    assert expected.std() > 0.05  # the comparison is meaningful
    ours = import_native(native)
    close(logits_of(ours, native=False), expected)
    out = export_native(ours)
    assert type(out) is type(native)
    close(logits_of(out), expected)
    theirs, restored = native.state_dict(), out.state_dict()
    assert set(theirs) == set(restored)
    for name, weight in theirs.items():
        if "embed_positions" not in name:  # OPT's has two rows that are not used
            torch.testing.assert_close(restored[name], weight, atol=1e-6, rtol=1e-5, msg=name)
    before, after = native.config.to_dict(), out.config.to_dict()
    changed = {
        name: (value, after[name]) for name, value in before.items() if value is not None and value != after[name]
    }
    changed.pop("attention_types", None)  # a list of layers that GPT-Neo allows to abbreviate
    assert changed == {}


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_cached_decoding_equals_the_full_forward(family, variant):
    ours = import_native(native_decoder(family, variant))
    ids, mask, _ = batch()
    with torch.no_grad():
        full = ours(ids[:1], attention_mask=mask[:1], use_cache=False).logits
        outputs = ours(ids[:1, :8], attention_mask=mask[:1, :8], use_cache=True)
        cache = outputs.past_key_values if "past_key_values" in outputs else outputs.cache
        steps = [outputs.logits[:, -1]]
        for i in range(8, LENGTH):
            step = ours(ids[:1, i : i + 1], attention_mask=mask[:1, : i + 1], past_key_values=cache, use_cache=True)
            steps.append(step.logits[:, -1])
    close(torch.stack(steps, 1), full[:, 7:])


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_generated_texts_are_equal(family, variant):
    native = native_decoder(family, variant)
    ours = import_native(native)
    ids, mask, _ = batch()
    for options in ({}, {"num_beams": 3}):
        request = {"attention_mask": mask[:1], "max_new_tokens": 20, "do_sample": False, **options}
        assert torch.equal(ours.generate(ids[:1], **request), native.generate(ids[:1], **request))


@pytest.mark.parametrize("family", VARIANTS)
def test_a_trained_model_is_exported(family):
    """After ten steps of training, the model is exported to the class that it came from, with its logits."""
    ours = import_native(native_decoder(family, next(iter(VARIANTS[family])))).train()
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.01)
    ids = batch()[0]
    before = logits_of(ours, native=False)
    for _ in range(10):
        ours(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ours.eval()
    expected = logits_of(ours, native=False)
    assert (expected - before).abs().max() > 0.1
    out = export_native(ours)
    assert type(out).__name__ == f"{family}ForCausalLM"
    close(logits_of(out), expected)


@pytest.mark.parametrize("family", VARIANTS)
def test_packed_documents_are_independent(family):
    """Two documents in one row, each longer than the window, have the logits that they have alone."""
    ours = import_native(native_decoder(family, next(iter(VARIANTS[family]))))
    first, second = batch()[0][:2].split(1)  # each (1, T)
    second = second[:, :13]
    positions = torch.cat((torch.arange(first.shape[1]), torch.arange(second.shape[1])))[None]
    with torch.no_grad():
        packed = ours(torch.cat((first, second), 1), position_ids=positions, use_cache=False).logits
        alone = torch.cat([ours(ids, use_cache=False).logits for ids in (first, second)], 1)
    close(packed, alone)
