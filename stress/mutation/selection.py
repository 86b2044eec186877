"""Which tests run which lines: recorded once per test file with coverage.py, then asked for each mutant."""

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
READS_SOURCES = "::test_every_call_that_opens_something_passes_the_decision_on"  # and runs none of them
READS_CONSTANTS = "tests/test_defaults.py"  # compares what is set at import, which no recorded line shows
LONG_FIXTURE = 0.05  # seconds of CPU time: not to be set up again and again between tests of other files
RC_FILE = """[run]
source = {source}
parallel = true
data_file = {data}
context = ${{MUTANTS_CONTEXT}}
patch = _exit
"""


class Recorder:
    """A pytest plugin that gives each test, and each fixture wider than a test, a coverage context and a duration."""

    def __init__(self, coverage):
        self.coverage = coverage
        self.names: dict[str, str] = {}  # context: node id of a test, or "fixture of a base node id"
        self.costs: dict[str, tuple[float, float]] = {}  # context: (CPU seconds, wall seconds)
        self.fixtures: dict[str, list[str]] = {}  # context of a test: contexts of the fixtures that it uses
        self.failed: list[str] = []
        self.stack = [""]

    def measure(self, name: str) -> Iterator[None]:
        """Attribute what runs between the two halves of this generator to the context of `name`, and only to it."""
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
        for each, sign in ((context, 1), (self.stack[-1], -1)):  # an inner one's time is not its outer one's
            cpu, wall = self.costs.get(each, (0.0, 0.0))
            self.costs[each] = (cpu + sign * spent[0], wall + sign * spent[1])

    def switch(self, context: str) -> None:
        self.coverage.switch_context(context)
        os.environ["MUTANTS_CONTEXT"] = context  # for processes that the test starts

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
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
        if not is_wide(fixturedef):
            return (yield)
        steps = self.measure(describe(fixturedef))
        next(steps)
        try:
            return (yield)
        finally:
            next(steps, None)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)


def clock() -> tuple[float, float]:
    """CPU seconds of this process and its ended children, and wall seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system, time.monotonic()


def is_wide(fixture) -> bool:
    return fixture.scope != "function"


def describe(fixture) -> str:
    return f"{fixture.argname} of {fixture.baseid}"


def record(file: str, tree: forks.Tree, folder: Path) -> int:
    """Run one test file under coverage, in this process, and write `folder`/FILE.json. For use after a fork.

    Args:
        file: The test file, relative to the copy's root.
        tree: The copy.
        folder: Where recordings are kept.

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
    code = forks.run_pytest([file], tree, [recorder], "-o", "timeout=0")  # coverage and a busy machine are slow
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
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def keep_sources(tree: forks.Tree, names: set[str], folder: Path) -> dict[str, str]:
    """Keep the text that line numbers refer to, once per version; the hash of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {name: digest(tree.root / name) for name in sorted(names)}
    for name, found in hashes.items():
        (folder / found).write_bytes((tree.root / name).read_bytes())
    return hashes


def record_all(tree: forks.Tree, folder: Path, files: list[str]) -> None:
    """Record those of `files` that have no recording of their present text, one forked process each. Where tests failed
    (a deadline of their own on a busy machine, say) what they run is not known whole, and they are recorded again."""
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
        said = f", failed: {', '.join(failed)}" if failed else ""
        print(f"{file}: exit code {code}, {time.monotonic() - began:.0f} s{said}", flush=True)


@dataclass(frozen=True)
class Test:
    """A test as it was recorded, with what it costs on code without a mutant, its wide fixtures not counted.

    Attributes:
        name: pytest's node id.
        cpu, wall: Seconds, under coverage.
        fixtures: Those of its wide fixtures that take long, with their CPU seconds.
        reaches: Whether it was seen to run the lines that it is chosen for.
    """

    name: str
    cpu: float
    wall: float
    fixtures: tuple[tuple[str, float], ...] = ()
    reaches: bool = True

    @property
    def file(self) -> str:
        return self.name.split("::")[0]


def choose_tests(mutants: list[Mutant], folder: Path, root: Path) -> dict[str, list[Test]]:
    """The tests that reach each mutant's lines, by the mutant's id, in the order to run them.

    Args:
        mutants: In files of the repository at `root`.
        folder: The recordings. Where a file changed since, its lines are found by comparing both versions.
        root: The repository.
    """
    chosen: dict[str, list[Test]] = {mutant.id: [] for mutant in mutants}
    loading: dict[str, list[Test]] = defaultdict(list)  # file of the package: tests of files that imported it
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
            moved = moved_lines((folder / "sources" / recorded).read_text(), (root / file).read_text())
            for mutant in of_file:
                wanted = {old for line in mutant.wanted for old in moved.get(line, ())}
                reaching = {c for c, files in recording["lines"].items() if not wanted.isdisjoint(files.get(file, ()))}
                used = {context: {context, *recording["fixtures"][context]} for context in tests}
                chosen[mutant.id] += [test for context, test in tests.items() if used[context] & reaching]
    for mutant in mutants:
        # What torch.compile has traced runs unseen: where no test reaches a line, those of its file's tests may.
        chosen[mutant.id] = chosen[mutant.id] or [
            replace(test, reaches=mutant.at_import) for test in loading[mutant.file]
        ]
        chosen[mutant.id] += [replace(test, reaches=False) for test in readers]
        if mutant.at_import:
            chosen[mutant.id] = constants + chosen[mutant.id]
    return {mutant_id: in_order(tests) for mutant_id, tests in chosen.items()}


def test_of(context: str, recording: dict) -> Test:
    fixtures = {recording["names"][each]: recording["costs"][each][0] for each in recording["fixtures"][context]}
    long = tuple((name, cpu) for name, cpu in sorted(fixtures.items()) if cpu >= LONG_FIXTURE)
    return Test(recording["names"][context], *(max(each, 0.0) for each in recording["costs"][context]), long)


def moved_lines(old: str, new: str) -> dict[int, range]:
    """The lines of `old` that stand where each line of `new` does, numbered from 1."""
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


def in_order(tests: list[Test]) -> list[Test]:
    """The fastest tests first, but one case of each test before its other cases; tests that share a fixture which takes
    long stay together."""
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
    """CPU seconds of tests, with each fixture once."""
    return sum(test.cpu for test in tests) + sum(dict(pair for test in tests for pair in test.fixtures).values())


def within(tests: list[Test], seconds: float) -> list[Test]:
    """The first tests that take no more than `seconds` of CPU time together; one at least."""
    kept: list[Test] = []
    for test in tests:
        if kept and cost([*kept, test]) > seconds:
            break
        kept.append(test)
    return kept
