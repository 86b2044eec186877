"""The story grammar: unambiguous derivations, exact entropy, and a parser that checks agreement."""

import math
import random
import re
from collections import Counter

import pytest

from scratch_gpt.data.corpora import stories
from scratch_gpt.data.corpora import story_lexicon as lx
from scratch_gpt.data.corpora.stories import _join, derivations, parses, rules, sentences, story

SAMPLE = [story(11, i) for i in range(400)]
SENTENCES = [sentence for text in SAMPLE for sentence in sentences(text)]


def test_story_is_a_function_of_seed_and_index():
    assert story(11, 3) == SAMPLE[3]
    assert story(12, 3) != SAMPLE[3]
    assert len(set(SAMPLE)) == len(SAMPLE)


def test_sentences_and_stories_have_one_derivation():
    assert {derivations(sentence) for sentence in SENTENCES} == {1}
    assert {derivations(text, whole_story=True) for text in SAMPLE[:100]} == {1}


def test_number_of_sentences():
    assert stories.num_middle_sentences() > 1e9


def enumerate_texts(symbol) -> dict[tuple[str, ...], float]:
    """Return all texts of a symbol with their probabilities, by enumeration."""
    if isinstance(symbol, str):
        return {(symbol,): 1.0}
    total: dict[tuple[str, ...], float] = {}
    for weight, side in rules(symbol):
        partial = {(): weight}
        for part in side:
            partial = {a + b: p * q for a, p in partial.items() for b, q in enumerate_texts(part).items()}
        for text, probability in partial.items():
            total[text] = total.get(text, 0.0) + probability
    return total


@pytest.mark.parametrize(
    "symbol",
    [
        ("noun_phrase", "person", "sg"),
        ("noun_phrase", "thing", "pl"),
        ("first_mention", (0, "sg")),
        ("opening", "past", "Anna", (3, "pl")),
    ],
)
def test_entropy_and_length_equal_enumeration(symbol):
    texts = enumerate_texts(symbol)
    assert math.fsum(texts.values()) == pytest.approx(1)
    entropy, length, count = stories._statistics(symbol)
    assert entropy == pytest.approx(-math.fsum(p * math.log(p) for p in texts.values()), rel=1e-12)
    assert count == len(texts)
    characters = math.fsum(p * sum(len(w) + (w not in ",.") for w in text) for text, p in texts.items())
    assert length == pytest.approx(characters, rel=1e-12)


def log_probability(words: list[str], side: tuple, start: int) -> dict[int, float]:
    """Return the log-probabilities of the spans of `words` from `start` that `side` derives, by end position."""
    reached = {start: 0.0}
    for symbol in side:
        following: dict[int, float] = {}
        for position, so_far in reached.items():
            if isinstance(symbol, str):
                if position < len(words) and words[position] == symbol:
                    following[position + 1] = so_far
                continue
            for weight, inner in rules(symbol):
                for end, log_p in log_probability(words, inner, position).items():
                    following[end] = so_far + math.log(weight) + log_p
        reached = following
    return reached


def test_entropy_is_the_mean_surprisal_of_sampled_stories():
    """The mean of -log p over sampled stories equals the entropy within four standard errors."""
    surprises = []
    for text in SAMPLE[:150]:
        words = stories._split(text)
        hero, tense = next(w for w in words if w in lx.GENDER), "past" if re.search(r"\bhad\b", text) else "present"
        openings = [s for w, s in rules(("story",)) if s[0][1] == tense and s[0][2] == hero]
        uniform = math.log(rules(("story",))[0][0])
        matches = [uniform + log[len(words)] for s in openings if len(words) in (log := log_probability(words, s, 0))]
        assert len(matches) == 1
        surprises.append(-matches[0])
    mean = sum(surprises) / len(surprises)
    error = (sum((s - mean) ** 2 for s in surprises) / len(surprises) ** 2) ** 0.5
    assert abs(mean - stories.entropy_per_story()) < 4 * error
    lengths = [len(text) for text in SAMPLE]
    assert sum(lengths) / len(lengths) == pytest.approx(stories.characters_per_story(), rel=0.05)
    expected = stories.entropy_per_story() / stories.characters_per_story()
    assert stories.entropy_per_character() == pytest.approx(expected)


