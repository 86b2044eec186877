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
from typing import NamedTuple

from . import story_lexicon as lx

SPLITS = ("train", "validation", "test")
TOGETHER = 6  # questions of a conversation to learn from
HELD_OUT = {"validation": (0, 1), "test": (1, 2)}  # which tenths of all pairs


class Question(NamedTuple):
    """A question with its one right answer; `fact` and `phrasing` say what it is made of, and `told` is the sentence
    that it is about, if it is about one."""

    text: str
    answer: str
    fact: str
    phrasing: str
    told: str = ""


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


def reading_questions(draw: random.Random) -> list[Question]:
    """Every question about a first sentence of a story, in any order. Their texts are what is asked; who has not heard
    the sentence, `told`, can't answer."""
    tense = draw.choice(("present", "past"))
    hero, (_, things) = draw.choice(sorted(lx.GENDER)), draw.choice(lx.THINGS)
    count = draw.choice(("two", "three", "some"))
    place = f"{draw.choice(lx.PREPOSITIONS)} the {draw.choice(lx.PLACES)}"
    adjective = draw.choice(lx.THING_ADJECTIVES)
    opener = draw.choice(lx.OPENERS)
    told = f"{opener[0].upper()}{opener[1:]}, {hero} {lx.conjugate(lx.HAVE, tense, 'sg')}"
    told += f" {count} {adjective} {things} {place}."
    answers = {"who": hero, "what": f"{count} {adjective} {things}", "where": place}
    fact = f"{hero} {adjective} {things} {place}"
    asked = [
        Question(phrasing.format(hero=hero, thing=things, place=place), answers[kind], fact, phrasing, told)
        for kind, phrasings in READING.items()
        for phrasing in phrasings
    ]
    draw.shuffle(asked)
    return asked


def split_of(question: Question) -> str:
    """Where a pair of fact and phrasing belongs: one in ten to validation, one in ten to the test."""
    digest = hashlib.sha256(f"{question.fact}\0{question.phrasing}".encode()).digest()
    tenth = int.from_bytes(digest[:4], "little") % 10
    return next((name for name, (first, end) in HELD_OUT.items() if first <= tenth < end), "train")


def questions(seed: int, count: int, split: str = "train") -> Iterator[list[Question]]:
    """So many questions of a split, in an order that is a function of (seed, split): half of them about sentences, half
    about words. Those to learn from come several together, so that one sentence is asked for in several ways; the
    others come alone.

    Args:
        split: "train", "validation" or "test". Questions about words come again in the first, and not in the others.
    """
    draw = random.Random(f"questions-{seed}-{split}")
    together = TOGETHER if split == "train" else 1
    words = [question for question in word_questions() if split_of(question) == split]
    talks: list[list[Question]] = []
    about_words, wanted = 0, count // 2 if split == "train" else min(count // 2, len(words))
    while about_words < wanted:
        draw.shuffle(words)
        for at in range(0, len(words), together):
            talks.append(words[at : at + min(together, wanted - about_words)])
            about_words += len(talks[-1])
            if about_words == wanted:
                break
    left = count - about_words
    while left:
        talk = [question for question in reading_questions(draw) if split_of(question) == split]
        talk = talk[: min(together, left)]
        left -= len(talk)
        if talk:
            talks.append(talk)
    draw.shuffle(talks)
    yield from talks
