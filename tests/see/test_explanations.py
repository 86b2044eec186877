"""Any number, explained: a formula gives the number that is shown when it is computed from what is written in it, and
the number is that of torch or transformers."""

import math
import re
from functools import partial

import pytest
import torch
from helpers.models import randomise, tiny_encoder, tiny_model, tiny_seq2seq
from helpers.page_engine import needs_node
from helpers.page_views import view_caller
from torch import nn
from torch.nn import functional as F
from transformers import TextClassificationPipeline

from scratch_gpt import ScratchEncoderForSequenceClassification
from scratch_gpt.models.normalization import LayerNorm, RMSNorm
from scratch_gpt.see.payload import payload_of

pytestmark = needs_node


def activated(name: str, x: float) -> float:
    """An activation function of torch."""
    return float(getattr(F, name)(torch.tensor(x)))


SIGNS = {"−": "-", "·": "*", "^": "**", "²": "**2", "√8": "sqrt(8)", "√": "sqrt", "log₂": "log2"}
FUNCTIONS = {
    **{"exp": math.exp, "ln": math.log, "log2": math.log2, "sqrt": math.sqrt, "tanh": math.tanh},
    **{name: partial(activated, name) for name in ("silu", "gelu", "relu")},
}
UNITS = re.compile(r"\b(nats|bits|tokens|percentage points|per token)\b")


@pytest.fixture(scope="module")
def call_views():
    with view_caller() as call:
        yield call


def value_of(text: str) -> float | None:
    """The value of an expression; None if it has symbols."""
    expression = UNITS.sub("", text).strip().rstrip(".")
    expression = expression.replace("%", " / 100")
    for sign, code in SIGNS.items():
        expression = expression.replace(sign, code)
    words = set(re.findall(r"[A-Za-zα-ωΑ-ΩΣ₁-₉][A-Za-z0-9₁-₉]*", expression))
    if not expression or not words <= set(FUNCTIONS) or "<" in expression:
        return None
    return float(eval(expression, {"__builtins__": {}}, FUNCTIONS))


def check(explanation: dict, expected: float, rel: float = 6e-3) -> None:
    """Whether all expressions of each line are equal, and the last number is the expected one."""
    found = []
    for line in explanation["formula"]:
        parts = [part.split(": ")[-1] for part in line.split(" = ")]
        values = [(part, value) for part in parts if (value := value_of(part)) is not None]
        for part, value in values[1:]:
            assert value == pytest.approx(values[0][1], rel=rel, abs=last_digit(part)), line
        found += [value for _, value in values]
    assert len(found) > 1, explanation["formula"]
    assert any(value == pytest.approx(expected, rel=rel, abs=1e-6) for value in found), (expected, explanation)


def last_digit(part: str) -> float:
    """The unit of the last digit of a percentage; a small number of others."""
    share = re.fullmatch(r"\d+\.?(\d*)%", part.strip())
    return 2e-4 if share is None else 0.006 * 10.0 ** -len(share[1])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_an_attention_weight(softcap, call_views):
    query, keys = random(8), random(6, 8, seed=1)
    scores = keys @ query / 8**0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores[5] = float("-inf")
    numbers = {"query": query, "keyVector": keys[2], "scores": scores, "key": 2, "softcap": softcap, "hasBias": False}
    names = {"queryToken": "a", "keyToken": "b"}
    explained, masked = call_views(
        ("formulas", "explainAttention", {**numbers, **names}),
        ("formulas", "explainAttention", {**numbers, **names, "key": 5}),
    )
    check(explained, float(scores.softmax(0)[2]))
    check({"formula": explained["formula"][2:]}, float(scores[2]))
    assert "the weights of the 5 tokens" in explained["meaning"].lower()
    assert "the weight is 0" in masked["formula"][1]


