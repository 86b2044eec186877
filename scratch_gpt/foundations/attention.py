"""Attention: five words mixed by hand, then in four steps from the average of the past to multi-head attention.

Dimension letters: T tokens, C features of a token's vector, D features of a head, H heads.
`models/attention.py` implements step 4 for training and inference, with weights that are compatible with this one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from ..models.positions import SinusoidalPositions
from .lesson import Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def average_of_the_past(x: torch.Tensor) -> torch.Tensor:
    """Step 1: average each token's past, (T, C) to (T, C)."""
    ones = torch.tril(torch.ones(len(x), len(x), dtype=x.dtype))
    return ones / ones.sum(1, keepdim=True) @ x


def causal_softmax(scores: torch.Tensor) -> torch.Tensor:
    """Step 2: scores to attention weights, (…, T, T) to (…, T, T); future tokens have weight 0."""
    everywhere = torch.ones(scores.shape[-2:], dtype=torch.bool)
    future = torch.triu(everywhere, diagonal=1)
    return scores.masked_fill(future, -math.inf).softmax(-1)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Step 3: causal attention; queries, keys and values (…, T, D) to (…, T, D)."""
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return causal_softmax(scores) @ value


def split_heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """Split (T, C) into (H, T, D)."""
    return projected.unflatten(-1, (heads, -1)).transpose(0, 1)


def attend_with_heads(
    x: torch.Tensor, w_q: torch.Tensor, w_k: torch.Tensor, w_v: torch.Tensor, w_o: torch.Tensor, heads: int
) -> torch.Tensor:
    """Step 4: causal multi-head attention.

    Args:
        x: token vectors (T, C).
        w_q: query projection (C, C).
        w_k: key projection (C, C).
        w_v: value projection (C, C).
        w_o: output projection (C, C).
        heads: number of heads, H.

    Returns:
        The outputs (T, C).
    """
    projected = (x @ w_q, x @ w_k, x @ w_v)
    q, k, v = (split_heads(each, heads) for each in projected)
    outputs = attend(q, k, v)  # (H, T, D)
    return outputs.transpose(0, 1).flatten(1) @ w_o  # (T, C)


def learn_positions(
    back: int, with_positions: bool = True, length: int = 24, size: int = 16, steps: int = 400, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Train one attention head to predict the token `back` positions earlier, which requires positions.

    Args:
        back: distance of the token to predict.
        with_positions: whether to add learned position embeddings.
        length: tokens per sequence, T.
        size: features per token, C.
        steps: number of steps, each on 32 random sequences.
        seed: of weights and data.

    Returns:
        The position embeddings (T, C), the attention weights (T, T) of one sequence, and the accuracy on the last
        batch.
    """
    torch.manual_seed(seed)
    vocabulary = 12
    tokens, positions = nn.Embedding(vocabulary, size), nn.Embedding(length, size)
    w_q, w_k, w_v = (nn.Linear(size, size, bias=False) for _ in range(3))
    head = nn.Linear(size, vocabulary)
    optimizer = torch.optim.Adam([p for m in (tokens, positions, w_q, w_k, w_v, head) for p in m.parameters()], lr=2e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / steps)
        ids = torch.randint(vocabulary, (32, length))
        x = tokens(ids) + positions.weight * with_positions
        weights = causal_softmax(w_q(x) @ w_k(x).mT / math.sqrt(size))  # (B, T, T)
        scores = head(weights @ w_v(x))[:, back:]  # (B, T - back, vocabulary)
        loss = F.cross_entropy(scores.flatten(0, 1), ids[:, :-back].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (scores.argmax(-1) == ids[:, :-back]).float().mean().item()
    return positions.weight.detach(), weights[0].detach(), accuracy


def _torch_heads(
    x: torch.Tensor, w_q: torch.Tensor, w_k: torch.Tensor, w_v: torch.Tensor, w_o: torch.Tensor, heads: int
) -> torch.Tensor:
    """Compute step 4 by `nn.MultiheadAttention`, whose weight matrices are transposed."""
    module = nn.MultiheadAttention(x.shape[1], heads, bias=False, batch_first=True, dtype=x.dtype)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.cat((w_q.T, w_k.T, w_v.T)))
        module.out_proj.weight.copy_(w_o.T)
        future = torch.triu(torch.ones(len(x), len(x), dtype=torch.bool), diagonal=1)
        return module(x[None], x[None], x[None], attn_mask=future, need_weights=False)[0][0]


