"""The passes that torch computes for a served page, against those of the page's own engine, field by field."""

from typing import Any

import pytest
import torch
from helpers.models import lift_norms, tiny_encoder, tiny_model, tiny_seq2seq
from helpers.page_engine import EngineError, mostly_slow, needs_node, run_engine
from helpers.pages import shown

from scratch_gpt.errors import ScratchError
from scratch_gpt.models.modeling_scratch_encoder import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
)
from scratch_gpt.see import torch_caches
from scratch_gpt.see.torch_edits import Edits
from scratch_gpt.see.torch_trace import Pass, ServedModel

pytestmark = needs_node
LENGTH = 12
IDS = torch.randint(6, 50, (LENGTH,), generator=torch.Generator().manual_seed(0)).tolist()
SOURCE = torch.randint(6, 50, (9,), generator=torch.Generator().manual_seed(1)).tolist()
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
RELATIVE = {"position_type": "relative", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "grouped": ("llama", {"num_key_value_heads": 2, "head_dim": 12}),
    "windows_and_caps": ("gemma2", {**SLIDING, "attn_logit_softcapping": 2.0}),
    "rotary_by_layer": ("gemma3", SLIDING),
    "parallel": ("gpt_neox", {}),
    "parallel_shared_norm": ("gptj", {}),
    "experts": ("mixtral", {"num_experts": 4, "num_experts_per_tok": 2}),
    "norm_of_outputs": ("olmo2", {}),
    "ngrams": ("nanochat_ngram", {}),
    "relative": ("llama", RELATIVE),
    "post_norm": ("gpt2", {"norm_position": "post", "position_type": "sinusoidal"}),
}
ENCODERS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "masked": (ScratchEncoderForMaskedLM, "bert", {}),
    "masked_windows": (ScratchEncoderForMaskedLM, "modernbert", {**SLIDING, "sliding_window": 3}),
    "classifier": (ScratchEncoderForSequenceClassification, "modern", RELATIVE),
    "classifier_pooler": (ScratchEncoderForSequenceClassification, "bert", {}),
    "bag": (
        ScratchEncoderForSequenceClassification,
        "fasttext",
        {"num_hidden_layers": 0, "ngram_buckets": 64, "ngram_sizes": [2, 3]},
    ),
    "encoder": (ScratchEncoderModel, "bert", {}),
}
EDITS: list[dict[str, Any] | None] = [
    None,
    {"heads": ["0.1", "1.3"], "mlps": [1]},
    {"attentions": [0], "hiddenTokens": [0, 5, 6]},
    {"blocks": [0], "mlps": [0], "attentions": [1]},
]
SEQ2SEQ_EDITS: list[dict[str, Any] | None] = [
    *EDITS,
    {"crossHeads": ["0.1", "1.3"], "encoder": {"heads": ["0.2"], "mlps": [1]}},
    {"crossAttentions": [1], "encoder": {"hiddenTokens": [0, 3, 4]}},
    {"encoder": {"hiddenTokens": list(range(len(SOURCE)))}},
]


def numbers(value: Any) -> torch.Tensor:
    """What is compared: all numbers in order."""
    return value.flatten().float() if isinstance(value, torch.Tensor) else torch.tensor(value).float()


def assert_same(found: Any, expected: Any, place: str = "trace") -> int:
    """Assert that torch's trace has the fields and numbers of the engine's; returns the number of tensors."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), place
        return sum(assert_same(found[name], expected[name], f"{place}.{name}") for name in expected)
    if isinstance(found, list) and expected and isinstance(expected[0], dict):
        assert len(found) == len(expected), place
        return sum(
            assert_same(*pair, f"{place}[{index}]") for index, pair in enumerate(zip(found, expected, strict=True))
        )
    if isinstance(found, torch.Tensor):
        torch.testing.assert_close(
            numbers(found), numbers(expected), atol=1e-4, rtol=0, msg=lambda text: f"{place}: {text}"
        )
        return 1
    assert found == expected, place
    return 0


def compare(model: Any, cases: list[dict[str, Any]], fewest: int) -> None:
    """Compare passes of one model; `cases` are options of the engine's `forward`."""
    calls = [{"method": "forward", "ids": IDS, "options": {"record": True, **case}} for case in cases]
    expected = run_engine(model, calls)
    served = ServedModel(model)
    for case, one in zip(cases, expected, strict=True):
        wanted = Pass(
            ids=tuple(IDS),
            source_ids=tuple(case.get("sourceIds", ())),
            edits=Edits.from_json(case.get("edits")),
            record=case.get("record", True),
            last_logits=case.get("lastLogits", False),
        )
        assert assert_same(served.forward(wanted), one) >= fewest, case


@pytest.mark.parametrize("name", mostly_slow(DECODERS, ("windows_and_caps", "grouped", "experts")))
def test_decoders(name):
    preset, fields = DECODERS[name]
    model = lift_norms(tiny_model(preset, **fields))
    compare(model, [{"edits": edits} for edits in EDITS] + [{"lastLogits": True}], 3 + 2 * 10)
    compare(model, [{"record": False, "lastLogits": True}], 3)


