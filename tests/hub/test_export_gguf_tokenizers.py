"""Tokenizers of published families in GGUF files: llama.cpp gives the same token ids."""

import io
import json
import re

import pytest
import sentencepiece
import torch
from helpers.models import tiny_model
from helpers.texts import various_texts
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.engines.export import Source
from scratch_gpt.hub.engines.gguf import GGUF
from scratch_gpt.hub.engines.gguf_tokenizer import BYTE_TOKEN, SPACE_MARK, read_vocabulary
from scratch_gpt.hub.engines.llama_cpp import running_llama_cpp, same_split
from scratch_gpt.hub.loading import Tokenizers

TEXTS = various_texts(200, seed=1)
TEXTS += [
    "I'LL WE'VE don'T",
    "123456789012 ٣٤٥٦ ½¾①②",
    "x\r\n\r\ny",
    "a\n\n  c \n",
    "\t\tif x:\n\t\t\treturn",
    "é̂",
    "!!!\n\n",
]
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

# The regular expressions in the tokenizer.json of Qwen2.5, and of Llama 3 and OLMo 2.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4 = QWEN2.replace(r"\p{N}| ?[", r"\p{N}{1,3}| ?[")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTE_LEVEL = {  # the name in llama.cpp, the pre-tokenizer, and whether whole words are taken from the vocabulary
    "gpt-2": (GPT2, False),
    "starcoder": (pre_tokenizers.Sequence([pre_tokenizers.Digits(True), GPT2]), False),
    "qwen2": (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), BYTES]), False),
    "dbrx": (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"), BYTES]), False),
    "llama-bpe": (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"), BYTES]), True),
}


def byte_level(name: str, unmerged: str = "Anna") -> PreTrainedTokenizerFast:
    """A byte-level BPE with one of the pre-tokenizers, trained with GPT-2's, so that it has merges of digits that the
    others split, and with a word in the vocabulary that no merges lead to."""
    pre_tokenizer, whole_words = BYTE_LEVEL[name]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = GPT2, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    backend.train_from_iterator(TEXTS[:100], trainer)
    backend.pre_tokenizer = pre_tokenizer
    content = json.loads(backend.to_str())
    model = content["model"]
    model["ignore_merges"] = whole_words
    model["merges"] = [merge for merge in model["merges"] if unmerged not in "".join(merge)]
    model["vocab"].setdefault(unmerged, len(model["vocab"]))
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), **SPECIAL)


def byte_fallback(prefix: bool) -> PreTrainedTokenizerFast:
    """A BPE that SentencePiece trained, as a tokenizer like that of Llama 2 (with a prefix) or Gemma."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        **{"sentence_iterator": iter(TEXTS[:100]), "model_writer": written, "model_type": "bpe", "vocab_size": 700},
        **{"byte_fallback": True, "character_coverage": 0.98, "normalization_rule_name": "identity", "pad_id": 3},
        **{"add_dummy_prefix": prefix, "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True},
        **{"user_defined_symbols": ["\n", "\n\n"], "minloglevel": 2},
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    vocab = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    merges = [
        (token[:i], token[i:])
        for token, number in vocab.items()
        if not (model.is_control(number) or model.is_byte(number) or model.is_unknown(number))
        for i in range(1, len(token))
        if token[:i] in vocab and token[i:] in vocab
    ]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    marks = normalizers.Replace(" ", SPACE_MARK)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE_MARK), marks]) if prefix else marks
    backend.pre_tokenizer = None if prefix else pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL.values()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def different_ids(tokenizer, folder) -> list[str]:
    """The texts that llama.cpp splits into other tokens."""
    model = tiny_model("llama", vocab_size=len(tokenizer))
    source = Source("runs/tiny", model, Tokenizers(tokenizer, tokenizer))
    with torch.inference_mode():
        GGUF.check(source)
        GGUF.write(source, folder, "f32")
    with running_llama_cpp(folder / "model-f32.gguf", 64) as server:
        return [text for text in TEXTS if server.encode(text) != tokenizer(text)["input_ids"]]


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_pre_tokenizers_of_llama_cpp(name, tmp_path):
    tokenizer = byte_level(name)
    assert read_vocabulary(tokenizer).options == {"tokenizer.ggml.pre": name}
    assert (len(tokenizer("Anna")["input_ids"]) == 1) == (name == "llama-bpe")
    assert different_ids(tokenizer, tmp_path) == []


@pytest.mark.parametrize("prefix", [True, False])
def test_byte_fallback(prefix, tmp_path):
    tokenizer = byte_fallback(prefix)
    tokens = [token for text in TEXTS for token in tokenizer.tokenize(text)]
    assert any(BYTE_TOKEN.fullmatch(token) for token in tokens)
    assert different_ids(tokenizer, tmp_path) == []


def test_texts_are_not_normalized(tmp_path):
    """The tokenizers of Qwen2 and Pythia compose characters (NFC), llama.cpp does not: this is the only difference."""
    tokenizer = byte_level("qwen2")
    expected = [tokenizer(text)["input_ids"] for text in TEXTS]
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    changed = [text for text, ids in zip(TEXTS, expected, strict=True) if tokenizer(text)["input_ids"] != ids]
    assert changed
    assert different_ids(tokenizer, tmp_path) == changed


def test_the_order_of_the_same_unigram_tokens_is_a_tie():
    """Training a tokenizer is not deterministic, and some have such words."""
    vocab = [("<unk>", 0.0), ("n", -1.0), ("nn", -1.5), ("a", -1.0)]
    backend = Tokenizer(models.Unigram(vocab, unk_id=0))
    backend.decoder = decoders.Fuse()
    unigram = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert same_split([1, 2], [2, 1], unigram)
    assert not same_split([1, 3], [3, 1], unigram)  # another text
    assert not same_split([1, 1, 1], [1, 2], unigram)
    backend.model = models.BPE({"<unk>": 0, "n": 1, "nn": 2}, [("n", "n")])
    assert not same_split([1, 2], [2, 1], PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))


def test_other_parts_are_refused_by_name():
    tokenizer = byte_level("qwen2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2.replace("[^", "[^#")), "isolated"), BYTES]
    )
    with pytest.raises(ScratchError, match="found normalizer None, pre-tokenizer Split, ByteLevel"):
        read_vocabulary(tokenizer)
    content = json.loads(byte_level("qwen2").backend_tokenizer.to_str())
    content["model"]["ignore_merges"] = True
    with pytest.raises(ScratchError, match="pre-tokenizer Split, ByteLevel, ignore_merges"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content))))


def test_merges_without_an_order_of_tokens_are_refused():
    """llama.cpp merges whatever is a token, by the scores of the tokens: other merges can't be written."""
    content = json.loads(byte_fallback(False).backend_tokenizer.to_str())
    merges = content["model"]["merges"]
    several = next(i for i in range(1, len(merges)) if "".join(merges[i]) == "".join(merges[i - 1]))
    for changed, message in (
        (merges[:several] + merges[several + 1 :], "which is no merge"),
        ([merges[several], *merges[:several], *merges[several + 1 :]], "do not stand together"),
    ):
        content["model"]["merges"] = changed
        with pytest.raises(ScratchError, match=message):
            read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content))))
    content["model"]["merges"], content["normalizer"] = merges, {"type": "NFKC"}
    with pytest.raises(ScratchError, match=re.escape("found normalizer NFKC, pre-tokenizer Split")):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content))))
