"""Parallel text: formats, skipped pairs, truncation, and batching."""

import copy
import csv
import gzip
import itertools
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.processes import SHARED
from helpers.published import roberta_tokenizer

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching.bucketing import PairBatches, bucket_length
from scratch_gpt.data.batching.encoding import Pairs, encode_pairs
from scratch_gpt.data.batching.token_lists import Tokens
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.tables import ReadOptions
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import Tokenizers
from scratch_gpt.models.linear_cross_entropy import shift_right
from scratch_gpt.train.tasks.translation.task import Translation

PAIRS = [("Ein Hund läuft .", "A dog runs ."), ("Zwei Männer lachen", "Two men laugh"), ("Ende", "The end")]


@pytest.fixture
def folder(tmp_path):
    """The same pairs in every format."""
    for side, language in enumerate(("de", "en")):
        text = "\n".join(pair[side] for pair in PAIRS) + "\n"
        (tmp_path / f"train.{language}").write_text(text, encoding="utf-8")
        with gzip.open(tmp_path / f"val.{language}.gz", "wt", encoding="utf-8") as file:
            file.write(text.replace("\n", "\r\n"))
    rows = [{"de": de, "en": en} for de, en in PAIRS]
    (tmp_path / "flat.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "nested.jsonl").write_text("\n".join(json.dumps({"translation": row}) for row in rows))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["de", "en"])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


@pytest.mark.parametrize("name", ["", "flat.jsonl", "nested.jsonl", "table.csv"])
def test_all_parallel_formats_are_equivalent(name, folder):
    assert list(open_pairs(str(folder / name), "de", "en").read()) == PAIRS
    assert list(open_pairs(str(folder / name), "en", "de").read()) == [(en, de) for de, en in PAIRS]


def test_two_files_and_compressed_splits(folder):
    two = open_pairs(str(folder / "train.de"), "de", "en", target_file=str(folder / "train.en"))
    assert list(two.read()) == PAIRS
    assert open_pairs(str(folder), "de", "en").origin.validation_split == "validation"
    zipped = open_pairs(str(folder), "de", "en", ReadOptions(split="validation"))
    assert zipped.origin.files == [str(folder / f"val.{language}.gz") for language in ("de", "en")]
    assert list(zipped.read()) == PAIRS  # the carriage returns are gone
    assert list(open_pairs(str(folder), "de", "en", ReadOptions(max_rows=2)).read()) == PAIRS[:2]


def test_pairs_with_an_empty_side_are_skipped_and_counted(folder):
    (folder / "train.en").write_text("A dog runs .\n  \nThe end\n")
    source = open_pairs(str(folder), "de", "en")  # blank lines of text files do not count as bad rows
    assert list(source.read()) == [PAIRS[0], PAIRS[2]]
    assert source.count.skipped == {"'en' is empty": 1}
    (folder / "flat.jsonl").write_text('{"de": "a", "en": ""}\n' * 3)
    with pytest.raises(ScratchError, match=r"3 of 3 rows can't be used .'en' is empty: 3, first row 0"):
        list(open_pairs(str(folder / "flat.jsonl"), "de", "en").read())


BAD = {
    "different lengths": (
        lambda folder: (folder / "train.en").write_text("A dog runs .\n"),
        "",
        "has 3 lines and .* has 1",
    ),
    "unknown language": (lambda folder: (folder / "train.en").unlink(), "", "has no train.en"),
    "unknown column": (
        lambda folder: (folder / "flat.jsonl").write_text('{"de": "a", "fr": "b"}'),
        "flat.jsonl",
        "no 'en': it has 'de', 'fr'; choose with --target_lang",
    ),
    "missing cell": (
        lambda folder: (folder / "flat.jsonl").write_text('{"de": "a", "en": null}'),
        "flat.jsonl",
        "'en' is null, want text: 1, first row 0",
    ),
    "one side": (lambda folder: None, "train.de", "give the other with --target_file"),
    "no such folder": (lambda folder: None, "none/", "no such file or folder"),
    "no UTF-8": (lambda folder: (folder / "train.en").write_bytes(b"\xff\xfe\n\n\n"), "", "is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_parallel_text_is_rejected(case, folder):
    spoil, name, message = BAD[case]
    spoil(folder)
    with pytest.raises(ScratchError, match=message):
        list(open_pairs(str(folder / name) + ("/" if name.endswith("/") else ""), "de", "en").read())


def test_invalid_languages_are_rejected():
    with pytest.raises(ScratchError, match="both 'de'"):
        open_pairs("grammar", "de", "de")
    with pytest.raises(ScratchError, match="has 'de' and 'en', not 'de' to 'fr'"):
        open_pairs("grammar", "de", "fr")


def test_long_pairs_are_truncated_or_skipped_and_counted():
    tokenizer = train_tokenizer([text for pair in PAIRS for text in pair], "char", template="seq2seq")
    cut = encode_pairs(iter(PAIRS), tokenizer, tokenizer, 14, skip_long=False)
    assert (len(cut), cut.num_too_long) == (3, 2)
    assert [len(cut.source[i]) for i in range(3)] == [14, 14, 5]
    assert all(side[i][-1] == tokenizer.eos_token_id for side in (cut.source, cut.target) for i in range(3))
    assert tokenizer.decode(cut.source[0][:-1]) == PAIRS[0][0][:13]
    left = encode_pairs(iter(PAIRS), tokenizer, tokenizer, 14, skip_long=True)
    assert (len(left), left.num_too_long) == (1, 2)
    assert tokenizer.decode(left.target[0][:-1]) == "The end"


def some_pairs(count: int = 500, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)

    def side() -> Tokens:
        lengths = rng.integers(1, 60, count)
        return Tokens(rng.integers(3, 99, lengths.sum()).astype(np.uint32), np.cumsum(lengths))

    return Pairs(side(), side(), 0)


def test_each_epoch_has_every_pair_once_in_few_shapes():
    pairs = some_pairs()
    batches = PairBatches(pairs, 512, pad_token_id=0, seed=7)
    plan = batches.plan(0)
    assert sorted(np.concatenate([numbers for _, numbers in plan])) == list(range(500))
    assert all(length * len(numbers) <= 512 for length, numbers in plan)
    shapes = {(length, len(numbers)) for length, numbers in plan}
    assert len(shapes) <= 2 * len({length for length, _ in plan})  # full batches and one smaller batch of each length
    for length, numbers in plan[:5]:
        batch = batches.batch(length, numbers)
        assert batch["input_ids"].shape == batch["labels"].shape == (len(numbers), length)
        for row, number in enumerate(numbers):
            source, target = pairs.source[number], pairs.target[number]
            assert batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist() == source.tolist()
            assert batch["labels"][row][batch["labels"][row] != -100].tolist() == target.tolist()
            assert bucket_length(np.array(max(len(source), len(target)))) == length


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        plan = PairBatches(some_pairs(), 512, 0, seed=seed).plan(epoch)
        return [tuple(numbers) for _, numbers in plan]

    assert order(7, 3) == order(7, 3)
    assert order(7, 3) != order(7, 4)
    assert order(7, 3) != order(8, 3)
    assert sorted(order(None, 0)) == sorted(order(None, 5))


def test_ordered_batches_are_sharded():
    batches = PairBatches(some_pairs(), 512, 0)
    whole = [batch["labels"].numpy().tobytes() for batch in batches.ordered_batches()]
    shared = [[b["labels"].numpy().tobytes() for b in batches.ordered_batches(i, 3)] for i in range(3)]
    assert sorted(itertools.chain(*shared)) == sorted(whole)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_shared_multi30k_data_is_read():
    source = open_pairs(str(SHARED / "multi30k"), "de", "en", ReadOptions(split="test_2016_flickr"))
    pairs = list(source.read())
    assert len(pairs) == 1000
    assert pairs[0][0].startswith("Ein Mann mit einem orangefarbenen Hut")
    assert pairs[0][1].startswith("A man in an orange hat")


def test_word_dropout_of_source_and_decoder_inputs():
    """Labels, padding, `<eos>` and the start token of the decoder do not change."""
    pairs = list(open_pairs("grammar", "de", "en", num_pairs=200).read())
    tokenizer = train_tokenizer([text for pair in pairs for text in pair], "bpe", 300, "seq2seq")
    encoded = encode_pairs(iter(pairs), tokenizer, tokenizer, 128, False)
    shared = {"texts": ([], []), "tokenizers": Tokenizers(tokenizer, tokenizer), "tokens_per_batch": 512}
    shared |= {"seed": 0, "eval_beams": 1}
    plain, dropping = (Translation(Accelerator(), encoded, encoded, **shared, word_dropout=p) for p in (0, 0.3))
    fractions = []
    for number in range(len(plain.train.plan(0))):
        before, after = plain.make_batch(0, number), dropping.make_batch(0, number)
        assert torch.equal(before["labels"], after["labels"])
        assert torch.equal(before["attention_mask"], after["attention_mask"])
        before["decoder_input_ids"] = shift_right(before["labels"], tokenizer.pad_token_id, tokenizer.pad_token_id)
        for name in ("input_ids", "decoder_input_ids"):
            changed = after[name] != before[name]
            assert set(after[name][changed].tolist()) == {tokenizer.bos_token_id}
            special = torch.isin(before[name], torch.tensor(tokenizer.all_special_ids))
            assert not (changed & special).any()
            fractions.append(changed[~special].float().mean().item())
    assert np.mean(fractions) == pytest.approx(0.3, abs=0.05)
    for name in ("eos_token", "pad_token"):
        for side in (0, 1):
            sides = [tokenizer, tokenizer]
            sides[side] = copy.deepcopy(tokenizer)
            sides[side].bos_token = getattr(tokenizer, name)
            with pytest.raises(ScratchError, match=r"word_dropout is 0\.3, but the tokenizer has no separate <bos>"):
                Translation(
                    Accelerator(), encoded, encoded, **{**shared, "tokenizers": Tokenizers(*sides)}, word_dropout=0.3
                )
    same, again, other = (dropping.make_batch(epoch, 0)["input_ids"] for epoch in (0, 0, 1))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_pairs_have_the_special_tokens_that_translate_adds():
    """A tokenizer of RoBERTa or BART begins a text with `<s>`; a model trained without it would see it first when it
    translates. A text that is truncated keeps the ends of its template."""
    tokenizer = roberta_tokenizer()
    expected = [tokenizer([pair[side] for pair in PAIRS]).input_ids for side in (0, 1)]
    encoded = encode_pairs(iter(PAIRS), tokenizer, tokenizer, 64, skip_long=False)
    for side, rows in zip((encoded.source, encoded.target), expected, strict=True):
        assert [list(side[i]) for i in range(len(rows))] == rows
        assert {(row[0], row[-1]) for row in rows} == {(tokenizer.bos_token_id, tokenizer.eos_token_id)}
    short = encode_pairs(iter(PAIRS[:1]), tokenizer, tokenizer, 4, skip_long=False)
    assert list(short.source[0]) == [*expected[0][0][:3], tokenizer.eos_token_id]
