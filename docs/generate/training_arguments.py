"""The reference of the training arguments, from the parser that `scratch-gpt train TASK --help` shows."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from options import Option, definition_list

from scratch_gpt.train.arguments.training import describe_bounds, metadata_of
from scratch_gpt.train.engine.parsing import argument_parser
from scratch_gpt.train.tasks import FAMILIES, description_of, recipe_of

FOLDER = "reference/training-arguments"
CONFIGS = Path(__file__).parents[2] / "training" / "configs"
CONFIG = "Configuration file"  # heading of `--config`, which is not a field
ABOUT_CONFIGS = """# Built-in configurations

`--config NAME` takes the arguments of a task from a file; flags on the command line override it. NAME is one
of these, or the path of your own YAML file, which has a line `name: value` for each argument.
"""


def training_pages() -> dict[str, str]:
    """A page for each task, in the order of `scratch-gpt train`, and one of the configurations, by URI."""
    pages = {f"{FOLDER}/{family}.md": _page(family) for family in FAMILIES}
    return pages | {f"{FOLDER}/configs.md": _configs()}


def _page(family: str) -> str:
    types = recipe_of(family).arguments
    metadata = metadata_of(types)
    parts = [f"---\ntitle: {family}\n---\n\n# scratch-gpt train {family}\n", _description(family)]
    for group in argument_parser(types)._action_groups:
        options = [_option(each, metadata.get(each.dest, {})) for each in group._group_actions if each.dest != "help"]
        if options:
            heading = CONFIG if options[0].flags == ("--config",) else f"{(group.title or '').capitalize()} arguments"
            parts += [f"## {heading}\n", definition_list(options)]
    return "\n".join(parts)


def _description(family: str) -> str:
    """The description of a task in `--help`, whose indented blocks are commands or Python."""
    blocks = re.split(r"\n\s*\n", description_of(family).strip("\n"))
    return "\n\n".join(map(_block, blocks)) + "\n"


def _block(text: str) -> str:
    if not text.startswith("    "):
        return text.replace("*", "\\*")
    code = textwrap.dedent(text)
    return f"```{'bash' if code.startswith(('scratch-gpt', 'accelerate')) else 'python'}\n{code}\n```"


def _option(action: argparse.Action, metadata: Mapping[str, Any]) -> Option:
    """One argument of the parser, with the bounds and properties that its field has."""
    is_flag = isinstance(action, argparse.BooleanOptionalAction)
    flags = tuple(action.option_strings[:2]) if is_flag else (action.option_strings[0],)
    kind = "" if is_flag else ", ".join(map(str, action.choices or ())) or getattr(action.type, "__name__", "")
    if action.nargs in ("+", "*"):
        kind += ", several values"
    notes = [describe_bounds(**metadata["bounds"])] if metadata.get("bounds") else []
    notes += ["may change with --resume"] if metadata.get("resumable") else []
    default = (
        "" if action.default in (None, "", argparse.SUPPRESS) else _shown(action.default, flags if is_flag else ())
    )
    return Option(flags, kind, (action.help or "").replace("%%", "%"), default, tuple(notes))


def _shown(default: Any, flags: tuple[str, ...]) -> str:
    if flags:
        return flags[0] if default else flags[1]
    return " ".join(map(str, default)) if isinstance(default, list) else str(default)


def _configs() -> str:
    """The built-in configurations: the comment at their head as text, and their lines."""
    parts = [ABOUT_CONFIGS]
    for path in sorted(CONFIGS.glob("*.yaml")):
        lines = path.read_text("utf-8").splitlines()
        first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
        comments = [line.removeprefix("#").removeprefix(" ") for line in lines[:first]]
        commands = [line.strip() for line in comments if line.startswith("  ")]
        text = " ".join(line for line in comments if not line.startswith("  "))
        parts += [f"## {path.stem}\n", text.replace("*", "\\*"), ""]
        parts += ["```text", *commands, "```", ""] if commands else []
        parts += ["```yaml", *lines[first:], "```", ""]
    return "\n".join(parts)
