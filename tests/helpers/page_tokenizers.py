"""Tokenizers of every kind that the page runs, and Node, which runs the page's."""

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer, sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTokenizer,
    GemmaTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)

import scratch_gpt.see
from helpers import published
from helpers.texts import various_texts
from scratch_gpt.tokenization.training import train_tokenizer

WEB = Path(scratch_gpt.see.__file__).parent / "web"
GPT4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# GPT-4o's, of which Llama 4 has the same, and DeepSeek V3's, which is applied in three steps.
GPT4O_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [*published.TEXTS, *various_texts(150, seed=5)]


def run_node(script: str, data: Any) -> Any:
    """Run JavaScript beside the page's files; `data` is what it reads, and what it prints is returned, both as JSON."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    command = [node, "--input-type=module", "--eval", script]
    done = subprocess.run(command, cwd=WEB, input=json.dumps(data), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def byte_level_with(*steps: Any, normalizer: Any = None, **options: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE, with other pre-tokenizers before its own."""
    tokenizer = train_tokenizer(CORPUS, "bpe", 500)
    backend = tokenizer.backend_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(False, use_regex=not options)])
    if options.get("ignore_merges"):
        parts = json.loads(backend.to_str())
        parts["model"]["ignore_merges"] = True
        unmerged = ("'LL", "IT", "ĠIT", "'S", "not", "Ġnot")
        parts["model"]["vocab"] |= {word: 500 + i for i, word in enumerate(unmerged)}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)))
    return tokenizer


