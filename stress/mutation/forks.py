"""Copies of the repository, and pytest in forks of a process that has imported torch, transformers and pytest.

Starting Python with all imports of the tests takes 5 to 15 seconds, a fork a few milliseconds. Only scratch_gpt and
the tests are imported after the fork, from a copy of the repository in which a mutant is planted.
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
# Limits of each test process: a mutant that allocates or writes in an endless loop fails with an error.
LIMITS = {resource.RLIMIT_AS: 14 * GIB, resource.RLIMIT_FSIZE: 2 * GIB, resource.RLIMIT_CORE: 0}
# Imported before the forks. Other modules are imported in each fork, which is only slower.
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
    """A copy of the repository's tracked files in a temporary folder, with its own caches.

    Args:
        project: Root of the repository to copy, a git working tree.
    """

    def __init__(self, project: Path = PROJECT):
        self.home = Path(tempfile.mkdtemp(prefix="mutants-"))
        self.root = self.home / "copy" / project.name
        self.caches, self.temporary = self.home / "caches", self.home / "tmp"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=project, capture_output=True, check=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (project / name).is_file():  # skip files that are deleted, but not committed
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(project / name, self.root / name)
        if (project.parent / "shared").is_dir():  # data next to the repository that some tests read
            (self.root.parent / "shared").symlink_to(project.parent / "shared")
        self.writes = 0

    def write(self, name: str, content: bytes) -> None:
        """Replace the file `name`, with a unique modification time, which invalidates its bytecode."""
        path = self.root / name
        path.write_bytes(content)
        self.writes += 1
        os.utime(path, (1_000_000_000 + self.writes,) * 2)

    def environment(self) -> dict[str, str]:
        """Return the environment of processes on this copy; huggingface_hub reads its variables at import."""
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
        """Empty caches and temporary folder, so that mutants are independent."""
        for folder in (self.caches, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def remove(self) -> None:
        """Delete the copy and its caches."""
        shutil.rmtree(self.home, ignore_errors=True)


def prepare(tree: Tree) -> None:
    """Prepare this process for forks: environment, imports, one thread, and adoption of orphaned descendants.

    Raises:
        RuntimeError: scratch_gpt has been imported, which each fork must import from the copy.
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
    become_subreaper = 36  # PR_SET_CHILD_SUBREAPER of Linux: orphaned descendants become children of this process
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(become_subreaper, 1, 0, 0, 0)


def fork(tree: Tree, work: Callable[[], int], log: Path) -> psutil.Process:
    """Start `work` in a forked process, in the copy's root, with its output in the file `log`.

    Args:
        tree: The copy.
        work: Function to call; it returns the exit code.
        log: File for standard output and standard error.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return psutil.Process(pid)
    code = 99
    try:
        os.setsid()
        multiprocessing.current_process().daemon = False  # a daemon could not start processes, as tests do
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
    """Run test files in this process and return pytest's exit code.

    Args:
        files: Test files, relative to the copy's root.
        tree: The copy.
        plugins: Plugins of pytest.
        options: Further options of pytest.

    Raises:
        RuntimeError: scratch_gpt was not imported from the copy.
    """
    import pytest

    fixed = f"-q --tb=short -p no:cacheprovider -p no:xdist --rootdir={tree.root} --basetemp={tree.temporary}/pytest"
    code = int(pytest.main([*files, *fixed.split(), *options], plugins=list(plugins)))
    package = sys.modules.get("scratch_gpt")
    if package is not None and not str(package.__file__).startswith(str(tree.root)):
        raise RuntimeError(f"scratch_gpt was imported from {package.__file__}, not from the copy in {tree.root}.")
    return code


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and its descendants, including those that ended."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def end(process: psutil.Process) -> None:
    """Kill a forked process and all its descendants, including orphans."""
    with suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    with suppress(ChildProcessError):
        os.waitpid(process.pid, 0)
    end_children()


def end_children() -> None:
    """Kill all descendants of this process, including orphans."""
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def wait(process: psutil.Process, seconds: float) -> int | None:
    """Wait up to `seconds` for a forked process; return its exit code (negative for a signal), or None if it runs."""
    ends_at = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= ends_at:
            return None
        time.sleep(0.05)
