"""The compiled decoding step computes what the readable one computes, for any number of cached tokens, and is found in
the cache by other processes."""

import os

import pytest
import torch
from helpers.models import tiny_model, tiny_seq2seq
from helpers.processes import PROJECT, needs_compiler, run_python

from scratch_gpt.models import compiled_step
from scratch_gpt.models.fast_decoding import StepDecoder
from scratch_gpt.models.int8_linear import quantize_int8

OPTIONS = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
WINDOW = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
# A model, the number of rows, of beams, and whether the rows are padded.
CASES = {
    "llama": (lambda: tiny_model("llama", max_position_embeddings=600), 1, 1, False),
    "gpt2 in bfloat16": (lambda: tiny_model("gpt2").to(torch.bfloat16), 1, 1, False),
    "gemma2, padded": (lambda: tiny_model("gemma2", **WINDOW), 3, 1, True),
    "n-grams": (lambda: tiny_model("nanochat_ngram"), 2, 1, False),
    "int8": (lambda: quantize_int8(tiny_model("llama").eval()), 1, 1, False),
    "relative positions, beams": (lambda: tiny_seq2seq("t5"), 2, 3, True),
    "sinusoidal positions, one row": (lambda: tiny_seq2seq("vaswani2017"), 1, 1, False),
}
IN_CI = ("llama", "gemma2, padded", "int8", "relative positions, beams")  # each is compiled for a quarter of a minute


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / "cache"))


def inputs(rows: int, padded: bool) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (rows, 9))
    mask = torch.ones_like(ids)
    if padded:
        mask[1:, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


@needs_compiler
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in IN_CI else pytest.mark.release) for name in CASES]
)
def test_logits_are_those_of_the_readable_step(name, monkeypatch):
    """Beyond the first capacity of the buffers, where the model has the positions, as long as the tokens agree."""
    build, rows, beams, padded = CASES[name]
    model = build().eval()
    new = min(300, model.config.max_position_embeddings - 12)
    arguments = {**inputs(rows, padded), **OPTIONS, "num_beams": beams, "max_new_tokens": new}
    steps: list[tuple[torch.Tensor, torch.Tensor, bool]] = []
    step = StepDecoder.step

    def recording(self, token_ids):
        compiled, logits = self.compiled is not None, step(self, token_ids)
        steps.append((token_ids, logits.clone(), compiled))
        return logits

    monkeypatch.setattr(StepDecoder, "step", recording)
    runs = {}
    for choice in ("off", "on"):
        model.decoding_compilation = choice
        model.generate(**arguments)
        runs[choice], steps = steps, []
    tolerance = 0.05 if model.dtype == torch.bfloat16 else 1e-4
    compared = 0
    for (token_ids, logits, compiled), (same_ids, expected, readable) in zip(runs["on"], runs["off"], strict=True):
        assert compiled
        assert not readable
        if not torch.equal(token_ids, same_ids):  # two scores were nearly equal
            break
        torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)
        compared += 1
    assert compared == len(runs["on"]) or (compared > 5 and (beams > 1 or "bfloat16" in name))


@needs_compiler
@pytest.mark.slow
def test_another_process_finds_it(tmp_path):
    """By itself, without compiling; and a file that was cut off is removed, and said so."""
    script = """
import sys, torch
from helpers.models import tiny_model
from scratch_gpt.models import compiled_step
from scratch_gpt.models.fast_decoding import StepDecoder
model = tiny_model("llama").eval()
model.decoding_compilation = sys.argv[1]
loaded, load = [], compiled_step.StepCompiler._load
compiled_step.StepCompiler._load = lambda self, path: loaded.append(load(self, path)) or loaded[-1]
ids = torch.arange(5, 14)[None]
options = dict(max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
print(len([each for each in loaded if each is not None]), out.tolist())
"""
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])

    def run(choice: str):
        return run_python("-c", script, choice, cwd=tmp_path, PYTHONPATH=path)

    first = run("on")
    assert "compiling the decoding step of ScratchGPTForCausalLM once" in first.stderr
    second = run("auto")
    assert second.stdout == first.stdout
    assert first.stdout.startswith("1 ")
    assert "compiling" not in second.stderr
    assert run("off").stdout.split(maxsplit=1) == ["0", first.stdout.split(maxsplit=1)[1]]
    (library,) = (tmp_path / "cache" / "steps").glob("*.pt2")
    library.write_bytes(library.read_bytes()[:1000])
    third = run("auto")
    assert third.stdout.split(maxsplit=1) == ["0", first.stdout.split(maxsplit=1)[1]]
    assert "can't be loaded and is removed" in third.stderr
    assert not library.exists()


def decoder(**changes) -> StepDecoder:
    return decoder_of(tiny_model("llama", **changes).eval())


def decoder_of(model) -> StepDecoder:
    with torch.no_grad():
        cache = model(torch.arange(5, 14)[None], use_cache=True).past_key_values
    return StepDecoder(model, model.model, cache)


def test_key_depends_on_the_architecture_and_not_on_the_weights():
    models = [tiny_model("llama", **changes).eval() for changes in ({}, {}, {"hidden_act": "gelu"}, {"head_dim": 4})]
    models += [tiny_model("llama").eval().bfloat16(), quantize_int8(tiny_model("llama").eval())]
    keys = [decoder_of(model).compiler.key for model in models]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5


def test_a_model_with_experts_is_decoded_as_before():
    """Experts are chosen by the data."""
    model = tiny_model("mixtral").eval()
    arguments = {**inputs(1, False), **OPTIONS, "max_new_tokens": 3}
    expected = model.generate(**arguments)
    model.decoding_compilation = "on"
    assert torch.equal(model.generate(**arguments), expected)


def test_it_is_compiled_when_that_saves_time(monkeypatch):
    """In the steps that remain, or if as many follow as there were."""
    one = decoder()
    compiled = []
    monkeypatch.setattr(one.compiler, "compile", lambda path: compiled.append(path))
    monkeypatch.setattr(one.compiler, "_load", lambda path: "loaded")
    monkeypatch.setattr(compiled_step, "has_compiler", lambda: True)

    def consider(remaining: int, seconds: float):
        one.remaining, one.compiler.steps = remaining, compiled_step.STEPS_BEFORE - 1
        return one.compiler.consider(seconds)

    monkeypatch.setattr(compiled_step, "_spent", {})
    assert consider(1000, 0.001) is None
    assert consider(100_000, 0.002) == "loaded"
    compiled_step._spent[one.compiler.key] = 3 * one.compiler.cost
    assert consider(10, 0.001) == "loaded"
    assert len(compiled) == 2


def test_a_failure_of_the_compiler_is_said_and_the_text_is_written(monkeypatch, caplog):
    model = tiny_model("llama").eval()
    arguments = {**inputs(1, False), **OPTIONS, "max_new_tokens": 20}
    model.decoding_compilation = "off"
    expected = model.generate(**arguments)
    model.decoding_compilation = "auto"
    calls = []

    def fail(self, path):
        calls.append(path)
        raise ValueError("no space left on device\nand more lines")

    monkeypatch.setattr(compiled_step.StepCompiler, "compile", fail)
    monkeypatch.setattr(compiled_step.StepCompiler, "cost", 0.0)
    monkeypatch.setattr(compiled_step, "has_compiler", lambda: True)
    monkeypatch.setattr(compiled_step, "_spent", {})
    for _ in range(2):
        assert torch.equal(model.generate(**arguments), expected)
    assert len(calls) == 1
    assert "can't be compiled, and is used as it is: no space left on device" in caplog.text
