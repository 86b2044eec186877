"""Preparation of a run: rows of each split, lengths, and recorded facts."""

import json
import math

import pytest
import torch
import yaml
from helpers.models import tiny_encoder, tiny_model
from helpers.processes import PROJECT, run_here
from helpers.training import make_trainer, trainer_with

from scratch_gpt import ScratchEncoderForMaskedLM, train_tokenizer
from scratch_gpt.errors import TrainingError
from scratch_gpt.train.engine.task import DataState
from scratch_gpt.train.engine.training_state import TrainingState, check_state
from scratch_gpt.train.tasks.sft.arguments import ConversationArguments
from scratch_gpt.train.tasks.sft.build import HELD_OUT, read_conversations


def test_built_in_questions_vary_with_the_seed_and_held_out_ones_do_not():
    first, again, other = (read_conversations(ConversationArguments(num_questions=400), seed) for seed in (1, 1, 2))
    assert first.parts["train"] == again.parts["train"] != other.parts["train"]
    for split in ("validation", "test"):
        assert first.parts[split] == other.parts[split]
        assert len(first.parts[split]) == HELD_OUT
    assert first.summary.test_rows == HELD_OUT
    assert first.summary.rows_read == sum(map(len, first.parts.values()))


@pytest.mark.parametrize("context_length", [6, 64])
def test_classifier_truncates_texts_at_the_shorter_length(context_length, tmp_path):
    """The length is the smaller of --context_length and the encoder's positions; unknown characters are counted."""
    base = tmp_path / "base"
    tokenizer = train_tokenizer(["abc dull fine"], "char", template="encoder", model_max_length=16)
    encoder = tiny_encoder(
        ScratchEncoderForMaskedLM, "bert", vocab_size=len(tokenizer), max_position_embeddings=16, pad_token_id=0
    )
    encoder.save_pretrained(base)
    tokenizer.save_pretrained(base)
    rows = "".join(f"ß{word} {'ab ' * 12},{word}\n" for word in ("dull", "fine")) * 12
    (tmp_path / "texts.csv").write_text(f"text,label\n{rows}")
    options = f"--init_from {base} --dataset texts.csv --output_dir run --context_length {context_length}"
    options += " --max_steps 1 --tokens_per_batch 64 --num_threads 1 --validation_fraction 0.5 --precision fp32"
    said = run_here(str(PROJECT / "training" / "classification.py"), *options.split(), cwd=tmp_path).stdout
    assert ("context_length is 64, and the model has 16 positions: those are used" in said) == (context_length == 64)
    facts = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["facts"]
    length = min(context_length, 16)
    for split in ("train", "validation"):
        assert facts[split]["tokens"] == length * facts[split]["texts"]
        assert facts[split]["long"] == facts[split]["texts"]
    assert facts["data"]["unknown_share"] == pytest.approx(1 / length, rel=0.35)  # one character of each text


def test_staging_directories_of_a_killed_save_are_removed_at_start(tmp_path):
    run = tmp_path / "run"
    trainer = make_trainer(run, tiny_model("llama"), max_steps=1)
    for name in (".best.x1.partial", "checkpoints/.step-00000001.x2.partial", "checkpoints/step-00000001"):
        (run / name).mkdir(parents=True)
        (run / name / "model.safetensors").write_text("")
    arguments = {"accelerator": trainer.accelerator, "optimizers": trainer.optimizers, "task": trainer.task}
    arguments |= {"args": trainer.args, "directory": trainer.directory, "folder": run, "model": trainer.model}
    type(trainer)(**arguments)
    assert sorted(path.name for path in run.rglob("*") if path.is_dir()) == ["checkpoints", "step-00000001"]


WRONG = [
    {"step": -1}, {"tokens": 1.5}, {"best_step": "1"}, {"evaluations_since_best": 2**53}, {"seconds": math.inf},
    {"seconds": "1"}, {"best_metric": math.nan}, {"best_metric": [1]}, {"stopped_early": 1},
    {"data": DataState(epoch=-1)}, {"data": DataState(row=None)},
]  # fmt: skip


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_invalid_training_state_is_refused(fields):
    check_state(TrainingState(best_metric=1.5, seconds=2))
    with pytest.raises(ValueError, match=r"^its "):
        check_state(TrainingState(**fields))


def test_failure_record_has_sorted_learning_rates(tmp_path):
    model = tiny_model("llama")
    optimizers = [torch.optim.SGD([weight], lr=0.0) for weight in model.parameters()]
    for number, optimizer in enumerate(optimizers):
        optimizer.param_groups[0]["peak_lr"] = (8.0, 1.0, 16.0)[number % 3]  # a set has another order
    trainer = make_trainer(tmp_path / "run", model, optimizers=optimizers, max_steps=1)
    trainer.recent_steps.append({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    with pytest.raises(TrainingError, match=r"failure\.json"):
        trainer._fail(trainer.state.data, 0.5)
    assert json.loads((tmp_path / "run/failure.json").read_text())["learning_rates"] == [0.5, 4.0, 8.0]


@pytest.mark.slow
def test_patience_restarts_with_each_best_evaluation(tmp_path):
    """Worse, better, worse, worse: only two consecutive ones stop the run."""
    factors = [2.0, 3.0, 1.0, 4.0, 5.0, 6.0, 7.0]
    state = trainer_with(tmp_path / "run", factors, early_stopping_patience=2, max_steps=14).run()
    assert (state.best_step, state.step, state.stopped_early) == (6, 10, True)