WORDS = ("Tom", "saw", "Anna", "when", "she")
# Of each word, what it looks for, what it can be found by, and what it passes on, each two numbers.
QUERIES = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 1.0]])
KEYS = torch.tensor([[1.0, -1.0], [-1.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [0.0, 1.0]])
VALUES = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])


def run(presenter: Presenter) -> dict[str, float]:
    """Mix five words by hand; derive attention in four steps; show the scaling by √D and the need for positions."""
    results = _mix_by_hand(presenter) | _take_four_steps(presenter) | _scale(presenter) | _add_positions(presenter)
    presenter.section(
        "In a trained model: nearly one-hot rows",
        """The model that `scratch-gpt train language_modeling` trains on the built-in stories has 4 layers of 2 heads.
        The largest weight of a row has there a mean of 0.78 and 0.86 in the first layer, and of 0.96 to 0.98 in the
        others; before training it was 0.04. If we make every row one-hot, a 1 at its largest weight and 0 elsewhere,
        the loss rises from 1.415 to only 1.419 nats per token (and to 8.84 if all weights are equal). So the model does
        use attention, and it nearly always looks at one word. In a softmax that takes a score of 8.7 more than 60 equal
        ones: e^8.7 / (e^8.7 + 60) = 0.99.

        Two things may contribute. The text: the stories come from a grammar in which single earlier words decide what
        may follow, the name between "he" and "she". And training: a model of characters with two layers, on
        Shakespeare, has means of 0.52 to 0.92 after 300 steps with the optimizer of that command, Muon (loss 2.00). The
        same model has 0.26 to 0.61 with AdamW, which is Adam with weights that shrink a little in each step (2.16), and
        0.49 to 0.64 with Muon and normalized queries and keys (1.96). Each was measured with one seed and one learning
        rate, which shows no cause; but the lowest loss here did not need the rows nearest to one-hot.""",
    )
    return results


def _mix_by_hand(presenter: Presenter) -> dict[str, float]:
    presenter.section(
        "The question",
        """To predict the next word of "Tom saw Anna when she", it helps to know who "she" is. Each word has its
        embedding, a vector, but the vector of "she" says nothing about Anna. Somehow information must travel from one
        word to another: the words must be mixed. A window gives every place its own weights, whatever stands there. But
        here the right place depends on the words. Attention lets each word choose, by three vectors:

        - its query says what it looks for;
        - its key says what other words can find it by;
        - its value is what it passes on to those that find it.

        It is like looking up a key in a dictionary, except that every key matches a little, and what one gets is the
        average of all values, weighted by how well query and key match.""",
    )
    presenter.section(
        "Five words",
        """Let us choose the numbers ourselves. Keys: the first number is 1 for a name of a person, -1 for another
        word, the second is 1 for female and -1 for male. The key of "she" is (0, 1): female, but she names nobody
        herself, so 0 as a compromise between 1 and -1. Queries: "saw" looks for a name, "she" for a female name; the
        other words look for nothing. Values: the first number means Tom, the second Anna.""",
    )
    presenter.table(
        ("word", "query", "key", "value"),
        [(w, *(_pair(t[i]) for t in (QUERIES, KEYS, VALUES))) for i, w in enumerate(WORDS)],
    )
    scores = QUERIES @ KEYS.T / math.sqrt(2)  # (T, T)
    weights = causal_softmax(scores)
    query, powers = QUERIES[4].tolist(), scores[4].exp()
    lines = []
    for word, key, score, power in zip(WORDS, KEYS.tolist(), scores[4].tolist(), powers.tolist(), strict=True):
        products = " + ".join(f"{a:g}·{b:g}" if b >= 0 else f"{a:g}·({b:g})" for a, b in zip(query, key, strict=True))
        dot = sum(a * b for a, b in zip(query, key, strict=True))
        lines.append(f"{word:<5}{products:<14}={dot:3g} {score:6.2f} {power:7.2f}")
    presenter.section(
        'The word "she", by hand',
        f"""The score of a query and a key is their dot product, the sum of the products of their numbers: large if they
        agree. It is divided by the root of D, the number of entries of the vectors, here √2 = 1.41 (the reason comes
        later). The query of "she" is (2, 1):

            key of q · k                /√2 e^score
            {f"{chr(10)}{12 * ' '}".join(lines)}

        Softmax: the sum of the last column is {powers.sum():.2f}. Divided by it, the weights are
        {", ".join(f"{w:.2f}" for w in weights[4])}. The output is the average of the values with these weights
        (the other three values are 0):

            {weights[4, 0]:.2f}·(1, 0) + {weights[4, 2]:.2f}·(0, 1) = ({weights[4, 0]:.2f}, {weights[4, 2]:.2f})

        Now the vector of "she" says: {weights[4, 2]:.0%} Anna, {weights[4, 0]:.0%} Tom.""",
    )
    presenter.section(
        "All words at once, and the causal mask",
        """Written as matrices, with a row for each word, all scores are one product, Q Kᵀ / √D. But a word must not see
        later words. In training, every word of the text predicts its successor at the same time; if "saw" could look at
        "Anna", it would read off its answer, and in use, when the future is not written yet, it would know nothing. So
        the scores of later words are replaced by -∞, whose softmax is 0. This is the causal mask. The weights, a row
        for each query:""",
    )
    presenter.table(
        ("query", *WORDS, "output"),
        [
            (w, *(f"{x:.2f}" if j <= i else "" for j, x in enumerate(weights[i])), _pair(weights[i] @ VALUES))
            for i, w in enumerate(WORDS)
        ],
    )
    presenter.text("""Words that look for nothing (query 0) get the plain average of all words up to their own.""")
    presenter.section(
        "The code", "Attention is these two functions (`key.mT` is Kᵀ, `triu` the part above the diagonal):"
    )
    presenter.code(causal_softmax, attend)
    output = attend(QUERIES, KEYS, VALUES)
    return {"she_on_anna": float(weights[4, 2]), "she_output": float(output[4, 1])}


