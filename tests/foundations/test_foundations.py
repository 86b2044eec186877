"""The lessons from one neuron to attention: each claim is checked, and each formula against torch or a library."""

import io
import math
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console
from torch.nn import functional as F

from scratch_gpt.errors import ScratchError
from scratch_gpt.foundations import (
    LADDER,
    LESSONS,
    activations,
    attention,
    depth,
    dropout,
    ladder_models,
    leaf_or_flower,
    load_lesson,
    neuron,
    source_file,
    subwords,
    text,
)
from scratch_gpt.foundations.autograd import Value
from scratch_gpt.foundations.lesson import INDENT, Presenter, source_of, split_text
from scratch_gpt.models.attention import ScratchAttention

SCREEN = 24  # lines


# --- claims of each lesson -------------------------------------------------------------------------------
def best_line_loss():
    x = np.linspace(-1, 1, 64)
    return np.polyfit(x, np.sin(3 * x), 1, full=True)[1].item() / 64


def is_close(number, expected, tolerance):
    return abs(number - expected) <= tolerance


CLAIMS = {
    "neuron": lambda found: (
        found["factor_error"] < 1e-9
        and found["diverged_error"] > 1e100
        and is_close(found["weight"], 1, 0.01)
        and is_close(found["bias"], 0, 0.01)
        and found["polynomial_error"] < 1e-6
    ),
    "autograd": lambda found: found["numeric_error"] < 1e-4 and found["used_twice"] == 7,
    "activations": lambda found: (
        found["stack_difference"] < 1e-12
        and is_close(found["softmax_sum"], 1, 1e-12)
        and found["softmax_against_sigmoid"] < 1e-12
        and found["linear_loss"] > 0.15
        and found["worst_loss"] < 1e-3
        and is_close(found["linear_loss"], best_line_loss(), 1e-3)
        and found["worst_loss"] < found["linear_loss"] / 1000
        and found["early_spread"] > found["linear_loss"] / 10
    ),
    "leaf_or_flower": lambda found: all(
        found[f"{task}, hidden layer"] > 0.9 and found[f"{task}, one layer"] < 0.75 for task in leaf_or_flower.TASKS
    ),
    "depth": lambda found: (
        found["half as large"] < 1e-8
        and found["twice as large"] > 50
        and found["signal"] < 1e-8
        and 0.1 < found["variance 1/n"] < 1
        and all(1.05**29 < found[f"half, {norm} norm"] < 1.15**29 for norm in ("batch", "layer"))
        and all(1 < found[name] < 6 for name in depth.STACKS if "residual" in name)
    ),
    "text": lambda found: (
        is_close(found["counted"], found["learned"], 0.01)
        and found["window_16"] < found["window_2"] < found["window_1"] < found["window_0"]
        and found["window_16"] < found["bigram"] < found["window_0"]
    ),
    "subwords": lambda found: (
        found["equal_merges"] == found["merges"] == 300 and found["tokens"] < found["characters"] / 2
    ),
    "attention": lambda found: (
        all(found[name] < 1e-12 for name in ("1 in 2", "2 in 3", "3 in 4", "4 and torch"))
        and is_close(found["she_on_anna"], 0.647, 1e-3)
        and is_close(found["she_output"], 0.647, 1e-3)
        and found["unscaled"] > 0.9
        and found["scaled"] < 0.2
        and found["accuracy"] > 0.99
        and found["accuracy_without"] < 0.4
    ),
    "dropout": lambda found: (
        found["mean_error"] < 0.01
        and found["gap_with"] < 0.75 * found["gap_without"]
        and found["with"] < found["without"]
        and found["train_without"] < 0.05
        and found["without"] > 2 * found["best_without"]
    ),
}


class StrictPresenter(Presenter):
    """Fails if a line of code would be wrapped in a terminal, or a formula be wider than a page on a phone (390 px)."""

    def text(self, text):
        for kind, lines in split_text(text):
            assert kind != "formula" or max(map(len, lines)) <= 44, lines
        super().text(text)

    def code(self, *functions):
        assert max(len(line) for f in functions for line in source_of(f).splitlines()) <= 80 - INDENT
        super().code(*functions)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LESSONS if name != LADDER])
