"""Plots have axis labels, show every number, and are legible."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from scratch_gpt.evaluation.classification import plot_confusion
from scratch_gpt.evaluation.cross_attention import plot_attention


@pytest.fixture
def saved_figures(monkeypatch) -> list[Figure]:
    """The figures that were saved."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    return figures


def test_confusion_matrix_plot_has_labels_and_legible_counts(saved_figures, tmp_path):
    plot_confusion(np.array([[9, 1], [3, 1200]]), ["bad", "good"], tmp_path / "confusion.png")
    (figure,) = saved_figures
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted label", "true label")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["bad", "good"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bad", "good"]
    (image,) = axes.get_images()
    for text, (row, column), shown in zip(
        axes.texts,
        ((0, 0), (0, 1), (1, 0), (1, 1)),
        ("9\n90%", "1\n10%", "3\n0%", "1,200\n100%"),
        strict=True,
    ):
        assert text.get_text() == shown
        assert text.get_position() == (column, row)
        background = np.mean(image.cmap(image.norm(image.get_array()[row, column]))[:3])
        assert abs(background - np.mean(to_rgb(text.get_color()))) > 0.4  # dark on light, or light on dark
    assert imread(tmp_path / "confusion.png").shape[0] > 300


def test_attention_plot_has_word_labels_and_a_colour_bar(saved_figures, tmp_path):
    matrix = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
    plot_attention(["ein", "alter", "Hund"], ["an", "old"], matrix, tmp_path / "new" / "attention.png")
    (figure,) = saved_figures
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ein", "alter", "Hund"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["an", "old"]
    assert bar.get_ylabel() == "attention weight"
    np.testing.assert_allclose(axes.get_images()[0].get_array(), matrix)
    assert imread(tmp_path / "new" / "attention.png").shape[0] > 200
