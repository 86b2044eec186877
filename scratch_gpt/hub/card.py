"""The model card, rendered from the files of a training run.

Names, labels and settings come from data and arguments and are escaped: they can't add headings, links, images, table
cells, HTML or lines of code.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment

from ..data.readers.summary import UNKNOWN_SHARE
from ..errors import ScratchError
from ..metrics import TEXTS, Metric, find_metric
from ..terminal import printable
from .card_origin import KNOWLEDGE_OF_NEW, CardOrigin, introduction_of_new
from .card_usage import CODE_REVISION, REMOTE_CODE, Usage

# What the template shows of facts, machine and best evaluation, beside the text of the family.
TEMPLATE_NAMES: tuple[str, ...] = (
    "title",
    "style",
    "parameters",
    "context_length",
    "skipped",
    "unknown",
    "dataset_license",
)
TEMPLATE_NAMES += (
    "tokens",
    "step",
    "seconds",
    "device",
    "processes",
    "threads",
    "settings",
    "fence",
    "versions",
    "version",
)
MAX_SAMPLE = 600  # characters


@dataclass(frozen=True)
class CardText:
    """The parts of a model card that depend on the task family.

    Sentences and cells are Jinja templates, whose variables are the facts in `run.yaml` and the metrics of the best
    evaluation.

    Attributes:
        kind: kind of model, such as "translation model".
        pipeline_tag: the Hub's name of the task.
        data: rows (label, cell) of the table of training data.
        held_out: a sentence on the data of the results.
        metrics: rows of the results, which can select the best model; those with `index` are in the Hub's model index.
        usage: code that loads and uses the model.
        limits: a sentence on the limitations of the model.
        details: additional rows of the results.
        seen: unit that the training loss is averaged over.
    """

    kind: str
    pipeline_tag: str
    data: tuple[tuple[str, str], ...]
    held_out: str
    metrics: tuple[Metric, ...]
    usage: Usage
    limits: str
    details: tuple[Metric, ...] = ()
    seen: str = "tokens"


def template_path() -> Path:
    """Path of `model_card.md`: in the installed package, or at the root of a checkout."""
    inside = Path(__file__).with_name("model_card.md")
    return inside if inside.exists() else Path(__file__).parents[2] / "model_card.md"


def render_card(run: Any, rows: list[dict[str, Any]], card: CardText, private: Collection[str] = ()) -> str:
    """Render the model card of a run.

    Args:
        run: content of the run's `run.yaml`.
        rows: rows of its `metrics.jsonl`; the card shows the best evaluation.
        card: the texts of the run's task family.
        private: names of arguments to omit.

    Raises:
        ScratchError: `run` or `rows` lack values or have values of the wrong type.
    """
    try:
        return _render(run, rows, card, private)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ScratchError(f"can't render a model card from run.yaml and metrics.jsonl: {reason}") from error


def _render(run: dict[str, Any], rows: list[dict[str, Any]], card: CardText, private: Collection[str]) -> str:
    arguments, facts = run["arguments"], run["facts"]
    best = _best_row(rows, card, arguments["metric_for_best_model"])
    sample, verdict = _sample(best.pop("sample", None)), best.pop("verdict", None)
    values = {name: _number(value) for name, value in best.items()}
    values |= {f"{split}_{name}": _number(n) for split in ("train", "validation") for name, n in facts[split].items()}
    settings = {name: value for name, value in arguments.items() if name not in private and value is not None}
    settings_text = yaml.safe_dump(settings, sort_keys=False).strip()
    texts: dict[str, Any] = {**_facts(facts), **_machine(run), "settings": settings_text, "fence": fence(settings_text)}
    known: dict[str, Any] = {**values, **texts}

    def fill(template: str) -> str:
        return Environment().from_string(template).render(known)  # nosec: Markdown, whose values are escaped above

    native, origin = facts.get("native_class"), CardOrigin.of(facts)
    blocks = card.usage.blocks(native=bool(native) or "own_class" in facts)
    if "own_class" in facts:
        blocks["native"] = blocks["native"].replace(REMOTE_CODE, "")
    if origin is not None and origin.adapter:
        blocks = {"adapter": card.usage.with_adapter(origin.ids[0] if origin.ids else "BASE_MODEL")}
    content: dict[str, Any] = {
        "introduction": introduction_of_new(card.kind) if origin is None else origin.introduction(card.kind, code_span),
        "knowledge": KNOWLEDGE_OF_NEW if origin is None else origin.knowledge(code_span),
        "trained": "trained" if origin is None else "fine-tuned",
        "origin_rows": [] if origin is None else origin.rows(code_span),
        "adapter": origin is not None and origin.adapter,
        "dtype": facts["dtype"] if facts.get("dtype") in ("float32", "bfloat16", "float16") else "",
        "data_rows": [(label, fill(cell)) for label, cell in card.data],
        "seen": card.seen,
        "sample": sample,
        "verdict": escape_markdown(verdict) if isinstance(verdict, str) else "",
        "sample_fence": fence(sample),
        "held_out": fill(card.held_out),
        "results": _results(card, values, texts["scores"]),
        "tuned": any(f"{metric.name}_before" in values for metric in card.metrics),
        "usage": {name: fill(block) for name, block in blocks.items()},
        "native": native,
        "own_class": code_span(facts["own_class"]) if "own_class" in facts else "",
        "no_native": escape_markdown(facts.get("no_native_class") or ""),
        "code_revision": CODE_REVISION,
        "limits": fill(card.limits),
    }
    # Names from run.yaml and metrics.jsonl must not become parameters of `from_template`: only these are passed.
    named = {name: known.get(name, "") for name in TEMPLATE_NAMES}
    metadata = _metadata(facts, best, card, origin)
    rendered = ModelCard.from_template(metadata, template_path=str(template_path()), **{**named, **content})
    return str(rendered)


def _best_row(rows: list[dict[str, Any]], card: CardText, name: str) -> dict[str, Any]:
    """The numbers of the best evaluation by a metric, and its texts; empty if there was no evaluation."""
    metric = find_metric(card.metrics, name)
    if metric is None:
        raise ScratchError(f"metric_for_best_model is {name!r}, want one of {', '.join(m.name for m in card.metrics)}")
    best: dict[str, Any] = {}
    for row in (row for row in rows if name in row):
        best = row if not best or metric.is_better(row[name], best[name]) else best
    return {name: value for name, value in best.items() if isinstance(value, int | float) or name in TEXTS}


def _sample(text: Any) -> str:
    """The sample of an evaluation as lines of a code block: without control characters, at most `MAX_SAMPLE` long."""
    if not isinstance(text, str):
        return ""
    lines = [printable(line.rstrip()) for line in text.strip().splitlines()]
    shown = "\n".join(line for line in lines if line)
    return shown if len(shown) <= MAX_SAMPLE else shown[:MAX_SAMPLE].rpartition(" ")[0] + " …"


def _results(card: CardText, values: dict[str, str], signatures: dict[str, str]) -> list[tuple[str, str, str]]:
    """Rows of the results: label, value, and the value before fine-tuning, if there is one."""
    rows = []
    for metric in (metric for metric in (*card.metrics, *card.details) if metric.name in values):
        signature = signatures.get(metric.name.removeprefix("val_"))
        label = f"{metric.label} ({signature})" if signature else metric.label
        rows.append((label, values[metric.name], values.get(f"{metric.name}_before", "")))
    return rows


def _facts(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a run, escaped for Markdown or, for code, as Python literals."""
    data = facts.get("data") or {}
    skipped = "; ".join(f"{reason}: {_number(count)}" for reason, count in (data.get("rows_skipped") or {}).items())
    unknown = data.get("unknown_share") or 0.0
    source, target = facts.get("source_lang"), facts.get("target_lang")
    known = {
        "title": escape_markdown(facts["title"]),
        "style": escape_markdown(facts["style"]),
        "parameters": _number(facts["parameters"]),
        "context_length": _number(facts["context_length"]),
        "dataset": escape_markdown(facts["dataset"]),
        "dataset_license": escape_markdown(facts["license"] or "not stated"),
        "skipped": escape_markdown(skipped),
        "unknown": f"{unknown:.1%}" if unknown > UNKNOWN_SHARE else "",
        "prompt": repr(str(facts["prompt"])),
        "chat": facts.get("chat", False),
        "is_tuned": "base_model" in facts,
        "source_lang": escape_markdown(source),
        "target_lang": escape_markdown(target),
        "translation_task": repr(f"translation_{source}_to_{target}"),
        "target_tokenizer": facts.get("target_tokenizer", False),
        "scores": {name: code_span(signature) for name, signature in (facts.get("scores") or {}).items()},
        "labels": [(escape_markdown(name), _number(n)) for name, n in (facts.get("labels") or {}).items()],
    }
    # Further facts of a family, such as the reward or the teacher, are shown as code.
    return {name: code_span(value) for name, value in facts.items() if isinstance(value, str)} | known


