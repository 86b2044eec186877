"""Training on a mixture of texts: what is said and recorded, the metrics, and an exact resume."""

import json
import math
import shutil

import pytest
import torch
import yaml
from helpers.processes import PRETRAIN, TINY_RUN, run_here
from helpers.training import metrics, weights

WORDS = {"small": "one day Anna had two old lamps. ", "large": "long ago Max sold a small egg near the mill. "}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two tables of documents that all differ: one of 60, and one of 600."""
    folder = tmp_path_factory.mktemp("texts")
    for name, count in (("small", 60), ("large", 600)):
        rows = [json.dumps({"text": f"{number} {WORDS[name]}" * (1 + number % 3)}) + "\n" for number in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    return folder


def train(folder, texts, *options, shares=("0.7", "0.3"), check=True):
    named = zip(("small", "large"), shares, strict=True)
    flags = [part for name, share in named for part in ("--dataset", f"{texts / name}.jsonl:{share}")]
    return run_here(PRETRAIN, "--output_dir", str(folder), *flags, *TINY_RUN, *options, check=check)


@pytest.fixture(scope="module")
def run(texts, tmp_path_factory):
    """A run of 8 steps, with dropout, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    options = ("--max_steps", "8", "--eval_every", "4", "--save_every", "4", "--keep_last", "9", "--log_every", "1")
    return folder, train(folder, texts, *options, "--dropout", "0.2").stdout


def test_shares_and_passes_are_said_and_recorded(run):
    folder, printed = run
    record = yaml.safe_load((folder / "run.yaml").read_text())
    mixture = record["facts"]["mixture"]
    assert [part["name"] for part in mixture] == ["small.jsonl", "large.jsonl"]
    assert [part["weight"] for part in mixture] == pytest.approx([0.7, 0.3])
    small, large = (part["tokens"] for part in mixture)
    assert mixture[0]["passes"] == pytest.approx(0.7 / 0.3 * large / small)
    assert mixture[1]["passes"] == 1
    assert record["facts"]["train"]["tokens"] == small + large
    passes = f"{mixture[0]['passes']:.4g} passes"
    assert f"0.7 of the training tokens are of small.jsonl, of which an epoch is {passes}; text repeated" in printed
    assert "0.3 of the training tokens are of large.jsonl, of which an epoch is 1 pass\n" in printed
    assert "the comparison with simple methods is omitted" in printed
    assert "0.7 small.jsonl + 0.3 large.jsonl" in (folder / "README.md").read_text()


def test_metrics_are_those_of_the_mixture(run):
    rows = [row for row in metrics(run[0]) if "val_loss" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["val_loss"] == pytest.approx(0.7 * row["val_loss_1"] + 0.3 * row["val_loss_2"], rel=1e-6)
        assert row["val_loss_1"] != row["val_loss_2"]
        # The tokens are characters, all of one byte, and each document has an end.
        assert row["val_bits_per_byte"] > row["val_loss"] / math.log(2)
        assert row["val_loss_per_character"] == pytest.approx(row["val_bits_per_byte"] * math.log(2))


def test_resumed_run_continues_exactly(run, texts, tmp_path):
    whole, folder = run[0], tmp_path / "resumed"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints/step-00000008")
    refused = train(folder, texts, "--resume", shares=("0.6", "0.4"), check=False)
    assert refused.returncode == 2
    assert "the data has changed" in refused.stderr or "can't change dataset" in refused.stderr
    run_here(PRETRAIN, "--output_dir", str(folder), "--resume")
    expected = weights(whole / "checkpoints/step-00000008")
    resumed = weights(folder / "checkpoints/step-00000008")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())
    timeless = [
        [{name: value for name, value in row.items() if "second" not in name} for row in metrics(each)]
        for each in (whole, folder)
    ]
    assert timeless[0] == timeless[1]


def test_weights_that_are_no_weights_end_the_command(texts, tmp_path):
    refused = train(tmp_path / "run", texts, shares=("0.7", "0"), check=False)
    assert refused.returncode == 2
    assert "has the weight 0, want a finite number above 0" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_text_of_one_dataset_may_be_a_yaml_string_or_a_list(texts, tmp_path):
    path = str(texts / "small.jsonl")
    for number, value in enumerate((path, [path])):
        config = tmp_path / f"{number}.yaml"
        config.write_text(yaml.safe_dump({"dataset": value, "max_steps": 1}))
        folder = tmp_path / str(number)
        run_here(PRETRAIN, "--config", str(config), "--output_dir", str(folder), *TINY_RUN, "--no-baselines")
        record = yaml.safe_load((folder / "run.yaml").read_text())
        assert record["arguments"]["dataset"] == [path]
        assert "mixture" not in record["facts"]
