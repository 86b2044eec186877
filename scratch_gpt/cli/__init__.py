"""`scratch-gpt`: every everyday act as a command. Commands parse, call and print; the work is done elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="scratch-gpt",
    help="Language models built by hand that are Hugging Face models: use, examine, evaluate and share them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_settings = {"debug": False}


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    _settings["debug"] = debug


Trust = Annotated[bool, typer.Option("--trust_remote_code", help="Run the code that the model brings. Read it first.")]


def open_model(name: str, trust_remote_code: bool = False) -> Any:
    """A model and its tokenizer; the first use registers our classes, which `--help` did without."""
    from transformers.utils import logging

    from ..auto import register
    from ..hub.opening import check_vocabulary, load_model, open_tokenizer
    from ..train.setup import use_all_cores

    register()
    logging.disable_progress_bar()
    use_all_cores()
    model, tokenizer = load_model(name, trust_remote_code).eval(), open_tokenizer(name)
    check_vocabulary(tokenizer, model.config.vocab_size)
    return model, tokenizer


def open_translator(name: str, trust_remote_code: bool = False) -> Any:
    """An encoder-decoder and the tokenizers of its two sides."""
    from ..train.translation_setup import open_tokenizers

    model, _ = open_model(name, trust_remote_code)
    if not model.config.is_encoder_decoder:
        from ..errors import ScratchError

        raise ScratchError(f"{name} is a {model.config.model_type} model, which does not translate")
    return model, open_tokenizers(name, model)


def read_texts(texts: list[str] | None, file: Path | None) -> list[str]:
    """The texts of the command line, or the lines of a file.

    Raises:
        ScratchError: both or neither are given, or there is no text in them.
    """
    from ..data.pairs import read_lines
    from ..errors import ScratchError

    if (file is None) == (not texts):
        raise ScratchError("give either texts or --file")
    if file is not None:
        if not file.is_file():
            raise ScratchError(f"no such file: {file}")
        texts = list(read_lines(file))
    if not any(text.strip() for text in texts or []):
        raise ScratchError(f"{file or 'the command line'} holds no text")
    return texts or []


def main() -> None:
    """Run the command line. An error is one line, with exit code 2 where the input is at fault."""
    import traceback

    from ..errors import ScratchError
    from ..secrecy import redact, redact_logs
    from . import (  # noqa: F401  (each adds its commands to `app`)
        classification,
        learning,
        models,
        planning,
        rewarding,
        sharing,
        tokenizers,
        translation,
        verifying,
    )

    redact_logs()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except Exception as error:
        if _settings["debug"]:
            print(redact(traceback.format_exc()), file=sys.stderr)
            sys.exit(1)
        if isinstance(error, typer.Abort):
            print("nothing was done", file=sys.stderr)
            sys.exit(1)
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        # A wrong option is typer's own error, which knows how to put itself; its class is private to typer.
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        code = getattr(error, "exit_code", 1)
        if not isinstance(error, ScratchError) and code == 1:
            text = f"{type(error).__name__}: {text} (run again as 'scratch-gpt --debug …' for the details)"
        print(redact(f"error: {' '.join(text.split())}"), file=sys.stderr)
        sys.exit(code)
