"""The model card: rendered from what a run has measured, never typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

PRIVATE = ("output_dir", "dataset", "validation_dataset", "init_from", "tokenizer", "num_threads", "resume", "tracker")


def template_path() -> Path:
    """`model_card.md`: inside an installed package, or at the top of a checkout."""
    inside = Path(__file__).with_name("model_card.md")
    return inside if inside.exists() else Path(__file__).parents[2] / "model_card.md"


def render_card(arguments: dict[str, Any], facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The card of a run.

    Args:
        arguments: those of the run; such as may hold a path of the machine are left out.
        facts: sizes of model and data, as in `run.yaml`.
        rows: those of `metrics.jsonl`; the best evaluation is reported.
    """
    evaluated = [row for row in rows if "val_loss" in row]
    best: dict[str, Any] = min(evaluated, key=lambda row: row["val_loss"], default={})
    data = ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=["scratch_gpt"])
    settings = {name: value for name, value in arguments.items() if name not in PRIVATE and value is not None}
    card = ModelCard.from_template(
        data,
        template_path=str(template_path()),
        title=facts["title"],
        style=facts["style"],
        parameters=f"{facts['parameters']:,}",
        dataset=facts["dataset"],
        train_characters=f"{facts['train']['characters']:,}",
        train_tokens=f"{facts['train']['tokens']:,}",
        tokens_seen=f"{best.get('tokens', 0):,}",
        val_loss=_number(best.get("val_loss")),
        val_bits_per_byte=_number(best.get("val_bits_per_byte")),
        entropy_floor=_number(best["entropy_floor"]) if "entropy_floor" in best else "",
        prompt=repr(facts["prompt"]),
        settings=yaml.safe_dump(settings, sort_keys=False).strip(),
    )
    return str(card)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
