"""Text as numbers: from bigram counts to a window of embeddings.

A network reads numbers, so each distinct character gets an id: new line 0, " " 1, "," 2, "." 3, "A" 4 … A language
model predicts a probability for every possible next character, given the previous ones. Its loss is the mean negative
log probability of the character that follows; with the natural logarithm, the unit is the nat. A uniform prediction has
the loss log(number of characters).

*The bigram model* uses only one previous character. Count how often b follows a: p(b | a) = count(ab) / count(a). The
same table can be learned: start with zeros, take the softmax of each row as probabilities, and apply gradient descent.
The loss of row a is Σ_b count(ab) (-log softmax(row)_b), and its derivative (p, minus 1 for the label, as in
leaf_or_flower, summed) is count(a) · p - count(ab), which is 0 exactly if p are the counted frequencies. Both methods
give the same table, but gradient descent only approaches probabilities of 0, ever more slowly.

*The window model* uses the last eight characters. Their ids are categories, not quantities: the order of "l", "m" and
"n" has no meaning, but a network whose inputs are ids must treat it as one. An embedding assigns a learned vector to
each character; characters that are used similarly can get similar vectors. With one dimension they are points on a
line, with many they can be similar in several respects (Bengio et al. 2003, jmlr.org/papers/v3/bengio03a.html).

From here on, PyTorch is our autograd, with tensors instead of scalars: `nn.Linear` is a layer, `nn.Embedding` a table
with a vector for each id, `backward` as in autograd.py, and `zero_grad` resets the gradients of the previous step.
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
from .lesson import BLUE, Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 8


def count_pairs(ids: np.ndarray, size: int) -> np.ndarray:
    """Count how often id b (column) follows id a (row): (size, size)."""
    counts = np.zeros((size, size))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    return counts


def bigram_loss(probabilities: np.ndarray, counts: np.ndarray) -> float:
    """Return the cross-entropy in nats per character of pairs with these counts."""
    seen = counts > 0
    return float(-(counts[seen] * np.log(probabilities[seen])).sum() / counts.sum())


def descend_bigram(counts: np.ndarray, steps: int = 500, rate: float = 5.0) -> np.ndarray:
    """Learn the table of logits by gradient descent; each row's gradient is divided by its character's count."""
    scores = np.zeros_like(counts)
    total = np.maximum(counts.sum(1, keepdims=True), 1)
    for _ in range(steps):
        scores -= rate * (softmax(scores) - counts / total)
    return scores


class WindowNetwork(nn.Module):
    """A feed-forward language model: embeddings of the last WINDOW characters, concatenated, and one hidden layer.

    Args:
        vocab_size: number of distinct characters.
        dimensions: of the embedding; 0 uses the ids themselves as inputs, scaled to [-1, 1].
        hidden_size: number of hidden neurons.
    """

    def __init__(self, vocab_size: int, dimensions: int, hidden_size: int = 128):
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, dimensions) if dimensions else None
        self.hidden = nn.Linear(WINDOW * max(dimensions, 1), hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Map ids (B, WINDOW) to logits (B, vocab_size)."""
        if self.embedding is None:
            x = windows.float() / (self.vocab_size - 1) * 2 - 1
        else:
            x = self.embedding(windows).flatten(1)
        return self.output(torch.tanh(self.hidden(x)))


def fit(network: WindowNetwork, ids: torch.Tensor, held_out: torch.Tensor, steps: int = 1200, seed: int = 0) -> float:
    """Train on random windows, 256 per step.

    Args:
        network: updated in place.
        ids: training text (N,).
        held_out: text to evaluate on (M,).
        steps: number of steps.
        seed: of the random windows.

    Returns:
        The loss on all windows of `held_out`, in nats per character.
    """
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
        windows = held_out.unfold(0, WINDOW + 1, 1)
        return F.cross_entropy(network(windows[:, :-1]), windows[:, -1]).item()


