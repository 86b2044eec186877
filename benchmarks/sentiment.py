"""Linear baselines for text classification: naive Bayes and NB-SVM.

    pip install scikit-learn && python benchmarks/sentiment.py --train train.tsv --test dev.tsv --output sentiment.json

NB-SVM (Wang and Manning 2012, "Baselines and Bigrams", aclanthology.org/P12-2018): a linear support vector machine on
words and bigrams, each weighted by the log ratio of its frequencies in the two classes. Its regularisation parameter C
is selected by cross-validation on the training texts. Prints accuracies, writes JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from scratch_gpt.data.readers.labelled import open_labelled
from scratch_gpt.data.readers.tables import ReadOptions


class NBSVM(BaseEstimator, ClassifierMixin):
    """NB-SVM for two classes; `C` is the SVM's, `alpha` is added to every count (smoothing)."""

    def __init__(self, C: float = 0.1, alpha: float = 1.0):  # noqa: N803  (scikit-learn's name)
        self.C, self.alpha = C, alpha

    def fit(self, counts: sparse.csr_matrix, labels: np.ndarray) -> NBSVM:
        """Fit to counts (texts, words) and labels (texts,) of two classes."""
        self.classes_ = np.unique(labels)
        counts_per_class = [self.alpha + np.asarray(counts[labels == c].sum(0)).ravel() for c in self.classes_]
        self.ratios_ = np.log(
            (counts_per_class[1] / counts_per_class[1].sum()) / (counts_per_class[0] / counts_per_class[0].sum())
        )
        self.svm_ = LinearSVC(C=self.C).fit(counts.multiply(self.ratios_).tocsr(), labels)
        return self

    def predict(self, counts: sparse.csr_matrix) -> np.ndarray:
        """Predict the labels (texts,) of counts (texts, words)."""
        return self.svm_.predict(counts.multiply(self.ratios_).tocsr())


def vectorizer(bigrams: bool) -> CountVectorizer:
    """Binary features for the words (and bigrams) in a text."""
    return CountVectorizer(ngram_range=(1, 2 if bigrams else 1), binary=True, token_pattern=r"\S+")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="Labelled text: a .tsv, .csv or .jsonl file, or a Hub id.")
    parser.add_argument("--test", required=True, help="Labelled text to evaluate on.")
    parser.add_argument("--output", type=Path, help="Write the accuracies to this JSON file.")
    args = parser.parse_args()
    texts, labels = zip(*open_labelled(args.train).read(), strict=True)
    test_texts, test_labels = zip(*open_labelled(args.test, ReadOptions(split="test")).read(), strict=True)
    labels, test_labels = np.array(labels), np.array(test_labels)

    models = {
        "naive Bayes, words": make_pipeline(vectorizer(bigrams=False), MultinomialNB()),
        "naive Bayes, words and pairs": make_pipeline(vectorizer(bigrams=True), MultinomialNB()),
        "NB-SVM, words and pairs": GridSearchCV(
            make_pipeline(vectorizer(bigrams=True), NBSVM()),
            {"nbsvm__C": [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]},
            cv=10,
        ),
    }
    results, table = {}, Table("model", "accuracy")
    for name, model in models.items():
        model.fit(texts, labels)
        results[name] = float((model.predict(test_texts) == test_labels).mean())
        table.add_row(name, f"{results[name]:.2%}")
    results["C"] = models["NB-SVM, words and pairs"].best_params_["nbsvm__C"]
    Console().print(table)
    if args.output:
        args.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
