"""Tokenizers with language codes: pairs are encoded as the tokenizer itself does, and translations start with the code
of their language."""

import copy

import pytest
import torch
from helpers.native import native_with
from helpers.published import mbart_tokenizer
from transformers import AutoTokenizer, MBart50Tokenizer, MBartTokenizer

from scratch_gpt import import_native, train_tokenizer
from scratch_gpt.data.batching.encoding import encode_pairs
from scratch_gpt.errors import ScratchError
from scratch_gpt.tokenization.language_codes import (
    has_language_codes,
    language_code,
    set_language_codes,
    start_with_language,
)

PAIRS = [("der Hund bellt", "the dog barks"), ("der Hund", "the dog")]
WORDS = " ".join(text for pair in PAIRS for text in pair).split()
EXPECTED = {
    MBart50Tokenizer: ("de_DE ▁der ▁Hund </s>", "en_XX ▁the ▁dog </s>"),
    MBartTokenizer: ("▁der ▁Hund </s> de_DE", "▁the ▁dog </s> en_XX"),
}
CLASSES = pytest.mark.parametrize("tokenizer_class", EXPECTED, ids=lambda each: each.__name__)


@CLASSES
def test_pairs_are_encoded_as_the_tokenizer_encodes_them(tokenizer_class):
    theirs, ours = (mbart_tokenizer(tokenizer_class, WORDS) for _ in range(2))
    theirs.src_lang, theirs.tgt_lang = "de_DE", "en_XX"
    set_language_codes(ours, "de", "en_XX")
    encoded = encode_pairs(iter(PAIRS), ours, ours, 16, skip_long=False)
    for number, (source, target) in enumerate(PAIRS):
        row = theirs(source, text_target=target)
        assert encoded.source[number].tolist() == row["input_ids"]
        assert encoded.target[number].tolist() == row["labels"]
    shown = tuple(" ".join(ours.convert_ids_to_tokens(side[1])) for side in (encoded.source, encoded.target))
    assert shown == EXPECTED[tokenizer_class]
    cut = encode_pairs(iter(PAIRS), ours, ours, 4, skip_long=False)
    assert (cut.num_too_long, len(cut.target[0])) == (1, 4)
    assert {ours.eos_token_id, language_code_id(ours, "en")} < set(cut.target[0].tolist())


def language_code_id(tokenizer, language: str) -> int:
    """The id of the code of a language."""
    return tokenizer.convert_tokens_to_ids(language_code(tokenizer, language))


@CLASSES
def test_the_codes_are_saved(tokenizer_class, tmp_path):
    tokenizer = mbart_tokenizer(tokenizer_class, WORDS)
    set_language_codes(tokenizer, "de", "ro")
    tokenizer.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert (opened.src_lang, opened.tgt_lang) == ("de_DE", "ro_RO")
    assert opened("der Hund").input_ids == tokenizer("der Hund").input_ids


@CLASSES
def test_loss_and_translations_are_those_of_transformers(tokenizer_class):
    tokenizer = mbart_tokenizer(tokenizer_class, WORDS)
    set_language_codes(tokenizer, "de", "en")
    code = language_code_id(tokenizer, "en")
    native = native_with("mbart", vocab_size=len(tokenizer)).eval()
    native.generation_config.update(max_new_tokens=5, decoder_start_token_id=tokenizer.eos_token_id, eos_token_id=2)
    ours = import_native(copy.deepcopy(native)).eval()
    start_with_language(ours, tokenizer)
    batch = tokenizer(PAIRS[0][0], text_target=PAIRS[0][1], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(ours(**batch).loss, native(**batch).loss, atol=1e-5, rtol=0)
        # As transformers' documentation of the two models generates.
        name = "forced_bos_token_id" if tokenizer_class is MBart50Tokenizer else "decoder_start_token_id"
        expected = native.generate(batch.input_ids, **{name: code})
        assert torch.equal(ours.generate(batch.input_ids), expected)
        assert code in expected[0, :2]


def test_a_language_without_a_code_is_an_error():
    tokenizer = mbart_tokenizer(MBartTokenizer, WORDS)
    with pytest.raises(ScratchError, match="no code for the language 'da': choose one of ar_AR, cs_CZ, de_DE"):
        set_language_codes(tokenizer, "de", "da")
    assert not has_language_codes(train_tokenizer(WORDS, "char"))
