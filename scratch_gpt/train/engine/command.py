"""The command line of a training run, and its exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from ...errors import ScratchError, describe_error, tokenizer_errors
from ...redaction import redact, redact_logs
from ...terminal import printable
from .lost_process import lost_process_errors
from .parsing import parse_arguments
from .recipe import Recipe
from .run import train_recipe


def run_command(main: Callable[[], object], debug: bool = False) -> None:
    """Run a command. Errors that the user can fix are one line on standard error; secrets are neither printed nor
    logged.

    The exit code is 2 for bad input, 1 for a failed run or an OS error such as a full disk, 130 for SIGINT and 143 for
    SIGTERM.
    """
    redact_logs()
    try:
        with tokenizer_errors():
            main()
    except ScratchError as error:
        if debug:
            print(printable(redact(traceback.format_exc())), file=sys.stderr)
        print(printable(redact(describe_error(error))), file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(printable(redact(f"error: {error}")), file=sys.stderr)
        sys.exit(1)
    except Exception:  # a bug in this package
        print(printable(redact(traceback.format_exc())), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped before the first step: there is nothing to save", file=sys.stderr)
        sys.exit(130)


def train_command(
    recipe: Recipe,
    description: str,
    argv: list[str] | None = None,
    prog: str | None = None,
    debug: bool = False,
) -> None:
    """Run training with arguments from the command line; every process must call it.

    Args:
        recipe: the task.
        description: what the command does, for `--help`.
        argv: command-line arguments. Default: those of the process.
        prog: name of the program in `--help`.
        debug: whether to show the traceback of an error.
    """

    def train() -> None:
        arguments = parse_arguments(recipe.arguments, description, argv, prog)
        with lost_process_errors():
            train_recipe(recipe, *arguments)

    run_command(train, debug)
