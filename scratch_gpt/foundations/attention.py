"""Attention in four steps, each of which contains the one before.

Dimension letters: T tokens, C features of a token's vector, D features of a head, H heads.

Each token of a text has a vector (a row of x). To predict the next token, the previous tokens must be combined.

1. *The average of the past*: y_t = 1/t Σ_{s ≤ t} x_s. As a product: y = A x, where row t of A is 1/t up to t, then 0.
2. *Weights by softmax*: define the rows of A as the softmax of scores, with -∞ for the future, whose weight is then 0.
   If all other scores are 0, this is the average; other scores weight some tokens higher than others.
3. *Query, key and value*: compute the scores from the text. Each token has a query q = x W_q, a key k = x W_k and a
   value v = x W_v. The score of a query and a key is q · k / √D: a sum of D products of independent numbers with mean 0
   and variance 1 has variance D, which √D scales back to 1, so that the initial softmax is not saturated. If queries
   and keys can express any table of scores (D ≥ T, and linearly independent token vectors) and W_v is the identity
   matrix, this is step 2.
4. *Multiple heads*: several such averages in parallel, each with queries, keys and values of D = C / H features
   computed from all C, concatenated and mixed by one more matrix. With one head and the identity as output projection,
   this is step 3 (Vaswani et al. 2017, arXiv:1706.03762).

`models/attention.py` implements step 4 for training and inference, with weights that are compatible with this one.

One such layer ignores the order of the past: the average of shuffled tokens is the same. So position embeddings are
added to the vectors: learned ones, or sinusoidal ones, for position t sin(t / 10000^(2i/C)) in feature 2i and the
cosine in feature 2i + 1, with growing wavelengths.
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
    future = torch.triu(torch.ones(scores.shape[-2:], dtype=torch.bool), diagonal=1)
    return scores.masked_fill(future, -math.inf).softmax(-1)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Step 3: causal attention; queries, keys and values (…, T, D) to (…, T, D)."""
    return causal_softmax(query @ key.mT / math.sqrt(query.shape[-1])) @ value


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

    def split(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (heads, -1)).transpose(0, 1)  # (H, T, D)

    outputs = attend(split(x @ w_q), split(x @ w_k), split(x @ w_v))  # (H, T, D)
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


def run(presenter: Presenter) -> dict[str, float]:
    """Show that the steps are special cases of each other, the scaling by √D, and the need for positions."""
    torch.manual_seed(0)
    T, C = 6, 8
    x = torch.randn(T, C, dtype=torch.float64)
    table = torch.randn(T, T, dtype=torch.float64)
    w_q, w_k, w_v, w_o = (torch.randn(C, C, dtype=torch.float64) / math.sqrt(C) for _ in range(4))
    identity = torch.eye(C, dtype=torch.float64)

    presenter.section(
        "Each step contains the previous one",
        f"""{T} tokens of {C} features, all numbers random. Largest difference between a special case of each step and
        the previous step:""",
    )
    differences = {
        "1 in 2": (causal_softmax(torch.zeros(T, T, dtype=torch.float64)) @ x - average_of_the_past(x)),
        # queries are the rows of a table and keys unit vectors, so that q · k are the table's entries
        "2 in 3": attend(table * math.sqrt(T), torch.eye(T, dtype=torch.float64), x) - causal_softmax(table) @ x,
        "3 in 4": attend_with_heads(x, w_q, w_k, w_v, identity, 1) - attend(x @ w_q, x @ w_k, x @ w_v),
        "4 and torch": attend_with_heads(x, w_q, w_k, w_v, w_o, 2) - _torch_heads(x, w_q, w_k, w_v, w_o, 2),
    }
    results = {name: float(difference.abs().max()) for name, difference in differences.items()}
    presenter.table(
        ("special case", "equals", "difference"),
        [
            ("softmax weights, all scores 0", "the average of the past", results["1 in 2"]),
            ("queries: a table of scores; keys: unit vectors", "softmax weights", results["2 in 3"]),
            ("one head, identity output projection", "query, key, value", results["3 in 4"]),
            ("two heads", "torch.nn.MultiheadAttention", results["4 and torch"]),
        ],
    )

    presenter.section(
        "Why scores are divided by √D",
        "Largest attention weight of a query, mean over 1,000 random queries and 64 keys:",
    )
    rows = []
    for size in (4, 64, 1024):
        query, key = torch.randn(1000, size), torch.randn(64, size)
        plain, scaled = (
            (query @ key.T * factor).softmax(-1).max(-1).values.mean().item() for factor in (1, size**-0.5)
        )
        rows.append((f"{size}", f"{plain:.2f}", f"{scaled:.2f}"))
    results |= {"unscaled": plain, "scaled": scaled}
    presenter.table(("D", "q · k", "q · k / √D"), rows)

    presenter.section(
        "Positions",
        """One layer of attention alone ignores order. A head is trained to predict the token three positions earlier,
        out of 12, with and without learned positions:""",
    )
    positions, weights, accuracy = learn_positions(3)
    results |= {"accuracy": accuracy, "accuracy_without": learn_positions(3, with_positions=False)[2]}
    correct_weight = weights[torch.arange(3, 24), torch.arange(21)].mean().item()
    presenter.text(f"""With positions the accuracy is {accuracy:.0%}, and {correct_weight:.0%} of the attention is on
        the correct token. Without, the accuracy is {results["accuracy_without"]:.0%}: the average of the past contains
        which tokens occurred, not where.""")

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 3)
        waves = SinusoidalPositions(32)(torch.arange(64)[None])[0]
        images = (
            (waves, "sinusoidal positions", "feature", "position"),
            (positions, "learned positions", "feature", "position"),
            (weights, "attention weights", "key position", "query position"),
        )
        for axes, (values, title, x_name, y_name) in zip(panels, images, strict=True):
            image = axes.imshow(values.numpy(), aspect="auto", cmap="Blues" if values is weights else "RdBu")
            figure.colorbar(image, ax=axes)
            axes.set(title=title, xlabel=x_name, ylabel=y_name)

    presenter.plot("attention", draw, (11, 4))
    return results


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
