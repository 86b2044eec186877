"""Helpers for tests of data: the output and errors of `scratch-gpt data`, and example rows for every task."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.processes import run_here
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.data.readers.text import documents_of

TEXT_ROWS = "".join(f"a fine film, number {i};{'pos' if i % 3 else 'neg'}\n" for i in range(30))
TASK_ROWS = {
    "language_modeling": [{"text": f"text {i}"} for i in range(10)],
    "masked_lm": [{"text": f"text {i}"} for i in range(10)],
    "classification": [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(10)],
    "translation": [{"de": f"ein {i}", "en": f"a {i}"} for i in range(10)],
    "sft": [{"prompt": f"how {i}", "completion": f"so {i}"} for i in range(10)],
    "dpo": [{"prompt": f"how {i}", "chosen": "a", "rejected": "b"} for i in range(10)],
    "policy_gradient": [{"prompt": f"how {i}"} for i in range(10)],
}


def task_options(task: str) -> tuple[str, ...]:
    """Arguments of `scratch-gpt data` for a task of `TASK_ROWS`."""
    return ("--for", task, *(("--validation_prompts", "2") if task == "policy_gradient" else ()))


def data_summary(*arguments: str | Path) -> dict:
    """Return the output of `scratch-gpt data … --json`."""
    return json.loads(run_here("scratch-gpt", "data", *map(str, arguments), "--json").stdout)


def data_error(*arguments: str | Path) -> str:
    """Check that `scratch-gpt data` fails with exit code 2 and one line, and return that line."""
    result = run_here("scratch-gpt", "data", *map(str, arguments), check=False)
    assert result.returncode == 2, result
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def lines(*rows: dict) -> str:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_card(folder: Path, *configs: dict) -> None:
    """Write a dataset card with these configurations to a folder."""
    (folder / "README.md").write_text("---\n" + json.dumps({"configs": configs}) + "\n---\n")


def names(paths) -> list[str]:
    """Return the sorted file names of paths."""
    return sorted(Path(path).name for path in paths)


def texts_of(path: str | Path, **options) -> list[str]:
    """Return the documents of a text dataset."""
    return list(documents_of(open_source(str(path), **options)))


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Fail after a number of seconds, for operations that may block, such as opening a named pipe without a writer."""

    def stop(*_: object) -> None:
        raise AssertionError(f"not finished after {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


USER_MESSAGE, ASSISTANT_MESSAGE = (
    {"role": "user", "content": "How are you?"},
    {"role": "assistant", "content": "I am well."},
)
CONVERSATION = [
    USER_MESSAGE,
    ASSISTANT_MESSAGE,
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Still well."},
]
