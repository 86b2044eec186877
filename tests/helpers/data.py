"""What tests of data share: `scratch-gpt data` as JSON, its refusals, and ten rows for every job."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.processes import run_here
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.data.readers.text import documents_of

TEXT_ROWS = "".join(f"a fine film, number {i};{'pos' if i % 3 else 'neg'}\n" for i in range(30))
JOBS = {
    "language_modeling": [{"text": f"text {i}"} for i in range(10)],
    "masked_lm": [{"text": f"text {i}"} for i in range(10)],
    "classification": [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(10)],
    "translation": [{"de": f"ein {i}", "en": f"a {i}"} for i in range(10)],
    "sft": [{"prompt": f"how {i}", "completion": f"so {i}"} for i in range(10)],
    "dpo": [{"prompt": f"how {i}", "chosen": "a", "rejected": "b"} for i in range(10)],
    "prompts": [{"prompt": f"how {i}"} for i in range(10)],
}


def for_job(job: str) -> tuple[str, ...]:
    return ("--for", job, *(("--validation_prompts", "2") if job == "prompts" else ()))


def shown(*arguments: str | Path) -> dict:
    """What `scratch-gpt data … --json` prints."""
    return json.loads(run_here("scratch-gpt", "data", *map(str, arguments), "--json").stdout)


def refused(*arguments: str | Path) -> str:
    result = run_here("scratch-gpt", "data", *map(str, arguments), check=False)
    assert result.returncode == 2, result
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_card(folder: Path, *configs: dict) -> None:
    """Write a dataset card with these configurations to a folder."""
    (folder / "README.md").write_text("---\n" + json.dumps({"configs": configs}) + "\n---\n")


def names(paths) -> list[str]:
    return sorted(Path(path).name for path in paths)


def texts_of(path: str | Path, **options) -> list[str]:
    return list(documents_of(open_source(str(path), **options)))


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail where something hangs, as the opening of a named pipe does that nobody writes to."""

    def stop(*_: object) -> None:
        raise AssertionError(f"it hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


ASKED, ANSWERED = {"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "I am well."}


TALK = [ASKED, ANSWERED, {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Still well."}]
