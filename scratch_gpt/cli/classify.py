"""`scratch-gpt classify`: classify texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Device, Dtype, Trust, app, open_model
from .texts import one_line, print_data, read_texts, report_texts


@app.command()
def classify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a classifier.")],
    text: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts to classify.")] = None,
    file: Annotated[Path | None, typer.Option(help="Classify each line of this UTF-8 text file.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write one line per text here: label and probability, separated by a tab.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Texts per forward pass.")] = 64,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Classify texts: print the probability of each label.

    Example:

    ```
    scratch-gpt classify runs/classifier "Der Hund schläft."
    ```
    """
    from tqdm import tqdm

    from ..evaluation import classification
    from ..evaluation.masked_lm import probability_bars
    from ..evaluation.positions import position_limit
    from ..terminal import SafeConsole

    texts = read_texts(text, file)
    opened, tokenizer = open_classifier(model, trust_remote_code, device, dtype)
    report_texts(tokenizer, texts, position_limit(opened.config))
    names = classification.label_names_of(opened.config)
    with tqdm(total=len(texts), unit=" texts", leave=False, disable=None if file else True) as bar:
        probabilities = classification.classify(opened, tokenizer, texts, batch_size, bar.update)
    if output is not None or file is not None:
        labels = [" ".join(one_line(name).split("\t")) for name in names]
        rows = [f"{labels[int(row.argmax())]}\t{row.max():.4f}" for row in probabilities]
        if output is None:
            print_data("\n".join(rows))
        else:
            output.write_text("\n".join(rows) + "\n", encoding="utf-8")
            print(f"{len(rows):,} lines in {output}")
        return
    console = SafeConsole()
    for line, row in zip(texts, probabilities.tolist(), strict=True):
        console.print(line, style="italic")
        console.print(probability_bars(sorted(zip(names, row, strict=True), key=lambda pair: -pair[1])))


def open_classifier(model: str, trust_remote_code: bool, device: str, dtype: str) -> Any:
    """Load a classifier and its tokenizer.

    Args:
        model: folder or Hub id.
        trust_remote_code: whether to run the code that the checkpoint contains.
        device: as the option `--device`.
        dtype: as the option `--dtype`.

    Raises:
        ScratchError: the model can't be loaded, or is not a classifier.
    """
    from ..errors import ScratchError

    opened, tokenizer = open_model(model, trust_remote_code, device, dtype)
    if not type(opened).__name__.endswith("ForSequenceClassification"):
        raise ScratchError(f"{model} is a {type(opened).__name__}, which has no labels")
    return opened, tokenizer
