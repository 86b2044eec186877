"""Packing and batching in each epoch, attention between packed documents, and the cache key of tokenised text."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.models import PRESET_STYLES, tiny_model
from torch.nn import functional as F

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching.bucketing import Buckets
from scratch_gpt.data.batching.packing import PackedRows
from scratch_gpt.data.batching.token_shards import Shard, prepare
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.evaluation.language_modeling import score_text
from scratch_gpt.train.tasks.language_modeling.task import LanguageModeling

BOS, PAD = 1, 0


def shard_of(lengths) -> Shard:
    tokens = np.random.default_rng(0).integers(5, 99, sum(lengths)).astype(np.uint16)
    return Shard(tokens, np.cumsum(lengths), len(tokens), len(tokens))


def packed_together(rows: PackedRows, epoch: int) -> set[frozenset[int]]:
    """Return the sets of documents that share a row, by their start."""
    plan = rows.plan(epoch)
    return {frozenset(plan.starts[a:b].tolist()) for a, b in zip(plan.offsets, plan.offsets[1:], strict=False)}


def test_packing_changes_each_epoch():
    """Few rows with many short documents are repeated in the next epoch, and no document is lost."""
    lengths = np.random.default_rng(1).integers(2, 12, 600).tolist()
    shard = shard_of(lengths)
    rows = PackedRows(shard, 32, BOS, PAD, seed=4)
    epochs = [packed_together(rows, epoch) for epoch in range(3)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert len(epochs[one] & epochs[other]) < 0.1 * len(epochs[one])
    starts = [0, *shard.ends[:-1].tolist()]
    for epoch in range(3):
        assert sorted(rows.plan(epoch).starts.tolist()) == starts
    assert packed_together(PackedRows(shard, 32, BOS, PAD, seed=4), 1) == epochs[1]  # a function of seed and epoch only
    assert len(packed_together(PackedRows(shard, 32, BOS, PAD, seed=5), 1) & epochs[1]) < 0.1 * len(epochs[1])


def test_first_segment_of_a_long_document_varies():
    rows = PackedRows(shard_of([1000]), 32, BOS, PAD, seed=4)
    first = [sorted(rows.plan(epoch).starts.tolist())[1] for epoch in range(20)]
    assert all(1 <= length <= 32 for length in first)
    assert len(set(first)) > 8


def test_row_order_changes_each_epoch():
    """With one document per row, only the order of the rows can change."""
    rows = PackedRows(shard_of([20] * 200), 32, BOS, PAD, seed=4)
    orders = [rows.plan(epoch).starts.tolist() for epoch in (0, 1)]
    assert sum(a == b for a, b in zip(*orders, strict=True)) < 10
    assert orders[0] != sorted(orders[0])


def test_full_rows_are_shuffled_among_the_others():
    """Segments that fill a row are packed first, and must not all be trained on first."""
    plan = PackedRows(shard_of([32, 20] * 100), 32, BOS, PAD, seed=4).plan(0)
    full = np.flatnonzero(plan.lengths[plan.offsets[:-1]] == 32)
    assert len(full) == 100
    assert full.min() < 10
    assert full.max() > 190
    assert 80 < full.mean() < 120


def test_batch_composition_changes_each_epoch():
    buckets = Buckets(np.full(400, 10), 80, seed=4)
    together = [{frozenset(numbers.tolist()) for _, numbers in buckets.plan(epoch)} for epoch in (0, 1)]
    assert not together[0] & together[1]
    lengths = np.random.default_rng(1).integers(2, 60, 400)
    orders = [[length for length, _ in Buckets(lengths, 80, seed=4).plan(epoch)] for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != sorted(orders[0])


# --- attention between documents -------------------------------------------------------------------------------------


def loss_alone(model, shard: Shard, documents: list[int]) -> float:
    """Return the sum of the losses of documents, each alone after `<bos>`, computed with torch."""
    bounds, total = [0, *shard.ends.tolist()], 0.0
    for document in documents:
        tokens = torch.from_numpy(shard.tokens[bounds[document] : bounds[document + 1]].astype(np.int64))[None]
        inputs = torch.cat([torch.tensor([[BOS]]), tokens[:, :-1]], 1)
        total += F.cross_entropy(model(inputs).logits[0], tokens[0], reduction="sum").item()
    return total


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize(("preset", "fields"), PRESET_STYLES)
def test_packed_documents_do_not_attend_to_each_other(preset, fields, order):
    """A batch of a row with three documents, a full row, and a row with padding, in any order: its loss is the sum of
    the losses of the documents alone."""
    lengths = [5, 4, 7, 16, 6]  # 5 + 4 + 7 fill a row, 16 another, 6 leaves padding
    model, shard = tiny_model(preset, **fields), shard_of(lengths)
    task = LanguageModeling(
        Accelerator(cpu=True), {"train": shard, "validation": shard}, train_tokenizer(["a"], "char"), 16, 3, seed=0
    )
    rows, starts = task.validation_rows, [0, *shard.ends[:-1].tolist()]
    plan = rows.plan(0)
    held = [plan.starts[plan.offsets[row] : plan.offsets[row + 1]].tolist() for row in range(len(plan))]
    assert sorted(map(len, held)) == [1, 1, 3], held
    by_kind = [held.index([starts[4]]), held.index([starts[3]]), max(range(3), key=lambda row: len(held[row]))]
    batch = rows.batch([(plan, by_kind[kind]) for kind in order])
    assert task.count(batch) == sum(lengths)
    expected = loss_alone(model, shard, [0, 1, 2, 3, 4])
    with torch.no_grad():
        assert task.loss(model, batch).item() == pytest.approx(expected, rel=1e-5)


# --- the cache -------------------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(f'{{"text": "text number {i} of many"}}\n' for i in range(40)))
    return path


def test_cache_key_depends_on_the_end_token(texts):
    """The same tokenizer with another `<eos>` does not reuse the cached tokens."""
    tokenizer = train_tokenizer([texts.read_text()], "char")
    backend, ends = tokenizer.backend_tokenizer.to_str(), []
    for token in (tokenizer.eos_token, tokenizer.pad_token, tokenizer.eos_token):
        tokenizer.eos_token = token
        assert tokenizer.backend_tokenizer.to_str() == backend  # the end token is the only difference
        shard = prepare(open_source(str(texts)), tokenizer)["train"]
        assert set(shard.tokens[shard.ends - 1].tolist()) == {tokenizer.eos_token_id}
        ends.append(tokenizer.eos_token_id)
    assert len(set(ends)) == 2


def test_cache_key_depends_on_each_setting(texts, tmp_path, monkeypatch):
    """A cache that has entries of all other settings gives the same result as an empty one."""
    tokenizer, source = train_tokenizer([texts.read_text()], "char"), lambda: open_source(str(texts))
    fewer = train_tokenizer(["text"], "char")
    other = tmp_path / "other.txt"
    other.write_text("something else\n" * 5)
    another = tmp_path / "another.txt"
    another.write_text("and something else\n" * 5)
    ways = {
        "plain": lambda: prepare(source(), tokenizer),
        "seed": lambda: prepare(source(), tokenizer, seed=1),
        "fraction": lambda: prepare(source(), tokenizer, 0.3),
        "validation": lambda: prepare(source(), tokenizer, validation_source=open_source(str(other))),
        "another": lambda: prepare(source(), tokenizer, validation_source=open_source(str(another))),
        "tokenizer": lambda: prepare(source(), fewer),
        "source": lambda: prepare(open_source(str(other)), tokenizer),
    }
    found = {}
    for cache in ("shared", *ways):
        monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / f"cache-{cache}"))
        for name, way in ways.items():
            if cache in ("shared", name):
                shards = way()
                read = [
                    (s.tokens.tolist(), s.ends.tolist(), s.characters, s.utf8_bytes, s.unknown) for s in shards.values()
                ]
                found.setdefault(name, []).append(read)
    for name, (shared, alone) in found.items():
        assert shared == alone, name
    assert len({str(shared) for shared, _ in found.values()}) == len(ways)


# --- bits per byte ---------------------------------------------------------------------------------------


def test_bits_per_byte_and_loss_per_character_of_non_ascii_text(tmp_path):
    """Characters of one to four bytes, so that the numbers of tokens, characters and bytes differ."""
    lines = ["Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich", "Ёж, ёлка и чай", "東京の空", "😀 → 😀"]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines * 3), encoding="utf-8")
    whole = "\n".join(lines * 3)
    tokenizer = train_tokenizer([whole], "bpe", 300)
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    found = score_text(model, tokenizer, open_source(str(path)), context_length=512).metrics
    ids = tokenizer(whole, add_special_tokens=False).input_ids
    inputs = torch.tensor([[tokenizer.bos_token_id, *ids[:-1]]])
    assert len(ids) < 512
    nats = F.cross_entropy(model(inputs).logits[0], torch.tensor(ids), reduction="sum").item()
    num_bytes, characters = path.stat().st_size, len(whole)
    assert num_bytes > 1.3 * characters
    assert found["tokens"] == len(ids)
    assert found["loss"] == pytest.approx(nats / len(ids), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    assert found["loss_per_character"] == pytest.approx(nats / characters, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / len(ids)), rel=1e-4)
