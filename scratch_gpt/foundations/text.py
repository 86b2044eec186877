"""Text as numbers: from counted pairs to a window of embeddings.

A network reads numbers, so each different character gets one, its id: new line 0, " " 1, "," 2, "." 3, "A" 4 … A
language model gives, for what has been read, a share (a probability) to every possible next character; its loss is the
mean surprise at the one that came, -log share. With the natural logarithm its unit is called nat. A model that knows
nothing has log(number of characters).

*The bigram* looks at one character only. Count how often b follows a, and share(b after a) = count(ab) / count(a). The
same table can be learned: begin with zeros, take the softmax of each row for shares, and descend. The loss of row a is
Σ_b count(ab) (-log softmax(row)_b), and its derivative (p, less 1 at the right answer, as in leaf_or_flower, added up)
is count(a) · shares - count(ab): it is 0 exactly where the shares are those that were counted. Both ways lead to one
table, the second ever more slowly, for a share of 0 is only approached.

*A window* looks at the last eight characters. Their ids are names, not amounts: "m" is not between "l" and "n" in any
way that matters, and a network that is handed ids as amounts must undo that. An embedding gives each character a vector
of its own, which is learned like any other weight: characters that behave alike may come to lie together. With one
dimension they stand on a line, with many each can differ in many ways (Bengio et al. 2003,
jmlr.org/papers/v3/bengio03a.html).

From here on PyTorch is our autograd, with tables of numbers in place of single ones: `nn.Linear` is a layer,
`nn.Embedding` a table with a vector for each id, `backward` what it was in autograd.py, `zero_grad` forgets the
gradients of the step before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..data.corpora.stories import stories
from .activations import softmax
from .lesson import BLUE, Lesson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 8


def count_pairs(ids: np.ndarray, size: int) -> np.ndarray:
    """How often b follows a: (size, size)."""
    counts = np.zeros((size, size))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    return counts


def bigram_loss(shares: np.ndarray, counts: np.ndarray) -> float:
    """Mean surprise, in nats a character."""
    seen = counts > 0
    return float(-(counts[seen] * np.log(shares[seen])).sum() / counts.sum())


def descend_bigram(counts: np.ndarray, steps: int = 500, rate: float = 5.0) -> np.ndarray:
    """The table of scores, by gradient descent; each row's step is in units of how often its character occurs."""
    scores = np.zeros_like(counts)
    total = np.maximum(counts.sum(1, keepdims=True), 1)
    for _ in range(steps):
        scores -= rate * (softmax(scores) - counts / total)
    return scores


