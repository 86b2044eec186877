"""Selection of tests by coverage: the lines that each test runs are recorded once per test file with coverage.py."""

import difflib
import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mutation import forks
from mutation.mutations import Mutant

LONGEST_RECORDING = 3600  # seconds of CPU time for one test file
READS_SOURCES = "::test_every_call_that_opens_something_passes_the_decision_on"  # reads sources without running them
READS_CONSTANTS = "tests/test_defaults.py"  # compares values set at import, which coverage does not attribute to tests
LONG_FIXTURE = 0.05  # CPU seconds from which a fixture counts: tests that share it are run together
RC_FILE = """[run]
source = {source}
parallel = true
data_file = {data}
context = ${{MUTANTS_CONTEXT}}
patch = _exit
"""


class Recorder:
    """A pytest plugin that records a coverage context and a duration for each test and each wide fixture.

    A fixture is wide if its scope is more than one test.

    Args:
        coverage: The running `Coverage`.
    """

    def __init__(self, coverage):
        self.coverage = coverage
        self.names: dict[str, str] = {}  # context: node id of a test, or "fixture of a base node id"
        self.costs: dict[str, tuple[float, float]] = {}  # context: (CPU seconds, wall seconds)
        self.fixtures: dict[str, list[str]] = {}  # context of a test: contexts of the fixtures that it uses
        self.failed: list[str] = []
        self.stack = [""]

    def measure(self, name: str) -> Iterator[None]:
        """Attribute the code between the two steps of this generator to the context of `name` only."""
        known = {name: context for context, name in self.names.items()}
        context = known.get(name) or f"c{len(self.names)}"
        self.names[context] = name
        began = clock()
        self.switch(context)
        self.stack.append(context)
        yield
        self.stack.pop()
        self.switch(self.stack[-1])
        spent = [end - begin for begin, end in zip(began, clock(), strict=True)]
        for each, sign in ((context, 1), (self.stack[-1], -1)):  # the enclosing context excludes this time
            cpu, wall = self.costs.get(each, (0.0, 0.0))
            self.costs[each] = (cpu + sign * spent[0], wall + sign * spent[1])

    def switch(self, context: str) -> None:
        """Switch to a coverage context, also in processes that a test starts."""
        """Switch to a coverage context, also in processes that a test starts."""
        self.coverage.switch_context(context)
        os.environ["MUTANTS_CONTEXT"] = context

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        """Measure a test, and record its wide fixtures."""
        """Measure a test, and record its wide fixtures."""
        steps = self.measure(item.nodeid)
        next(steps)
        context = self.stack[-1]
        try:
            return (yield)
        finally:
            next(steps, None)
            wide = [each for found in item._fixtureinfo.name2fixturedefs.values() for each in found if is_wide(each)]
            names = {describe(each) for each in wide}
            self.fixtures[context] = [each for each, name in self.names.items() if name in names]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        """Measure the setup of a wide fixture."""
        """Measure the setup of a wide fixture."""
        if not is_wide(fixturedef):
            return (yield)
        steps = self.measure(describe(fixturedef))
        next(steps)
        try:
            return (yield)
        finally:
            next(steps, None)

    def pytest_runtest_logreport(self, report):
        """Record a failure."""
        """Record a failure."""
        if report.failed:
            self.failed.append(report.nodeid)


def clock() -> tuple[float, float]:
    """Return CPU seconds of this process and its finished children, and wall seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system, time.monotonic()


def is_wide(fixture) -> bool:
    """Return whether a fixture's scope is more than one test."""
    """Return whether a fixture's scope is more than one test."""
    return fixture.scope != "function"


def describe(fixture) -> str:
    """Return a name of a fixture that is unique in the test suite."""
    """Return a name of a fixture that is unique in the test suite."""
    return f"{fixture.argname} of {fixture.baseid}"


