"""Labelled text: reading, truncation, batching and metrics."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.models import tiny_encoder
from sklearn import metrics

from scratch_gpt.data.batching.bucketing import drop_words
from scratch_gpt.data.batching.encoding import encode_examples
from scratch_gpt.data.readers.labelled import open_labelled
from scratch_gpt.errors import ScratchError
from scratch_gpt.evaluation.classification import classification_scores, confusion_matrix
from scratch_gpt.models.modeling_scratch_encoder import ScratchEncoderForSequenceClassification
from scratch_gpt.tokenization.training import starts_word, train_tokenizer
from scratch_gpt.train.tasks.classification.task import Classification


def test_truncation_keeps_the_end_token_and_special_names_are_text():
    texts = [("one two three four five six", "a"), ("<mask> <eos>", "b")]
    tokenizer = train_tokenizer([text for text, _ in texts], "bpe", 270, "encoder")
    encoded = encode_examples(texts, ["a", "b"], tokenizer, 8)
    assert encoded.num_too_long >= 1
    assert encoded.tokens[0][0] == tokenizer.bos_token_id
    assert encoded.tokens[0][-1] == tokenizer.eos_token_id
    assert len(encoded.tokens[0]) == 8
    whole = encode_examples(texts, ["a", "b"], tokenizer, 100).tokens[1]
    assert not set(whole[1:-1].tolist()) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("seed", range(5))
def test_classification_scores_equal_scikit_learn(seed):
    """Also for a label that neither occurs nor is predicted, one that is only predicted and one that only occurs."""
    generator = np.random.default_rng(seed)
    labels, predicted = generator.choice([0, 1, 2, 4], 200).tolist(), generator.choice([0, 1, 2, 5], 200).tolist()
    scores = classification_scores(labels, predicted, 6)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-12)
    f1 = metrics.f1_score(labels, predicted, labels=range(6), average="macro", zero_division=0.0)
    assert scores["f1"] == pytest.approx(f1, abs=1e-12)
    expected = metrics.confusion_matrix(labels, predicted, labels=range(6))
    assert (confusion_matrix(labels, predicted, 6) == expected).all()


def test_classification_scores_by_hand():
    labels, predicted = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 2]
    scores = classification_scores(labels, predicted, 3)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert confusion_matrix(labels, predicted, 3).tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]


def labelled_task(**options):
    """Return a task with a rare label for one in ten texts, and its tokenizer."""
    examples = [(f"text {i}", "rare" if i % 10 == 0 else "usual") for i in range(100)]
    tokenizer = train_tokenizer([text for text, _ in examples], "word", template="encoder")
    encoded = encode_examples(examples, ["usual", "rare"], tokenizer, 16)
    task = Classification(Accelerator(cpu=True), encoded, encoded, ["usual", "rare"], tokenizer, 64, 0, **options)
    return task, tokenizer


def test_balanced_loss_weights():
    task, _ = labelled_task(balance=True)
    assert task.weights.tolist() == pytest.approx([100 / 180, 5.0])
    model = tiny_encoder(ScratchEncoderForSequenceClassification, "modern", num_labels=2)
    for parameter in model.classifier.parameters():  # both labels are then equally likely
        torch.nn.init.zeros_(parameter)
    batch = {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 3), "labels": torch.tensor([0, 1])}
    assert task.loss(model, batch).item() == pytest.approx(math.log(2) * (100 / 180 + 5.0))


def test_word_dropout_is_resampled_each_epoch():
    plain, tokenizer = labelled_task()
    task, _ = labelled_task(word_dropout=0.4)
    hidden = []
    for number in range(len(plain.train.plan(0))):
        before, after = (t.make_batch(0, number)["input_ids"] for t in (plain, task))
        special = torch.isin(before, torch.tensor(tokenizer.all_special_ids))
        assert torch.equal(after[special], before[special])
        assert set(after[after != before].tolist()) == {tokenizer.mask_token_id}
        hidden.append((after != before)[~special].float().mean().item())
    assert np.mean(hidden) == pytest.approx(0.4, abs=0.1)
    assert torch.equal(task.make_batch(0, 0)["input_ids"], task.make_batch(0, 0)["input_ids"])
    assert not torch.equal(task.make_batch(0, 0)["input_ids"], task.make_batch(1, 0)["input_ids"])


def test_word_dropout_replaces_whole_words():
    texts = [f"a fine {'long ' * number}film\nin{number}deed" for number in range(30)]
    for kind in ("char", "word", "bpe", "unigram"):
        tokenizer = train_tokenizer(texts, kind, template="encoder")
        word_starts = starts_word(tokenizer)
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            generator = np.random.default_rng(0)
            hidden = drop_words(ids, 0.4, tokenizer.mask_token_id, tokenizer.all_special_ids, generator, word_starts)[0]
            seen = tokenizer.decode(hidden[hidden != tokenizer.mask_token_id], skip_special_tokens=True).split()
            assert Counter(seen) <= Counter(text.split()), (kind, seen)
        assert len(seen) < len(text.split())
    single = torch.tensor([tokenizer("indeed" * 20)["input_ids"]])  # as in a language without spaces
    hidden = drop_words(single, 0.4, tokenizer.mask_token_id, tokenizer.all_special_ids, generator, word_starts)
    assert 0 < (hidden == tokenizer.mask_token_id).sum() < (single.shape[1] - 2)


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("t.tsv", 'he said "no" to null\t1\nNA\t0\n', ["1", "0"]),  # no header; quotes and null are text
        ("t.csv", 'label,text\ngood,"a, b"\nbad,c\n', ["good", "bad"]),
        ("t.jsonl", '{"sentence": "a", "label": true}\n{"sentence": "b", "label": false}\n', ["True", "False"]),
    ],
)
def test_labels_of_tables(name, content, labels, tmp_path):
    (tmp_path / name).write_text(content)
    rows = list(open_labelled(str(tmp_path / name)).read())
    assert [label for _, label in rows] == labels
    if name == "t.tsv":
        assert [text for text, _ in rows] == ['he said "no" to null', "NA"]
    if name == "t.csv":
        assert rows[0][0] == "a, b"


def test_class_label_names_are_used(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    rows.save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "rows.parquet")
    for name in ("saved", "rows.parquet"):
        source = open_labelled(str(tmp_path / name))
        assert list(source.read()) == [("a", "yes"), ("b", "no")]
        assert source.label_names == ["no", "yes"]
    hidden = datasets.Dataset.from_dict({"text": ["a"], "label": [-1]}, features=features)
    hidden.to_parquet(tmp_path / "hidden.parquet")
    with pytest.raises(ScratchError, match="'label' is -1, which is not one of the 2 classes"):
        list(open_labelled(str(tmp_path / "hidden.parquet")).read())
