"""The reference of the commands, from the objects that `scratch-gpt --help` shows."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from options import Option, definition_list
from typer.main import get_command

import scratch_gpt_cli  # noqa: F401  # so that the package does not import torch
from scratch_gpt.cli import app as cli

FOLDER = "reference/commands"
INTRODUCTION = """# Commands

All commands of `scratch-gpt`, with all their options. `scratch-gpt COMMAND --help` shows the same in the terminal.
"""
DEBUG = """## Options of all commands

They stand before the name of the command: `scratch-gpt --debug generate …`.
"""
FAMILIES = """The arguments of a task are on its page:
[training arguments](../training-arguments/index.md).
"""
FACTS = re.compile(r"  \[([^\]]*)\]$")  # typer adds them to a help text: default, bounds, "required"


def command_pages() -> dict[str, str]:
    """The list of all commands, and a page for each of them in the same order, by URI."""
    for name in cli.COMMANDS:
        importlib.import_module(f"scratch_gpt.cli.{name}")
    top = get_command(cli.app)
    context = _context(top, "scratch-gpt", None)
    commands = sorted(top.commands.items(), key=lambda item: cli.COMMANDS.index(_module(*item)))
    rows = [f"| [{name}]({name}.md) | {_first_sentence(command)} |" for name, command in commands]
    table = "\n".join(["| command | what it does |", "| --- | --- |", *rows, ""])
    index = "\n".join([INTRODUCTION, table, DEBUG, definition_list(_options(top, context, "option"))])
    pages = {f"{FOLDER}/{name}.md": _page(command, name, context) for name, command in commands}
    return {f"{FOLDER}/index.md": index} | pages


def _module(name: str, command: Any) -> str:
    """The module of `scratch_gpt.cli` that defines a command or a group of commands."""
    return name if command.callback is None else command.callback.__module__.rpartition(".")[2]


def _page(command: Any, name: str, parent: Any) -> str:
    """The page of a command, with a section for each command of a group."""
    context = _context(command, name, parent)
    title = f"---\ntitle: {name}\n---\n\n# scratch-gpt {name}\n"
    if not hasattr(command, "commands"):
        parts = [title, _description(command), *([FAMILIES] if name == "train" else []), _body(command, context, 2)]
        return "\n".join(parts)
    sections = [title, _description(command)]
    for each, subcommand in command.commands.items():
        within = _context(subcommand, each, context)
        sections += [f"## {each}\n", _description(subcommand), _body(subcommand, within, 3, f"{each}-")]
    return "\n".join(sections)


def _description(command: Any) -> str:
    """The help text of a command; its examples are commands of a shell."""
    text = inspect.cleandoc(command.help or "")
    return re.sub(r"^```\n(.*?)^```", r"```bash\n\1```", text, flags=re.MULTILINE | re.DOTALL) + "\n"


def _body(command: Any, context: Any, level: int, prefix: str = "") -> str:
    """Usage, arguments and options of a command, whose anchors start with `prefix`."""
    arguments, options = (_options(command, context, kind) for kind in ("argument", "option"))
    written = [each.flags[0] if "required" in each.notes else f"[{each.flags[0]}]" for each in arguments]
    usage = " ".join([context.command_path, *(["[OPTIONS]"] if options else []), *written])
    if command.context_settings.get("ignore_unknown_options"):  # `train`, whose task has arguments of its own
        usage += " [--NAME VALUE ...]"
    parts = [f"Usage:\n\n``` {{ .text .no-copy }}\n{usage}\n```\n"]
    for heading, each in (("Arguments", arguments), ("Options", options)):
        if each:
            parts += [f"{'#' * level} {heading} {{ #{prefix}{heading.lower()} }}\n", definition_list(each, prefix)]
    return "\n".join(parts)


def _options(command: Any, context: Any, kind: str) -> list[Option]:
    parameters = [each for each in command.get_params(context) if each.param_type_name == kind]
    return [_option(each, context) for each in parameters if "--help" not in each.opts]


def _option(parameter: Any, context: Any) -> Option:
    """One option, from the two columns of its line in `--help`."""
    written, text = parameter.get_help_record(context)
    found = FACTS.search(text)
    facts = found[1].split("; ") if found else []
    default = "".join(each.removeprefix("default: ") for each in facts if each.startswith("default: "))
    notes = tuple(_in_signs(each) for each in facts if not each.startswith("default: "))
    if parameter.param_type_name == "argument":
        several = " ..." if parameter.nargs == -1 else ""
        names = ((parameter.metavar or parameter.name.upper()).removesuffix("...") + several,)
    else:
        alias = {flag for flag in parameter.opts if flag[2:].replace("-", "_") != flag[2:] and flag[:2] == "--"}
        names = tuple(flag for flag in parameter.opts if flag not in alias) + tuple(parameter.secondary_opts)
        default = f"--{default}" if parameter.secondary_opts and default else default
    kind = re.search(r"<(.*)>", written) or re.search(r" ([A-Z]+)$", written)
    shown = kind[1].removesuffix(" range").replace("|", ", ") if kind else ""
    return Option(names, shown if shown not in names else "", FACTS.sub("", text), default, notes)


def _in_signs(fact: str) -> str:
    """A bound such as "x>=1" with the signs of mathematics."""
    return fact.replace("<=", " ≤ ").replace(">=", " ≥ ")


def _first_sentence(command: Any) -> str:
    paragraph = " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s|[:;] ", paragraph)[0].rstrip(".") + "."


def _context(command: Any, name: str, parent: Any) -> Any:
    return command.make_context(name, [], parent=parent, resilient_parsing=True)
