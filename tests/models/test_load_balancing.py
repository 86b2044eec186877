"""The load balancing loss of experts: that of transformers' Mixtral, in training only, and right under accumulation."""

import pytest
import torch
from helpers.models import lift_norms, randomise, tiny_model
from transformers import MixtralConfig, MixtralForCausalLM

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from scratch_gpt.evaluation.language_modeling import sum_of_losses
from scratch_gpt.models.compatibility import RELEASE
from scratch_gpt.models.experts import load_balancing_loss

COEFFICIENT = 0.5  # large, so that the loss matters
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": COEFFICIENT, "intermediate_size": 48}


def model_with_experts(**fields) -> ScratchGPTForCausalLM:
    return lift_norms(tiny_model("llama", **EXPERTS, **fields))


def batch(rows: int = 3, length: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, the mask of their padding, and labels that leave out padding and some more tokens."""
    torch.manual_seed(0)
    ids, mask = torch.randint(3, 99, (rows, length)), torch.ones(rows, length, dtype=torch.long)
    mask[1, -4:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, :3] = -100
    return ids, mask, labels


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def native_mixtral() -> tuple[MixtralForCausalLM, ScratchGPTForCausalLM]:
    """Mixtral of transformers with random weights, and ours with the same."""
    shape = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": COEFFICIENT}
    native = lift_norms(
        randomise(MixtralForCausalLM(MixtralConfig(**shape, **rope, **experts, rms_norm_eps=1e-6, sliding_window=None)))
    )
    ours = ScratchGPTForCausalLM(ScratchGPTConfig.from_preset("llama", **{**shape, **EXPERTS}, **rope)).eval()
    weights = {name.replace("block_sparse_moe", "mlp"): weight for name, weight in native.state_dict().items()}
    ours.load_state_dict(weights)
    return native, ours


@pytest.mark.skipif(RELEASE < (5, 6), reason="Mixtral of transformers before 5.6 computes the softmax twice")
@pytest.mark.parametrize("masked", [True, False])
def test_loss_and_gradients_equal_those_of_mixtral(masked):
    native, ours = native_mixtral()
    ids, mask, labels = batch()
    inputs = {"attention_mask": mask} if masked else {}
    expected = native(ids, labels=labels, output_router_logits=True, **inputs)
    found = ours(ids, labels=labels, output_router_logits=True, **inputs)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.aux_loss, expected.aux_loss, atol=1e-5, rtol=0)
    assert found.aux_loss > 2  # K if the experts are chosen equally often, and the coefficient is not negligible
    for our_logits, their_logits in zip(found.router_logits, expected.router_logits, strict=True):
        scored = mask.flatten().bool() if masked else slice(None)  # the positions of padding differ
        torch.testing.assert_close(our_logits[scored], their_logits[scored], atol=1e-5, rtol=1e-5)
    theirs = {n.replace("block_sparse_moe", "mlp"): g for n, g in gradients(native, expected.loss).items()}
    for name, gradient in gradients(ours, found.loss).items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-5, rtol=1e-4)


def test_only_training_adds_the_loss():
    model, (ids, mask, labels) = model_with_experts(), batch()
    plain = model(ids, attention_mask=mask, labels=labels)
    assert "aux_loss" not in plain
    both = model(ids, attention_mask=mask, labels=labels, output_router_logits=True)
    torch.testing.assert_close(both.loss, plain.loss + COEFFICIENT * both.aux_loss)
    model.train()
    torch.testing.assert_close(model(ids, attention_mask=mask, labels=labels).loss, both.loss)
    assert "aux_loss" not in model(ids, attention_mask=mask, labels=labels, output_router_logits=False)
    assert "aux_loss" not in model(ids, attention_mask=mask)
    dense = tiny_model("llama").train()
    assert "aux_loss" not in dense(ids, labels=labels)


def test_accumulated_batches_add_up():
    """The gradient of the sum over batches, divided by the scored tokens of all of them: each batch's loss is weighted
    by its scored tokens."""
    model, (ids, mask, labels) = model_with_experts().train(), batch()
    total = (labels[:, 1:] != -100).sum()
    parts = [(rows, (labels[rows, 1:] != -100).sum()) for rows in (slice(0, 1), slice(1, 3))]
    expected, found = 0, 0
    for rows, scored in parts:
        one = {"input_ids": ids[rows], "attention_mask": mask[rows], "labels": labels[rows]}
        expected = expected + model(**one).loss * scored / total
        found = found + model(**one, num_items_in_batch=total, skip_logits=True).loss
    torch.testing.assert_close(found, expected)
    theirs = gradients(model, expected)
    found = sum(
        sum_of_losses(
            model,
            {"input_ids": ids[rows], "attention_mask": mask[rows]}
            | {"labels": torch.nn.functional.pad(labels[rows], (0, 1), value=-100)[:, 1:]},
        )
        for rows, _ in parts
    )
    for name, gradient in gradients(model, found / total).items():
        torch.testing.assert_close(gradient, theirs[name])


def test_a_batch_without_scored_tokens_has_no_gradient():
    model, (ids, mask, labels) = model_with_experts().train(), batch()
    loss = model(ids, attention_mask=mask, labels=torch.full_like(labels, -100)).loss
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients(model, loss).values())


def test_gradient_checkpointing_has_the_same_gradients():
    model, (ids, mask, labels) = model_with_experts().train(), batch()
    plain = model(ids, attention_mask=mask, labels=labels).loss
    expected = gradients(model, plain)
    model.gradient_checkpointing_enable()
    loss = model(ids, attention_mask=mask, labels=labels).loss
    assert torch.equal(loss, plain)
    for name, gradient in gradients(model, loss).items():
        torch.testing.assert_close(gradient, expected[name])


def test_checkpointing_that_detaches_the_router_is_refused():
    """Reentrant checkpointing computes the blocks without a graph, so the router would get no gradient of this loss."""
    model, (ids, mask, labels) = model_with_experts().train(), batch()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant"):
        model(ids, attention_mask=mask, labels=labels)


def test_cached_tokens_are_not_counted_again():
    model, (ids, mask, _) = model_with_experts(), batch()
    whole = model(ids, attention_mask=mask, output_router_logits=True)
    start = model(ids[:, :5], attention_mask=mask[:, :5], use_cache=True)
    cache = start["cache"] if "cache" in start else start["past_key_values"]
    rest = model(ids[:, 5:], attention_mask=mask, past_key_values=cache, output_router_logits=True)
    logits = tuple(x.unflatten(0, (3, -1))[:, 5:].flatten(0, 1) for x in whole.router_logits)
    torch.testing.assert_close(rest.aux_loss, load_balancing_loss(logits, 2, mask[:, 5:]))


def test_unequal_use_of_experts_costs_more():
    even = torch.eye(4).repeat(3, 1) * 5
    uneven = torch.eye(4)[[0]].repeat(12, 1) * 5
    assert load_balancing_loss((even,), 1).item() == pytest.approx(1)
    assert load_balancing_loss((uneven,), 1).item() > 3
