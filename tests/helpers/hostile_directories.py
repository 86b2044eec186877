"""Run the commands of this package on hostile directories, each in a monitored child process.

Child processes are forked from one that has imported everything, which saves the time of imports. `Outcome.failures`
lists what is detected: code that ran, files outside of the directory that changed, a traceback, an exit code other than
0, 1 and 2, too much memory or time, a secret or an escape sequence in the output.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import hypothesis

from helpers.hostile_apply import SECRET, Places, make_directory, make_outside
from helpers.hostile_loading import start_server
from helpers.hostile_mutations import PLAN
from helpers.hostile_process import (
    HUNG,
    MEGABYTES,
    TOO_LARGE,
    TOO_SLOW,
    enter,
    finish,
    online,
    preload,
    preload_libraries,
    wait_for,
)

PROJECT = Path(__file__).parents[2]
PRETRAIN = PROJECT / "training" / "language_modeling.py"
COMMANDS = ("info", "generate", "export", "verify", "push", "init_from", "resume")
TINY = "--context_length 16 --batch_size 2 --num_threads 1 --precision fp32"
BASE = f"{TINY} --preset llama --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 --tokenizer char"
BASE += " --max_steps 3 --save_every 1 --eval_every 1 --keep_last 3"
# Where a command may write, relative to the folder of a case.
MAY_WRITE = {"export": "out", "init_from": "out", "resume": "run"}
STAGES_IN = {"push": "run/checkpoints"}  # parent of the pushed directory, in which a folder is created and removed
EVERY_COMMAND_MAY_WRITE = ("cache", "tmp", "home")
UNEXPECTED = "run again as 'scratch-gpt --debug"
PANIC = "error: the tokenizer fails on this text"  # follows the message that Rust prints


Case = tuple[dict[str, Any], tuple[str, ...]]  # a plan, and the commands to try


@dataclass
class Outcome:
    """The result of one command on one directory."""

    command: str
    code: int
    seconds: float
    megabytes: float
    failures: list[str] = field(default_factory=list)
    cause: str = ""  # the last line of the error stream, or of the traceback
    printed: str = ""


@dataclass
class World:
    """Resources that all cases share.

    Args:
        folder: temporary folder of the resources.
        endpoint: address of the Hub for pushes.
    """

    folder: Path
    endpoint: str

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def text(self) -> Path:
        return self.folder / "small.txt"


def make_world(folder: Path, endpoint: str) -> World:
    """Create a world with a valid run, of which 2 of 3 steps are done, and import everything that commands need."""
    world = World(folder, endpoint)
    world.text.write_text("".join(f"One day, Anna has {number} old lamps and a red box.\n" for number in range(60)))
    (folder / "home").mkdir(exist_ok=True)
    python = start_server(folder, preload_libraries)
    preload()
    sys.executable = str(python)
    if endpoint != importlib.import_module("huggingface_hub.constants").ENDPOINT:
        raise RuntimeError("huggingface_hub was imported before the variables of `environment` were set")
    pid = os.fork()
    if pid == 0:
        quiet = os.open(os.devnull, os.O_RDWR)
        enter(folder / "home", folder, quiet, folder / "base.log")
        finish(PRETRAIN, [*BASE.split(), "--output_dir", str(world.base), "--dataset", str(world.text)])
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError((folder / "base.log").read_text(errors="replace"))
    shutil.rmtree(world.base / "checkpoints" / "step-00000003")
    return world


# --- one command ---


def arguments_of(command: str, world: World, case: Path, target: Path, number: int) -> tuple[Path | None, list[str]]:
    """The script and the arguments of a command for a directory."""
    shown, out = str(target), str(case / "out" / "made")
    return {
        "info": (None, ["info", shown]),
        "generate": (None, ["generate", shown, "--prompt", "One day", "--max_new_tokens", "4"]),
        "export": (None, ["export", shown, out]),
        "verify": (None, ["verify", str(case / "run")]),
        "push": (None, ["push", shown, f"user/model{number}", "--yes", "--timeout", "10"]),
        "init_from": (
            PRETRAIN,
            [*TINY.split(), *f"--init_from {shown} --dataset {world.text} --max_steps 1 --output_dir {out}".split(" ")],
        ),
        "resume": (PRETRAIN, ["--output_dir", str(case / "run"), "--resume", "--max_steps", "3"]),
    }[command]


def run_command(command: str, world: World, case: Path, plan: dict[str, Any], number: int) -> Outcome:
    """Run one command on the directory of a case in a child process, and check the result."""
    target = case / "run" / ("checkpoints/step-00000002" if plan["where"] == "checkpoint" else "")
    cwd = case / "run" if plan["inside"] and (case / "run").is_dir() else case / "tmp"
    script, arguments = arguments_of(command, world, case, target, number)
    before = state_of(case)
    read, write = os.pipe()
    os.write(write, b"y\n" * 99 if plan["answer"] else b"")
    os.close(write)
    pid = os.fork()
    if pid == 0:
        online(command == "push")
        enter(case, cwd, read, case / "log")
        finish(script, arguments)
    os.close(read)
    outcome = Outcome(command, *wait_for(pid))
    find_failures(outcome, case, before)
    if outcome.code == 1 and "unexpected" in outcome.failures and script is None:
        outcome.cause = cause_with_traceback(arguments, case, cwd, command) or outcome.cause
    return outcome


# --- checks ---


def state_of(case: Path) -> dict[str, str]:
    """The state of the folder of a case: type, mode, modification time and content by relative path. The time of a
    folder reveals files that were created and removed in it."""
    found = {}
    for path in case.rglob("*"):
        name = os.fsencode(path.relative_to(case)).decode("utf-8", "backslashreplace")
        if name.split("/")[0] in (*EVERY_COMMAND_MAY_WRITE, "log", "log.err"):
            continue
        status = path.lstat()
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = _digest(path, status)
        found[name] = f"{oct(status.st_mode)} {status.st_mtime_ns} {content}"
    return found


def _digest(path: Path, status: os.stat_result) -> str:
    if status.st_size > 2**26:
        return str(status.st_size)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_failures(outcome: Outcome, case: Path, before: dict[str, str]) -> None:
    """Add the failures of a command to its outcome."""
    printed, errors = (_read(case / name) for name in ("log", "log.err"))
    outcome.printed = f"{printed[-3000:]}\n--- stderr\n{errors[-6000:]}"
    said, both = outcome.failures, printed + errors
    outcome.cause = (errors.strip().splitlines() or [""])[-1][:300]
    if (case / "mark").exists():
        said.append("code ran")
    mine = MAY_WRITE.get(outcome.command)
    after = state_of(case)
    allowed = ("mark", STAGES_IN.get(outcome.command))
    changed = [n for n in sorted(before.keys() | after.keys()) if before.get(n) != after.get(n) and n not in allowed]
    if wrong := [name for name in changed if name.split("/")[0] != mine]:
        said.append(f"wrote to {', '.join(wrong[:5])}")
    if outcome.code in (TOO_SLOW, HUNG, TOO_LARGE):
        said += {TOO_SLOW: ["too slow"], HUNG: ["hung"]}.get(outcome.code, [])
        outcome.cause = _innermost(errors)
    elif "Traceback (most recent call last)" in both or ("panicked" in both and PANIC not in both):
        said.append("traceback")
        outcome.cause = _innermost(errors) + " " + outcome.cause
    elif outcome.code not in (0, 1, 2):
        said.append(f"exit code {outcome.code}")
    elif UNEXPECTED in both:
        said.append("unexpected")
    if outcome.megabytes > MEGABYTES:
        said.append("too much memory")
    if (used := sum(p.lstat().st_size for n in EVERY_COMMAND_MAY_WRITE for p in (case / n).rglob("*"))) > 100 << 20:
        said.append(f"wrote {used >> 20} MB to its caches")
    if SECRET in both or (mine and _holds_secret(case / mine, before, after, mine)):
        said.append("secret read")
    if "\x1b[31mHOSTILE" in (errors if outcome.command == "generate" else both):
        said.append("escape sequence printed")


def _read(path: Path) -> str:
    return path.read_bytes()[:3_000_000].decode("utf-8", "replace") if path.exists() else ""


def _innermost(errors: str) -> str:
    """Our innermost frame in the last traceback, or in the stack of a process that was stopped."""
    frames = re.findall(r'File "([^"]+)", line \d+,? in (.+)', errors)
    ours = [f"{Path(file).name}:{function}" for file, function in frames if f"{os.sep}scratch_gpt{os.sep}" in file]
    if not ours:
        return ""
    return ours[0] if "most recent call first" in errors else ours[-1]


def _holds_secret(folder: Path, before: dict[str, str], after: dict[str, str], prefix: str) -> bool:
    """Whether a command copied the secret into files that it wrote."""
    changed = [name for name in after if name.startswith(f"{prefix}/") and before.get(name) != after[name]]
    paths = [folder.parent / name for name in changed]
    return any(SECRET.encode() in path.read_bytes() for path in paths if path.is_file() and not path.is_symlink())


def cause_with_traceback(arguments: list[str], case: Path, cwd: Path, command: str) -> str:
    """Our innermost frame of an unexpected error: runs the command again with --debug."""
    pid, quiet = os.fork(), os.open(os.devnull, os.O_RDONLY)
    if pid == 0:
        online(command == "push")
        shutil.rmtree(case / "out", ignore_errors=True)
        (case / "out").mkdir()
        enter(case, cwd, quiet, case / "log")
        finish(None, ["--debug", *arguments])
    os.close(quiet)
    wait_for(pid)
    errors = _read(case / "log.err")
    return f"{_innermost(errors)} {(errors.strip().splitlines() or [''])[-1][:300]}"


# --- cases ---


def try_plan(world: World, plan: dict[str, Any], number: int, commands: tuple[str, ...] = COMMANDS) -> list[Outcome]:
    """Create the directory of a plan, run commands on it, and remove their files."""
    fence = world.folder / f"case-{number}"
    case = fence / "a" / "b"
    places = Places(case)
    outcomes = []
    try:
        for command in commands:
            if not case.exists():
                for name in ("out", "tmp", "cache"):
                    (case / name).mkdir(parents=True)
                make_outside(world.base, places)
                make_directory(world.base, places, plan)
            outcome = run_command(command, world, case, plan, number)
            outcomes.append(outcome)
            if outcome.failures or outcome.code == 0:  # the next command needs an unchanged directory
                shutil.rmtree(fence)
    finally:
        shutil.rmtree(fence, ignore_errors=True)
    return outcomes


def try_cases(world: World, cases: list[Case], jobs: int = 1) -> Iterator[tuple[int, list[Outcome]]]:
    """Yield the number and the outcomes of each case as it completes."""
    gc.freeze()  # keeps imported modules shared between the processes
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("fork"))
    try:
        futures = {pool.submit(try_plan, world, plan, n, commands): n for n, (plan, commands) in enumerate(cases)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def shrink(world: World, plan: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Remove mutations from a plan as long as the command fails in the same way."""
    left = 0
    while left < len(plan["mutations"]) and len(plan["mutations"]) > 1:
        fewer = {**plan, "mutations": [m for index, m in enumerate(plan["mutations"]) if index != left]}
        if set(try_plan(world, fewer, os.getpid(), (outcome.command,))[0].failures) >= set(outcome.failures):
            plan = fewer
        else:
            left += 1
    return plan


def draw_plans(count: int, seed: int) -> list[dict[str, Any]]:
    """Draw `count` plans, which are deterministic for a seed and a version of hypothesis."""
    plans: list[dict[str, Any]] = []

    # Hypothesis varies earlier examples: sampling from more than needed makes the plans more diverse.
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=4 * count,
        phases=[hypothesis.Phase.generate],
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(PLAN)
    def collect(plan: dict[str, Any]) -> None:
        plans.append(json.loads(json.dumps(plan)))

    collect()
    return random.Random(seed).sample(plans, count)


@contextlib.contextmanager
def hub_running() -> Iterator[str]:
    """Run the Hub of helpers/loopback_hub.py in a child process, and yield its address."""
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    code = "import sys; from helpers import loopback_hub as l\n"
    code += "with l.running_hub() as h: print(h.endpoint, flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT / "tests", text=True, **streams)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()  # also closed if this process is killed
        process.wait()


def as_json(number: int, plan: dict[str, Any], outcome: Outcome) -> str:
    """Serialise a failure as a JSON line, from which it can be repeated."""
    return json.dumps({"number": number, **asdict(outcome), "plan": plan})


def process_count() -> int:
    """Number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0))