def _pair(numbers: torch.Tensor) -> str:
    return f"({', '.join(f'{number:.2g}' for number in numbers.tolist())})"


def _take_four_steps(presenter: Presenter) -> dict[str, float]:
    presenter.section(
        "Where the three vectors come from",
        """In a model nobody chooses the numbers. Each word has its vector x of C numbers, and three matrices, learned
        by gradient descent like all weights, make the three vectors from it:

            q = x W_q     k = x W_k     v = x W_v

        What their numbers mean is up to training; they seldom have a meaning as plain as ours. Attention contains
        simpler ideas as special cases:

        - Step 1, the average of the past: y_t = 1/t Σ x_s over the words s up to t.
        - Step 2, weights by softmax: the rows of a table of scores, fixed once and for all; if all scores are equal,
          this is step 1.
        - Step 3, query, key and value: the scores come from the words. With fixed queries and keys it is step 2.
        - Step 4, multi-head attention: one head can look for one thing at a time. So H heads work side by side, each
          with queries, keys and values of D = C / H numbers; their outputs are concatenated and mixed by one more
          matrix, W_o (Vaswani et al. 2017, arXiv:1706.03762). With one head, and W_o that changes nothing, it is step
          3.""",
    )
    presenter.section(
        "Several heads in code", "Splitting makes H short vectors of each long one; the rest is `attend`:"
    )
    presenter.code(split_heads, attend_with_heads)
    torch.manual_seed(0)
    T, C = 6, 8
    x = torch.randn(T, C, dtype=torch.float64)
    table = torch.randn(T, T, dtype=torch.float64)
    w_q, w_k, w_v, w_o = (torch.randn(C, C, dtype=torch.float64) / math.sqrt(C) for _ in range(4))
    identity = torch.eye(C, dtype=torch.float64)
    differences = {
        "1 in 2": (causal_softmax(torch.zeros(T, T, dtype=torch.float64)) @ x - average_of_the_past(x)),
        # queries are the rows of a table and keys unit vectors, so that q · k are the table's entries
        "2 in 3": attend(table * math.sqrt(T), torch.eye(T, dtype=torch.float64), x) - causal_softmax(table) @ x,
        "3 in 4": attend_with_heads(x, w_q, w_k, w_v, identity, 1) - attend(x @ w_q, x @ w_k, x @ w_v),
        "4 and torch": attend_with_heads(x, w_q, w_k, w_v, w_o, 2) - _torch_heads(x, w_q, w_k, w_v, w_o, 2),
    }
    results = {name: float(difference.abs().max()) for name, difference in differences.items()}
    presenter.section("A check", f"{T} tokens of {C} features, all numbers random, and the largest difference:")
    presenter.table(
        ("special case", "compared with", "difference"),
        [
            ("step 2, all scores 0", "step 1", results["1 in 2"]),
            ("step 3, queries from a table", "step 2", results["2 in 3"]),
            ("step 4, one head", "step 3", results["3 in 4"]),
            ("step 4, two heads", "nn.MultiheadAttention", results["4 and torch"]),
        ],
    )
    presenter.text("All are equal up to rounding; the last is PyTorch's own implementation.")
    return results


