"""A server of `scratch-gpt see --serve` in the process of a test."""

import threading
from contextlib import contextmanager
from typing import Any

from scratch_gpt.see import serve

TEXT = "One day, Anna found an old lamp."


@contextmanager
def serving(*found: Any):
    """A server in this process for models of `helpers.pages.shown`."""
    with serve.open_server(0) as server:
        names = [f"runs/{index}" for index in range(len(found))]
        server.show(names, [one.model for one in found], [one.tokenizers for one in found], TEXT)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
