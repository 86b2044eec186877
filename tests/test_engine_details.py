"""Losses, metrics, checkpoints and logs in the cases that ordinary runs do not reach."""

import ast
import json
import math
import os
import random
import signal
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DistributedType
from conftest import PROJECT, TWO_PROCESSES, run_here, run_python, tiny_encoder, tiny_model, tiny_seq2seq
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from scratch_gpt import ScratchBigramConfig, ScratchBigramForCausalLM, train_tokenizer
from scratch_gpt.data.buckets import Buckets
from scratch_gpt.data.preferences import Preference
from scratch_gpt.data.tokens import Tokens
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.model_directory import ModelDirectory
from scratch_gpt.models.loss import linear_cross_entropy, token_loss
from scratch_gpt.models.modeling_scratch_encoder import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
)
from scratch_gpt.models.modeling_scratch_gpt import ScratchGPTForSequenceClassification
from scratch_gpt.models.normalization import RMSNorm
from scratch_gpt.train.arguments import TrainingArguments
from scratch_gpt.train.classification import Classification
from scratch_gpt.train.interruption import Interruption
from scratch_gpt.train.language_modeling import LanguageModeling
from scratch_gpt.train.loop import Trainer
from scratch_gpt.train.manifest import damage, write_manifest
from scratch_gpt.train.masked_language_modeling import MaskedLanguageModeling
from scratch_gpt.train.optimization import build_optimizers
from scratch_gpt.train.plots import plot_losses
from scratch_gpt.train.policy_gradient import PolicyGradient
from scratch_gpt.train.preferences import EncodedPairs, Preferences
from scratch_gpt.train.random_state import (
    forked_random_state,
    generator_module,
    get_random_state,
    set_random_state,
)
from scratch_gpt.train.reporting import read_metrics
from scratch_gpt.train.task import check_sharding
from scratch_gpt.train.translation import Translation

IDS = torch.arange(3, 15).view(2, 6)
HEADS = {
    "causal": lambda: tiny_model("llama"),
    "bigram": lambda: ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=99)),
    "masked": lambda: tiny_encoder(ScratchEncoderForMaskedLM, "bert"),
    "seq2seq": lambda: tiny_seq2seq("vaswani2017", label_smoothing=0.1),
    "classifier": lambda: tiny_encoder(ScratchEncoderForSequenceClassification, "bert"),
    "causal classifier": lambda: ScratchGPTForSequenceClassification(tiny_model("llama", num_labels=3).config),
}


