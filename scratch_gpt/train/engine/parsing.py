"""Parse arguments from the command line, a YAML file, and the record of the run that is resumed."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, get_args, get_type_hints

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ...errors import ScratchError
from ...redaction import redact
from ...rl.rewards import is_function
from ...untrusted import read_yaml
from ..arguments.training import TrainingArguments, names_with
from .launcher_settings import restarts, with_launcher_settings
from .run_directory import RECORD, check_run_directory, read_run

# Arguments that a resumed run does not take from its record; trust comes only from the command line.
NEVER_RECORDED = {"resume", "output_dir", "trust_remote_code"}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, keeps line breaks, and lists each flag once, without its dashed alias."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        split = super()._split_lines
        return [line for paragraph in text.splitlines() for line in split(paragraph, width)]

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return ", ".join(action.option_strings[:2])
        if action.nargs == 0 or len(action.option_strings) < 2:
            return super()._format_action_invocation(action)
        metavar = self._get_default_metavar_for_optional(action)
        return f"{action.option_strings[0]} {self._format_args(action, metavar)}"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return getattr(action.type, "__name__", "value").upper()

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class _Repeated(argparse._StoreAction):
    """A flag with several values, which may also be given several times: `--name A B` or `--name A --name B`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        before = [] if before is self.default else before  # the first one replaces the default
        setattr(namespace, self.dest, [*before, *values])


class _Parser(HfArgumentParser):
    """Parses dataclasses of arguments; a boolean is a pair of flags, `--name` and `--no-name`."""

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
        help = field.metadata["help"].replace("%", "%%")  # argparse formats it, and `{% generation %}` is no format
        if field.type is bool or bool in get_args(field.type):
            action = argparse.BooleanOptionalAction
            names = dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}"))
            parser.add_argument(*names, action=action, default=field.default, help=help)
            return
        field = copy.copy(field)  # HfArgumentParser passes all metadata to `add_argument`
        field.metadata = MappingProxyType({"help": help})
        HfArgumentParser._parse_dataclass_field(parser, field)
        if parser._actions[-1].nargs == "+":  # HfArgumentParser can't be given an action
            parser._actions[-1].__class__ = _Repeated

    def error(self, message: str) -> NoReturn:
        raise ScratchError(redact(message))


def argument_parser(types: Sequence[Any], description: str = "", prog: str | None = None) -> HfArgumentParser:
    """The parser of a command line; its groups are the headings of `--help`.

    Args:
        types: dataclasses whose fields are the arguments.
        description: description of the command.
        prog: name of the program.
    """
    parser = _Parser(
        list(types),
        prog=prog,
        description=description,
        allow_abbrev=False,
        usage="%(prog)s [--config FILE.yaml] [--NAME VALUE ...]",
        formatter_class=_HelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with arguments, or the name of a built-in one; flags override it."
    )
    return parser


