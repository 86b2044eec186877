"""The probabilistic context-free grammar of the built-in stories.

A symbol is a word (a string) or a non-terminal: a tuple of a name and features. The features ensure agreement: tense
"present" or "past", number "sg" or "pl", hero (a name), owned (index of the thing that the hero has, and its number).
Each function with the decorator `rule` returns the rules of the non-terminal of the same name, with their weights; its
docstring shows examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import story_lexicon as lx

Symbol = Any  # str, or (rule name, *features)
Rule = tuple[float, tuple[Symbol, ...]]
Owned = tuple[int, str]

TENSES = ("present", "past")
NUMBERS = ("sg", "pl")
OWNED: tuple[Owned, ...] = tuple((index, number) for index in range(len(lx.THINGS)) for number in NUMBERS)
MIDDLE_SENTENCES = (2, 3, 4, 5)
MIDDLES = ("shows", "has_but", "when", "thinks", "both", "washes", "glad", "watches")

GRAMMAR: dict[str, Callable[..., list[Rule]]] = {}


def rule(function: Callable[..., list[Rule]]) -> Callable[..., list[Rule]]:
    """Register the rules of a non-terminal; a decorator."""
    GRAMMAR[function.__name__] = function
    return function


def uniform(sides: Iterable[tuple[Symbol, ...]]) -> list[Rule]:
    """Return rules of equal weight with these right-hand sides."""
    return [(1.0, side) for side in sides]


def words(options: Iterable[str]) -> list[Rule]:
    """Return rules of equal weight for single words."""
    return uniform((option,) for option in options)


def noun_forms(kind: str, number: str) -> list[str]:
    """Return the nouns of a kind ("person" or "thing") in a number."""
    return [forms[NUMBERS.index(number)] for forms in (lx.PERSONS if kind == "person" else lx.THINGS)]


def adjectives(kind: str) -> tuple[str, ...]:
    """Return the adjectives of a kind of nouns ("person" or "thing")."""
    return lx.PERSON_ADJECTIVES if kind == "person" else lx.THING_ADJECTIVES


def has_possession(tense: str, hero: str, owned: Owned) -> tuple[str, str, str]:
    """Return the words of "has her lamps"."""
    return (lx.conjugate(lx.HAVE, tense, "sg"), *possession(hero, owned))


def possession(hero: str, owned: Owned) -> tuple[str, str]:
    """Return the words of "her lamps"."""
    return lx.POSSESSIVE[lx.GENDER[hero]], lx.THINGS[owned[0]][NUMBERS.index(owned[1])]


@rule
def story() -> list[Rule]:
    """A whole story; tense, hero and possession, which stay the same in all sentences, are selected here."""
    return uniform(
        (("opening", *context), *[("middle", *context)] * count, ("closing", *context))
        for context in ((tense, name, owned) for tense in TENSES for name in lx.GENDER for owned in OWNED)
        for count in MIDDLE_SENTENCES
    )


@rule
def opening(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """One day, Anna has two old lamps near the mill."""
    has = lx.conjugate(lx.HAVE, tense, "sg")
    return uniform(
        (*opener.split(), ",", hero, has, ("first_mention", owned), ("place",), ".") for opener in lx.OPENERS
    )


@rule
def closing(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """In the end, Anna still has her lamps. | At last, she sings in the garden."""
    return [
        (2.0, ("in", "the", "end", ",", ("hero", hero), "still", *has_possession(tense, hero, owned), ".")),
        (1.0, ("at", "last", ",", ("hero", hero), ("verb_phrase", tense, "sg"), ".")),
    ]


@rule
def middle(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """Any sentence between the first and the last."""
    return uniform(((name, tense, hero, owned),) for name in MIDDLES)


@rule
def shows(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """She shows her lamps to the tall farmer, who likes them."""
    start = (("hero", hero), ("verb", "SHOW", tense, "sg"), *possession(hero, owned), "to")
    return uniform(
        (*start, ("noun_phrase", "person", n), ",", "who", ("verb", "LIKE", tense, n), lx.OBJECT_PRONOUN[owned[1]], ".")
        for n in NUMBERS
    )


@rule
def has_but(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """She has her lamps, but the teachers with a kite have two drums."""
    start = (("hero", hero), *has_possession(tense, hero, owned), ",", "but")
    return uniform(
        (*start, ("subject", tense, n), lx.conjugate(lx.HAVE, tense, n), ("noun_phrase", "thing", other), ".")
        for n in NUMBERS
        for other in NUMBERS
    )


@rule
def when(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """When the farmers who sing see this sailor, she finds an egg in the garden."""
    links = ("after", "because", "when", "while")
    return uniform((link, ("clause", tense), ",", ("hero", hero), ("verb_phrase", tense, "sg"), ".") for link in links)


@rule
def thinks(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """Anna thinks that those bakers are afraid. | She hopes that a baker sings."""
    start = (("hero", hero), ("verb", "THINK", tense, "sg"), "that")
    return [
        (2.0, (*start, ("clause", tense), ".")),
        *((1.0, (*start, ("subject", tense, n), lx.BE[tense, n], ("state",), ".")) for n in NUMBERS),
    ]


@rule
def both(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """Anna and the old miller carry the boxes."""
    return uniform((hero, "and", ("noun_phrase", "person", n), ("verb_phrase", tense, "pl"), ".") for n in NUMBERS)


@rule
def washes(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """She washes herself near the river and finds a key."""
    start = (("hero", hero), ("verb", "WASH", tense, "sg"), lx.REFLEXIVE[lx.GENDER[hero]])
    return uniform([(*start, ("place",), "and", ("verb_phrase", tense, "sg"), ".")])


@rule
def glad(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """The doctors are glad because Anna still has her lamps."""
    end = ("because", hero, "still", *has_possession(tense, hero, owned), ".")
    return uniform((("subject", tense, n), lx.BE[tense, n], ("state",), *end) for n in NUMBERS)


@rule
def watches(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """Two sailors with a kite laugh behind the school, and she watches them."""
    end = (("place",), ",", "and", ("hero", hero), ("verb", "SEE", tense, "sg"), "them", ".")
    return uniform([(("subject", tense, "pl"), ("verb", "SING", tense, "pl"), *end)])


@rule
def clause(tense: str) -> list[Rule]:
    """the tall farmers find a key near the mill"""
    return uniform((("subject", tense, n), ("verb_phrase", tense, n)) for n in NUMBERS)


@rule
def subject(tense: str, number: str) -> list[Rule]:
    """the farmers | the farmers with a kite (the verb agrees with the farmers) | the farmers who sing"""
    person = ("noun_phrase", "person", number)
    return [
        (4.0, (person,)),
        *((1.0, (person, "with", ("noun_phrase", "thing", other))) for other in NUMBERS),
        (2.0, (person, "who", ("predicate", tense, number))),
    ]


@rule
def verb_phrase(tense: str, number: str) -> list[Rule]:
    """sings | sings near the mill"""
    return uniform(((("predicate", tense, number),), (("predicate", tense, number), ("place",))))


@rule
def predicate(tense: str, number: str) -> list[Rule]:
    """sees the sailor | does not find three keys | sings (one in five is negated)"""
    frames: list[tuple[str, tuple[Symbol, ...]]] = [("SING", ())]
    frames += [("SEE", (("noun_phrase", "person", other),)) for other in NUMBERS]
    frames += [("FIND", (("noun_phrase", "thing", other),)) for other in NUMBERS]
    negation = (lx.conjugate(lx.DO, tense, number), "not")
    return [
        *((4.0, (("verb", verbs, tense, number), *objects)) for verbs, objects in frames),
        *((1.0, (*negation, ("verb", verbs, "present", "pl"), *objects)) for verbs, objects in frames),
    ]


@rule
def verb(verbs: str, tense: str, number: str) -> list[Rule]:
    """A form of one of the verbs of a list of the lexicon, given by name."""
    return words(lx.conjugate(forms, tense, number) for forms in getattr(lx, verbs))


@rule
def hero(name: str) -> list[Rule]:
    """Anna | she (twice as often)"""
    return [(1.0, (name,)), (2.0, (lx.SUBJECT_PRONOUN[lx.GENDER[name]],))]


@rule
def noun_phrase(kind: str, number: str) -> list[Rule]:
    """the farmer | the tall farmer | a farmer (one singular in three; the article agrees with the next word)"""
    noun, adjective = ("noun", kind, number), ("adjective", kind)
    rules = [(1.0, (word, *middle, noun)) for word in lx.DETERMINERS[number] for middle in ((), (adjective,))]
    if number == "sg":
        described, bare = adjectives(kind), noun_forms(kind, number)
        rules += [(2.0 / len(described), (lx.article(word), word, noun)) for word in described]
        rules += [(2.0 / len(bare), (lx.article(word), word)) for word in bare]
    return rules


@rule
def first_mention(owned: Owned) -> list[Rule]:
    """a lamp | an old lamp | two old lamps (the possession of the hero)"""
    thing = lx.THINGS[owned[0]][NUMBERS.index(owned[1])]
    if owned[1] == "pl":
        return uniform(
            (n, *middle, thing) for n in ("some", "two", "three") for middle in ((), (("adjective", "thing"),))
        )
    described = lx.THING_ADJECTIVES
    return [
        (float(len(described)), (lx.article(thing), thing)),
        *uniform((lx.article(word), word, thing) for word in described),
    ]


@rule
def adjective(kind: str) -> list[Rule]:
    """An adjective of a kind of nouns ("person" or "thing")."""
    return words(adjectives(kind))


@rule
def noun(kind: str, number: str) -> list[Rule]:
    """A noun of a kind ("person" or "thing")."""
    return words(noun_forms(kind, number))


@rule
def state() -> list[Rule]:
    """afraid | glad"""
    return words(lx.STATES)


@rule
def place() -> list[Rule]:
    """near the mill"""
    return uniform((preposition, "the", where) for preposition in lx.PREPOSITIONS for where in lx.PLACES)
