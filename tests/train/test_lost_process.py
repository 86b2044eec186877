"""A process of a run is killed: all end soon, with one line, and the run goes on from its last checkpoint."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import PROJECT, TINY_RUN
from helpers.training import metrics

from scratch_gpt.errors import TrainingError
from scratch_gpt.train.engine.heartbeat import describe_silent
from scratch_gpt.train.engine.launcher_settings import restarts
from scratch_gpt.train.engine.lost_process import LAUNCHED, describe_failure, lost_process_errors

STEPS = 60
OPTIONS = (
    *TINY_RUN,
    "--num_threads",
    "1",
    "--precision",
    "fp32",
    "--log_every",
    "1",
    "--eval_every",
    "0",
    "--save_every",
)
OPTIONS += ("5", "--max_steps", str(STEPS), "--no-baselines")


def start(*command: str, folder: Path, text: Path, cwd: Path = PROJECT, **environment: str) -> subprocess.Popen:
    """Start a launcher of a run, in a process group of its own."""
    options = [*OPTIONS, "--dataset", str(text), "--output_dir", str(folder)]
    return subprocess.Popen(
        [sys.executable, *command, *options],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), **environment},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_checkpoint(launcher: subprocess.Popen, folder: Path) -> None:
    """Wait for the first checkpoint of a run."""
    deadline = time.monotonic() + 200
    while not (folder / "checkpoints" / "step-00000005").exists():
        assert launcher.poll() is None, launcher.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.05)


def kill_one(launcher: subprocess.Popen, folder: Path) -> None:
    """Kill the third process of a run after its first checkpoint."""
    wait_for_checkpoint(launcher, folder)
    os.kill(workers_of(launcher)[2], signal.SIGKILL)


def workers_of(launcher: subprocess.Popen) -> list[int]:
    """The process ids of a run, in the order of their numbers."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"--output_dir" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lost") / "text.txt"
    lines = [f"One day, Anna has {i} old lamps and a dog that sleeps in house {i * 7 % 13}." for i in range(400)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_one_line(text, tmp_path):
    run = start("-m", "scratch_gpt", "train", "language_modeling", "--num_processes", "4", folder=tmp_path, text=text)
    kill_one(run, tmp_path)
    killed = time.monotonic()
    output = run.communicate(timeout=100)[0]
    assert time.monotonic() - killed < 60
    assert run.returncode == 128 + signal.SIGKILL
    assert [line for line in output.splitlines() if "rror" in line] == [describe_failure(2, -signal.SIGKILL)], output


@pytest.mark.slow
def test_torchrun_restarts_a_run_from_its_last_checkpoint(text, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--local_addr", "127.0.0.1", "--max_restarts", "1")
    script = str(PROJECT / "training" / "language_modeling.py")
    run = start(*torchrun, "--nproc_per_node", "4", script, "--shard", folder=tmp_path, text=text)
    kill_one(run, tmp_path)
    output = run.communicate(timeout=200)[0]
    assert run.returncode == 0, output
    assert output.count("the run is resumed, as it was restarted by the launcher (restart 1)") == 1, output
    assert [row["step"] for row in metrics(tmp_path)] == list(range(1, STEPS + 1))


def machine(rank: int, folder: Path, run: Path, text: Path, port: int, *more: str) -> subprocess.Popen:
    """Start the launcher of one of two machines, each with a working directory and a cache of its own."""
    own = folder / f"machine{rank}"
    own.mkdir(exist_ok=True)
    address = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(port), "--machine_rank", str(rank))
    config = (
        "--config_file",
        str(PROJECT / "training/accelerate/cpu_processes.yaml"),
        "--num_machines",
        "2",
        "--num_processes",
        "2",
    )
    script = str(PROJECT / "training" / "language_modeling.py")
    launcher = ("-m", "accelerate.commands.launch", *config, *address, script, *more)
    cache = {"SCRATCH_GPT_CACHE": str(own / "cache")}
    return start(*launcher, folder=run, text=text, cwd=own, **cache)


@pytest.mark.slow
def test_a_lost_machine_is_replaced(text, tmp_path):
    """Two machines see the same output directory only. One is lost, the other ends, and both go on with --resume."""
    run, port = tmp_path / "run", free_port()
    launchers = [machine(rank, tmp_path, run, text, port, "--shard") for rank in (0, 1)]
    wait_for_checkpoint(launchers[0], run)
    lost = time.monotonic()
    for pid in (launchers[1].pid, *workers_of(launchers[1])):
        os.kill(pid, signal.SIGKILL)
    output = launchers[0].communicate(timeout=100)[0]
    assert time.monotonic() - lost < 60
    assert launchers[0].returncode != 0
    assert "process 0 lost its connection to another process" in output, output
    shutil.rmtree(tmp_path / "machine1")  # its replacement has an empty cache
    port = free_port()
    launchers = [machine(rank, tmp_path, run, text, port, "--resume") for rank in (0, 1)]
    outputs = [launcher.communicate(timeout=200)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    assert [row["step"] for row in metrics(run)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    "vanished", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.release)]
)
def test_a_machine_that_vanishes_is_noticed(vanished, text, tmp_path):
    """Its processes stop without closing a connection. The first machine has the store of the process group."""
    port = free_port()
    launchers = [machine(rank, tmp_path, tmp_path / "run", text, port, "--max_steps", "100000") for rank in (0, 1)]
    wait_for_checkpoint(launchers[0], tmp_path / "run")
    lost = time.monotonic()
    stopped = [launchers[vanished].pid, *workers_of(launchers[vanished])]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        output = launchers[1 - vanished].communicate(timeout=100)[0]
        assert time.monotonic() - lost < 60
        assert launchers[1 - vanished].returncode != 0
        assert [line for line in output.splitlines() if line.startswith("error:")] == [describe_silent(vanished)], (
            output
        )
        assert "lost its connection" not in output
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)


def test_errors_of_connections_are_one_line(monkeypatch):
    message = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:2995"
    monkeypatch.delenv(LAUNCHED, raising=False)
    monkeypatch.setenv("RANK", "0")
    lost = pytest.raises(TrainingError, match=r"process 0 lost its connection .* start the run again with --resume")
    with lost, lost_process_errors():
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="another error"), lost_process_errors():
        raise RuntimeError("another error")
    monkeypatch.setenv(LAUNCHED, "1")  # which reports it itself
    with pytest.raises(SystemExit), lost_process_errors():
        raise RuntimeError(message)


def test_failures_that_processes_report_themselves_are_not_repeated():
    assert describe_failure(1, 2) is None
    assert describe_failure(1, -signal.SIGTERM) is None
    assert "process 1 was killed by SIGABRT, and the others" in str(describe_failure(1, -signal.SIGABRT))
    assert "SIGKILL (out of memory, perhaps)" in str(describe_failure(1, -signal.SIGKILL))


def test_restarts_are_counted_by_torchrun():
    assert restarts({}) == restarts({"TORCHELASTIC_RESTART_COUNT": "0"}) == 0
    assert restarts({"TORCHELASTIC_RESTART_COUNT": "2"}) == 2
