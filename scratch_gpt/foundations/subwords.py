"""Sub-words by byte-pair encoding: begin with characters, and again and again make one token of the most frequent pair.

A token is what a model reads at a time. Words would be the wrong ones: there are endlessly many, and an unknown one is
lost. Characters are few, but a text has many of them, and each says little. Byte-pair encoding (Sennrich, Haddow and
Birch 2016, arXiv:1508.07909) finds a middle way by counting:

1. Every word is a row of characters. Count how often each word occurs.
2. Count all pairs of neighbours within words. Of pairs that are equally frequent, take the one whose first token is
   older, then the one whose second is; characters, in sorted order, are the oldest.
3. Put the most frequent pair together wherever it stands: a new token. Go on at 2 until there are enough.

To encode a new word, cut it into characters and apply the merges in the order in which they were learned. GPT-2's
tokenizer begins with the 256 possible bytes instead of characters, so that nothing is ever unknown, and keeps the space
as a part of the word behind it, so that tokens can be put together to the text again; `tokenization/training.py` does
so too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from .lesson import BLUE, Lesson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[str, str]


def merge(tokens: list[str], pair: Pair) -> list[str]:
    """Put a pair together, from left to right, wherever it stands."""
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def learn_merges(words: Iterable[str], count: int) -> list[Pair]:
    """The first `count` merges; fewer, where no pair is left."""
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
    """The tokens of a word."""
    tokens = list(word)
    for pair in merges:
        tokens = merge(tokens, pair)
    return tokens


def library_merges(words: Iterable[str], count: int) -> list[Pair]:
    """The merges that the library `tokenizers` learns from the same words."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = list(words)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = len({character for word in words for character in word})
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=alphabet + count, show_progress=False))
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def run(lesson: Lesson) -> dict[str, float]:
    from ..data.corpora.stories import stories

    words = " ".join(stories(0, 300)).split()
    merges = learn_merges(words, 300)
    characters = sum(map(len, words))
    lesson.part(
        "Counting pairs",
        f"""300 little stories have {len(words):,} words, {len(set(words)):,} different ones, of {characters:,}
        characters. The merges, one after the other, and what a word becomes by them:""",
    )
    word, frequency = "gardener", Counter(words)
    shown = (0, 1, 2, 5, 10, 20, 50, 100, 300)
    points = sorted({*shown, *range(0, 301, 20)})
    length = {n: sum(len(encode(w, merges[:n])) * k for w, k in frequency.items()) for n in points}
    rows = [
        (f"{n}", " + ".join(merges[n - 1]) if n else "", " ".join(encode(word, merges[:n])), f"{length[n]:,}")
        for n in shown
    ]
    lesson.table(("merges", "the last one", word, "tokens of the text"), rows)

    theirs = library_merges(words, 300)
    equal = sum(ours == other for ours, other in zip(merges, theirs, strict=False))
    lesson.part(
        "Is it the real thing?",
        f"""The library `tokenizers` learned {len(theirs)} merges from the same words: {equal} of 300 are the same, in
        the same order. A word that never occurred is cut into what is known: farmhouse becomes
        {" ".join(encode("farmhouse", merges))}.""",
    )

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(points, [length[n] / 1000 for n in points], color=BLUE)
        axes.set(xlabel="merges", ylabel="tokens of the text, thousands", ylim=(0, None))
        axes.grid(alpha=0.25)

    lesson.picture("subwords", draw)
    return {
        "equal_merges": float(equal),
        "merges": float(len(theirs)),
        "tokens": float(length[300]),
        "characters": float(characters),
    }
