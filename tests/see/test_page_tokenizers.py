"""The page's tokenizers give the ids and texts of the Python tokenizers."""

import random
from typing import Any

import pytest
from helpers import published
from helpers.hostile_texts import hostile_texts
from helpers.page_tokenizers import CORPUS, TOKENIZERS, byte_level_with, clip, llama2, run_node, split_by
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scratch_gpt.errors import ScratchError
from scratch_gpt.see.tokenizers import tokenizer_payload
from scratch_gpt.tokenization.training import train_tokenizer

NUM_TEXTS = 500
READ = """
import { readFileSync } from "node:fs";
const { loadTokenizer } = await import("#see/tokenization/tokenizer.js");
const input = JSON.parse(readFileSync(0, "utf-8"));
const tokenizer = loadTokenizer(input.payload);
"""
COMPARE = """
const decodeAll = (skipSpecialTokens) => input.sequences.map((ids) => tokenizer.decode(ids, { skipSpecialTokens }));
console.log(JSON.stringify({
  ids: input.texts.map((text) => tokenizer.encode(text)),
  bare: input.texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false })),
  skipped: decodeAll(true),
  whole: decodeAll(false),
}));
"""
SHOW = """
const shown = input.tokens.map((token) => input.payload.model.vocab.indexOf(token));
console.log(JSON.stringify({
  texts: shown.map((id) => tokenizer.tokenText(id)),
  bytes: shown.map((id) => tokenizer.bytes(id)),
  special: shown.map((id) => tokenizer.isSpecial(id)),
  size: tokenizer.size,
  none: [tokenizer.tokenText(tokenizer.size), tokenizer.bytes(tokenizer.size), tokenizer.token(tokenizer.size) ?? null],
}));
"""
TIME = """
const times = input.texts.map((text) => {
  const start = performance.now();
  tokenizer.encode(text);
  return performance.now() - start;
});
console.log(JSON.stringify(times));
"""


