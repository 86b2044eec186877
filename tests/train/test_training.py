"""The training loop: exact resumes, equal losses on one process and two, correct metrics, early errors."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from helpers.models import tiny_config, tiny_encoder
from helpers.processes import PRETRAIN, PROJECT, TINY_LOOP, TINY_RUN, TWO_PROCESSES, run_here, run_python
from helpers.training import metrics, pretrain, weights
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from scratch_gpt import (
    ScratchBigramConfig,
    ScratchBigramForCausalLM,
    ScratchEncoderForSequenceClassification,
    ScratchGPTForCausalLM,
    ScratchGPTForSequenceClassification,
    export_native,
)
from scratch_gpt.data.batching.packing import PackedRows
from scratch_gpt.data.batching.token_shards import prepare
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.train.checkpoints.manifest import write_manifest
from scratch_gpt.train.engine.parsing import parse_arguments
from scratch_gpt.train.optim.optimizers import build_optimizers, parameter_groups
from scratch_gpt.train.optim.schedules import learning_rate_factor
from scratch_gpt.train.performance.attention_choice import choose_attention
from scratch_gpt.train.performance.blockwise_attention import BLOCKWISE, SHORT_ROW
from scratch_gpt.train.tasks.language_modeling.arguments import PretrainingArguments as OurTrainingArguments


def test_run_writes_a_model_directory_and_its_record(text_file, tmp_path):
    run = tmp_path / "run"
    printed = pretrain(run, text_file, "--max_steps", "12", "--eval_every", "6", "--log_every", "2").stdout
    assert "validation" in printed
    assert "Reloaded from" in printed
    names = {path.name for path in run.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= names
    assert {"loss.png", "metrics.jsonl", "run.yaml", "modeling_scratch_gpt.py", "block.py"} <= names
    assert not {name for name in names if name.startswith(".") or name.endswith((".bin", ".pt", ".pkl"))}

    rows = metrics(run)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    evaluated = [row for row in rows if "val_loss" in row]
    assert [row["step"] for row in evaluated] == [6, 12]
    assert all(row["sample"] for row in evaluated)
    assert all(
        {"tokens", "train_loss", "learning_rate", "grad_norm", "tokens_per_second"} <= row.keys() for row in rows
    )
    assert 11 * 4 * 32 < rows[-1]["tokens"] <= 12 * 4 * 32  # the first row of an epoch is shorter

    record = yaml.safe_load((run / "run.yaml").read_text())
    assert record["arguments"]["max_steps"] == 12
    assert record["versions"]["torch"] == torch.__version__
    assert f"{evaluated[-1]['val_loss']:.4f}" in (run / "README.md").read_text()
    assert str(tmp_path) not in (run / "README.md").read_text()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000006", "step-00000012"]

    loss, bits = recomputed_loss(run, text_file)
    assert evaluated[-1]["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert evaluated[-1]["val_bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def recomputed_loss(run, text_file) -> tuple[float, float]:
    """Nats per token and bits per byte of the saved model over every held-out token, computed directly."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    shard = prepare(open_source(str(text_file)), tokenizer)["validation"]
    total, count = 0.0, 0
    for begin in range(0, len(shard.tokens), 32):
        window = torch.from_numpy(shard.tokens[begin : begin + 32].astype("int64"))[None]
        inputs = torch.cat([torch.tensor([[tokenizer.bos_token_id]]), window[:, :-1]], 1)
        log_p = model(inputs).logits.log_softmax(-1).gather(-1, window[..., None])
        total, count = total - log_p.sum().item(), count + window.numel()
    return total / count, total / math.log(2) / shard.utf8_bytes


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_killed_run_resumes_bit_for_bit(text_file, tmp_path, optimizer):
    """The run has dropout, shuffling and accumulation, and is killed between two checkpoints."""
    options = ("--dropout", "0.2", "--gradient_accumulation_steps", "2", "--optimizer", optimizer)
    options += ("--max_steps", "24", "--eval_every", "6", "--save_every", "4", "--keep_last", "9", "--log_every", "1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pretrain(whole, text_file, *options)

    command = [sys.executable, PRETRAIN, "--output_dir", str(killed), "--dataset", str(text_file), *TINY_RUN, *options]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        path = killed / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) >= 10:
            break
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = max((killed / "checkpoints").glob("step-*")).name
    assert newest < "step-00000024"
    # The best model of the killed run must not be what a resume starts from, nor later checkpoints of the other run.
    pretrain(killed, text_file, *options, "--resume")

    final = "checkpoints/step-00000024"
    for part in (final, "."):
        for name, expected in weights(whole / part).items():
            assert torch.equal(weights(killed / part)[name], expected), name
    state, expected_state = (load_file(run / final / "training_state.safetensors") for run in (killed, whole))
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected_state.items())
    without_times = [
        [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in metrics(run)]
        for run in (killed, whole)
    ]
    assert without_times[0] == without_times[1]


