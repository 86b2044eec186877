"""A generator of German sentences with exact English translations, for training and testing translation models.

It covers much of what makes German hard: articles and adjectives that agree with three genders and three cases, the
verb in second position in main clauses and at the end of subordinate clauses, separable verbs, participles and
infinitives at the end of a clause, objects before subjects that only the case identifies, and compound nouns. Each
sentence has exactly one translation.

A combination is a verb and a noun of the same clause. A tenth of all combinations, selected by a hash, never occurs in
the split "train"; each sentence of "validation" and "test" has at least one combination that is held out for its split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from . import german_lexicon as lx
from .german_lexicon import PLURAL, SINGULAR, Noun, Verb

SPLITS = ("train", "validation", "test")

# Endings by case, then by gender or plural.
DEFINITE = {
    "nominative": {"m": "er", "f": "ie", "n": "as", PLURAL: "ie"},
    "accusative": {"m": "en", "f": "ie", "n": "as", PLURAL: "ie"},
    "dative": {"m": "em", "f": "er", "n": "em", PLURAL: "en"},
}
THIS = {case: {g: e.replace("ie", "e").replace("as", "es") for g, e in row.items()} for case, row in DEFINITE.items()}
MIXED = {
    case: {
        g: "" if (case != "dative" and e == "es") or (case == "nominative" and g == "m") else e for g, e in row.items()
    }
    for case, row in THIS.items()
}
ADJECTIVE_AFTER = {
    "definite": {
        "nominative": {"m": "e", "f": "e", "n": "e", PLURAL: "en"},
        "accusative": {"m": "en", "f": "e", "n": "e", PLURAL: "en"},
    },
    "mixed": {
        "nominative": {"m": "er", "f": "e", "n": "es", PLURAL: "en"},
        "accusative": {"m": "en", "f": "e", "n": "es", PLURAL: "en"},
    },
    "numeral": {"nominative": {PLURAL: "e"}, "accusative": {PLURAL: "e"}},
}


class Pair(NamedTuple):
    """A sentence and its translation."""

    german: str
    english: str


@dataclass(frozen=True)
class Phrase:
    """A noun with its determiner, and optionally an adjective, a modifier (which forms a compound), and a relative
    clause."""

    noun: Noun
    number: str
    determiner: tuple[str, str, str | None, str | None]
    adjective: str | None = None
    modifier: str | None = None
    relative: Clause | None = None

    def german(self, case: str) -> str:
        """Return the German phrase in the case "nominative", "accusative" or "dative"."""
        key = PLURAL if self.number == PLURAL else self.noun.gender
        stem, kind, *_ = self.determiner
        endings = {"d": DEFINITE, "dies": THIS}.get(stem, MIXED)
        words = [stem if kind == "numeral" else stem + endings[case][key]]
        if self.adjective:
            ending = "en" if case == "dative" else ADJECTIVE_AFTER[kind][case][key]
            words.append(self.adjective.removesuffix("e") + ending)
        form = self.noun.plural if self.number == PLURAL else self.noun.singular
        if self.number == PLURAL and case == "dative" and form[-1] not in "ns":
            form += "n"
        if self.number == SINGULAR and case != "nominative":
            form = self.noun.oblique or form
        words.append(self.modifier + form.lower() if self.modifier else form)
        if self.relative:
            pronoun = "die" if self.number == PLURAL else "d" + DEFINITE["nominative"][self.noun.gender]
            words[-1] += f", {pronoun} {self.relative.german_final(with_subject=False)},"
        return " ".join(words)

    def english(self) -> str:
        """Return the English phrase."""
        words = [lx.ADJECTIVES[self.adjective]] if self.adjective else []
        words += [lx.MODIFIERS[self.modifier]] if self.modifier else []
        words.append(self.noun.english_plural if self.number == PLURAL else self.noun.english)
        determiner = self.determiner[3] if self.number == PLURAL else self.determiner[2]
        if determiner == "a" and words[0][0] in "aeiou":
            determiner = "an"
        text = f"{determiner} {' '.join(words)}"
        return f"{text} who {self.relative.english(with_subject=False)}" if self.relative else text


@dataclass(frozen=True)
class Clause:
    """A clause in the present or past tense, optionally with objects, a place, a time, a modal verb, or negated."""

    subject: Phrase
    verb: Verb
    tense: str
    direct: Phrase | None = None  # in the accusative
    indirect: Phrase | None = None  # in the dative
    place: tuple[str, Noun, str] | None = None
    time: tuple[str, str] | None = None
    modal: tuple[str, str, str, str] | None = None
    negated: bool = False

    def combinations(self) -> set[tuple[str, str]]:
        """Return the pairs of the verb and each noun of this clause and of its relative clauses."""
        phrases = [phrase for phrase in (self.subject, self.direct, self.indirect) if phrase]
        found = {(self.verb.prefix + self.verb.infinitive, phrase.noun.singular) for phrase in phrases}
        return found.union(*(phrase.relative.combinations() for phrase in phrases if phrase.relative))

    def _plural(self) -> bool:
        return self.subject.number == PLURAL

    def _finite(self) -> tuple[str, str]:
        """Return the finite verb, and the prefix, participle or infinitive at the end of a main clause."""
        verb, plural = self.verb, self._plural()
        if self.modal:
            return self.modal[plural], verb.prefix + verb.infinitive
        if self.tense == "past":
            auxiliary = {"hat": ("hat", "haben"), "ist": ("ist", "sind")}[verb.auxiliary][plural]
            return auxiliary, verb.participle
        return (verb.plural if plural else verb.third), verb.prefix

    def _middle(self, without: Phrase | None = None) -> list[str]:
        """Return the words between the two parts of the verb: dative before accusative, then the place."""
        words = [self.indirect.german("dative")] if self.indirect and self.indirect is not without else []
        words += [self.direct.german("accusative")] if self.direct and self.direct is not without else []
        if self.place:
            preposition, noun, _ = self.place
            where = f"{preposition} {'der' if noun.gender == 'f' else 'dem'}"
            words.append(f"{lx.CONTRACTIONS.get(where, where)} {noun.singular}")
        return [*words, "nicht"] if self.negated else words

    def german_main(self, first: str = "subject") -> str:
        """Return a main clause, whose finite verb is in second position.

        Args:
            first: the constituent in first position, "subject", "time" or "direct"; or "verb" if the clause follows a
                subordinate clause, which is then the first constituent.
        """
        finite, final = self._finite()
        subject, time = self.subject.german("nominative"), [self.time[0]] if self.time else []
        if first == "time":
            words = [*time, finite, subject, *self._middle()]
        elif first == "direct" and self.direct:
            words = [self.direct.german("accusative"), finite, subject, *time, *self._middle(without=self.direct)]
        else:
            words = [*([finite, subject] if first == "verb" else [subject, finite]), *time, *self._middle()]
        return _join([*words, final])

    def german_final(self, with_subject: bool = True) -> str:
        """Return a subordinate clause, which ends with the finite verb, joined with its prefix."""
        finite, final = self._finite()
        end = [final + finite] if final == self.verb.prefix and not self.modal else [final, finite]
        subject = [self.subject.german("nominative")] if with_subject else []
        return _join([*subject, *([self.time[0]] if self.time else []), *self._middle(), *end])

    def english(self, with_subject: bool = True, time_first: bool = False) -> str:
        """Return the English clause: subject, verb, objects, place, time."""
        verb, plural = self.verb, self._plural()
        if self.modal:
            word = self.modal[2 + plural]
            negated = {"wants to": "does not want to", "want to": "do not want to"}.get(word, f"{word} not")
            verbal = f"{negated if self.negated else word} {verb.base}"
        elif self.negated:
            verbal = f"{'did' if self.tense == 'past' else 'do' if plural else 'does'} not {verb.base}"
        else:
            verbal = verb.past if self.tense == "past" else verb.base if plural else verb.english_third
        words = [self.subject.english()] if with_subject else []
        words += [verbal, verb.particle]
        words += [phrase.english() for phrase in (self.direct,) if phrase]
        if self.indirect:
            words += ["to", self.indirect.english()] if self.direct else [self.indirect.english()]
        words += [f"{self.place[2]} the {self.place[1].english}"] if self.place else []
        if self.time:
            words = [self.time[1], *words] if time_first else [*words, self.time[1]]
        return _join(words)


def _join(words: list[str]) -> str:
    return " ".join(word for word in words if word)


def _sentence(german: str, english: str) -> Pair:
    """Capitalise both sides, add full stops, and remove commas that precede another comma or the end."""
    while ",," in german or ", ," in german:
        german = german.replace(",,", ",").replace(", ,", ",")
    german = german.removesuffix(",")
    return Pair(german[0].upper() + german[1:] + ".", english[0].upper() + english[1:] + ".")


class SentenceSampler:
    """Sample sentences with a random number generator."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def phrase(self, kind: str, relative: bool = False) -> Phrase:
        """Sample a phrase of the kind "person" or "thing", with a relative clause if `relative`."""
        rng = self.rng
        noun = rng.choice(lx.PERSONS if kind == "person" else lx.THINGS)
        number = PLURAL if rng.random() < 0.3 else SINGULAR
        choices = [d for d in lx.DETERMINERS if d[3 if number == PLURAL else 2] is not None]
        adjectives = lx.PERSON_ADJECTIVES if kind == "person" else lx.THING_ADJECTIVES
        adjective = rng.choice(adjectives) if rng.random() < 0.35 else None
        modifier = rng.choice(tuple(lx.MODIFIERS)) if kind == "thing" and rng.random() < 0.35 else None
        phrase = Phrase(noun, number, rng.choice(choices), adjective, modifier)
        if not relative:
            return phrase
        return Phrase(noun, number, phrase.determiner, adjective, None, self.clause("present", subject=phrase))

    def clause(self, tense: str, subject: Phrase | None = None, simple: bool = False) -> Clause:
        """Sample a clause.

        Args:
            tense: "present" or "past".
            subject: the subject of a relative clause, which has neither time nor place; None samples a subject.
            simple: whether the subject has no relative clause.
        """
        rng = self.rng
        inner = subject is not None
        subject = subject or self.phrase("person", relative=not simple and rng.random() < 0.12)
        frame = rng.choices(("transitive", "dative", "ditransitive", "intransitive"), (5, 2, 2, 2))[0]
        verb = rng.choice(getattr(lx, frame.upper()))
        direct = self.phrase("thing") if frame in ("transitive", "ditransitive") else None
        indirect = self.phrase("person") if frame in ("dative", "ditransitive") else None
        modal = rng.choice(lx.MODALS) if tense == "present" and rng.random() < 0.25 else None
        negated = rng.random() < 0.15
        place = rng.choice(lx.PLACES) if not inner and not negated and rng.random() < 0.2 else None
        time = rng.choice(tuple(lx.TIMES[tense].items())) if not inner and rng.random() < 0.25 else None
        return Clause(subject, verb, tense, direct, indirect, place, time, modal, negated)

    def sentence(self) -> tuple[Pair, set[tuple[str, str]]]:
        """Sample a sentence; return it with its combinations."""
        rng = self.rng
        tense = rng.choice(("present", "past"))
        clause = self.clause(tense)
        kind = rng.choices(("main", "link", "link first", "says that"), (5, 2, 2, 2))[0]
        if kind == "main":
            first = "time" if clause.time else "subject"
            if (
                clause.direct
                and clause.direct.noun.gender == "m"
                and clause.direct.number == SINGULAR
                and rng.random() < 0.4
            ):
                first = "direct"  # only the masculine accusative differs from the nominative
            english = clause.english(time_first=first == "time")
            return _sentence(clause.german_main(first), english), clause.combinations()
        other = self.clause(rng.choice(("present", "past")) if kind == "says that" else tense, simple=True)
        combinations = clause.combinations() | other.combinations()
        link, english_link = rng.choice(tuple(lx.LINKS.items()))
        if kind == "link":
            german = f"{clause.german_main()}, {link} {other.german_final()}"
            return _sentence(german, f"{clause.english()} {english_link} {other.english()}"), combinations
        if kind == "link first":
            german = f"{link} {other.german_final()}, {clause.german_main('verb')}"
            return _sentence(german, f"{english_link} {other.english()}, {clause.english()}"), combinations
        saying = Clause(clause.subject, rng.choice(lx.SAYING), tense)
        german = f"{saying.german_main()}, dass {other.german_final()}"
        combinations = saying.combinations() | other.combinations()
        return _sentence(german, f"{saying.english()} that {other.english()}"), combinations


