"""Copies of the repository, and pytest in forked processes that find torch, transformers and pytest imported already.

Starting Python with all that the tests import takes 5 to 15 seconds, a fork a few milliseconds. Only scratch_gpt and
the tests are imported after the fork, from a copy of the repository whose files a mutant may change.
"""

import ctypes
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[2]
GIB = 2**30
# What one process of the tests may take: a mutant that allocates or writes in an endless loop ends with an error.
LIMITS = {resource.RLIMIT_AS: 14 * GIB, resource.RLIMIT_FSIZE: 2 * GIB, resource.RLIMIT_CORE: 0}
# Imported before any fork. What is missing here is imported by each fork anew, which is slow, not wrong.
PRELOADED = """
    accelerate accelerate.state coverage datasets hypothesis hypothesis.strategies matplotlib.pyplot numpy numpy.testing
    pandas peft psutil pyarrow.parquet pytest pytest_timeout rich.console rich.progress rich.table sacrebleu sacremoses
    safetensors.torch sklearn.metrics tenacity tokenizers torch torch._dynamo torch.distributed.checkpoint
    torch.distributed.tensor torch.nn.attention.flex_attention transformers transformers.generation.utils
    transformers.generation.candidate_generator transformers.integrations transformers.modeling_layers
    transformers.models.auto.modeling_auto transformers.models.auto.tokenization_auto
    transformers.models.gpt2.modeling_gpt2 transformers.models.gpt2.tokenization_gpt2
    transformers.models.llama.modeling_llama transformers.models.llama.tokenization_llama transformers.pipelines
    transformers.testing_utils transformers.tokenization_utils_tokenizers transformers.trainer typer typer.testing yaml
"""


class Tree:
    """A copy of the repository's tracked files in a temporary folder, with caches of its own.

    Args:
        project: Root of the repository (a git working tree) to copy.
    """

    def __init__(self, project: Path = PROJECT):
        self.home = Path(tempfile.mkdtemp(prefix="mutants-"))
        self.root = self.home / "copy" / project.name
        self.caches, self.temporary = self.home / "caches", self.home / "tmp"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=project, capture_output=True, check=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (project / name).is_file():  # not one that is deleted but not committed
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(project / name, self.root / name)
        if (project.parent / "shared").is_dir():  # data that some tests read beside the repository
            (self.root.parent / "shared").symlink_to(project.parent / "shared")
        self.writes = 0

    def write(self, name: str, content: bytes) -> None:
        """Replace the file `name`, with a time of change that no earlier version had: compiled files go by it."""
        path = self.root / name
        path.write_bytes(content)
        self.writes += 1
        os.utime(path, (1_000_000_000 + self.writes,) * 2)

    def environment(self) -> dict[str, str]:
        """Variables for all that runs on this copy; those of huggingface_hub are read when it is imported."""
        return {
            "HF_HOME": str(self.caches / "hf"),
            "HF_HUB_OFFLINE": "1",
            "HF_MODULES_CACHE": str(self.caches / "modules"),
            "MPLBACKEND": "agg",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(self.root),
            "TMPDIR": str(self.temporary),
            "TOKENIZERS_PARALLELISM": "false",
        }

    def clean(self) -> None:
        """Empty caches and temporary files, so that no mutant reads what another one wrote."""
        for folder in (self.caches, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def remove(self) -> None:
        """Delete the copy and its caches."""
        shutil.rmtree(self.home, ignore_errors=True)


def prepare(tree: Tree) -> None:
    """Make this process one that can fork: environment, imports, one thread, and orphans of its children its own.

    Raises:
        RuntimeError: If scratch_gpt came along, which each fork must import from its own copy.
    """
    tree.clean()
    os.environ.update(tree.environment())
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    tempfile.tempdir = None
    sys.path.insert(0, str(tree.root))
    for name in PRELOADED.split():
        with suppress(ImportError):
            importlib.import_module(name)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if "scratch_gpt" in sys.modules:
        raise RuntimeError("scratch_gpt was imported before the fork, so a mutant of it would have no effect.")
    become_subreaper = 36  # PR_SET_CHILD_SUBREAPER of Linux: what outlives its parent is ours to end
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(become_subreaper, 1, 0, 0, 0)


def fork(tree: Tree, work: Callable[[], int], log: Path) -> psutil.Process:
    """Start `work` in a forked process, in the copy's root, with its output in the file `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return psutil.Process(pid)
    code = 99
    try:
        os.setsid()
        multiprocessing.current_process().daemon = False  # which could start no processes, as tests do
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
        os.dup2(1, 2)
        for kind, limit in LIMITS.items():
            resource.setrlimit(kind, (limit, limit))
        os.chdir(tree.root)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_pytest(files: Sequence[str], tree: Tree, plugins: Sequence[object], *options: str) -> int:
    """Run the tests of `files` in this process and return pytest's exit code."""
    import pytest

    fixed = f"-q --tb=short -p no:cacheprovider -p no:xdist --rootdir={tree.root} --basetemp={tree.temporary}/pytest"
    code = int(pytest.main([*files, *fixed.split(), *options], plugins=list(plugins)))
    package = sys.modules.get("scratch_gpt")
    if package is not None and not str(package.__file__).startswith(str(tree.root)):
        raise RuntimeError(f"scratch_gpt was imported from {package.__file__}, not from the copy in {tree.root}.")
    return code


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and all that it started, those that ended included."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def end(process: psutil.Process) -> None:
    """Kill a forked process and everything that descends from it, orphans too."""
    with suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    with suppress(ChildProcessError):
        os.waitpid(process.pid, 0)
    end_children()


def end_children() -> None:
    """Kill all that descends from this process: forks, what they started, and orphans of either."""
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def wait(process: psutil.Process, seconds: float) -> int | None:
    """Wait up to `seconds` for a forked process; its exit code (negative for a signal), or None where it still runs."""
    ends_at = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= ends_at:
            return None
        time.sleep(0.05)