@pytest.mark.parametrize("lost", ["random", "optimizer"])
def test_resume_depends_on_the_saved_state(text_file, tmp_path, lost):
    """This shows that the test above can fail: with other random states or optimizer moments, the weights differ."""
    run, options = tmp_path / "run", ("--dropout", "0.2", "--save_every", "2", "--keep_last", "9", "--max_steps", "4")
    pretrain(run, text_file, *options)
    expected = weights(run / "checkpoints/step-00000004")
    shutil.rmtree(run / "checkpoints/step-00000004")
    path = run / "checkpoints/step-00000002/training_state.safetensors"
    state = load_file(path)
    for name in state:
        if lost == "random" and name.startswith("random"):
            state[name] = torch.Generator().manual_seed(99).get_state()
        elif lost == "optimizer" and name.endswith("momentum_buffer"):
            state[name] = torch.zeros_like(state[name])
    save_file(state, path)
    write_manifest(path.parent)
    run_here(PRETRAIN, "--output_dir", str(run), "--resume")
    resumed = weights(run / "checkpoints/step-00000004")
    assert not all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(text_file, tmp_path):
    options = ("--max_steps", "12", "--eval_every", "6", "--log_every", "1", "--dropout", "0", "--epochs", "9")
    pretrain(tmp_path / "one", text_file, *options, "--gradient_accumulation_steps", "2")
    arguments = (PRETRAIN, "--output_dir", str(tmp_path / "two"), "--dataset", str(text_file), *TINY_RUN, *options)
    run_python(*TWO_PROCESSES, *arguments, cwd=PROJECT)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == 12
    for alone, shared in zip(one, two, strict=True):
        assert alone["tokens"] == shared["tokens"]
        for metric in ("train_loss", "val_loss", "grad_norm"):
            if metric in alone:
                assert shared[metric] == pytest.approx(alone[metric], abs=1e-4), metric


def test_init_from_accepts_own_and_transformers_models(text_file, tmp_path):
    """--init_from accepts a directory of this package, and a transformers model with its tokenizer."""
    from scratch_gpt import export_native

    pretrain(tmp_path / "first", text_file, "--max_steps", "3")
    before = metrics(tmp_path / "first")[-1]["val_loss"]
    native = tmp_path / "native"
    export_native(AutoModelForCausalLM.from_pretrained(tmp_path / "first")).save_pretrained(native)
    AutoTokenizer.from_pretrained(tmp_path / "first").save_pretrained(native)
    for name, origin in (("second", tmp_path / "first"), ("third", native)):
        options = ("--output_dir", str(tmp_path / name), "--dataset", str(text_file), *TINY_LOOP, "--max_steps", "8")
        run_here(PRETRAIN, *options, "--init_from", str(origin))
    assert metrics(tmp_path / "second")[-1]["val_loss"] < before
    assert metrics(tmp_path / "third")[-1]["val_loss"] == pytest.approx(
        metrics(tmp_path / "second")[-1]["val_loss"], abs=1e-4
    )


def test_dropout_sets_all_fields_unless_attention_dropout_is_given(text_file, tmp_path):
    def dropouts(name: str, *arguments: str) -> tuple[float, float, float]:
        pretrain(tmp_path / name, text_file, "--max_steps", "1", *arguments)
        config = json.loads((tmp_path / name / "config.json").read_text())
        return config["embedding_dropout"], config["attention_dropout"], config["residual_dropout"]

    assert dropouts("all", "--dropout", "0.3") == (0.3, 0.3, 0.3)
    assert dropouts("two", "--dropout", "0.3", "--attention_dropout", "0") == (0.3, 0.0, 0.3)
    assert dropouts("preset", "--preset", "gpt2", "--attention_dropout", "0") == (0.1, 0.0, 0.1)
    options = ("--output_dir", str(tmp_path / "further"), "--dataset", str(text_file), *TINY_LOOP, "--max_steps", "1")
    run_here(PRETRAIN, *options, "--init_from", str(tmp_path / "all"), "--attention_dropout", "0")
    assert json.loads((tmp_path / "further" / "config.json").read_text())["attention_dropout"] == 0


