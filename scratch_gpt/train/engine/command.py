"""The command line of a training run: from arguments to an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from ...errors import ScratchError, tokenizer_errors
from ...redaction import redact, redact_logs
from ...terminal import printable


def run_command(main: Callable[[], None]) -> None:
    """Run a command; what the user can mend becomes one line on the error stream, and an exit code: 2 for bad input, 1
    for a run that failed or a disk that refuses, 130 and 143 for SIGINT and SIGTERM. No secret is printed or logged."""
    redact_logs()
    try:
        with tokenizer_errors():
            main()
    except ScratchError as error:
        print(printable(redact(f"error: {' '.join(str(error).split())}")), file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(printable(redact(f"error: {error}")), file=sys.stderr)
        sys.exit(1)
    except Exception:  # a defect of ours, which is shown whole
        print(printable(redact(traceback.format_exc())), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped before the first step: there is nothing to save", file=sys.stderr)
        sys.exit(130)
