"""Texts on which tokenizers differ: accents, other scripts, emoji, code, and white space in unusual places."""

import random

PARTS = [
    *(
        "the lamp",
        "Anna",
        "two old mills",
        "She doesn't",
        "I'll",
        "we've",
        "WORLD",
        "e.g.",
        "x_1",
        "snake_case",
        "$9.99",
    ),
    *("Mädchen", "größer", "Straße", "ça va", "señor", "naïve", "œuvre", "Łódź", "İstanbul", "e\u0301te\u0301", "Å"),
    *("今天天气很好", "猫", "こんにちは", "カタカナ", "안녕하세요", "Привет", "мир", "Γειά", "שלום", "مرحبا", "नमस्ते"),
    *("🙂", "👍🏽", "👩‍👩‍👧", "🇩🇪", "™", "½", "ﬁ", "ＡＢ", "№", "①", "x²", "∑", "→", "—", "…", "„Ja“"),
    *(
        "def f(x):",
        "return x[0] ** 2",
        "{'a': 1}",
        "for (int i = 0; i < n; ++i)",
        "<div class='a'>",
        "a != b",
        "// ok",
        "%d\\n",
    ),
    *("0", "12", "1234567890", "3.14159", "1,000", "٣٤"),
]
SPACES = [" "] * 12 + ["  ", "   ", "\n", "\n\n", "\t", " \n ", "\u00a0", "\r\n", "", "\u3000"]


def various_texts(count: int, seed: int = 0) -> list[str]:
    """`count` different texts, a fifth of them with leading and a fifth with trailing spaces."""
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        pieces = [rng.choice(PARTS) + rng.choice(SPACES) for _ in range(rng.randint(1, 8))]
        text = rng.choice(["", "", "", "", " ", "  "]) + "".join(pieces).strip() + rng.choice(["", "", "", " ", "  "])
        if text.strip():
            texts[text] = None
    return list(texts)
