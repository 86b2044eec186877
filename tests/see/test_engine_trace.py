"""What the views of a page show, against hooks of torch: attention weights, the residual stream, the logit lens, and
parts of a model that are switched off."""

from typing import Any

import pytest
import torch
from helpers.ablation import ablated, hiding_mask, recorded
from helpers.models import lift_norms, tiny_encoder, tiny_model, tiny_seq2seq
from helpers.page_engine import close, mostly_slow, needs_node, run_engine

from scratch_gpt.models import positions, seq2seq_stacks
from scratch_gpt.models.modeling_scratch_encoder import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
)

pytestmark = needs_node
LENGTH = 14
IDS = torch.randint(6, 99, (1, LENGTH), generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(6, 99, (1, LENGTH - 3), generator=torch.Generator().manual_seed(1))
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
RELATIVE = {"position_type": "relative", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
# Presets that together have every arrangement of a block, and every kind of attention.
DECODERS = {
    "gpt2": {},
    "llama": {"num_key_value_heads": 2, "head_dim": 12},
    "nanochat_ngram": {},
    "gemma2": {**SLIDING, "attn_logit_softcapping": 2.0},
    "gemma3": SLIDING,
    "gpt_neox": {},
    "gptj": {},
    "mixtral": {"num_experts": 4, "num_experts_per_tok": 2},
    "olmo2": {"norm_type": "layer_norm"},
    "relative": RELATIVE,
    "post": {"norm_position": "post", "position_type": "sinusoidal"},
}
EDITS: dict[str, dict[str, Any]] = {
    "heads": {"heads": ["0.1", "1.3"]},
    "attentions": {"attentions": [0]},
    "mlps": {"mlps": [1]},
    "blocks": {"blocks": [0]},
    "several": {"heads": ["1.0"], "mlps": [0], "attentions": [1]},
}


def decoder(name: str) -> Any:
    """A tiny decoder with random weights and eager attention."""
    model = lift_norms(tiny_model({"relative": "llama", "post": "gpt2"}.get(name, name), **DECODERS[name]))
    model.set_attn_implementation("eager")
    return model


def translator(preset: str) -> Any:
    """The same for an encoder-decoder."""
    model = tiny_seq2seq(preset)
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("name", mostly_slow(DECODERS, ("gemma2", "gptj")))
@torch.no_grad()
def test_traces_of_decoders(name):
    model = decoder(name)
    ids = IDS[0].tolist()
    calls = [{"method": "forward", "ids": ids, "options": {"record": True}}, {"method": "lens", "ids": ids}]
    trace, lenses = run_engine(model, calls)
    with recorded(model.model.layers) as states:
        outputs = model(IDS, output_attentions=True, use_cache=False)
    close(trace["embeddings"], states[0])
    for layer, before, after, attention in zip(trace["layers"], states, states[1:], outputs.attentions, strict=False):
        close(layer["input"], before)
        close(layer["output"], after)
        close(layer["attention"], attention[0], 1e-5)
        if model.config.norm_position != "post":
            close(layer["attentionOutput"] + layer["mlpOutput"], after - before)
        for norm in layer["norms"].values():
            assert norm["input"].shape == norm["output"].shape == layer["input"].shape
    cap = model.config.final_logit_softcapping
    for lens, hidden in zip(lenses, states, strict=True):
        expected = model.lm_head(model.model.norm(hidden))
        close(lens, expected if cap is None else cap * torch.tanh(expected / cap))


@pytest.mark.parametrize("name", mostly_slow(DECODERS, ("gemma2", "gptj")))
@torch.no_grad()
def test_edits_of_decoders(name):
    model = decoder(name)
    ids = IDS[0].tolist()
    hidden = {"hiddenTokens": [0, 6, 7]}
    all_edits = [*EDITS.values(), hidden]
    calls = [{"method": "forward", "ids": ids, "options": {"edits": edits}} for edits in all_edits]
    pieces = [[0, 5], [5, 6], [6, 7], [7, 8], [8, LENGTH]]
    calls += [{"method": "inPieces", "ids": ids, "pieces": pieces, "options": {"edits": hidden}}]
    *results, cached = run_engine(model, calls)
    plain = model(IDS, use_cache=False).logits[0]
    for edits, result in zip(EDITS.values(), results, strict=False):
        with ablated(model.model.layers, edits):
            expected = model(IDS, use_cache=False).logits[0]
        assert (expected - plain).abs().max() > 0.01, edits
        close(result["logits"], expected)
    mask = hiding_mask(model.config, LENGTH, {0, 6, 7})
    positions_of = torch.arange(LENGTH)[None]
    expected = model(IDS, attention_mask=mask, position_ids=positions_of, use_cache=False).logits[0]
    assert (expected - plain).abs().max() > 0.01
    close(results[-1]["logits"], expected)
    torch.testing.assert_close(torch.cat(cached["logits"]), results[-1]["logits"], atol=1e-6, rtol=0)


def test_details_of_attention_explain_its_weights():
    """The scores are the scaled dot products of the recorded queries and keys, and their softmax the weights, also with
    a cache."""
    model = decoder("llama")
    (trace,) = run_engine(model, [{"method": "forward", "ids": IDS[0].tolist(), "options": {"record": True}}])
    for layer in trace["layers"]:
        detail = layer["attentionDetail"]
        queries = detail["queries"].view(LENGTH, 4, 12).transpose(0, 1)
        keys = detail["keys"].view(LENGTH, 2, 12).transpose(0, 1).repeat_interleave(2, 0)
        scores = queries @ keys.transpose(1, 2) / 12**0.5
        visible = torch.ones(LENGTH, LENGTH).tril().bool()
        found = detail["scores"].view(4, LENGTH, LENGTH)
        torch.testing.assert_close(found, scores.masked_fill(~visible, -torch.inf), atol=1e-5, rtol=0)
        close(layer["attention"], found.softmax(-1), 1e-6)


@torch.no_grad()
def test_traces_of_experts():
    model = decoder("mixtral")
    (trace,) = run_engine(model, [{"method": "forward", "ids": IDS[0].tolist(), "options": {"record": True}}])
    routers = model(IDS, output_router_logits=True).router_logits
    for layer, logits in zip(trace["layers"], routers, strict=True):
        probabilities, experts = logits.softmax(-1), layer["experts"]
        close(experts["probabilities"], probabilities)
        weights, chosen = probabilities.topk(2)
        assert experts["chosen"] == chosen.flatten().tolist()
        close(experts["weights"], weights / weights.sum(-1, keepdim=True))


@pytest.mark.slow
@pytest.mark.parametrize("edits", [None, *EDITS.values()], ids=["none", *EDITS])
@pytest.mark.parametrize(
    ("model_class", "preset", "fields"),
    [
        (ScratchEncoderForMaskedLM, "bert", {}),
        (ScratchEncoderForMaskedLM, "modernbert", {"layer_types": SLIDING["layer_types"], "sliding_window": 3}),
        (ScratchEncoderForSequenceClassification, "modern", RELATIVE),
    ],
)
@torch.no_grad()
def test_traces_and_edits_of_encoders(model_class, preset, fields, edits):
    model = tiny_encoder(model_class, preset, **fields)
    model.set_attn_implementation("eager")
    (trace,) = run_engine(
        model, [{"method": "forward", "ids": IDS[0].tolist(), "options": {"record": True, "edits": edits}}]
    )
    with ablated(model.model.layers, edits or {}), recorded(model.model.layers) as states:
        outputs = model(IDS, output_attentions=True)
    for layer, state, attention in zip(trace["layers"], states[1:], outputs.attentions, strict=True):
        close(layer["output"], state)
        close(layer["attention"], attention[0], 1e-5)
    close(trace["logits"] if trace["scores"] is None else trace["scores"], outputs.logits[0])


@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        ("bert", {}),
        ("modern", RELATIVE),
        ("modernbert", {"layer_types": SLIDING["layer_types"], "sliding_window": 3}),
        ("fasttext", {"num_hidden_layers": 0, "ngram_buckets": 64, "ngram_sizes": [2, 3]}),
        ("fasttext", {"num_hidden_layers": 0, "ngram_buckets": 64, "ngram_sizes": [2], "token_weights": False}),
    ],
)
@pytest.mark.parametrize("hidden", mostly_slow([[5, 9], [0], [0, 1, 2]], [[0]]))
@torch.no_grad()
def test_hidden_tokens_of_encoders_are_padding_at_their_positions(preset, fields, hidden):
    model = tiny_encoder(ScratchEncoderForSequenceClassification, preset, **fields)
    call = {"method": "forward", "ids": IDS[0].tolist(), "options": {"edits": {"hiddenTokens": hidden}}}
    (trace,) = run_engine(model, [call])
    mask = torch.ones_like(IDS)
    mask[0, hidden] = 0
    expected = model(IDS, attention_mask=mask, position_ids=torch.arange(LENGTH)[None]).logits[0]
    assert (expected - model(IDS).logits[0]).abs().max() > 1e-3
    close(trace["scores"], expected)


