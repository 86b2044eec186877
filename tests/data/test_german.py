"""The built-in German and English: agreement, word order, held-out combinations, and the dictionary baseline."""

import random
import re

import pytest

from scratch_gpt.data.corpora import german_english
from scratch_gpt.data.corpora import german_lexicon as lx
from scratch_gpt.data.corpora.german_english import (
    PLURAL,
    SINGULAR,
    Clause,
    Phrase,
    pairs,
    split_of_combination,
    word_for_word,
)

DETERMINERS = {stem: (stem, *rest) for stem, *rest in lx.DETERMINERS}


def noun(german_word: str):
    return next(n for n in (*lx.PERSONS, *lx.THINGS) if n.singular == german_word)


def verb(infinitive: str):
    verbs = (*lx.TRANSITIVE, *lx.DATIVE, *lx.DITRANSITIVE, *lx.INTRANSITIVE)
    return next(v for v in verbs if v.prefix + v.infinitive == infinitive)


def phrase(determiner: str, word: str, adjective: str | None = None, number: str = SINGULAR, **more) -> Phrase:
    return Phrase(noun(word), number, DETERMINERS[determiner], adjective, **more)


# Written by hand from a grammar.
DECLINED = [
    (("d", "Mann", "alt"), ("der alte Mann", "den alten Mann", "dem alten Mann")),
    (("d", "Frau", "alt"), ("die alte Frau", "die alte Frau", "der alten Frau")),
    (("d", "Kind", "alt"), ("das alte Kind", "das alte Kind", "dem alten Kind")),
    (("ein", "Mann", "alt"), ("ein alter Mann", "einen alten Mann", "einem alten Mann")),
    (("ein", "Frau", "alt"), ("eine alte Frau", "eine alte Frau", "einer alten Frau")),
    (("ein", "Kind", "alt"), ("ein altes Kind", "ein altes Kind", "einem alten Kind")),
    (("dies", "Tisch", None), ("dieser Tisch", "diesen Tisch", "diesem Tisch")),
    (("dies", "Buch", None), ("dieses Buch", "dieses Buch", "diesem Buch")),
    (("mein", "Junge", "müde"), ("mein müder Junge", "meinen müden Jungen", "meinem müden Jungen")),
    (("unser", "Tür", None), ("unsere Tür", "unsere Tür", "unserer Tür")),
    (("d", "Kind", "alt", PLURAL), ("die alten Kinder", "die alten Kinder", "den alten Kindern")),
    (("zwei", "Mann", "alt", PLURAL), ("zwei alte Männer", "zwei alte Männer", "zwei alten Männern")),
    (("mein", "Uhr", "neu", PLURAL), ("meine neuen Uhren", "meine neuen Uhren", "meinen neuen Uhren")),
]


@pytest.mark.parametrize(("what", "forms"), DECLINED, ids=lambda value: str(value[0]))
def test_articles_adjectives_and_nouns_agree(what, forms):
    found = tuple(phrase(*what).german(case) for case in ("nominative", "accusative", "dative"))
    assert found == forms


def test_compounds_have_the_gender_of_their_head():
    lamp = phrase("ein", "Lampe", "schön", modifier="Garten")
    assert lamp.german("accusative") == "eine schöne Gartenlampe"
    assert lamp.english() == "a beautiful garden lamp"
    assert phrase("ein", "Uhr", "alt").english() == "an old clock"


OPENS = {"subject": phrase("d", "Mann"), "verb": verb("aufmachen"), "direct": phrase("d", "Tür")}


