"""What the views compute without a document: geometry, formulas, and the architecture that a config describes."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers.models import tiny_encoder, tiny_model, tiny_seq2seq
from helpers.page_engine import needs_node
from helpers.page_views import view_caller
from torch import nn
from torch.nn import functional as F

from scratch_gpt import (
    ScratchEncoderConfig,
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchGPTConfig,
    ScratchSeq2SeqConfig,
    see,
)
from scratch_gpt.foundations import VIEWS
from scratch_gpt.models.normalization import LayerNorm, RMSNorm
from scratch_gpt.see.payload import payload_of
from scratch_gpt.see.sources import excerpts

pytestmark = needs_node
VIEW_FOLDER = Path(see.__file__).parent / "web" / "view"
KINDS = ("causal", "bigram", "seq2seq", "masked", "classifier", "encoder")


@pytest.fixture(scope="module")
def call_views():
    with view_caller() as call:
        yield call


def scene(seed: int = 0, **shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Random tensors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes.values()]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.02134, "0.0213"),
        (-1.5, "−1.50"),
        (24.84, "24.8"),
        (2130.4, "2130"),
        (0.999, "0.999"),
        (0.00000123, "1.2 · 10^−6"),
    ],
)
def test_numbers_have_three_digits(value, text, call_views):
    assert call_views(("numbers", "decimal", value)) == [text]


def test_differences_have_a_sign(call_views):
    calls = [("numbers", "signed", 1.5), ("numbers", "signed", -1.5), ("numbers", "signed", 0)]
    calls += [("numbers", "points", 0.2), ("numbers", "points", -0.012), ("numbers", "points", 0.0001)]
    assert call_views(*calls) == ["+1.50", "−1.50", "0", "+20", "−1.2", "0"]


def test_distributions_are_those_of_torch(call_views):
    p, q = scene(p=(50,), q=(50,))
    calls = [("numbers", "softmax", p), ("numbers", "logSumExp", p), ("numbers", "norm", p)]
    softmax, total, norm, divergence = call_views(*calls, ("numbers", "divergence", p.softmax(0), q.softmax(0)))
    torch.testing.assert_close(torch.tensor(softmax), p.softmax(0))
    torch.testing.assert_close(torch.tensor([total, norm]), torch.stack([p.logsumexp(0), p.norm()]))
    expected = F.kl_div(q.log_softmax(0), p.log_softmax(0), reduction="sum", log_target=True)
    assert divergence == pytest.approx(float(expected), rel=1e-4)


def test_losses_are_those_of_torch(call_views):
    (logits,) = scene(logits=(6, 30))
    ids = [3, 7, 7, 0, 29, 12]
    losses = call_views(("outcomes", "tokenLosses", logits, ids))[0]
    expected = F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
    torch.testing.assert_close(torch.tensor([each["loss"] for each in losses]), expected)
    ranks = [int((row > row[id]).sum()) + 1 for row, id in zip(logits, ids[1:], strict=False)]
    assert [each["rank"] for each in losses] == ranks
    assert [each["position"] for each in losses] == [1, 2, 3, 4, 5]


def test_the_parts_of_a_head_are_found(call_views):
    weights = torch.stack([torch.eye(4), torch.eye(4).roll(-1, 1).tril() + F.pad(torch.ones(1, 1), (0, 3, 0, 3))])
    _, previous = call_views(
        ("attention_layout", "describeHead", weights[0], 4, 4), ("attention_layout", "describeHead", weights[1], 4, 4)
    )
    assert previous == {"previous": 1, "first": 0, "self": 0, "entropy": 0}
    (uniform,) = call_views(("attention_layout", "describeHead", torch.full((3, 4), 0.25), 3, 4, False))
    assert uniform["entropy"] == pytest.approx(torch.log(torch.tensor(4.0)).item())
    assert uniform["first"] == 0.25


def test_a_matrix_draws_each_weight_once(call_views):
    (scores,) = scene(scores=(2, 9, 7))
    weights = scores.mul(3).softmax(-1)
    (head,) = call_views(("attention_layout", "headWeights", weights, 1, 9, 7))
    torch.testing.assert_close(torch.tensor(head).view(9, 7), weights[1])
    (paths,) = call_views(("attention_layout", "matrixPaths", weights[1], 9, 7))
    cells = {}
    for each in paths:
        for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", each["path"]):
            assert (int(y), int(x)) not in cells
            cells[int(y), int(x)] = each["shade"]
    assert set(cells) == {tuple(place) for place in (weights[1] >= 0.02).nonzero().tolist()}
    assert all(shade - 0.1 <= weights[1][place] + 1e-6 <= shade + 1e-6 for place, shade in cells.items())


def described(model) -> dict:
    """The part of a payload that a drawing needs."""
    content = payload_of(model, None, "model").content
    return {name: content[name] for name in ("kind", "config", "labels", "tensors")}


def stacks_of(model) -> list[tuple[str, nn.ModuleList]]:
    if model.config.is_encoder_decoder:
        return [("encoder", model.model.encoder.layers), ("decoder", model.model.decoder.layers)]
    return [("main", model.model.layers)]


def norms_of(block: nn.Module) -> set[str]:
    """Names of the norms of a block, without those of queries and keys."""
    return {name for name, module in block.named_children() if isinstance(module, (LayerNorm, RMSNorm))}


def model_of(family: str, preset: str):
    """A tiny model of a preset."""
    if family == "encoder":
        bag = {"num_hidden_layers": 0, "ngram_buckets": 64}
        head = ScratchEncoderForSequenceClassification if preset == "fasttext" else ScratchEncoderForMaskedLM
        return tiny_encoder(head, preset, **(bag if preset == "fasttext" else {}))
    return {"gpt": tiny_model, "seq2seq": tiny_seq2seq}[family](preset)


MODELS = [("gpt", preset) for preset in ScratchGPTConfig.presets]
MODELS += [("seq2seq", preset) for preset in ScratchSeq2SeqConfig.presets]
MODELS += [("encoder", preset) for preset in ScratchEncoderConfig.presets]
DRAWN = ("gpt2", "gemma2", "gptj", "gpt_neox", "mixtral")


@pytest.fixture(scope="module")
def drawn(call_views):
    """The model, the stacks that are drawn, and the groups of parameters of each preset, by one process of Node."""
    models = {name: model_of(*name) for name in MODELS}
    descriptions = [described(model) for model in models.values()]
    calls = [("flow_model", "describeModel", description) for description in descriptions]
    calls += [("flow", "parameterGroups", description["tensors"]) for description in descriptions]
    found = call_views(*calls)
    return dict(zip(models, zip(models.values(), found, found[len(models) :], strict=False), strict=True))


@pytest.mark.parametrize(("family", "preset"), MODELS)
def test_the_drawing_has_the_modules_of_the_model(family, preset, drawn):
    model, stacks, groups = drawn[family, preset]
    for stack, (name, blocks) in zip(stacks, stacks_of(model), strict=True):
        assert stack["id"] == name
        assert len(stack["blocks"]) == len(blocks)
        for branches, block in zip(stack["blocks"], blocks, strict=True):
            boxes = [box for branch in branches for column in branch["columns"] for box in column]
            boxes += [branch[key] for branch in branches for key in ("shared", "normAfter") if branch[key]]
            assert {box["module"] for box in boxes if box["kind"] == "norm"} == norms_of(block)
            kinds = [box["kind"] for box in boxes if box["kind"] != "norm"]
            assert kinds.count("attention") == 1 + (block.cross_attn is not None)
            assert kinds.count("experts" if model.config.num_experts else "feed_forward") == 1
            assert (len(branches) == 1) == model.config.parallel_residual
        boxes = [*stack["before"], *stack["after"]]
        positions = [box for box in boxes if box["kind"] == "positions"]
        assert len(positions) == (model.config.position_type in ("learned", "sinusoidal"))
    learned = [*model.parameters(), *(model.get_buffer(name) for name in model.state_dict() if "token_weights" in name)]
    assert sum(group["count"] for group in groups) == sum(tensor.numel() for tensor in learned)


@pytest.fixture(scope="module")
def layouts(drawn, call_views):
    """Layouts of some presets with 2 and with 8 layers."""
    stacks = {(preset, 2): drawn["gpt", preset][1][0] for preset in DRAWN}
    stacks |= {(preset, 8): {**stack, "blocks": 4 * stack["blocks"]} for (preset, _), stack in stacks.items()}
    found = call_views(*[("flow_layout", "layoutStack", stack, 3) for stack in stacks.values()])
    return dict(zip(stacks, found, strict=True))


@pytest.mark.parametrize("preset", DRAWN)
@pytest.mark.parametrize("layers", [2, 8])
def test_boxes_stand_beside_each_other(preset, layers, layouts):
    layout = layouts[preset, layers]
    boxes = layout["boxes"]
    for index, first in enumerate(boxes):
        assert min(first["x"], first["y"]) >= 0
        assert first["x"] + first["width"] <= layout["width"]
        assert first["y"] + first["height"] <= layout["height"]
        for second in boxes[index + 1 :]:
            apart = (
                first["x"] + first["width"] <= second["x"]
                or second["x"] + second["width"] <= first["x"]
                or first["y"] + first["height"] <= second["y"]
                or second["y"] + second["height"] <= first["y"]
            )
            assert apart, (first, second)
    stream = layout["stream"]
    assert [piece["state"] for piece in stream if piece["from"] < piece["to"]][-1] == layers
    assert all(a["to"] == b["from"] for a, b in pairwise(stream))
    assert sum(frame["isOpen"] for frame in layout["frames"]) == (layers if layers <= 4 else 1)


def test_every_box_has_something_to_show(drawn, call_views):
    """A view, the numbers of a norm or of experts, or the source of a concept."""
    known = set(excerpts())
    classifier = tiny_encoder(ScratchEncoderForSequenceClassification, "bert")
    views, meanings, stacks = call_views(
        ("views", "VIEWS"), ("meanings", "PART_MEANINGS"), ("flow_model", "describeModel", described(classifier))
    )
    ids = {view["id"] for view in views}
    for stack in [*stacks, *(stack for _, found, _ in drawn.values() for stack in found)]:
        branches = [branch for block in stack["blocks"] for branch in block]
        boxes = [box for branch in branches for column in branch["columns"] for box in column]
        for box in [*boxes, *stack["before"], *stack["after"]]:
            if box["view"] is None:
                assert box["concept"] in known & set(meanings), box
            else:
                assert box["view"] in ids, box


def test_the_tree_of_a_beam_search_leads_to_the_chosen_text(call_views):
    def candidate(parent, id, score, ids, beam, ended=False):
        return {"parent": parent, "id": id, "score": score, "ids": [0, *ids], "beam": beam, "ended": ended}

    steps = [
        [candidate(0, 5, -1, [5], 0), candidate(0, 6, -2, [6], 1), candidate(0, 7, -3, [7], -1)],
        [
            candidate(1, 8, -2.5, [6, 8], 0),
            candidate(0, 2, -2.6, [5, 2], -1, ended=True),
            candidate(0, 9, -2.7, [5, 9], 1),
        ],
        [candidate(0, 2, -2.8, [6, 8, 2], -1, ended=True), candidate(1, 4, -9, [5, 9, 4], 0)],
    ]
    (nodes,) = call_views(("beam_layout", "beamTree", steps, [6, 8, 2], 2))
    assert [(node["x"], node["id"]) for node in nodes] == [(0, 5), (0, 6), (1, 8), (1, 2), (1, 9), (2, 2)]
    assert [node["id"] for node in nodes if node["isBest"]] == [6, 8, 2]
    assert [node["parent"]["id"] for node in nodes if node["parent"]] == [6, 5, 5, 8]
    assert [node["ended"] for node in nodes] == [False, False, False, True, False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_the_tour_opens_views_of_this_kind_of_model(kind, call_views):
    layers = {} if kind == "bigram" else {"num_hidden_layers": 2}
    (steps, views) = call_views(("tour_steps", "tourSteps", {"kind": kind, "config": layers}), ("views", "VIEWS"))
    shown = {view["id"] for view in views if kind in view.get("kinds", KINDS)}
    assert {step["state"]["view"] for step in steps} <= shown
    assert len({step["title"] for step in steps}) == len(steps)
    if kind not in ("bigram", "encoder"):
        assert len(steps) == 8


def test_masks_are_filled_one_at_a_time(call_views):
    calls = [("masked", "filled", "a <mask> b <mask>.", "<mask>", number, " old") for number in (0, 1)]
    assert call_views(*calls) == ["a old b <mask>.", "a <mask> b old."]
    assert call_views(("masked", "filled", "<mask> b", "<mask>", 0, "A")) == ["A b"]


def test_parts_are_switched_off_and_on(call_views):
    (parts, cross) = call_views(("what_if", "partsOf", 2, 3), ("what_if", "partsOf", 1, 3, True))
    assert [len(layer) for layer in parts] == [6, 6]
    assert [part["field"] for part in cross[0]][-4:] == ["crossAttentions", "crossHeads", "crossHeads", "crossHeads"]
    assert parts[1][-1] == {"field": "heads", "part": "1.2", "name": "Head 3", "title": "Head 3 of layer 2"}


def test_the_mean_over_heads_is_that_of_torch(call_views):
    (scores,) = scene(scores=(3, 4, 5))
    weights = scores.softmax(-1)
    (mean,) = call_views(("translate", "meanOverHeads", weights, 4, 5))
    torch.testing.assert_close(torch.tensor(mean).view(4, 5), weights.mean(0))


def test_long_lines_are_wrapped_and_lenses_are_affordable(call_views):
    assert call_views(("flow_layout", "wrapped", "rotary, 25% of each head")) == [["rotary, 25% of", "each head"]]
    widths = call_views(*[("lens_table", "lensWidth", 100, rows, 512, 10_000) for rows in (2, 7, 1000)])
    assert widths == [100, 41, 4]


def test_lessons_and_views_name_each_other():
    found = {}
    for path in VIEW_FOLDER.glob("*.js"):
        text = path.read_text()
        if lesson := re.search(r'^  lesson: "(\w+)",$', text, re.M):
            found[lesson[1]] = re.search(r'^  title: "([\w ]+)",$', text, re.M)[1]
    assert found == VIEWS