def parse_arguments(
    types: Sequence[Any],
    description: str,
    argv: list[str] | None = None,
    prog: str | None = None,
    processes: int | None = None,
) -> tuple[Any, ...]:
    """Parse the command line. Its flags override the YAML file given by `--config`, and the record of the run that
    `--resume` continues. A run that its launcher has restarted is resumed.

    Args:
        types: dataclasses whose fields are the arguments.
        description: description of the command, for `--help`.
        argv: command-line arguments. Default: those of the process.
        prog: name of the program in `--help`.
        processes: number of processes of the run. Default: that of the launcher.

    Returns:
        An instance of each type.

    Raises:
        ScratchError: an unknown argument or a bad value.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argument_parser(types, description, prog)
    first = parser.parse_known_args(argv)[0]
    if first.config is not None:
        parser.set_defaults(**_read_config(find_config(first.config), types, parser))
        first = parser.parse_known_args(argv)[0]
    if restarts() and not getattr(first, "resume", True) and (Path(first.output_dir) / RECORD).exists():
        argv = [*argv, "--resume"]
        first = parser.parse_known_args(argv)[0]
    record, processes_before = _read_record(first, argv, types, parser)
    parser.set_defaults(**record)
    *parsed, _, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        hint = "; booleans are flags, --name or --no-name" if {"true", "false"} & {n.lower() for n in unknown} else ""
        names = [name.partition("=")[0][2:].removeprefix("no-") for name in unknown if name.startswith("--")]
        nearest = _nearest(names, types, "--")
        parser.error(f"unrecognized arguments: {' '.join(unknown)} ({nearest or 'see --help'}{hint})")
    parsed = _with_launcher_settings(parsed)
    _check_unchanged(record, processes_before, parsed, parser, processes)
    return tuple(parsed)


def arguments_from(types: Sequence[Any], values: dict[str, Any], launched: bool = True) -> tuple[Any, ...]:
    """Build arguments from Python values, with the same checks as for a YAML file.

    Args:
        types: dataclasses whose fields are the arguments.
        values: values by name; "config" and "resume" have the same meaning as on the command line.
        launched: whether the settings of a launcher apply (see `with_launcher_settings`).

    Raises:
        ScratchError: an unknown name or a bad value.
    """
    parser = _Parser(list(types), prog="train", allow_abbrev=False)
    values = dict(values)
    config = values.pop("config", None)
    if config is not None:
        parser.set_defaults(**_read_config(find_config(str(config)), types, parser))
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
    parser.set_defaults(**_typed(plain, "train()", types, parser))
    first = parser.parse_args([])
    record, processes = _read_record(first, [f"--{name}" for name in values], types, parser)
    parser.set_defaults(**{name: value for name, value in record.items() if name not in values})
    parsed = list(parser.parse_args_into_dataclasses([], look_for_args_file=False))
    if launched:
        parsed = _with_launcher_settings(parsed)
    _check_unchanged(record, processes, parsed, parser)
    return tuple(parsed)


def _with_launcher_settings(parts: Sequence[Any]) -> list[Any]:
    """The parsed arguments with the settings of the launcher, which concern the training arguments."""
    return [with_launcher_settings(part) if isinstance(part, TrainingArguments) else part for part in parts]


def find_config(name: str) -> Path:
    """The path of a configuration file: `name` itself or, if there is no such file, a built-in one of that name."""
    if not Path(name).is_file() and Path(name).name == name:
        for folder in config_directories():
            for candidate in (folder / name, folder / f"{name}.yaml"):
                if candidate.is_file():
                    return candidate
    return Path(name)


def config_directories() -> list[Path]:
    """Directories of the built-in configuration files: in an installed package, and in a checkout."""
    package = Path(__file__).parents[2]
    return [package / "train" / "configs", package.parent / "training" / "configs"]


def _read_record(
    first: Any, argv: list[str], types: Sequence[Any], parser: HfArgumentParser
) -> tuple[dict[str, Any], int]:
    """The arguments that a resumed run was started with, and its number of processes."""
    if not getattr(first, "resume", False) or not (Path(first.output_dir) / RECORD).exists():
        return {}, 1
    check_run_directory(Path(first.output_dir))
    run, path = read_run(Path(first.output_dir)), Path(first.output_dir) / RECORD
    record = {name: value for name, value in run.arguments.items() if name not in NEVER_RECORDED}
    record = _typed(record, str(path), types, parser)
    _refuse_code_of_reward(record, path, argv, first, parser)
    return record, run.processes


def _shown(value: Any) -> str:
    """A value as it is given on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _check_unchanged(
    record: dict[str, Any],
    processes_before: int,
    parsed: Sequence[Any],
    parser: HfArgumentParser,
    processes: int | None = None,
) -> None:
    """Refuse changed arguments of a resumed run, unless they are resumable. Batch size and accumulation may change if
    their product with the number of processes does not."""
    current = {f.name: getattr(part, f.name) for part in parsed for f in dataclasses.fields(part)}
    if not record or current["allow_changed_settings"]:
        return
    current, resumable = redact(current), names_with("resumable", parsed)  # redacted, as the record is
    changed = [n for n, v in record.items() if n in current and n not in resumable and current[n] != v]
    listed = [f"{n} {_shown(record[n])} to {_shown(current[n])}" for n in changed]
    processes = int(os.environ.get("WORLD_SIZE", 1)) if processes is None else processes
    before, after = _batch_size_of_step(record, processes_before), _batch_size_of_step(current, processes)
    if before != after:
        cause = f"; it had {processes_before} processes, now {processes}" if processes != processes_before else ""
        listed.append(f"the batch of a step (of all processes, accumulation included{cause}) {before} to {after}")
    if listed:
        parser.error(
            f"a resumed run can't change {', '.join(listed)}: keep the previous values, start a new run with "
            "--init_from, or allow it with --allow_changed_settings"
        )