def test_a_lesson_supports_its_claims_and_its_sections_fit_on_a_screen(name, tmp_path):
    printed = io.StringIO()
    found = load_lesson(name)(StrictPresenter(Console(file=printed, width=80), tmp_path / "plots"))
    assert CLAIMS[name](found), found
    sections = re.split(r"^\d+\. ", printed.getvalue(), flags=re.M)[1:]
    assert sections
    assert max(len(section.strip().splitlines()) for section in sections) <= SCREEN - 2  # the command adds two lines
    lines = [line for line in printed.getvalue().splitlines() if not line.startswith("plot: ")]
    assert max(map(len, lines)) <= 80
    plots = list((tmp_path / "plots").glob("*.png"))
    assert plots
    for plot in plots:  # a blank one has two colours: those of the axes and of the background
        assert len(np.unique(imread(plot).reshape(-1, 4), axis=0)) > 20
    assert source_file(name).read_text().startswith('"""')


def test_lessons_depend_on_earlier_ones_only():
    names = list(LESSONS)
    for number, name in enumerate(names):
        needed = set(re.findall(r"^from \.(\w+) import", source_file(name).read_text(), re.M))
        assert not needed & set(names[number:]), f"{name} needs {needed & set(names[number:])}"


def test_texts_are_split_into_paragraphs_lists_and_formulas():
    text = """One paragraph,
        of two lines.

            a = b
              + c

        - an item
          of two lines, 3 - 1
        - another"""
    assert split_text(text) == [
        ("paragraph", ["One paragraph, of two lines."]),
        ("formula", ["a = b", "  + c"]),
        ("list", ["an item of two lines, 3 - 1", "another"]),
    ]


def test_code_is_shown_without_docstring_and_annotations():
    assert source_of(subwords.encode).splitlines()[:2] == ["def encode(word, merges):", "    tokens = list(word)"]
    shown = source_of(text.fit)
    assert shown.startswith("def fit(network, ids, held_out, steps=1200, seed=0):\n    generator = ")


def test_sections_wait_for_enter_at_a_terminal(monkeypatch):
    class Keyboard(io.StringIO):
        def isatty(self):
            return True

    keyboard = Keyboard("\n\n\n")
    monkeypatch.setattr("sys.stdin", keyboard)
    presenter = Presenter(Console(file=io.StringIO(), force_terminal=True))
    presenter.section("one", "starts at once")
    assert keyboard.tell() == 0
    presenter.section("two", "waits")
    assert keyboard.tell() == 1
    monkeypatch.setattr("sys.stdin", io.StringIO())  # not a terminal
    presenter.section("three", "does not wait")


# --- formulas against torch ------------------------------------------------------------------------------
UNARY = {
    "tanh": (lambda x: x.tanh(), torch.tanh),
    "relu": (lambda x: x.relu(), torch.relu),
    "exp": (lambda x: x.tanh().exp(), lambda x: x.tanh().exp()),
    "log": (lambda x: (x * x + 1).log(), lambda x: (x * x + 1).log()),
    "square": (lambda x: x**2, lambda x: x**2),
    "negative": (lambda x: -x, lambda x: -x),
    "one over": (lambda x: 1 / (x * x + 1), lambda x: 1 / (x * x + 1)),
    "from two": (lambda x: 2 - x, lambda x: 2 - x),
}
BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / (b * b + 1),
}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-2, 2).filter(lambda x: abs(x) > 1e-3), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12
    ),
)
def test_autograd_equals_torch_on_random_graphs(numbers, program):
    ours, theirs = (
        [Value(x) for x in numbers],
        [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers],
    )
    inputs = list(theirs)
    for operation, first, second in program:
        if operation in UNARY:
            a, b = UNARY[operation]
            ours.append(a(ours[first % len(ours)]))
            theirs.append(b(theirs[first % len(theirs)]))
        else:
            f = BINARY[operation]
            ours.append(f(ours[first % len(ours)], ours[second % len(ours)]).tanh())
            theirs.append(f(theirs[first % len(theirs)], theirs[second % len(theirs)]).tanh())
    out, expected = sum(ours[1:], start=ours[0]), sum(theirs[1:], start=theirs[0])
    out.backward()
    expected.backward()
    assert out.data == pytest.approx(expected.item(), rel=1e-10, abs=1e-10)
    for value, tensor in zip(ours, inputs, strict=False):
        assert value.grad == pytest.approx(tensor.grad.item(), rel=1e-10, abs=1e-10)


