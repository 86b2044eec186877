"""Texts that make tokenizers differ: scripts, marks, control characters, white space, names of special tokens, runs."""

import random
import unicodedata

from helpers.texts import PARTS, SPACES

CONTROLS = ["\0", "\x01", "\x0b", "\x0c", "\x1b", "\x7f", "\x85", "\xad", "\u200b", "\u200d", "\u2028", "\u2029"]
CONTROLS += ["\u2060", "\ufeff", "\ufffd", "\ue000", "\u202e", "\r", "\x1c", "\x1f"]
MARKS = ["e\u0301", "a\u0323\u0302", "\u0301", "q\u0307\u0323", "\u1100\u1161\u11a8", "각", "Å", "ñ", "ﬃ", "ſ", "K"]
WORDS = ["it's", "IT'S", "'ſ", "'LL", "don't", "do not", "n't", "Σίσυφος ΣΑΣ", "ǅ", "ß", "ẞ", "İ", "ı", "Ⅷ", "²", "½"]
WORDS += ["▁", "▁the", "Ġthe", "##ed", "<0x41>", "<0xZZ>", "a b", "#", "...", "!?", "\\n", "😀", "👨‍👩‍👧‍👦", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
RUNS = ["a", " ", "\n", "é", "猫", "👍", "0", ".", "\t", "the ", "'", "\u0301", "▁", "x\r\n"]


def hostile_texts(count: int, seed: int, names: tuple[str, ...] = (), letters: str = "") -> list[str]:
    """`count` texts; the first is empty.

    Args:
        count: number of texts.
        seed: seed of the random generator.
        names: names of tokens, some of which occur in the texts, also without their last letter.
        letters: letters of the words that the tokenizer was trained on.
    """
    rng = random.Random(seed)
    texts = [""]
    while len(texts) < count:
        parts = [_part(rng, names, letters) + rng.choice(["", "", *SPACES]) for _ in range(rng.randint(1, 8))]
        texts.append("".join(parts))
    return texts


def _part(rng: random.Random, names: tuple[str, ...], letters: str) -> str:
    choice = rng.randrange(13)
    if choice == 0:
        return rng.choice(RUNS) * rng.choice([2, 3, 5, 30, 150])
    if choice == 1:
        return "".join(_assigned(rng) for _ in range(rng.randint(1, 4)))
    if choice == 2:
        return "".join(chr(rng.randrange(0x20, 0x250)) for _ in range(rng.randint(1, 6)))
    if choice == 3 and names:
        name = rng.choice(names)
        pair = f"{name}{rng.choice(['', ' ', '  '])}{rng.choice(names)}"
        return rng.choice([name, name, pair, pair, name[:-1], name.upper(), f" {name} "])
    if choice in (4, 5) and letters:
        return "".join(rng.choice(letters) for _ in range(rng.randint(1, 12)))
    return rng.choice(rng.choice([CONTROLS, MARKS, WORDS, WORDS, PARTS, PARTS, PARTS]))


def _assigned(rng: random.Random) -> str:
    """A character of any script that Unicode has."""
    while True:
        code_point = rng.randrange(*rng.choice([(0x80, 0x3000), (0x80, 0x10000), (0x10000, 0x20000)]))
        character = chr(code_point)
        if unicodedata.category(character) not in ("Cs", "Cn"):
            return character