@pytest.mark.parametrize("preset", mostly_slow(["bart", "modern", "pegasus", "t5"], ["modern"]))
@torch.no_grad()
def test_traces_of_translators(preset):
    model = translator(preset)
    call = {"method": "forward", "ids": TARGET[0].tolist()}
    (trace,) = run_engine(model, [{**call, "options": {"sourceIds": IDS[0].tolist(), "record": True}}])
    encoder, decoder = model.model.encoder, model.model.decoder
    with recorded(encoder.layers) as source_states, recorded(decoder.layers) as target_states:
        outputs = model(IDS, decoder_input_ids=TARGET, output_attentions=True, use_cache=False)
    close(trace["encoder"]["hidden"], outputs.encoder_last_hidden_state[0])
    for side, states, attentions in (
        (trace["encoder"], source_states, outputs.encoder_attentions),
        (trace, target_states, outputs.decoder_attentions),
    ):
        close(side["embeddings"], states[0])
        for layer, state, attention in zip(side["layers"], states[1:], attentions, strict=True):
            close(layer["output"], state)
            close(layer["attention"], attention[0], 1e-5)
    for layer, attention in zip(trace["layers"], outputs.cross_attentions, strict=True):
        close(layer["crossAttention"], attention[0], 1e-5)


@pytest.mark.parametrize("preset", mostly_slow(["bart", "modern", "pegasus", "t5"], ["modern"]))
@torch.no_grad()
def test_edits_of_translators(preset, monkeypatch):
    model = translator(preset)
    encoder_edits = {"heads": ["0.2"], "mlps": [1]}
    cases: list[dict[str, Any]] = [
        *EDITS.values(),
        {"crossHeads": ["0.1", "2.3"]},
        {"crossAttentions": [1]},
        {"heads": ["2.0"], "encoder": encoder_edits},
        {"encoder": {"hiddenTokens": [3, 4]}},
    ]
    call = {"method": "forward", "ids": TARGET[0].tolist()}
    source = {"sourceIds": IDS[0].tolist()}
    results = run_engine(model, [{**call, "options": {**source, "edits": edits}} for edits in cases])
    plain = model(IDS, decoder_input_ids=TARGET).logits[0]
    # Hidden source tokens keep their positions, which padding does not
    monkeypatch.setattr(
        seq2seq_stacks,
        "count_positions",
        lambda embeds, mask, cache=None: positions.count_positions(embeds, None, cache),
    )
    for edits, result in zip(cases, results, strict=True):
        of_encoder = edits.get("encoder", {})
        mask = torch.ones_like(IDS)
        mask[0, of_encoder.get("hiddenTokens", [])] = 0
        with ablated(model.model.decoder.layers, edits), ablated(model.model.encoder.layers, of_encoder):
            expected = model(IDS, attention_mask=mask, decoder_input_ids=TARGET).logits[0]
        assert (expected - plain).abs().max() > 0.01, edits
        close(result["logits"], expected)
