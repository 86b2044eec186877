"""The default length of rows when a model is tuned: what the data needs, within the model's positions."""

import json

import pytest
import yaml
from helpers.models import tiny_model
from helpers.processes import run_here
from helpers.published import SENTENCE, save_published

from scratch_gpt.train.cost_estimate.this_machine import activation_bytes
from scratch_gpt.train.tasks.context import activation_memory, length_limit, row_length

QUICK = ("--max_steps", "1", "--num_threads", "1", "--precision", "fp32", "--compile", "off", "--eval_every", "0")


@pytest.mark.parametrize(
    ("longest", "positions", "expected"),
    [
        *((10, 32768, 256), (257, 32768, 264), (1000, 32768, 1000), (1001, 1024, 1008), (1001, 1004, 1004)),
        *((30000, 32768, 2048), (10, 128, 128), (5000, None, 2048)),
    ],
)
def test_rows_are_as_long_as_the_data_needs(longest, positions, expected):
    assert row_length(longest, positions) == expected
    assert length_limit(positions) >= expected


@pytest.mark.parametrize("preset", ["gpt2", "llama", "nanochat"])
def test_estimated_memory_is_that_of_the_stored_tensors(preset):
    """The estimate is compared with the bytes that autograd stores; the vocabulary is small."""
    model = tiny_model(preset, hidden_size=128, num_hidden_layers=4, max_position_embeddings=128).train()
    model.set_attn_implementation("sdpa")
    measured = activation_bytes(model, 2, 64, bf16=False)
    estimated = activation_memory(model.config, 2 * 64)
    assert 0.8 < estimated / measured < 1.25


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("lengths")
    save_published("llama", root / "llama", max_position_embeddings=32768)
    save_published("bert", root / "bert")
    long, short = " ".join([SENTENCE] * 12), SENTENCE[:20]
    texts = [short + str(i) for i in range(40)] + [long + str(i) for i in range(3)]
    rows = {
        "sft": [{"prompt": text, "completion": short} for text in texts],
        "language_modeling": [{"text": text} for text in texts],
        "masked_lm": [{"text": text} for text in texts],
        "classification": [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(texts)],
    }
    for family, found in rows.items():
        (root / f"{family}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return root


def tune(base, family: str, name: str, *arguments: str):
    folder = base / f"{family}-{name}-{'-'.join(arguments)}"
    data = ("--dataset", str(base / f"{family}.jsonl"), "--output_dir", str(folder))
    options = ("--init_from", str(base / name), *data, *QUICK, *arguments)
    result = run_here("scratch-gpt", "train", family, *options)
    return yaml.safe_load((folder / "run.yaml").read_text())["facts"], " ".join(result.stdout.split())


@pytest.mark.parametrize("family", ["sft", "language_modeling"])
def test_long_examples_are_not_cut_at_256_tokens(base, family):
    facts, said = tune(base, family, "llama", "--batch_size", "1")
    length = facts["context_length"]
    assert 256 < length <= 1024
    assert length % 8 == 0
    assert f"rows of {length:,} tokens" in said
    assert "MB of activations (--context_length sets another length)" in said
    assert "were truncated" not in said


def test_a_given_length_wins_and_truncated_conversations_are_counted(base):
    short = ("--context_length", "128", "--batch_size", "1", "--max_bad_rows", "1")
    facts, said = tune(base, "sft", "llama", *short)
    assert facts["context_length"] == 128
    assert facts["train"]["long"] > 0
    assert "of activations" not in said
    assert "no answer within the context of 128 tokens" in said


def test_a_classifier_reads_whole_texts(base):
    facts, said = tune(base, "classification", "llama")
    assert facts["train"]["long"] == 0
    assert "texts of up to 2,048 tokens are not truncated, and the longest has" in said
    facts, said = tune(base, "classification", "bert")  # of 64 positions
    assert facts["train"]["long"] > 0
    assert "texts of up to 64 tokens are not truncated" in said
    facts, said = tune(base, "classification", "llama", "--context_length", "16")
    assert facts["train"]["long"] > 0
    assert "are not truncated" not in said


def test_masked_language_models_use_their_positions(base):
    _, said = tune(base, "masked_lm", "bert")
    assert "rows of up to 64 tokens" in said
    _, said = tune(base, "masked_lm", "bert", "--context_length", "32")
    assert "rows of up to" not in said


def test_a_short_text_gives_shorter_rows(base, tmp_path):
    (tmp_path / "text.txt").write_text(SENTENCE)
    run_here(
        *("scratch-gpt", "train", "language_modeling", "--init_from", str(base / "llama"), *QUICK),
        *("--dataset", str(tmp_path / "text.txt"), "--output_dir", str(tmp_path / "run")),
    )
    facts = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["facts"]
    assert facts["context_length"] == facts["train"]["tokens"] < 256
