"""A generator of short stories, with a parser and a known entropy.

A story is about one hero who owns something, in one tense. Verbs agree with distant subjects, pronouns with the hero's
gender, articles with the next word, and the hero's possession stays the same to the end. Because every text has exactly
one derivation in `story_grammar` (a test counts them), three properties are exact that natural corpora do not have:

- `parses(sentence)` decides whether a sentence is grammatical;
- `entropy_per_character()` is the loss of an optimal model, and a lower bound for any model;
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
    """Return the rules of a non-terminal, with weights that sum to one."""
    name, *features = symbol
    weighted = GRAMMAR[name](*features)
    total = math.fsum(weight for weight, _ in weighted)
    return tuple((weight / total, side) for weight, side in weighted)


@cache
def _cumulative_rules(symbol: Symbol) -> tuple[list[float], list[tuple[Symbol, ...]]]:
    """Return the cumulative weights of the rules of a non-terminal, and their right-hand sides."""
    weighted = rules(symbol)
    return list(accumulate(weight for weight, _ in weighted)), [side for _, side in weighted]


def story(seed: int | str, index: int) -> str:
    """Return story number `index` of `seed`, which may also be a string; a single line of text."""
    draw = random.Random(f"{seed}-{index}").random
    words: list[str] = []
    stack: list[Symbol] = [("story",)]
    while stack:
        symbol = stack.pop()
        if isinstance(symbol, str):
            words.append(symbol)
            continue
        cumulative, sides = _cumulative_rules(symbol)
        stack.extend(reversed(sides[min(bisect.bisect(cumulative, draw()), len(sides) - 1)]))
    return _join(words)


def stories(seed: int, count: int) -> Iterator[str]:
    """Iterate over the first `count` stories of `seed`."""
    return (story(seed, index) for index in range(count))


def _join(words: list[str]) -> str:
    """Join words to a text, with capitals at the start of sentences and no space before punctuation."""
    parts: list[str] = []
    start = True
    for word in words:
        if parts and word not in PUNCTUATION:
            parts.append(" ")
        parts.append(word[0].upper() + word[1:] if start else word)
        start = word == "."
    return "".join(parts)


def _split(text: str) -> list[str] | None:
    """Split a text into words; None if `_join` can't produce this text."""
    words = re.findall(r"\w+|[^\w\s]", text)
    start = True
    for i, word in enumerate(words):
        if start and word not in lx.GENDER:
            words[i] = word[0].lower() + word[1:]
        start = word == "."
    return words if words and _join(words) == text else None


def sentences(text: str) -> list[str]:
    """Split a story into sentences, each with its full stop."""
    return re.findall(r"[^.\s][^.]*\.?", text)


def parses(sentence: str) -> bool:
    """Whether a sentence, with its capital and full stop, is grammatical."""
    return derivations(sentence) > 0


def derivations(text: str, whole_story: bool = False) -> int:
    """Return the number of derivations of a sentence, or of a whole story if `whole_story`; 0 if it is ungrammatical.

    Contexts (hero, tense, possession) are not counted separately: "She sings" has one derivation for any heroine.
    """
    words = _split(text)
    if words is None:
        return 0
    seen = set(words)
    # Contexts that differ only in names or things that the text does not mention are equivalent: one represents all.
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
    """Top-down parser with memoisation: end positions of each symbol by start position, with numbers of derivations."""

    def __init__(self, words: list[str]):
        self.words = words
        self.memo: dict[tuple[Symbol, int], dict[int, int]] = {}

    def ends(self, side: tuple[Symbol, ...], start: int) -> dict[int, int]:
        """Return the number of derivations of a sequence of symbols from word `start`, by end position.

        Args:
            side: the symbols.
            start: index of the first word.
        """
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
        if key not in self.memo:
            total: dict[int, int] = {}
            for _, side in rules(symbol):
                for end, ways in self.ends(side, start).items():
                    total[end] = total.get(end, 0) + ways
            self.memo[key] = total
        return self.memo[key]


@cache
def _statistics(symbol: Symbol) -> tuple[float, float, int]:
    """Return the entropy in nats of a symbol, its expected number of characters including a space before each word, and
    its number of different texts."""
    if isinstance(symbol, str):
        return 0.0, len(symbol) + (symbol not in PUNCTUATION), 1
    entropies, lengths, texts = [], [], 0
    for weight, side in rules(symbol):
        parts = [_statistics(part) for part in side]
        entropies.append(weight * (math.fsum(part[0] for part in parts) - math.log(weight)))
        lengths.append(weight * math.fsum(part[1] for part in parts))
        texts += math.prod(part[2] for part in parts)
    return math.fsum(entropies), math.fsum(lengths), texts


def entropy_per_story() -> float:
    """Return the entropy of a story in nats, including that of its end."""
    return _statistics(("story",))[0]


def characters_per_story() -> float:
    """Return the expected number of characters of a story."""
    return _statistics(("story",))[1] - 1  # no space before the first word


def entropy_per_character() -> float:
    """Return the loss of an optimal model that knows where each story starts, in nats per character.

    Computed from the grammar by the chain rule: the entropy of a symbol is that of the choice of its rule plus the
    expected entropy of the symbols of that rule, and each text has only one derivation (Grenander 1967; Cover and
    Thomas, Elements of Information Theory, theorem 2.2.1).
    """
    return entropy_per_story() / characters_per_story()


def num_middle_sentences() -> int:
    """Return the number of different middle sentences for one hero, possession and tense."""
    return _statistics(("middle", TENSES[0], "Anna", OWNED[0]))[2]