def test_autograd_handles_deep_graphs_and_repeated_calls():
    x = Value(1.0)
    y = x
    for _ in range(5000):
        y = y * 1.0001
    for _ in range(2):  # a second call does not add to the first
        y.backward()
        assert x.grad == pytest.approx(1.0001**5000)


def test_the_neurons_gradients_equal_autograd():
    drawer = random.Random(0)
    inputs = [[drawer.gauss(0, 1) for _ in range(3)] for _ in range(7)]
    targets = [drawer.gauss(0, 1) for _ in range(7)]
    weights, bias = [drawer.gauss(0, 1) for _ in range(3)], 0.3
    by_weight, by_bias = neuron.gradients(neuron.Neuron(weights, bias), inputs, targets)
    values, shift = [Value(w) for w in weights], Value(bias)
    loss = neuron.mean_squared_error(neuron.Neuron(values, shift), inputs, targets)
    loss.backward()
    assert [v.grad for v in values] == pytest.approx(by_weight, rel=1e-12)
    assert shift.grad == pytest.approx(by_bias, rel=1e-12)


def test_cross_entropy_equals_torch_even_for_large_scores():
    for scores in ([0.3, -1.2, 2.0], [800.0, -900.0, 1.0]):
        values = [Value(s) for s in scores]
        loss = leaf_or_flower.cross_entropy(values, 2)
        loss.backward()
        tensor = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
        expected = F.cross_entropy(tensor, torch.tensor(2))
        expected.backward()
        assert loss.data == pytest.approx(expected.item(), rel=1e-12)
        assert [v.grad for v in values] == pytest.approx(tensor.grad.tolist(), abs=1e-12)