@pytest.mark.parametrize(
    ("clause", "main", "final", "english"),
    [
        (
            Clause(tense="present", **OPENS),
            "der Mann macht die Tür auf",
            "der Mann die Tür aufmacht",
            "the man opens the door",
        ),
        (
            Clause(tense="past", **OPENS),
            "der Mann hat die Tür aufgemacht",
            "der Mann die Tür aufgemacht hat",
            "the man opened the door",
        ),
        (
            Clause(tense="present", modal=lx.MODALS[0], negated=True, **OPENS),
            "der Mann will die Tür nicht aufmachen",
            "der Mann die Tür nicht aufmachen will",
            "the man does not want to open the door",
        ),
        (
            Clause(phrase("d", "Kind", number=PLURAL), verb("einschlafen"), "past", time=("gestern", "yesterday")),
            "die Kinder sind gestern eingeschlafen",
            "die Kinder gestern eingeschlafen sind",
            "the children fell asleep yesterday",
        ),
        (
            Clause(phrase("ein", "Frau"), verb("zeigen"), "present", phrase("dies", "Tisch"), phrase("mein", "Junge")),
            "eine Frau zeigt meinem Jungen diesen Tisch",
            "eine Frau meinem Jungen diesen Tisch zeigt",
            "a woman shows this table to my boy",
        ),
    ],
)
def test_verb_is_second_in_main_clauses_and_last_in_subordinate_clauses(clause, main, final, english):
    assert clause.german_main() == main
    assert clause.german_final() == final
    assert clause.english() == english


def test_object_first_and_verb_first_word_order():
    clause = Clause(phrase("ein", "Frau"), verb("kaufen"), "present", phrase("d", "Tisch"))
    assert clause.german_main("direct") == "den Tisch kauft eine Frau"
    assert clause.german_main("verb") == "kauft eine Frau den Tisch"


def test_each_sentence_has_one_translation_and_is_well_formed():
    seen: dict[str, str] = {}
    for split in german_english.SPLITS:
        for pair in pairs(1, 3000, split):
            assert seen.setdefault(pair.german, pair.english) == pair.english
            for text in pair:
                assert re.fullmatch(r"[A-ZÄÖÜ][A-Za-zäöüÄÖÜß' ,]*[a-zäöüß]\.", text), text
                assert "  " not in text
                assert " ," not in text
                assert ",," not in text
    assert len(seen) > 8500


def test_held_out_combinations_do_not_occur_in_training():
    sampler = german_english.SentenceSampler(random.Random(0))
    counts = {split: 0 for split in german_english.SPLITS}
    for _ in range(4000):
        for combination in sampler.sentence()[1]:
            counts[split_of_combination(combination)] += 1
    assert 0.03 < counts["test"] / sum(counts.values()) < 0.08
    for split in german_english.SPLITS:
        again = german_english.SentenceSampler(random.Random(f"5 {split}"))
        kept = list(pairs(5, 300, split))
        for pair in kept:  # the same random stream, with the combinations
            drawn, combinations = again.sentence()
            while drawn != pair:
                drawn, combinations = again.sentence()
            splits = {split_of_combination(combination) for combination in combinations}
            assert splits <= {"train", split}
            assert split in splits


def test_held_out_combination_is_in_no_training_text():
    """Checked on the text itself: the forms of a transitive verb and its object."""
    held = next(
        (v, n)
        for v in lx.TRANSITIVE
        for n in lx.THINGS
        if split_of_combination((v.prefix + v.infinitive, n.singular)) == "test" and v.past not in ("", None)
    )
    forms, things = {held[0].base, held[0].english_third, held[0].past}, {held[1].english, held[1].english_plural}

    def together(text: str) -> bool:
        clauses = re.split(r", | who | that | because | although | while | before ", text.strip(".").lower())
        return any(forms & set(clause.split()) and things & set(clause.split()) for clause in clauses)

    assert not any(together(pair.english) for pair in pairs(2, 6000))
    assert any(together(pair.english) for pair in pairs(2, 6000, "test"))


def test_word_for_word_translation_is_rarely_correct():
    found = list(pairs(3, 2000, "test"))
    right = sum(word_for_word(pair.german) == pair.english for pair in found) / len(found)
    assert 0.01 < right < 0.2  # correct for a few simple sentences
    assert word_for_word("Der Mann kauft das Buch.") == "The man buys the book."
