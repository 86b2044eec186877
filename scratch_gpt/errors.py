"""Errors that a user can mend: commands print them as one line and exit with their code."""


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


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of the Rust code under tokenizers or safetensors. It is no `Exception`, and its class
    can't be imported. A regular expression of a tokenizer that backtracks too often ends in one."""
    return type(error).__name__ == "PanicException"
