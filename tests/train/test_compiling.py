"""Compiled blocks train like eager ones, and `auto` compiles long runs only."""

import os
from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from helpers.processes import needs_compiler
from helpers.training import metrics, pretrain
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from torch._inductor import codecache
from torch._inductor.exc import InvalidCxxCompiler
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch._inductor.utils import run_and_get_code
from torch.nn import functional as F

from scratch_gpt.errors import ScratchError
from scratch_gpt.models.dropout import Dropout
from scratch_gpt.models.feed_forward import gelu_new
from scratch_gpt.train.performance import compile_blocks as compiling
from scratch_gpt.train.performance.compile_blocks import can_compile, compile_blocks


@pytest.mark.slow
@needs_compiler
def test_compiled_run_has_the_same_losses(text_file, tmp_path):
    settings = ("--max_steps", "6", "--eval_every", "3", "--log_every", "1")
    pretrain(tmp_path / "plain", text_file, *settings, "--compile", "off")
    counters.clear()
    pretrain(tmp_path / "compiled", text_file, *settings, "--compile", "on")
    graphs = counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= 2  # one for all blocks, none for evaluation and sampling
    plain, compiled = metrics(tmp_path / "plain"), metrics(tmp_path / "compiled")
    for eager_row, compiled_row in zip(plain, compiled, strict=True):
        assert compiled_row["train_loss"] == pytest.approx(eager_row["train_loss"], rel=1e-4)
        assert compiled_row["grad_norm"] == pytest.approx(eager_row["grad_norm"], rel=1e-3)
    names = [set(load_file(tmp_path / run / "model.safetensors")) for run in ("plain", "compiled")]
    assert names[0] == names[1]
    torch.compiler.reset()


@needs_compiler
def test_compiled_dropout_is_resampled_and_keeps_the_mean():
    torch.manual_seed(0)
    model = torch.nn.Sequential(Dropout(0.3)).train()
    import torch._inductor.config as inductor

    inductor.fallback_random = True
    compiled = torch.compile(model, fullgraph=True)
    ones = torch.ones(200, 500, requires_grad=True)
    first, second = compiled(ones), compiled(ones)
    assert (first == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert first[first != 0].unique().item() == pytest.approx(1 / 0.7, rel=1e-4)
    assert not torch.equal(first, second)
    first.sum().backward()
    torch.testing.assert_close(ones.grad, first.detach())
    torch.compiler.reset()


@needs_compiler
def test_compiled_gelu_is_the_same_function():
    compile_blocks(tiny_model("gpt2"), "on", 0, True)  # sets options of the compiler
    torch.manual_seed(0)
    inputs = torch.cat((5 * torch.randn(2000), torch.tensor([-1e4, -20.0, 0.0, 20.0, 1e4]))).requires_grad_()
    exact = inputs.detach().double().requires_grad_()
    expected, found = F.gelu(exact, approximate="tanh"), torch.compile(gelu_new, fullgraph=True)(inputs)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-6)  # the error of F.gelu is 0.4e-6
    expected_slope, slope = torch.autograd.grad(expected.sum(), exact)[0], torch.autograd.grad(found.sum(), inputs)[0]
    torch.testing.assert_close(slope, expected_slope.float(), rtol=0, atol=3e-6)  # that of its slope is 1.0e-6
    torch.compiler.reset()


@needs_compiler
def test_bias_is_fused_into_the_following_kernel():
    """In float32, to avoid a copy; in bfloat16, it stays in the matrix product, where it is rounded only once."""
    compile_blocks(tiny_model("gpt2"), "on", 0, True)  # sets options of the compiler
    layer, inputs = torch.nn.Linear(24, 40), torch.randn(3, 7, 24)
    for dtype in (torch.float32, torch.bfloat16):
        torch.compiler.reset()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found, (code, *_) = run_and_get_code(torch.compile(lambda x: layer(x).relu()), inputs)
            expected = layer(inputs).relu()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 0)
        assert ("addmm_out(" in code) == (dtype == torch.bfloat16)
        gradients = [torch.autograd.grad(out.float().square().sum(), layer.bias)[0] for out in (found, expected)]
        torch.testing.assert_close(*gradients)
    torch.compiler.reset()


@needs_compiler
@pytest.mark.parametrize("fixed_shape", [True, False])
def test_fixed_shape_batches_use_the_cpp_wrapper(fixed_shape):
    compile_blocks(tiny_model("gpt2"), "on", 0, fixed_shape)  # sets options of the compiler
    torch.compiler.reset()
    found, (code, *_) = run_and_get_code(torch.compile(lambda x: x.sin() @ x), torch.eye(5))
    torch.testing.assert_close(found, torch.eye(5).sin())
    assert ("cpp_wrapper_src" in code) == fixed_shape
    torch.compiler.reset()


def test_auto_compiles_long_runs_only(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    blocks = sum(p.numel() for p in model.model.layers.parameters())
    long = int(compiling.LONG_RUN["cpu"] / blocks) + 1
    assert not compile_blocks(model, "auto", long - 2, True)
    assert not compile_blocks(model, "off", long, True)
    assert compile_blocks(model, "auto", long, True)
    checkpointing = tiny_model("llama")
    checkpointing.gradient_checkpointing_enable()
    assert not compile_blocks(checkpointing, "auto", long, True)


def test_blocks_with_experts_are_not_compiled(monkeypatch):
    model = tiny_model("llama", num_experts=4)
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    assert not compile_blocks(model, "auto", 10**12, True)
    with pytest.raises(ScratchError, match="blocks with experts can't be compiled"):
        compile_blocks(model, "on", 1, True)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "fields",
    [
        {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "norm_position": "sandwich"},
        {"parallel_residual": True, "no_rope_layers": [1, 0], "qk_norm": True, "qk_norm_per_head": False},
        {"attn_logit_softcapping": 2.0, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ],
    ids=["windows", "parallel", "soft-cap"],
)
def test_compiled_blocks_have_the_same_gradients_with_every_field(fields):
    torch.manual_seed(0)
    tokens, gradients = torch.randint(3, 99, (2, 20)), []
    for choice in ("off", "on"):
        model = tiny_model("llama", **fields).train()
        compile_blocks(model, choice, 1, True)
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    torch.compiler.reset()


@pytest.mark.parametrize("missing", ["compiler", "headers"])
def test_without_a_compiler_auto_is_off_and_on_is_an_error(missing, monkeypatch, tmp_path):
    def refuse() -> str:
        raise InvalidCxxCompiler

    if missing == "compiler":
        monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", refuse)
    else:
        monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    model = tiny_model("llama")
    assert not can_compile("cpu")
    assert not compile_blocks(model, "auto", 10**9, True)
    with pytest.raises(ScratchError, match=r"which needs a C\+\+ compiler and Python.h: install g\+\+"):
        compile_blocks(model, "on", 1, True)


def test_compiled_code_is_in_the_package_cache(monkeypatch, tmp_path):
    """The default is a predictable name in the temporary directory, which other users could create. Importing the
    compiler names it in the environment; another folder is the user's choice."""
    for name in ("_HEADER_DIR", "_HEADER_LOCK_DIR"):
        monkeypatch.setattr(codecache, name, getattr(codecache, name))  # restored after the test
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / "cache"))
    own = str(tmp_path / "cache" / "compiled")
    for named, expected in ((default_cache_dir(), own), (str(tmp_path / "mine"), str(tmp_path / "mine"))):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", named)
        assert compile_blocks(tiny_model("llama"), "on", 1, True)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == expected
        assert str(Path(expected, "precompiled_headers")) == codecache._HEADER_DIR
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
