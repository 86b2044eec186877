"""The report at the end of a run: generated texts, and whether the model is good for its text."""

from __future__ import annotations

from pathlib import Path

from ....data.batching.token_shards import Shard
from ....evaluation.reload import report_reloaded
from ....evaluation.text_report import report_on_text
from ....metrics import find_metric
from ....terminal import SafeConsole
from ...engine.run_directory import best_evaluation, read_metrics
from .arguments import PretrainingArguments
from .task import METRICS


def report_language_model(
    folder: Path,
    shards: dict[str, Shard],
    row_length: int,
    args: PretrainingArguments,
    is_stories: bool,
    entropy_floor: float | None,
    trust_remote_code: bool,
) -> dict[str, float | str]:
    """Load the published model as a user would, print generated texts, and compare it with simple methods.

    Args:
        folder: directory of the run.
        shards: "train" and "validation".
        row_length: length of a row in tokens.
        args: training arguments.
        is_stories: whether the model was trained on the built-in stories.
        entropy_floor: entropy of the validation text in nats per token, if it is known.
        trust_remote_code: whether to run code from the directory.

    Returns:
        What was measured in addition to the best evaluation, and the "verdict"; empty without `--baselines`.
    """
    model, tokenizer, texts = report_reloaded(folder, shards, is_stories, trust_remote_code)
    metric = find_metric(METRICS, args.metric_for_best_model)
    best = None if metric is None else best_evaluation(read_metrics(folder), metric)
    if not args.baselines or best is None or "val_bits_per_byte" not in best:
        return {}
    bits = best["val_bits_per_byte"]
    report = report_on_text(model, tokenizer, shards, row_length, bits, texts, entropy_floor)
    report.print(SafeConsole())
    return {**report.numbers(), "verdict": report.reading()}
