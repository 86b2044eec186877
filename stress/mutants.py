"""Mutation testing: plant small bugs in the package, one at a time, and report the fraction that the tests catch.

python stress/mutants.py --count 300 --seed 0  # hours; --resume continues after an interruption
"""

import argparse
import difflib
import json
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from mutation import forks
from mutation.checking import Checker, Outcome
from mutation.mutations import FOLDERS, Mutant, find_mutants, folder_of, is_mutant, sample
from mutation.report import SURVIVED, classify, key_of, mutation_score, read_equivalent, report
from mutation.selection import choose_tests, record_all

HERE = Path(__file__).resolve().parent
EQUIVALENT = HERE / "equivalent_mutants.txt"


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="The fraction of planted bugs that the tests catch.")
    parser.add_argument("--count", type=int, default=300, help="Number of mutants (default: 300).")
    parser.add_argument("--seed", type=int, default=0, help="Random seed of the sample of mutants (default: 0).")
    parser.add_argument("--only", default="", metavar="PATH", help="Folder or file of the package to mutate.")
    parser.add_argument("--id", action="append", default=[], help="Check this mutant only; may be repeated.")
    parser.add_argument(
        "--list", action="store_true", help="Print the mutants, and the number of tests that reach each."
    )
    parser.add_argument("--resume", action="store_true", help="Skip mutants that already have a result.")
    parser.add_argument("--again", action="store_true", help="Check survivors again, after tests were added.")
    parser.add_argument("--jobs", type=int, default=2, help="Number of parallel processes (default: 2).")
    parser.add_argument("--budget", type=float, default=150, help="CPU seconds of tests per mutant (default: 150).")
    parser.add_argument("--minimum", type=float, default=0.95, help="Mutation score below which the exit code is 1.")
    parser.add_argument("--output", type=Path, default=HERE / "output" / "mutants", help="Folder of all results.")
    parser.add_argument("--no_record", action="store_true", help="Use the recorded coverage even if tests changed.")
    return parser.parse_args()


def main() -> int:
    """Run the command, and return its exit code."""
    arguments = read_arguments()
    output = arguments.output = arguments.output.resolve()  # forks run in another directory
    output.mkdir(parents=True, exist_ok=True)
    if arguments.id:
        mutants = by_id(arguments.id)
    else:
        mutants = sample(forks.PROJECT, arguments.count, arguments.seed, arguments.only.removeprefix("./"))
    if not mutants:
        print(f"No mutants: {arguments.only or arguments.id} names nothing in {', '.join(FOLDERS)}.", file=sys.stderr)
        return 2
    if not arguments.no_record:
        in_process(record, output / "recordings")
    plans = choose_tests(mutants, output / "recordings", forks.PROJECT)
    if arguments.list:
        for mutant in mutants:
            reaching = f"{len(plans[mutant.id]):4} tests"
            change = f"{mutant.operator}: {mutant.before}  =>  {mutant.after}"
            print(f"{mutant.id}  {reaching}  {mutant.file}:{mutant.line}  {change}")
        return 0
    rows = check_and_keep(mutants, plans, arguments)
    return 0 if mutation_score(classify(rows, read_equivalent(EQUIVALENT))) >= arguments.minimum else 1


def check_and_keep(mutants: list[Mutant], plans: dict, arguments: argparse.Namespace) -> list[dict]:
    """Check the requested mutants, and write results.jsonl and report.md after each; return their rows."""
    results, report_file = arguments.output / "results.jsonl", arguments.output / "report.md"
    listed, known = read_equivalent(EQUIVALENT), read_results(results)
    if not (arguments.resume or arguments.again or arguments.id):
        known = {}
        results.unlink(missing_ok=True)
    statuses_to_check = SURVIVED if arguments.again else ("error",)
    rows = {
        each.id: known[each.id]
        for each in mutants
        if each.id in known and not arguments.id and known[each.id]["status"] not in statuses_to_check
    }
    if arguments.again:
        mutants = [each for each in mutants if each.id in known]
    todo = [each for each in mutants if each.id not in rows]
    equivalent = [row_of(each, Outcome("equivalent")) for each in todo if key_of(asdict(each)) in listed]
    checked = check_all([each for each in todo if key_of(asdict(each)) not in listed], plans, arguments)
    for row in chain(equivalent, checked):
        rows[row["id"]] = row
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        report_file.write_text(report(list(rows.values()), listed))
        position, reason = f"{row['file']}:{row['line']}", f"{row['by']}  {row['message']}"
        print(f"{len(rows)}/{len(mutants)}  {row['status']:8}  {row['id']}  {position}  {reason}"[:250], flush=True)
    text = report(list(rows.values()), listed)
    report_file.write_text(text)
    print(f"\n{text.split('## ')[0]}\nSurvivors: {report_file}")
    return list(rows.values())


