"""Edge cases of training steps, metrics, signals and batches."""

import json
import math
import os
import signal
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers.models import tiny_model
from helpers.processes import PROJECT, TWO_PROCESSES, run_here, run_python
from helpers.training import trainer_with
from safetensors.torch import load_file

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching.bucketing import Buckets
from scratch_gpt.data.readers.preferences import Preference
from scratch_gpt.errors import ScratchError
from scratch_gpt.train.checkpoints.snapshot import unwrapped
from scratch_gpt.train.engine.plots import plot_losses
from scratch_gpt.train.engine.run_directory import read_metrics
from scratch_gpt.train.engine.signals import Interruption
from scratch_gpt.train.tasks.dpo.task import EncodedPairs, Preferences

# --- a run in which nothing is scored --------------------------------------------------------------------


@pytest.fixture(scope="module")
def unscored_run(tmp_path_factory):
    """An encoder pre-trained on texts of one word, of which none is masked in most batches; validation texts are
    ordinary."""
    folder = tmp_path_factory.mktemp("unscored")
    (folder / "train.txt").write_text("Haus\n", encoding="utf-8")
    (folder / "validation.txt").write_text("Haus und Hof und Haus und Hof\n" * 20, encoding="utf-8")
    options = ("--max_steps", "12", "--log_every", "1", "--eval_every", "6", "--hidden_size", "32", "--seed", "3")
    options += ("--num_attention_heads", "2", "--num_hidden_layers", "1", "--num_threads", "1")
    files = ("--dataset", str(folder / "train.txt"), "--validation_dataset", str(folder / "validation.txt"))
    run_here(str(PROJECT / "training/masked_lm.py"), "--output_dir", str(folder / "run"), *files, *options)
    return folder / "run"


def test_step_without_scored_tokens_does_not_divide_by_zero(unscored_run):
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (unscored_run / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert 0 < sum("train_loss" in row for row in rows) < 12
    assert all(row["tokens"] > before["tokens"] for before, row in pairwise(rows) if "train_loss" in row)
    assert all(row["tokens"] == before["tokens"] for before, row in pairwise(rows) if "train_loss" not in row)
    assert all(row["val_loss"] > 0 for row in rows if row["step"] in (6, 12))
    for weight in load_file(unscored_run / "model.safetensors").values():
        assert weight.isfinite().all()


def test_run_without_scored_validation_tokens_publishes_a_model(unscored_run, tmp_path):
    """No token of the validation texts is masked."""
    texts = unscored_run.parent
    files = ("--dataset", str(texts / "validation.txt"), "--validation_dataset", str(texts / "train.txt"))
    options = ("--max_steps", "2", "--hidden_size", "32", "--num_attention_heads", "2", "--num_hidden_layers", "1")
    options += ("--num_threads", "1", "--mask_probability", "0.001", "--output_dir", str(tmp_path / "run"))
    run_here(str(PROJECT / "training/masked_lm.py"), *files, *options)
    assert [row for row in read_metrics(tmp_path / "run") if "val_loss" in row] == []
    assert (tmp_path / "run/model.safetensors").exists()
    assert (tmp_path / "run/README.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factors", "best"),
    [
        ([math.nan, 1.0, 2.0], 4),
        ([1.0, math.nan, 2.0], 2),
        ([math.nan, math.nan, math.inf], 6),
        ([2.0, math.nan, 1.0], 6),
    ],
)
def test_non_finite_metric_is_never_the_best(tmp_path, factors, best, capsys):
    progress = trainer_with(tmp_path / "run", factors).run()
    assert progress.best_step == best
    assert progress.best_metric is None or math.isfinite(progress.best_metric)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert ["val_loss" in row for row in rows] == [math.isfinite(factor) for factor in factors]
    assert (tmp_path / "run/model.safetensors").exists()
    assert (tmp_path / "run/loss.png").exists()
    assert "not finite, because nothing was scored or the model overflows: val_loss" in " ".join(
        capsys.readouterr().out.split()
    )


def test_validation_without_scored_tokens_has_no_loss(tmp_path):
    """Regression: its loss was 0, the best possible."""
    progress = trainer_with(tmp_path / "run", [], early_stopping_patience=2).run()
    assert (progress.best_metric, progress.best_step, progress.step) == (None, 4, 4)
    assert progress.stopped_early
    assert not [row for row in read_metrics(tmp_path / "run") if "val_loss" in row or "val_accuracy" in row]


