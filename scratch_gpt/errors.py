"""Errors that a user can fix: commands print them as one line and exit with their code."""

from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals


class ScratchError(ValueError):
    """Invalid input; the message states the value found, the value expected and what to do."""

    exit_code = 2


class TrainingError(ScratchError):
    """A run can't continue: a loss or gradient is not finite."""

    exit_code = 1


class HubError(ScratchError):
    """The Hub is unreachable or overloaded, also after retries."""

    exit_code = 1


class RunInterruptedError(ScratchError):
    """A signal stopped a run after it was saved, which is no error; the exit code is 128 plus the signal's number.

    Args:
        step: last step of the run.
        signal: number of the signal.
    """

    def __init__(self, step: int, signal: int):
        super().__init__(f"stopped at step {step:,} by {Signals(signal).name}; continue with --resume")
        self.exit_code = 128 + signal


def describe_error(error: BaseException, text: str | None = None) -> str:
    """The line that a command prints of an error: "error: …", except for a run that was interrupted.

    Args:
        error: the error.
        text: its message, if that is not its text.
    """
    line = " ".join((str(error) if text is None else text).split())
    return line if isinstance(error, RunInterruptedError) else f"error: {line}"


@contextmanager
def optional_imports() -> Iterator[None]:
    """Turn the ImportError of an optional package into a ScratchError that names the package to install.

    Raises:
        ScratchError: an import inside the block fails.
    """
    try:
        yield
    except ImportError as error:
        raise ScratchError(not_installed(str(error.name).split(".")[0])) from error


def not_installed(package: str) -> str:
    """The error of a missing optional package. It names the package itself, which pip finds however scratch_gpt was
    installed, and not an extra of scratch_gpt, which needs its source tree, its wheel, or a package index that has it.

    Args:
        package: name of the package, which is that of its module too.
    """
    return f"{package} is not installed: pip install {package}"


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """Turn errors of the Rust code of `tokenizers` into a ScratchError.

    They are either a bare `Exception`, such as that of a Unigram model without an unknown token, or a panic, such as
    that of a regular expression with too much backtracking: it is not an `Exception`, and its class can't be imported.

    Raises:
        ScratchError: the tokenizer fails inside the block.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise ScratchError(f"the tokenizer fails on this text: {error}") from error