@pytest.mark.parametrize("num_items_in_batch", [None, 0, torch.tensor(0)])
@pytest.mark.parametrize("skip_logits", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_a_batch_in_which_nothing_is_scored_has_loss_and_gradient_zero(head, skip_logits, num_items_in_batch):
    model = HEADS[head]().train()
    more = {} if "classifier" in head else {"num_items_in_batch": num_items_in_batch}
    if head in ("causal", "masked", "seq2seq"):
        more["skip_logits"] = skip_logits
    if head == "seq2seq":
        more["decoder_input_ids"] = IDS
    labels = torch.full_like(IDS[:, 0] if "classifier" in head else IDS, -100)
    loss = model(input_ids=IDS, labels=labels, **more).loss
    assert loss.item() == 0
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@pytest.mark.parametrize("num_items_in_batch", [None, 3, torch.tensor(7)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_mean_over_the_scored_positions(num_items_in_batch, smoothing):
    states, head = torch.randn(4, 5, 16), torch.nn.Linear(16, 30)
    labels = torch.randint(0, 30, (4, 5))
    labels[1:3, 2:] = -100
    logits = head(states)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    if num_items_in_batch is not None:
        expected = expected * (labels != -100).sum() / num_items_in_batch
    how = {"num_items_in_batch": num_items_in_batch, "label_smoothing": smoothing}
    torch.testing.assert_close(token_loss(labels, logits, **how), expected)
    torch.testing.assert_close(token_loss(labels, None, states, head, **how), expected)


@pytest.mark.parametrize("learned", ["states", "weight", "bias"])
def test_the_fused_loss_builds_the_gradients_that_are_needed_and_no_others(learned):
    """A frozen head, as LoRA has it, gets no gradient of its size; the others are what they are beside it."""
    parts = {"states": torch.randn(20, 16), "weight": torch.randn(50, 16), "bias": torch.randn(50)}
    labels = torch.randint(0, 50, (20,))
    labels[::4] = -100

    def gradients(names):
        leaves = {name: tensor.clone().requires_grad_(name in names) for name, tensor in parts.items()}
        built = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: built.append(t.shape) or t, lambda t: t):
            loss = linear_cross_entropy(leaves["states"], leaves["weight"], labels, leaves["bias"], 0.1)
        loss.backward()
        return {name: leaf.grad for name, leaf in leaves.items()}, built

    own, built = gradients([learned])
    every, _ = gradients(list(parts))
    assert built == [parts[learned].shape]
    assert [name for name, gradient in own.items() if gradient is not None] == [learned]
    assert torch.equal(own[learned], every[learned])


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
    run_here(str(PROJECT / "training/pretrain_encoder.py"), "--output_dir", str(folder / "run"), *files, *options)
    return folder / "run"


def test_a_step_that_scores_nothing_divides_by_nothing(unscored_run):
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (unscored_run / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert 0 < sum("train_loss" in row for row in rows) < 12
    assert all(row["tokens"] > before["tokens"] for before, row in pairwise(rows) if "train_loss" in row)
    assert all(row["tokens"] == before["tokens"] for before, row in pairwise(rows) if "train_loss" not in row)
    assert all(row["val_loss"] > 0 for row in rows if row["step"] in (6, 12))
    for weight in load_file(unscored_run / "model.safetensors").values():
        assert weight.isfinite().all()


def test_a_run_whose_validation_scores_nothing_ends_with_a_model(unscored_run, tmp_path):
    """No token of the validation texts is ever chosen."""
    texts = unscored_run.parent
    files = ("--dataset", str(texts / "validation.txt"), "--validation_dataset", str(texts / "train.txt"))
    options = ("--max_steps", "2", "--hidden_size", "32", "--num_attention_heads", "2", "--num_hidden_layers", "1")
    options += ("--num_threads", "1", "--mask_probability", "0.001", "--output_dir", str(tmp_path / "run"))
    run_here(str(PROJECT / "training/pretrain_encoder.py"), *files, *options)
    assert [row for row in read_metrics(tmp_path / "run") if "val_loss" in row] == []
    assert (tmp_path / "run/model.safetensors").exists()
    assert (tmp_path / "run/README.md").exists()


class ScoresAtTimes(MaskedLanguageModeling):
    """Masked-language modelling whose n-th validation has its loss multiplied by the n-th of these factors."""

    def __init__(self, *args, factors, **kwargs):
        super().__init__(*args, **kwargs)
        self.factors = list(factors)

    def evaluate(self, model):
        factor = self.factors.pop(0)
        return {name: value * factor for name, value in super().evaluate(model).items()}


def trainer_with(folder, factors, **settings):
    tokenizer = train_tokenizer(["a b c d"], "char", template="encoder")
    model = tiny_encoder(ScratchEncoderForMaskedLM, "bert", vocab_size=len(tokenizer))
    texts, nothing = Tokens.of([tokenizer("a b c d")["input_ids"]] * 8), Tokens.of([[1, 2]])
    accelerator = Accelerator(cpu=True)
    validation = texts if factors else nothing
    known = accelerator, texts, validation, tokenizer, 32
    task = ScoresAtTimes(*known, mask_probability=0.5, seed=0, factors=factors or [1.0] * 9)
    folder.mkdir()
    args = TrainingArguments(output_dir=str(folder), max_steps=6, eval_every=2, warmup_steps=0, **settings)
    directory = ModelDirectory(model, tokenizer, "", lambda: "a card")
    return Trainer(accelerator, model, build_optimizers(model, args), task, args, directory, folder)


@pytest.mark.parametrize(
    ("factors", "best"),
    [
        ([math.nan, 1.0, 2.0], 4),
        ([1.0, math.nan, 2.0], 2),
        ([math.nan, math.nan, math.inf], 6),
        ([2.0, math.nan, 1.0], 6),
    ],
)
def test_a_metric_that_is_not_finite_is_never_the_best(tmp_path, factors, best, capsys):
    progress = trainer_with(tmp_path / "run", factors).run()
    assert progress.best_step == best
    assert progress.best_figure is None or math.isfinite(progress.best_figure)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert ["val_loss" in row for row in rows] == [math.isfinite(factor) for factor in factors]
    assert (tmp_path / "run/model.safetensors").exists()
    assert (tmp_path / "run/loss.png").exists()
    assert "not finite, since nothing was scored or the model overflows: val_loss" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_validation_that_scores_nothing_has_no_loss(tmp_path):
    """It had a loss of 0, the best there can be."""
    progress = trainer_with(tmp_path / "run", [], early_stopping_patience=2).run()
    assert (progress.best_figure, progress.best_step, progress.step) == (None, 4, 4)
    assert progress.stopped_early
    assert not [row for row in read_metrics(tmp_path / "run") if "val_loss" in row or "val_accuracy" in row]


def test_a_run_without_losses_can_be_drawn(tmp_path):
    plot_losses([{"tokens": 0, "step": 1}], tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size


def test_fsdp_is_refused_with_the_reason_of_the_task(tmp_path):
    trainer = trainer_with(tmp_path / "run", [])
    accelerator = trainer.accelerator
    check_sharding(trainer.task, accelerator)
    accelerator.state.distributed_type = DistributedType.FSDP
    try:
        with pytest.raises(ScratchError, match="each process validates on batches of its own, which FSDP can't"):
            check_sharding(trainer.task, accelerator)
        check_sharding(LanguageModeling, accelerator)
        for task in (Classification, MaskedLanguageModeling, PolicyGradient, Preferences, Translation):
            with pytest.raises(ScratchError, match="each process"):
                check_sharding(task, accelerator)
    finally:
        accelerator.state.distributed_type = DistributedType.NO


SUMS = """
from accelerate import Accelerator, DistributedType
from scratch_gpt.train.task import sum_over_processes
accelerator = Accelerator(cpu=True)
count, loss, signal = sum_over_processes(accelerator, 2**40 + 1, 1e8 + 0.125, accelerator.process_index)
assert (count, loss, signal) == (2**41 + 2, 2e8 + 0.25, 1), (count, loss, signal)
assert [type(number) for number in (count, loss, signal)] == [int, float, int]
"""


def test_sums_over_processes_keep_every_digit(tmp_path):
    """In float32, counts beyond 2^24 and the last digits of a loss were lost."""
    script = tmp_path / "sums.py"
    script.write_text(SUMS, encoding="utf-8")
    run_python(*TWO_PROCESSES, str(script), cwd=PROJECT)


def test_a_signal_in_the_middle_of_a_print_is_survived(monkeypatch):
    """Printing from the handler raised "reentrant call" where the signal came inside a print to the same stream."""

    class Stream:
        """A stream that a signal reaches while it writes."""

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


def test_what_a_signal_is_answered_with_reaches_the_file_descriptor(capfd):
    with Interruption():
        os.kill(os.getpid(), signal.SIGINT)
    assert "finishing the step and saving" in capfd.readouterr().err


def test_no_bound_is_named_for_unigram_vocabularies():
    """It prunes: where 400 tokens give 303, 450 may work."""
    texts = [f"{i} houses stand in the {i}th street of the old town" for i in range(40)]
    sizes = {}
    for size in (400, 900):
        with pytest.raises(ScratchError, match=f"{size} tokens were asked for, and these texts give") as caught:
            train_tokenizer(texts, "unigram", size)
        sizes[size] = str(caught.value)
    assert all("choose another size" in said and "at most" not in said for said in sizes.values())
    with pytest.raises(ScratchError, match="5 tokens are fewer than these texts have characters"):
        train_tokenizer(texts, "unigram", 5)


# --- batches ---------------------------------------------------------------------------------------------


def test_the_longest_texts_are_not_padded_beyond_the_longest():
    """A model has learned positions for its longest text and no more: rounded up, 25 tokens were 28."""
    lengths = np.array([3, 10, 21, 25, 25])
    for seed in (0, None):
        plan = Buckets(lengths, 100, seed).plan(0)
        assert max(length for length, _ in plan) == 25
        for length, numbers in plan:
            assert length >= lengths[numbers].max()


def test_batches_of_pairs_have_the_shape_of_their_bucket():
    """DPO padded to the longest of each batch: a shape for every batch, for which kernels are compiled anew."""
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
    # Padding changes nothing.
    numbers = plan[0][1]
    short = task._batch("train", int(encoded.lengths[numbers].max()), numbers)
    torch.testing.assert_close(task.loss(model, task.make_batch(0, 0)), task.loss(model, short))


# --- norms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_and_its_formula_agree_in_dtype_and_rounding(dtype, weight_dtype):
    """With a float32 weight and a 16-bit input, the formula returned float32."""
    norm = RMSNorm(128)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * torch.randn(128))
    norm, x = norm.to(weight_dtype), (3 * torch.randn(64, 128)).to(dtype)
    assert norm(x).dtype == norm.formula(x).dtype == dtype
    torch.testing.assert_close(norm(x), norm.formula(x), rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_llamas_but_for_one_rounding(dtype):
    ours, theirs = RMSNorm(128), LlamaRMSNorm(128)
    with torch.no_grad():
        ours.weight.copy_(1 + 0.3 * torch.randn(128))
        theirs.weight.copy_(ours.weight)
    x = (3 * torch.randn(64, 128)).to(dtype)
    expected = theirs.to(dtype)(x)
    assert expected.dtype == ours.to(dtype)(x).dtype
    torch.testing.assert_close(ours(x), expected, rtol=torch.finfo(dtype).eps, atol=0)


# --- checkpoints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu", "mtia"])
def test_every_device_has_its_generator(kind):
    """Only CUDA's was saved."""
    module = generator_module(torch.device(kind))
    assert module is getattr(torch, kind)
    assert callable(module.get_rng_state)
    assert callable(module.set_rng_state)


def test_random_states_come_back():
    device = torch.device("cpu")
    assert generator_module(device) is None
    state, generators = get_random_state(device)
    drawn = torch.rand(3), np.random.rand(3), random.random()
    again = json.loads(json.dumps(state))
    # The state of a device that is not there is left out.
    set_random_state({**again, "device": "cuda"}, [*generators, torch.zeros(16, dtype=torch.uint8)], device)
    assert torch.equal(torch.rand(3), drawn[0])
    assert (np.random.rand(3) == drawn[1]).all()
    assert random.random() == drawn[2]
    with forked_random_state(device):
        torch.manual_seed(7)
        torch.rand(5)
    set_random_state(again, generators, device)
    torch.rand(3)
    following = torch.rand(1)
    set_random_state(again, generators, device)
    torch.rand(3)
    with forked_random_state(device):
        torch.manual_seed(7)
        torch.rand(5)
    assert torch.equal(torch.rand(1), following)


RESUME = """
import sys
from pathlib import Path
from accelerate import PartialState
from scratch_gpt.errors import ScratchError
from scratch_gpt.train import manifest
from scratch_gpt.train.checkpoint import newest_checkpoint

run, state = Path(sys.argv[1]), PartialState(cpu=True)
if not state.is_main_process:
    manifest._sha256 = None  # nobody else reads the files
newest, before = (run / "checkpoints" / f"step-0000000{step}" for step in (2, 1))
assert newest_checkpoint(run, state) == newest
state.wait_for_everyone()
if state.is_main_process:
    path = newest / "model.safetensors"
    path.write_bytes(b"x" + path.read_bytes()[1:])
state.wait_for_everyone()
assert newest_checkpoint(run, state) == before
state.wait_for_everyone()
if state.is_main_process:
    (before / "config.json").unlink()
state.wait_for_everyone()
try:
    newest_checkpoint(run, state)
    raise AssertionError("a damaged checkpoint was taken")
except ScratchError as error:
    assert "no checkpoint in" in str(error), error
"""


def test_one_process_reads_the_checkpoints_and_the_others_are_told(tmp_path):
    for step in (1, 2):
        folder = tmp_path / f"run/checkpoints/step-0000000{step}"
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text(f"{name} {step}", encoding="utf-8")
        write_manifest(folder)
    (tmp_path / "resume.py").write_text(RESUME, encoding="utf-8")
    result = run_python(*TWO_PROCESSES, str(tmp_path / "resume.py"), str(tmp_path / "run"), cwd=PROJECT)
    assert result.stderr.count("step-00000001 is passed over") == 1


def test_sizes_are_looked_at_without_reading(tmp_path):
    (tmp_path / "file").write_text("text", encoding="utf-8")
    write_manifest(tmp_path)
    (tmp_path / "file").write_text("tixt", encoding="utf-8")
    assert damage(tmp_path, sizes_only=True) is None
    assert "changed" in damage(tmp_path)
    (tmp_path / "file").write_text("longer", encoding="utf-8")
    assert "has 6 bytes, 4 were written" in damage(tmp_path, sizes_only=True)


# --- files -----------------------------------------------------------------------------------------------


def calls_without_encoding(tree):
    """Calls that open a file as text, in the encoding of whatever machine this is."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function, keywords = call.func, {keyword.arg: keyword.value for keyword in call.keywords}
        owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
        name = function.attr if owner else getattr(function, "id", "")
        if "encoding" in keywords or None in keywords:
            continue
        if name in ("read_text", "write_text"):
            if len(call.args) < (1 if name == "read_text" else 2):
                yield call
        elif name == "open" and owner not in ("os", "tarfile", "webbrowser", "zipfile"):
            packed = owner in ("bz2", "gzip", "lzma")  # which open bytes by default, and are given a path first
            place = 1 if packed or owner in ("", "io") else 0
            mode = keywords.get("mode", call.args[place] if len(call.args) > place else None)
            written = ast.unparse(mode) if mode else "b" if packed else "r"
            if "b" not in written:
                yield call


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("open(path)", 1),
        ("path.open('a')", 1),
        ("path.read_text()", 1),
        ("path.write_text(text)", 1),
        ("gzip.open(path, 'rt')", 1),
        ("open(path, mode='w')", 1),
        ("open(path, 'rb')", 0),
        ("path.open('rb')", 0),
        ("path.open(encoding='utf-8')", 0),
        ("path.write_text(text, 'utf-8')", 0),
        ("gzip.open(path)", 0),
    ],
)
def test_what_counts_as_a_file_opened_without_an_encoding(code, found):
    assert len(list(calls_without_encoding(ast.parse(code)))) == found


def test_text_files_are_opened_with_an_encoding():
    """Elsewhere than on Linux, the default is another one."""
    found = []
    for path in sorted((PROJECT / "scratch_gpt").rglob("*.py")):
        calls = calls_without_encoding(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{path.relative_to(PROJECT)}:{call.lineno}: {ast.unparse(call)}" for call in calls]
    assert not found, "\n".join(found)
