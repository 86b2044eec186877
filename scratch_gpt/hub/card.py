"""The model card: rendered from the files that a run leaves, never typed.

Names, labels and settings come from data and arguments. What they say stays text: it makes no heading, link, picture,
table cell or HTML of its own, and no line of code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.summary import UNKNOWN_SHARE
from ..errors import ScratchError
from ..terminal import printable

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


def render_card(run: Any, rows: list[dict[str, Any]]) -> str:
    """The card of a run.

    Args:
        run: the content of its `run.yaml`.
        rows: of its `metrics.jsonl`; the best evaluation among them is shown.

    Raises:
        ScratchError: these are not as a run writes them.
    """
    try:
        return _render(run, rows)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ScratchError(f"no card can be written from run.yaml and metrics.jsonl: {reason}") from error


def _render(run: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    arguments, facts = run["arguments"], run["facts"]
    if facts["task"] not in TASKS:
        raise ScratchError(f"run.yaml has the task {facts['task']!r}, want one of {', '.join(TASKS)}")
    metric = arguments["metric_for_best_model"]
    best: dict[str, Any] = {}
    for row in (row for row in rows if metric in row):
        best = row if not best or is_better(metric, row[metric], best[metric]) else best
    best = {name: value for name, value in best.items() if isinstance(value, int | float)}
    values = {name: _number(value) for name, value in best.items()}
    values |= {f"{split}_{name}": _number(n) for split in ("train", "validation") for name, n in facts[split].items()}
    data = facts.get("data") or {}
    skipped = "; ".join(f"{reason}: {_number(count)}" for reason, count in (data.get("rows_skipped") or {}).items())
    unknown = data.get("unknown_share") or 0.0
    settings = {name: value for name, value in arguments.items() if name not in PRIVATE and value is not None}
    settings_text = yaml.safe_dump(settings, sort_keys=False).strip()
    source, target = facts.get("source_lang"), facts.get("target_lang")
    texts = {
        "task": facts["task"],
        "source_lang": escape_markdown(source),
        "target_lang": escape_markdown(target),
        "translation_task": repr(f"translation_{source}_to_{target}"),
        "scores": {name: code_span(signature) for name, signature in (facts.get("scores") or {}).items()},
        "target_tokenizer": facts.get("target_tokenizer", False),
        "labels": [(escape_markdown(name), _number(n)) for name, n in (facts.get("labels") or {}).items()],
        "rewarded": code_span(facts.get("rewarded")),
        "chat": facts.get("chat", False),
        "title": escape_markdown(facts["title"]),
        "style": escape_markdown(facts["style"]),
        "parameters": _number(facts["parameters"]),
        "context_length": _number(facts["context_length"]),
        "dataset": escape_markdown(facts["dataset"]),
        "dataset_license": escape_markdown(facts["license"] or "not stated"),
        "skipped": escape_markdown(skipped),
        "unknown": f"{unknown:.1%}" if unknown > UNKNOWN_SHARE else "",
        "device": escape_markdown(run["machine"]["device"]),
        "processes": escape_markdown(run["machine"]["processes"]),
        "threads": escape_markdown(run["machine"]["threads"]),
        "prompt": repr(str(facts["prompt"])),
        "settings": settings_text,
        "fence": fence(settings_text),
        "versions": escape_markdown(", ".join(f"{name} {number}" for name, number in run["versions"].items())),
    }
    # Names of figures are from metrics.jsonl, and stand for nothing else in the template.
    figures = {name: value for name, value in values.items() if name not in ("template_path", "template_str")}
    card = ModelCard.from_template(
        _metadata(facts, best), template_path=str(template_path()), **{"entropy_floor": "", **figures, **texts}
    )
    return str(card)


def escape_markdown(text: Any) -> str:
    """One line of Markdown that renders as this text, whatever is in it: no link, picture, HTML, heading or new cell.

    Spaces and line ends are one space each; control characters are written as escapes.
    """
    line = printable(" ".join(str(text).split()))
    line = re.sub(r"[\\`*\[\]<>|~&#$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line)
    # What GitHub and the Hub make a link of without any mark.
    return re.sub(r":(?=/)|(?<=www)\.", r"\\\g<0>", line, flags=re.IGNORECASE)


def code_span(text: Any) -> str:
    """One line of Markdown that shows this text as code, in a cell of a table too."""
    line = printable(" ".join(str(text).split())) or " "
    marks = "`" * (_longest_run(line) + 1)
    return f"{marks} {line} {marks}".replace("|", "\\|")  # one space on each side is not part of the code


def fence(code: str) -> str:
    """Backticks for the lines around a code block: more than stand together anywhere in it."""
    return "`" * max(3, _longest_run(code) + 1)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _metadata(facts: dict[str, Any], best: dict[str, Any]) -> ModelCardData:
    """What the Hub reads: task, library, and the results as its model index wants them."""
    pipeline_tag, figures = TASKS[facts["task"]]
    title, dataset = (printable(" ".join(str(facts[name]).split())) for name in ("title", "dataset"))
    results = [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=dataset,
            dataset_name=dataset,
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
        model_name=title,
        language=[str(facts[name]) for name in ("source_lang", "target_lang") if name in facts] or None,
        eval_results=results,
    )


def is_better(metric: str, figure: float, other: float) -> bool:
    """Whether `figure` beats `other`: scores should be high, losses and their like low."""
    return figure > other if metric in HIGHER_IS_BETTER else figure < other


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else escape_markdown(value)