def record(file: str, tree: forks.Tree, folder: Path) -> int:
    """Run one test file under coverage in this process, a fork, and write `folder`/FILE.json.

    Args:
        file: The test file, relative to the copy's root.
        tree: The copy of the repository.
        folder: Folder of the recordings.

    Returns:
        pytest's exit code.
    """
    from coverage import Coverage

    source, data = tree.root / "scratch_gpt", tree.temporary / "coverage" / "data"
    data.parent.mkdir(parents=True)
    rc_file = data.with_name("rc")
    rc_file.write_text(RC_FILE.format(source=source, data=data))
    os.environ |= {"COVERAGE_PROCESS_START": str(rc_file), "MUTANTS_CONTEXT": ""}
    coverage = Coverage(data_file=str(data), data_suffix="here", source=[str(source)], config_file=False)
    recorder = Recorder(coverage)
    coverage.start()
    code = forks.run_pytest([file], tree, [recorder], "-o", "timeout=0")  # coverage is slow
    coverage.stop()
    coverage.save()
    del os.environ["COVERAGE_PROCESS_START"]

    combined = Coverage(data_file=str(data), config_file=False)
    combined.combine([str(data.parent)])
    lines: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for path in combined.get_data().measured_files():
        name = str(Path(path).relative_to(tree.root))
        by_context = defaultdict(list)
        for line, contexts in combined.get_data().contexts_by_lineno(path).items():
            for context in contexts:
                by_context[context].append(line)
        for context, found in by_context.items():
            lines[context][name] = found
    found = {
        "file": file,
        "hash": digest(tree.root / file),
        "exit_code": code,
        "failed": recorder.failed,
        "names": recorder.names,
        "costs": recorder.costs,
        "fixtures": recorder.fixtures,
        "lines": lines,
        "sources": keep_sources(tree, {name for each in lines.values() for name in each}, folder / "sources"),
    }
    path = folder / f"{Path(file).stem}.json"
    path.with_suffix(".new").write_text(json.dumps(found))
    path.with_suffix(".new").replace(path)
    return code


def digest(path: Path) -> str:
    """Return a short hash of a file."""
    """Return a short hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def keep_sources(tree: forks.Tree, names: set[str], folder: Path) -> dict[str, str]:
    """Save the versions of the sources that the recorded line numbers refer to; return the hash of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {name: digest(tree.root / name) for name in sorted(names)}
    for name, found in hashes.items():
        (folder / found).write_bytes((tree.root / name).read_bytes())
    return hashes


def record_all(tree: forks.Tree, folder: Path, files: list[str]) -> None:
    """Record test files, each in a forked process, unless there is a recording of their current version.

    Files with failed tests, such as one with a timeout on a busy machine, are recorded again, because the recording may
    be incomplete.

    Args:
        tree: The copy of the repository.
        folder: Folder of the recordings.
        files: Test files, relative to the copy's root.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        path = folder / f"{Path(file).stem}.json"
        known = json.loads(path.read_text()) if path.exists() else {"hash": "", "failed": []}
        if known["hash"] == digest(tree.root / file) and not known["failed"]:
            continue
        tree.clean()
        began = time.monotonic()
        process = forks.fork(tree, lambda file=file: record(file, tree, folder), folder / f"{Path(file).stem}.log")
        code = None
        while code is None and forks.cpu_seconds(process) < LONGEST_RECORDING:
            code = forks.wait(process, 1)
        forks.end(process)
        failed = json.loads(path.read_text())["failed"] if path.exists() else []
        failures = f", failed: {', '.join(failed)}" if failed else ""
        print(f"{file}: exit code {code}, {time.monotonic() - began:.0f} s{failures}", flush=True)


@dataclass(frozen=True)
class Test:
    """A recorded test, with its duration without a mutant and without its wide fixtures.

    Attributes:
        name: pytest's node id.
        cpu: CPU seconds, under coverage.
        wall: Wall seconds, under coverage.
        fixtures: Its wide fixtures that take long, with their CPU seconds.
        reaches: Whether the recording shows that it runs the mutant's lines.
    """

    name: str
    cpu: float
    wall: float
    fixtures: tuple[tuple[str, float], ...] = ()
    reaches: bool = True

    @property
    def file(self) -> str:
        """The test file, relative to the repository's root."""
        """The test file, relative to the repository's root."""
        return self.name.split("::")[0]


