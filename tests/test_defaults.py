"""What is in force where nothing is said: the defaults of every command, training script, config and preset.

Users rely on them, runs in papers and notebooks too, so that a change must be meant: it shows in `defaults.json`,
which `python tests/test_defaults.py` writes anew."""

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


def plain(value):
    """A default as JSON has it: a factory by what it makes, what is no plain value by its name."""
    if value in (dataclasses.MISSING, inspect.Parameter.empty):
        return "required"
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    return value if value is None or isinstance(value, str | int | float) else str(getattr(value, "name", value))


def of_dataclass(kind: type) -> dict:
    """The defaults of the fields that are arguments of its `__init__`."""
    fields = [field for field in dataclasses.fields(kind) if field.init]
    made = (dataclasses.MISSING,)
    return {f.name: plain(f.default_factory() if f.default_factory not in made else f.default) for f in fields}


def of_commands(command, path: str = "scratch-gpt") -> dict:
    """The defaults of the options of a command and of all below it."""
    if not hasattr(command, "commands"):
        return {path: {p.name: plain(p.default) for p in command.params}}
    return {k: v for name, each in command.commands.items() for k, v in of_commands(each, f"{path} {name}").items()}


def of_commands_of_the_package() -> dict:
    for name in COMMANDS:
        importlib.import_module(f"scratch_gpt.cli.{name}")  # each adds its commands
    return of_commands(get_command(app))


def of_configs() -> dict:
    """The defaults of each config class, and what its presets change."""
    classes = [getattr(scratch_gpt, name) for name in scratch_gpt.__all__ if name.endswith("Config")]
    own = {
        kind.__name__: {n: v for n, v in of_dataclass(kind).items() if n in own_fields(kind) - {"auto_map"}}
        for kind in classes
    }
    presets = {f"{k.__name__}.presets": plain(k.presets) for k in classes if hasattr(k, "presets")}
    return own | presets


def own_fields(kind: type) -> set[str]:
    """The fields that our classes add to those of transformers, or give a default of our own."""
    ours = [each for each in kind.__mro__ if each.__module__.startswith("scratch_gpt")]
    return set().union(*(vars(each).get("__annotations__", {}) for each in ours))


def of_training() -> dict:
    """The defaults of the arguments of each kind of run, those of its own groups."""
    return {
        family: {n: v for kind in arguments_of(family) for n, v in of_dataclass(kind).items()} for family in FAMILIES
    }


def of_functions() -> dict:
    """The defaults of the public functions, and of those that are used from Python without a command."""
    public = [getattr(scratch_gpt, name) for name in scratch_gpt.__all__ if not name.startswith("_")]
    functions = [each for each in public if inspect.isfunction(each)]
    functions += [open_conversations, open_labelled, open_pairs, open_prompts, open_source, push_directory, plan_push]
    functions += [Muon, Translation]
    return {each.__name__: signature_of(each) for each in functions}


def signature_of(function) -> dict:
    return {name: plain(each.default) for name, each in inspect.signature(function).parameters.items()}


TABLES = {
    "commands": of_commands_of_the_package,
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
        assert not changed, f"{name}: {', '.join(changed)}; if that is meant: python tests/test_defaults.py"


if __name__ == "__main__":
    content = {name: table() for name, table in TABLES.items()}
    DEFAULTS.write_text(json.dumps(content, indent=1) + "\n")
