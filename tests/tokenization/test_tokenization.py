"""Training of tokenizers: round trips, templates, saving, sizes, and bounded memory."""

import pytest
from helpers.processes import run_python
from transformers import AutoTokenizer

from scratch_gpt import train_tokenizer
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.errors import ScratchError
from scratch_gpt.tokenization.training import encode_batch

KINDS = {"char": None, "word": None, "bpe": 500, "unigram": 300}


@pytest.fixture(scope="module")
def texts():
    return list(stories(seed=0, count=200))


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, texts):
    return train_tokenizer(texts, request.param, KINDS[request.param])


def test_decoding_restores_the_text(tokenizer, texts):
    assert [tokenizer.decode(ids) for ids in encode_batch(tokenizer, texts)] == texts


def test_saved_tokenizer_loads_without_package(tokenizer, tmp_path, texts):
    tokenizer.save_pretrained(tmp_path)
    script = (
        "import sys; sys.modules['scratch_gpt'] = None\n"
        "from transformers import AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r})\n"
        "print(tokenizer('One day, Anna').input_ids, tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token)"
    )
    printed = run_python("-c", script, cwd=tmp_path).stdout.strip().splitlines()[-1]
    ids = tokenizer("One day, Anna").input_ids
    assert printed == f"{ids} <pad> <bos> <eos>"
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids


@pytest.mark.parametrize(("template", "start", "end"), [("causal", 1, 0), ("seq2seq", 0, 1), ("encoder", 1, 1)])
def test_templates_are_saved(template, start, end, tmp_path, texts):
    train_tokenizer(texts, "bpe", 400, template=template).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("Ben sings.").input_ids
    bare = tokenizer("Ben sings.", add_special_tokens=False).input_ids
    assert ids == [tokenizer.bos_token_id] * start + bare + [tokenizer.eos_token_id] * end


@pytest.fixture(scope="module")
def bpe(texts):
    return train_tokenizer(texts, "bpe", 400)


@pytest.mark.parametrize(
    "text", ["<eos>", "a<bos>b", " <pad> ", "<unk>", "\x00\r\n", "e\u0301\u200f", "\U0001f642" * 3]
)
def test_names_of_special_tokens_in_text_are_text(bpe, text):
    ids = encode_batch(bpe, [text])[0]
    assert bpe.decode(ids) == text
    assert not set(ids) & set(bpe.all_special_ids)
    assert bpe("<eos>", add_special_tokens=False).input_ids == [bpe.eos_token_id]  # by default it is a special token


def test_unknown_characters_and_words_become_unk(texts):
    for kind in ("char", "word"):
        tokenizer = train_tokenizer(texts, kind)
        assert tokenizer.unk_token_id in tokenizer("Æ").input_ids


def test_vocabulary_has_the_requested_size(texts):
    assert len(train_tokenizer(texts, "bpe", 333)) == 333
    assert len(train_tokenizer(texts, "unigram", 250)) == 250
    assert len(train_tokenizer(texts, "word", 100)) == 100
    characters = set("".join(texts))
    assert len(train_tokenizer(texts, "char")) == len(characters) + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["abc"], "bpe", 5000), "vocab_size is 5000, but these texts yield .*: choose at most"),
        ((["abc"], "bpe", 100), "vocab_size is 100, but these texts yield 259 tokens: choose at least 259"),
        ((["abc"], "letters", None), "unknown tokenizer kind 'letters': choose one of char, word, bpe, unigram"),
        ((["abc"], "char", 10), "omit vocab_size, which is 10"),
        ((["", ""], "bpe", 500), "every document is empty"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ScratchError, match=message):
        train_tokenizer(*arguments)


@pytest.mark.release
def test_training_streams_large_files(tmp_path, texts):
    """Training on 50 MB needs at most 25 MB more memory than training on 1 MB."""
    block = "\n".join(texts)
    script = (
        "import re, sys\n"
        "from scratch_gpt.data.readers.sources import open_source\n"
        "from scratch_gpt import train_tokenizer\n"
        "train_tokenizer(open_source(sys.argv[1]).documents(), 'bpe', 500)\n"
        # Not getrusage, whose peak is inherited from the parent process.
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    peaks = []
    for megabytes in (1, 50):
        path = tmp_path / f"{megabytes}.txt"
        with path.open("w") as file:
            for _ in range(megabytes * 1_000_000 // len(block) + 1):
                file.write(block + "\n")
        peaks.append(int(run_python("-c", script, str(path), cwd=tmp_path, fresh=True).stdout.split()[-1]))
        path.unlink()
    assert (peaks[1] - peaks[0]) * 1024 < 25e6, peaks
