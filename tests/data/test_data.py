"""Sources, shards and packed rows: each token once per epoch, separate documents, order from seed and epoch."""

import gzip
import json

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch_gpt import train_tokenizer
from scratch_gpt.cache import cache_directory
from scratch_gpt.data.batching.packing import PackedRows
from scratch_gpt.data.batching.token_shards import Shard, prepare
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.data.readers.tables import ReadOptions
from scratch_gpt.data.splits import content_key, hold_out
from scratch_gpt.errors import ScratchError

BOS, PAD = 1, 0


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(stories(seed=0, count=100), "bpe", 400)


def text_of(source) -> list[str]:
    documents, open_document = [], ""
    for piece in source.pieces():
        open_document += piece.text
        if piece.ends_document:
            documents.append(open_document)
            open_document = ""
    return documents


def test_each_file_is_one_document(tmp_path):
    text = "word \u00e9 " * 50_000 + "x" * 200_000 + "\nend"
    (tmp_path / "a.txt").write_text(text)
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    assert text_of(open_source(str(tmp_path / "a.txt"))) == [text]
    assert text_of(open_source(str(tmp_path / "b.txt.gz"))) == [text]
    (tmp_path / "c").mkdir()
    for name in ("2.txt", "1.txt"):
        (tmp_path / "c" / name).write_text(f"text {name}")
    assert text_of(open_source(str(tmp_path / "c"))) == ["text 1.txt", "text 2.txt"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_text_column_of_tables(tmp_path, suffix):
    import datasets

    rows = {"body": ["One, two", 'a "quote"', "line\nbreak"], "label": [1, 2, 3]}
    table, path = datasets.Dataset.from_dict(rows), tmp_path / f"t.{suffix}"
    if suffix == "jsonl":
        table.to_json(path)
    elif suffix == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="\t" if suffix == "tsv" else ",")
    assert text_of(open_source(str(path))) == rows["body"]
    assert text_of(open_source(str(path), text_column="body")) == rows["body"]
    with pytest.raises(ScratchError, match="no column 'text': it has 'body', 'label'"):
        open_source(str(path), text_column="text")
    numbers = open_source(str(path), text_column="label")
    if suffix in ("csv", "tsv"):  # CSV cells are text
        assert text_of(numbers) == ["1", "2", "3"]
    else:
        with pytest.raises(ScratchError, match=r"3 of 3 rows can't be used .'label' is int, want text: 3, first row 0"):
            text_of(numbers)


def test_clone_of_dataset_repository_has_splits(tmp_path):
    """A clone of a dataset repository has the same splits as on the Hub."""
    for split in ("train", "test"):
        lines = [json.dumps({"text": f"{split} {i}"}) for i in range(3)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    assert text_of(open_source(str(tmp_path), ReadOptions(split="test"))) == ["test 0", "test 1", "test 2"]
    assert text_of(open_source(str(tmp_path), ReadOptions(max_rows=2))) == ["train 0", "train 1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "no such file or folder"),
        ("empty.txt", b"", "is empty"),
        ("latin.txt", "d\u00e9j\u00e0".encode("latin-1"), "is not UTF-8 text"),
        ("broken.jsonl", b"{not json", "can't be read as jsonl"),
        ("two.csv", b"a,b\nx,y\n", "choose one with --text_column"),
        (
            "c.jsonl",
            b'{"messages": [{"role": "user"}]}\n',
            "'messages': none has text, a field inside one is named by --t",
        ),
    ],
)
def test_invalid_sources_are_rejected_with_reason(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ScratchError, match=message):
        text_of(open_source(str(tmp_path / name)))


def test_unknown_hub_dataset_is_rejected():
    with pytest.raises(
        ScratchError,
        match="no dataset can be opened from 'nobody/nothing': there is no file or folder of that name here",
    ):
        open_source("nobody/nothing")


def test_single_document_is_split_by_position(tmp_path, tokenizer):
    text = "\n".join(stories(seed=1, count=50))
    (tmp_path / "t.txt").write_text(text)
    shards = prepare(open_source(str(tmp_path / "t.txt")), tokenizer)
    boundary = int(len(text) * 0.9)
    assert tokenizer.decode(shards["train"].tokens) == text[:boundary]
    assert tokenizer.decode(shards["validation"].tokens) == text[boundary:]
    assert shards["train"].characters + shards["validation"].characters == len(text)
    assert shards["validation"].utf8_bytes == len(text[boundary:].encode())


def test_several_documents_are_split_by_document(tokenizer):
    texts = list(stories(seed=2, count=50))
    shards = prepare(open_source("stories", num_stories=50, seed=2), tokenizer)
    held = hold_out([content_key(text) for text in texts], 0.1)
    for split, held_out in (("train", False), ("validation", True)):
        expected = [text for text, out in zip(texts, held, strict=True) if out == held_out]
        shard = shards[split]
        documents = np.split(np.asarray(shard.tokens), shard.ends[:-1])
        assert all(document[-1] == tokenizer.eos_token_id for document in documents)
        assert [tokenizer.decode(document[:-1]) for document in documents] == expected
    assert len(shards["validation"].ends) == 5


