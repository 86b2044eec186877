"""`scratch-gpt info`: show the parameters of a model."""

from __future__ import annotations

from .app import Model, Trust, app, open_model


@app.command()
def info(model: Model, trust_remote_code: Trust = False) -> None:
    """Show the parameters of a model: name, shape, number and fraction of the total.

    Example:

    ```
    scratch-gpt info runs/gpt
    ```
    """
    from rich.table import Table

    from ..terminal import SafeConsole

    opened, _ = open_model(model, trust_remote_code)
    total = opened.num_parameters()
    title = f"{type(opened).__name__}, {total:,} parameters"
    table = Table("tensor", "shape", "parameters", "fraction", title=title)
    for name, parameter in opened.named_parameters():
        shape = " × ".join(map(str, parameter.shape))
        table.add_row(name, shape, f"{parameter.numel():,}", f"{parameter.numel() / total:.1%}")
    tied = sorted(getattr(opened, "all_tied_weights_keys", None) or {})
    if tied:
        table.caption = f"tied to the embedding: {', '.join(tied)}"
    SafeConsole().print(table)
