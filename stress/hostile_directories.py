"""Fuzz every command that opens a model directory with thousands of hostile directories.

    python stress/hostile_directories.py --directories 2000 --seed 0 --jobs 2
    python stress/hostile_directories.py --replay stress/output/hostile_directories.jsonl    # repeat the failures

Prints the outcomes of each command, and the failures by cause. The plans of failures are written as JSON lines to
stress/output/, from which they can be replayed. The exit code is 1 if there are failures.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[1]
sys.path[:0] = [str(PROJECT / "tests")]

import helpers.hostile_directories as hostile  # noqa: E402  (on the path set above)
from helpers.hostile_process import environment  # noqa: E402

NumberedOutcome = tuple[int, hostile.Outcome]  # number of the case, and its outcome


def main() -> None:
    """Run the test from the command line."""
    args = parse()
    process = os.getpid()
    # On SIGTERM, stop the running cases and remove the temporary folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM") if os.getpid() == process else os._exit(1))
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hostile") as folder, hostile.hub_running() as endpoint:
        os.environ |= environment(Path(folder), endpoint)
        world = hostile.make_world(Path(folder).resolve(), endpoint)
        cases = read_cases(args.replay, args.commands) if args.replay else []
        count = args.directories if args.directories is not None else 0 if args.replay else 2000
        if count:
            cases += [(plan, tuple(args.commands)) for plan in hostile.draw_plans(count, args.seed)]
        found = run(world, cases, args)
    print_table(found)
    print_failures(found)
    sys.exit(any(outcome.failures for _, outcome in found))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directories", type=int, help="Number of directories. Default: 2000; 0 with --replay.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed of the directories.")
    parser.add_argument("--jobs", type=int, default=hostile.process_count(), help="Number of parallel processes.")
    parser.add_argument("--commands", nargs="+", choices=hostile.COMMANDS, default=hostile.COMMANDS)
    parser.add_argument("--replay", type=Path, help="JSON lines of failures or plans to repeat.")
    parser.add_argument("--show", action="store_true", help="Print the output of commands that failed.")
    parser.add_argument("--shrink", action="store_true", help="Find a minimal set of mutations for each cause.")
    parser.add_argument("--output", type=Path, default=PROJECT / "stress" / "output")
    return parser.parse_args()


def read_cases(path: Path, commands: Sequence[str]) -> list[hostile.Case]:
    """Read plans, each with the command that failed or, if the line is only a plan, with `commands`."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [(line.get("plan", line), (line["command"],) if "command" in line else tuple(commands)) for line in lines]


def run(world: hostile.World, cases: list[hostile.Case], args: argparse.Namespace) -> list[NumberedOutcome]:
    """Try all cases, and write the plans of failures as JSON lines."""
    found: list[NumberedOutcome] = []
    started = time.monotonic()
    with (args.output / "hostile_directories.jsonl").open("w") as log:
        for done, (number, outcomes) in enumerate(hostile.try_cases(world, cases, args.jobs), start=1):
            found += [(number, outcome) for outcome in outcomes]
            for outcome in outcomes:
                if outcome.failures:
                    log.write(hostile.as_json(number, cases[number][0], outcome) + "\n")
                    log.flush()
                    if args.show:
                        print(f"--- {number} {outcome.command} {outcome.failures}\n{outcome.printed}\n")
            if done % 25 == 0:
                failed = sum(bool(outcome.failures) for _, outcome in found)
                print(f"{done} directories, {failed} failures, {time.monotonic() - started:.0f} s", flush=True)
    if args.shrink:
        shrink(world, cases, found, args.output / "hostile_directories_shrunk.jsonl")
    return found


def shrink(world: hostile.World, cases: list[hostile.Case], found: list[NumberedOutcome], path: Path) -> None:
    """Write one minimal plan for each cause of failures.

    Args:
        world: the environment of the cases.
        cases: all cases.
        found: their outcomes.
        path: JSON lines file to write.
    """
    first: dict[tuple[str, str, str], NumberedOutcome] = {}
    for number, outcome in found:
        for failure in outcome.failures:
            first.setdefault((outcome.command, failure, outcome.cause), (number, outcome))
    with path.open("w") as log:
        for number, outcome in first.values():
            plan = hostile.shrink(world, cases[number][0], outcome)
            log.write(hostile.as_json(number, plan, outcome) + "\n")


def print_table(found: list[NumberedOutcome]) -> None:
    """Print the outcomes of each command as a Markdown table."""
    print("| command | runs | refused | succeeded | worst seconds | worst MB | failures |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for command in hostile.COMMANDS:
        mine = [outcome for _, outcome in found if outcome.command == command]
        good = sum(outcome.code == 0 for outcome in mine)
        failed = sum(bool(outcome.failures) for outcome in mine)
        refused = sum(outcome.code in (1, 2) for outcome in mine)
        worst = [max((getattr(o, name) for o in mine), default=0) for name in ("seconds", "megabytes")]
        print(f"| {command} | {len(mine)} | {refused} | {good} | {worst[0]:.1f} | {worst[1]:.0f} | {failed} |")


def print_failures(found: list[NumberedOutcome]) -> None:
    """Print the failures by kind and cause, the most frequent first."""
    causes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for _, outcome in found:
        for failure in outcome.failures:
            causes[failure, outcome.cause][outcome.command] += 1
    for (failure, cause), counts in sorted(causes.items(), key=lambda item: -sum(item[1].values())):
        print(f"{sum(counts.values()):4} {failure}: {cause[:200]} ({', '.join(f'{n} {c}' for c, n in counts.items())})")


if __name__ == "__main__":
    main()
