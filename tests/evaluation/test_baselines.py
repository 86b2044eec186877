"""Baselines of a language model in bits per byte, and whether it memorises: compared with other implementations."""

import lzma
import math
import random
import zlib
from collections import Counter
from difflib import SequenceMatcher
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from helpers.processes import TINY_RUN, run_here

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching.token_shards import Shard
from scratch_gpt.evaluation import baselines, memorisation
from scratch_gpt.evaluation.baselines import Baseline, beginning, compressors, cut, end, token_tables
from scratch_gpt.evaluation.memorisation import Memorisation, compare_losses, longest_copy
from scratch_gpt.evaluation.text_report import TextReport, report_on_text, sample_texts
from scratch_gpt.train.engine.run_directory import read_metrics


@pytest.fixture(scope="module")
def words():
    """20,000 characters of invented words, of which some are frequent, and a tokenizer of them."""
    source = random.Random(0)
    vocabulary = ["".join(source.choices("abdeilmnorstu", k=source.randint(2, 8))) for _ in range(300)]
    weights = [1 / (rank + 1) for rank in range(300)]
    text = " ".join(source.choices(vocabulary, weights, k=4000))[:20_000]
    return text, train_tokenizer([text], "bpe", 300)


def shard_of(tokenizer, *documents: str) -> Shard:
    """Documents as training stores them: several end with <eos>."""
    ids = [tokenizer(document, add_special_tokens=False).input_ids for document in documents]
    if len(documents) > 1:
        ids = [[*each, tokenizer.eos_token_id] for each in ids]
    sizes = sum(map(len, documents)), sum(len(document.encode()) for document in documents)
    return Shard(np.concatenate(ids).astype(np.uint16), np.cumsum([len(each) for each in ids]), *sizes)


def test_token_tables_equal_a_count_in_plain_python(words):
    """The formula of Witten and Bell, token by token with dictionaries."""
    text, tokenizer = words
    train, validation = shard_of(tokenizer, text[:9_000], text[9_000:18_000]), shard_of(tokenizer, text[18_000:])
    size, known, held = len(tokenizer), train.tokens.tolist(), validation.tokens.tolist()
    counts, pairs = Counter(known), Counter(pairwise(known))
    places, followers = Counter(known[:-1]), Counter(a for a, _ in pairs)

    def unigram(token: int) -> float:
        return (counts[token] + 1) / (len(known) + size)

    def bigram(a: int, b: int) -> float:
        if not places[a]:
            return unigram(b)
        return (pairs[a, b] + followers[a] * unigram(b)) / (places[a] + followers[a])

    assert any(not counts[token] for token in held) or size > len(counts)
    assert sum(bigram(known[0], b) for b in range(size)) == pytest.approx(1)
    bits = [-sum(math.log2(unigram(b)) for b in held)]
    of_pairs = sum(math.log2(bigram(a, b)) for a, b in pairwise(held))
    bits.append(-math.log2(unigram(held[0])) - of_pairs)
    found = token_tables(train, validation, size)
    assert [each.name for each in found] == ["unigram", "bigram"]
    for each, expected in zip(found, bits, strict=True):
        assert each.bits_per_byte == pytest.approx(expected / validation.utf8_bytes, rel=1e-12)
    assert found[1].bits_per_byte < found[0].bits_per_byte


def test_tables_of_tokens_that_training_never_saw():
    shards = [Shard(np.array(ids, np.uint16), np.array([len(ids)]), 8, 8) for ids in ([1, 1, 1], [7, 8, 7])]
    found = token_tables(*shards, 9)
    assert [each.bits_per_byte for each in found] == pytest.approx([3 * math.log2(12) / 8] * 2)
    assert [each.bits_per_byte for each in token_tables(None, shards[1], 9)] == [None, None]