def generate(network: WindowNetwork, start: list[int], count: int, seed: int = 0) -> list[int]:
    """Sample characters one by one.

    Args:
        network: trained network.
        start: ids of the prompt, at least WINDOW.
        count: number of characters to generate.
        seed: of the sampling.

    Returns:
        The ids of the generated characters, without the prompt.
    """
    generator, ids = torch.Generator().manual_seed(seed), list(start)
    for _ in range(count):
        with torch.no_grad():
            probabilities = network(torch.tensor([ids[-WINDOW:]])).softmax(-1)
        ids.append(int(torch.multinomial(probabilities[0], 1, generator=generator)))
    return ids[len(start) :]


def run(presenter: Presenter) -> dict[str, float]:
    """Compare counted and learned bigrams, then window models with different inputs."""
    text, held_out_text = "\n".join(stories(0, 600)), "\n".join(stories(1, 60))
    characters = sorted(set(text + held_out_text))
    number = {character: i for i, character in enumerate(characters)}
    ids, held_out = (np.array([number[c] for c in t]) for t in (text, held_out_text))
    size = len(characters)
    presenter.section(
        "Counting and gradient descent give the same bigram table",
        f"""600 stories: {len(text):,} characters, {size} of them distinct. The ids of "hen" are
        {[number[c] for c in "hen"]}. A uniform prediction has a loss of log {size} = {math.log(size):.3f}.""",
    )
    counts = count_pairs(ids, size)
    counted = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    learned = softmax(descend_bigram(counts))
    results = {"counted": bigram_loss(counted, counts), "learned": bigram_loss(learned, counts)}
    results["bigram"] = bigram_loss(learned, count_pairs(held_out, size))
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
    presenter.table(("", "most frequent, counted / learned", "second", "third"), rows)
    presenter.text(
        f"Loss by counting {results['counted']:.4f} nats per character, by gradient descent {results['learned']:.4f}."
    )

    presenter.section(
        "The gain of embeddings",
        f"""A window of {WINDOW} characters and one hidden layer of 128 neurons, with different inputs for a character.
        Loss on 60 held-out stories in nats per character, and a continuation of "The farm":""",
    )
    torch_ids, torch_held_out = torch.from_numpy(ids), torch.from_numpy(held_out)
    rows, networks = [("bigram", f"{results['bigram']:.3f}", f"{size * size:,}", "")], {}
    for name, dimensions in (("id", 0), ("1 dimension", 1), ("2 dimensions", 2), ("16 dimensions", 16)):
        torch.manual_seed(0)
        networks[dimensions] = network = WindowNetwork(size, dimensions)
        loss = fit(network, torch_ids, torch_held_out)
        results[f"window_{dimensions}"] = loss
        sample = "".join(characters[i] for i in generate(network, [number[c] for c in "The farm"], 30))
        weights = sum(p.numel() for p in network.parameters())
        rows.append((name, f"{loss:.3f}", f"{weights:,}", " ".join(sample.split("\n"))))
    presenter.table(("input", "loss", "weights", "continuation"), rows)
    presenter.text("""Eight ids as numeric inputs are worse than the bigram's one character. A learned position on a
        line is better than the id, whose order has no meaning; with more dimensions, characters can be similar in one
        respect and different in another.""")

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.imshow(counted**0.5, cmap="Blues")
        left.set(title="frequency of the column after the row (square root)")
        left.set(xticks=range(size), yticks=range(size))
        shown = ["␣" if c == " " else repr(c)[1:-1] for c in characters]
        left.set_xticklabels(shown, fontsize=6)
        left.set_yticklabels(shown, fontsize=6)
        embedding = networks[2].embedding
        assert embedding is not None
        vectors = embedding.weight.detach().numpy()
        right.scatter(vectors[:, 0], vectors[:, 1], s=4, color=BLUE)
        for character, vector in zip(shown, vectors, strict=True):
            right.annotate(character, vector, (3, 2), textcoords="offset points")
        right.set(title="embeddings in two dimensions", xlabel="first", ylabel="second")

    presenter.plot("text", draw, (11, 5))
    return results
