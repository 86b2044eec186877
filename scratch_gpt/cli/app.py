"""`scratch-gpt`: the command line. Commands parse arguments, call the library and print results."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    name="scratch-gpt",
    help="Train, use, inspect, evaluate and publish language models built from scratch on Hugging Face.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Modules of commands, in the order in which `--help` lists them.
COMMANDS = (
    "train",
    "generate",
    "chat",
    "evaluate",
    "translate",
    "classify",
    "fill",
    "info",
    "see",
    "data",
    "tokenizer",
    "plan",
    "verify",
    "judge",
    "pairs",
    "convert",
    "push",
    "learn",
)
_settings = {"debug": False}


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    _settings["debug"] = debug


def is_debug() -> bool:
    """Whether `--debug` was given."""
    return _settings["debug"]


Trust = Annotated[
    bool,
    typer.Option(
        "--trust_remote_code/--no-trust_remote_code", help="Run the code that the checkpoint contains. Read it first."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Device to run on: 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu', or 'auto', the accelerator if there is one."
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Data type of the weights: 'float32', 'bfloat16', 'float16'; on a CPU also 'int8', for the linear layers, "
        "with a scale per row (the checkpoint stays as it is); or 'auto', the checkpoint's on an accelerator and "
        "float32 on a CPU."
    ),
]


Compile = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        help="Compile the decoding step, on a CPU: 'auto', if it was compiled before (it is kept in the cache), or if "
        "that saves more time than it takes, which is about half a minute; 'on' or 'off'."
    ),
]


def open_model(name: str, trust_remote_code: bool = False, device: str = "cpu", dtype: str = "float32") -> Any:
    """Load a model in evaluation mode and its tokenizer.

    This registers the classes of this package with transformers, which `--help` skips to be fast.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run the code that the checkpoint contains.
        device: as the option `--device`.
        dtype: as the option `--dtype`.

    Raises:
        ScratchError: the model can't be loaded, or the device or dtype is unknown or not available.
    """
    from transformers.utils import logging

    from ..auto import register
    from ..hardware import retain_freed_memory, use_all_cores
    from ..hub.loading import check_vocabulary, choose_device, choose_dtype, load_model, match_padding, open_tokenizer
    from ..hub.quantization import quantize_loaded

    chosen = choose_device(device)
    kind = choose_dtype("float32" if dtype == "int8" else dtype, chosen)
    register()
    logging.disable_progress_bar()
    use_all_cores()
    retain_freed_memory()
    model = load_model(name, trust_remote_code, device=chosen, dtype=kind).eval()
    if dtype == "int8":
        model = quantize_loaded(model, name)
    tokenizer = open_tokenizer(name, trust_remote_code=trust_remote_code, needs_end=model.can_generate())
    check_vocabulary(tokenizer, model.config.vocab_size)
    match_padding(model, tokenizer)
    return model, tokenizer


def open_translator(name: str, trust_remote_code: bool = False, device: str = "cpu", dtype: str = "float32") -> Any:
    """Load an encoder-decoder and its source and target tokenizers.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run the code that the checkpoint contains.
        device: as the option `--device`.
        dtype: as the option `--dtype`.

    Raises:
        ScratchError: the model can't be loaded, or is not an encoder-decoder.
    """
    from ..hub.loading import open_tokenizers

    model, _ = open_model(name, trust_remote_code, device, dtype)
    if not model.config.is_encoder_decoder:
        from ..errors import ScratchError

        raise ScratchError(f"{name} is a {model.config.model_type} model, which does not translate")
    return model, open_tokenizers(name, model.config, trust_remote_code)


def given_options(context: typer.Context) -> set[str]:
    """Return the parameters that were given on the command line, by their names in the command's function."""
    return {name for name in context.params if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"}


def refuse_unused(context: typer.Context, unused: dict[str, str]) -> None:
    """Raise an error if options were given that have no effect.

    Args:
        context: the command's context.
        unused: for each parameter without an effect in this call, the reason.

    Raises:
        ScratchError: at least one of them was given; the message lists all of them with the reasons.
    """
    from ..errors import ScratchError

    if given := sorted(given_options(context) & set(unused)):
        reasons: dict[str, list[str]] = {}
        for name in given:
            reasons.setdefault(unused[name], []).append(f"--{name}")
        text = "; ".join(f"{', '.join(names)} can't be used {reason}" for reason, names in reasons.items())
        raise ScratchError(f"{text}: omit {'it' if len(given) == 1 else 'them'}")


def main() -> None:
    """Run the command line.

    An error is reported as one line on standard error. The exit code is that of a `ScratchError` (2 for invalid input),
    and 1 for other errors.
    """
    import importlib
    import traceback

    from ..errors import ScratchError, describe_error, tokenizer_errors
    from ..redaction import redact, redact_logs
    from ..terminal import printable

    for command in COMMANDS:  # each module adds its commands to `app`
        importlib.import_module(f".{command}", __package__)
    redact_logs()
    try:
        with tokenizer_errors():
            sys.exit(app(standalone_mode=False) or 0)
    except Exception as error:
        if _settings["debug"]:
            print(printable(redact(traceback.format_exc())), file=sys.stderr)
            sys.exit(1)
        if isinstance(error, typer.Abort):
            print("aborted: nothing was done", file=sys.stderr)
            sys.exit(1)
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        # An invalid option is typer's own error, which formats its message; its class is private to typer.
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        code = getattr(error, "exit_code", 1)
        if not isinstance(error, ScratchError | OSError) and code == 1:
            text = f"{type(error).__name__}: {text} (run again as 'scratch-gpt --debug …' for the details)"
        print(printable(redact(describe_error(error, text))), file=sys.stderr)
        sys.exit(code)


Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a model.")]