def test_a_probability_a_loss_an_entropy_and_a_length(call_views):
    logits = random(40)
    p = logits.softmax(0)
    probability, loss, entropy, length = call_views(
        ("answer_formulas", "explainProbability", logits, 7, "x", ""),
        ("answer_formulas", "explainLoss", logits, 7, "x"),
        ("answer_formulas", "explainEntropy", p),
        ("formulas", "explainLength", logits, "here", ""),
    )
    check(probability, float(p[7]))
    check(loss, float(-p[7].log()))
    check(entropy, float(-(p * p.log2()).sum()))
    check(length, float(logits.norm()))
    assert ["rank", f"{int((p > p[7]).sum()) + 1} of 40"] in probability["values"]


@pytest.mark.parametrize("settings", [(0.7, 0, 1.0), (1.0, 5, 1.0), (1.3, 8, 0.5), (1.0, 0, 0.6)])
def test_a_probability_of_sampling(settings, call_views):
    """As transformers' processors of logits compute it."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    temperature, top_k, top_p = settings
    logits = random(40)
    scores = TemperatureLogitsWarper(temperature)(None, logits[None])
    scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
    expected = TopPLogitsWarper(top_p)(None, scores).softmax(-1)[0]
    sampling = {"temperature": temperature, "topK": top_k, "topP": top_p}
    best, worst = int(expected.argmax()), int(logits.argmin())
    found = call_views(
        *[("answer_formulas", "explainSampled", logits, id, sampling, "x", "") for id in (best, worst)],
        ("answer_formulas", "explainSampled", logits, best, {**sampling, "temperature": 0}, "x", ""),
    )
    check(found[0], float(expected[best]))
    if top_k or top_p < 1:
        assert found[1]["formula"][-1] == "this token is not kept: 0%"
    assert found[2]["formula"][-1] == "this logit is largest: 100%"


@pytest.mark.parametrize("problem", [None, "single_label_classification", "multi_label_classification", "regression"])
@pytest.mark.parametrize("count", [1, 3])
def test_answers_of_a_classifier_are_those_of_the_pipeline(problem, count, call_views):
    """The function that transformers' pipeline applies, with the config that the page contains."""
    model = randomise(tiny_encoder(ScratchEncoderForSequenceClassification, "modern"))
    config = model.config
    if count == 1 and problem == "single_label_classification":
        pytest.skip("transformers refuses this config")
    config.num_labels, config.problem_type = count, problem
    content = payload_of(model, None, "model").content
    scores = random(count) * 2
    pipeline = object.__new__(TextClassificationPipeline)
    pipeline.model = model
    found = pipeline.postprocess({"logits": scores[None]}, top_k=None, _legacy=True)
    expected = [each["score"] for each in found]
    names = (
        ("outcomes", "labelAnswers", scores, content["config"]),
        ("outcomes", "labelFunction", content["config"], count),
    )
    answers, kind = call_views(*names)
    assert answers == pytest.approx(expected, rel=1e-5)
    (explained,) = call_views(("answer_formulas", "explainClass", scores, 0, "good", content["config"], kind))
    text = "\n".join(explained["formula"])
    assert ("%" in text) == (problem != "regression")
    if problem != "regression":
        check(explained, expected[0], rel=2e-2)
    else:
        assert value_of(explained["formula"][1].split(" = ")[1]) == pytest.approx(expected[0], rel=1e-2)
    assert ("exp(−score)" in explained["formula"][0]) == (kind == "sigmoid")


def test_a_divergence_and_a_difference(call_views):
    p, q = random(50).softmax(0), random(50, seed=1).softmax(0)
    near = (p.log() + 0.02 * q).softmax(0)
    numbers = {"before": 0.25, "after": 0.375, "names": ["before", "after"], "text": "+12", "unit": "percentage points"}
    rest = {"title": "", "meaning": "", "concept": "head"}
    far, close, difference = call_views(
        *[("answer_formulas", "explainDivergence", p, other, "") for other in (q, near)],
        ("answer_formulas", "explainDifference", {**numbers, "text": "+12.5", **rest}, 100),
    )
    for explained, other in ((far, q), (close, near)):
        check(explained, float(F.kl_div(other.log(), p.log(), reduction="sum", log_target=True)), rel=2e-2)
    check(difference, 12.5)