def test_compressors_count_what_the_validation_text_adds(words):
    text, tokenizer = words
    train, validation = shard_of(tokenizer, text[:15_000]), shard_of(tokenizer, text[15_000:])
    known, held = f"{text[:15_000]}\n".encode(), text[15_000:].encode()
    sizes = [len(zlib.compress(known + held, 9)) - len(zlib.compress(known, 9))]
    sizes.append(len(lzma.compress(known + held, preset=6)) - len(lzma.compress(known, preset=6)))
    found = compressors(tokenizer, train, validation)
    assert [each.bits_per_byte for each in found] == pytest.approx([8 * size / len(held) for size in sizes])
    alone = compressors(tokenizer, None, validation)
    empty = len(zlib.compress(b"", 9))
    assert alone[0].bits_per_byte == pytest.approx(8 * (len(zlib.compress(held, 9)) - empty) / len(held))
    assert all(one.bits_per_byte < other.bits_per_byte for one, other in zip(found, alone, strict=True))
    assert alone[0].note == "the validation text alone"


def test_documents_are_separated_and_separators_are_not_counted(words):
    text, tokenizer = words
    parts = text[:3_000], text[3_000:5_000]
    found = compressors(tokenizer, None, shard_of(tokenizer, *parts))
    size = len(zlib.compress("\n".join(parts).encode(), 9)) - len(zlib.compress(b"", 9))
    assert found[0].bits_per_byte == pytest.approx(8 * size / 5_000)


def test_compressors_are_not_compared_if_the_tokenizer_loses_the_text(words):
    text, _ = words
    tokenizer = train_tokenizer(["a b d"], "char")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    unknown = ids.count(tokenizer.unk_token_id)
    assert unknown > 0.01 * len(ids)
    shard = Shard(np.array(ids, np.uint16), np.array([len(ids)]), len(text), len(text), unknown)
    assert [each.bits_per_byte for each in compressors(tokenizer, None, shard)] == [None, None]


def test_cuts_keep_the_ends_of_documents():
    shard = Shard(np.arange(100), np.array([10, 40, 100]), 200, 400)
    middle = cut(shard, 10, 50)
    assert (middle.tokens[0], middle.ends.tolist(), middle.utf8_bytes) == (10, [30, 40], 160)
    assert (len(beginning(shard, 100).tokens), end(shard, 100).tokens[0]) == (25, 75)
    assert beginning(shard, 400).tokens.tolist() == shard.tokens.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_longest_copy_equals_that_of_difflib(seed):
    source = random.Random(seed)
    text = "".join(source.choices("ab c", k=600))
    samples = ["".join(source.choices("ab c", k=80)) for _ in range(3)]
    if seed % 2:
        samples[1] = samples[1][:20] + text[-50:] + samples[1][20:]
    matcher = (SequenceMatcher(None, sample, text, autojunk=False) for sample in samples)
    expected = max(match.find_longest_match().size for match in matcher)
    found = longest_copy(samples, text)
    assert len(found) == expected
    assert found in text
    assert any(found in sample for sample in samples)


def test_longest_copy_of_nothing():
    assert longest_copy([], "text") == longest_copy(["xyz"], "") == longest_copy([""], "text") == ""
    assert longest_copy(["xyz"], "ab") == ""
    assert longest_copy(["ein 東京 😀!"], "die 東京 😀?") == " 東京 😀"


def test_reading_agrees_with_the_numbers():
    line, copied = Memorisation(1.2, 1.9, 100, "a" * 90, 30, 8).lines()
    losses = "train 1.20, validation 1.90 nats per token on 100 tokens each (58% higher)"
    assert line.startswith(f"the model overfits: {losses}; use more text")
    assert copied.endswith(
        "as much held-out text shares up to 30 characters with it: the model recites its training text"
    )
    line, copied = Memorisation(1.8, 1.82, 100, "a b", 3, 8).lines()
    assert line == "the model does not overfit: train 1.80, validation 1.82 nats per token on 100 tokens each"
    assert "3 characters, 2 words: 'a b'" in copied
    assert copied.endswith("nothing unusual")
    assert "slightly better" in Memorisation(1.8, 1.95, 100, "", 3, 8).lines()[0]
    assert compare_losses(0.0001, 0.002, "nats").startswith("the model does not overfit")
    assert compare_losses(0.0001, 0.9, "nats", "conversations") == (
        "the model overfits: train 0.00, validation 0.90 nats; use more conversations or dropout, fewer epochs, or a "
        "smaller model"
    )


