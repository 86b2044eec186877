"""Write `newer_characters.js`: characters that `tokenizers` does not know yet, but Node does, and the reverse.

Run it after an update of `tokenizers` or Node: `PYTHONPATH=tests python -m helpers.newer_characters`.
"""

import textwrap
from collections.abc import Callable

from tokenizers import normalizers, pre_tokenizers

from helpers.page_tokenizers import WEB, run_node

FILE = WEB / "tokenization" / "newer_characters.js"
PLANES = [*range(0x40000), *range(0xE0000, 0xE0200), *range(0xF0000, 0xF0010)]
CODE_POINTS = [code_point for code_point in PLANES if not 0xD800 <= code_point < 0xE000]
OF_NODE = """
import { readFileSync } from "node:fs";
const { expression, codePoints } = JSON.parse(readFileSync(0, "utf-8"));
const matches = new Function("character", `return ${expression}`);
console.log(JSON.stringify(codePoints.filter((codePoint) => matches(String.fromCodePoint(codePoint)))));
"""
HEADER = """\
/**
 * Characters that the Unicode Standard has added or changed since the versions that the library `tokenizers`
 * knows (8 to 16, by the part of it), as hexadecimal numbers. Browsers know them; for the same tokens, they
 * are treated as `tokenizers` does. Written by `PYTHONPATH=tests python -m helpers.newer_characters`.
 */

/** The inside of a set of a regular expression: "61d 1b4e-1b4f" becomes "\\u{61d}\\u{1b4e}-\\u{1b4f}". */
const set = (ranges) => ranges.replace(/[0-9a-f]+/g, "\\\\u{$&}").replace(/\\s/g, "");
"""


def _clean(**options: bool) -> normalizers.BertNormalizer:
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**off, **options})


def _differs(normalizer: normalizers.Normalizer) -> Callable[[str], bool]:
    return lambda text: normalizer.normalize_str(text) != text


def _removes(normalizer: normalizers.Normalizer) -> Callable[[str], bool]:
    return lambda text: normalizer.normalize_str(text) == ""


PUNCTUATION = pre_tokenizers.Punctuation("removed")
# What a set is, what Python says of a character, and what JavaScript's own property says.
SETS: dict[str, tuple[str, Callable[[str], bool], str]] = {
    "MARKS": ("marks that `StripAccents` keeps", _removes(normalizers.StripAccents()), r"/\p{M}/u.test(character)"),
    "NONSPACING_MARKS": (
        "marks that BERT keeps",
        _removes(_clean(strip_accents=True)),
        r"/\p{Mn}/u.test(character)",
    ),
    "PUNCTUATION": (
        "punctuation that is no separator",
        lambda text: not PUNCTUATION.pre_tokenize_str(text),
        r"/[!-\/:-@[-`{-~]|\p{P}/u.test(character)",
    ),
    "FORMATS": (
        "format characters that BERT keeps",
        _removes(_clean(clean_text=True)),
        r"/\ufffd|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/u.test(character)",
    ),
    "DECOMPOSED": (
        "characters that have no canonical decomposition",
        _differs(normalizers.NFD()),
        'character.normalize("NFD") !== character',
    ),
    "COMPATIBLE": (
        "characters that have no compatibility decomposition",
        _differs(normalizers.NFKC()),
        'character.normalize("NFKC") !== character',
    ),
}


def ranges(code_points: list[int]) -> str:
    """Numbers as hexadecimal ranges: "61d 1b4e-1b4f"."""
    parts: list[list[int]] = []
    for code_point in sorted(code_points):
        if parts and parts[-1][1] == code_point - 1:
            parts[-1][1] = code_point
        else:
            parts.append([code_point, code_point])
    return " ".join(f"{first:x}" if first == last else f"{first:x}-{last:x}" for first, last in parts)


def main() -> None:
    """Write the file."""
    text = HEADER
    for name, (meaning, python, expression) in SETS.items():
        of_python = {code_point for code_point in CODE_POINTS if python(chr(code_point))}
        of_node = set(run_node(OF_NODE, {"expression": expression, "codePoints": CODE_POINTS}))
        for label, code_points in (("NEWER", of_node - of_python), ("FORMER", of_python - of_node)):
            if code_points:
                lines = textwrap.fill(ranges(list(code_points)), 110, initial_indent="  ", subsequent_indent="  ")
                note = meaning if label == "NEWER" else f"not {name.lower().replace('_', ' ')} any more"
                text += f"\n/** {note[0].upper()}{note[1:]}. */\nexport const {label}_{name} = set(`\n{lines}\n`);\n"
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
