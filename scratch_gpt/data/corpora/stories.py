"""The built-in corpus: little stories in any amount, with a parser and a known entropy.

A story tells of one hero who has something, in one tense; verbs agree with subjects that stand far from them, pronouns
with the hero's gender, articles with the next word, and what the hero has stays the same to the end. Because every
text has exactly one derivation in `story_grammar` (a test counts them), three things are exact here that no natural
corpus offers:

- `parses(sentence)` tells whether a sentence belongs to it;
- `entropy_per_character()` is the loss of the best possible model, a floor that no other can beat;
- story `i` of a seed is a pure function of (seed, i).
"""

from __future__ import annotations

import bisect
import math
import random
import re
from collections.abc import Iterator
from functools import cache
from itertools import accumulate

from . import story_lexicon as lx
from .story_grammar import GRAMMAR, NUMBERS, OWNED, TENSES, Rule, Symbol

PUNCTUATION = (",", ".")


@cache
def rules(symbol: Symbol) -> tuple[Rule, ...]:
    """The rules of a non-terminal, with weights that sum to one."""
    name, *features = symbol
    weighted = GRAMMAR[name](*features)
    total = math.fsum(weight for weight, _ in weighted)
    return tuple((weight / total, side) for weight, side in weighted)


@cache
def _lottery(symbol: Symbol) -> tuple[list[float], list[tuple[Symbol, ...]]]:
    weighted = rules(symbol)
    return list(accumulate(weight for weight, _ in weighted)), [side for _, side in weighted]


def story(seed: int | str, index: int) -> str:
    """Story number `index` of `seed` (which may be a name), a single line of text."""
    draw = random.Random(f"{seed}-{index}").random
    words: list[str] = []
    stack: list[Symbol] = [("story",)]
    while stack:
        symbol = stack.pop()
        if isinstance(symbol, str):
            words.append(symbol)
            continue
        cumulative, sides = _lottery(symbol)
        stack.extend(reversed(sides[min(bisect.bisect(cumulative, draw()), len(sides) - 1)]))
    return _write(words)


def stories(seed: int, count: int) -> Iterator[str]:
    """The first `count` stories of `seed`."""
    return (story(seed, index) for index in range(count))


def _write(words: list[str]) -> str:
    """Words to text: capitals at the start of sentences, no space before punctuation."""
    pieces: list[str] = []
    start = True
    for word in words:
        if pieces and word not in PUNCTUATION:
            pieces.append(" ")
        pieces.append(word[0].upper() + word[1:] if start else word)
        start = word == "."
    return "".join(pieces)


def _read(text: str) -> list[str] | None:
    """Text to words, or None if no words could have been written like this."""
    words = re.findall(r"\w+|[^\w\s]", text)
    start = True
    for i, word in enumerate(words):
        if start and word not in lx.GENDER:
            words[i] = word[0].lower() + word[1:]
        start = word == "."
    return words if words and _write(words) == text else None


def sentences(text: str) -> list[str]:
    """The sentences of a story, each with its full stop."""
    return re.findall(r"[^.\s][^.]*\.?", text)


def parses(sentence: str) -> bool:
    """Whether `sentence`, with its capital and full stop, belongs to the language of the stories."""
    return derivations(sentence) > 0


def derivations(text: str, whole_story: bool = False) -> int:
    """In how many ways the grammar derives a sentence or, if asked, a whole story. Zero: not at all.

    A sentence counts once for each of its meanings: "She sings" is the same whoever "she" is.
    """
    words = _read(text)
    if words is None:
        return 0
    seen = set(words)
    # Contexts that differ only in names or things which the text does not mention derive the same: one stands for all.
    heroes = [next((n for n in names if n in seen), names[0]) for names in lx.HEROES.values()]
    named = [name for name in lx.GENDER if name in seen]
    owned = [o for o in OWNED if lx.THINGS[o[0]][NUMBERS.index(o[1])] in seen] or [OWNED[0]]
    contexts = [(tense, name, o) for tense in TENSES for name in dict.fromkeys(named or heroes) for o in owned]
    chart = _Chart(words)
    if whole_story:
        openings = [side for _, side in rules(("story",)) if side[0][1:] in contexts]
        return sum(chart.ends(side, 0).get(len(words), 0) for side in openings)
    kinds = ("opening", "middle", "closing")
    return max(sum(chart.ends(((kind, *context),), 0).get(len(words), 0) for kind in kinds) for context in contexts)


class _Chart:
    """Top-down recognition with memory: where each symbol may end if it starts at a word, and in how many ways."""

    def __init__(self, words: list[str]):
        self.words = words
        self.memory: dict[tuple[Symbol, int], dict[int, int]] = {}

    def ends(self, side: tuple[Symbol, ...], start: int) -> dict[int, int]:
        """End positions of a sequence of symbols that starts at `start`, each with its number of derivations."""
        reached = {start: 1}
        for symbol in side:
            following: dict[int, int] = {}
            for position, ways in reached.items():
                for end, more in self._symbol_ends(symbol, position).items():
                    following[end] = following.get(end, 0) + ways * more
            reached = following
            if not reached:
                break
        return reached

    def _symbol_ends(self, symbol: Symbol, start: int) -> dict[int, int]:
        if isinstance(symbol, str):
            return {start + 1: 1} if start < len(self.words) and self.words[start] == symbol else {}
        key = (symbol, start)
        if key not in self.memory:
            total: dict[int, int] = {}
            for _, side in rules(symbol):
                for end, ways in self.ends(side, start).items():
                    total[end] = total.get(end, 0) + ways
            self.memory[key] = total
        return self.memory[key]


@cache
def _measure(symbol: Symbol) -> tuple[float, float, int]:
    """Entropy in nats, expected characters with one space before each word, and number of texts, of a symbol."""
    if isinstance(symbol, str):
        return 0.0, len(symbol) + (symbol not in PUNCTUATION), 1
    entropies, lengths, texts = [], [], 0
    for weight, side in rules(symbol):
        parts = [_measure(part) for part in side]
        entropies.append(weight * (math.fsum(part[0] for part in parts) - math.log(weight)))
        lengths.append(weight * math.fsum(part[1] for part in parts))
        texts += math.prod(part[2] for part in parts)
    return math.fsum(entropies), math.fsum(lengths), texts


def entropy_per_story() -> float:
    """Entropy of one story, its end included, in nats."""
    return _measure(("story",))[0]


def characters_per_story() -> float:
    """Expected length of a story in characters."""
    return _measure(("story",))[1] - 1  # no space before the first word


def entropy_per_character() -> float:
    """Nats a character of the best possible model, which knows where each story starts.

    Computed from the grammar: the entropy of a derivation is that of each choice plus what it leads to, and a text
    has one derivation only (Grenander 1967; Cover and Thomas, Elements of Information Theory, theorem 2.2.1).
    """
    return entropy_per_story() / characters_per_story()


def different_sentences() -> int:
    """How many different middle sentences there are for one hero, thing and tense."""
    return _measure(("middle", TENSES[0], "Anna", OWNED[0]))[2]