def choose_tests(mutants: list[Mutant], folder: Path, root: Path) -> dict[str, list[Test]]:
    """Select the tests that reach each mutant.

    Args:
        mutants: Mutants of files of the repository at `root`.
        folder: Folder of the recordings. Lines of files that changed since are mapped by comparing both versions.
        root: The repository.

    Returns:
        For each mutant's id, the tests in the order to run them.
    """
    chosen: dict[str, list[Test]] = {mutant.id: [] for mutant in mutants}
    loading: dict[str, list[Test]] = defaultdict(list)  # file of the package: tests of test files that import it
    constants: list[Test] = []
    readers: list[Test] = []
    for path in sorted(folder.glob("test_*.json")):
        recording = json.loads(path.read_text())
        if not (root / recording["file"]).exists():
            continue
        tests = {context: test_of(context, recording) for context in recording["fixtures"]}
        readers += [test for test in tests.values() if test.name.endswith(READS_SOURCES)]
        if recording["file"] == READS_CONSTANTS:
            constants = list(tests.values())
        for file, recorded in recording["sources"].items():
            loading[file] += tests.values()
            of_file = [mutant for mutant in mutants if mutant.file == file]
            if not of_file:
                continue
            old_lines = map_lines((folder / "sources" / recorded).read_text(), (root / file).read_text())
            for mutant in of_file:
                targets = {old for line in mutant.target_lines for old in old_lines.get(line, ())}
                reaching = {c for c, files in recording["lines"].items() if not targets.isdisjoint(files.get(file, ()))}
                used = {context: {context, *recording["fixtures"][context]} for context in tests}
                chosen[mutant.id] += [test for context, test in tests.items() if used[context] & reaching]
    for mutant in mutants:
        # Coverage does not see code compiled by torch.compile: if no test reaches a line, try the file's tests.
        chosen[mutant.id] = chosen[mutant.id] or [
            replace(test, reaches=mutant.at_import) for test in loading[mutant.file]
        ]
        chosen[mutant.id] += [replace(test, reaches=False) for test in readers]
        if mutant.at_import:
            chosen[mutant.id] = constants + chosen[mutant.id]
    return {mutant_id: order_tests(tests) for mutant_id, tests in chosen.items()}


def test_of(context: str, recording: dict) -> Test:
    """Return the test of a coverage context."""
    fixtures = {recording["names"][each]: recording["costs"][each][0] for each in recording["fixtures"][context]}
    long = tuple((name, cpu) for name, cpu in sorted(fixtures.items()) if cpu >= LONG_FIXTURE)
    return Test(recording["names"][context], *(max(each, 0.0) for each in recording["costs"][context]), long)


def map_lines(old: str, new: str) -> dict[int, range]:
    """Return the corresponding lines of `old` for each line of `new`, numbered from 1."""
    if old == new:
        return {line: range(line, line + 1) for line in range(1, new.count("\n") + 2)}
    moved = {}
    for kind, i, i_end, j, j_end in difflib.SequenceMatcher(
        None, old.split("\n"), new.split("\n"), False
    ).get_opcodes():
        for line in range(j, j_end):
            same = i + line - j
            moved[line + 1] = range(same + 1, same + 2) if kind == "equal" else range(i + 1, i_end + 1)
    return moved


def order_tests(tests: list[Test]) -> list[Test]:
    """Sort tests by duration, but with one case of each parametrized test before its other cases, and tests that share
    a long fixture together."""
    groups: dict[tuple, list[Test]] = defaultdict(list)
    for test in tests:
        groups[(test.file, test.fixtures) if test.fixtures else (test.name,)].append(test)
    cases: Counter[str] = Counter()
    ordered = []
    for group in groups.values():
        group.sort(key=lambda test: test.cpu)
    for group in sorted(groups.values(), key=lambda group: cost(group) / len(group)):
        cases[group[0].name.split("[")[0]] += 1
        ordered.append((cost(group) / len(group) * cases[group[0].name.split("[")[0]], group))
    return [test for _, group in sorted(ordered, key=lambda each: each[0]) for test in group]


def cost(tests: list[Test]) -> float:
    """Return the CPU seconds of tests, counting each fixture once."""
    return sum(test.cpu for test in tests) + sum(dict(pair for test in tests for pair in test.fixtures).values())


def within_budget(tests: list[Test], seconds: float) -> list[Test]:
    """Return the first tests that together take at most `seconds` of CPU time; at least one."""
    kept: list[Test] = []
    for test in tests:
        if kept and cost([*kept, test]) > seconds:
            break
        kept.append(test)
    return kept
