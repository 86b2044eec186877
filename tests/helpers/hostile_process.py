"""Child processes forked from one that has imported everything, which saves the time of imports.

Each has its own streams, folders, variables and limits, and is monitored by the parent.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import pkgutil
import re
import resource
import runpy
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

SECONDS, MEGABYTES, FILE_MEGABYTES, IDLE_SECONDS = 30.0, 1000, 300, 25.0
TOO_SLOW, HUNG, TOO_LARGE = -101, -102, -103  # in place of an exit code


def environment(folder: Path, endpoint: str) -> dict[str, str]:
    """Variables to set before anything is imported: the local Hub, one thread, and files only in `folder`."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    home = {"HOME": folder / "home", "HF_HOME": folder / "home" / "hf", "HF_MODULES_CACHE": folder / "home" / "modules"}
    settings = {
        "TOKENIZERS_PARALLELISM": "false",
        "COLUMNS": "200",
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": "hf_" + "x" * 24,
    }
    more = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "MPLCONFIGDIR": str(folder / "matplotlib")}
    return {**threads, **settings, **more, **{name: str(path) for name, path in home.items()}}


def preload() -> None:
    """Import what commands need before processes are forked, and set the number of threads to one."""
    preload_libraries()
    import scratch_gpt

    for module in pkgutil.walk_packages(scratch_gpt.__path__, "scratch_gpt."):
        importlib.import_module(module.name)


def preload_libraries() -> None:
    """Import everything but this package."""
    import torch
    import transformers

    torch.set_num_threads(1)
    names = ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig", "PreTrainedTokenizerFast", "LlamaForCausalLM")
    for name in (*names, "TextStreamer", "GenerationConfig", "HfArgumentParser", "GPT2LMHeadModel"):
        getattr(transformers, name)
    for name in (
        "typer._adapters",
        "matplotlib.pyplot",
        "torch._dynamo",
        "torch.distributed.checkpoint.state_dict",
        "peft",
        "pandas",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError):  # compiling its regular expressions takes a second
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")


def enter(home: Path, cwd: Path, stdin: int, log: Path) -> None:
    """Set streams, folder, variables and limits of a process that was just forked."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    errors = os.open(log.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for target, source in ((0, stdin), (1, descriptor), (2, errors)):
        os.dup2(source, target)
    sys.stdin, sys.stdout = open(0, encoding="utf-8"), open(1, "w", encoding="utf-8")  # noqa: SIM115  (as long as it runs)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    os.chdir(cwd)
    for name in ("tmp", "cache"):
        (home / name).mkdir(exist_ok=True)
    os.environ |= {"TMPDIR": str(home / "tmp"), "SCRATCH_GPT_CACHE": str(home / "cache")}
    tempfile.tempdir = None  # otherwise that of the parent process
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_MEGABYTES << 20, FILE_MEGABYTES << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=False)


def finish(script: Path | None, arguments: list[str]) -> None:
    """Run a training script, or `scratch-gpt`, and exit the process with its exit code."""
    sys.argv = [str(script or "scratch-gpt"), *arguments]
    code = 0
    try:
        if script is None:
            from scratch_gpt.cli.app import main

            main()
        else:
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def online(enabled: bool) -> None:
    """Set whether huggingface_hub may access its endpoint, in this process, which has imported it, and in child
    processes."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = not enabled
    os.environ["HF_HUB_OFFLINE"] = "0" if enabled else "1"


def wait_for(pid: int) -> tuple[int, float, float]:
    """Wait for a process and its descendants, and return exit code, CPU seconds and peak memory in MB.

    A process that exceeds a limit is killed.

    CPU time does not depend on other load of the machine; a process that uses none is killed after `IDLE_SECONDS` of
    wall-clock time.
    """
    ended, seconds, most = 0, 0.0, 0.0
    last_seconds, last_moved, last_looked = 0.0, time.monotonic(), time.monotonic()
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        time.sleep(0.01)
        if time.monotonic() - last_looked < 0.2:
            continue
        last_looked = time.monotonic()
        now, memory = used_by(pid)
        seconds, most = max(seconds, now), max(most, memory)
        if seconds > last_seconds + 0.05:
            last_seconds, last_moved = seconds, time.monotonic()
        if most > 2.5 * MEGABYTES or seconds > SECONDS or time.monotonic() - last_moved > IDLE_SECONDS:
            ended = TOO_LARGE if most > 2.5 * MEGABYTES else TOO_SLOW if seconds > SECONDS else HUNG
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)  # prints its stack
                time.sleep(0.5)
                os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # remaining descendants
    code = ended or os.waitstatus_to_exitcode(status)
    return code, max(seconds, usage.ru_utime + usage.ru_stime), max(usage.ru_maxrss / 1024, most)


def used_by(pid: int) -> tuple[float, float]:
    """CPU seconds used by a process and its descendants, and the resident memory in MB of the largest of them. Reads
    /proc directly, since it is called often."""
    seconds, most, queue = 0.0, 0.0, [str(pid)]
    while queue:
        folder = Path("/proc", queue.pop())
        with contextlib.suppress(OSError, IndexError, ValueError):
            name, _, numbers = (folder / "stat").read_text().rpartition(")")
            fields = numbers.split()
            if forked := re.search(r"\(fork (\d+)$", name):  # see hostile_loading.py
                queue.append(forked[1])
            seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
            most = max(most, int(fields[21]) * resource.getpagesize() / 2**20)
            for thread in (folder / "task").iterdir():
                queue += (thread / "children").read_text().split()
    return seconds, most
