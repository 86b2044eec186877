"""Questions and answers in the world of the stories, each with one right answer: a set to learn to answer from.

Two kinds: about words ("What is the plural of knife?"), and about a first sentence that is told ("One day, Anna has two
old lamps near the mill. Where is Anna?"). What is held out is a *pair* of fact and phrasing: the two never stand
together in training. A word of a held-out question is asked for there in other phrasings, and the phrasing asks for
other words; who has what where is mostly told there not at all, so that it must be read.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from itertools import cycle, islice
from typing import NamedTuple

from . import story_lexicon as lx

SPLITS = ("train", "validation", "test")
HELD_OUT = {"validation": (0, 1), "test": (1, 2)}  # which tenths of all pairs


class Question(NamedTuple):
    """A question with its one right answer; `fact` and `phrasing` say what it is made of."""

    text: str
    answer: str
    fact: str
    phrasing: str


PLURAL = (
    "What is the plural of {}?",
    "One {}, two what?",
    "How do you call more than one {}?",
    "Give me the plural of the word {}.",
    "There is a {} here and a {} there. What are they?",
    "If one is called {}, what are many called?",
    "Tell me the word for two or three, when one is {}.",
    "What do you call {} when there are some?",
)
PAST = (
    "What is the past of {}?",
    "Today they {}. What did they do yesterday?",
    "How do you say {} when it is long ago?",
    "Give me the past of the word {}.",
    "They {} in every story. What did they do in the last one?",
    "If they {} now, what did they do long ago?",
    "Tell me the form of {} for last summer.",
    "What becomes of {} in the past?",
)
PRONOUN = (
    "Is {} he or she?",
    "Which word stands for {}, he or she?",
    "What do you say instead of {}?",
    "Give me the pronoun for {}.",
    "{} sings. Who sings, he or she?",
)
ARTICLE = (
    "Is it a or an before {}?",
    "Which word comes before {}, a or an?",
    "Give me the article for {}.",
    "Do you write a {} or an {}?",
    "What do you put in front of {}?",
)
# About a sentence such as "One day, Anna has two old lamps near the mill."
READING = {
    "who": ("Who has the {thing}?", "Who is {place}?", "Tell me who that is."),
    "what": ("What does {hero} have?", "Which things are {place}?", "Tell me what {hero} has."),
    "where": ("Where is {hero}?", "Where are the {thing}?", "Tell me where that is."),
}


def word_questions() -> Iterator[Question]:
    """Every question about a word."""
    things = [*lx.PERSONS, *lx.THINGS]
    verbs = [*lx.SEE, *lx.FIND, *lx.SING, *lx.SHOW, *lx.LIKE, *lx.THINK, *lx.WASH]
    described = sorted({*lx.PERSON_ADJECTIVES, *lx.THING_ADJECTIVES, *(one for one, _ in things)})
    tables = (
        ("plural", PLURAL, things),
        ("past", PAST, [(base, past) for base, _, past in verbs]),
        ("pronoun", PRONOUN, [(name, lx.SUBJECT_PRONOUN[gender]) for name, gender in lx.GENDER.items()]),
        ("article", ARTICLE, [(word, lx.article(word)) for word in described]),
    )
    for kind, phrasings, facts in tables:
        for asked, answer in facts:
            for phrasing in phrasings:
                yield Question(phrasing.replace("{}", asked), answer, f"{kind} {asked}", phrasing)


def reading_question(draw: random.Random) -> Question:
    """A question about a first sentence of a story."""
    tense = draw.choice(("present", "past"))
    hero, (_, things) = draw.choice(sorted(lx.GENDER)), draw.choice(lx.THINGS)
    count = draw.choice(("two", "three", "some"))
    place = f"{draw.choice(lx.PREPOSITIONS)} the {draw.choice(lx.PLACES)}"
    adjective = draw.choice(lx.THING_ADJECTIVES)
    opener = draw.choice(lx.OPENERS)
    told = f"{opener[0].upper()}{opener[1:]}, {hero} {lx.conjugate(lx.HAVE, tense, 'sg')}"
    told += f" {count} {adjective} {things} {place}."
    kind = draw.choice(sorted(READING))
    phrasing = draw.choice(READING[kind])
    answer = {"who": hero, "what": f"{count} {adjective} {things}", "where": place}[kind]
    asked = phrasing.format(hero=hero, thing=things, place=place)
    return Question(f"{told} {asked}", answer, f"{hero} {adjective} {things} {place}", phrasing)


def split_of(question: Question) -> str:
    """Where a pair of fact and phrasing belongs: one in ten to validation, one in ten to the test."""
    digest = hashlib.sha256(f"{question.fact}\0{question.phrasing}".encode()).digest()
    tenth = int.from_bytes(digest[:4], "little") % 10
    return next((name for name, (first, end) in HELD_OUT.items() if first <= tenth < end), "train")


def questions(seed: int, count: int, split: str = "train") -> Iterator[Question]:
    """So many questions of a split, in an order that is a function of (seed, split): half of them about sentences, half
    about words, which come again in training where there are no more, and not otherwise.

    Args:
        split: "train", "validation" or "test".
    """
    draw = random.Random(f"questions-{seed}-{split}")
    about_words = [question for question in word_questions() if split_of(question) == split]
    draw.shuffle(about_words)
    wanted = count // 2
    again = wanted if split == "train" else min(wanted, len(about_words))
    asked = list(islice(cycle(about_words), again))
    while len(asked) < count:
        question = reading_question(draw)
        if split_of(question) == split:
            asked.append(question)
    draw.shuffle(asked)
    yield from asked