def in_process(work, *arguments) -> None:
    """Call `work` in a separate process: its imports are not inherited by the forks of this one."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} ended with exit code {process.exitcode}")


def record(recordings: Path) -> None:
    """Record the coverage of test files that have no current recording."""
    tree = forks.Tree()
    try:
        forks.prepare(tree)
        files = sorted(path.relative_to(tree.root).as_posix() for path in tree.root.glob("tests/**/test_*.py"))
        record_all(tree, recordings, files)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # do not interrupt the cleanup
        forks.end_children()
        tree.remove()


def by_id(ids: list[str]) -> list[Mutant]:
    """Return the mutants of the package with these ids."""
    found = []
    for folder in FOLDERS:
        for path in sorted((forks.PROJECT / "scratch_gpt" / folder).rglob("*.py")):
            content = path.read_bytes()
            mutants = find_mutants(path.relative_to(forks.PROJECT).as_posix(), content)
            found += [mutant for mutant in mutants if mutant.id in ids and is_mutant(mutant, content)]
    return found


def check_all(mutants: list[Mutant], plans: dict, arguments: argparse.Namespace) -> Iterator[dict]:
    """Check mutants in `arguments.jobs` processes, and yield the results in the order in which they are completed."""
    context, waiting, assigned, workers = multiprocessing.get_context("fork"), deque(mutants), {}, []
    for _ in range(min(arguments.jobs, len(mutants))):
        here, there = context.Pipe()
        workers.append(context.Process(target=work_on, args=(there, plans, arguments), daemon=True))
        workers[-1].start()
        there.close()
        assigned[here] = waiting.popleft()
        here.send(assigned[here])
    while assigned:
        for connection in list(assigned):
            if not connection.poll(0.1):
                continue
            mutant = assigned.pop(connection)
            try:
                yield connection.recv()
            except EOFError:
                yield row_of(mutant, Outcome("error", message="the process that checked it ended"))
                continue
            if waiting:
                assigned[connection] = waiting.popleft()
            connection.send(assigned.get(connection))
    for worker in workers:
        worker.join()


def work_on(connection, plans: dict, arguments: argparse.Namespace) -> None:
    """Check mutants received through `connection`, on a copy of the repository, until None is received."""
    tree = forks.Tree()
    try:
        forks.prepare(tree)
        logs = arguments.output / "logs"
        logs.mkdir(exist_ok=True)
        checker = Checker(tree, logs, arguments.budget)
        while (mutant := connection.recv()) is not None:
            connection.send(row_of(mutant, checker.check(mutant, plans[mutant.id])))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # do not interrupt the cleanup
        forks.end_children()
        tree.remove()


def row_of(mutant: Mutant, outcome: Outcome) -> dict:
    """Return a row of the results: the mutant, the outcome, and the change as a diff."""
    row = {**asdict(mutant), **asdict(outcome), "folder": folder_of(mutant.file)}
    original = (forks.PROJECT / mutant.file).read_bytes()
    texts = [text.decode().splitlines(keepends=True) for text in (original, mutant.apply(original))]
    names = (f"a/{mutant.file}", f"b/{mutant.file}")
    row["diff"] = "".join(difflib.unified_diff(texts[0], texts[1], *names, n=2))
    return {name: value for name, value in row.items() if name not in ("target_lines", "begin", "end", "replacement")}


def read_results(path: Path) -> dict[str, dict]:
    """Read the last result of each mutant, by id."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["id"]: row for row in map(json.loads, lines)}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Exit on SIGTERM such that the workers end and remove their copies.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(f"Process {os.getpid()} was ended by signal {number}"))
    sys.exit(main())
