"""Shared by all tests: one thread, no Hub, a cache of their own, tiny configs and a tiny tokenizer."""

import io
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import pytest
import torch
from forked_python import start_python
from hypothesis import settings

from scratch_gpt import (
    ScratchEncoderConfig,
    ScratchGPTConfig,
    ScratchGPTForCausalLM,
    ScratchSeq2SeqConfig,
    ScratchSeq2SeqForConditionalGeneration,
    train_tokenizer,
)
from scratch_gpt.cli.app import main as scratch_gpt_command
from scratch_gpt.data.corpora.stories import stories

torch.set_num_threads(1)

# The same inputs each time, and none that takes longer than half a minute.
settings.register_profile("few", max_examples=40, deadline=30_000, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=2000, deadline=30_000, database=None)
settings.load_profile("few")

PROJECT = Path(__file__).parents[1]
# Compiled once for all workers: by default, each has a cache of its own.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(PROJECT / ".pytest_cache" / "compiled"))
SHARED = PROJECT.parent / "shared" / "data"
# A launcher that picks a free port: tests run side by side.
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--local_addr", "127.0.0.1", "--nproc_per_node", "2")
HANGS_AFTER = 280  # seconds, so that pytest does not give up first, on a test that runs two
PRESETS = ("gpt2", "llama", "nanochat", "nanochat_ngram")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    os.environ["SCRATCH_GPT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def tiny_config(preset: str, **overrides) -> ScratchGPTConfig:
    fields = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        **({"ngram_buckets": 1024} if preset == "nanochat_ngram" else {}),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return ScratchGPTConfig.from_preset(preset, **{**fields, **overrides})


def tiny_model(preset: str, **overrides) -> ScratchGPTForCausalLM:
    """A model in evaluation mode whose every weight, zero-initialised ones too, is random and matters."""
    return randomise(ScratchGPTForCausalLM(tiny_config(preset, **overrides))).eval()


def save_tiny(folder: Path) -> Path:
    """A model directory: such a model, and a tokenizer of a few characters."""
    tiny_model("llama").save_pretrained(folder)
    train_tokenizer(["a b c"], "char", model_max_length=64).save_pretrained(folder)
    return folder


def tiny_seq2seq_config(preset: str, **overrides) -> ScratchSeq2SeqConfig:
    fields = {
        "vocab_size": 99,
        "hidden_size": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return ScratchSeq2SeqConfig.from_preset(preset, **{**fields, **overrides})


def tiny_seq2seq(preset: str, **overrides) -> ScratchSeq2SeqForConditionalGeneration:
    """The same for the encoder-decoder; norms around one, lest what passes many of them fade."""
    return lift_norms(randomise(ScratchSeq2SeqForConditionalGeneration(tiny_seq2seq_config(preset, **overrides))))


def tiny_encoder(model_class, preset: str, **overrides):
    """The same for an encoder of `model_class`."""
    fields = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 3}
    fields |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
    return lift_norms(randomise(model_class(ScratchEncoderConfig.from_preset(preset, **{**fields, **overrides}))))


def lift_norms(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def randomise(model, seed: int = 0, std: float = 0.2):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


@pytest.fixture(scope="session")
def story_tokenizer():
    return train_tokenizer(stories(seed=0, count=300), "bpe", 600)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(stories(seed=3, count=150)))
    return path


def run_python(
    *arguments: str,
    cwd: Path | str,
    check: bool = True,
    fresh: bool = False,
    env: dict[str, str] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess:
    """Run this Python with `arguments` in `cwd`, one thread, and hand back what it printed. What hangs is ended, with
    all that it started, and each thread says where it stood.

    Args:
        fresh: start it anew, for what is said about imports or memory; else it is forked from a process that has
            imported PyTorch and others (see `forked_python`), which spares seconds.
        env: all variables, in place of those of this process.
        environment: further ones.
    """
    env = {**(env or os.environ), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "COLUMNS": "200", **environment}
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("out", "errors")]
        for path in printed:
            path.touch()
        process = start_python([str(each) for each in arguments], cwd, env, (os.devnull, *printed), fresh)
        process.join(HANGS_AFTER)
        hangs = process.exitcode is None
        if hangs:
            end_all(process.pid, signal.SIGABRT)
            process.join(30)
            end_all(process.pid, signal.SIGKILL)
            process.join()
        out, errors = (path.read_text(encoding="utf-8") for path in printed)
    if hangs:
        raise AssertionError(f"hung for {HANGS_AFTER} s\n{out[-4000:]}\n{errors[-20000:]}")
    if check and process.exitcode:
        raise AssertionError(f"exit code {process.exitcode}\n{out[-4000:]}\n{errors[-6000:]}")
    return subprocess.CompletedProcess([sys.executable, *arguments], process.exitcode, out, errors)


def run_command(*arguments: str, cwd: Path | str, check: bool = False, **more: Any) -> subprocess.CompletedProcess:
    """Run `scratch-gpt` in a process of its own; `more` as for `run_python`."""
    script = "import sys; from scratch_gpt.cli.app import main; sys.argv[0] = 'scratch-gpt'; main()"
    return run_python("-c", script, *arguments, cwd=cwd, check=check, **more)


def end_all(pid: int, number: int) -> None:
    """Send a signal to a process, if it still runs, and to all that it started."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)


def run_here(
    script: str, *arguments: str, cwd: Path | str = PROJECT, check: bool = True
) -> subprocess.CompletedProcess:
    """The same in this process, which spares the seconds that its imports take; what it sets is put back. `script` is
    a path, or "scratch-gpt". For what is said about a process itself (a kill, a stranger, a launcher), `run_python`."""
    from accelerate.state import AcceleratorState, GradientState

    def forget_accelerator() -> None:  # which is one for a process
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    out, errors, code = io.StringIO(), io.StringIO(), 0
    threads = torch.get_num_threads()
    forget_accelerator()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [script, *arguments])
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "stdin", io.StringIO())  # nobody is there to answer
        try:
            if script == "scratch-gpt":
                scratch_gpt_command()
            else:
                runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            torch.set_num_threads(threads)
            forget_accelerator()
    if check and code:
        raise AssertionError(f"exit code {code}\n{out.getvalue()[-4000:]}\n{errors.getvalue()[-6000:]}")
    return subprocess.CompletedProcess([script, *arguments], code, out.getvalue(), errors.getvalue())


def refusals(script: str, asked: list[list[str]], cwd: Path) -> list[tuple[int, str]]:
    """Exit code and error stream of `script` with each list of arguments."""
    results = [run_here(script, *arguments, cwd=cwd, check=False) for arguments in asked]
    return [(result.returncode, result.stderr) for result in results]


PRETRAIN = str(PROJECT / "training" / "language_modeling.py")
TINY_LOOP = ("--context_length", "32", "--batch_size", "4", "--num_threads", "1", "--precision", "fp32")
TINY_MODEL = ("--preset", "llama", "--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2")
TINY_RUN = (*TINY_LOOP, *TINY_MODEL, "--tokenizer", "char")