def _batch_size_of_step(settings: dict[str, Any], processes: int) -> int:
    """Sequences per optimizer step over all processes; batches, if the batch size is given in tokens."""
    return settings.get("batch_size", 1) * settings["gradient_accumulation_steps"] * processes


def _refuse_code_of_reward(record: dict[str, Any], path: Path, argv: list[str], first: Any, parser: Any) -> None:
    """Refuse a reward that is code and given by the record only: a directory must not make itself trusted."""
    reward = record.get("reward")
    given = any(argument == "--reward" or argument.startswith("--reward=") for argument in argv)
    if isinstance(reward, str) and is_function(reward) and not given and not first.trust_remote_code:
        parser.error(f"{path} sets the reward {reward}, which is code: read it, then allow it with --trust_remote_code")


def _read_config(path: Path, types: Sequence[Any], parser: HfArgumentParser) -> dict[str, Any]:
    try:
        values = read_yaml(path) or {}
    except (OSError, ScratchError) as error:
        known = sorted(each.stem for folder in config_directories() for each in folder.glob("*.yaml"))
        hint = "" if path.exists() else f"; built-in ones are {', '.join(known)}"
        parser.error(f"--config {path} can't be read: {' '.join(str(error).split())}{hint}")
    if not isinstance(values, dict):
        parser.error(f"--config {path} contains {type(values).__name__}, want 'name: value' lines")
    return _typed(values, f"--config {path}", types, parser)


def _nearest(unknown: Sequence[str], types: Sequence[Any], prefix: str = "") -> str:
    """A question for the names of arguments that are most like unknown ones; empty if there are none."""
    known = [field.name for each in types for field in dataclasses.fields(each)]
    found = [match for name in unknown for match in get_close_matches(name, known, 1)]
    return f"did you mean {', '.join(prefix + name for name in dict.fromkeys(found))}?" if found else ""


def _typed(values: dict[str, Any], source: str, types: Sequence[Any], parser: HfArgumentParser) -> dict[str, Any]:
    """Convert values of a YAML file as those of flags are converted, so that "1e-3" is a number here too.

    Args:
        values: values by name.
        source: description of their source, for errors.
        types: dataclasses whose fields are the arguments.
        parser: parser of these arguments.

    Raises:
        ScratchError: an unknown name or a bad value.
    """
    known = {f.name for t in types for f in dataclasses.fields(t)}
    if unknown := sorted(str(name) for name in set(values) - known):
        advice = "'scratch-gpt train TASK --help' lists the known ones" if source == "train()" else "see --help"
        parser.error(f"{source} has unknown settings: {', '.join(unknown)} ({_nearest(unknown, types) or advice})")
    actions = {action.dest: action for action in parser._actions}
    hints = {name: hint for each in types for name, hint in get_type_hints(each).items()}
    optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
    typed = {}
    for name, value in values.items():
        try:
            typed[name] = None if value is None and name in optional else _value(actions[name], value, parser)
        except argparse.ArgumentError as error:
            parser.error(f"{source}: {error}")
    return typed


def _value(action: argparse.Action, value: Any, parser: HfArgumentParser) -> Any:
    """Convert one value of a YAML file as the parser converts that of a flag."""
    if value is None:
        raise argparse.ArgumentError(action, "want a value, not null")
    several = action.nargs in ("+", "*")
    if isinstance(value, list) and not (several and value and None not in value):
        expected = "one value or more" if several else "one value"
        raise argparse.ArgumentError(action, f"want {expected}, not the list {value}")
    if isinstance(action, argparse.BooleanOptionalAction):
        try:
            return string_to_bool(str(value))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(action, f"want true or false, not {value!r}") from error
    found = [parser._get_value(action, str(one)) for one in (value if isinstance(value, list) else [value])]
    for one in found:
        parser._check_value(action, one)
    return found if several else found[0]