def split_by(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    """A pre-tokenizer that splits by a regular expression."""
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def deepseek() -> PreTrainedTokenizerFast:
    """As of DeepSeek V3."""
    return byte_level_with(split_by(r"\p{N}{1,3}"), split_by("[一-龥぀-ゟ゠-ヿ]+"), split_by(DEEPSEEK_WORDS), plain=True)


def falcon() -> PreTrainedTokenizerFast:
    """As of Falcon; with the setting `clean_up_tokenization_spaces`, which transformers ignores for BPE."""
    digits = [pre_tokenizers.Digits(False), split_by("[0-9][0-9][0-9]")]
    tokenizer = byte_level_with(pre_tokenizers.Punctuation("contiguous"), *digits)
    tokenizer.clean_up_tokenization_spaces = True
    return tokenizer


def gemma() -> PreTrainedTokenizerFast:
    """As of Gemma: spaces become marks before the text is split."""
    vocabulary, merges = published.byte_fallback()
    return GemmaTokenizer(vocab={"<pad>": 330, "<eos>": 331, "<bos>": 332, **vocabulary}, merges=merges)


def llama2() -> PreTrainedTokenizerFast:
    """As in the tokenizer.json of Llama 2 and Mistral 7B."""
    vocabulary, merges = published.byte_fallback()
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return published.with_template(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"), "<s> $A", "<s>")


def unknown_bpe(fuse: bool) -> PreTrainedTokenizerFast:
    """A BPE with an unknown token, of which some bytes have tokens."""
    vocabulary, merges = published.byte_fallback()
    kept = {token: number for token, number in vocabulary.items() if not token.startswith(("<0xC", "<0xE"))}
    backend = Tokenizer(models.BPE(kept, merges, unk_token="<unk>", fuse_unk=fuse, byte_fallback=fuse))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def suffixed() -> PreTrainedTokenizerFast:
    """As of the first GPT: the last token of a word ends with "</w>"; tokens inside a word start with "@"."""
    letters = sorted(set(published.SENTENCE) - {" "})
    tokens = ["<unk>", *letters, *(f"@{letter}" for letter in letters), *(f"{letter}</w>" for letter in letters)]
    tokens += [*(f"@{letter}</w>" for letter in letters), "th", "the</w>", "@at</w>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [("t", "@h"), ("th", "@e</w>"), ("@a", "@t</w>")]
    options = {"unk_token": "<unk>", "continuing_subword_prefix": "@", "end_of_word_suffix": "</w>"}
    backend = Tokenizer(models.BPE(vocabulary, merges, **options))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder("</w>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def clip() -> PreTrainedTokenizerFast:
    """CLIP's, which decodes in Python."""
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    return CLIPTokenizer(vocab=vocabulary, merges=[])


def sentencepiece_model(scheme: str) -> PreTrainedTokenizerFast:
    """As of T5, mBART and XLM-R: a model of SentencePiece with its normalizer."""
    model = io.BytesIO()
    texts = [text.replace("\n", " ") for text in CORPUS]
    settings = {"vocab_size": 300, "hard_vocab_limit": False, "normalization_rule_name": "nmt_nfkc", "num_threads": 1}
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, minloglevel=2, character_coverage=0.98, **settings
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    charsmap = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    backend.normalizer = normalizers.Sequence([charsmap, normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    return published.with_template(tokenizer, "$A </s>", "</s>")


def t5() -> PreTrainedTokenizerFast:
    """As transformers builds that of T5 without its tokenizer.json."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(f"▁{word}", -4.5 - i / 8) for i, word in enumerate(dict.fromkeys(published.WORDS)) if len(word) > 1]
    letters = [(letter, -6.0 - i / 16) for i, letter in enumerate(sorted(set(published.SENTENCE) - {" "}))]
    return T5Tokenizer(vocab=[*pieces, *words, *letters], extra_ids=5)


def byte_unigram() -> PreTrainedTokenizerFast:
    """A unigram with byte fallback, which strips and lowers texts."""
    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -12.0) for byte in range(256)), ("▁", -2.5), ("e", -3.0)]
    pieces += [(f"▁{word}", -4.5) for word in dict.fromkeys(published.WORDS)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    steps = [normalizers.Nmt(), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    steps = [decoders.Strip("e", 0, 1), decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]
    backend.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def cased_bert(cleanup: bool = False) -> PreTrainedTokenizerFast:
    """As of cased BERT, with words of at most 12 characters; spaces are cleaned up by `tokenizers` or transformers."""
    vocabulary = published.bert_tokenizer().get_vocab()
    vocabulary = {**vocabulary, "É": len(vocabulary), "##é": len(vocabulary) + 1, "n": 5, "'": len(vocabulary) + 2}
    vocabulary |= {mark: len(vocabulary) + i for i, mark in enumerate(".,!?s")}
    vocabulary |= {"we do not": 0, "n't": 0, "'s": 0, " ' ": 0}
    vocabulary = {token: number for number, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=12))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False, handle_chinese_chars=True, clean_text=True)
    steps = [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("removed")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.WordPiece(cleanup=cleanup)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", clean_up_tokenization_spaces=not cleanup
    )


def added_tokens() -> PreTrainedTokenizerFast:
    """Lower-cased text in which added tokens of all sorts are found."""
    tokenizer = byte_level_with(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]))
    options = {"<L>": {"lstrip": True}, "<R>": {"rstrip": True}, "<LR>": {"lstrip": True, "rstrip": True}}
    options |= {"cat": {"single_word": True}, "Anna": {"normalized": True}, "<Lo": {}, "<LO>": {"normalized": True}}
    options |= {"<L><": {}, "<Loo": {"special": True}, "Ann": {"normalized": True}}
    options |= {"é": {"normalized": True}, " two": {"single_word": True, "normalized": True}}
    for special in (False, True):
        some = {name: fields for i, (name, fields) in enumerate(options.items()) if i % 2 == special}
        tokens = [AddedToken(name, **{"normalized": False, **fields}) for name, fields in some.items()]
        tokenizer.add_tokens(tokens, special_tokens=special)
    return tokenizer


def splitting() -> PreTrainedTokenizerFast:
    """Words, split in the less usual ways; special tokens in a text are split, too."""
    words = [*published.WORDS, "[UNK]", ".", ",", "t", "e", " ", "12", "1"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    steps = [split_by(r"[aeiou]+", "merged_with_previous"), split_by(r"(?<=t)(?=h)|,", "merged_with_next")]
    steps += [split_by(r"\d++|[^\W_]*?'", "contiguous"), split_by(r"\p{Lu}", "isolated", invert=True)]
    steps += [pre_tokenizers.CharDelimiterSplit("n"), pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(True)]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.FixedLength(3)])
    backend.decoder = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", split_special_tokens=True)
    tokenizer.backend_tokenizer.post_processor = processors.BertProcessing(("[UNK]", 20), ("the", 0))
    return tokenizer


def trained(kind: str, template: str) -> Callable[[], PreTrainedTokenizerFast]:
    """A tokenizer that this package trains."""
    size = {"bpe": 400, "word": 80}.get(kind)
    return lambda: train_tokenizer(CORPUS, kind, size, template)  # type: ignore[arg-type]


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    **{
        f"{kind}-{template}": trained(kind, template)
        for kind in ("char", "word", "bpe", "unigram")
        for template in ("causal", "seq2seq", "encoder")
    },
    "gpt2": published.gpt2_tokenizer,
    "llama": published.llama_tokenizer,
    "llama2": llama2,
    "llama3": published.llama3_tokenizer,
    "llama3-words": lambda: byte_level_with(split_by(GPT4_WORDS), ignore_merges=True),
    "gpt4o": lambda: byte_level_with(split_by(GPT4O_WORDS), plain=True),
    "qwen2": published.qwen2_tokenizer,
    "deepseek": deepseek,
    "falcon": falcon,
    "starcoder": lambda: byte_level_with(pre_tokenizers.Digits(True)),
    "gemma": gemma,
    "unknown-fused": lambda: unknown_bpe(True),
    "unknown": lambda: unknown_bpe(False),
    "suffixed": suffixed,
    "sentencepiece-always": lambda: sentencepiece_model("always"),
    "sentencepiece-first": lambda: sentencepiece_model("first"),
    "bert": published.bert_tokenizer,
    "bert-cased": cased_bert,
    "bert-cleaned": lambda: cased_bert(cleanup=True),
    "roberta": published.roberta_tokenizer,
    "xlm-roberta": published.xlm_roberta_tokenizer,
    "mbart": lambda: published.mbart_tokenizer(MBartTokenizer, published.WORDS),
    "mbart50": lambda: published.mbart_tokenizer(MBart50Tokenizer, published.WORDS),
    "t5": t5,
    "unigram-bytes": byte_unigram,
    "added-tokens": added_tokens,
    "splitting": splitting,
}
