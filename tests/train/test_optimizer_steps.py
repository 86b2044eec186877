"""Training steps compared with formulas: gradients weighted by tokens, weight decay, the length of a run, early
stopping, the choice of the best model, and dropout in training only."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.models import tiny_config, tiny_encoder, tiny_model, tiny_seq2seq
from helpers.processes import PRETRAIN, TINY_RUN, run_here
from helpers.training import ROW, make_trainer, shard_of, trainer_with
from torch.nn import functional as F

from scratch_gpt import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchGPTForCausalLM,
    train_tokenizer,
)
from scratch_gpt.errors import ScratchError
from scratch_gpt.train.arguments.training import TrainingArguments
from scratch_gpt.train.engine.task import DataState, items_left
from scratch_gpt.train.optim.optimizers import build_optimizers
from scratch_gpt.train.tasks import FAMILIES, recipe_of
from scratch_gpt.train.tasks.language_modeling.task import LanguageModeling

NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}


def sgd(model, lr: float) -> list[torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer.param_groups[0]["peak_lr"] = lr
    return [optimizer]


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (2, 2), (1, 4)])
def test_step_uses_the_mean_gradient_over_tokens_for_any_accumulation(batch_size, accumulation, tmp_path):
    """The gradient of the mean cross-entropy over all tokens of four rows of different lengths, computed directly."""
    model = tiny_model("llama", **NO_DROPOUT)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "max_steps": 1}
    trainer = make_trainer(tmp_path / "run", model, optimizers=sgd(model, 0.5), **settings)
    stream = trainer.task.batches(DataState())
    batches = [next(stream)[0] for _ in range(accumulation)]
    counts = [int((row != -100).sum()) for batch in batches for row in batch["labels"]]
    assert len(set(counts)) == 4, counts
    rows = [(x[:n], y[:n]) for b in batches for x, y, n in zip(b["input_ids"], b["labels"], counts_of(b), strict=True)]
    losses = torch.cat([F.cross_entropy(model(x[None]).logits[0], y, reduction="none") for x, y in rows])
    gradients = torch.autograd.grad(losses.mean(), list(model.parameters()))
    trainer.advance(1)
    for (name, old), gradient in zip(before.items(), gradients, strict=True):
        found = dict(trainer.model.named_parameters())[name]
        torch.testing.assert_close(found.detach(), old - 0.5 * gradient, atol=1e-6, rtol=1e-5, msg=name)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert trainer.recent_steps[-1]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert trainer.recent_steps[-1]["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert trainer.state.tokens == sum(counts)


def counts_of(batch) -> list[int]:
    return (batch["labels"] != -100).sum(dim=1).tolist()


def test_gradient_norm_is_clipped_over_all_batches_of_a_step(tmp_path):
    """With a learning rate of 1, the norm of an SGD step is `max_grad_norm`."""
    model = tiny_model("llama", **NO_DROPOUT)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    settings = {"gradient_accumulation_steps": 2, "max_steps": 1, "max_grad_norm": 0.01}
    trainer = make_trainer(tmp_path / "run", model, optimizers=sgd(model, 1.0), **settings)
    trainer.advance(1)
    moved = sum(float((p.detach() - old).square().sum()) for p, old in zip(model.parameters(), before, strict=True))
    assert math.sqrt(moved) == pytest.approx(0.01, rel=1e-3)
    assert trainer.recent_steps[-1]["grad_norm"] > 0.1


MODELS = {
    "gpt2": lambda: tiny_model("gpt2", **NO_DROPOUT),
    "llama": lambda: tiny_model("llama"),
    "nanochat_ngram": lambda: tiny_model("nanochat_ngram"),
    "vaswani2017": lambda: tiny_seq2seq("vaswani2017"),
    "modern": lambda: tiny_seq2seq("modern"),
    "bert": lambda: tiny_encoder(ScratchEncoderForMaskedLM, "bert"),
    "classifier": lambda: tiny_encoder(ScratchEncoderForSequenceClassification, "bert"),
}
DECAYED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("name", MODELS)
def test_weight_decay_applies_to_matrices_only(name, optimizer):
    """With zero gradients, a step multiplies matrices by 1 - learning rate · weight decay (Loshchilov and Hutter 2019)
    and does not change embeddings, heads, norms and biases."""
    model = MODELS[name]()
    args = TrainingArguments(optimizer=optimizer, weight_decay=0.25, learning_rate=0.1, muon_learning_rate=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for each in build_optimizers(model, args):
        each.step()
    decayed = 0
    for weight, parameter in model.named_parameters():
        decays = weight.endswith(tuple(f"{part}.weight" for part in DECAYED))
        factor = 1 - 0.1 * 0.25 if decays else 1.0
        torch.testing.assert_close(parameter.detach(), before[weight] * factor, atol=1e-7, rtol=1e-6, msg=weight)
        decayed += decays
    assert decayed >= 10


def test_adamw_takes_its_settings_from_the_arguments():
    """Two steps equal the formula of Kingma and Ba (2015), for a vector, which has no weight decay."""
    model = tiny_model("llama")
    args = TrainingArguments(optimizer="adamw", learning_rate=0.01, adam_beta1=0.6, adam_beta2=0.7)
    (optimizer,) = build_optimizers(model, args)
    weight = model.model.norm.weight
    expected, m, v = weight.detach().clone(), torch.zeros(32), torch.zeros(32)
    for step in (1, 2):
        gradient = torch.linspace(-1, step, 32)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight.grad = gradient.clone()
        optimizer.step()
        m, v = 0.6 * m + 0.4 * gradient, 0.7 * v + 0.3 * gradient**2
        expected -= 0.01 * (m / (1 - 0.6**step)) / ((v / (1 - 0.7**step)).sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach(), expected, atol=1e-6, rtol=1e-5)


# --- length of a run -----------------------------------------------------------------------------------


def test_a_fraction_of_an_epoch_is_rounded_up():
    rows = [7, 9, 11]
    for epochs, seen, left in (
        (0.5, (0, 0), 4),  # 3.5 rows of the first epoch
        (0.01, (0, 0), 1),
        (1.0, (0, 0), 7),
        (1.5, (0, 0), 7 + 5),
        (2.5, (0, 0), 7 + 9 + 6),
        (2.5, (1, 3), 9 - 3 + 6),
        (1.5, (1, 2), 5 - 2),
        (1.0, (1, 2), 0),
    ):
        assert items_left(lambda epoch: rows[epoch], DataState(*seen), epochs) == left, (epochs, seen)


@pytest.mark.parametrize(("processes", "batches"), [(1, 3), (2, 2)])
def test_partial_last_batch_of_an_epoch_fraction_counts(processes, batches):
    """Half of 11 rows is 6: three batches of 2 rows; on two processes two each, the last of which exceeds the half."""
    accelerator = SimpleNamespace(process_index=0, num_processes=processes)
    shards = {"train": shard_of([16] * 11), "validation": shard_of([16])}
    task = LanguageModeling(accelerator, shards, train_tokenizer(["a"], "char"), ROW, 2, seed=0)  # type: ignore[arg-type]
    assert task.batches_left(DataState(), 0.5) == batches


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_step_with_incomplete_accumulation_is_taken(accumulation, steps, tmp_path):
    """Three batches of two rows are half an epoch of 11."""
    model = tiny_model("llama")
    settings = {"epochs": 0.5, "gradient_accumulation_steps": accumulation, "lengths": [16] * 11}
    trainer = make_trainer(tmp_path / "run", model, **settings)
    assert trainer.total_steps == steps


# --- stopping, and the best model ------------------------------------------------------------------------

FROZEN = {"optimizer": "adamw", "learning_rate": 1e-30, "eval_every": 1, "save_every": 0}  # no weight ever changes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factors", "patience", "best", "last"),
    [
        ([1, 2, 3, 4, 5, 6], 1, 1, 2),
        ([1, 2, 3, 4, 5, 6], 2, 1, 3),
        ([1, 2, 3, 4, 5, 6], 3, 1, 4),
        ([3, 4, 2, 5, 6, 1], 2, 3, 5),  # a better one resets the count
        ([2, 2, 2, 1, 1, 1], 2, 1, 3),  # an equal one is not better
        ([6, 5, 4, 3, 2, 1], 1, 6, 6),
        ([1, math.nan, 2, 0.5, 1, 1], 2, 1, 3),  # a non-finite one is not better
        ([1, 2, 3, 4, 5, 6], None, 1, 6),
    ],
)
def test_early_stopping_stops_after_patience_evaluations(factors, patience, best, last, tmp_path):
    """Each step is evaluated, so that evaluations and steps have the same numbers."""
    progress = trainer_with(tmp_path / "run", factors, **FROZEN, early_stopping_patience=patience).run()
    assert (progress.best_step, progress.step) == (best, last)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, last + 1))


HIGHER = {"val_bleu", "val_bleu_lowercase", "val_chrf", "val_exact", "val_accuracy", "val_f1", "val_margin"}
HIGHER |= {"val_reward", "val_distinct_2"}
LOWER = {"val_loss", "val_perplexity", "val_bits_per_byte", "val_loss_per_character", "val_kl"}


def test_each_metric_has_the_correct_direction():
    """Each metric that can select the best model is in one of the two lists above."""
    metrics = [metric for family in FAMILIES for metric in recipe_of(family).card.metrics]
    assert {metric.name for metric in metrics} == HIGHER | LOWER
    for metric in metrics:
        assert metric.is_better(2.0, 1.0) == (metric.name in HIGHER), metric
        assert metric.is_better(1.0, 2.0) == (metric.name in LOWER), metric
        assert not metric.is_better(1.0, 1.0), metric


@pytest.mark.parametrize(("metric", "best"), [("val_loss", 1), ("val_accuracy", 2)])
def test_best_model_has_the_best_metric(metric, best, tmp_path):
    """The second evaluation has twice the loss and twice the accuracy of the others."""
    trainer = trainer_with(tmp_path / "run", [1.0, 2.0, 1.0], **FROZEN, max_steps=3, metric_for_best_model=metric)
    letter = trainer.directory.tokenizer.convert_tokens_to_ids("a")
    torch.nn.init.constant_(trainer.model.lm_head.bias[letter : letter + 1], 100)  # some predictions are correct
    progress = trainer.run()
    assert progress.best_metric > 0
    assert progress.best_step == best


def test_card_shows_the_highest_chrf(tmp_path):
    """It is neither the last one nor that of the lowest loss; the rows are changed so that these differ."""
    from helpers.processes import PROJECT

    run = tmp_path / "run"
    options = "--num_pairs 200 --vocab_size 300 --hidden_size 32 --encoder_layers 1 --decoder_layers 1 --num_beams 1"
    options += " --num_attention_heads 2 --tokens_per_batch 256 --num_threads 1 --max_steps 1"
    script = str(PROJECT / "training" / "translation.py")
    run_here(script, "--output_dir", str(run), *options.split(), "--metric_for_best_model", "val_chrf")
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    rows = [{**row, "val_chrf": chrf, "val_loss": loss} for chrf, loss in ((10.5, 3.5), (30.25, 4.5), (20.125, 2.5))]
    from scratch_gpt.hub.card import render_card

    card = render_card(yaml.safe_load((run / "run.yaml").read_text()), rows, recipe_of("translation").card)
    assert "30.2500" in card
    assert "4.5000" in card
    assert not {"10.5000", "20.1250", "3.5000", "2.5000"} & set(card.replace("|", " ").split())


def test_unknown_metric_is_refused(tmp_path):
    options = ("--output_dir", str(tmp_path / "run"), "--dataset", "stories", "--num_stories", "50", *TINY_RUN)
    result = run_here(PRETRAIN, *options, "--metric_for_best_model", "val_chrf", check=False)
    assert result.returncode == 2
    assert "metric_for_best_model is 'val_chrf', want one of val_loss" in result.stderr


# --- dropout ---------------------------------------------------------------------------------------------


def test_dropout_is_active_in_training_steps_only(tmp_path):
    """Before and after a step, an evaluation gives the loss of a model without dropout; a step after an evaluation
    applies dropout again."""
    model = ScratchGPTForCausalLM(tiny_config("gpt2", **dict.fromkeys(NO_DROPOUT, 0.5)))
    trainer = make_trainer(tmp_path / "run", model, optimizers=sgd(model, 0.0), max_steps=9)
    plain = ScratchGPTForCausalLM(tiny_config("gpt2", **NO_DROPOUT)).eval()
    plain.load_state_dict(model.state_dict())
    batches = list(trainer.task.validation_rows.ordered_batches(2))
    losses = [F.cross_entropy(plain(b["input_ids"], position_ids=b.get("position_ids")).logits.flatten(0, 1),
                              b["labels"].flatten(), reduction="sum") for b in batches]  # fmt: skip
    expected = sum(loss.item() for loss in losses) / sum(sum(counts_of(batch)) for batch in batches)
    stream, steps = trainer.task.batches(DataState()), []
    first = next(stream)
    for _ in range(3):
        assert trainer.evaluate()["val_loss"] == pytest.approx(expected, rel=1e-5)
        trainer.state.data = DataState()
        steps.append(trainer._step(iter([first]))[0])
    assert len(set(steps)) == 3, steps


def test_zero_is_refused_for_positive_settings(tmp_path):
    from scratch_gpt.train.arguments.training import check_arguments

    for name in ("epochs", "max_steps", "keep_last", "gradient_accumulation_steps", "log_every"):
        with pytest.raises(ScratchError, match=f"{name} is 0, want more than 0"):
            check_arguments(TrainingArguments(**{name: 0}))
