"""The rules of the built-in story world: what may follow what, how often, and what agrees with what.

A symbol is a word (a string) or a non-terminal: a tuple of a rule's name and its features. The features carry the
agreement: tense "present" or "past", number "sg" or "pl", hero (a name), owned (which thing the hero has, and its
number). Each function below returns the rules of the non-terminal that bears its name: weights and right-hand sides.
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
    GRAMMAR[function.__name__] = function
    return function


def uniform(sides: Iterable[tuple[Symbol, ...]]) -> list[Rule]:
    return [(1.0, side) for side in sides]


def words(options: Iterable[str]) -> list[Rule]:
    return uniform((option,) for option in options)


def noun_forms(kind: str, number: str) -> list[str]:
    return [forms[NUMBERS.index(number)] for forms in (lx.PERSONS if kind == "person" else lx.THINGS)]


def adjectives(kind: str) -> tuple[str, ...]:
    return lx.PERSON_ADJECTIVES if kind == "person" else lx.THING_ADJECTIVES


def has_own(tense: str, hero: str, owned: Owned) -> tuple[str, str, str]:
    """has her lamps"""
    return (lx.conjugate(lx.HAVE, tense, "sg"), *own(hero, owned))


def own(hero: str, owned: Owned) -> tuple[str, str]:
    """her lamps"""
    return lx.POSSESSIVE[lx.GENDER[hero]], lx.THINGS[owned[0]][NUMBERS.index(owned[1])]


@rule
def story() -> list[Rule]:
    """Everything that a story keeps from its first sentence to its last is drawn here."""
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
        (2.0, ("in", "the", "end", ",", ("hero", hero), "still", *has_own(tense, hero, owned), ".")),
        (1.0, ("at", "last", ",", ("hero", hero), ("verb_phrase", tense, "sg"), ".")),
    ]


@rule
def middle(tense: str, hero: str, owned: Owned) -> list[Rule]:
    return uniform(((name, tense, hero, owned),) for name in MIDDLES)


@rule
def shows(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """She shows her lamps to the tall farmer, who likes them."""
    start = (("hero", hero), ("verb", "SHOW", tense, "sg"), *own(hero, owned), "to")
    return uniform(
        (*start, ("noun_phrase", "person", n), ",", "who", ("verb", "LIKE", tense, n), lx.OBJECT_PRONOUN[owned[1]], ".")
        for n in NUMBERS
    )


@rule
def has_but(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """She has her lamps, but the teachers with a kite have two drums."""
    start = (("hero", hero), *has_own(tense, hero, owned), ",", "but")
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
    end = ("because", hero, "still", *has_own(tense, hero, owned), ".")
    return uniform((("subject", tense, n), lx.BE[tense, n], ("state",), *end) for n in NUMBERS)


@rule
def watches(tense: str, hero: str, owned: Owned) -> list[Rule]:
    """Two sailors with a kite laugh behind the school, and she watches them."""
    end = (("place",), ",", "and", ("hero", hero), ("verb", "SEE", tense, "sg"), "them", ".")
    return uniform([(("subject", tense, "pl"), ("verb", "SING", tense, "pl"), *end)])


@rule
def clause(tense: str) -> list[Rule]:
    return uniform((("subject", tense, n), ("verb_phrase", tense, n)) for n in NUMBERS)


@rule
def subject(tense: str, number: str) -> list[Rule]:
    """Persons, alone, with things (whose number must not mislead the verb), or with a relative clause."""
    person = ("noun_phrase", "person", number)
    return [
        (4.0, (person,)),
        *((1.0, (person, "with", ("noun_phrase", "thing", other))) for other in NUMBERS),
        (2.0, (person, "who", ("predicate", tense, number))),
    ]


@rule
def verb_phrase(tense: str, number: str) -> list[Rule]:
    return uniform(((("predicate", tense, number),), (("predicate", tense, number), ("place",))))


@rule
def predicate(tense: str, number: str) -> list[Rule]:
    """sees the sailor | does not find three keys | sings: one in five negated."""
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
    return words(lx.conjugate(forms, tense, number) for forms in getattr(lx, verbs))


@rule
def hero(name: str) -> list[Rule]:
    """By name or, twice as often, by pronoun."""
    return [(1.0, (name,)), (2.0, (lx.SUBJECT_PRONOUN[lx.GENDER[name]],))]


@rule
def noun_phrase(kind: str, number: str) -> list[Rule]:
    """Determiner, adjective or none, noun; one singular in three has the indefinite article, which agrees with the
    word that follows it."""
    noun, adjective = ("noun", kind, number), ("adjective", kind)
    rules = [(1.0, (word, *middle, noun)) for word in lx.DETERMINERS[number] for middle in ((), (adjective,))]
    if number == "sg":
        described, bare = adjectives(kind), noun_forms(kind, number)
        rules += [(2.0 / len(described), (lx.article(word), word, noun)) for word in described]
        rules += [(2.0 / len(bare), (lx.article(word), word)) for word in bare]
    return rules


@rule
def first_mention(owned: Owned) -> list[Rule]:
    """What the hero has: a lamp, an old lamp, two old lamps."""
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
    return words(adjectives(kind))


@rule
def noun(kind: str, number: str) -> list[Rule]:
    return words(noun_forms(kind, number))


@rule
def state() -> list[Rule]:
    return words(lx.STATES)


@rule
def place() -> list[Rule]:
    return uniform((preposition, "the", where) for preposition in lx.PREPOSITIONS for where in lx.PLACES)
