"""Packing: the encoder without padding equals the encoder with padding, and is used only where nobody can notice."""

import contextlib

import pytest
import torch
from helpers.models import tiny_encoder
from torch import nn

from scratch_gpt import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
    export_native,
)
from scratch_gpt.models.configuration_scratch_encoder import PRESETS

LENGTHS, LONGEST = (9, 5, 2, 5, 14), 14  # two texts of one length, and one without padding
WINDOWED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 2}
BAG = {"num_hidden_layers": 0, "ngram_sizes": [2], "ngram_buckets": 64}
SMALL = {"modernbert": WINDOWED, "fasttext": BAG}
STYLES = [
    ("bert", {"type_vocab_size": 2}),
    ("bert", {"position_type": "relative"}),
    ("modern", {"position_type": "relative", "num_key_value_heads": 2, **WINDOWED}),
    ("modern", {"position_type": "sinusoidal", "qk_norm": True, "num_key_value_heads": 2}),
    ("modern", {"parallel_residual": True, "no_rope_layers": [1, 0]}),
    ("modern", {"ngram_sizes": [2], "ngram_buckets": 64}),
    *((preset, SMALL.get(preset, {})) for preset in PRESETS),
]
CASES = ("gradients", "training", "eager", "hidden states", "attentions", "config", "hook", "forward", "4-D mask")
CASES += ("autocast", "two pieces", "no tokens", "no padding", "no mask")


def padded(left: bool = False) -> dict[str, torch.Tensor]:
    """Five texts of `LENGTHS`, padded on one side with random tokens."""
    ids = torch.randint(3, 99, (len(LENGTHS), LONGEST), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(LONGEST) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask.flip(1) if left else mask}


def is_packed(states: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether the states of padding are 0, which tells that it was not computed."""
    return not states[mask == 0].any()


@pytest.mark.parametrize(("preset", "fields"), STYLES)
@pytest.mark.parametrize("left", [False, True])
def test_packed_texts_equal_padded_ones(preset, fields, left):
    inputs, mask = padded(left), padded(left)["attention_mask"]
    if "type_vocab_size" in fields:
        inputs["token_type_ids"] = (torch.arange(LONGEST) % 3 == 0).long().expand(len(LENGTHS), -1)
    for head in (ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification):
        model = tiny_encoder(head, preset, **fields)
        states, logits = model.model(**inputs).last_hidden_state.detach(), model(**inputs).logits.detach()
        with torch.no_grad():
            packed_states, packed_logits = model.model(**inputs).last_hidden_state, model(**inputs).logits
        if model.config.num_hidden_layers:
            assert is_packed(packed_states, mask)
            assert not is_packed(states, mask)
        torch.testing.assert_close(packed_states[mask == 1], states[mask == 1], atol=1e-5, rtol=1e-5)
        if head is ScratchEncoderForMaskedLM:
            packed_logits, logits = packed_logits[mask == 1], logits[mask == 1]
        torch.testing.assert_close(packed_logits, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["bert", "distilbert", "modernbert"])
def test_packed_texts_equal_transformers_own_class(preset):
    model = tiny_encoder(
        ScratchEncoderForSequenceClassification, preset, **(WINDOWED if preset == "modernbert" else {})
    )
    native, inputs = export_native(model).eval(), padded()
    with torch.no_grad():
        assert is_packed(model.model(**inputs).last_hidden_state, inputs["attention_mask"])
        torch.testing.assert_close(model(**inputs).logits, native(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_embeddings_and_given_positions_are_packed_too():
    model, inputs = tiny_encoder(ScratchEncoderModel, "bert"), padded()
    mask, positions = inputs["attention_mask"], torch.arange(LONGEST).flip(0)[None]
    given = {"inputs_embeds": model.embed_tokens(inputs["input_ids"]).detach(), "attention_mask": mask.float()}
    expected = model(**given, position_ids=positions).last_hidden_state
    with torch.no_grad():
        found = model(**given, position_ids=positions).last_hidden_state
    assert is_packed(found, mask)
    torch.testing.assert_close(found[mask == 1], expected[mask == 1].detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_ordinary_computation_where_packing_could_be_noticed(case, monkeypatch):
    attention = "eager" if case in ("eager", "attentions") else "sdpa"
    model = tiny_encoder(ScratchEncoderModel, "modern", attn_implementation=attention)
    inputs, options, seen = padded(), {}, []
    mask, gradients, context = inputs["attention_mask"], torch.no_grad(), contextlib.nullcontext()
    if case == "gradients":
        gradients = torch.enable_grad()
    elif case == "training":
        model.train()
    elif case == "hidden states":
        options["output_hidden_states"] = True
    elif case == "attentions":
        options["output_attentions"] = True
    elif case == "config":
        model.config.output_hidden_states = True
    elif case == "hook":
        model.layers[1].mlp.register_forward_hook(lambda module, args, output: seen.append(output.shape[:2]))
    elif case == "forward":  # as accelerate does
        original = model.layers[1].mlp.forward
        monkeypatch.setattr(model.layers[1].mlp, "forward", lambda x: seen.append(x.shape[:2]) or original(x))
    elif case == "4-D mask":
        inputs["attention_mask"] = (mask[:, None, None] == 1).expand(-1, 1, LONGEST, -1)
    elif case == "autocast":
        context = torch.autocast("cpu", torch.bfloat16)
    elif case == "two pieces":
        mask[0, 3] = 0
    elif case == "no tokens":
        mask[1] = 0
    elif case == "no padding":
        mask[:] = 1
    elif case == "no mask":
        del inputs["attention_mask"]
    with gradients, context:
        found = model(**inputs, **options)
    assert found.last_hidden_state.shape == (len(LENGTHS), LONGEST, 32)
    assert found.last_hidden_state.abs().sum(-1).all()  # of padding too
    assert all(shape == mask.shape for shape in seen)
    assert bool(seen) == (case in ("hook", "forward"))
    if case in ("hidden states", "config"):
        assert all(states.shape == (len(LENGTHS), LONGEST, 32) for states in found.hidden_states)
    if case == "attentions":
        assert all(weights.shape == (len(LENGTHS), 4, LONGEST, LONGEST) for weights in found.attentions)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_graph_does_not_contain_the_lengths_of_its_example():
    model, inputs = tiny_encoder(ScratchEncoderForSequenceClassification, "bert").requires_grad_(False), padded()
    other = {**inputs, "attention_mask": inputs["attention_mask"].flip(0)}
    with torch.no_grad():
        traced = torch.jit.trace(lambda ids, mask: model(ids, attention_mask=mask).logits, tuple(inputs.values()))
        exported = torch.export.export(Logits(model), (), inputs).module()
        for graph in (traced(*other.values()), exported(**other)):
            torch.testing.assert_close(graph, model(**other).logits, atol=1e-5, rtol=1e-5)


class Logits(nn.Module):
    """A model as a module that returns its logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids, attention_mask=attention_mask).logits
