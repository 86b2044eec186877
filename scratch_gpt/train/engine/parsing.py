"""The command line of a training run, under it a YAML file, or the record of the run that is resumed."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from transformers import HfArgumentParser

from ...errors import ScratchError
from ...redaction import redact
from ...rl.rewards import is_function
from ...terminal import printable
from ...untrusted import read_yaml
from .run_directory import RECORD, check_run_directory, read_run

# What a resumed run may be told anew, unasked: how it is watched and kept. Rows and accumulation may change where their
# product with the number of processes stays.
RESUME_MAY_CHANGE = {
    "output_dir",
    "resume",
    "allow_changed_settings",
    "max_bad_rows",
    "dataset_license",
    "batch_size",
    "gradient_accumulation_steps",
    "num_threads",
    "log_every",
    "eval_every",
    "eval_beams",
    "save_every",
    "keep_last",
    "early_stopping_patience",
    "tracker",
    "trust_remote_code",
}


# What the record of a run does not decide when it is resumed. Trust above all: it comes from this command line alone.
NEVER_RECORDED = {"resume", "output_dir", "trust_remote_code"}


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, redact(f"error: {' '.join(printable(message).split())}\n"))


def parse_arguments(types: tuple[Any, ...], description: str, argv: list[str] | None = None) -> tuple[Any, ...]:
    """Read the command line; under it the YAML file that `--config` names, or the record of the run that `--resume`
    goes on with.

    Args:
        types: dataclasses whose fields are the arguments.
        description: what the command does, for `--help`.
        argv: the arguments; by default those of the process.

    Returns:
        An instance of each type. An unknown or unfit argument exits with code 2 and one line.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _Parser(
        list(types), description=description, allow_abbrev=False, usage="%(prog)s [--config FILE.yaml] [--NAME VALUE …]"
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="Arguments from a YAML file; flags override them.")
    first = parser.parse_known_args(argv)[0]
    if first.config is not None:
        parser.set_defaults(**_read_config(Path(first.config), types, parser))
        first = parser.parse_known_args(argv)[0]
    record: dict[str, Any] = {}
    processes = 1
    if getattr(first, "resume", False) and (Path(first.output_dir) / RECORD).exists():
        try:
            check_run_directory(Path(first.output_dir))
            run = read_run(Path(first.output_dir))
        except ScratchError as error:
            parser.error(str(error))
        processes = run.processes
        path = Path(first.output_dir) / RECORD
        record = {n: v for n, v in run.arguments.items() if n not in NEVER_RECORDED}
        record = _typed(record, str(path), types, parser)
        _refuse_code_of_reward(record, path, argv, first, parser)
        parser.set_defaults(**record)
    *parsed, _, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)} (see --help)")
    now = {f.name: getattr(part, f.name) for part in parsed for f in dataclasses.fields(part)}
    if record and not now["allow_changed_settings"]:
        now = redact(now)  # as the record is
        changed = [n for n, v in record.items() if n in now and n not in RESUME_MAY_CHANGE and now[n] != v]
        listed = [f"{n} {record[n]} to {now[n]}" for n in changed]
        rows = _batches_of_step(record, processes), _batches_of_step(now, int(os.environ.get("WORLD_SIZE", 1)))
        if rows[0] != rows[1]:
            listed.append(f"the batch of a step (of all processes, accumulation included) {rows[0]} to {rows[1]}")
        if listed:
            parser.error(
                f"a resumed run can't change {', '.join(listed)}: leave these as they were, start another run with "
                "--init_from, or insist with --allow_changed_settings true"
            )
    return tuple(parsed)


def _batches_of_step(settings: dict[str, Any], processes: int) -> int:
    """Rows (or batches, where these are counted in tokens) of one optimizer step, over all processes."""
    return settings.get("batch_size", 1) * settings["gradient_accumulation_steps"] * processes


def _refuse_code_of_reward(record: dict[str, Any], path: Path, argv: list[str], first: Any, parser: Any) -> None:
    """Refuse a reward that is code and that only the record asks for: a directory grants itself no trust."""
    reward = record.get("reward")
    given = any(argument == "--reward" or argument.startswith("--reward=") for argument in argv)
    if isinstance(reward, str) and is_function(reward) and not given and not first.trust_remote_code:
        parser.error(
            f"{path} asks for the reward {reward}, which is code: read it, then insist with --trust_remote_code true"
        )


def _read_config(path: Path, types: tuple[Any, ...], parser: HfArgumentParser) -> dict[str, Any]:
    try:
        values = read_yaml(path) or {}
    except (OSError, ScratchError) as error:
        parser.error(f"--config {path} can't be read: {' '.join(str(error).split())}")
    if not isinstance(values, dict):
        parser.error(f"--config {path} holds {type(values).__name__}, want 'name: value' lines")
    return _typed(values, f"--config {path}", types, parser)


def _typed(values: dict[str, Any], source: str, types: tuple[Any, ...], parser: HfArgumentParser) -> dict[str, Any]:
    """The values of a YAML file as flags would be read, so that "1e-3" is a number here too; an unknown name or unfit
    value exits with code 2. `source` says in errors where they stand."""
    known = {f.name for t in types for f in dataclasses.fields(t)}
    unknown = sorted(str(name) for name in set(values) - known)
    if unknown:
        parser.error(f"{source} has unknown settings: {', '.join(unknown)} (see --help)")
    # By option, since a switch that is on by default has two actions: --name and --no_name.
    actions = {option.removeprefix("--"): action for action in parser._actions for option in action.option_strings}
    hints = {name: hint for each in types for name, hint in get_type_hints(each).items()}
    optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
    typed = {}
    for name, value in values.items():
        typed[name] = value
        if value is None and name in optional:
            continue
        several = actions[name].nargs in ("+", "*")
        try:
            if value is None:
                raise argparse.ArgumentError(actions[name], "want a value, not null")
            if isinstance(value, list) and not (several and value):
                wanted = "one value or more" if several else "one value"
                raise argparse.ArgumentError(actions[name], f"want {wanted}, not the list {value}")
            found = [parser._get_value(actions[name], str(v)) for v in (value if isinstance(value, list) else [value])]
            for one in found:
                parser._check_value(actions[name], one)
            typed[name] = found if several else found[0]
        except argparse.ArgumentError as error:
            parser.error(f"{source}: {error}")
    return typed
