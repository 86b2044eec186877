"""Fast start of Python subprocesses, forked from a server that has imported PyTorch and other libraries that are slow
to import; not those of Hugging Face, which read environment variables at import, and not this package."""

import atexit
import contextlib
import faulthandler
import functools
import gc
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import pickle
import random
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Dependencies of `import transformers` that are slow to import.
SLOW = ("torch", "torch._dynamo", "torch.onnx", "torch.export", "torch.distributed.tensor", "torch.utils.data", "sympy")
SLOW += ("torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp", "torch.utils.flop_counter", "numpy")
SLOW += ("scipy.optimize", "scipy.stats", "pandas", "pyarrow", "pyarrow.parquet", "pyarrow.dataset", "PIL.Image")
SLOW += ("matplotlib.pyplot", "typer", "rich.console", "rich.table", "jinja2", "yaml", "httpx", "regex", "dill")
SLOW += ("multiprocess", "fsspec", "psutil", "asyncio", "unittest.mock")
OURS_OR_HF = {"scratch_gpt", "transformers", "huggingface_hub", "tokenizers", "datasets", "accelerate", "peft", "trl"}

_structure: dict[str, Any] = {}  # of the folder of transformers' models, in the fork server and its children


def _read_structure() -> dict[str, Any]:
    """What `import transformers` reads, twice, from the sources of all its models, which takes half a second; by the
    path of their folder and of its `__init__.py`. It depends on nothing else, and is read in a process of its own."""
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException), open(write_end, "wb") as file:
            utils = importlib.import_module("transformers.utils.import_utils")
            models = Path(utils.__file__ or "").parents[1] / "models"
            structure = utils.create_import_structure_from_path(str(models))
            pickle.dump(dict.fromkeys((str(models), str(models / "__init__.py")), structure), file)
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as file:
        content = file.read()
    os.waitpid(child, 0)
    return pickle.loads(content) if content else {}


if __name__ != "__main__" and os.environ.get("SLOW_IMPORTS"):  # in the fork server
    for _name in SLOW:
        with contextlib.suppress(ImportError):
            importlib.import_module(_name)
    assert not OURS_OR_HF & {name.split(".")[0] for name in sys.modules}
    _structure |= _read_structure()
    # Garbage collections of the children skip what they share: each would otherwise copy it, in a quarter of a second.
    gc.collect()
    gc.freeze()


def start_python(
    arguments: list[str],
    cwd: Path | str,
    environment: dict[str, str],
    streams: tuple[Path | str, ...],
    fresh: bool = False,
    new_session: bool = False,
) -> BaseProcess:
    """Start a subprocess equivalent to `python ARGUMENTS`. It may be called in a process that it has started.

    Args:
        arguments: arguments of the interpreter.
        cwd: working directory.
        environment: all environment variables.
        streams: files of standard input, output and error.
        fresh: start a new interpreter without imported modules. Always so, unless the arguments are `-c CODE` or a
            script, possibly after `-I`.
        new_session: make it the leader of a process group of its own.
    """
    isolated = arguments[0] == "-I"
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with _environment_of_server():
        asked = (arguments, str(cwd), environment, [str(stream) for stream in streams], new_session)
        fresh = fresh or (arguments[isolated].startswith("-") and arguments[isolated] != "-c")
        if fresh:
            process = context.Process(target=_replace, args=asked)
        else:
            path = _path_of(None if isolated else environment.get("PYTHONPATH"))
            process = context.Process(target=_run, args=(*asked, path))
        process.start()
    return process


@functools.cache
def _path_of(variable: str | None) -> list[str]:
    """`sys.path` of a new process, without its first entry."""
    environment = {**os.environ, "PYTHONPATH": variable or ""}
    environment.pop("COVERAGE_PROCESS_START", None)
    command = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path[1:]))"]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


