"""Regular expressions of tokenizers find the same in JavaScript; those that would not are rejected."""

import json

import pytest
from helpers.hostile_texts import hostile_texts
from helpers.page_tokenizers import DEEPSEEK_WORDS, GPT4_WORDS, GPT4O_WORDS, run_node
from tokenizers import Regex, pre_tokenizers

from scratch_gpt.errors import ScratchError
from scratch_gpt.see.regular_expressions import to_javascript
from scratch_gpt.see.tokenizers import check_step

TRANSLATED = {
    GPT4_WORDS: None,
    GPT4O_WORDS: None,
    DEEPSEEK_WORDS: None,
    # Kimi K2's: an intersection of sets.
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+|\s+(?!\S)|\s+": None,
    r" ?[^(\s|[.,!?…。，、।۔،])]+": None,  # BLOOM's: a set inside a set
    r"[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}+?|\s++$|.": "{1,3}+",
    # The same in tiktoken, with possessive quantifiers.
    r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s": None,
    r"(?i)the|'ll|[a-z]x?": "range",
    r"(?i)the|'LL|kiss": "ligature",
    r"(?i:the|'LL|k[ab])+|\d{2,}|\D{3}": None,
    r"(?i:é)": "'é' without case",
    r"(?>a|ab)c|\h+\H|^.{3}$|\Aa|e\z|\S\Z": None,
    r"(?<=a)b|(?<!a)b|x(?#no)": "(?#n",
    r"(?<=a)b|(?<!a)t\t|[\t -~]+?": None,
    r"[\x41-\x{5A}\u00e9\-\]\[]+|[^\w-]|[-a]|\x2e": None,
    r"(?:a|b{0,2}){2,3}?|(c)*": None,
    r"[[:alpha:]]": "POSIX",
    r"(a)\1": "\\1",
    r"(?<name>a)": "(?<na",
    r"\bword\b": "\\b",
    r"\p{Emoji}": "\\p{Emoji}",
    r"\xC3": "\\xC3",
    r"a**": "two quantifiers",
    r"a{2}?": "{2}?",
    r"a{,2}": "{,2",
    r"*": "after nothing",
    r"(?!a)*": "after an assertion",
    r"(?m:.)": "(?m:",
    r"\R": "\\R",
    r"[]a]": "empty set",
    "(" * 5000 + ")" * 5000: "too many groups",
    "a" * 30_000: "30,000 characters",
}
SCRIPT = """
import { readFileSync } from "node:fs";
const { preTokenize } = await import("#see/tokenization/pre_tokenizers.js");
const { configs, texts } = JSON.parse(readFileSync(0, "utf-8"));
const pieces = (text, config) => preTokenize([{ text, id: null, isFirst: true }], config).map((piece) => piece.text);
console.log(JSON.stringify(configs.map((config) => texts.map((text) => pieces(text, config)))));
"""


def test_translated_expressions_find_what_oniguruma_finds() -> None:
    texts = hostile_texts(200, seed=11, letters="abctheks ĳ\t\n.-]09Fé")
    steps = [
        pre_tokenizers.Split(Regex(pattern), behavior, invert)
        for pattern, rejected in TRANSLATED.items()
        if rejected is None
        for behavior in ("isolated", "removed", "contiguous", "merged_with_previous", "merged_with_next")
        for invert in (False, True)
    ]
    configs = [check_step(json.loads(step.__getstate__()), "pre_tokenizer") for step in steps]
    found = run_node(SCRIPT, {"configs": configs, "texts": texts})
    for step, config, pieces_of_texts in zip(steps, configs, found, strict=True):
        for text, pieces in zip(texts, pieces_of_texts, strict=True):
            assert pieces == [piece for piece, _ in step.pre_tokenize_str(text)], (config, text)


@pytest.mark.parametrize(("pattern", "named"), [case for case in TRANSLATED.items() if case[1] is not None])
def test_what_javascript_lacks_is_rejected_by_name(pattern: str, named: str) -> None:
    with pytest.raises(ScratchError) as error:
        to_javascript(pattern)
    assert named in str(error.value)
    assert len(str(error.value)) < 1000