def random_sequences(tokenizer: PreTrainedTokenizerFast, seed: int) -> list[list[int]]:
    """Ids in any order, also such that no token has."""
    rng = random.Random(seed)
    return [[rng.randrange(len(tokenizer) + 2) for _ in range(rng.randint(1, 12))] for _ in range(NUM_TEXTS)]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_and_texts_are_those_of_python(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    names = tuple(token.content for token in tokenizer.added_tokens_decoder.values())
    texts = hostile_texts(NUM_TEXTS, seed=7, names=names[:40], letters="abdeghilmnorstuwy ")
    expected: dict[str, list[Any]] = {"ids": [tokenizer(text)["input_ids"] for text in texts]}
    expected["bare"] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    sequences = [*expected["ids"], *random_sequences(tokenizer, seed=8)]
    expected["skipped"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in sequences]
    expected["whole"] = [tokenizer.decode(ids, skip_special_tokens=False) for ids in sequences]
    data = {"payload": tokenizer_payload(tokenizer), "texts": texts, "sequences": sequences}
    found = run_node(READ + COMPARE, data)
    for name, values in expected.items():
        inputs = texts if name in ("ids", "bare") else sequences
        wrong = [case for case in zip(inputs, found[name], values, strict=True) if case[1] != case[2]]
        assert not wrong, f"{name}: {len(wrong)} differ, first {wrong[0]}"


def test_an_unpaired_surrogate_is_the_replacement_character() -> None:
    tokenizer = train_tokenizer(CORPUS, "bpe", 400)
    with pytest.raises(TypeError):  # Python has no answer to compare with
        tokenizer("a\ud800b")
    data = {"payload": tokenizer_payload(tokenizer), "texts": ["a\ud800b", "\udc00"], "sequences": []}
    assert run_node(READ + COMPARE, data)["ids"] == [tokenizer(text)["input_ids"] for text in ("a\ufffdb", "\ufffd")]


@pytest.mark.parametrize(
    ("tokenizer", "shown"),
    [
        (
            published.gpt2_tokenizer(),
            {"Ġbirds": " birds", "Ċ": "\n", "Ã": r"\xC3", "a": "a", "<|endoftext|>": "<|endoftext|>"},
        ),
        (llama2(), {"the▁": "the ", "<0x41>": "A", "<0xC3>": r"\xC3", "<s>": "<s>", "▁": " "}),
        (published.bert_tokenizer(), {"the": "the", "##e": "##e", "[MASK]": "[MASK]"}),
        (train_tokenizer(CORPUS, "char"), {"a": "a", "猫": "猫", "\t": "\t", "<bos>": "<bos>"}),
    ],
    ids=["bytes", "marks", "wordpiece", "characters"],
)
def test_tokens_are_shown_as_the_text_that_they_stand_for(
    tokenizer: PreTrainedTokenizerFast, shown: dict[str, str]
) -> None:
    found = run_node(READ + SHOW, {"payload": tokenizer_payload(tokenizer), "tokens": list(shown)})
    assert found["texts"] == list(shown.values())
    for token, text, data, special in zip(shown, found["texts"], found["bytes"], found["special"], strict=True):
        assert special == (token in tokenizer.all_special_tokens)
        assert data == (None if special else [0xC3] if "C3" in text else list(text.removeprefix("##").encode()))
    assert found["size"] == len(tokenizer)
    assert found["none"] == ["", None, None]


@pytest.mark.parametrize("kind", ["bpe-causal", "unigram-causal", "word-causal", "bert", "llama", "qwen2", "gemma"])
def test_encoding_ten_thousand_characters_takes_a_few_milliseconds(kind: str) -> None:
    prose = " ".join(CORPUS)[:10_000]
    texts = [prose, prose.replace(" ", ""), "a" * 10_000, " " * 10_000, "猫" * 10_000, "the " * 2_500]
    times = run_node(READ + TIME, {"payload": tokenizer_payload(TOKENIZERS[kind]()), "texts": texts})
    assert max(times) < 500, times  # 10 to 40 ms on an idle machine; a quadratic algorithm takes seconds


def _with(**parts: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of words with other parts."""
    backend = Tokenizer(parts.pop("model", models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")))
    for name, part in parts.items():
        setattr(backend, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


REJECTED = {
    "UnicodeScripts": lambda: _with(pre_tokenizer=pre_tokenizers.UnicodeScripts()),
    "CTC": lambda: _with(decoder=decoders.CTC()),
    "dropout 0.1": lambda: _with(model=models.BPE({"<unk>": 0, "a": 1}, [], dropout=0.1, unk_token="<unk>")),
    "(?<x": lambda: _with(pre_tokenizer=split_by("(?<x>a)")),
    r"\b": lambda: _with(normalizer=normalizers.Replace(Regex(r"a\b"), "")),
    "pattern of its Replace is empty": lambda: _with(decoder=decoders.Replace("", "x")),
    'prepend scheme "first" after Strip': lambda: _with(
        normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Strip()]),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first"),
    ),
    'prepend scheme "first" after WhitespaceSplit': lambda: _with(
        pre_tokenizer=pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
        )
    ),
    "CLIPTokenizer has a method decode": clip,
    "id 1000000": lambda: _with(model=models.WordLevel({"<unk>": 0, "a": 1_000_000}, unk_token="<unk>")),
    "lacks its unknown token 'x'": lambda: _with(model=models.WordPiece({"<unk>": 0, "a": 1}, unk_token="x")),
}


@pytest.mark.parametrize("named", REJECTED)
def test_what_the_page_can_not_do_is_rejected_by_name(named: str) -> None:
    with pytest.raises(ScratchError, match="the page can't show this tokenizer") as error:
        tokenizer_payload(REJECTED[named]())
    assert named in str(error.value)


def test_a_tokenizer_with_a_part_in_python_is_rejected() -> None:
    class Letters:
        def pre_tokenize(self, text: Any) -> None:
            text.split(lambda _, piece: [piece])

    tokenizer = byte_level_with()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Letters())
    with pytest.raises(ScratchError, match="can't be described as JSON"):
        tokenizer_payload(tokenizer)
