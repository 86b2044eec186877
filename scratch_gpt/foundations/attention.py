"""Attention in four steps, each of which contains the one before.

Dimension letters: T tokens, C features of a token's vector, D features of a head, H heads.

Each token of a text has a vector (a row of x). To know what comes next, a token should hear from those before it.

1. *The average of the past*: y_t = 1/t Σ_{s ≤ t} x_s. As a product: y = A x, where row t of A holds 1/t up to t, then
   0.
2. *Weights by softmax*: write the rows of A as softmax of scores, with -∞ for the future, whose share is then 0. With
   all other scores 0 this is the average again; other scores prefer one token to another.
3. *Query, key and value*: let the text set the scores. Each token asks (query q = x W_q), and offers a label (key
   k = x W_k) and a content (value v = x W_v). Its score for a token is q · k / √D: a sum of D products of independent
   numbers with mean 0 and variance 1 has variance D, which the root brings back to 1, so that softmax does not start
   out as a choice of one. Where queries and keys can hold any table of scores (D ≥ T, and token vectors that are
   linearly independent) and W_v is the identity matrix, this is step 2.
4. *Many heads*: several such averages beside each other, each with queries, keys and values of D = C / H features made
   from all C, put together and mixed by one more matrix. With one head and the identity for mixing this is step 3
   (Vaswani et al. 2017, arXiv:1706.03762).

`models/attention.py` is step 4 with all that is needed for use, and the weights of one fit the other.

In one such layer the order of the past does not matter: shuffle it, and the average is the same. So positions are added
to the vectors: learned ones, or sinusoidal ones, for position t sin(t / 10000^(2i/C)) in feature 2i and the cosine in
feature 2i + 1, waves of growing length.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from ..models.positions import SinusoidalPositions
from .lesson import Lesson

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def average_of_the_past(x: torch.Tensor) -> torch.Tensor:
    """Step 1: (T, C) to (T, C)."""
    ones = torch.tril(torch.ones(len(x), len(x), dtype=x.dtype))
    return ones / ones.sum(1, keepdim=True) @ x


def causal_softmax(scores: torch.Tensor) -> torch.Tensor:
    """Step 2: scores (…, T, T) to shares of the past; what lies ahead gets 0."""
    future = torch.triu(torch.ones(scores.shape[-2:], dtype=torch.bool), diagonal=1)
    return scores.masked_fill(future, -math.inf).softmax(-1)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Step 3: queries, keys and values (…, T, D) to (…, T, D)."""
    return causal_softmax(query @ key.mT / math.sqrt(query.shape[-1])) @ value


def attend_with_heads(
    x: torch.Tensor, w_q: torch.Tensor, w_k: torch.Tensor, w_v: torch.Tensor, w_o: torch.Tensor, heads: int
) -> torch.Tensor:
    """Step 4: (T, C) to (T, C), by matrices (C, C)."""

    def split(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (heads, -1)).transpose(0, 1)  # (H, T, D)

    heard = attend(split(x @ w_q), split(x @ w_k), split(x @ w_v))  # (H, T, D)
    return heard.transpose(0, 1).flatten(1) @ w_o


