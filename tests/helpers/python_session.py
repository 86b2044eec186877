"""A Python process that runs code in one namespace, block by block. The process imports this module too, so that it has
no slow imports."""

import os
import traceback
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from helpers.forked_python import start_python

TESTS = Path(__file__).parents[1]


class PythonSession:
    """A Python process that runs blocks in one namespace, as a reader's session does, without this package imported."""

    def __init__(self, folder: Path):
        self.folder, self.errors = folder, folder / ".python_output"
        address = str(folder / ".python_session")
        with Listener(address) as listener:
            self.errors.touch()
            code = f"from helpers.python_session import serve_python; serve_python({address!r})"
            path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
            environment = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg", "PYTHONUNBUFFERED": "1"}
            streams = (os.devnull, self.errors, self.errors)
            self.process = start_python(["-c", code], folder, environment, streams)
            listener._listener._socket.settimeout(60)  # type: ignore[attr-defined]  # no public timeout
            try:
                self.connection: Connection = listener.accept()
            except TimeoutError:
                raise AssertionError(f"Python did not start\n{self.errors.read_text()[-4000:]}") from None

    def run(self, code: str, timeout: float = 240) -> None:
        """Run a block of code.

        Args:
            code: the code.
            timeout: seconds.

        Raises:
            AssertionError: it raised an exception, ended Python, or took too long.
        """
        self.connection.send(code)
        try:
            if not self.connection.poll(timeout):
                raise AssertionError(f"Python block took more than {timeout} s")
            error = self.connection.recv()
        except EOFError:
            error = f"Python ended\n{self.errors.read_text()[-4000:]}"
        if error:
            raise AssertionError(error)

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(10)
        if self.process.exitcode is None:
            self.process.kill()


def serve_python(address: str) -> None:
    """In the process of a session: run each block that is received, and answer with the traceback or None."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    with Client(address) as connection:
        while True:
            try:
                code = connection.recv()
            except EOFError:
                return
            try:
                exec(compile(code, "<page>", "exec"), namespace)
                connection.send(None)
            except BaseException:
                connection.send(traceback.format_exc())
