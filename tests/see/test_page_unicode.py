"""Normalizers and pre-tokenizers of the page treat each character as `tokenizers` does.

`tokenizers` and its libraries know older versions of Unicode than browsers do; `newer_characters.js` lists what
differs. Its regular expressions (Oniguruma) know Unicode 16; characters that are newer still are not compared here.
"""

import json
import unicodedata
from typing import Any

from helpers.newer_characters import CODE_POINTS
from helpers.page_tokenizers import run_node
from tokenizers import Regex, normalizers, pre_tokenizers

from scratch_gpt.see.tokenizers import check_step

# Thousands of characters that differ in nothing: of them, each hundredth is compared.
ALIKE = [(0x3400, 0xA48C), (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0x12000, 0x12399), (0x13000, 0x1342E)]
ALIKE += [(0x14400, 0x14646), (0x17000, 0x18CD5), (0x1B000, 0x1B2FB), (0x1D800, 0x1DA8B), (0x20000, 0x3FFFF)]
CHANGED = {0x295}  # a lower-case letter up to Unicode 16, another one since
REGEXES = [r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Lu}", r"\p{Lo}", r"\s", r"\w", r"\D", r"\p{Han}", "."]
OFF = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
STEPS: dict[str, Any] = {
    **{"NFC": normalizers.NFC(), "NFD": normalizers.NFD(), "NFKC": normalizers.NFKC(), "NFKD": normalizers.NFKD()},
    **{"Nmt": normalizers.Nmt(), "Lowercase": normalizers.Lowercase(), "StripAccents": normalizers.StripAccents()},
    **{name: normalizers.BertNormalizer(**{**OFF, name: True}) for name in OFF},
    "Punctuation": pre_tokenizers.Punctuation("removed"),
    "BertPreTokenizer": pre_tokenizers.BertPreTokenizer(),
    "Digits": pre_tokenizers.Digits(True),
    "Whitespace": pre_tokenizers.Whitespace(),
    "WhitespaceSplit": pre_tokenizers.WhitespaceSplit(),
    **{regex: pre_tokenizers.Split(Regex(regex), "removed") for regex in REGEXES},
}
# Characters that a step changes, and what "a", the character and "b" become.
SCRIPT = """
import { readFileSync } from "node:fs";
const { buildNormalizer } = await import("#see/tokenization/normalizers.js");
const { preTokenize } = await import("#see/tokenization/pre_tokenizers.js");
const { configs, codePoints } = JSON.parse(readFileSync(0, "utf-8"));
const changes = ({ normalizer, pre_tokenizer: preTokenizer }) => {
  const normalize = buildNormalizer(normalizer ?? null);
  const pieces = (text) => preTokenize([{ text, id: null, isFirst: true }], preTokenizer ?? null);
  const result = (text) => pieces(normalize(text)).map((piece) => piece.text).join("|");
  const results = codePoints.map((codePoint) => [codePoint, result(`a${String.fromCodePoint(codePoint)}b`)]);
  return results.filter(([codePoint, found]) => found !== `a${String.fromCodePoint(codePoint)}b`);
};
console.log(JSON.stringify(configs.map(changes)));
"""


def python_changes(step: Any, code_points: list[int]) -> dict[int, str]:
    """Characters that a step changes, and what "a", the character and "b" become."""
    texts = {code: f"a{chr(code)}b" for code in code_points}
    if isinstance(step, normalizers.Normalizer):
        results = {code: step.normalize_str(text) for code, text in texts.items()}
    else:
        results = {code: "|".join(piece for piece, _ in step.pre_tokenize_str(text)) for code, text in texts.items()}
    return {code: result for code, result in results.items() if result != texts[code]}


def config_of(step: Any) -> dict[str, Any]:
    """A step as the page reads it."""
    name = "normalizer" if isinstance(step, normalizers.Normalizer) else "pre_tokenizer"
    return {name: check_step(json.loads(step.__getstate__()), name)}


def test_each_character_is_treated_as_in_python() -> None:
    left_out = CHANGED | {code for first, last in ALIKE for code in range(first, last) if code % 100}
    assigned = [code for code in CODE_POINTS if unicodedata.category(chr(code)) != "Cn" and code not in left_out]
    assert len(assigned) > 25_000
    found = run_node(SCRIPT, {"configs": [config_of(step) for step in STEPS.values()], "codePoints": assigned})
    for (name, step), changes in zip(STEPS.items(), found, strict=True):
        expected, on_page = python_changes(step, assigned), dict(map(tuple, changes))
        wrong = [code for code in assigned if expected.get(code) != on_page.get(code)]
        assert not wrong, f"{name}: {len(wrong)} differ, first U+{wrong[0]:X}"