class WindowNetwork(nn.Module):
    """The last WINDOW characters, side by side, through a hidden layer to scores for the next.

    Args:
        vocab_size: number of different characters.
        dimensions: of the embedding; 0 hands the ids on as amounts between -1 and 1.
    """

    def __init__(self, vocab_size: int, dimensions: int, hidden_size: int = 128):
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, dimensions) if dimensions else None
        self.hidden = nn.Linear(WINDOW * max(dimensions, 1), hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Ids (B, WINDOW) to scores (B, vocab_size)."""
        if self.embedding is None:
            x = windows.float() / (self.vocab_size - 1) * 2 - 1
        else:
            x = self.embedding(windows).flatten(1)
        return self.output(torch.tanh(self.hidden(x)))


def fit(network: WindowNetwork, ids: torch.Tensor, held_out: torch.Tensor, steps: int = 1200, seed: int = 0) -> float:
    """Train on random windows, 256 at a time; the loss on all windows of `held_out`."""
    generator = torch.Generator().manual_seed(seed)
    windows = ids.unfold(0, WINDOW + 1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        batch = windows[torch.randint(len(windows), (256,), generator=generator)]
        loss = F.cross_entropy(network(batch[:, :-1]), batch[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        others = held_out.unfold(0, WINDOW + 1, 1)
        return F.cross_entropy(network(others[:, :-1]), others[:, -1]).item()


def generate(network: WindowNetwork, start: list[int], count: int, seed: int = 0) -> list[int]:
    """Draw `count` further characters, each by the shares that the network gives."""
    generator, ids = torch.Generator().manual_seed(seed), list(start)
    for _ in range(count):
        with torch.no_grad():
            shares = network(torch.tensor([ids[-WINDOW:]])).softmax(-1)
        ids.append(int(torch.multinomial(shares[0], 1, generator=generator)))
    return ids[len(start) :]


def run(lesson: Lesson) -> dict[str, float]:
    text, other = "\n".join(stories(0, 600)), "\n".join(stories(1, 60))
    characters = sorted(set(text + other))
    number = {character: i for i, character in enumerate(characters)}
    ids, held_out = (np.array([number[c] for c in t]) for t in (text, other))
    size = len(characters)
    lesson.part(
        "Counting and learning arrive at one table",
        f"""600 little stories: {len(text):,} characters, {size} different ones. "hen" becomes
        {[number[c] for c in "hen"]}. A model that knows nothing has a loss of log {size} = {math.log(size):.3f}.""",
    )
    counts = count_pairs(ids, size)
    counted = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    learned = softmax(descend_bigram(counts))
    found = {"counted": bigram_loss(counted, counts), "learned": bigram_loss(learned, counts)}
    found["bigram"] = bigram_loss(learned, count_pairs(held_out, size))
    rows = [
        (
            f"after {a!r}",
            *(
                f"{characters[b]!r} {counted[number[a], b]:.3f} / {learned[number[a], b]:.3f}"
                for b in counted[number[a]].argsort()[::-1][:3]
            ),
        )
        for a in ("h", "n", ",")
    ]
    lesson.table(("", "most often, counted / learned", "then", "then"), rows)
    lesson.say(f"Loss by counting {found['counted']:.4f} nats a character, by descent {found['learned']:.4f}.")

    lesson.part(
        "What an embedding buys",
        f"""A window of {WINDOW} characters and one hidden layer of 128. What stands for a character
        differs, and with it the number of weights. Losses on 60 other stories, and how each goes on after "The
        farm":""",
    )
    torch_ids, torch_held_out = torch.from_numpy(ids), torch.from_numpy(held_out)
    rows, networks = [("the bigram", f"{found['bigram']:.3f}", f"{size * size:,}", "")], {}
    for name, dimensions in (("its id", 0), ("one number", 1), ("two", 2), ("sixteen", 16)):
        torch.manual_seed(0)
        networks[dimensions] = network = WindowNetwork(size, dimensions)
        loss = fit(network, torch_ids, torch_held_out)
        found[f"window_{dimensions}"] = loss
        sample = "".join(characters[i] for i in generate(network, [number[c] for c in "The farm"], 30))
        weights = sum(p.numel() for p in network.parameters())
        rows.append((name, f"{loss:.3f}", f"{weights:,}", " ".join(sample.split("\n"))))
    lesson.table(("a character is", "loss", "weights", "continuation"), rows)
    lesson.say("""Eight ids handed over as amounts do worse than the bigram's one character. A learned place on a line
        beats the id, whose order means nothing; more dimensions let characters be alike in one way and different in
        another.""")

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.imshow(counted**0.5, cmap="Blues")
        left.set(title="how often the column follows the row (root of the share)")
        left.set(xticks=range(size), yticks=range(size))
        shown = ["␣" if c == " " else repr(c)[1:-1] for c in characters]
        left.set_xticklabels(shown, fontsize=6)
        left.set_yticklabels(shown, fontsize=6)
        embedding = networks[2].embedding
        assert embedding is not None
        places = embedding.weight.detach().numpy()
        right.scatter(places[:, 0], places[:, 1], s=4, color=BLUE)
        for character, place in zip(shown, places, strict=True):
            right.annotate(character, place, (3, 2), textcoords="offset points")
        right.set(title="where two dimensions put each character", xlabel="first", ylabel="second")

    lesson.picture("text", draw, (11, 5))
    return found