def test_early_stopping_keeps_the_best(text_file, tmp_path):
    options = ("--max_steps", "60", "--eval_every", "2", "--early_stopping_patience", "2", "--schedule", "constant")
    pretrain(tmp_path / "run", text_file, *options, "--learning_rate", "0.5", "--optimizer", "adamw")
    evaluated = [row for row in metrics(tmp_path / "run") if "val_loss" in row]
    assert evaluated[-1]["step"] < 60
    best = min(evaluated, key=lambda row: row["val_loss"])
    assert f"{best['val_loss']:.4f}" in (tmp_path / "run" / "README.md").read_text()
    assert [row["val_loss"] > best["val_loss"] for row in evaluated[-2:]] == [True, True]
    assert recomputed_loss(tmp_path / "run", text_file)[0] == pytest.approx(best["val_loss"], rel=1e-5)


@pytest.mark.slow
def test_run_killed_before_its_first_checkpoint_starts_over(text_file, tmp_path):
    run = tmp_path / "run"
    pretrain(run, text_file, "--max_steps", "3")
    shutil.rmtree(run / "checkpoints")
    rerun = run_here(PRETRAIN, "--output_dir", str(run), "--resume")  # the other settings are in run.yaml
    assert "step" in rerun.stdout
    assert [row["step"] for row in metrics(run)] == [3]


def test_flags_override_the_config_file(text_file, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(f"dataset: {text_file}\nmax_steps: 2\nlearning_rate: 1e-3\nstreaming: false\nvocab_size:\n")
    parsed = parse_arguments((OurTrainingArguments,), "", ["--max_steps", "3"])
    assert parsed[0].max_steps == 3
    from scratch_gpt.train.tasks.text_arguments import DataArguments

    data, args = parse_arguments(
        (DataArguments, OurTrainingArguments), "", ["--config", str(config), "--max_steps", "4"]
    )
    assert (data.dataset, args.max_steps, args.learning_rate, data.streaming) == (str(text_file), 4, 1e-3, False)


def test_each_parameter_is_in_exactly_one_group():
    for model in (
        ScratchGPTForCausalLM(tiny_config("gpt2")),
        ScratchGPTForCausalLM(tiny_config("llama")),
        ScratchGPTForCausalLM(tiny_config("llama", num_experts=4)),
        ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=9)),
        ScratchGPTForSequenceClassification(tiny_config("llama", num_labels=3)),
        tiny_encoder(ScratchEncoderForSequenceClassification, "bert"),
    ):
        groups = parameter_groups(model)
        names = {id(p): name for name, p in model.named_parameters()}
        kinds = {kind: sorted(names[id(p)] for p in parameters) for kind, parameters in groups.items()}
        assert sum(map(len, kinds.values())) == len(names)
        assert all("layers" in name and (name.endswith("weight") or ".experts." in name) for name in kinds["matrices"])
        assert not [name for name in kinds["vectors"] if "proj.weight" in name or "embed_" in name]
        muon, *rest = build_optimizers(model, OurTrainingArguments())
        updated = [p for o in (muon, *rest) for g in o.param_groups for p in g["params"]]
        assert len(updated) == len({id(p) for p in updated}) == len(names)


