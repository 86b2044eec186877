"""The plan against reality: parameters, arithmetic, and the memory that a training process really takes."""

from statistics import fmean

import pytest
import torch
from helpers.models import tiny_config
from helpers.processes import run_here, run_python
from torch.utils.flop_counter import FlopCounterMode

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from scratch_gpt.cli.plan import _duration
from scratch_gpt.train.cost_estimate import Plan, flops_per_token, make_plan, optimizer_bytes
from scratch_gpt.train.tasks.language_modeling.arguments import PretrainingArguments

SIZES = [(256, 4, 8192, 8, 256), (512, 6, 4096, 4, 256), (640, 4, 16384, 2, 512)]

MEASURE = '''
import json, re, sys
import torch
from scratch_gpt import ScratchGPTConfig
from scratch_gpt.train.arguments.training import PretrainingArguments
from scratch_gpt.train.optim.optimizers import build_optimizers
from scratch_gpt.train.cost_estimate import _forward
from scratch_gpt.train.engine.startup import build_model, retain_freed_memory
width, layers, vocabulary, batch, length, optimizer = *map(int, sys.argv[1:6]), sys.argv[6]
torch.set_num_threads(1)
def model(width, layers, vocabulary):
    shape = dict(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4)
    return build_model(ScratchGPTConfig.from_preset("llama", max_position_embeddings=length, **shape)).train()
args = PretrainingArguments(batch_size=batch, precision="fp32", optimizer=optimizer, num_threads=1)
def peak():  # not getrusage, whose peak a child inherits from the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
def steps(model, batch, length):
    """Until three more take no more. What is freed is kept, as in training, and blocks of many sizes find their places
    in it over some steps: how much two steps had taken was a matter of chance."""
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


@pytest.mark.slow
@pytest.mark.parametrize(("size", "optimizer"), zip(SIZES, ("adamw", "muon", "adamw"), strict=True))
def test_memory_is_right_within_15_percent(size, optimizer, tmp_path):
    width, layers, vocabulary, batch, length = size
    shape = {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4}
    config = ScratchGPTConfig.from_preset("llama", max_position_embeddings=length, **shape)
    args = PretrainingArguments(batch_size=batch, precision="fp32", optimizer=optimizer, num_threads=1)
    plan = make_plan(config, args, length, tokens=10**6, steps=1)
    # The mean of two, since what a heap takes goes up and down by some hundredths with its place in memory.
    runs = [
        run_python("-c", MEASURE, *map(str, size), optimizer, cwd=tmp_path, fresh=True).stdout.split()[-1]
        for _ in range(2)
    ]
    planned, measured = plan.memory.total, fmean(map(int, runs))
    print(f"{planned / 1e6:.0f} MB planned, {measured / 1e6:.0f} MB measured, ratio {planned / measured:.3f}")
    assert planned == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("preset", ["gpt2", "llama", "nanochat", "nanochat_ngram"])
def test_flops_are_those_that_torch_counts(preset):
    """Against torch's own counter, which counts attention in full and not its causal half."""
    model = ScratchGPTForCausalLM(tiny_config(preset, hidden_size=64, tie_word_embeddings=False)).train()
    model.set_attn_implementation("eager")
    x = torch.randint(3, 99, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model(x, labels=x, use_cache=False).loss.backward()
    attention = 6.0 * 2 * 64 * 64
    expected = counter.get_total_flops() / x.numel()
    assert flops_per_token(model, 64) + attention == pytest.approx(expected, rel=0.02)


def test_optimizer_memory_is_what_the_optimizers_hold():
    from scratch_gpt.train.optim.optimizers import build_optimizers

    for optimizer in ("adamw", "muon"):
        model = ScratchGPTForCausalLM(tiny_config("llama"))
        optimizers = build_optimizers(model, PretrainingArguments(optimizer=optimizer))
        x = torch.randint(3, 99, (2, 16))
        model(x, labels=x).loss.backward()
        for o in optimizers:
            o.step()
        states = [t for o in optimizers for s in o.state.values() for t in s.values()]
        held = sum(t.numel() * 4 for t in states if isinstance(t, torch.Tensor) and t.numel() > 1)
        assert optimizer_bytes(model, optimizer) == held


def test_a_plan_adds_up():
    plan = make_plan(tiny_config("llama"), PretrainingArguments(batch_size=2, precision="fp32"), 32, tokens=10_000)
    assert plan.parameters == ScratchGPTForCausalLM(tiny_config("llama")).num_parameters()
    assert plan.memory.weights == 4 * plan.parameters
    assert plan.seconds == pytest.approx(10_000 / plan.tokens_per_second)
    assert plan.tokens_per_parameter == pytest.approx(10_000 / plan.parameters)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (
            1_000,
            "0.05 times the compute-optimal ratio of about 20 tokens per parameter: with the same compute, a",
        ),
        (9_900, "0.49 times"),
        (10_000, "near the compute-optimal ratio of about 20 tokens per parameter"),
        (40_000, "near the compute-optimal"),
        (
            109_000,
            "5.5 times the compute-optimal ratio of about 20 tokens per parameter: with the same compute, a",
        ),
    ],
)
def test_the_ratio_of_tokens_to_parameters_is_judged(tokens, words):
    plan = make_plan(tiny_config("llama"), PretrainingArguments(batch_size=1, precision="fp32"), 8, tokens=1, steps=1)
    judged = Plan(1_000, plan.flops_per_token, plan.memory, plan.tokens_per_second, tokens)
    assert judged.remark().startswith(words)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (119.94, "119.9 s"), (120, "2.0 min"), (7199, "120.0 min"), (7200, "2.0 h")]
)
def test_durations_have_the_unit_that_people_use(seconds, words):
    assert _duration(seconds) == words


def test_a_plan_prints_nothing_but_its_table(monkeypatch):
    """What it says while it measures is on standard error, even where standard output is a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    tiny = "--hidden_size 32 --num_hidden_layers 1 --context_length 16 --batch_size 1 --num_threads 1 --precision fp32"
    result = run_here("scratch-gpt", "plan", "--tokens", "1000", *tiny.split())
    assert "measuring a few steps" not in result.stdout
    assert "measuring a few steps" in result.stderr
    assert "memory: total" in result.stdout
