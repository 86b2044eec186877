"""`scratch-gpt classify` and `fill`, and what `scratch-gpt evaluate` does with a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import Trust, app, open_model, read_texts


@app.command()
def classify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a classifier.")],
    text: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts to classify.")] = None,
    file: Annotated[Path | None, typer.Option(help="Classify this file line by line.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write label and probability of each line here, tab between them.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Texts at a time.")] = 64,
    trust_remote_code: Trust = False,
) -> None:
    """Say which label a text has, with the probability of each as a bar.

    Example: `scratch-gpt classify runs/classifier "Der Hund schläft."`
    """
    from rich.console import Console
    from tqdm import tqdm

    from ..evaluation import classification
    from ..evaluation.masked import probability_bars

    texts = read_texts(text, file)
    opened, tokenizer = open_classifier(model, trust_remote_code)
    names = classification.label_names_of(opened)
    with tqdm(total=len(texts), unit=" texts", leave=False, disable=None if file else True) as bar:
        probabilities = classification.classify(opened, tokenizer, texts, batch_size, bar.update)
    if output is not None or file is not None:
        rows = [f"{names[int(row.argmax())]}\t{row.max():.4f}" for row in probabilities]
        if output is None:
            print("\n".join(rows))
        else:
            output.write_text("\n".join(rows) + "\n", encoding="utf-8")
            print(f"{len(rows):,} lines in {output}")
        return
    console = Console()
    for line, row in zip(texts, probabilities.tolist(), strict=True):
        console.print(line, style="italic", highlight=False, markup=False)
        console.print(probability_bars(sorted(zip(names, row, strict=True), key=lambda pair: -pair[1])))


@app.command()
def fill(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub id of an encoder.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text with `<mask>` where a word is to be guessed.")],
    top_k: Annotated[int, typer.Option("--top_k", min=1, help="How many guesses for each mask.")] = 5,
    trust_remote_code: Trust = False,
) -> None:
    """Guess masked words, with the probability of each as a bar.

    Example: `scratch-gpt fill runs/encoder "One day, Anna has two old <mask>."`
    """
    from rich.console import Console

    from ..errors import ScratchError
    from ..evaluation.masked import guess_masked, print_guesses

    opened, tokenizer = open_model(model, trust_remote_code)
    if tokenizer.mask_token is None or not type(opened).__name__.endswith("ForMaskedLM"):
        raise ScratchError(f"{model} is a {type(opened).__name__}, which guesses no masked words")
    print_guesses(Console(), text, guess_masked(opened, tokenizer, text, top_k))


def open_classifier(model: str, trust_remote_code: bool) -> Any:
    """A classifier and its tokenizer."""
    from ..errors import ScratchError

    opened, tokenizer = open_model(model, trust_remote_code)
    if not type(opened).__name__.endswith("ForSequenceClassification"):
        raise ScratchError(f"{model} is a {type(opened).__name__}, which knows no labels")
    return opened, tokenizer


def evaluate_classifier(
    model: Any, tokenizer: Any, examples: list[tuple[str, str]], source: str, batch_size: int, confusion: Path | None
) -> None:
    """Classify all texts and print accuracy, F1 and the confusion matrix."""
    from rich.console import Console
    from tqdm import tqdm

    from ..data.labelled import check_labels
    from ..evaluation import classification

    names = classification.label_names_of(model)
    if all(label.isdigit() for _, label in examples) and not all(name.isdigit() for name in names):
        numbered = {str(number): name for number, name in enumerate(names)}
        examples = [(text, numbered.get(label, label)) for text, label in examples]
    check_labels(examples, names, source)
    with tqdm(total=len(examples), unit=" texts", leave=False, disable=None) as bar:
        found = classification.classify(model, tokenizer, [text for text, _ in examples], batch_size, bar.update)
    labels, guessed = [names.index(label) for _, label in examples], found.argmax(-1).tolist()
    classification.print_scores(Console(), labels, guessed, names, source)
    if confusion is not None:
        matrix = classification.confusion_matrix(labels, guessed, len(names))
        classification.plot_confusion(matrix, names, confusion)
        print(f"confusion matrix in {confusion}")
