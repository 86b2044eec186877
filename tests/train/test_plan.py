"""Cost estimates compared with measurements: parameters, FLOPs, and the memory of a real training process."""

import re
import shlex
from statistics import fmean

import pytest
import torch
import yaml
from helpers.models import tiny_config
from helpers.processes import run_here, run_python
from helpers.published import save_published
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from scratch_gpt import ScratchBigramConfig, ScratchGPTConfig, ScratchGPTForCausalLM
from scratch_gpt.cli.plan import _duration, without
from scratch_gpt.train.cost_estimate.this_machine import (
    Plan,
    flops_per_token,
    inactive_parameters,
    make_plan,
    optimizer_bytes,
)
from scratch_gpt.train.engine.parsing import parse_arguments
from scratch_gpt.train.tasks.language_modeling.advice import advise, fitting_context
from scratch_gpt.train.tasks.language_modeling.arguments import ARGUMENTS, PretrainingArguments
from scratch_gpt.train.tasks.language_modeling.build import build_config, build_model

SIZES = [(256, 4, 8192, 4, 256), (384, 4, 4096, 4, 256), (512, 3, 12288, 2, 512)]

MEASURE = '''
import json, re, sys
import torch
from scratch_gpt import ScratchGPTConfig
from scratch_gpt.hardware import retain_freed_memory
from scratch_gpt.train.cost_estimate.this_machine import _forward
from scratch_gpt.train.optim.optimizers import build_optimizers
from scratch_gpt.train.tasks.language_modeling.arguments import PretrainingArguments
from scratch_gpt.train.tasks.language_modeling.build import build_model
width, layers, vocabulary, batch, length, optimizer = *map(int, sys.argv[1:6]), sys.argv[6]
torch.set_num_threads(1)
def model(width, layers, vocabulary):
    shape = dict(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4)
    return build_model(ScratchGPTConfig.from_preset("llama", max_position_embeddings=length, **shape)).train()
args = PretrainingArguments(batch_size=batch, precision="fp32", optimizer=optimizer, num_threads=1)
def peak():  # not getrusage, whose peak a child inherits from the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
def steps(model, batch, length):
    """Train until three more steps do not raise the peak. Freed memory is kept, as in training, and it takes some steps
    until blocks of all sizes fit into it: the peak after two steps varied randomly."""
    optimizers, peaks = build_optimizers(model, args), []
    while len(peaks) < 4 or (peaks[-1] > 1.003 * peaks[-4] and len(peaks) < 20):
        _forward(model, batch, length, False).backward()
        for each in optimizers:
            each.step()
            each.zero_grad()
        peaks.append(peak())
    assert peaks[-1] <= 1.003 * peaks[-4], peaks
retain_freed_memory()
steps(model(16, 1, 32), 1, 8)  # libraries and thread pools, before the baseline
before = peak()
steps(model(width, layers, vocabulary), batch, length)
print(json.dumps(peak() - before))
'''


