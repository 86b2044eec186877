"""Rows of several texts: proportions, passes, and rows as a function of seed and epoch."""

from itertools import islice

import numpy as np
import pytest

from scratch_gpt.data.batching.mixture import MixedRows, passes_of
from scratch_gpt.data.batching.packing import PackedRows
from scratch_gpt.data.batching.token_shards import Shard
from scratch_gpt.errors import ScratchError
from scratch_gpt.train.tasks.language_modeling import mixture
from scratch_gpt.train.tasks.language_modeling.arguments import MixtureArguments

T, BOS, PAD = 32, 1, 0


def rows_of(total: int, first: int, seed: int = 4) -> PackedRows:
    """Rows of a text of about `total` tokens, which are numbered from `first` on."""
    lengths = np.random.default_rng(first).integers(2, 100, total // 50)
    tokens = np.arange(first, first + lengths.sum(), dtype=np.uint32)
    return PackedRows(Shard(tokens, np.cumsum(lengths), len(tokens), len(tokens)), T, BOS, PAD, seed)


def mixed(weights=(0.7, 0.3), seed: int = 4) -> MixedRows:
    return MixedRows([rows_of(4_000, 1_000, seed), rows_of(30_000, 1_000_000, seed)], weights, seed)


def tokens_of(rows: MixedRows, epoch: int) -> np.ndarray:
    """Return the labels of all rows of an epoch, in order."""
    plan = rows.plan(epoch)
    labels = rows.batch([(plan, row) for row in range(len(plan))])["labels"].numpy().ravel()
    return labels[labels >= 0]


@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.5, 0.5), (0.02, 0.98)])
def test_tokens_have_the_proportions_of_the_weights(weights):
    rows = mixed(weights)
    tokens = tokens_of(rows, 0)
    assert (tokens < 1_000_000).mean() == pytest.approx(weights[0], rel=0.02)
    halves = [(half < 1_000_000).mean() for half in np.array_split(tokens, 2)]
    assert halves == pytest.approx([weights[0]] * 2, rel=0.15), "the texts are shuffled together"


def test_longest_text_is_read_once_and_the_other_again_and_again():
    rows = mixed()
    small, large = (part.shard.tokens for part in rows.parts)
    passes = rows.passes[0]
    assert passes == pytest.approx(0.7 / 0.3 * len(large) / len(small))
    assert rows.passes[1] == 1
    for epoch in (0, 1):
        tokens = tokens_of(rows, epoch)
        assert sorted(tokens[tokens >= 1_000_000]) == large.tolist()
        counts = np.bincount(tokens[tokens < 1_000_000] - 1_000, minlength=len(small))
        assert set(counts) == {int(passes), int(passes) + 1}
        assert counts.mean() == pytest.approx(passes, rel=0.01)


def test_each_pass_has_an_order_of_its_own():
    rows = mixed()
    found = {}
    for epoch in (0, 1):
        plan = rows.plan(epoch)
        for row in range(len(plan)):
            text, number, own = rows.resolve(plan, row)
            found.setdefault((text, number), []).append(own)
    passes = [number for text, number in found if text == 0]
    assert sorted(passes) == list(range(2 * int(np.ceil(rows.passes[0]))))
    for (text, number), own in found.items():
        assert own == list(range(len(own))), "the rows of a pass are in the order of its plan"
        if number < int(rows.passes[text]):
            assert len(own) == len(rows.parts[text].plan(number))
    orders = {tuple(rows.parts[0].plan(number).starts[:20]) for number in passes}
    assert len(orders) == len(passes)


def test_rows_are_a_function_of_seed_and_epoch():
    rows, again = mixed(), mixed()
    assert np.array_equal(tokens_of(again, 1), tokens_of(rows, 1))  # without epoch 0 before it
    assert not np.array_equal(tokens_of(rows, 0)[:500], tokens_of(rows, 1)[:500])
    assert not np.array_equal(tokens_of(mixed(seed=5), 1)[:500], tokens_of(rows, 1)[:500])


def test_passes_of_three_texts():
    assert passes_of([0.5, 0.25, 0.25], [100, 100, 100]) == [2, 1, 1]  # an epoch has 400 tokens
    assert passes_of([0.1, 0.6, 0.3], [100, 200, 900]) == pytest.approx([3, 9, 1])


def test_values_of_dataset_are_split_into_names_and_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:0.5").write_text("x")
    cases = {
        ("stories",): [("stories", 1.0)],
        ("a.txt:2", "b.txt:6"): [("a.txt", 0.25), ("b.txt", 0.75)],
        ("a:0.5",): [("a:0.5", 1.0)],  # a file of this name
        ("a:0.5:0.7", "C:\\b.txt:0.3"): [("a:0.5", 0.7), ("C:\\b.txt", 0.3)],
        ("user/name:1e-1", "x:.3"): [("user/name", 0.25), ("x", 0.75)],
        ("C:\\b.txt",): [("C:\\b.txt", 1.0)],
    }
    for values, expected in cases.items():
        found = mixture.weighted_names(values)
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("a:0.7", "b"), "b has no weight, want b:WEIGHT"),
        (("a:0.7", "b:x"), "b:x has no weight"),
        (("a:0", "b:1"), "a:0 has the weight 0, want a finite number above 0"),
        (("a:-1", "b:1"), "a:-1 has the weight -1"),
        (("a:nan", "b:inf"), "a:nan has the weight nan.*; b:inf has the weight inf"),
        (("a", "b"), "a has no weight.*; b has no weight"),
    ],
)
def test_bad_weights_are_reported_together(values, message):
    with pytest.raises(ScratchError, match=message):
        mixture.weighted_names(values)


def texts_of(folder, weights, sizes=(30, 300)):
    """Two open texts of short documents: words of "a", and of "b"."""
    for letter, size in zip("ab", sizes, strict=True):
        (folder / f"{letter}.jsonl").write_text(f'{{"text": "{letter * 9}"}}\n' * size)
    values = [f"{folder / letter}.jsonl:{weight}" for letter, weight in zip("ab", weights, strict=True)]
    return mixture.open_texts(MixtureArguments(dataset=values), seed=0)


def test_tokenizer_is_trained_on_the_texts_in_their_proportions(tmp_path):
    texts = texts_of(tmp_path, (0.25, 0.75))
    read = list(mixture.documents(texts))
    assert read.count("b" * 9) == 300, "the longest text is read once"
    assert read.count("a" * 9) == pytest.approx(100, abs=2), "the other again and again"
    first = list(islice(mixture.documents(texts), 40))
    assert first.count("a" * 9) == 10


def test_texts_that_can_not_be_mixed_are_refused(tmp_path):
    texts_of(tmp_path, (1, 1))
    path = str(tmp_path / "a.jsonl")
    with pytest.raises(ScratchError, match="is the same text as another one: give it once"):
        mixture.open_texts(MixtureArguments(dataset=[f"{path}:0.5", f"{path}:0.5"]), 0)
    both = [f"{path}:0.5", f"{tmp_path / 'b.jsonl'}:0.5"]
    with pytest.raises(ScratchError, match="--validation_dataset can't be used with several --dataset"):
        mixture.open_texts(MixtureArguments(dataset=both, validation_dataset=path), 0)


def test_fingerprint_depends_on_the_weights(tmp_path):
    weights = [(0.5, 0.5), (0.6, 0.4), (3, 3)]
    first, other, same = (mixture.fingerprint(texts_of(tmp_path, each)) for each in weights)
    assert first == same
    assert first != other