def test_the_mean_loss_and_what_is_computed_from_it(call_views):
    logits, ids = random(7, 30), torch.tensor([3, 7, 7, 0, 29, 12, 5])
    losses = F.cross_entropy(logits[:-1], ids[1:], reduction="none")
    (found,) = call_views(("answer_formulas", "explainMeanLoss", losses.tolist(), 20))
    mean = float(losses.mean())
    for expected in (mean, math.exp(mean), float(losses.sum()) / math.log(2) / 20):
        check(found, expected)


@pytest.mark.parametrize("penalty", [0.6, 1.0, 2.0])
def test_the_score_of_a_beam_is_that_of_generate(penalty, call_views):
    """The terms from a model's own distributions, the score from `generate` of transformers."""
    model = randomise(tiny_seq2seq("modern"))
    source = torch.tensor([[5, 9, 11, 2]])
    options = {"num_beams": 3, "max_new_tokens": 6, "length_penalty": penalty, "do_sample": False}
    found = model.generate(source, return_dict_in_generate=True, output_scores=True, **options)
    ids = found.sequences[0].tolist()
    while ids[-1] == model.config.pad_token_id:
        ids.pop()
    with torch.no_grad():
        log_probabilities = model(source, decoder_input_ids=torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    terms = [
        {"token": str(id), "logProbability": float(row[id])} for id, row in zip(ids[1:], log_probabilities, strict=True)
    ]
    (explained,) = call_views(("answer_formulas", "explainBeam", terms, penalty, True))
    check(explained, float(found.sequences_scores[0]))


def test_a_path_of_the_tree_has_the_terms_of_its_sum(call_views):
    parent = {"id": 5, "score": -1.5, "parent": None}
    (path,) = call_views(("beam_layout", "beamPath", {"id": 2, "score": -1.75, "parent": parent}))
    assert path == [{"id": 5, "logProbability": -1.5}, {"id": 2, "logProbability": -0.25}]


@pytest.mark.parametrize("preset", ["gpt2", "llama", "gemma2", "mixtral"])
def test_a_neuron_is_that_of_torch(preset, call_views):
    """A hidden number as a hook on the projection down sees it; of an expert, from its weights."""
    model = randomise(tiny_model(preset))
    mlp = model.model.layers[0].mlp
    x = random(model.config.hidden_size)
    act = {"silu": F.silu, "gelu_new": lambda each: F.gelu(each, approximate="tanh"), "relu": F.relu, "gelu": F.gelu}
    activation = act[model.config.hidden_act]
    if preset == "mixtral":
        gate, up = (mlp.experts.gate_up_proj[2] @ x).chunk(2)
        gate_up = mlp.experts.gate_up_proj
        part = {"gateUp": gate_up, "hiddenSize": len(x), "intermediateSize": len(gate)}
        values, before, expert = activation(gate) * up, gate, 2
    else:
        seen = []
        mlp.down_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        mlp(x[None, None])
        values, expert = seen[0][0, 0], None
        names = [name for name in ("gate_proj", "up_proj") if getattr(mlp, name, None) is not None]
        part = {"gate_proj": None, **{name: linear(getattr(mlp, name)) for name in names}}
        before = getattr(mlp, names[0])(x)
        up = mlp.up_proj(x) if len(names) == 2 else None
    part["activation"] = model.config.hidden_act
    found = call_views(("neurons", "neuronsOf", revived(part), x, expert))[0]
    torch.testing.assert_close(torch.tensor(found["values"]), values.detach(), rtol=1e-4, atol=1e-5)
    best = int(values.abs().argmax())
    weight = (mlp.experts.gate_up_proj[2] if preset == "mixtral" else getattr(mlp, names[0]).weight)[best]
    bias = (
        0.0 if preset == "mixtral" or getattr(mlp, names[0]).bias is None else getattr(mlp, names[0]).bias[best].item()
    )
    numbers = {"activation": model.config.hidden_act, "input": x, "weights": weight, "bias": bias, "neuron": best}
    numbers |= {"before": float(before[best]), "up": None if up is None else float(up[best])}
    numbers["after"] = float(activation(before[best]))
    (explained,) = call_views(("formulas", "explainNeuron", numbers))
    assert found["before"][best] == pytest.approx(float(before[best]), rel=1e-4)
    check({"formula": explained["formula"][1:2]}, float(before[best]))
    assert value_of(explained["formula"][-1].split(" = ")[-1]) == pytest.approx(float(values[best]), rel=1e-2)


def linear(module: nn.Linear) -> dict:
    """A linear layer as the engine has it."""
    return {"weight": module.weight, "bias": module.bias, "outputs": module.out_features}


def revived(value):
    return value.detach() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("normalized", [True, False])
def test_the_weight_of_an_expert(normalized, call_views):
    logits = random(8)
    probabilities = logits.softmax(0)
    weights, chosen = probabilities.topk(2)
    shown = weights / weights.sum() if normalized else weights
    router, experts = call_views(
        ("formulas", "explainRouter", logits, chosen.tolist(), chosen[1].item(), normalized),
        ("formulas", "explainExperts", probabilities, chosen.tolist(), shown),
    )
    check(router, float(shown[1]))
    for line, expert, weight in zip(experts["formula"][1:], chosen.tolist(), shown.tolist(), strict=True):
        assert line.startswith(f"expert {expert + 1}: ")
        assert value_of(line.split(": ")[1].split(" = ")[-1]) == pytest.approx(weight, rel=1e-2)


def test_means_of_attention(call_views):
    weights = random(4, 6, 6).softmax(-1)
    mean, head, spread, parts = call_views(
        ("formulas", "explainMeanAttention", weights[:, 3, 2].tolist(), "a", "b"),
        ("formulas", "explainHeadMean", weights[0, 2:, 0].tolist(), "the first token"),
        ("formulas", "explainHeadSpread", torch.distributions.Categorical(weights[0, 2:]).entropy().tolist()),
        ("attention_layout", "describeHead", weights[0], 6, 6),
    )
    check(mean, float(weights[:, 3, 2].mean()), rel=4e-2)
    check(head, float(weights[0, 2:, 0].mean()), rel=3e-2)
    check(spread, math.exp(float(torch.distributions.Categorical(weights[0, 2:]).entropy().mean())), rel=2e-2)
    assert parts["first"] == pytest.approx(float(weights[0, 2:, 0].mean()), rel=1e-4)


@pytest.mark.parametrize("norm_type", ["layer_norm", "layer_norm_without_bias", "rms_norm", "rms_norm_without_weight"])
def test_a_norm(norm_type, call_views):
    x, weight, bias = random(16), random(16, seed=1), random(16, seed=2)
    if norm_type.startswith("layer_norm"):
        module: nn.Module = LayerNorm(16, 1e-5, bias=norm_type == "layer_norm")
    else:
        module = RMSNorm(16, 1e-5, elementwise_affine=norm_type == "rms_norm")
    plain = module(x).detach()
    for name, value in (("weight", weight), ("bias", bias)):
        if getattr(module, name, None) is not None:
            getattr(module, name).data.copy_(value)
    y = module(x).detach()
    config = {"norm_type": norm_type, "norm_eps": 1e-5}
    (found,) = call_views(("formulas", "explainNorm", x, y, config, 3))
    check({"formula": [found["formula"][1]]}, float(plain[3]))
    if norm_type != "rms_norm_without_weight":
        assert value_of(found["formula"][-1].split("y = ")[1]) == pytest.approx(float(y[3]), rel=1e-2)
    assert ("weight" in found["formula"][0], "bias" in found["formula"][0]) == (
        norm_type != "rms_norm_without_weight",
        norm_type == "layer_norm",
    )
