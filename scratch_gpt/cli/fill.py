"""`scratch-gpt fill`: predict masked tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import Device, Dtype, Trust, app, open_model
from .texts import report_texts


@app.command()
def fill(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of an encoder.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text with `<mask>` for each token to predict.")],
    top_k: Annotated[int, typer.Option("--top_k", min=1, help="Number of predictions for each mask.")] = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Predict masked tokens: print the most probable ones for each mask, with their probabilities.

    Example:

    ```
    scratch-gpt fill runs/encoder "One day, Anna has two old <mask>."
    ```
    """
    from ..errors import ScratchError
    from ..evaluation.masked_lm import predict_masked, print_predictions
    from ..terminal import SafeConsole

    opened, tokenizer = open_model(model, trust_remote_code, device, dtype)
    if tokenizer.mask_token is None or not type(opened).__name__.endswith("ForMaskedLM"):
        raise ScratchError(f"{model} is a {type(opened).__name__}, which does not predict masked tokens")
    report_texts(tokenizer, [text])
    print_predictions(SafeConsole(), text, predict_masked(opened, tokenizer, text, top_k))