@pytest.mark.parametrize("name", [name for name in activations.ACTIVATIONS if name != "none"])
def test_activations_and_derivatives_equal_torch(name):
    f, derivative = activations.ACTIVATIONS[name]
    x = torch.linspace(-6, 6, 241, dtype=torch.float64, requires_grad=True)
    expected = getattr(F, name)(x)
    expected.sum().backward()
    np.testing.assert_allclose(f(x.detach().numpy()), expected.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(derivative(x.detach().numpy()), x.grad.numpy(), atol=1e-12)


def test_softmax_equals_torch_and_preserves_order():
    scores = np.random.default_rng(0).normal(0, 300, (50, 7))
    probabilities = activations.softmax(scores)
    np.testing.assert_allclose(probabilities, torch.from_numpy(scores).softmax(-1).numpy(), atol=1e-12)
    order = np.take_along_axis(probabilities, scores.argsort(-1), -1)
    assert (np.diff(order) >= 0).all()


@pytest.mark.parametrize("axis", [0, -1])
def test_norms_and_their_gradients_equal_torch(axis):
    generator = np.random.default_rng(0)
    x, gradient = generator.normal(3, 2, (16, 10)), generator.normal(size=(16, 10))
    tensor = torch.from_numpy(x).requires_grad_()
    if axis == 0:
        expected = F.batch_norm(tensor, None, None, training=True, eps=depth.EPS)
    else:
        expected = F.layer_norm(tensor, (10,), eps=depth.EPS)
    expected.backward(torch.from_numpy(gradient))
    np.testing.assert_allclose(depth.normalize(x, axis), expected.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(depth.normalize_backward(x, gradient, axis), tensor.grad.numpy(), atol=1e-12)


def test_scales_of_deep_networks_equal_torch():
    for stack in depth.STACKS.values():
        signals, gradients = depth.measure_scales(stack, layers=5, width=8, batch=6)
        generator = np.random.default_rng(0)
        weights = [torch.from_numpy(generator.normal(0, stack.scale * 8**-0.5, (8, 8))) for _ in range(5)]
        states = [torch.from_numpy(generator.normal(size=(6, 8)))]
        for weight in weights:
            x = states[-1] @ weight
            if stack.axis == 0:
                x = F.batch_norm(x, None, None, training=True)
            elif stack.axis == -1:
                x = F.layer_norm(x, (8,))
            states.append((states[-1] + x.tanh() if stack.residual else x.tanh()).requires_grad_())
            states[-1].retain_grad()
        states[-1].backward(torch.from_numpy(generator.normal(size=(6, 8))))
        std = [state.grad.numpy().std() for state in states[1:]]
        assert gradients == pytest.approx([s / std[-1] for s in std], rel=1e-3)
        first = states[0].detach().numpy().std()
        assert signals == pytest.approx([state.detach().numpy().std() / first for state in states[1:]], rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcd", min_size=1, max_size=8), min_size=1, max_size=40), st.integers(1, 30))
def test_merges_equal_those_of_the_library(words, count):
    assert subwords.learn_merges(words, count) == subwords.library_merges(words, count)


def test_encoding_equals_the_library():
    from tokenizers import Tokenizer, models

    words = ["low", "lower", "lowest", "newer", "wider", "new", "wide", "aaa", "aaaa"] * 3
    merges = subwords.learn_merges(words, 20)
    tokens = sorted({c for word in words for c in word} | {a + b for a, b in merges})
    library = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    for word in ("lowest", "wider", "newest", "aaaaa", "drew"):
        assert subwords.encode(word, merges) == library.encode(word).tokens


def test_attention_equals_torch_and_the_models():
    torch.manual_seed(0)
    x = torch.randn(7, 16)
    config = ladder_models.gpt_config(11, hidden_size=16, attention_bias=False)
    module = ScratchAttention(config, 0)
    matrices = [getattr(module, f"{name}_proj").weight.T for name in "qkvo"]
    ours = attention.attend_with_heads(x, *matrices, heads=config.num_attention_heads)
    mask = torch.triu(torch.full((7, 7), -math.inf), diagonal=1)
    torch.testing.assert_close(ours, module(x[None], attention_mask=mask)[0][0], atol=1e-6, rtol=1e-5)
    q, k, v = (x @ matrix for matrix in matrices[:3])
    torch.testing.assert_close(attention.attend(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))
    shuffled = torch.cat((x[torch.randperm(6)], x[6:]))
    torch.testing.assert_close(attention.attend(x, x, x)[6], attention.attend(shuffled, shuffled, shuffled)[6])


def test_dropout_applies_one_mask_to_values_and_gradients():
    x = torch.ones(10_000, requires_grad=True)
    y = dropout.dropout(x, 0.25, torch.Generator().manual_seed(0))
    assert set(y.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_counts_of_pairs_depend_on_their_order():
    counts = text.count_pairs(np.array([0, 1, 0, 1, 2]), 3)
    assert counts.tolist() == [[0, 2, 0], [1, 0, 1], [0, 0, 0]]


def test_a_plot_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScratchError, match=r"can't create the folder .* for plots"):
        Presenter(Console(file=io.StringIO()), tmp_path / "file")


def test_with_norms_the_gradient_does_not_depend_on_the_scale_of_the_weights():
    for axis in (0, -1):
        first_gradients = [depth.measure_scales(depth.Stack(scale, axis=axis))[1][0] for scale in (0.5, 1.0, 2.0)]
        assert max(first_gradients) / min(first_gradients) < 1.05
