"""`scratch-gpt chat`: talk to a model at the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import Compile, Device, Dtype, Model, Trust, app
from .sampling import (
    MaxNewTokens,
    Seed,
    Temperature,
    TopK,
    TopP,
    open_generator,
    sampling_options,
    stream_completion,
)
from .texts import report_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

HELP = (
    "/clear               start a new conversation\n"
    "/temperature NUMBER  set the softmax temperature; 0 is greedy decoding\n"
    "/help                show this list\n"
    "/exit                end the chat (also Ctrl-D)"
)


@app.command()
def chat(
    model: Model,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 1.0,
    top_k: TopK = 50,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    chat_template: Annotated[
        Path | None,
        typer.Option("--chat_template", metavar="FILE", help="Jinja file with the chat template to use."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    compile: Compile = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Talk to a model at the terminal, with its chat template; answers are streamed.

    A line is a message. Commands: /clear, /temperature NUMBER, /help, /exit. Messages may also be piped to standard
    input, one per line. When the conversation fills the model's positions, its oldest messages are dropped.

    Example:

    ```
    scratch-gpt chat runs/sft --temperature 0.7
    ```
    """
    import sys

    import torch

    from ..errors import ScratchError
    from ..hub.model_directory import add_end_of_turn
    from ..terminal import printable
    from ..tokenization.chat import read_chat_template

    opened, tokenizer = open_generator(model, trust_remote_code, device, dtype)
    opened.decoding_compilation = compile
    if chat_template is not None:
        read_chat_template(tokenizer, chat_template)
    if tokenizer.chat_template is None:
        raise ScratchError(
            f"{model} has no chat template: give one with --chat_template FILE, fine-tune it with 'scratch-gpt train "
            "sft', or use 'scratch-gpt generate'"
        )
    if (line := add_end_of_turn(opened, tokenizer)) is not None:
        print(printable(line), file=sys.stderr)
    interactive = sys.stdin.isatty()
    if interactive:
        print(f"Chat with {model}. /help lists the commands, Ctrl-D ends the chat.", file=sys.stderr)
    torch.manual_seed(seed)
    messages: list[dict[str, str]] = []
    while (line := _read_line(interactive)) is not None:
        if line.startswith("/"):
            if line in ("/exit", "/quit"):
                return
            temperature = _run_command(line, messages, temperature)
        elif line:
            report_texts(tokenizer, [line])
            messages.append({"role": "user", "content": line})
            _answer(opened, tokenizer, messages, max_new_tokens, sampling_options(temperature, top_k, top_p))


def _read_line(interactive: bool) -> str | None:
    """Return the next line, stripped, or None at the end of the input."""
    try:
        return input("> " if interactive else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None


def _run_command(line: str, messages: list[dict[str, str]], temperature: float) -> float:
    """Run a command of the chat, and return the temperature; the result is reported on standard error."""
    import sys

    from ..terminal import printable

    name, _, value = line.partition(" ")
    message = f"unknown command {name}; commands:\n{HELP}"
    if name == "/help":
        message = HELP
    elif name == "/clear":
        messages.clear()
        message = "new conversation"
    elif name == "/temperature":
        try:
            found = float(value)
        except ValueError:
            found = -1.0
        if 0 <= found < float("inf"):
            temperature = found
            message = f"temperature {temperature:g}"
        else:
            message = f"temperature is {value!r}, want a number of at least 0; it remains {temperature:g}"
    print(printable(message), file=sys.stderr)
    return temperature


def _answer(
    opened: Any,
    tokenizer: PreTrainedTokenizerFast,
    messages: list[dict[str, str]],
    max_new_tokens: int | None,
    options: dict[str, Any],
) -> None:
    """Stream the answer to the last message and append it; drop the oldest messages until there is room for it."""
    import sys

    from ..evaluation.positions import position_limit
    from ..tokenization.chat import encode_prompt

    dropped = 0
    while True:
        ids = encode_prompt(tokenizer, messages)
        completion = stream_completion(opened, tokenizer, ids, max_new_tokens, options, skip_prompt=True)
        if completion is not None:
            break
        if len(messages) == 1:
            messages.clear()
            limit = position_limit(opened.config)
            print(f"the message fills the model's {limit} positions: no answer, new conversation", file=sys.stderr)
            return
        del messages[:2]
        dropped += 2
    if dropped:
        print(f"the oldest {dropped} messages were dropped: the model's positions are full", file=sys.stderr)
    if completion.reached_limit:
        print(f"the answer stopped at the model's {position_limit(opened.config)} positions", file=sys.stderr)
    text = str(tokenizer.decode(completion.ids, skip_special_tokens=True)).strip()
    messages.append({"role": "assistant", "content": text})
