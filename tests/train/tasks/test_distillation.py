"""Knowledge distillation: the loss is the formula of the paper, and a run learns from its teacher."""

import pytest
import torch
from helpers.models import save_tiny
from helpers.processes import run_here
from helpers.training import metrics
from torch.nn import functional as F

from scratch_gpt.train.tasks.distillation.task import distillation_loss

TINY = ("--context_length", "16", "--batch_size", "4", "--num_threads", "1", "--precision", "fp32")
TINY += ("--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "1", "--log_every", "1")


def test_the_loss_is_the_weighted_sum_of_divergence_and_cross_entropy():
    student, teacher, labels = torch.randn(5, 7), torch.randn(5, 7), torch.tensor([0, 3, 6, 2, 1])
    soft, p = (student / 2).softmax(-1), (teacher / 2).softmax(-1)
    expected = 0.7 * 4 * (p * (p / soft).log()).sum(-1) - 0.3 * student.log_softmax(-1)[range(5), labels]
    assert torch.allclose(distillation_loss(student, teacher, labels, 0.7, 2.0), expected, atol=1e-6)
    same = distillation_loss(teacher, teacher, labels, 1.0, 3.0)
    assert torch.allclose(same, torch.zeros(5), atol=1e-6)


def test_the_gradient_at_temperature_1_is_the_difference_of_the_distributions():
    student, teacher = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    distillation_loss(student, teacher, torch.zeros(3, dtype=torch.long), 1.0, 1.0).sum().backward()
    assert torch.allclose(student.grad, F.softmax(student, -1) - F.softmax(teacher, -1), atol=1e-6)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A directory with a teacher and a text file."""
    folder = tmp_path_factory.mktemp("distillation")
    save_tiny(folder / "teacher")
    (folder / "text.txt").write_text("a b c c b a " * 200)
    return folder


def train(folder, *options: str, check: bool = True):
    return run_here(
        "scratch-gpt", "train", "distillation", "--dataset", "text.txt", *TINY, *options, cwd=folder, check=check
    )


def test_run_learns_from_its_teacher_resumes_exactly_and_names_it_in_the_card(workspace):
    options = ("--teacher", "teacher", "--optimizer", "adamw", "--eval_every", "2")
    train(workspace, *options, "--max_steps", "4", "--output_dir", "whole")
    rows = metrics(workspace / "whole")
    assert rows[-1]["val_loss"] < rows[1]["val_loss"]
    assert len({row["teacher_loss"] for row in rows if "val_loss" in row}) == 1
    assert "| teacher | `teacher` |" in (workspace / "whole" / "README.md").read_text()
    verified = run_here("scratch-gpt", "verify", "whole", cwd=workspace)
    assert "bit-equal" in verified.stdout


def test_another_vocabulary_and_a_missing_teacher_are_refused(workspace):
    assert "give one with --teacher" in train(workspace, check=False).stderr
    refused = train(workspace, "--teacher", "teacher", "--tokenizer", "bpe", "--output_dir", "other", check=False)
    assert refused.returncode == 2
    assert "the student has the teacher's tokenizer" in refused.stderr
