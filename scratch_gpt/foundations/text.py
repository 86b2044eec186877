"""Text as numbers: from bigram counts to a window of embeddings.

From here on, PyTorch is our autograd, with tensors instead of scalars: `nn.Linear` is a layer, `nn.Embedding` a table
with a vector for each id, `backward` as in autograd.py, and `zero_grad` resets the gradients of the previous step.
"""

from __future__ import annotations

import math
from functools import partial
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
        "The question",
        f"""A network reads numbers. How can it read and write text? Give every distinct character a number, its id, and
        let the network predict the next character: a language model gives each of them a probability, given the
        characters before it. To write, draw the next character with these probabilities, append it, and repeat.

            600 stories: {len(text):,} characters,
                         {size} of them distinct
            ids of "hen": {", ".join(str(number[c]) for c in "hen")}

        The loss is the cross-entropy of the character that really follows, in nats, as in leaf_or_flower. Its mean
        over a text says how well the model predicts: e^-loss is the (geometric) mean of the probabilities that the
        right characters got. Without any knowledge, each of the {size} characters has the probability 1/{size}, and the
        loss is ln {size} = {math.log(size):.3f} nats. Sometimes e^loss is given, the perplexity: here {size}, as if the
        model had to guess among {size} equally likely characters.""",
    )
    counted, results = _count_and_learn(presenter, ids, held_out, characters)
    network, losses = _compare_inputs(presenter, ids, held_out, characters, results["bigram"])
    presenter.plot("text", "What the models learned", partial(_draw, characters, counted, network), (11, 5.2))
    return results | losses


def _count_and_learn(
    presenter: Presenter, ids: np.ndarray, held_out: np.ndarray, characters: list[str]
) -> tuple[np.ndarray, dict[str, float]]:
    """Present the bigram model, and return its counted table and the losses."""
    size, number = len(characters), {character: i for i, character in enumerate(characters)}
    presenter.section(
        "The bigram model: counting",
        """The simplest model looks at one character only, the last one. Count how often b follows a, and divide by how
        often a occurs:

            p(b | a)  =  count(ab) / count(a)

        That is a table with a row for each a and a column for each b.""",
    )
    presenter.code(count_pairs)
    presenter.section(
        "The bigram model: learning",
        """The same table can be learned. Start with a table of scores, all 0; softmax turns each row into
        probabilities. The gradient of the loss is, as for the classifier, probability minus label, summed over all
        characters that follow a:

            count(a) · p(b | a) - count(ab)

        It is 0 exactly where p is the counted frequency: gradient descent finds what counting finds. (Probabilities of
        0 it only approaches.) Why learn what can be counted? Because nobody can count what follows each possible text;
        learning also works for models that are no tables. Probabilities, counted and learned:""",
    )
    counts = count_pairs(ids, size)
    counted = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    learned = softmax(descend_bigram(counts))
    results = {"counted": bigram_loss(counted, counts), "learned": bigram_loss(learned, counts)}
    results["bigram"] = bigram_loss(learned, count_pairs(held_out, size))

    def cells(a: str) -> list[str]:
        best = counted[number[a]].argsort()[::-1][:3]
        return [f"{characters[b]!r} {counted[number[a], b]:.3f} / {learned[number[a], b]:.3f}" for b in best]

    presenter.table(("after", "most frequent", "second", "third"), [(repr(a), *cells(a)) for a in ("h", "n", ",")])
    presenter.text(
        f"Loss by counting {results['counted']:.4f} nats per character, by gradient descent {results['learned']:.4f}."
    )
    return counted, results