def test_run_without_losses_can_be_plotted(tmp_path):
    plot_losses([{"tokens": 0, "step": 1}], tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size


SUMS = """
from accelerate import Accelerator, DistributedType
from scratch_gpt.evaluation.processes import sum_over_processes
accelerator = Accelerator(cpu=True)
count, loss, signal = sum_over_processes(accelerator, 2**40 + 1, 1e8 + 0.125, accelerator.process_index)
assert (count, loss, signal) == (2**41 + 2, 2e8 + 0.25, 1), (count, loss, signal)
assert [type(number) for number in (count, loss, signal)] == [int, float, int]
accelerator.end_training()  # without it, a process sometimes aborts at its end
"""


@pytest.mark.slow
def test_sums_over_processes_are_exact(tmp_path):
    """Regression: in float32, counts beyond 2^24 and the last digits of a loss were lost."""
    script = tmp_path / "sums.py"
    script.write_text(SUMS, encoding="utf-8")
    run_python(*TWO_PROCESSES, str(script), cwd=PROJECT)


def test_signal_during_a_print_is_handled(monkeypatch):
    """Printing from the handler raised "reentrant call" if the signal arrived during a print to the same stream."""

    class Stream:
        """A stream that is interrupted by a signal during a write."""

        busy = False

        def write(self, text):
            assert not self.busy, "reentrant call"
            self.busy = True
            os.kill(os.getpid(), signal.SIGTERM)
            self.busy = False

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stderr", Stream())
    with Interruption() as interruption:
        sys.stderr.write("a")
    assert interruption.signal == signal.SIGTERM


def test_signal_message_is_written_to_the_file_descriptor(capfd):
    with Interruption():
        os.kill(os.getpid(), signal.SIGINT)
    assert "finishing the step and saving" in capfd.readouterr().err


def test_unigram_vocabulary_error_states_no_maximum_size():
    """Its training prunes: if 400 tokens yield 303, 450 may still work."""
    texts = [f"{i} houses stand in the {i}th street of the old town" for i in range(40)]
    sizes = {}
    for size in (400, 900):
        with pytest.raises(ScratchError, match=f"vocab_size is {size}, but these texts yield") as caught:
            train_tokenizer(texts, "unigram", size)
        sizes[size] = str(caught.value)
    assert all("choose another size" in message and "at most" not in message for message in sizes.values())
    with pytest.raises(ScratchError, match="vocab_size is 5, fewer than these texts have characters"):
        train_tokenizer(texts, "unigram", 5)


# --- batches ---------------------------------------------------------------------------------------------


def test_padding_does_not_exceed_the_longest_text():
    """Regression: 25 tokens were rounded up to 28, more than a model had learned positions."""
    lengths = np.array([3, 10, 21, 25, 25])
    for seed in (0, None):
        plan = Buckets(lengths, 100, seed).plan(0)
        assert max(length for length, _ in plan) == 25
        for length, numbers in plan:
            assert length >= lengths[numbers].max()


def test_batches_of_pairs_have_the_shape_of_their_bucket():
    """Regression: DPO padded to the longest row of each batch, and kernels were compiled for each new shape."""
    tokenizer = train_tokenizer(["a b c d e"], "char")
    pairs = [Preference("a" * (1 + i % 30), "b" * (1 + i % 11), "c" * (1 + i % 7)) for i in range(300)]
    encoded = EncodedPairs(pairs, tokenizer, 64)
    model = tiny_model("gpt2", vocab_size=len(tokenizer))
    parts = {"train": encoded, "validation": encoded}
    task = Preferences(Accelerator(cpu=True), parts, model, tokenizer.pad_token_id, 256, 0, 0.1)
    plan = task.train.plan(0)
    shapes = {task.make_batch(0, number)["input_ids"].shape[1] for number in range(len(plan))}
    assert shapes == {length - 1 for length, _ in plan}
    assert len(shapes) < len(set(encoded.lengths.tolist()))
    # Padding does not change the loss.
    numbers = plan[0][1]
    short = task._batch("train", int(encoded.lengths[numbers].max()), numbers)
    torch.testing.assert_close(task.loss(model, task.make_batch(0, 0)), task.loss(model, short))


def test_unwrapping_keeps_the_autocast_of_the_trained_model():
    """By default, accelerate removes the autocast of a model that it unwraps."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model, inputs = torch.nn.Linear(8, 8), torch.randn(4, 8)
    exact = model(inputs)
    wrapped = accelerator.prepare(model)
    rounded = wrapped(inputs)
    assert not torch.equal(rounded, exact)
    assert unwrapped(accelerator, wrapped) is model
    assert torch.equal(wrapped(inputs), rounded)
    AcceleratorState._reset_state(reset_partial_state=True)