def _scale(presenter: Presenter) -> dict[str, float]:
    presenter.section(
        "Why scores are divided by √D",
        """A score is a sum of D products. The variance, the mean squared distance from the mean, of independent numbers
        adds up (as in lesson 5, on depth). If the numbers of query and key are independent, with mean 0 and variance 1,
        each product has the variance 1, so the score has D, and its root, the standard deviation, is √D: the more
        entries, the larger the scores. Then softmax gives nearly all weight to one key before anything is learned: it
        is saturated, as tanh far from 0, and its gradient is nearly 0. Divided by √D the scores have the standard
        deviation 1. The largest weight of a random query among 64 random keys, mean of 1,000:""",
    )
    torch.manual_seed(1)
    rows = []
    for size in (4, 64, 1024):
        query, key = torch.randn(1000, size), torch.randn(64, size)
        plain, scaled = (
            (query @ key.T * factor).softmax(-1).max(-1).values.mean().item() for factor in (1, size**-0.5)
        )
        rows.append((f"{size}", f"{plain:.2f}", f"{scaled:.2f}"))
    presenter.table(("D", "q · k", "q · k / √D"), rows)
    return {"unscaled": plain, "scaled": scaled}


def _add_positions(presenter: Presenter) -> dict[str, float]:
    positions, weights, accuracy = learn_positions(3)
    results = {"accuracy": accuracy, "accuracy_without": learn_positions(3, with_positions=False)[2]}
    correct_weight = weights[torch.arange(3, 24), torch.arange(21)].mean().item()
    presenter.section(
        "Positions",
        f"""An average does not depend on the order: shuffle the earlier words, and the output is the same. But "dog
        bites man" is not "man bites dog". So each position gets a vector, too, which is added to the one of the word:

        - learned position embeddings: one vector for each position, as for each word;
        - sinusoidal ones: sin(t / 10000^(2i/C)) and the cosine of the same, for position t, in the features 2i and
          2i + 1: fast and slow waves, as the hands of a clock (Vaswani et al. 2017); 10000 makes the slowest longer
          than a text, so that no two positions look alike;
        - rotary ones, which current models use, turn query and key instead (see the ladder).

        A test: one head learns to repeat the token three positions earlier, out of 12 kinds. With learned positions the
        accuracy is {accuracy:.0%}, and {correct_weight:.0%} of the attention is on the right token. Without them, it is
        {results["accuracy_without"]:.0%}: the average contains which tokens occurred, not where.""",
    )

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 3)
        waves = SinusoidalPositions(32)(torch.arange(64)[None])[0]
        images = (
            (waves, "sinusoidal positions", "feature", "position"),
            (positions, "learned positions", "feature", "position"),
            (weights, "weights: three positions back", "position of the key", "position of the query"),
        )
        for axes, (values, title, x_name, y_name) in zip(panels, images, strict=True):
            image = axes.imshow(values.numpy(), aspect="auto", cmap="Blues" if values is weights else "RdBu")
            figure.colorbar(image, ax=axes)
            axes.set(title=title, xlabel=x_name, ylabel=y_name)

    presenter.plot("attention", "Positions, and a head that has learned to use them", draw, (11, 4.3))
    return results