def _machine(run: dict[str, Any]) -> dict[str, str]:
    """Hardware and library versions of the run, escaped for Markdown."""
    machine = {name: escape_markdown(run["machine"][name]) for name in ("device", "processes", "threads")}
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    version = re.sub(r"[^\w.+-]", "", str(run["versions"].get("scratch_gpt", "")))
    return {**machine, "versions": escape_markdown(versions), "version": version}


def escape_markdown(text: Any) -> str:
    """Escape a text as one line of Markdown that renders as the text itself, without links, images, HTML, headings or
    new table cells.

    Whitespace and line ends are replaced by single spaces, and control characters by escapes.
    """
    line = printable(" ".join(str(text).split()))
    line = re.sub(r"[\\`*\[\]<>|~&#$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line)
    # URLs without markup, which GitHub and the Hub turn into links.
    return re.sub(r":(?=/)|(?<=www)\.", r"\\\g<0>", line, flags=re.IGNORECASE)


def code_span(text: Any) -> str:
    """Format a text as an inline code span in Markdown, also for table cells."""
    line = printable(" ".join(str(text).split())) or " "
    marks = "`" * (_longest_run(line) + 1)
    padding = " " if "`" in line or not line.strip() else ""  # Markdown strips one space on each side
    return f"{marks}{padding}{line}{padding}{marks}".replace("|", "\\|")


def fence(code: str) -> str:
    """Backticks that fence a code block: more than its longest run of backticks."""
    return "`" * max(3, _longest_run(code) + 1)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _metadata(facts: dict[str, Any], best: dict[str, Any], card: CardText, origin: CardOrigin | None) -> ModelCardData:
    """Metadata for the Hub: task, library, base model with its license, and the results as a model index.

    Args:
        facts: facts of the run.
        best: numbers of the best evaluation.
        card: texts of the family.
        origin: origin of a tuned model, or None.
    """
    adapter = origin is not None and origin.adapter
    title, dataset = (printable(" ".join(str(facts[name]).split())) for name in ("title", "dataset"))
    results = [
        EvalResult(
            task_type=card.pipeline_tag,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="held out",
            metric_type=metric.name.removeprefix("val_"),
            metric_name=metric.label,
            metric_value=round(best[metric.name], 4),
        )
        for metric in card.metrics
        if metric.index and metric.name in best  # omit what was not measured
    ]
    return ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag=card.pipeline_tag,
        tags=["scratch_gpt", "lora"] if adapter else ["scratch_gpt"],
        model_name=title,
        language=[str(facts[name]) for name in ("source_lang", "target_lang") if name in facts] or None,
        eval_results=results,
        **({} if origin is None else origin.metadata()),
    )


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else escape_markdown(value)
