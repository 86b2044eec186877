"""A generator of questions with exact answers, in the vocabulary of the stories, for supervised fine-tuning.

Questions are about words ("What is the plural of knife?") or about a preceding sentence ("One day, Anna has two old
lamps near the mill. Where is Anna?"). *Pairs* of fact and phrasing are held out: the two never occur together in the
training split, where the word occurs with other phrasings and the phrasing with other words. The facts of a held-out
question about a sentence mostly do not occur in the training split at all, so the model must read the sentence.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

from . import story_lexicon as lx

SPLITS = ("train", "validation", "test")
MAX_QUESTIONS = 6  # in one conversation of the training split
HELD_OUT = {"validation": (0, 1), "test": (1, 2)}  # range of tenths of all pairs, by split


class Question(NamedTuple):
    """A question and its answer.

    Attributes:
        text: the question.
        answer: the only correct answer.
        fact: identifies what the question is about.
        phrasing: the template of the question.
        told: the sentence that the question is about, which is shown before it; "" for questions about words.
    """

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
    """Iterate over all questions about words."""
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
        for word, answer in facts:
            for phrasing in phrasings:
                yield Question(phrasing.replace("{}", word), answer, f"{kind} {word}", phrasing)


def reading_questions(draw: random.Random) -> list[Question]:
    """Sample a first sentence of a story, and return all questions about it in random order. They can be answered only
    with the sentence, which is the attribute `told`."""
    tense = draw.choice(("present", "past"))
    hero, (_, things) = draw.choice(sorted(lx.GENDER)), draw.choice(lx.THINGS)
    count = draw.choice(("two", "three", "some"))
    place = f"{draw.choice(lx.PREPOSITIONS)} the {draw.choice(lx.PLACES)}"
    adjective = draw.choice(lx.THING_ADJECTIVES)
    opener = draw.choice(lx.OPENERS)
    sentence = f"{opener[0].upper()}{opener[1:]}, {hero} {lx.conjugate(lx.HAVE, tense, 'sg')}"
    sentence += f" {count} {adjective} {things} {place}."
    answers = {"who": hero, "what": f"{count} {adjective} {things}", "where": place}
    fact = f"{hero} {adjective} {things} {place}"
    found = [
        Question(phrasing.format(hero=hero, thing=things, place=place), answers[kind], fact, phrasing, sentence)
        for kind, phrasings in READING.items()
        for phrasing in phrasings
    ]
    draw.shuffle(found)
    return found


def split_of(question: Question) -> str:
    """Return the split of the fact and phrasing of a question: one in ten is validation, one in ten test."""
    digest = hashlib.sha256(f"{question.fact}\0{question.phrasing}".encode()).digest()
    tenth = int.from_bytes(digest[:4], "little") % 10
    return next((name for name, (first, end) in HELD_OUT.items() if first <= tenth < end), "train")


def questions(seed: int, count: int, split: str = "train") -> Iterator[list[Question]]:
    """Iterate over conversations with `count` questions in total, in an order that is a function of (seed, split).

    Half of the questions are about sentences, half about words. Conversations of "train" have up to `MAX_QUESTIONS`
    questions, so that one sentence is asked about in several ways; those of the other splits have one.

    Args:
        seed: seed of the questions and their order.
        count: number of questions.
        split: "train", "validation" or "test". Questions about words repeat in "train" only.
    """
    draw = random.Random(f"questions-{seed}-{split}")
    size = MAX_QUESTIONS if split == "train" else 1
    words = [question for question in word_questions() if split_of(question) == split]
    conversations: list[list[Question]] = []
    about_words, target = 0, count // 2 if split == "train" else min(count // 2, len(words))
    while about_words < target:
        draw.shuffle(words)
        for start in range(0, len(words), size):
            conversations.append(words[start : start + min(size, target - about_words)])
            about_words += len(conversations[-1])
            if about_words == target:
                break
    left = count - about_words
    while left:
        conversation = [question for question in reading_questions(draw) if split_of(question) == split]
        conversation = conversation[: min(size, left)]
        left -= len(conversation)
        if conversation:
            conversations.append(conversation)
    draw.shuffle(conversations)
    yield from conversations
