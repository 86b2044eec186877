"""What families that build new models share: the help texts and config fields of presets, windows and experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SLIDING_WINDOW = (
    "Window of sliding attention in tokens, of the preset's layers with sliding attention or, if it has none, of all "
    "layers. Default: the preset's. A window of at least the context length changes nothing."
)
NUM_EXPERTS = (
    "Number of experts: feed-forward networks of which a router chooses some for each token; 0 for a single network. "
    "Default: the preset's."
)
NUM_EXPERTS_PER_TOK = (
    "Number of experts that process a token. Default: the preset's, or 2 if it has none; at most num_experts."
)


def preset_help(first: str, descriptions: Mapping[str, str]) -> str:
    """The help text of `--preset`: a line for each preset.

    Args:
        first: the first line.
        descriptions: of the presets, by name.
    """
    lines = [f"- {name}: {description}" for name, description in descriptions.items()]
    return "\n".join([first, *lines])


def block_fields(args: Any, preset: Mapping[str, Any]) -> dict[str, Any]:
    """The config fields for the arguments of windows and experts, if these are given.

    Args:
        args: model arguments.
        preset: the values of the preset's fields.

    Raises:
        ValueError: experts per token are given for a model without experts.
    """
    fields = {name: getattr(args, name) for name in ("sliding_window", "num_experts", "num_experts_per_tok")}
    experts = preset.get("num_experts", 0) if fields["num_experts"] is None else fields["num_experts"]
    if fields["num_experts_per_tok"] is not None and not experts:
        raise ValueError("num_experts_per_tok is given for a model without experts: give num_experts too")
    if fields["num_experts"] and fields["num_experts_per_tok"] is None:
        fields["num_experts_per_tok"] = min(preset.get("num_experts_per_tok", 2), experts)
    return {name: value for name, value in fields.items() if value is not None}
