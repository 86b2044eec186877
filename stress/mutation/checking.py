"""Checking of a mutant: run the tests that reach it in a fork; a failure counts only if the test passes without it."""

import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from mutation import forks
from mutation.mutations import Mutant
from mutation.selection import Test, cost, within_budget

SLACK = 30  # CPU seconds that any test may take in addition to ten times its duration without a mutant
IDLE = 90  # seconds without CPU time after which a test that normally takes far less counts as hanging
MAX_SLOWDOWN = 2  # times the tests' recorded duration after which a mutant counts as a timeout
SUSPICIOUS = re.compile(r"hung for|Deadline|Flaky|[Tt]imed? ?out|No space left|Address already in use")


@dataclass
class Outcome:
    """The outcome of checking a mutant.

    Attributes:
        status: "caught", "timeout" (also caught), "survived", "no test" or "error" (of this tool).
        by: The test that failed.
        message: Its error.
        tests: Number of tests that passed.
        reaching: Number of tests that reach the mutant, more than were run if the budget was used up.
        cpu: CPU seconds.
        wall: Wall seconds.
        distrusted: Tests that failed, but also fail alone without the mutant.
    """

    status: str
    by: str = ""
    message: str = ""
    tests: int = 0
    reaching: int = 0
    cpu: float = 0.0
    wall: float = 0.0
    distrusted: list[str] = field(default_factory=list)