@pytest.mark.parametrize("name", mostly_slow(ENCODERS, ("classifier", "bag")))
def test_encoders(name):
    model_class, preset, fields = ENCODERS[name]
    model = tiny_encoder(model_class, preset, **fields)
    edits = [each for each in EDITS if name != "bag" or each is None] + [{"hiddenTokens": [0, 4]}]
    compare(model, [{"edits": each} for each in edits], 3 if name == "bag" else 20)


@pytest.mark.parametrize("preset", mostly_slow(["bart", "modern", "pegasus", "t5"], ["modern"]))
def test_translators(preset):
    compare(tiny_seq2seq(preset), [{"sourceIds": SOURCE, "edits": edits} for edits in SEQ2SEQ_EDITS], 40)


@pytest.mark.parametrize("kind", ["bigram", "gpt_classifier"])
def test_other_kinds(kind):
    compare(shown(kind).model, [{"edits": edits} for edits in EDITS[: 1 if kind == "bigram" else None]], 3)


@pytest.mark.parametrize("name", ["windows_and_caps", "ngrams", "relative", "bigram", "modern"])
def test_a_cache_that_is_extended_shortened_and_forgotten_changes_nothing(name, monkeypatch):
    """Each piece is compared with a pass over the whole text, and the caches are so few that some are dropped."""
    monkeypatch.setattr(torch_caches, "MAX_CACHES", 2)
    if name == "bigram":
        model = shown("bigram").model
    elif name == "modern":
        model = tiny_seq2seq("modern")
    else:
        model = lift_norms(tiny_model(DECODERS[name][0], **DECODERS[name][1]))
    served = ServedModel(model)
    source = tuple(SOURCE) if name == "modern" else ()
    other = [*IDS[:4], 7, 8, 9, 10, 11]
    edits = Edits.from_json({"mlps": [0], "hiddenTokens": [1]})
    pieces: list[tuple[list[int], int, Edits]] = [
        (IDS[:5], 0, Edits()),
        (IDS[:6], 5, Edits()),
        (other, 4, Edits()),
        (IDS, 6, Edits()),
        (IDS, 6, edits),
        (IDS[:9], 8, edits),
        (other, 8, edits),
        (IDS[:7], 6, Edits()),
    ]
    for ids, start, changed in pieces:
        plain = served.forward(Pass(tuple(ids), source, edits=changed))
        cached = served.forward(Pass(tuple(ids), source, start, cached=True, edits=changed))
        recorded = served.forward(Pass(tuple(ids), source, start, cached=True, edits=changed, record=True))
        assert cached["start"] == recorded["start"] == start
        assert cached["length"] == len(ids) - start
        for trace in (cached, recorded):
            torch.testing.assert_close(
                trace["logits"].squeeze(0), plain["logits"].squeeze(0)[start:], atol=1e-5, rtol=0
            )
            if name != "bigram":
                torch.testing.assert_close(trace["hidden"], plain["hidden"][:, start:], atol=1e-5, rtol=0)
    assert len(served.caches.kept) == (0 if name == "bigram" else 2)


def test_a_cached_token_reads_only_itself():
    """The cache is used: the trunk sees one token."""
    model = tiny_model("llama")
    served, lengths = ServedModel(model), []
    handle = model.model.embed_tokens.register_forward_pre_hook(
        lambda module, inputs: lengths.append(inputs[0].shape[1])
    )
    for end in (5, 6, 7):
        served.forward(Pass(tuple(IDS[:end]), start=end - 1 if end > 5 else 0, cached=True))
    handle.remove()
    assert lengths == [5, 1, 1]


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "masked"])
def test_lens(kind):
    model = shown(kind).model
    options = {"sourceIds": SOURCE} if kind == "seq2seq" else {}
    (lenses,) = run_engine(model, [{"method": "lens", "ids": IDS, "options": options}])
    served = ServedModel(model)
    trace = served.forward(Pass(tuple(IDS), tuple(options.get("sourceIds", ())), record=True))
    states = [trace["embeddings"], *(layer["output"] for layer in trace["layers"])]
    for state, lens in zip(states, lenses, strict=True):
        assert_same(served.head(served.norm(state[0])), lens)


@pytest.mark.parametrize(("ids", "source"), [([], [5]), ([500], [5]), ([3, -1], [5]), ([3], []), ([3], [300])])
def test_wrong_ids_are_refused_as_by_the_engine(ids, source):
    model = shown("seq2seq").model
    with pytest.raises(EngineError) as engine:
        run_engine(model, [{"method": "forward", "ids": ids, "options": {"sourceIds": source}}])
    with pytest.raises(ScratchError) as torch_error:
        ServedModel(model).forward(Pass(tuple(ids), tuple(source)))
    assert str(engine.value) == f"RangeError: {torch_error.value}"


@pytest.mark.parametrize(
    "content", [[1], {"none": []}, {"heads": [1]}, {"mlps": ["0"]}, {"mlps": 3}, {"encoder": 3}, {"mlps": [True]}, "a"]
)
def test_edits_that_are_not(content):
    with pytest.raises(ScratchError, match=r"^edits"):
        Edits.from_json(content)