@pytest.mark.parametrize(
    ("size", "optimizer"),
    [
        pytest.param(SIZES[0], "adamw", marks=pytest.mark.slow),
        pytest.param(SIZES[1], "muon", marks=pytest.mark.release),
        pytest.param(SIZES[2], "adamw", marks=pytest.mark.release),
    ],
)
def test_memory_estimate_is_within_15_percent(size, optimizer, tmp_path):
    width, layers, vocabulary, batch, length = size
    shape = {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4}
    config = ScratchGPTConfig.from_preset("llama", max_position_embeddings=length, **shape)
    args = PretrainingArguments(batch_size=batch, precision="fp32", optimizer=optimizer, num_threads=1)
    plan = make_plan(config, args, length, tokens=10**6, steps=1)
    # The mean of two runs, since the size of the heap varies by a few percent with its address.
    runs = [
        run_python("-c", MEASURE, *map(str, size), optimizer, cwd=tmp_path, fresh=True).stdout.split()[-1]
        for _ in range(2)
    ]
    planned, measured = plan.memory.total, fmean(map(int, runs))
    print(f"{planned / 1e6:.0f} MB planned, {measured / 1e6:.0f} MB measured, ratio {planned / measured:.3f}")
    assert planned == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("preset", "mlp_matrices"), [("gpt2", 2), ("llama", 3), ("nanochat", 2), ("nanochat_ngram", 2)]
)
@pytest.mark.parametrize("key_value_heads", [4, 1])
def test_flops_match_the_formula(preset, mlp_matrices, key_value_heads):
    """6 per parameter of a matrix, and 12 x layers x width x context for attention, of which the causal mask leaves
    half (Chowdhery et al. 2022, arXiv:2204.02311, appendix B); embedding lookups cost none."""
    width, layers, vocabulary, context, intermediate = 64, 3, 100, 512, 160
    config = ScratchGPTConfig.from_preset(
        preset,
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        intermediate_size=intermediate,
        max_position_embeddings=context,
    )
    projections = 2 * width * width + 2 * width * (width // 4 * key_value_heads)
    matrices = layers * (projections + mlp_matrices * width * intermediate) + width * vocabulary
    assert flops_per_token(config, context) == 6 * matrices + 6 * layers * width * context


def test_flops_equal_those_of_full_attention_minus_the_causal_half():
    """They are compared with the counted FLOPs of a training step with full attention."""
    config = tiny_config("llama", hidden_size=64, max_position_embeddings=64)
    model = ScratchGPTForCausalLM(config).train()
    model.set_attn_implementation("eager")
    x = torch.randint(3, 99, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model(x, labels=x, use_cache=False).loss.backward()
    causal_half = 6 * config.num_hidden_layers * 64 * 64
    assert flops_per_token(config, 64) + causal_half == counter.get_total_flops() / x.numel()


def test_flops_of_experts_are_those_of_the_active_ones():
    """The count of a real training step, with experts: FlopCounterMode counts the matrix products of the chosen experts
    only. The load balancing loss has none."""
    config = tiny_config("llama", hidden_size=64, max_position_embeddings=64, num_experts=6, intermediate_size=32)
    model = ScratchGPTForCausalLM(config).train()
    model.set_attn_implementation("eager")
    x = torch.randint(3, 99, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model(x, labels=x, use_cache=False).loss.backward()
    causal_half = 6 * config.num_hidden_layers * 64 * 64
    assert flops_per_token(config, 64) + causal_half == counter.get_total_flops() / x.numel()
    dense = ScratchGPTForCausalLM(tiny_config("llama", hidden_size=64, intermediate_size=2 * 32)).num_parameters()
    routers = config.num_hidden_layers * 6 * 64
    assert model.num_parameters() - inactive_parameters(config) == dense + routers


@pytest.mark.parametrize("window", [2, 10, 63, 64, 500])
def test_flops_of_windows_are_those_of_the_attended_pairs(window):
    """Each attended pair of tokens costs 12 per feature of a head; a causal mask leaves half of T² pairs here."""
    fields = {"hidden_size": 64, "max_position_embeddings": 64, "num_hidden_layers": 3}
    full, context = flops_per_token(tiny_config("llama", **fields), 64), 64
    layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    found = flops_per_token(tiny_config("llama", **fields, sliding_window=window, layer_types=layer_types), context)
    pairs = sum(min(position + 1, window) for position in range(context))
    missing = (context * (context + 1) / 2 - pairs) / context
    assert found == pytest.approx(full - 2 * 12 * 64 * missing, abs=2 * 12 * 64 * 0.5)
    assert (found == full) == (window >= context)


def test_a_model_to_tune_is_planned_as_it_is(tmp_path):
    """The estimate is of the model of --init_from, imported or ours, and not of the default preset."""
    save_published("mistral", tmp_path / "mistral")
    run_here("scratch-gpt", "import", str(tmp_path / "mistral"), str(tmp_path / "ours"))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "mistral").num_parameters()
    options = ("--init_from", str(tmp_path / "mistral"), "--num_threads", "1", "--batch_size", "1")
    for name in ("mistral", "ours"):
        printed = run_here("scratch-gpt", "plan", *options[2:], "--init_from", str(tmp_path / name)).stdout
        assert re.search(rf"parameters +│ {expected:,} ", printed)
        assert "batches of 1 × 128 tokens" in " ".join(printed.split())  # its positions, fewer than by default
        assert "lowest loss" not in printed  # of new models only
    refused = run_here("scratch-gpt", "plan", *options, "--vocab_size", "9", check=False)
    assert (refused.returncode, "remove --vocab_size" in refused.stderr) == (2, True)
    refused = run_here("scratch-gpt", "plan", *options, "--hidden_size", "64", check=False)
    assert (refused.returncode, "remove --hidden_size" in refused.stderr) == (2, True)


def test_bigram_model_has_no_flops():
    assert flops_per_token(ScratchBigramConfig(vocab_size=99), 64) == 0


def test_counting_flops_does_not_change_the_config():
    config = tiny_config("llama")
    before = config._attn_implementation
    flops_per_token(config, 64)
    assert config._attn_implementation == before


def test_optimizer_memory_equals_the_size_of_the_optimizer_states():
    from scratch_gpt.train.optim.optimizers import build_optimizers

    for optimizer in ("adamw", "muon"):
        model = ScratchGPTForCausalLM(tiny_config("llama"))
        optimizers = build_optimizers(model, PretrainingArguments(optimizer=optimizer))
        x = torch.randint(3, 99, (2, 16))
        model(x, labels=x).loss.backward()
        for o in optimizers:
            o.step()
        states = [t for o in optimizers for s in o.state.values() for t in s.values()]
        state_bytes = sum(t.numel() * 4 for t in states if isinstance(t, torch.Tensor) and t.numel() > 1)
        assert optimizer_bytes(model, optimizer) == state_bytes


def test_plan_of_experts_counts_tokens_per_active_parameter():
    config = tiny_config("llama", num_experts=4, intermediate_size=32)
    plan = make_plan(config, PretrainingArguments(batch_size=2, precision="fp32", optimizer="muon"), 32, tokens=10_000)
    assert plan.parameters - plan.active_parameters == 2 * 2 * 3 * 32 * 32
    assert plan.tokens_per_parameter == pytest.approx(10_000 / plan.active_parameters)
    assert plan.memory.weights == 4 * plan.parameters


def test_plan_is_consistent():
    plan = make_plan(tiny_config("llama"), PretrainingArguments(batch_size=2, precision="fp32"), 32, tokens=10_000)
    assert plan.parameters == ScratchGPTForCausalLM(tiny_config("llama")).num_parameters()
    assert plan.memory.weights == 4 * plan.parameters
    assert plan.seconds == pytest.approx(10_000 / plan.tokens_per_second)
    assert plan.tokens_per_parameter == pytest.approx(10_000 / plan.parameters)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (
            1_000,
            "fewer than about 20, with which a given amount of computation reaches the lowest loss: a smaller model on",
        ),
        (9_900, "fewer than about 20"),
        (10_000, "near about 20, with which a given amount of computation reaches the lowest loss"),
        (40_000, "near about 20"),
        (
            109_000,
            "more than about 20, with which a given amount of computation reaches the lowest loss: a larger model on",
        ),
    ],
)
def test_remark_compares_the_ratio_of_tokens_to_parameters(tokens, words):
    plan = make_plan(tiny_config("llama"), PretrainingArguments(batch_size=1, precision="fp32"), 8, tokens=1, steps=1)
    other = Plan(1_000, plan.flops_per_token, plan.memory, plan.tokens_per_second, tokens, plan.precision)
    assert other.remark().startswith(words)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "under 1 s"), (1, "1.0 s"), (119.94, "119.9 s"), (120, "2.0 min"), (7199, "120.0 min"), (7200, "2.0 h")],
)
def test_durations_are_in_a_readable_unit(seconds, words):
    assert _duration(seconds) == words