def test_learning_rate_schedules_follow_their_formulas():
    args = OurTrainingArguments(warmup_steps=10, schedule="cosine", min_learning_rate_ratio=0.1)
    assert learning_rate_factor(0, 110, args) == pytest.approx(0.1)
    assert learning_rate_factor(9, 110, args) == 1
    assert learning_rate_factor(60, 110, args) == pytest.approx(0.55)
    assert learning_rate_factor(110, 110, args) == pytest.approx(0.1)
    args = OurTrainingArguments(warmup_steps=0, schedule="wsd", decay_fraction=0.2)
    assert [learning_rate_factor(step, 100, args) for step in (0, 79, 90, 100)] == pytest.approx([1, 1, 0.5, 0])
    args = OurTrainingArguments(warmup_steps=100, schedule="inverse_sqrt")
    assert [learning_rate_factor(step, 1000, args) for step in (49, 99, 399)] == pytest.approx([0.5, 1.0, 0.5])
    args = OurTrainingArguments(warmup_steps=0, schedule="constant")
    assert learning_rate_factor(10**6, 100, args) == 1


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gpt2", "llama", "nanochat"])
def test_hugging_face_trainer_trains_the_model(preset, tmp_path):
    """One batch of eight rows equals four accumulated batches of two, with different numbers of scored tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(16):
        tokens = torch.randint(3, 99, (12,), generator=generator)
        labels = tokens.clone()
        labels[: i % 9] = -100
        rows.append({"input_ids": tokens, "labels": labels})
    results = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        no_dropout = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
        model = ScratchGPTForCausalLM(tiny_config(preset, **no_dropout))
        args = TrainingArguments(
            output_dir=str(tmp_path / f"{batch_size}"),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=4,
            learning_rate=1e-3,
            logging_steps=1,
            optim="sgd",
            use_cpu=True,
            report_to=[],
            seed=0,
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=args, train_dataset=rows)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        results.append((losses, model.state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], abs=2e-4)
    for name, tensor in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], tensor, atol=1e-6, rtol=1e-4)
    assert results[0][0][0] == pytest.approx(math.log(99), abs=0.5)


def test_classification_with_accumulation_equals_one_batch(tmp_path):
    rows = [{"input_ids": torch.randint(3, 99, (8,)), "labels": i % 3} for i in range(8)]
    norms = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        model = ScratchGPTForSequenceClassification(tiny_config("llama", num_labels=3))
        folder, steps = str(tmp_path / f"{batch_size}"), {"gradient_accumulation_steps": accumulation}
        quiet = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_steps": 1, "optim": "sgd"}
        args = TrainingArguments(folder, per_device_train_batch_size=batch_size, max_steps=1, **steps, **quiet)
        trainer = Trainer(model=model, args=args, train_dataset=rows)
        trainer.train()
        norms.append(next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_rows_are_divided_among_processes_exactly_once(text_file):
    """Over 1.5 epochs, two processes together see exactly the rows that one process sees."""
    from types import SimpleNamespace

    from scratch_gpt import train_tokenizer
    from scratch_gpt.train.engine.task import DataState
    from scratch_gpt.train.tasks.language_modeling.task import LanguageModeling

    tokenizer = train_tokenizer([text_file.read_text()], "char")
    shards = prepare(open_source(str(text_file)), tokenizer)

    def rows(process: int, processes: int, batch_size: int, steps: int, state: DataState) -> list[list[int]]:
        accelerator = SimpleNamespace(process_index=process, num_processes=processes)
        task = LanguageModeling(accelerator, shards, tokenizer, 64, batch_size, seed=0)  # type: ignore[arg-type]
        batches = task.batches(state)
        return [next(batches)[0]["labels"].tolist() for _ in range(steps)]

    epoch = len(PackedRows(shards["train"], 64, 1, 0, seed=0).plan(0))
    steps = epoch * 3 // 2 // 8
    one = rows(0, 1, 8, steps, DataState())
    first, second = rows(0, 2, 4, steps, DataState()), rows(1, 2, 4, steps, DataState())
    assert [a + b for a, b in zip(first, second, strict=True)] == one
    assert rows(0, 1, 8, steps - 5, DataState(0, 40)) == one[5:]


@pytest.mark.release
def test_short_run_approaches_the_entropy_but_stays_above(tmp_path):
    """Real training on the built-in stories, a small fraction of the default run."""
    from scratch_gpt.evaluation.story_report import score_stories

    options = ("--max_steps", "100", "--num_stories", "6000", "--eval_every", "100", "--num_threads", "1")
    run_here(PRETRAIN, "--output_dir", str(tmp_path / "run"), *options)
    last = metrics(tmp_path / "run")[-1]
    assert 0.99 < last["val_loss"] / last["entropy_floor"] < 1.2
    assert score_stories([last["sample"].rsplit(".", 1)[0] + "."], "").parsed > 0.5


@pytest.mark.parametrize(
    ("length", "chosen", "elsewhere"),
    [(SHORT_ROW, BLOCKWISE, "eager"), (SHORT_ROW + 1, BLOCKWISE, "sdpa")],
)
def test_attention_is_chosen_by_device_and_sequence_length(length, chosen, elsewhere):
    for device, expected in (("cpu", chosen), ("cuda", "sdpa")):
        model = ScratchGPTForCausalLM(tiny_config("llama"))
        choose_attention(model, torch.device(device), length, same_length=True)
        assert model.config._attn_implementation == expected
    for other, same_length in ((export_native(model), True), (ScratchGPTForCausalLM(tiny_config("llama")), False)):
        choose_attention(other, torch.device("cpu"), length, same_length)
        assert other.config._attn_implementation == elsewhere