def test_cache_key_depends_on_content_and_settings(tmp_path, tokenizer):
    path = tmp_path / "t.txt"
    path.write_text("\n".join(stories(seed=4, count=20)))

    def entries() -> set:
        prepare(open_source(str(path)), tokenizer)
        return set((cache_directory() / "shards").iterdir())

    first = entries()
    assert entries() == first
    path.write_text(path.read_text() + " More.")
    assert len(entries()) == len(first) + 1
    prepare(open_source(str(path)), tokenizer, validation_fraction=0.2)
    assert len(set((cache_directory() / "shards").iterdir())) == len(first) + 2


def test_failed_preparation_leaves_no_files(tmp_path, tokenizer):
    before = set((cache_directory() / "shards").glob("*"))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(['{"text": "fine"}'] * 30 + ['{"text": null}'] * 5))
    with pytest.raises(ScratchError, match=r"5 of 35 rows can't be used .'text' is null, want text: 5, first row 30"):
        prepare(open_source(str(path)), tokenizer)
    assert set((cache_directory() / "shards").glob("*")) == before


def shard_of(lengths: list[int]) -> Shard:
    """Return documents of these lengths in which all tokens are different."""
    return Shard(np.arange(2, 2 + sum(lengths)), np.cumsum(lengths), characters=0, utf8_bytes=0)


def labels_of(rows: PackedRows, epoch: int = 0) -> list[int]:
    plan = rows.plan(epoch)
    return [t for r in range(len(plan)) for t in rows.batch([(plan, r)])["labels"].flatten().tolist() if t != -100]


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    row_length=st.integers(1, 24),
    epoch=st.integers(0, 3),
    seed=st.one_of(st.none(), st.integers(0, 5)),
)
def test_every_token_is_predicted_once_per_epoch(lengths, row_length, epoch, seed):
    shard = shard_of(lengths)
    rows = PackedRows(shard, row_length, BOS, PAD, seed=seed)
    assert sorted(labels_of(rows, epoch)) == shard.tokens.tolist()
    plan = rows.plan(epoch)
    ends = shard.ends.tolist()
    for start, length in zip(plan.starts, plan.lengths, strict=True):
        assert 1 <= length <= row_length
        assert np.searchsorted(ends, start, "right") == np.searchsorted(ends, start + length - 1, "right")
    filled = np.add.reduceat(plan.lengths, plan.offsets[:-1])
    assert filled.max() <= row_length


def test_inputs_are_bos_and_the_previous_tokens():
    rows = PackedRows(shard_of([3, 4, 20]), 8, BOS, PAD, seed=0)
    plan = rows.plan(0)
    seen_packed = False
    for r in range(len(plan)):
        batch = rows.batch([(plan, r)])
        x, y = batch["input_ids"][0], batch["labels"][0]
        positions = batch["position_ids"][0] if "position_ids" in batch else torch.arange(8)
        seen_packed |= "position_ids" in batch
        for t in range(8):
            if y[t] == -100:
                continue
            assert x[t] == (BOS if positions[t] == 0 else y[t] - 1)
    assert seen_packed


def test_segments_start_at_other_positions_each_epoch():
    rows = PackedRows(shard_of([1000]), 16, BOS, PAD, seed=0)
    starts = [set(rows.plan(epoch).starts.tolist()) for epoch in range(4)]
    assert all(0 in s for s in starts)
    assert len(set.intersection(*starts)) < 5
    again = PackedRows(shard_of([1000]), 16, BOS, PAD, seed=0)
    assert labels_of(again, 3) == labels_of(rows, 3)
    assert labels_of(PackedRows(shard_of([1000]), 16, BOS, PAD, seed=1), 3) != labels_of(rows, 3)


def test_packing_efficiency_of_short_documents():
    lengths = np.random.default_rng(0).integers(20, 110, 2000).tolist()
    rows = PackedRows(shard_of(lengths), 256, BOS, PAD, seed=0)
    assert sum(lengths) / (len(rows.plan(0)) * 256) > 0.93


def test_packing_does_not_change_the_loss_of_a_document():
    """The loss of a packed row is the sum of the losses of its documents alone."""
    model = tiny_model("nanochat")
    shard = Shard(torch.randint(3, 99, (60,)).numpy(), np.cumsum([7, 12, 20, 5, 16]), characters=0, utf8_bytes=0)

    def total(row_length: int) -> float:
        rows = PackedRows(shard, row_length, BOS, PAD)
        loss = 0.0
        for batch in rows.ordered_batches(2):
            labels = batch.pop("labels")
            loss += model(**batch, labels=labels, shift_labels=labels, num_items_in_batch=1).loss.item()
        return loss

    alone = 0.0
    for begin, end in zip([0, *shard.ends[:-1]], shard.ends, strict=True):
        tokens = torch.from_numpy(shard.tokens[begin:end])[None]
        inputs = torch.cat([torch.tensor([[BOS]]), tokens[:, :-1]], 1)
        alone += model(inputs, labels=tokens, shift_labels=tokens, num_items_in_batch=1).loss.item()
    assert total(64) == pytest.approx(alone, rel=1e-5)
    assert total(32) == pytest.approx(alone, rel=1e-5)


def test_evaluation_rows_are_sharded_without_overlap():
    rows = PackedRows(shard_of([5, 9, 30, 2, 7, 8]), 8, BOS, PAD)
    by_process = [list(rows.ordered_batches(2, process, 3)) for process in range(3)]
    assert len({len(batches) for batches in by_process}) == 1
    seen = [t for batches in by_process for batch in batches for t in batch["labels"].flatten().tolist() if t != -100]
    assert sorted(seen) == sorted(labels_of(rows))
