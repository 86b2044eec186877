"""Commands and clients that use the loopback Hub."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.forked_python import start_python
from helpers.loopback_hub import LoopbackHub, running_hub
from helpers.processes import run_command

TOKEN = "hf_" + "x" * 34


def hub_environment(hub: LoopbackHub, home: Path) -> dict[str, str]:
    """The environment variables of a process that uses `hub`, with its cache in `home`."""
    return {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "COLUMNS": "200",
    }


def push(hub: LoopbackHub, home: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run `scratch-gpt push` in another process."""
    return run_command("push", *arguments, cwd=home.parent, env=hub_environment(hub, home))


@contextmanager
def connected_hub(monkeypatch) -> Iterator[LoopbackHub]:
    """Run a Hub to which huggingface_hub's client in this process connects; the client is reset afterwards."""
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils import _http

    with running_hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for module in (constants, hf_api):
            if hasattr(module, "ENDPOINT"):
                monkeypatch.setattr(module, "ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub
        _http.set_client_factory(_http.default_client_factory)


def run_in_terminal(*arguments: str, cwd: Path, answers: str = "y\n" * 5) -> tuple[int, str]:
    """Run `scratch-gpt` in a pseudo-terminal with `answers` as input; returns its exit code and output."""
    primary, secondary = pty.openpty()
    code = "import sys; sys.argv[0] = 'scratch-gpt'; from scratch_gpt.cli.app import main; main()"
    command = ["-c", code, *arguments]
    process = start_python(command, cwd, dict(os.environ), (os.ttyname(secondary),) * 3)
    os.write(primary, answers.encode())
    output, started = b"", time.monotonic()
    try:
        while time.monotonic() - started < 120:
            if select.select([primary], [], [], 1)[0]:
                try:
                    block = os.read(primary, 65536)
                except OSError:  # the process has closed its side
                    break
                if not block:
                    break
                output += block
            elif process.exitcode is not None:
                break
        process.join(30)
        return process.exitcode, output.decode(errors="replace")
    finally:
        process.kill()
        os.close(primary)
        os.close(secondary)
