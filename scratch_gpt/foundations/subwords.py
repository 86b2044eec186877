"""Subwords by byte-pair encoding: start with characters, and repeatedly merge the most frequent pair of tokens."""

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
    """Learn merges by hand, then from stories, and compare them with the library `tokenizers`."""
    presenter.section(
        "The question",
        """A token is the unit that a model reads and predicts; the list of all tokens is its vocabulary. What should be
        a token? Characters are few, but a text is then a long sequence, and each carries little information. Whole
        words make it short, but there are too many of them, and a word that was not in the training text can't be
        written. Byte-pair encoding (Sennrich, Haddow and Birch 2016, arXiv:1508.07909) builds units between them by
        counting:

        - split every word into characters;
        - count all pairs of neighbouring tokens inside words;
        - merge the most frequent pair into a new token, everywhere;
        - repeat, until there are as many tokens as wanted.

        Frequent words become one token; rare ones are written in pieces, and in the worst case letter by letter.""",
    )
    presenter.section(
        "By hand",
        """Five words: low, low, lower, newer, newer. Between pairs that are equally frequent, the one whose first token
        is older wins; if these are equal, the one whose second token is older. The characters are the oldest, in the
        order of the alphabet; then come the merged tokens in their order. The pairs, and the words after each
        merge:""",
    )
    words = ["low", "low", "lower", "newer", "newer"]
    rows = []
    for number in range(1, 5):
        merges = learn_merges(words, number)
        *earlier, (left, right) = merges
        count = sum(pair == (left, right) for word in words for pair in pairwise(encode(word, earlier)))
        encoded = "   ".join(" ".join(encode(word, merges)) for word in ("low", "lower", "newer"))
        rows.append((f"{number}", f"{left} + {right}", f"{count}", encoded))
    presenter.table(("merge", "pair", "count", "low, lower, newer"), rows)
    presenter.text(f"""To encode a new word, split it into characters and apply the merges in the order in which they
        were learned: "lowest" becomes {" ".join(encode("lowest", merges))}.""")
    presenter.section("The code", "One merge, and the encoding of a word:")
    presenter.code(merge, encode)
    return _learn_from_stories(presenter)


def _learn_from_stories(presenter: Presenter) -> dict[str, float]:
    from ..data.corpora.stories import stories

    words = " ".join(stories(0, 300)).split()
    merges = learn_merges(words, 300)
    characters = sum(map(len, words))
    presenter.section(
        "300 merges",
        f"""300 stories have {len(words):,} words, {len(set(words)):,} of them distinct, and {characters:,} characters.
        The last merge, the tokens of "gardener", and the number of tokens of all stories:""",
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
    presenter.text("""The first merges save most. More merges mean shorter sequences, but a larger table of embeddings
        and fewer examples of each token.""")

    expected = library_merges(words, 300)
    equal = sum(ours == theirs for ours, theirs in zip(merges, expected, strict=False))
    presenter.section(
        "In practice",
        f"""The library `tokenizers` learned {len(expected)} merges from the same words: {equal} of 300 are equal, in
        the same order. A word that does not occur in the text is split into known tokens: farmhouse becomes
        {" ".join(encode("farmhouse", merges))}.

        The tokenizers of GPT-2 and of this package start from the 256 possible bytes instead of characters, so that
        there are no unknown characters, and count the space to the word that follows it, so that decoding gives back
        the text exactly.""",
    )

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(points, [length[n] / 1000 for n in points], color=BLUE)
        axes.set(xlabel="merges", ylabel="tokens (thousands)", ylim=(0, None))
        axes.grid(alpha=0.25)

    presenter.plot("subwords", "300 stories become shorter with every merge", draw)
    return {
        "equal_merges": float(equal),
        "merges": float(len(expected)),
        "tokens": float(length[300]),
        "characters": float(characters),
    }
