"""Classify texts, and score the predictions: accuracy, F1 and the confusion matrix."""

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
from .positions import position_limit

BATCH_SIZE = 64
SHOWN = 4


def classify(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], Any] = lambda count: None,
) -> torch.Tensor:
    """Predict the probability of each label for each text.

    Args:
        model: a model with a classification head.
        tokenizer: the model's tokenizer.
        texts: in any order; batches contain texts of similar length. A text longer than the model's positions is
            truncated.
        batch_size: texts per batch.
        progress: called with the number of texts finished since the last call.

    Returns:
        Probabilities (N, K) of K labels for N texts, in the order of the texts.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    longest = position_limit(model.config)
    probabilities = torch.zeros(len(texts), len(label_names_of(model.config)))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = tokenizer(
            [texts[i] for i in indices],
            return_tensors="pt",
            padding=True,
            truncation=longest is not None,
            max_length=longest,
            return_token_type_ids=False,
        ).to(model.device)
        with torch.no_grad():
            probabilities[indices] = model(**batch).logits.float().softmax(-1).cpu()
        progress(len(indices))
    return probabilities


def label_names_of(config: Any) -> list[str]:
    """Names of the labels in a model's config, in order of their ids."""
    names: Any = config.id2label
    return [names[label_id] for label_id in sorted(names)]


def classification_scores(labels: Sequence[int], predicted: Sequence[int], num_labels: int) -> dict[str, float]:
    """Return "accuracy" and "f1" (macro F1) of predicted labels.

    The F1 score of a label is the harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); macro F1 is its
    unweighted mean over all labels. A label that neither occurs nor is predicted has F1 0.
    """
    matrix = confusion_matrix(labels, predicted, num_labels)
    correct, counts = matrix.diagonal(), matrix.sum(0) + matrix.sum(1)
    return {
        "accuracy": float(correct.sum() / matrix.sum()),
        "f1": float((2 * correct / counts.clip(min=1)).mean()),
    }


def confusion_matrix(labels: Sequence[int], predicted: Sequence[int], num_labels: int) -> np.ndarray:
    """Count the texts by true label (rows) and predicted label (columns), (K, K)."""
    cells = np.asarray(labels) * num_labels + np.asarray(predicted)
    return np.bincount(cells, minlength=num_labels**2).reshape(num_labels, num_labels)


def print_scores(
    console: SafeConsole, labels: Sequence[int], predicted: Sequence[int], names: list[str], title: str
) -> None:
    """Print accuracy, macro F1 and the confusion matrix as tables.

    Args:
        console: prints the tables.
        labels: true label of each text.
        predicted: predicted label of each text.
        names: names of the labels.
        title: title of the first table.
    """
    scores = classification_scores(labels, predicted, len(names))
    table = Table("of the texts", f"{len(labels):,}", title=title)
    table.add_row("accuracy", f"{scores['accuracy']:.2%}")
    table.add_row("macro F1", f"{scores['f1']:.4f}")
    console.print(table)
    table = Table("label", *(f"predicted {name}" for name in names))
    for name, row in zip(names, confusion_matrix(labels, predicted, len(names)), strict=True):
        table.add_row(name, *(f"{count:,}" for count in row))
    console.print(table)


def report_classifier(folder: Path, examples: list[tuple[str, str]], trust_remote_code: bool) -> None:
    """Load `folder` with the Auto classes and the pipeline, and classify held-out texts.

    Prints the scores, and saves a plot of the confusion matrix in `folder`.

    Args:
        folder: a model directory.
        examples: held-out texts and their labels.
        trust_remote_code: whether to run code from the directory.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=trust_remote_code).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    names = label_names_of(model.config)
    texts = [text for text, _ in examples]
    labels = [names.index(label) for _, label in examples]
    predicted = classify(model, tokenizer, texts).argmax(-1).tolist()
    classifier: Any = pipeline(
        "text-classification", model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code
    )
    console = SafeConsole()
    table = Table("text", "label", "prediction", "probability", title=f"Reloaded from {folder}")
    for (text, label), prediction in zip(examples, classifier(texts[:SHOWN], truncation=True), strict=False):
        table.add_row(text, label, prediction["label"], f"{prediction['score']:.1%}")
    console.print(table)
    print_scores(console, labels, predicted, names, "held out")
    with replacing(folder / "confusion.png") as path:
        plot_confusion(confusion_matrix(labels, predicted, len(names)), names, path)


def plot_confusion(matrix: np.ndarray, names: list[str], path: Path) -> None:
    """Plot a confusion matrix (K, K) to an image file, each row shaded by fractions of its label."""
    from matplotlib.figure import Figure

    size = 2.2 + 0.7 * len(names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    fractions = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 8 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted label")
    axes.set_ylabel("true label")
    for row, column in np.ndindex(matrix.shape):
        shade = "white" if fractions[row, column] > 0.5 else "black"
        text = f"{matrix[row, column]:,}\n{fractions[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=shade)
    figure.savefig(path, dpi=150)
