"""`scratch-gpt generate`: generate text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import Compile, Device, Dtype, Model, Trust, app, refuse_unused
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
from .texts import read_file, report_texts


@app.command()
def generate(
    context: typer.Context,
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to continue; may be given several times.")] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt_file", help="UTF-8 text file with one prompt per line.")
    ] = None,
    chat_template: Annotated[
        bool | None,
        typer.Option(
            "--chat_template/--no-chat_template",
            help="Treat prompts as messages, which the model answers. Default: yes, if it has a chat template.",
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option("--num_samples", min=1, help="Completions of each prompt.")] = 1,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 1.0,
    top_k: TopK = 50,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    compile: Compile = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Generate text and stream it to standard output.

    If the model has a chat template, a prompt is a message of the user, and the model answers it.

    Prompt and completion stay within the model's positions: generation stops there, and a prompt that fills them is
    skipped; both are reported on standard error.

    Example:

    ```
    scratch-gpt generate runs/gpt --prompt "One day, Anna" --num_samples 2 --temperature 0.8
    ```
    """
    import sys

    from ..errors import ScratchError
    from ..evaluation.positions import position_limit
    from ..tokenization.chat import encode_prompt
    from ..tokenization.special_tokens import first_token_id

    if temperature == 0:
        refuse_unused(context, dict.fromkeys(("top_k", "top_p", "seed"), "with greedy decoding (--temperature 0)"))
    prompts = list(prompt or [])
    if prompt_file is not None:
        prompts += [line for line in read_file(prompt_file) if line.strip()]
        if not prompts:
            raise ScratchError(f"{prompt_file} contains no prompt")
    opened, tokenizer = open_generator(model, trust_remote_code, device, dtype)
    opened.decoding_compilation = compile
    if chat_template and tokenizer.chat_template is None:
        raise ScratchError(f"{model} has no chat template: omit --chat_template")
    chats = bool(prompts) and tokenizer.chat_template is not None and chat_template is not False
    if chats and chat_template is None:
        print("each prompt is a message in the model's chat template (--no-chat_template disables it)", file=sys.stderr)
    report_texts(tokenizer, prompts)
    options, limit = sampling_options(temperature, top_k, top_p), position_limit(opened.config)
    printed = 0
    for number, text in enumerate(prompts or [""], start=1):
        if chats:
            ids = encode_prompt(tokenizer, [{"role": "user", "content": text}])
        else:
            ids = tokenizer(text, verbose=False).input_ids or [first_token_id(tokenizer)]
        reached_limit = False
        for sample in range(num_samples):
            if printed:
                print()
            completion = stream_completion(opened, tokenizer, ids, max_new_tokens, options, seed + sample, chats)
            if completion is None:
                reason = f"its {len(ids)} tokens fill the model's {limit} positions"
                print(f"prompt {number} is skipped: {reason}", file=sys.stderr)
                break
            printed += 1
            reached_limit |= completion.reached_limit
        if reached_limit:
            print(f"prompt {number}: generation stopped at the model's {limit} positions", file=sys.stderr)
