"""The model card: rendered from the files that a run leaves, never typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.summary import UNKNOWN_SHARE

# Arguments that may hold a path of the machine, or say nothing about the model.
PRIVATE = {"output_dir", "dataset", "target_file", "validation_dataset", "init_from", "tokenizer", "num_threads"}
PRIVATE |= {"resume", "tracker", "reward"}
HIGHER_IS_BETTER = {"val_bleu", "val_bleu_lowercase", "val_chrf", "val_exact", "val_accuracy", "val_f1"}
HIGHER_IS_BETTER |= {"val_reward", "val_distinct_2", "val_parsed", "val_margin"}
# By task: the Hub's name for it, and the figures of its model index.
TASKS = {
    "language-modeling": (
        "text-generation",
        {"val_loss": "loss (nats a token)", "val_perplexity": "perplexity", "val_bits_per_byte": "bits a byte"},
    ),
    "instructions": (
        "text-generation",
        {"val_loss": "loss (nats a token of the answers)", "val_perplexity": "perplexity of the answers"},
    ),
    "preferences": (
        "text-generation",
        {"val_accuracy": "held-out pairs ranked rightly, share", "val_loss": "loss (nats a pair)"},
    ),
    "rewards": ("text-generation", {"val_reward": "mean reward", "val_kl": "KL to the reference (nats a completion)"}),
    "translation": (
        "translation",
        {"val_bleu": "BLEU (13a, cased)", "val_chrf": "chrF", "val_loss": "loss (nats a token)"},
    ),
    "text-classification": (
        "text-classification",
        {"val_accuracy": "accuracy", "val_f1": "macro F1", "val_loss": "loss (nats a text)"},
    ),
    "masked-language-modeling": (
        "fill-mask",
        {"val_loss": "loss (nats a masked token)", "val_accuracy": "masked tokens guessed right, share"},
    ),
}


def template_path() -> Path:
    """`model_card.md`: inside an installed package, or at the top of a checkout."""
    inside = Path(__file__).with_name("model_card.md")
    return inside if inside.exists() else Path(__file__).parents[2] / "model_card.md"


def render_card(folder: Path) -> str:
    """The card of the run in `folder`, from its `run.yaml` and the best evaluation in its `metrics.jsonl`."""
    run = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    arguments, facts = run["arguments"], run["facts"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    metric = arguments["metric_for_best_model"]
    best: dict[str, Any] = {}
    for row in (row for row in rows if metric in row):
        best = row if not best or is_better(metric, row[metric], best[metric]) else best
    values = {name: _number(value) for name, value in best.items() if isinstance(value, int | float)}
    values |= {f"{split}_{name}": _number(n) for split in ("train", "validation") for name, n in facts[split].items()}
    data = facts.get("data") or {}
    skipped = "; ".join(f"{reason}: {count:,}" for reason, count in (data.get("rows_skipped") or {}).items())
    unknown = data.get("unknown_share") or 0.0
    settings = {name: value for name, value in arguments.items() if name not in PRIVATE and value is not None}
    card = ModelCard.from_template(
        _metadata(facts, best),
        template_path=str(template_path()),
        **{"entropy_floor": "", **values},
        task=facts["task"],
        source_lang=facts.get("source_lang"),
        target_lang=facts.get("target_lang"),
        scores=facts.get("scores"),
        target_tokenizer=facts.get("target_tokenizer", False),
        labels=facts.get("labels"),
        rewarded=str(facts.get("rewarded")).replace("|", "\\|"),  # no end of a cell
        chat=facts.get("chat", False),
        title=facts["title"],
        style=facts["style"],
        parameters=_number(facts["parameters"]),
        context_length=_number(facts["context_length"]),
        dataset=facts["dataset"],
        dataset_license=facts["license"] or "not stated",
        skipped=skipped.replace("|", "\\|"),
        unknown=f"{unknown:.1%}" if unknown > UNKNOWN_SHARE else "",
        device=run["machine"]["device"],
        processes=run["machine"]["processes"],
        threads=run["machine"]["threads"],
        prompt=repr(facts["prompt"]),
        settings=yaml.safe_dump(settings, sort_keys=False).strip(),
        versions=", ".join(f"{name} {number}" for name, number in run["versions"].items()),
    )
    return str(card)


def _metadata(facts: dict[str, Any], best: dict[str, Any]) -> ModelCardData:
    """What the Hub reads: task, library, and the results as its model index wants them."""
    pipeline_tag, figures = TASKS[facts["task"]]
    results = [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=facts["dataset"],
            dataset_name=facts["dataset"],
            dataset_split="held out",
            metric_type=name.removeprefix("val_"),
            metric_name=title,
            metric_value=round(best[name], 4),
        )
        for name, title in figures.items()
        if name in best  # what could not be measured is left out
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=["scratch_gpt"],
        model_name=facts["title"],
        language=[facts[name] for name in ("source_lang", "target_lang") if name in facts] or None,
        eval_results=results,
    )


def is_better(metric: str, figure: float, other: float) -> bool:
    """Whether `figure` beats `other`: scores should be high, losses and their like low."""
    return figure > other if metric in HIGHER_IS_BETTER else figure < other


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