def test_plan_prints_only_its_table_to_standard_output(monkeypatch):
    """The progress message goes to standard error, even if standard output is a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    tiny = "--hidden_size 32 --num_hidden_layers 1 --context_length 16 --batch_size 1 --num_threads 1 --precision fp32"
    result = run_here("scratch-gpt", "plan", "--tokens", "1000", *tiny.split())
    assert "measuring the speed" not in result.stdout
    assert "measuring the speed of this machine …" in result.stderr
    assert "memory: total" in result.stdout


# --- proposals for a text ----------------------------------------------------------------------------------

TEXT = "One day, Anna has two old lamps near the mill. She likes them, and Oscar gives her a kite.\n"


def test_the_default_run_is_not_called_too_large_and_no_time_is_zero():
    tiny = ("--hidden_size", "32", "--num_hidden_layers", "1", "--batch_size", "1", "--num_threads", "1")
    printed = " ".join(run_here("scratch-gpt", "plan", *tiny).stdout.replace("│", " ").split())
    assert "a small grammar generates the stories" in printed
    assert "lowest loss" not in printed
    assert " 0.0 s" not in printed
    assert printed.count("too short a run to estimate from its FLOPs; fits") == 1  # of all GPUs
    assert "on one T4, RTX 4090, A100 80 GB, H100, H200" in printed
    given = run_here("scratch-gpt", "plan", "--tokens", "1000", *tiny).stdout
    assert "lowest loss" in " ".join(given.replace("│", " ").split())


def test_advice_grows_with_the_text():
    """Larger texts get larger models, contexts and vocabularies, and fewer epochs; all options are valid."""
    tiers = [advise(utf8_bytes) for utf8_bytes in (500, 10_000, 1_100_000, 5_000_000, 50_000_000, 10**12)]
    assert tiers[0] is tiers[1]
    assert tiers[4] is tiers[5]
    sizes = []
    for tier in tiers[1:5]:
        argv = [part for name, value in tier.options.items() for part in (f"--{name}", str(value))]
        _, model_args, args = parse_arguments(ARGUMENTS, "", argv)
        config = build_config(model_args, tier.options.get("vocab_size", 90), model_args.context_length, {})
        sizes.append((build_model(config).num_parameters(), -args.epochs, tier.options.get("vocab_size", 0)))
        assert tier.reasons
    assert [sorted(column) for column in zip(*sizes, strict=True)] == [
        list(column) for column in zip(*sizes, strict=True)
    ]
    assert len(set(sizes)) == 4


def test_a_proposal_is_a_command_that_trains(tmp_path):
    """Its tokens are those that training counts, and what is given replaces a part of it."""
    (tmp_path / "my text.txt").write_text(TEXT * 40)
    options = ("--dataset", "my text.txt", "--num_threads", "1", "--hidden_size", "16")
    printed = run_here("scratch-gpt", "plan", *options, cwd=tmp_path).stdout
    (command,) = (line.strip() for line in printed.splitlines() if line.startswith("  scratch-gpt train"))
    assert "as given, not as proposed: hidden_size" in printed
    assert "tokenizer: characters, since" in printed
    assert f"{len(TEXT) * 40 / 1000:.1f} kB, about " in printed
    arguments = shlex.split(command)
    assert arguments[3:9] == [*options]
    assert arguments[-2:] == ["--output_dir", "runs/my text"]
    trained = run_here(*arguments, "--max_steps", "1", "--no-baselines", cwd=tmp_path).stdout
    assert "Reloaded from" in trained
    facts = yaml.safe_load((tmp_path / "runs/my text/run.yaml").read_text())["facts"]
    (tokens,) = re.findall(r"tokens of the run +│ ([\d,]+)", printed)
    assert int(tokens.replace(",", "")) == pytest.approx(10 * facts["train"]["tokens"], rel=0.01)
    assert f"{facts['parameters']:,}" in printed


def test_a_long_run_has_a_shorter_variant():
    """It sees as many tokens as five minutes are enough for; the measured speed is said to be one of this moment."""
    tiny = ("--hidden_size", "32", "--num_hidden_layers", "1", "--batch_size", "2", "--num_threads", "1")
    printed = run_here("scratch-gpt", "plan", "--tokens", str(10**11), *tiny, "--epochs", "3").stdout
    (command,) = (line.strip() for line in printed.splitlines() if line.startswith("  scratch-gpt train"))
    (speed,) = re.findall(r"│ ([\d,]+) tokens/s", printed)
    assert shlex.split(command)[3:-1] == [*tiny, "--max_steps"]
    assert int(command.split()[-1]) == pytest.approx(300 * int(speed.replace(",", "")) / (2 * 256), rel=0.01)
    assert "The speed is that of this moment" in printed
    short = run_here("scratch-gpt", "plan", "--tokens", "1000", *tiny).stdout
    assert "shorter" not in short
    assert without(("epochs",), ["--a", "1", "--epochs=2", "--b", "--epochs", "2", "--c", "3"]) == [
        *("--a", "1", "--b", "--c", "3")
    ]


def test_little_and_blank_texts(tmp_path):
    (tmp_path / "tiny.txt").write_text("abc " * 50)
    warned = run_here("scratch-gpt", "plan", "--dataset", "tiny.txt", "--num_threads", "1", cwd=tmp_path)
    assert "warning: 200 bytes: too little text to learn a language from; 100 kB or more is useful" in warned.stderr
    (tmp_path / "blank.txt").write_text("  \n\n")
    refused = run_here("scratch-gpt", "plan", "--dataset", "blank.txt", cwd=tmp_path, check=False)
    assert (refused.returncode, "error: blank.txt has no text" in refused.stderr) == (2, True)


def test_a_tiny_text_gets_a_context_that_it_fills(tmp_path):
    assert [fitting_context(64, tokens) for tokens in (10**6, 512, 511, 100, 3)] == [64, 64, 32, 8, 8]
    (tmp_path / "tiny.txt").write_text("abc " * 50)
    printed = run_here("scratch-gpt", "plan", "--dataset", "tiny.txt", "--num_threads", "1", cwd=tmp_path).stdout
    assert "--context_length 16" in printed


def test_settings_that_are_complete_are_planned_as_they_are(tmp_path):
    """Of a config, a bigram table and the built-in stories, the tokens are counted, and nothing is proposed."""
    (tmp_path / "text.txt").write_text(TEXT * 40)
    cases = [("--dataset", "stories", "--num_stories", "50", "--hidden_size", "16", "--num_hidden_layers", "1")]
    cases += [("--dataset", "text.txt", "--preset", "bigram", "--tokenizer", "char")]
    cases += [("--dataset", "text.txt", "--config", "tinyshakespeare_char", "--hidden_size", "16")]
    for case in cases:
        printed = run_here("scratch-gpt", "plan", *case, "--num_threads", "1", cwd=tmp_path).stdout
        assert "Proposed for" not in printed
        assert "tokens for training" in printed
    assert re.search(r"tokens of the run +│ 655,360 ", printed)  # 320 steps of 16 rows of 128 tokens
    refused = run_here("scratch-gpt", "plan", "--dataset", "none.txt", cwd=tmp_path, check=False)
    assert (refused.returncode, "no such file or folder: none.txt" in refused.stderr) == (2, True)