@contextlib.contextmanager
def _environment_of_server():
    """Context with the environment variables of the fork server, in case it is started; without coverage."""
    before = dict(os.environ)
    os.environ |= {"SLOW_IMPORTS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    os.environ.pop("COVERAGE_PROCESS_START", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _enter(cwd: str, streams: list[str], new_session: bool) -> None:
    os.chdir(cwd)
    if new_session:
        os.setsid()
    written = os.O_WRONLY | os.O_APPEND  # several processes may share a file
    for target, (name, mode) in enumerate(zip(streams, (os.O_RDONLY, written, written), strict=True)):
        descriptor = os.open(name, mode | os.O_NOCTTY)
        os.dup2(descriptor, target)
        os.close(descriptor)


def _replace(
    arguments: list[str], cwd: str, environment: dict[str, str], streams: list[str], new_session: bool
) -> None:
    """In the new process: replace it by a new Python interpreter."""
    _enter(cwd, streams, new_session)
    os.execve(sys.executable, [sys.executable, *arguments], environment)


def fork_workers() -> None:
    """Make PyTorch's launcher, in this process, fork its workers, which then need not import PyTorch."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.SubprocessHandler._popen = lambda handler, args, env: _Worker(args, env)  # type: ignore[assignment]


class _Worker:
    """What the launcher uses of `subprocess.Popen`, with a forked process that has its output and directory.

    Args:
        command: such as (sys.executable, "-u", "script.py", ...).
        environment: all environment variables.
    """

    def __init__(self, command: tuple[str, ...], environment: dict[str, str]):
        assert command[:2] == (sys.executable, "-u"), command  # output is never buffered for long
        self.args = list(command[2:])
        streams = (os.devnull, *(f"/proc/{os.getpid()}/fd/{number}" for number in (1, 2)))
        self.process = start_python(self.args, Path.cwd(), environment, streams, new_session=True)
        self.pid = self.process.pid

    def poll(self) -> int | None:
        """The exit code, or None if it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.process.exitcode


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls functions with modules, by their name, after they are imported."""

    def __init__(self, changes: dict[str, Callable[[types.ModuleType], None]]):
        self.changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual loader of a module, followed by the function."""
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in self.changes else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: types.ModuleType) -> None:
            execute(module)
            self.changes[name](module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def run_forked(
    arguments: list[str], folder: str, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess:
    """`scratch_gpt.hub.push.run_python`, with a process that is forked and need not import PyTorch."""
    with tempfile.TemporaryDirectory() as temporary:
        printed = [Path(temporary, name) for name in ("out", "errors")]
        for path in printed:
            path.touch()
        process = start_python(arguments, folder, environment, (os.devnull, *printed))
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout)
        out, errors = (path.read_text(encoding="utf-8") for path in printed)
    return subprocess.CompletedProcess([sys.executable, *arguments], process.exitcode, out, errors)


def fork_verifications(push: types.ModuleType) -> None:
    """Make `scratch_gpt.hub.push` fork the processes that load a model without the package."""
    push.run_python = run_forked  # type: ignore[attr-defined]


def _use_structure(module: types.ModuleType) -> None:
    """Make transformers use what the fork server has read from its sources."""
    read = module.create_import_structure_from_path
    module.create_import_structure_from_path = (  # type: ignore[attr-defined]
        lambda path: _structure[str(path)] if str(path) in _structure else read(path)
    )


def _run(
    arguments: list[str],
    cwd: str,
    environment: dict[str, str],
    streams: list[str],
    new_session: bool,
    path: list[str],
) -> None:
    """In the new process: run the code or script, and shut down as Python does."""
    _enter(cwd, streams, new_session)
    isolated = arguments[0] == "-I"
    arguments = arguments[isolated:]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  (open as long as the process runs)
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", errors=errors, buffering=1, closefd=False)  # noqa: SIM115  (as stdin)
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    os.environ.clear()
    os.environ.update(environment)
    is_code = arguments[0] == "-c"
    first = [] if isolated else [""] if is_code else [str(Path(arguments[0]).resolve().parent)]
    sys.path[:] = [*first, *path]
    sys.argv = ["-c", *arguments[2:]] if is_code else list(arguments)
    random.seed()
    sys.modules["numpy"].random.seed()
    if "COVERAGE_PROCESS_START" in environment:
        import coverage

        coverage.process_startup(force=True)
    faulthandler.enable()
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_address and sys.version_info < (3, 14):  # Python would start another one
        server.ensure_running = lambda: None
    changes = {"transformers.utils.import_utils": _use_structure, "scratch_gpt.hub.push": fork_verifications}
    sys.meta_path.insert(0, _AfterImport(changes))
    code = 0
    try:
        if is_code:
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(arguments[1], "<string>", "exec"), vars(main))
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