def _compare_inputs(
    presenter: Presenter, ids: np.ndarray, held_out: np.ndarray, characters: list[str], bigram: float
) -> tuple[WindowNetwork, dict[str, float]]:
    """Present the window models, and return the one with two dimensions and the losses."""
    presenter.section(
        "A window of characters, and embeddings",
        f"""Better predictions need more than one character. Our next model reads the last {WINDOW}, its context. What
        does the network get for a character? Its id is a category, not a quantity: "m" is not more than "l". An
        embedding gives each character its own vector, a few learned numbers. Characters that are used alike can get
        similar vectors, and what is learned about one then holds for the other (Bengio et al. 2003). With one dimension
        the characters are points on a line; with many, they can be alike in several respects.""",
    )
    presenter.text("""From here on PyTorch is our autograd, with arrays of numbers (tensors): `nn.Embedding` is a table
        with a vector for each id (None if ids themselves are the input), `nn.Linear` a layer, and `backward` does what
        ours did:""")
    presenter.code(WindowNetwork.forward)
    size, number = len(characters), {character: i for i, character in enumerate(characters)}
    presenter.section(
        "The gain of embeddings",
        """Loss on 60 stories that no model was trained on, in nats per character, and what the model writes after "The
        farm":""",
    )
    torch_ids, torch_held_out = torch.from_numpy(ids), torch.from_numpy(held_out)
    rows, networks, losses = [("bigram", f"{bigram:.3f}", f"{size * size:,}", "")], {}, {}
    for name, dimensions in (("id", 0), ("1 dimension", 1), ("2 dimensions", 2), ("16 dimensions", 16)):
        torch.manual_seed(0)
        networks[dimensions] = network = WindowNetwork(size, dimensions)
        losses[f"window_{dimensions}"] = loss = fit(network, torch_ids, torch_held_out)
        sample = "".join(characters[i] for i in generate(network, [number[c] for c in "The farm"], 30))
        weights = sum(p.numel() for p in network.parameters())
        rows.append((name, f"{loss:.3f}", f"{weights:,}", " ".join(sample.split("\n"))))
    presenter.table(("input", "loss", "weights", "continuation"), rows)
    best = losses["window_16"]
    presenter.text(f"""Eight ids as numbers are worse than the bigram's single character. A learned place on a line is
        better than the id, and each dimension helps. A loss of {best:.3f} means that the right character got
        {math.exp(-best):.0%}, against {math.exp(-bigram):.0%} from the bigram. But the model sees {WINDOW} characters,
        and a longer window needs more weights for every place in it: {16 * 128:,} here. Attention, two lessons ahead,
        uses the same weights at every place, and at most one vector for each.""")
    return networks[2], losses


def _draw(characters: list[str], counted: np.ndarray, network: WindowNetwork, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    size = len(characters)
    left.imshow(counted**0.5, cmap="Blues")
    left.set(
        title="bigram: √p(column | row) (the root shows small p)",
        xlabel="next character",
        ylabel="character",
    )
    left.set(xticks=range(size), yticks=range(size))
    shown = ["␣" if c == " " else repr(c)[1:-1] for c in characters]
    left.set_xticklabels(shown, fontsize=6)
    left.set_yticklabels(shown, fontsize=6)
    assert network.embedding is not None
    vectors = network.embedding.weight.detach().numpy()
    right.scatter(vectors[:, 0], vectors[:, 1], s=4, color=BLUE)
    for character, vector, offset in zip(shown, vectors, _label_offsets(vectors), strict=True):
        right.annotate(character, vector, offset, textcoords="offset points", ha="center", va="center", fontsize=9)
    right.set(title="embeddings of the model with two dimensions", xlabel="first number", ylabel="second number")


def _label_offsets(vectors: np.ndarray, extent: float = 300) -> list[tuple[int, int]]:
    """Return for each point (N, 2) the offset of its label, in points of a plot of this extent, that is farthest from
    all points and from the labels placed before."""
    places = extent * (vectors - vectors.min(0)) / np.ptp(vectors, axis=0)
    taken, chosen = list(places), []
    for place in places:
        candidates = [(6, 5), (-6, 5), (6, -6), (-6, -6), (0, 9), (0, -9), (11, 0), (-11, 0)]
        best = max(candidates, key=lambda offset: min(math.dist(place + offset, other) for other in taken))
        taken.append(place + best)
        chosen.append(best)
    return chosen
