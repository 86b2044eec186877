"""Run commands and scripts: in this process, in a forked one, or in a new one."""

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

import psutil
import pytest
import torch

from helpers.forked_python import start_python
from scratch_gpt.cli.app import main as scratch_gpt_command
from scratch_gpt.train.performance.compile_blocks import can_compile

PROJECT = Path(__file__).parents[2]


SHARED = PROJECT.parent / "shared" / "data"


# `torchrun` with two processes. The launcher picks a free port, since tests run in parallel.
LAUNCH = "from helpers.forked_python import fork_workers as fork; from torch.distributed import run; fork(); run.main()"
TWO_PROCESSES = ("-c", LAUNCH, "--standalone", "--local_addr", "127.0.0.1", "--nproc_per_node", "2")


TIMEOUT = 280  # seconds; below the timeout of pytest for a test that runs two processes


def run_python(
    *arguments: str,
    cwd: Path | str,
    check: bool = True,
    fresh: bool = False,
    timeout: float = TIMEOUT,
    env: dict[str, str] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess:
    """Run this Python in a subprocess and return its output. A process that hangs is killed with all of its children,
    and prints the stack of each thread.

    Args:
        arguments: arguments of the interpreter.
        cwd: working directory.
        check: whether an exit code other than 0 raises AssertionError.
        fresh: start a new interpreter, for tests of imports or memory; otherwise it is forked from a process that has
            imported PyTorch and other libraries (see `forked_python`), which saves seconds.
        timeout: seconds after which the process hangs.
        env: all environment variables. Default: those of this process.
        environment: further environment variables.
    """
    env = {**(env or os.environ), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "COLUMNS": "200", **environment}
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("out", "errors")]
        for path in printed:
            path.touch()
        process = start_python([str(each) for each in arguments], cwd, env, (os.devnull, *printed), fresh)
        process.join(timeout)
        hangs = process.exitcode is None
        if hangs:
            end_all(process.pid, signal.SIGABRT)
            process.join(30)
            end_all(process.pid, signal.SIGKILL)
            process.join()
        out, errors = (path.read_text(encoding="utf-8") for path in printed)
    if hangs:
        raise AssertionError(f"hung for {timeout} s\n{out[-4000:]}\n{errors[-20000:]}")
    if check and process.exitcode:
        raise AssertionError(f"exit code {process.exitcode}\n{out[-4000:]}\n{errors[-6000:]}")
    return subprocess.CompletedProcess([sys.executable, *arguments], process.exitcode, out, errors)


def run_command(*arguments: str, cwd: Path | str, check: bool = False, **more: Any) -> subprocess.CompletedProcess:
    """Run `scratch-gpt` in a subprocess; `more` are arguments of `run_python`."""
    script = "import sys; from scratch_gpt.cli.app import main; sys.argv[0] = 'scratch-gpt'; main()"
    return run_python("-c", script, *arguments, cwd=cwd, check=check, **more)


def end_all(pid: int, number: int) -> None:
    """Send a signal to a process, if it is still running, and to all of its children."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)


def run_here(
    script: str, *arguments: str, cwd: Path | str = PROJECT, check: bool = True, stdin: str = ""
) -> subprocess.CompletedProcess:
    """Run a script in this process, which saves the time of its imports; process-wide settings are restored. `script`
    is a path, or "scratch-gpt"; `stdin` is its standard input. Tests of the process itself (kills, launchers, a missing
    package) use `run_python`."""
    from accelerate.state import AcceleratorState, GradientState

    def reset_accelerator() -> None:  # a singleton of the process
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    out, errors, code = io.StringIO(), io.StringIO(), 0
    threads = torch.get_num_threads()
    reset_accelerator()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [script, *arguments])
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "stdin", io.StringIO(stdin))  # not interactive
        try:
            if script == "scratch-gpt":
                scratch_gpt_command()
            else:
                runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            torch.set_num_threads(threads)
            reset_accelerator()
    if check and code:
        raise AssertionError(f"exit code {code}\n{out.getvalue()[-4000:]}\n{errors.getvalue()[-6000:]}")
    return subprocess.CompletedProcess([script, *arguments], code, out.getvalue(), errors.getvalue())


def refusals(script: str, argument_lists: list[list[str]], cwd: Path) -> list[tuple[int, str]]:
    """Exit code and standard error of `script` with each list of arguments."""
    results = [run_here(script, *arguments, cwd=cwd, check=False) for arguments in argument_lists]
    return [(result.returncode, result.stderr) for result in results]


PRETRAIN = str(PROJECT / "training" / "language_modeling.py")


TINY_LOOP = ("--context_length", "32", "--batch_size", "4", "--num_threads", "1", "--precision", "fp32")


TINY_MODEL = ("--preset", "llama", "--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2")


TINY_RUN = (*TINY_LOOP, *TINY_MODEL, "--tokenizer", "char")


needs_compiler = pytest.mark.skipif(not can_compile("cpu"), reason="no C++ compiler or Python.h")
