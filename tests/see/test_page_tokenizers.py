"""The page's tokenizers give the ids and texts of the Python tokenizers."""

import functools
import random
from typing import Any

import pytest
from helpers import published
from helpers.browser import opened
from helpers.hostile_texts import hostile_texts
from helpers.page_tokenizers import CORPUS, TOKENIZERS, byte_level_with, clip, llama2, run_node, split_by
from helpers.pages import shown
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scratch_gpt.errors import ScratchError
from scratch_gpt.see.page import page_html, write_page
from scratch_gpt.see.payload import payload_of
from scratch_gpt.see.tokenizers import tokenizer_payload
from scratch_gpt.tokenization.training import train_tokenizer

NUM_TEXTS = 500
LOAD = """
const { loadTokenizer } = await import("#see/tokenization/tokenizer.js");
const tokenizer = loadTokenizer(input.payload);
"""
READ = f"""
import {{ readFileSync }} from "node:fs";
const input = JSON.parse(readFileSync(0, "utf-8"));
{LOAD}
"""
RESULTS = """{
  ids: input.texts.map((text) => tokenizer.encode(text)),
  bare: input.texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false })),
  skipped: input.sequences.map((ids) => tokenizer.decode(ids)),
  whole: input.sequences.map((ids) => tokenizer.decode(ids, { skipSpecialTokens: false })),
}"""
COMPARE = f"console.log(JSON.stringify({RESULTS}));"
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


@functools.cache
def case_of(kind: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """A tokenizer with texts and token ids, and what Python makes of them."""
    tokenizer = TOKENIZERS[kind]()
    names = tuple(token.content for token in tokenizer.added_tokens_decoder.values())
    texts = hostile_texts(NUM_TEXTS, seed=7, names=names[:40], letters="abdeghilmnorstuwy ")
    expected: dict[str, list[Any]] = {"ids": [tokenizer(text)["input_ids"] for text in texts]}
    expected["bare"] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    sequences = [*expected["ids"], *random_sequences(tokenizer, seed=8)]
    expected["skipped"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in sequences]
    expected["whole"] = [tokenizer.decode(ids, skip_special_tokens=False) for ids in sequences]
    return {"payload": tokenizer_payload(tokenizer), "texts": texts, "sequences": sequences}, expected


def check(kind: str, found: dict[str, list[Any]]) -> None:
    """Compare what JavaScript has found with Python."""
    data, expected = case_of(kind)
    for name, values in expected.items():
        inputs = data["texts"] if name in ("ids", "bare") else data["sequences"]
        wrong = [case for case in zip(inputs, found[name], values, strict=True) if case[1] != case[2]]
        assert not wrong, f"{name}: {len(wrong)} differ, first {wrong[0]}"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_and_texts_are_those_of_python(kind: str) -> None:
    check(kind, run_node(READ + COMPARE, case_of(kind)[0]))


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A page of any model, open in a browser: its code is what is tested."""
    path = tmp_path_factory.mktemp("page") / "see.html"
    write_page(path, page_html([payload_of(*shown("bigram"), "tiny", "float16")], "a"))
    with opened(browser, path) as opened_page:
        yield opened_page.page


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_and_texts_in_a_browser_are_those_of_python(kind: str, page: Any) -> None:
    check(kind, page.evaluate(f"async (input) => {{ {LOAD} return {RESULTS}; }}", case_of(kind)[0]))


def test_an_unpaired_surrogate_is_the_replacement_character() -> None:
    tokenizer = train_tokenizer(CORPUS, "bpe", 400)
    with pytest.raises(TypeError):  # Python has no answer to compare with
        tokenizer("a\ud800b")
    data = {"payload": tokenizer_payload(tokenizer), "texts": ["a\ud800b", "\udc00"], "sequences": []}
    assert run_node(READ + COMPARE, data)["ids"] == [tokenizer(text)["input_ids"] for text in ("a\ufffdb", "\ufffd")]


@pytest.mark.parametrize(
    ("tokenizer", "texts"),
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
    tokenizer: PreTrainedTokenizerFast, texts: dict[str, str]
) -> None:
    found = run_node(READ + SHOW, {"payload": tokenizer_payload(tokenizer), "tokens": list(texts)})
    assert found["texts"] == list(texts.values())
    for token, text, data, special in zip(texts, found["texts"], found["bytes"], found["special"], strict=True):
        assert special == (token in tokenizer.all_special_tokens)
        assert data == (None if special else [0xC3] if "C3" in text else list(text.removeprefix("##").encode()))
    assert found["size"] == len(tokenizer)
    assert found["none"] == ["", None, None]


@pytest.mark.parametrize(
    "kind", ["bpe-causal", "unigram-causal", "word-causal", "bert", "llama", "qwen2", "gemma", "added-tokens"]
)
def test_encoding_ten_thousand_characters_takes_a_few_milliseconds(kind: str) -> None:
    prose = " ".join(CORPUS)[:10_000]
    texts = [prose, prose.replace(" ", ""), "a" * 10_000, " " * 10_000, "猫" * 10_000, "the " * 2_500]
    texts += [" " * 10_000 + "x<LR>x", "<LR> " * 2_000]
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
    'prepend scheme "first" after Replace': lambda: _with(
        normalizer=normalizers.Replace("x", ""), pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first")
    ),
    'prepend scheme "first" after WhitespaceSplit': lambda: _with(
        pre_tokenizer=pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
        )
    ),
    "CLIPTokenizer has a method decode": clip,
    "id 1000000": lambda: _with(model=models.WordLevel({"<unk>": 0, "a": 1_000_000}, unk_token="<unk>")),
    "unknown text 'x'": lambda: _with(model=models.WordPiece({"<unk>": 0, "a": 1}, unk_token="x")),
    "unknown text 'y'": lambda: _with(model=models.WordLevel({"<unk>": 0, "a": 1}, unk_token="y")),
    "unknown text 'z'": lambda: _with(model=models.BPE({"<unk>": 0, "a": 1}, [], unk_token="z")),
    "unknown text None": lambda: _with(model=models.Unigram([("<unk>", 0.0), ("a", -1.0)])),
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
