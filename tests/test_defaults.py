"""The default values of all commands, training arguments, configs, presets and public functions.

Users, papers and notebooks rely on them, so a change must be deliberate: it shows in `defaults.json`, which
`python tests/test_defaults.py` regenerates."""

import dataclasses
import importlib
import inspect
import json
from pathlib import Path

import pytest
from typer.main import get_command

import scratch_gpt
from scratch_gpt.cli.app import COMMANDS, app
from scratch_gpt.data.readers.conversations import open_conversations
from scratch_gpt.data.readers.labelled import open_labelled
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.prompts import open_prompts
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.hub.upload import plan_push, push_directory
from scratch_gpt.train.optim.muon import Muon
from scratch_gpt.train.tasks import FAMILIES, arguments_of
from scratch_gpt.train.tasks.translation.task import Translation

DEFAULTS = Path(__file__).with_name("defaults.json")


def to_json(value):
    """Convert a default to a JSON value; a value of another type is represented by its name."""
    if value in (dataclasses.MISSING, inspect.Parameter.empty):
        return "required"
    if isinstance(value, dict):
        return {str(name): to_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(part) for part in value]
    return value if value is None or isinstance(value, str | int | float) else str(getattr(value, "name", value))


def of_dataclass(kind: type) -> dict:
    """Return the defaults of the fields that are arguments of its `__init__`; a factory is called."""
    fields = [field for field in dataclasses.fields(kind) if field.init]
    missing = dataclasses.MISSING
    return {f.name: to_json(f.default if f.default_factory is missing else f.default_factory()) for f in fields}


def of_commands(command, path: str = "scratch-gpt") -> dict:
    """Return the defaults of the options of a command and its subcommands."""
    if not hasattr(command, "commands"):
        return {path: {p.name: to_json(p.default) for p in command.params}}
    return {k: v for name, each in command.commands.items() for k, v in of_commands(each, f"{path} {name}").items()}


def of_all_commands() -> dict:
    """Return the defaults of the options of all commands."""
    for name in COMMANDS:
        importlib.import_module(f"scratch_gpt.cli.{name}")  # each adds its commands
    return of_commands(get_command(app))


def of_configs() -> dict:
    """Return the defaults of each config class, and the fields that its presets change."""
    classes = [getattr(scratch_gpt, name) for name in scratch_gpt.__all__ if name.endswith("Config")]
    own = {
        kind.__name__: {n: v for n, v in of_dataclass(kind).items() if n in own_fields(kind) - {"auto_map"}}
        for kind in classes
    }
    presets = {f"{k.__name__}.presets": to_json(k.presets) for k in classes if hasattr(k, "presets")}
    return own | presets


def own_fields(kind: type) -> set[str]:
    """Return the fields that our classes add to transformers', or whose defaults they change."""
    ours = [each for each in kind.__mro__ if each.__module__.startswith("scratch_gpt")]
    return set().union(*(vars(each).get("__annotations__", {}) for each in ours))


def of_training() -> dict:
    """Return the defaults of the training arguments of each family."""
    return {
        family: {n: v for kind in arguments_of(family) for n, v in of_dataclass(kind).items()} for family in FAMILIES
    }


def of_functions() -> dict:
    """Return the defaults of the public functions, and of others that are used from Python."""
    public = [getattr(scratch_gpt, name) for name in scratch_gpt.__all__ if not name.startswith("_")]
    functions = [each for each in public if inspect.isfunction(each)]
    functions += [open_conversations, open_labelled, open_pairs, open_prompts, open_source, push_directory, plan_push]
    functions += [Muon, Translation]
    return {each.__name__: signature_of(each) for each in functions}


def signature_of(function) -> dict:
    """Return the default of each parameter."""
    return {name: to_json(each.default) for name, each in inspect.signature(function).parameters.items()}


TABLES = {
    "commands": of_all_commands,
    "configs": of_configs,
    "training": of_training,
    "functions": of_functions,
}


@pytest.mark.parametrize("table", TABLES)
def test_defaults_are_the_documented_ones(table):
    expected, found = json.loads(DEFAULTS.read_text())[table], json.loads(json.dumps(TABLES[table]()))
    assert found.keys() == expected.keys()
    for name in expected:
        changed = {k for k in expected[name].keys() | found[name].keys() if expected[name].get(k) != found[name].get(k)}
        assert not changed, f"{name}: {', '.join(changed)}; if this is intended: python tests/test_defaults.py"


if __name__ == "__main__":
    content = {name: table() for name, table in TABLES.items()}
    DEFAULTS.write_text(json.dumps(content, indent=1) + "\n")
