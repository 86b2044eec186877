"""A fork server for the process without this package in which `push` loads the staged files. The server has imported
transformers, but not this package, so that starting the process takes a tenth of the time.

Commands get a script as `sys.executable`. It asks the server to fork a process with its arguments, folder, variables
and streams, and exits with that process. Since the process is not a child of the command, the script takes the name
"fork PID", by which `hostile_process.used_by` includes the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

from helpers import forked_python

SCRIPT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
answers = server.makefile()
with open("/proc/self/comm", "w") as name:
    name.write("fork " + answers.readline().strip())
sys.exit(int(answers.readline()))
"""


def start_server(folder: Path, preload: Callable[[], None]) -> Path:
    """Start the server, which exits with this process.

    Args:
        folder: folder for the socket and the script.
        preload: imports the modules that all processes need, but not this package.

    Returns:
        Path of the script.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()
    script = folder / "python"
    script.write_text(SCRIPT.format(python=sys.executable, address=str(folder / "socket")))
    script.chmod(0o700)
    parent = os.getpid()
    if os.fork() == 0:
        try:
            for first, last in ((3, listener.fileno()), (listener.fileno() + 1, os.sysconf("SC_OPEN_MAX"))):
                os.closerange(first, last)  # readers wait until pipes of this process are closed
            # Otherwise a fork removes the temporary folders of this process at exit; there is no public API for this.
            weakref.finalize._registry.clear()  # type: ignore[attr-defined]
            preload()
            _serve(listener, parent)
        finally:
            os._exit(1)
    listener.close()
    return script


def _serve(listener: socket.socket, parent: int) -> None:
    path = forked_python._path_of(None)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # processes that serve a script are not waited for
    listener.settimeout(1)
    while os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _serve_script(connection, path)
            connection.close()


def _serve_script(connection: socket.socket, path: list[str]) -> None:
    """Fork the process for a script, reply with its id and exit code, and kill it when the script exits."""
    connection.setblocking(True)
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    requests, answers = connection.makefile("r"), connection.makefile("w")
    arguments, cwd, environment = json.loads(requests.readline())
    pid = os.fork()
    if pid == 0:
        _use_variables(environment)
        paths = [f"/proc/self/fd/{number}" for number in streams]
        forked_python._run(arguments, cwd, environment, paths, False, path)
    for number in streams:
        os.close(number)
    print(pid, file=answers, flush=True)
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if select.select([connection], [], [], 0.02)[0]:  # closed
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(BrokenPipeError):
        print(os.waitstatus_to_exitcode(ended[1]), file=answers, flush=True)
    os._exit(0)


def _use_variables(environment: dict[str, str]) -> None:
    """Set the variables that libraries read only at import."""
    from huggingface_hub import constants
    from transformers import dynamic_module_utils
    from transformers.utils import hub

    constants.HF_HUB_OFFLINE = environment["HF_HUB_OFFLINE"] == "1"
    constants.HF_TOKEN_PATH = environment["HF_TOKEN_PATH"]
    dynamic_module_utils.HF_MODULES_CACHE = hub.HF_MODULES_CACHE = environment["HF_MODULES_CACHE"]
