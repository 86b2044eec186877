"""Tuning of models with few learned positions: prompts and completions stay within them, also after the run."""

import json

import pytest
import torch
from helpers.processes import run_here
from helpers.published import TEXTS, save_published
from transformers import pipeline

QUICK = ("--max_steps", "2", "--num_threads", "1", "--precision", "fp32", "--compile", "off", "--eval_every", "1")
REWARD = ("--reward", "re:a", "--validation_prompts", "4", "--prompts_per_rollout", "8")
POSITIONS = 48
ROWS = {
    "language_modeling": [{"text": text} for text in TEXTS],
    "dpo": [{"prompt": text[:9], "chosen": " cat", "rejected": " mat"} for text in TEXTS],
    "policy_gradient": [{"prompt": f"{text[:9]}{i}"} for i, text in enumerate(TEXTS)],
}
LONG = [{"prompt": f"{text} {text} {i}"} for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("positions")
    for family, rows in {**ROWS, "long": LONG}.items():
        (root / f"{family}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_published("gpt2", root / "native", n_positions=POSITIONS)
    run_here("scratch-gpt", "import", str(root / "native"), str(root / "gpt"))
    return root


def tune(base, family: str, *arguments: str, data: str | None = None, check: bool = True):
    options = ("--init_from", str(base / "gpt"), "--dataset", str(base / f"{data or family}.jsonl"), *QUICK)
    options += REWARD if family == "policy_gradient" else ()
    folder = ("--output_dir", str(base / f"run-{family}"))
    return run_here("scratch-gpt", "train", family, *folder, *options, *arguments, check=check)


@pytest.mark.parametrize("family", ROWS)
def test_a_run_and_the_use_of_its_model_stay_within_the_positions(base, family):
    """The run evaluates, samples and demonstrates its model; the pipeline of the model card then completes a prompt."""
    tune(base, family)
    torch.manual_seed(0)
    generator = pipeline("text-generation", str(base / f"run-{family}"), device="cpu")
    (found,) = generator("the cat sat")
    assert len(found["generated_text"]) > len("the cat sat")


@pytest.mark.parametrize(
    ("arguments", "data", "reason"),
    [
        (
            ("--max_new_tokens", str(POSITIONS)),
            None,
            f"no prompt leaves {POSITIONS} of the model's {POSITIONS} positions",
        ),
        ((), "long", "too few of the model's 48 positions"),
    ],
)
def test_prompts_that_leave_no_room_are_refused_before_the_first_step(base, arguments, data, reason):
    result = tune(base, "policy_gradient", *arguments, "--output_dir", str(base / "none"), data=data, check=False)
    assert result.returncode == 2
    assert reason in result.stderr
    assert not (base / "none").exists()