@cache
def split_of_combination(combination: tuple[str, str]) -> str:
    """Return the split that a combination belongs to: "train" for nine in ten."""
    number = hashlib.sha256(" ".join(combination).encode()).digest()[0] % 20
    return {0: "validation", 1: "test"}.get(number, "train")


def pairs(seed: int, count: int, split: str = "train") -> Iterator[Pair]:
    """Iterate over `count` sentences of a split. Combinations of "train" may occur in all splits; a held-out one occurs
    only in its own split."""
    sampler = SentenceSampler(random.Random(f"{seed} {split}"))
    while count > 0:
        pair, combinations = sampler.sentence()
        splits = {split_of_combination(combination) for combination in combinations}
        if splits <= {"train", split} and split in splits:
            count -= 1
            yield pair


def word_for_word(german: str) -> str:
    """Translate each word with a dictionary, without reordering: a baseline."""
    words = [_glosses().get(word.strip(".,").lower(), word.strip(".,")) for word in german.split()]
    marks = ["," if word.endswith(",") else "" for word in german.split()]
    text = _join([word + mark for word, mark in zip(words, marks, strict=True) if word])
    return text[:1].upper() + text[1:] + "."


@cache
def _glosses() -> dict[str, str]:
    """Return the dictionary of `word_for_word`: an English gloss for each German word form."""
    glosses: dict[str, str] = {}
    for noun in (*lx.PERSONS, *lx.THINGS, *(place[1] for place in lx.PLACES)):
        forms: dict[str, str] = {noun.plural: noun.english_plural, noun.singular: noun.english}
        forms[f"{noun.plural}n"] = noun.english_plural
        for form, english in forms.items():
            glosses[form.lower()] = english
            for modifier, english_modifier in lx.MODIFIERS.items():
                glosses[f"{modifier}{form}".lower()] = f"{english_modifier} {english}"
    for stem, english in lx.ADJECTIVES.items():
        glosses |= {stem.removesuffix("e") + ending: english for ending in ("e", "en", "er", "es")}
    for verb in (*lx.TRANSITIVE, *lx.DATIVE, *lx.DITRANSITIVE, *lx.INTRANSITIVE, *lx.SAYING):
        particle = f" {verb.particle}" if verb.particle else ""
        forms = {verb.participle: verb.past, verb.prefix + verb.infinitive: verb.base}
        forms |= {verb.prefix + verb.third: verb.english_third, verb.prefix + verb.plural: verb.base}
        glosses |= {form: english + particle for form, english in forms.items()}
        if verb.prefix:
            glosses |= {verb.third: verb.english_third, verb.plural: verb.base, verb.prefix: verb.particle}
    for modal in lx.MODALS:
        glosses |= dict(zip(modal[:2], modal[2:], strict=True))
    for stem, _, singular, plural in lx.DETERMINERS:
        for ending in ("", "e", "en", "er", "em", "es", "ie", "as"):
            glosses[stem + ending] = singular or plural or ""
    glosses |= {"im": "in the", "nicht": "not", "dass": "that", "hat": "", "haben": "", "ist": "", "sind": ""}
    glosses |= {german: english for german, _, english in lx.PLACES} | lx.LINKS
    for times in lx.TIMES.values():
        for german, english in times.items():
            head, *rest = german.split()
            glosses |= {head: english, **dict.fromkeys(rest, "")}
    return glosses