class SelectedTests:
    """A pytest plugin that runs selected tests in a given order, and logs their progress.

    Args:
        names: Node ids in the order to run them.
        progress: File to log to, as JSON lines.
    """

    def __init__(self, names: list[str], progress: Path):
        self.ranks = {name: i for i, name in enumerate(names)}
        self.file = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def write(self, **entry: str) -> None:
        """Append an entry to the log."""
        os.write(self.file, (json.dumps(entry) + "\n").encode())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        """Select and order the tests."""
        items[:] = sorted((item for item in items if item.nodeid in self.ranks), key=lambda it: self.ranks[it.nodeid])

    def pytest_runtest_logstart(self, nodeid):
        """Log the start of a test."""
        """Log the start of a test."""
        self.write(started=nodeid)

    def pytest_runtest_logreport(self, report):
        """Log a failed test."""
        """Log a failed test."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = crash.message if crash else str(report.longrepr)
            self.write(failed=report.nodeid, message=" ".join(message.split())[:400])

    def pytest_collectreport(self, report):
        """Log a file that failed to import."""
        """Log a file that failed to import."""
        if report.failed:
            self.write(failed=report.nodeid, message=" ".join(str(report.longrepr).split())[-400:])


class Checker:
    """Checks mutants one after another on a copy of the repository.

    Args:
        tree: The copy, for which this process is prepared (`forks.prepare`).
        log: Folder for the output of the tests.
        budget: Maximum CPU seconds, as recorded, of the tests of one mutant.
    """

    def __init__(self, tree: forks.Tree, log: Path, budget: float):
        self.tree, self.log, self.budget = tree, log, budget
        self.trusted: dict[str, bool] = {}  # test: whether it passes alone without a mutant

    def check(self, mutant: Mutant, tests: list[Test]) -> Outcome:
        """Run the tests that reach a mutant until one fails.

        Args:
            mutant: Mutant of a file of the copy.
            tests: The tests in the order to run them.
        """
        if not tests:
            return Outcome("no test")
        original = (self.tree.root / mutant.file).read_bytes()
        reaching = sum(test.reaches for test in tests)
        total = Outcome("survived" if reaching else "no test", reaching=reaching)
        began, remaining = time.monotonic(), within_budget(tests, self.budget)
        while remaining:
            self.tree.write(mutant.file, mutant.apply(original))
            try:
                outcome = self.run(remaining, f"{mutant.id}.log")
                if outcome.status == "caught" and SUSPICIOUS.search(outcome.message):
                    alone = self.run([test for test in remaining if test.name == outcome.by] or remaining, "again.log")
                    outcome.status = alone.status  # if it passes alone, it was slow for another reason
            finally:
                self.tree.write(mutant.file, original)
            total.cpu += outcome.cpu
            total.tests += outcome.tests
            if outcome.by and outcome.status == "survived":
                remaining = tests_after(outcome.by, remaining)
            elif outcome.status in ("caught", "timeout") and not self.passes_without(outcome.by, remaining):
                total.distrusted.append(outcome.by)
                remaining = tests_after(outcome.by, remaining)
            else:
                if outcome.status != "survived":
                    total.status, total.by, total.message = outcome.status, outcome.by, outcome.message
                break
        total.wall = time.monotonic() - began
        return total

    def passes_without(self, name: str, tests: list[Test]) -> bool:
        """Return whether a test passes alone without a mutant; cached. For a file that failed to import, its first
        test is run."""
        if name not in self.trusted:
            alone = [test for test in tests if name in (test.name, test.file)][:1] or tests[:1]
            self.trusted[name] = self.run(alone, "alone.log").status == "survived"
        return self.trusted[name]

    def run(self, tests: list[Test], log: str) -> Outcome:
        """Run tests in a fork, in their order, until one fails or times out."""
        self.tree.clean()
        progress, names = self.tree.home / "progress", [test.name for test in tests]
        progress.unlink(missing_ok=True)
        files = list(dict.fromkeys(test.file for test in tests if (self.tree.root / test.file).exists()))
        plugins = [SelectedTests(names, progress)] if files else []

        def work() -> int:
            return forks.run_pytest(files, self.tree, plugins, "--maxfail=1", "-o", "timeout=0")

        process = forks.fork(self.tree, work, self.log / log)
        limit = MAX_SLOWDOWN * cost(tests) + 4 * SLACK
        watch = Watch(process, progress, {test.name: test for test in tests}, limit)
        code = watch.wait()
        forks.end(process)
        started = [each["started"] for each in read_progress(progress) if "started" in each]
        failed = next((each for each in read_progress(progress) if "failed" in each), None)
        cpu, last = watch.cpu, started[-1] if started else ""
        if code is None:
            return Outcome("timeout", last, watch.reason, max(len(started) - 1, 0), cpu=cpu)
        if failed:
            return Outcome("caught", failed["failed"], failed["message"], max(len(started) - 1, 0), cpu=cpu)
        if code == 0:
            return Outcome("survived", tests=len(started), cpu=cpu)
        if code == 5:  # pytest found none of them
            return Outcome("no test", cpu=cpu)
        text = " ".join((self.log / log).read_text(errors="replace").split())[-400:]
        if code in (1, 2, 3, 4) or code < 0:  # conftest.py cannot be imported, a crash
            return Outcome("caught", last, f"pytest ended with exit code {code}: {text}", len(started), cpu=cpu)
        return Outcome("error", last, f"exit code {code}: {text}", len(started), cpu=cpu)


@dataclass
class Watch:
    """Waits for tests, with timeouts relative to their recorded durations.

    Attributes:
        process: The forked process that runs them.
        progress: The log of `SelectedTests`.
        tests: The tests by node id.
        limit: Maximum CPU seconds of all tests.
        cpu: CPU seconds so far.
        reason: Why the tests timed out.
    """

    process: psutil.Process
    progress: Path
    tests: dict[str, Test]
    limit: float
    cpu: float = 0.0
    reason: str = ""

    def wait(self) -> int | None:
        """Wait for the exit code and return it, or None after a timeout, with its cause in `reason`."""
        current, began_cpu, began, active_cpu, active = "", 0.0, time.monotonic(), 0.0, time.monotonic()
        while (code := forks.wait(self.process, 0.5)) is None:
            now, self.cpu = time.monotonic(), max(self.cpu, forks.cpu_seconds(self.process))
            started = [each["started"] for each in read_progress(self.progress) if "started" in each]
            if started and started[-1] != current:
                current, began_cpu, began = started[-1], self.cpu, now
            if self.cpu > active_cpu + 0.5 or began == now:
                active_cpu, active = self.cpu, now
            test = self.tests.get(current, Test("", 9.0, 9.0))
            alone = test.cpu + sum(seconds for _, seconds in test.fixtures)
            if self.cpu - began_cpu > 10 * alone + SLACK:
                self.reason = f"took {self.cpu - began_cpu:.0f} CPU seconds, {alone:.1f} without the mutant"
            elif now - active > IDLE and now - began > 3 * (test.wall + alone) + IDLE:
                self.reason = f"idle for {now - active:.0f} seconds"
            elif self.cpu > self.limit:
                self.reason = f"all took {self.cpu:.0f} CPU seconds"
            if self.reason:
                return None
        return code


def tests_after(name: str, tests: list[Test]) -> list[Test]:
    """Return the tests after one; if `name` is a file, the tests of other files."""
    names = [test.name for test in tests]
    return tests[names.index(name) + 1 :] if name in names else [test for test in tests if test.file != name]


def read_progress(path: Path) -> list[dict]:
    """Read the complete lines of the log of `SelectedTests`."""
    """Read the complete lines of the log of `SelectedTests`."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]
