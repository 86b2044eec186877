"""Classify texts, and score the guesses: accuracy, F1 and the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from ..atomic_files import replacing
from ..terminal import SafeConsole

BATCH_SIZE = 64
SHOWN = 4


def classify(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], Any] = lambda count: None,
) -> torch.Tensor:
    """The probability of each label for each text, (N, K).

    Args:
        model: with a classification head.
        texts: in any order; those of similar length go together. A text longer than the model's positions is cut.
        batch_size: texts at a time.
        progress: called with the number of texts finished since the last call.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    longest = getattr(model.config, "max_position_embeddings", None)
    probabilities = torch.zeros(len(texts), len(label_names_of(model.config)))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        batch = tokenizer(
            [texts[i] for i in numbers],
            return_tensors="pt",
            padding=True,
            truncation=longest is not None,
            max_length=longest,
            return_token_type_ids=False,
        ).to(model.device)
        with torch.no_grad():
            probabilities[numbers] = model(**batch).logits.float().softmax(-1).cpu()
        progress(len(numbers))
    return probabilities


def label_names_of(config: Any) -> list[str]:
    """The names of the labels in the config of a model, in order."""
    names: Any = config.id2label
    return [names[number] for number in sorted(names)]


def classification_scores(labels: Sequence[int], guessed: Sequence[int], num_labels: int) -> dict[str, float]:
    """ "accuracy", the share of right guesses, and "f1", the mean over the labels of the harmonic mean of precision and
    recall (macro F1); a label that never occurs and is never guessed counts as 0."""
    from sklearn.metrics import accuracy_score, f1_score

    every = range(num_labels)
    return {
        "accuracy": float(accuracy_score(labels, guessed)),
        "f1": float(f1_score(labels, guessed, labels=every, average="macro", zero_division=0.0)),
    }


def confusion_matrix(labels: Sequence[int], guessed: Sequence[int], num_labels: int) -> np.ndarray:
    """How many texts of each label (rows) were taken for each label (columns)."""
    from sklearn.metrics import confusion_matrix as count

    return count(labels, guessed, labels=range(num_labels))


def print_scores(
    console: SafeConsole, labels: Sequence[int], guessed: Sequence[int], names: list[str], title: str
) -> None:
    """Accuracy, F1 and the confusion matrix as tables."""
    scores = classification_scores(labels, guessed, len(names))
    table = Table("of the texts", f"{len(labels):,}", title=title)
    table.add_row("accuracy", f"{scores['accuracy']:.2%}")
    table.add_row("macro F1", f"{scores['f1']:.4f}")
    console.print(table)
    table = Table("label", *(f"taken for {name}" for name in names))
    for name, row in zip(names, confusion_matrix(labels, guessed, len(names)), strict=True):
        table.add_row(name, *(f"{count:,}" for count in row))
    console.print(table)


def report_classifier(folder: Path, examples: list[tuple[str, str]], trust_remote_code: bool) -> None:
    """Load `folder` through the Auto classes and the pipeline, classify held-out texts, print the scores and draw the
    confusion matrix into `folder`."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=trust_remote_code).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    names = label_names_of(model.config)
    texts = [text for text, _ in examples]
    labels = [names.index(label) for _, label in examples]
    guessed = classify(model, tokenizer, texts).argmax(-1).tolist()
    say: Any = pipeline(
        "text-classification", model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code
    )
    console = SafeConsole()
    table = Table("text", "label", "guess", "probability", title=f"Reloaded from {folder}")
    for (text, label), guess in zip(examples, say(texts[:SHOWN], truncation=True), strict=False):
        table.add_row(text, label, guess["label"], f"{guess['score']:.1%}")
    console.print(table)
    print_scores(console, labels, guessed, names, "held out")
    with replacing(folder / "confusion.png") as picture:
        plot_confusion(confusion_matrix(labels, guessed, len(names)), names, picture)


def plot_confusion(matrix: np.ndarray, names: list[str], path: Path) -> None:
    """The confusion matrix as a picture, each row shaded by shares of its label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = 2.2 + 0.7 * len(names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    num_row_blocks = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    axes.imshow(num_row_blocks, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 8 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("taken for")
    axes.set_ylabel("label")
    for row, column in np.ndindex(matrix.shape):
        shade = "white" if num_row_blocks[row, column] > 0.5 else "black"
        text = f"{matrix[row, column]:,}\n{num_row_blocks[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=shade)
    figure.savefig(path, dpi=150)
