"""Pushing to the loopback Hub."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

from helpers.forked_python import start_python
from helpers.processes import run_command


def online(hub, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": "hf_" + "x" * 34,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "COLUMNS": "200",
    }


def push(hub, home: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run_command("push", *arguments, cwd=home.parent, env=online(hub, home))


def at_a_terminal(*arguments: str, cwd: Path, answers: str = "y\n" * 5) -> tuple[int, str]:
    """Run `scratch-gpt` at a terminal where somebody answers yes; its exit code and everything it printed."""
    primary, secondary = pty.openpty()
    # Only under this name does the package leave the registration of its classes to the commands.
    code = "import sys; sys.argv[0] = 'scratch-gpt'; from scratch_gpt.cli.app import main; main()"
    command = ["-c", code, *arguments]
    process = start_python(command, cwd, dict(os.environ), (os.ttyname(secondary),) * 3)
    os.write(primary, answers.encode())
    printed, started = b"", time.monotonic()
    try:
        while time.monotonic() - started < 120:
            if select.select([primary], [], [], 1)[0]:
                try:
                    block = os.read(primary, 65536)
                except OSError:  # the other side is closed
                    break
                if not block:
                    break
                printed += block
            elif process.exitcode is not None:
                break
        process.join(30)
        return process.exitcode, printed.decode(errors="replace")
    finally:
        process.kill()
        os.close(primary)
        os.close(secondary)