def test_validation_text_that_repeats_the_training_text_has_a_reading():
    """A compressor needs nothing for it; the run once ended with a division by zero."""
    assert "repetition of the training text" in TextReport(2.0, [Baseline("xz", "xz", 0.0, "")]).reading()


@pytest.mark.parametrize(
    ("bits", "said"),
    [(0.5, "50% fewer bits than xz"), (1.5, "50% more bits than xz"), (52.4, "52.4 times as many bits as xz")],
)
def test_reading_compares_the_model_with_the_best_baseline(bits, said):
    assert said in TextReport(bits, [Baseline("xz", "xz", 1.0, ""), Baseline("gzip", "gzip", 1.1, "")]).reading()


def test_report_of_a_model_that_overfits(words):
    """The bits of the untrained model are near those of a uniform distribution over its tokens. Of a model that was
    trained on the training text alone, the loss there is much lower."""
    text, tokenizer = words
    shards = {"train": shard_of(tokenizer, text[:600]), "validation": shard_of(tokenizer, text[15_000:16_000])}
    torch.manual_seed(0)
    model = tiny_model("llama", vocab_size=len(tokenizer), hidden_size=64, max_position_embeddings=64).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    ids = torch.tensor(shards["train"].tokens[:256].astype(np.int64)).view(4, 64)
    ids = torch.cat([torch.full((4, 1), tokenizer.bos_token_id), ids], 1)[:, :64]
    for _ in range(60):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    before = torch.get_rng_state()
    samples = sample_texts(model, tokenizer)
    report = report_on_text(model, tokenizer, shards, 64, 9.9, samples, entropy=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    numbers = report.numbers()
    validation = shards["validation"]
    per_byte = len(validation.tokens) / validation.utf8_bytes
    assert numbers["baseline_untrained"] == pytest.approx(math.log2(len(tokenizer)) * per_byte, rel=0.15)
    assert report.entropy == pytest.approx(0.5 / math.log(2) * per_byte)
    assert numbers["memorisation_val_loss"] > 1.5 * numbers["memorisation_train_loss"]
    assert report.memorisation.lines()[0].startswith("the model overfits")
    assert numbers["memorisation_copied"] > numbers["memorisation_usual"]
    assert "times as many bits as" in report.reading()


def test_a_run_and_evaluate_print_and_save_the_comparison(tmp_path, words, monkeypatch):
    monkeypatch.setattr(baselines, "SCORED_TOKENS", 256)
    monkeypatch.setattr(memorisation, "SCORED_TOKENS", 256)
    (tmp_path / "text.txt").write_text(words[0])
    options = ("--dataset", "text.txt", "--output_dir", "run", "--max_steps", "2")
    printed = run_here("scratch-gpt", "train", "language_modeling", *options, *TINY_RUN, cwd=tmp_path).stdout
    rows = read_metrics(tmp_path / "run")
    saved = {name: value for name, value in rows[-1].items() if name.startswith(("baseline_", "memorisation_"))}
    assert len(saved) == 9
    card = (tmp_path / "run" / "README.md").read_text()
    for title, name in (("gzip", "gzip"), ("bigram table of its tokens", "bigram")):
        number = saved[f"baseline_{name}"]
        assert f"{number:.3f}" in next(line for line in printed.splitlines() if line.strip("│ ").startswith(title))
        assert f"{number:.4f}" in card
    assert "it has learned too little of the text so far" in " ".join(printed.split())
    evaluated = run_here("scratch-gpt", "evaluate", "run", "--dataset", "text.txt", "--held_out", "0.1", cwd=tmp_path)
    assert f"{saved['baseline_bigram']:.3f}" in evaluated.stdout
    assert "memorisation: " in evaluated.stdout
    alone = run_here("scratch-gpt", "evaluate", "run", "--dataset", "text.txt", cwd=tmp_path).stdout
    assert "it needs the training text" in " ".join(alone.split())
    assert "memorisation" not in alone
    plain = run_here("scratch-gpt", "evaluate", "run", "--dataset", "text.txt", "--no-baselines", cwd=tmp_path).stdout
    assert "gzip" not in plain