def broken(words: list[str]) -> list[tuple[int, str]]:
    """Return replacements of single words that break agreement, found without the grammar."""
    verbs = [forms for name in ("SEE", "FIND", "SING", "SHOW", "LIKE", "THINK", "WASH") for forms in getattr(lx, name)]
    verbs += [lx.HAVE, lx.DO]
    finite = {form for base, third, past in verbs for form in (base, third, past)} | set(lx.BE.values())
    swaps: dict[str, list[str]] = {}
    for base, third, _ in verbs:
        swaps[third], swaps[base] = [base], [third]  # number
    for singular, plural in (("is", "are"), ("was", "were")):
        swaps[singular], swaps[plural] = [plural], [singular]
    tenses: dict[str, list[str]] = {}
    for base, third, past in verbs:
        tenses |= {base: [past], third: [past], past: [base, third]}
    tenses |= {"is": ["was"], "are": ["were"], "was": ["is"], "were": ["are"]}
    for a, b in (("herself", "himself"), ("it", "them"), ("a", "an"), ("this", "these"), ("that", "those")):
        swaps[a], swaps[b] = [b], [a]
    swaps["every"], swaps["two"], swaps["three"] = ["two"], ["every"], ["every"]

    negated = {i + 2 for i, word in enumerate(words) if word in ("do", "does", "did")}
    verb_places = [i for i, word in enumerate(words) if word in finite and i not in negated]
    found = [(i, new) for i, word in enumerate(words) for new in swaps.get(word, [])]
    found = [(i, new) for i, new in found if not (words[i] == "that" and is_link(words, i))]
    if len(verb_places) > 1:  # a second verb determines the tense
        found += [(i, new) for i in verb_places for new in tenses[words[i]]]
    owner = next((i for i, w in enumerate(words) if w in ("her", "his")), None)
    if owner is not None:
        found.append((owner, "his" if words[owner] == "her" else "her"))
    return found


def is_link(words: list[str], i: int) -> bool:
    """Whether this "that" is a conjunction after a verb of thinking, not a determiner."""
    return any(words[i - 1] in forms for forms in lx.THINK)


def test_parser_rejects_broken_agreement():
    rng = random.Random(0)
    rejected, kinds = [], Counter()
    for sentence in SENTENCES:
        words = stories._split(sentence)
        options = broken(words)
        if not options:
            continue
        place, new = rng.choice(options)
        kinds[new] += 1
        changed = _join([*words[:place], new, *words[place + 1 :]])
        rejected.append(not parses(changed))
    assert len(rejected) > 1500
    assert len(kinds) > 80
    assert sum(rejected) / len(rejected) >= 0.99


def test_parser_rejects_shuffled_sentences():
    rng, rejected = random.Random(0), []
    for sentence in SENTENCES:
        words = stories._split(sentence)[:-1]
        shuffled = rng.sample(words, len(words))
        if shuffled != words:
            rejected.append(not parses(_join([*shuffled, "."])))
    assert sum(rejected) / len(rejected) >= 0.99


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "Anna",
        "anna sings.",
        "Anna and the baker sings.",
        "One day, Anna has a egg near the mill.",
        "\u00e9.",
        "a" * 999,
    ],
)
def test_parser_rejects_malformed_text(text):
    assert not parses(text)


def test_parser_checks_distant_agreement():
    good = "She thinks that the bakers with this red lamp are happy."
    assert parses(good)
    assert not parses(good.replace("are", "is"))
    assert parses("Ben washes himself near the mill and sings.")
    assert not parses("Ben washes herself near the mill and sings.")
    assert not parses("Ben washes himself near the mill and sang.")
    assert parses("Anna has her egg, but the tailors have a lamp.")
    assert not parses("Anna has his egg, but the tailors have a lamp.")
