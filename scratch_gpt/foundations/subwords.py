"""Subwords by byte-pair encoding: start with characters, and repeatedly merge the most frequent pair of tokens.

A token is the unit that a model reads. Words are unsuitable: their number is unlimited, and unknown words can't be
represented. Characters are few, but make sequences long, and each carries little information. Byte-pair encoding
(Sennrich, Haddow and Birch 2016, arXiv:1508.07909) is a compromise by counting:

1. Split every word into characters. Count how often each word occurs.
2. Count all pairs of adjacent tokens within words. Of equally frequent pairs, take the one whose first token was
   created earlier, then the one whose second token was; characters, in sorted order, come first.
3. Merge the most frequent pair everywhere into a new token. Repeat from 2 until there are enough tokens.

To encode a new word, split it into characters and apply the merges in the order in which they were learned. GPT-2's
tokenizer starts with the 256 possible bytes instead of characters, so that there are no unknown tokens, and attaches a
space to the word that follows it, so that decoding restores the text; `tokenization/training.py` does the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from .lesson import BLUE, Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[str, str]


def merge(tokens: list[str], pair: Pair) -> list[str]:
    """Merge all occurrences of a pair, from left to right."""
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def learn_merges(words: Iterable[str], count: int) -> list[Pair]:
    """Learn up to `count` merges; fewer if no pair is left."""
    frequency = Counter(words)
    split = {word: list(word) for word in frequency}
    age = {token: number for number, token in enumerate(sorted({c for word in frequency for c in word}))}
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for word, tokens in split.items():
            for pair in pairwise(tokens):
                pairs[pair] += frequency[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], age[pair[0]], age[pair[1]]))
        merges.append(best)
        age.setdefault("".join(best), len(age))
        split = {word: merge(tokens, best) for word, tokens in split.items()}
    return merges


def encode(word: str, merges: Iterable[Pair]) -> list[str]:
    """Split a word into tokens by merges, in their order."""
    tokens = list(word)
    for pair in merges:
        tokens = merge(tokens, pair)
    return tokens


def library_merges(words: Iterable[str], count: int) -> list[Pair]:
    """Learn up to `count` merges with the library `tokenizers`."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = list(words)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = len({character for word in words for character in word})
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=alphabet + count, show_progress=False))
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def run(presenter: Presenter) -> dict[str, float]:
    """Learn merges from stories, and compare them with the library `tokenizers`."""
    from ..data.corpora.stories import stories

    words = " ".join(stories(0, 300)).split()
    merges = learn_merges(words, 300)
    characters = sum(map(len, words))
    presenter.section(
        "Merging pairs",
        f"""300 stories have {len(words):,} words, {len(set(words)):,} of them distinct, and {characters:,} characters.
        The merges, and the tokens of a word and of the text after them:""",
    )
    word, frequency = "gardener", Counter(words)
    shown = (0, 1, 2, 5, 10, 20, 50, 100, 300)
    points = sorted({*shown, *range(0, 301, 20)})
    length = {n: sum(len(encode(w, merges[:n])) * k for w, k in frequency.items()) for n in points}
    rows = [
        (f"{n}", " + ".join(merges[n - 1]) if n else "", " ".join(encode(word, merges[:n])), f"{length[n]:,}")
        for n in shown
    ]
    presenter.table(("merges", "last merge", word, "tokens of the text"), rows)

    expected = library_merges(words, 300)
    equal = sum(ours == theirs for ours, theirs in zip(merges, expected, strict=False))
    presenter.section(
        "Comparison with a library",
        f"""The library `tokenizers` learned {len(expected)} merges from the same words: {equal} of 300 are equal, in
        the same order. A word that does not occur in the text is split into known tokens: farmhouse becomes
        {" ".join(encode("farmhouse", merges))}.""",
    )

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(points, [length[n] / 1000 for n in points], color=BLUE)
        axes.set(xlabel="merges", ylabel="tokens of the text (thousands)", ylim=(0, None))
        axes.grid(alpha=0.25)

    presenter.plot("subwords", draw)
    return {
        "equal_merges": float(equal),
        "merges": float(len(expected)),
        "tokens": float(length[300]),
        "characters": float(characters),
    }
