"""Errors that a user can mend: commands print them as one line and exit with their code."""

from collections.abc import Iterator
from contextlib import contextmanager


class ScratchError(ValueError):
    """Bad input: says what was seen, what was wanted and what to do."""

    exit_code = 2


class TrainingError(ScratchError):
    """A run that can't go on: a loss or gradient is not finite."""

    exit_code = 1


class HubError(ScratchError):
    """The Hub is out of reach or too busy, however often it was asked."""

    exit_code = 1


class RunInterruptedError(ScratchError):
    """A signal has ended a run, after it was saved; the exit code is 128 plus the signal's number."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.exit_code = 128 + signal


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn the ImportError of an optional package into a ScratchError that names the extra to install.

    Raises:
        ScratchError: an import inside the block fails.
    """
    try:
        yield
    except ImportError as error:
        raise ScratchError(f"{error.name} is not installed: pip install 'scratch_gpt[{extra}]'") from error


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """Turn what the Rust code under `tokenizers` raises into a ScratchError.

    It is either a bare `Exception`, as by a Unigram model without an unknown token, or a panic, which is no `Exception`
    and whose class can't be imported, as by a regular expression that backtracks too often.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise ScratchError(f"the tokenizer fails on this text: {error}") from error