def learn_positions(
    back: int, with_positions: bool = True, length: int = 24, size: int = 16, steps: int = 400, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Learn to name the token `back` places ago, which only positions can tell: one head, with learned positions or
    without any.

    Returns:
        The positions (length, size), the shares (length, length) that the head gives, and the share of right answers.
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
        shares = causal_softmax(w_q(x) @ w_k(x).mT / math.sqrt(size))  # (B, T, T)
        scores = head(shares @ w_v(x))[:, back:]
        loss = F.cross_entropy(scores.flatten(0, 1), ids[:, :-back].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (scores.argmax(-1) == ids[:, :-back]).float().mean().item()
    return positions.weight.detach(), shares[0].detach(), right


def run(lesson: Lesson) -> dict[str, float]:
    torch.manual_seed(0)
    T, C = 6, 8
    x = torch.randn(T, C, dtype=torch.float64)
    table = torch.randn(T, T, dtype=torch.float64)
    w_q, w_k, w_v, w_o = (torch.randn(C, C, dtype=torch.float64) / math.sqrt(C) for _ in range(4))
    one = torch.eye(C, dtype=torch.float64)

    lesson.part(
        "Each step contains the one before",
        f"""{T} tokens of {C} features, all numbers random. The largest difference between a step's special case and the
        step before:""",
    )
    differences = {
        "1 in 2": (causal_softmax(torch.zeros(T, T, dtype=torch.float64)) @ x - average_of_the_past(x)),
        # queries that are the rows of a table, keys that are unit vectors: q · k picks the table's entries
        "2 in 3": attend(table * math.sqrt(T), torch.eye(T, dtype=torch.float64), x) - causal_softmax(table) @ x,
        "3 in 4": attend_with_heads(x, w_q, w_k, w_v, one, 1) - attend(x @ w_q, x @ w_k, x @ w_v),
        "4 and torch": attend_with_heads(x, w_q, w_k, w_v, w_o, 2) - _torch_heads(x, w_q, w_k, w_v, w_o, 2),
    }
    found = {name: float(difference.abs().max()) for name, difference in differences.items()}
    lesson.table(
        ("special case", "is", "difference"),
        [
            ("softmax weights, all scores 0", "the average of the past", found["1 in 2"]),
            ("queries: a table of scores; keys: unit vectors", "softmax weights", found["2 in 3"]),
            ("one head, nothing mixed", "query, key, value", found["3 in 4"]),
            ("two heads", "torch.nn.MultiheadAttention", found["4 and torch"]),
        ],
    )

    lesson.part(
        "Why the root of D", "The largest share that a token gives, mean over 1,000 random queries and 64 keys:"
    )
    rows = []
    for size in (4, 64, 1024):
        query, key = torch.randn(1000, size), torch.randn(64, size)
        plain, scaled = (
            (query @ key.T * factor).softmax(-1).max(-1).values.mean().item() for factor in (1, size**-0.5)
        )
        rows.append((f"{size}", f"{plain:.2f}", f"{scaled:.2f}"))
    found |= {"unscaled": plain, "scaled": scaled}
    lesson.table(("D", "q · k", "q · k / √D"), rows)

    lesson.part(
        "Positions",
        """One layer of attention alone does not see order. A head is asked for the token three places ago, among 12
        different ones, with learned positions and without any:""",
    )
    positions, shares, right = learn_positions(3)
    found |= {"right": right, "without": learn_positions(3, with_positions=False)[2]}
    looked = shares[torch.arange(3, 24), torch.arange(21)].mean().item()
    lesson.say(f"""With positions {right:.0%} of its answers are right, and {looked:.0%} of its attention goes to that
        place. Without, {found["without"]:.0%}: the average of the past tells what occurred, not where.""")

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 3)
        waves = SinusoidalPositions(32)(torch.arange(64)[None])[0]
        pictures = (
            (waves, "sinusoidal positions", "feature", "position"),
            (positions, "learned positions", "feature", "position"),
            (shares, "where the head looks", "token looked at", "token that looks"),
        )
        for axes, (values, title, x_name, y_name) in zip(panels, pictures, strict=True):
            image = axes.imshow(values.numpy(), aspect="auto", cmap="Blues" if values is shares else "RdBu")
            figure.colorbar(image, ax=axes)
            axes.set(title=title, xlabel=x_name, ylabel=y_name)

    lesson.picture("attention", draw, (11, 4))
    return found


def _torch_heads(
    x: torch.Tensor, w_q: torch.Tensor, w_k: torch.Tensor, w_v: torch.Tensor, w_o: torch.Tensor, heads: int
) -> torch.Tensor:
    """The same by torch's own module, which multiplies from the other side."""
    module = nn.MultiheadAttention(x.shape[1], heads, bias=False, batch_first=True, dtype=x.dtype)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.cat((w_q.T, w_k.T, w_v.T)))
        module.out_proj.weight.copy_(w_o.T)
        future = torch.triu(torch.ones(len(x), len(x), dtype=torch.bool), diagonal=1)
        return module(x[None], x[None], x[None], attn_mask=future, need_weights=False)[0][0]
